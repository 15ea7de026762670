# SPDX-License-Identifier: Apache-2.0
"""WIT-SVIDs of spire.api.server.svid.v1, for issuers that are configured to sign them.

A node gets one for a process that it has evidence of, and for nothing else: the key in it is to be that
process's own.
"""

from datetime import timedelta
from typing import Any

from issuer.api.convert import id_field
from issuer.api.dispatch import Call
from issuer.api.svid import Judged, SvidService, asked_ttl
from issuer.ca.signing import Holder, IssuedToken
from issuer.errors import EvidenceRejectedError
from issuer.model import RegistrationEntry
from spiffekit.wire.convert import seconds, spiffe_id_to_proto
from spiffekit.wire.pb.spire.api import types_pb2
from spiffekit.wire.pb.spire.api.server.svid.v1 import svid_pb2


class WitSvidService(SvidService):
    """The service with its methods for WIT-SVIDs; without them these answer UNIMPLEMENTED."""

    def __init__(self, *args: Any, wit_svid_ttl: timedelta, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._wit_ttl = wit_svid_ttl

    async def BatchNewWITSVID(  # noqa: N802 - the method's name on the wire
        self, request: svid_pb2.BatchNewWITSVIDRequest, call: Call
    ) -> svid_pb2.BatchNewWITSVIDResponse:
        """Sign a WIT-SVID for each entry that the calling node is authorised for, with evidence."""
        response = svid_pb2.BatchNewWITSVIDResponse()

        async def one(
            params: svid_pb2.NewWITSVIDParams, result: Any, entry: RegistrationEntry, given: Judged
        ) -> dict[str, Any]:
            if given.evidence is None:
                raise EvidenceRejectedError("evidence: a WIT-SVID requires it")
            holder = Holder(params.public_key, params.signing_algorithm, given.evidence.instance_uid)
            svid, signed = await self._sign_wit(given, holder, self._wit_ttl, call)
            result.svid.CopyFrom(_wit(svid, entry.hint))
            return signed

        await self._batch(request.params, response.results, call, one)
        return response

    async def MintWITSVID(  # noqa: N802 - the method's name on the wire
        self, request: svid_pb2.MintWITSVIDRequest, call: Call
    ) -> svid_pb2.MintWITSVIDResponse:
        """Sign the WIT-SVID that an operator asks for."""
        spiffe_id = id_field("id", request.id, self._trust_domain)
        self._mintable(spiffe_id)
        holder = Holder(request.public_key, request.signing_algorithm)
        ttl = asked_ttl(request.ttl, self._wit_ttl)
        async with self._denials_recorded(call):
            svid, signed = await self._sign_wit(Judged(spiffe_id), holder, ttl, call)
        await self._record(call, [signed])
        return svid_pb2.MintWITSVIDResponse(svid=_wit(svid))

    async def _sign_wit(
        self, given: Judged, holder: Holder, ttl: timedelta, call: Call
    ) -> tuple[IssuedToken, dict[str, Any]]:
        spiffe_id = given.spiffe_id
        allowed = self._governor.allow_wit(spiffe_id, ttl, call.now, given.attest)
        owner = "" if allowed.owner is None else str(allowed.owner)
        svid = await self._authorities.wit.sign(spiffe_id, holder, ttl=allowed.ttl, now=call.now, owner=owner)
        return svid, {
            "id": spiffe_id,
            "kind": "wit-svid",
            "jti": svid.jti,
            "exp": seconds(svid.expires_at),
            **allowed.recorded,
        }


def _wit(svid: IssuedToken, hint: str = "") -> types_pb2.WITSVID:
    return types_pb2.WITSVID(
        token=svid.token,
        id=spiffe_id_to_proto(svid.spiffe_id),
        expires_at=seconds(svid.expires_at),
        issued_at=seconds(svid.issued_at),
        hint=hint,
    )

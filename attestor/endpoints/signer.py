# SPDX-License-Identifier: Apache-2.0
"""Proofs of possession on the public socket: a workload proves who it is and never holds the key.

Whoever calls gets proofs under its own instance key only. It is examined as for an SVID, each time.
"""

import re
from collections.abc import Mapping
from datetime import timedelta
from typing import Any, Final

import grpc

from attestor.cache import Cache
from attestor.endpoints.admission import Admission, CallRefused, Context
from attestor.endpoints.caller import Caller
from attestor.endpoints.refusals import Refusals
from attestor.endpoints.wit import wanted_of
from attestor.errors import NoIdentityError
from attestor.instances import Instances
from attestor.reports import Handed, Reports
from attestor.wit import WitSvids
from attestor.workload.examination import Examiner
from spiffekit import jws
from spiffekit.daemon.clock import Clock
from spiffekit.errors import WitSvidError
from spiffekit.wire.pb.attestor.v1 import signer_pb2
from spiffekit.wire.status import abort
from spiffekit.witsvid import MAX_PROOF_LIFETIME, PROOF_TYPE, hash_of, proof_claims

Code = grpc.StatusCode

MAX_OTHERS: Final = 16  # further tokens in one proof
_NAME: Final = re.compile(r"[A-Za-z0-9._:-]{1,64}", re.ASCII)
_HASH: Final = re.compile(r"[A-Za-z0-9_-]{43}", re.ASCII)  # base64url of SHA-256


class Signer:
    """See the module."""

    def __init__(  # noqa: PLR0913 - what it works with
        self,
        cache: Cache,
        examiner: Examiner,
        instances: Instances,
        wit: WitSvids,
        *,
        admission: Admission,
        refusals: Refusals,
        reports: Reports,
        clock: Clock,
    ) -> None:
        self._cache = cache
        self._examiner = examiner
        self._instances = instances
        self._wit = wit
        self._admission = admission
        self._refusals = refusals
        self._reports = reports
        self._clock = clock

    def handler(self) -> grpc.GenericRpcHandler:
        """Return the gRPC handler of the service."""
        service = signer_pb2.DESCRIPTOR.services_by_name["Signer"]
        sign = grpc.unary_unary_rpc_method_handler(
            self._sign_proof,
            signer_pb2.SignProofRequest.FromString,
            signer_pb2.SignProofResponse.SerializeToString,
        )
        return grpc.method_handlers_generic_handler(service.full_name, {"SignProof": sign})

    async def _sign_proof(self, request: signer_pb2.SignProofRequest, context: Context) -> Any:
        caller: Caller | None = None
        try:
            caller = Caller(self._admission.admit(context), self._examiner, self._cache)
            await caller.examine()
            return await self._signed(request, caller)
        except Exception as error:  # noqa: BLE001 - the RPC boundary: every error becomes a status
            verdict = self._admission.refuse(error)
            await abort(context, self._refusals.told(caller, verdict, error))

    async def _signed(
        self, request: signer_pb2.SignProofRequest, caller: Caller
    ) -> signer_pb2.SignProofResponse:
        bound = _bound(request)
        entries = wanted_of(caller.entries, request.spiffe_id)
        instance = self._instances.of(caller.process, caller.examination)
        mine = await self._wit.ensure(instance, caller.process, caller.examination, caller.entries)
        entry = next((entry for entry in entries if entry.id in mine.held), None)
        if entry is None or caller.executes_another():
            raise NoIdentityError("no identity issued")
        svid = mine.held[entry.id].svid
        seconds = request.lifetime or MAX_PROOF_LIFETIME.seconds
        try:
            claims = proof_claims(
                hash_of(svid.token),
                request.audience,
                now=self._clock.now(),
                lifetime=timedelta(seconds=seconds),
                bound=bound,
            )
        except WitSvidError as error:
            raise CallRefused(Code.INVALID_ARGUMENT, str(error)) from error
        proof = jws.sign(PROOF_TYPE, claims, mine.key)
        caller.process.require_alive()
        handed = Handed(entry, svid, instance.uid)
        self._reports.handed(caller.process, caller.examination, [handed])
        return signer_pb2.SignProofResponse(wit_svid=svid.token, proof=proof)


def _bound(request: signer_pb2.SignProofRequest) -> Mapping[str, object]:
    """Return the claims that tie a proof to other tokens of the request."""
    found: dict[str, object] = {}
    for name in ("ath", "tth"):
        if value := getattr(request, name):
            found[name] = _hash(name, value)
    if len(request.oth) > MAX_OTHERS:
        raise CallRefused(Code.INVALID_ARGUMENT, f"oth: more than {MAX_OTHERS}")
    for name in request.oth:
        if not _NAME.fullmatch(name):
            raise CallRefused(
                Code.INVALID_ARGUMENT, "oth: a name is not 1 to 64 letters, digits, '.', '_', ':' and '-'"
            )
    if request.oth:
        found["oth"] = {name: _hash(f"oth.{name}", value) for name, value in sorted(request.oth.items())}
    return found


def _hash(field: str, value: str) -> str:
    if not _HASH.fullmatch(value):
        raise CallRefused(Code.INVALID_ARGUMENT, f"{field}: not a SHA-256 in base64url without padding")
    return value

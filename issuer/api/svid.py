# SPDX-License-Identifier: Apache-2.0
"""spire.api.server.svid.v1: nodes get SVIDs for their entries, operators mint them by hand."""

import asyncio
import contextlib
import logging
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from datetime import timedelta
from typing import Any, Final, NamedTuple

from issuer.api.convert import id_field
from issuer.api.dispatch import Call, item_status
from issuer.api.issued import denied_record, issued_record
from issuer.ca.authorities import Authorities
from issuer.ca.requests import check_dns_names, parse_csr
from issuer.ca.signing import IssuedToken, IssuedX509Svid, check_audience
from issuer.errors import (
    EvidenceRejectedError,
    InvalidRequestError,
    IssuerError,
    NotAuthorizedError,
    NotFoundError,
    PolicyDeniedError,
)
from issuer.evidence import EvidenceJudge, recorded
from issuer.governance.issuance import Governor
from issuer.governance.policy import attest_of
from issuer.model import AuditRecord, RegistrationEntry
from issuer.registration import Registrations
from issuer.store import Database
from issuer.store.nodes import SERVER_PATH
from spiffekit.daemon.limits import RateLimit
from spiffekit.errors import EvidenceError, SpiffeIdError
from spiffekit.evidence import Evidence
from spiffekit.id import SpiffeId, TrustDomain
from spiffekit.policy import Attest
from spiffekit.wire.convert import seconds, spiffe_id_to_proto
from spiffekit.wire.evidence import evidence_from_proto
from spiffekit.wire.pb.spire.api import types_pb2
from spiffekit.wire.pb.spire.api.server.svid.v1 import svid_pb2

logger = logging.getLogger(__name__)

MAX_BATCH: Final = 500
CHUNK: Final = 32  # SVIDs signed before other calls get a turn: a few milliseconds


class Judged(NamedTuple):
    """What an entry gives to a workload, and what the node saw of it."""

    spiffe_id: SpiffeId
    evidence: Evidence | None = None
    attest: Attest | None = None  # what policy sees of node and evidence; None for what is minted by hand

    @property
    def recorded(self) -> dict[str, Any]:
        """What the record says of the evidence."""
        return {} if self.evidence is None else {"evidence": recorded(self.evidence)}


class SvidService:
    """See the module."""

    def __init__(  # noqa: PLR0913 - what it works with
        self,
        trust_domain: TrustDomain,
        *,
        database: Database,
        registrations: Registrations,
        authorities: Authorities,
        x509_svid_ttl: timedelta,
        jwt_svid_ttl: timedelta,
        sign_limit: RateLimit,
        judge: EvidenceJudge,
        governor: Governor,
    ) -> None:
        self._trust_domain = trust_domain
        self._database = database
        self._registrations = registrations
        self._authorities = authorities
        self._x509_ttl = x509_svid_ttl
        self._jwt_ttl = jwt_svid_ttl
        self._limit = sign_limit
        self._judge = judge
        self._governor = governor

    async def BatchNewX509SVID(  # noqa: N802 - the method's name on the wire
        self, request: svid_pb2.BatchNewX509SVIDRequest, call: Call
    ) -> svid_pb2.BatchNewX509SVIDResponse:
        """Sign an SVID for each entry that the calling node is authorised for."""
        response = svid_pb2.BatchNewX509SVIDResponse()

        async def one(
            params: svid_pb2.NewX509SVIDParams, result: Any, entry: RegistrationEntry, given: Judged
        ) -> dict[str, Any]:
            svid, signed = await self._sign(entry, given, params.csr, call)
            _fill(result.svid, svid, entry.hint)
            return signed

        await self._batch(request.params, response.results, call, one)
        return response

    async def _batch(
        self, asked: Sequence[Any], results: Any, call: Call, one: Callable[..., Awaitable[dict[str, Any]]]
    ) -> None:
        """Add a result for each SVID that is asked for, and record those that `one` has signed."""
        if not asked:
            raise InvalidRequestError("params: are missing")
        if len(asked) > MAX_BATCH:
            raise InvalidRequestError(f"params: more than {MAX_BATCH}")
        self._limit.spend(call.caller.source, len(asked))
        entries = self._registrations.authorized(call.caller.node_id, call.now).by_id
        issued: list[dict[str, Any]] = []
        denied: list[AuditRecord] = []
        for index, params in enumerate(asked):
            if index % CHUNK == CHUNK - 1:
                await asyncio.sleep(0)
            result = results.add()
            saw: dict[str, Any] = {}
            try:
                entry = _authorized(entries, params.entry_id)
                given = self._judged(entry, params, call)
                saw = {"entry": entry.id, **given.recorded}
                signed = await one(params, result, entry, given)
            except (IssuerError, EvidenceError) as error:
                if isinstance(error, EvidenceRejectedError):  # a node that claims too much is an attack
                    extra = {"node": str(call.caller.node_id), "entry": params.entry_id, "reason": str(error)}
                    logger.warning("evidence refused", extra=extra)
                if isinstance(error, PolicyDeniedError):
                    denied.append(denied_record(call, error, saw))
                result.status.CopyFrom(item_status(error))
                continue
            result.status.message = "OK"
            issued.append({**signed, **saw})
        await self._record(call, issued, denied)

    def _judged(
        self,
        entry: RegistrationEntry,
        asked: svid_pb2.NewX509SVIDParams | svid_pb2.NewJWTSVIDRequest | svid_pb2.NewWITSVIDParams,
        call: Call,
    ) -> Judged:
        """Return the ID that the entry gives, for what the node saw of the workload."""
        if not entry.needs_evidence and not asked.HasField("evidence"):
            return Judged(entry.spiffe_id, None, attest_of(call.caller.node, None))
        if call.caller.node is None:
            raise NotAuthorizedError("only a node has evidence")
        evidence = evidence_from_proto(asked.evidence) if asked.HasField("evidence") else None
        spiffe_id = self._judge.judge(entry, evidence, call.caller.node, call.now)
        return Judged(spiffe_id, evidence, attest_of(call.caller.node, evidence))

    async def _sign(
        self, entry: RegistrationEntry, given: Judged, csr: bytes, call: Call
    ) -> tuple[IssuedX509Svid, dict[str, Any]]:
        # Only the key of the request counts; every name comes from the entry.
        ttl = entry.x509_svid_ttl or self._x509_ttl
        allowed = self._governor.allow_x509(given.spiffe_id, ttl, call.now, given.attest)
        svid = await self._authorities.x509.sign(
            given.spiffe_id,
            parse_csr(csr).public_key_der,
            ttl=allowed.ttl,
            now=call.now,
            dns_names=entry.dns_names,
        )
        return svid, _recorded_x509(svid) | dict(allowed.recorded)

    async def NewJWTSVID(  # noqa: N802 - the method's name on the wire
        self, request: svid_pb2.NewJWTSVIDRequest, call: Call
    ) -> svid_pb2.NewJWTSVIDResponse:
        """Sign a JWT-SVID for an entry that the calling node is authorised for."""
        self._limit.spend(call.caller.source)
        entries = self._registrations.authorized(call.caller.node_id, call.now).by_id
        entry = _authorized(entries, request.entry_id)
        given = self._judged(entry, request, call)
        saw = {"entry": entry.id, **given.recorded}
        ttl = entry.jwt_svid_ttl or self._jwt_ttl
        async with self._denials_recorded(call, saw):
            svid, signed = await self._sign_jwt(
                given, tuple(request.audience), ttl, call, jti=entry.jwt_svid_include_jti
            )
        await self._record(call, [{**signed, **saw}])
        return svid_pb2.NewJWTSVIDResponse(svid=_jwt(svid, entry.hint))

    async def _sign_jwt(
        self, given: Judged, audience: tuple[str, ...], ttl: timedelta, call: Call, *, jti: bool = False
    ) -> tuple[IssuedToken, dict[str, Any]]:
        spiffe_id, audience = given.spiffe_id, check_audience(audience)
        allowed = self._governor.allow_jwt(spiffe_id, ttl, call.now, given.attest, audience=audience)
        svid = await self._authorities.jwt.sign(
            spiffe_id,
            audience,
            ttl=allowed.ttl,
            now=call.now,
            jti=jti or allowed.owner is not None,  # what is an agent's can be revoked one by one
            owner="" if allowed.owner is None else str(allowed.owner),
        )
        return svid, {
            "id": spiffe_id,
            "audience": list(audience),
            **({"jti": svid.jti} if svid.jti else {}),
            "exp": seconds(svid.expires_at),
            **allowed.recorded,
        }

    async def MintX509SVID(  # noqa: N802 - the method's name on the wire
        self, request: svid_pb2.MintX509SVIDRequest, call: Call
    ) -> svid_pb2.MintX509SVIDResponse:
        """Sign what an operator asks for: the one place where a request's names count."""
        parsed = parse_csr(request.csr)
        uris, dns_names = parsed.uris(), parsed.dns_names()
        if len(uris) != 1:
            raise InvalidRequestError(f"csr: has {len(uris)} URI SANs: exactly one is needed")
        try:
            spiffe_id = SpiffeId.parse(uris[0])
        except SpiffeIdError as error:
            raise InvalidRequestError(f"csr: {error}") from error
        self._mintable(spiffe_id)
        check_dns_names(dns_names)
        async with self._denials_recorded(call):
            allowed = self._governor.allow_x509(spiffe_id, asked_ttl(request.ttl, self._x509_ttl), call.now)
        svid = await self._authorities.x509.sign(
            spiffe_id,
            parsed.public_key_der,
            ttl=allowed.ttl,
            now=call.now,
            dns_names=dns_names,
        )
        await self._record(call, [_recorded_x509(svid) | dict(allowed.recorded)])
        return svid_pb2.MintX509SVIDResponse(svid=_x509(svid))

    async def MintJWTSVID(  # noqa: N802 - the method's name on the wire
        self, request: svid_pb2.MintJWTSVIDRequest, call: Call
    ) -> svid_pb2.MintJWTSVIDResponse:
        """Sign the JWT-SVID that an operator asks for."""
        spiffe_id = id_field("id", request.id, self._trust_domain)
        self._mintable(spiffe_id)
        ttl = asked_ttl(request.ttl, self._jwt_ttl)
        async with self._denials_recorded(call):
            svid, signed = await self._sign_jwt(Judged(spiffe_id), tuple(request.audience), ttl, call)
        await self._record(call, [signed])
        return svid_pb2.MintJWTSVIDResponse(svid=_jwt(svid))

    def _mintable(self, spiffe_id: SpiffeId) -> None:
        if not spiffe_id.is_member_of(self._trust_domain) or not spiffe_id.path:
            raise InvalidRequestError(f"id: {spiffe_id} is no workload of trust domain {self._trust_domain}")
        if spiffe_id.path == SERVER_PATH:
            raise InvalidRequestError("id: is that of the issuer itself")

    @contextlib.asynccontextmanager
    async def _denials_recorded(
        self, call: Call, saw: Mapping[str, Any] | None = None
    ) -> AsyncIterator[None]:
        try:
            yield
        except PolicyDeniedError as error:
            await self._database.record(denied_record(call, error, saw or {}))
            raise

    async def _record(
        self, call: Call, issued: list[dict[str, Any]], denied: Sequence[AuditRecord] = ()
    ) -> None:
        """Record what was issued before it is handed out: what cannot be recorded is not issued."""
        if issued or denied:
            await self._database.record(*(issued_record(call, said) for said in issued), *denied)
        # An agent that was suspended meanwhile has no record of it among what was taken back.
        for said in issued:
            self._governor.check_active(said["id"])


def _authorized(entries: Mapping[str, RegistrationEntry], entry_id: str) -> RegistrationEntry:
    entry = entries.get(entry_id)
    if entry is None:
        raise NotFoundError("entry not found or not authorized")
    return entry


def _recorded_x509(svid: IssuedX509Svid) -> dict[str, Any]:
    return {"id": svid.spiffe_id, "serial": str(svid.serial), "exp": seconds(svid.expires_at)}


def asked_ttl(asked: int, default: timedelta) -> timedelta:
    """Return the lifetime that an operator asks for, in seconds, or the default for 0."""
    if asked < 0:
        raise InvalidRequestError("ttl: is negative")
    return timedelta(seconds=asked) if asked else default


def _x509(svid: IssuedX509Svid) -> types_pb2.X509SVID:
    message = types_pb2.X509SVID()
    _fill(message, svid)
    return message


def _fill(message: types_pb2.X509SVID, svid: IssuedX509Svid, hint: str = "") -> None:
    message.cert_chain.extend(svid.chain_der)
    message.id.trust_domain = svid.spiffe_id.trust_domain.name
    message.id.path = svid.spiffe_id.path
    message.expires_at = seconds(svid.expires_at)
    message.hint = hint


def _jwt(svid: IssuedToken, hint: str = "") -> types_pb2.JWTSVID:
    return types_pb2.JWTSVID(
        token=svid.token,
        id=spiffe_id_to_proto(svid.spiffe_id),
        expires_at=seconds(svid.expires_at),
        issued_at=seconds(svid.issued_at),
        hint=hint,
    )

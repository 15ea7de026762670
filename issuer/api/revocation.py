# SPDX-License-Identifier: Apache-2.0
"""issuer.v1.Revocation: take single credentials back, and tell what was taken back."""

from datetime import datetime
from typing import Final

from issuer.api.convert_agents import agent_id_field, instant_field, text_field
from issuer.api.dispatch import Call, page_size, pages_of
from issuer.ca.authorities import Authorities
from issuer.ca.published import withdraw
from issuer.errors import FailedPreconditionError, InvalidRequestError, NotFoundError
from issuer.governance.revocation import (
    LINGER,
    Publisher,
    Revocations,
    expiry,
    outstanding,
    void_before,
)
from issuer.model import (
    Agent,
    AgentState,
    AuditRecord,
    CredentialFacts,
    Outcome,
    Revocation,
    RevocationKind,
    RevocationReason,
)
from issuer.store import Database, Transaction
from spiffekit.bundle import Bundle
from spiffekit.id import SpiffeId, TrustDomain
from spiffekit.wire.convert import seconds
from spiffekit.wire.pb.issuer.v1 import revocation_pb2, updates_pb2

MAX_PAGE: Final = 1000
RETIREMENT: Final = "agent-retirement+jwt"


class RevocationService:
    """See the module."""

    def __init__(
        self,
        trust_domain: TrustDomain,
        *,
        database: Database,
        revocations: Revocations,
        publisher: Publisher,
        authorities: Authorities,
    ) -> None:
        self._trust_domain = trust_domain
        self._database = database
        self._revocations = revocations
        self._publisher = publisher
        self._authorities = authorities

    async def Revoke(self, request: revocation_pb2.RevokeRequest, call: Call) -> revocation_pb2.Revoked:  # noqa: N802 - the method's name on the wire
        """Take back one credential, or all that an identity was given before an instant."""
        reason = text_field("reason", request.reason, required=True)
        what = request.WhichOneof("what")
        if what is None:
            raise InvalidRequestError("what: give a serial, a jti or a spiffe_id")
        key = text_field(what, getattr(request, what), required=True)
        if request.before and what != "spiffe_id":
            raise InvalidRequestError("before: only with a spiffe_id")
        before = instant_field("before", request.before) or call.now
        if before > call.now:
            raise InvalidRequestError("before: is in the future")

        def act(tx: Transaction) -> Revocation:
            if what == "spiffe_id":
                spiffe_id = agent_id_field("spiffe_id", key, self._trust_domain)
                made = void_before(tx, spiffe_id, before)
            else:
                kind = RevocationKind.CERTIFICATE if what == "serial" else RevocationKind.TOKEN
                made = tx.revocations.put(_single(tx, kind, key))
            record = call.record(str(made.spiffe_id), Outcome.OK, reason=reason, kind=made.kind, key=made.key)
            tx.audit.append(record)
            return made

        return _revoked(await self._database.write(act))

    async def ListRevoked(  # noqa: N802 - the method's name on the wire
        self, request: revocation_pb2.ListRevokedRequest, call: Call
    ) -> revocation_pb2.ListRevokedResponse:
        """List what was taken back, a page at a time."""
        if not request.page_token.isascii() or not (request.page_token or "0").isdecimal():
            raise InvalidRequestError("page_token: is none of ours")
        start = int(request.page_token[:9] or "0")
        messages = map(_revoked, self._revocations.all(call.now)[start:])
        found, more = next(pages_of(messages, page_size(request.page_size, MAX_PAGE)))
        return revocation_pb2.ListRevokedResponse(
            revoked=found, next_page_token=str(start + len(found)) if more else ""
        )

    async def GetStatus(  # noqa: N802 - the method's name on the wire
        self, request: revocation_pb2.GetStatusRequest, call: Call
    ) -> updates_pb2.Revocations:
        """Return what is published now."""
        del request, call
        current = self._publisher.current
        return updates_pb2.Revocations(status=current.status, crls=current.crls)

    async def CertifyRetirement(  # noqa: N802 - the method's name on the wire
        self, request: revocation_pb2.CertifyRetirementRequest, call: Call
    ) -> revocation_pb2.RetirementCertificate:
        """Sign what a retired agent had when it was retired."""
        spiffe_id = agent_id_field("spiffe_id", request.spiffe_id, self._trust_domain)

        def act(tx: Transaction) -> tuple[Agent, list[AuditRecord]]:
            agent = tx.agents.get(spiffe_id)
            if agent.state is not AgentState.RETIRED:
                raise FailedPreconditionError(f"agent {spiffe_id} is {agent.state}, not retired")
            tx.audit.append(call.record(str(spiffe_id), agent=agent.facts))
            return agent, outstanding(tx, spiffe_id, at=agent.changed_at)

        agent, records = await self._database.write(act)
        certificate = _certificate(agent, records)
        certificate.token = await self._authorities.jwt.token(
            RETIREMENT, _claims(certificate, agent, self._trust_domain, call.now)
        )
        return certificate

    async def WithdrawAuthority(  # noqa: N802 - the method's name on the wire
        self, request: revocation_pb2.WithdrawAuthorityRequest, call: Call
    ) -> revocation_pb2.WithdrawAuthorityResponse:
        """Take an authority that others added out of our own bundle."""
        reason = text_field("reason", request.reason, required=True)
        authority_id = request.authority_id
        if not authority_id:
            raise InvalidRequestError("authority_id: is missing")

        def act(tx: Transaction) -> Bundle:
            left = withdraw(tx, self._trust_domain, authority_id)
            tx.audit.append(call.record(self._trust_domain.name, reason=reason, key_id=authority_id))
            return left

        left = await self._database.write(act)
        return revocation_pb2.WithdrawAuthorityResponse(sequence_number=left.sequence)


def _single(tx: Transaction, kind: RevocationKind, key: str) -> Revocation:
    """Return the revocation of a credential that the trail knows.

    Raises:
        NotFoundError: Nobody was given it.
        FailedPreconditionError: It has ended by itself.
    """
    record = tx.audit.by_credential(key)
    credential = None if record is None else record.credential
    if record is None or credential is None or key != _name(kind, credential):
        raise NotFoundError(f"{kind} {key[:255]!r} was never issued here")
    if expiry(credential) <= tx.now:
        raise FailedPreconditionError(f"{kind} {key!r} has ended already")
    return Revocation(
        kind=kind,
        key=key,
        spiffe_id=SpiffeId.parse(record.subject),
        at=tx.now,
        until=expiry(credential),
        reason=RevocationReason.KEY_COMPROMISE,
    )


def _name(kind: RevocationKind, credential: CredentialFacts) -> str:
    return credential.serial if kind is RevocationKind.CERTIFICATE else credential.jti


def _revoked(revocation: Revocation) -> revocation_pb2.Revoked:
    return revocation_pb2.Revoked(
        kind=revocation.kind,
        key=revocation.key,
        spiffe_id=str(revocation.spiffe_id),
        at=seconds(revocation.at),
        until=seconds(revocation.until),
        reason=revocation.reason,
    )


def _certificate(agent: Agent, records: list[AuditRecord]) -> revocation_pb2.RetirementCertificate:
    ends = [agent.changed_at + LINGER, *(expiry(_credential(record)) for record in records)]
    return revocation_pb2.RetirementCertificate(
        spiffe_id=str(agent.spiffe_id),
        retired_at=seconds(agent.changed_at),
        outstanding=[
            revocation_pb2.OutstandingCredential(
                kind=_credential(record).kind,
                id=_credential(record).serial or _credential(record).jti,
                expires_at=seconds(expiry(_credential(record))),
                audience=_audience(record),
            )
            for record in records
        ],
        fully_dead_at=seconds(max(ends)),
    )


def _credential(record: AuditRecord) -> CredentialFacts:
    assert record.credential is not None  # noqa: S101 - `outstanding` returns no other
    return record.credential


def _audience(record: AuditRecord) -> list[str]:
    said = record.detail.get("audience", [])
    return [str(name) for name in said] if isinstance(said, list) else []


def _claims(
    certificate: revocation_pb2.RetirementCertificate, agent: Agent, trust_domain: TrustDomain, now: datetime
) -> dict[str, object]:
    return {
        "iss": str(trust_domain.id),
        "sub": certificate.spiffe_id,
        "iat": seconds(now),
        "retired_at": certificate.retired_at,
        "owner": str(agent.owner),
        "reason": agent.reason,
        "successor": str(agent.successor or ""),
        "outstanding": [
            {"kind": one.kind, "id": one.id, "exp": one.expires_at, "aud": list(one.audience)}
            for one in certificate.outstanding
        ],
        "fully_dead_at": certificate.fully_dead_at,
    }

# SPDX-License-Identifier: Apache-2.0
"""Take back what was handed out, and tell everybody: revocation lists and signed status snapshots.

What is taken back is kept until it would have ended by itself. Each change, and time itself, makes a new
snapshot and new lists, whole; streams of attestors and whoever asks get the newest.
"""

import asyncio
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Final

from issuer.ca.authorities import Authorities
from issuer.ca.crl import Reason, Revoked
from issuer.changes import ChangeLog
from issuer.governance.limits import MAX_DELEGATION_TTL
from issuer.governance.publishing import Publishing
from issuer.model import (
    Agent,
    AgentState,
    AuditRecord,
    AuthorityKind,
    Change,
    ChangeKind,
    CredentialFacts,
    Revocation,
    RevocationKind,
    RevocationReason,
)
from issuer.registration import Registrations
from issuer.store import Transaction
from spiffekit.daemon.clock import Clock
from spiffekit.id import SpiffeId, TrustDomain
from spiffekit.status import LIFETIME, TYP, AgentStatus

REFRESH: Final = LIFETIME / 3  # a snapshot is replaced while it is still good for as long as two more
CRL_LIFETIME: Final = timedelta(hours=1)
LINGER: Final = MAX_DELEGATION_TTL + timedelta(minutes=5)  # clocks are apart by less
_REASONS: Final = {
    RevocationReason.KEY_COMPROMISE: Reason.KEY_COMPROMISE,
    RevocationReason.CESSATION_OF_OPERATION: Reason.CESSATION_OF_OPERATION,
    RevocationReason.CERTIFICATE_HOLD: Reason.CERTIFICATE_HOLD,
}


def expiry(credential: CredentialFacts) -> datetime:
    """Return when a credential of the audit trail ends."""
    return datetime.fromisoformat(credential.exp)


def outstanding(tx: Transaction, spiffe_id: SpiffeId, *, at: datetime | None = None) -> list[AuditRecord]:
    """Return the records of what was handed out for an identity and is valid now, or was at an instant."""
    now = at or tx.now
    # Nothing outlives the authority that signed it: what is older than all of them has ended.
    authorities = [a for kind in AuthorityKind for a in tx.authorities.all(kind) if now < a.not_after]
    since = min((a.issued_at for a in authorities), default=now)
    return [
        record for record in tx.audit.credentials(str(spiffe_id), since, valid_at=now) if record.at <= now
    ]


def follow(tx: Transaction, before: Agent, after: Agent) -> None:
    """Take back, or give back, what goes with a step in an agent's life."""
    if after.state is before.state:
        return
    match after.state:
        case AgentState.SUSPENDED:
            _revoke_certificates(tx, after.spiffe_id, RevocationReason.CERTIFICATE_HOLD)
        case AgentState.ACTIVE:
            tx.revocations.forget(tx.revocations.held(after.spiffe_id))
        case AgentState.RETIRED:
            ends = _revoke_certificates(tx, after.spiffe_id, RevocationReason.CESSATION_OF_OPERATION)
            tx.revocations.put(
                Revocation(
                    kind=RevocationKind.RETIRED,
                    key=str(after.spiffe_id),
                    spiffe_id=after.spiffe_id,
                    at=tx.now,
                    until=max([*ends, tx.now + LINGER]),
                    reason=RevocationReason.CESSATION_OF_OPERATION,
                )
            )
        case AgentState.REGISTERED:
            pass  # nothing leads back there


def claim(tx: Transaction, agent: Agent) -> None:
    """Take back what an identity was given before it was an agent's: nobody approved that."""
    given = outstanding(tx, agent.spiffe_id)
    if not given:
        return
    ends = _revoke_certificates(tx, agent.spiffe_id, RevocationReason.CESSATION_OF_OPERATION)
    instant = tx.now.replace(microsecond=0)
    # A token says no more than in which second it was issued.
    if any(record.at >= instant and not record.credential.serial for record in given if record.credential):
        instant += timedelta(seconds=1)
    _void(tx, agent.spiffe_id, instant, ends, RevocationReason.CESSATION_OF_OPERATION)


def void_before(tx: Transaction, spiffe_id: SpiffeId, instant: datetime) -> Revocation:
    """Take back everything that an identity was given before an instant: its keys are somebody else's."""
    ends = _revoke_certificates(tx, spiffe_id, RevocationReason.KEY_COMPROMISE, before=instant)
    return _void(tx, spiffe_id, instant, ends, RevocationReason.KEY_COMPROMISE)


def _void(
    tx: Transaction, spiffe_id: SpiffeId, instant: datetime, ends: list[datetime], reason: RevocationReason
) -> Revocation:
    earlier = tx.revocations.find(RevocationKind.BEFORE, str(spiffe_id))
    if earlier is not None:
        ends.append(earlier.until)
        instant = max(instant, earlier.at)  # it never goes back
    return tx.revocations.put(
        Revocation(
            kind=RevocationKind.BEFORE,
            key=str(spiffe_id),
            spiffe_id=spiffe_id,
            at=instant,
            until=max([*ends, tx.now + LINGER]),
            reason=reason,
        )
    )


def _revoke_certificates(
    tx: Transaction, spiffe_id: SpiffeId, reason: RevocationReason, *, before: datetime | None = None
) -> list[datetime]:
    """Revoke the certificates that are valid; return when everything that is valid ends."""
    found = [(record.at, record.credential) for record in outstanding(tx, spiffe_id)]
    tx.revocations.put_all(
        [
            Revocation(
                kind=RevocationKind.CERTIFICATE,
                key=credential.serial,
                spiffe_id=spiffe_id,
                at=tx.now,
                until=expiry(credential),
                reason=reason,
            )
            for at, credential in found
            if credential is not None and credential.serial and (before is None or at < before)
        ]
    )
    return [expiry(credential) for _, credential in found if credential is not None]


class Revocations:
    """What is taken back now, in memory. Used from one event loop."""

    def __init__(self, trust_domain: TrustDomain, registrations: Registrations) -> None:
        self._trust_domain = trust_domain
        self._registrations = registrations
        self._known: dict[str, Revocation] = {}
        self._changed = asyncio.Event()

    def load(self, revocations: Iterable[Revocation]) -> None:
        """Fill it."""
        self._known = {f"{one.kind}/{one.key}": one for one in revocations}

    def apply(self, changes: Sequence[Change]) -> None:
        """Follow what was committed; call it after the registry has."""
        for change in changes:
            if change.kind is ChangeKind.REVOCATION:
                if isinstance(change.value, Revocation):
                    self._known[change.key] = change.value
                else:
                    self._known.pop(change.key, None)
            if change.kind in (ChangeKind.REVOCATION, ChangeKind.AGENT, ChangeKind.AUTHORITY):
                self._changed.set()

    async def wait(self) -> None:
        """Return when something has changed since the last time."""
        await self._changed.wait()
        self._changed.clear()

    def all(self, now: datetime) -> list[Revocation]:
        """Return what has not ended by itself, the oldest first."""
        return sorted((one for one in self._known.values() if now < one.until), key=lambda r: (r.at, r.key))

    def has_certificate(self, serial: str, now: datetime) -> bool:
        """Tell whether the certificate with this serial number, decimal, is taken back."""
        found = self._known.get(f"{RevocationKind.CERTIFICATE}/{serial}")
        return found is not None and now < found.until

    def certificates(self, now: datetime) -> list[Revoked]:
        """Return what goes on revocation lists."""
        return [
            Revoked(int(one.key), one.at.replace(microsecond=0), _REASONS[one.reason])
            for one in self.all(now)
            if one.kind is RevocationKind.CERTIFICATE
        ]

    def status(self, sequence: int, now: datetime) -> AgentStatus:
        """Return the snapshot of now."""
        keys: dict[RevocationKind, list[Revocation]] = {kind: [] for kind in RevocationKind}
        for one in self.all(now):
            keys[one.kind].append(one)
        issued = now.replace(microsecond=0)
        agents = self._registrations.agents()
        suspended = frozenset(a.spiffe_id for a in agents if a.state is AgentState.SUSPENDED)
        retired = frozenset(one.spiffe_id for one in keys[RevocationKind.RETIRED])
        # Of who is suspended or retired nothing counts: thousands of serial numbers would say it again.
        ended = suspended | retired
        certificates = [one for one in keys[RevocationKind.CERTIFICATE] if one.spiffe_id not in ended]
        return AgentStatus(
            trust_domain=self._trust_domain,
            sequence=sequence,
            issued_at=issued,
            expires_at=issued + LIFETIME,
            suspended=suspended,
            retired=retired,
            serials=frozenset(int(one.key) for one in certificates),
            jtis=frozenset(one.key for one in keys[RevocationKind.TOKEN]),
            roots=frozenset(one.key for one in keys[RevocationKind.ROOT]),
            not_before={one.spiffe_id: one.at.replace(microsecond=0) for one in keys[RevocationKind.BEFORE]},
        )


@dataclass(frozen=True, slots=True)
class Published:
    """What everybody is told. `number` counts them."""

    number: int
    status: str  # a JWS
    crls: tuple[bytes, ...]  # DER


class Publisher(Publishing[Published]):
    """The service that signs what was taken back."""

    FAILED = "status of agents cannot be signed, trying again"
    REFRESH = REFRESH

    def __init__(
        self, authorities: Authorities, revocations: Revocations, log: ChangeLog, clock: Clock
    ) -> None:
        super().__init__(Published(0, "", ()), clock)
        self._authorities = authorities
        self._revocations = revocations
        self._log = log

    async def _changed(self) -> None:
        await self._revocations.wait()

    async def _make(self, number: int) -> Published:
        now = self._clock.now()
        status = self._revocations.status(self._log.revision, now)
        token = await self._authorities.jwt.token(TYP, status.claims())
        crls = await self._authorities.revocation_lists(
            self._revocations.certificates(now), number=self._crl_number(now), lifetime=CRL_LIFETIME
        )
        return Published(number, token, crls)

    def _crl_number(self, now: datetime) -> int:
        return (self._log.revision << 40) + int(now.timestamp())  # grows with changes, and with time

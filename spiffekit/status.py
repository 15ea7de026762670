# SPDX-License-Identifier: Apache-2.0
"""Which agents, certificates and tokens of a trust domain were taken back: a signed snapshot. Pure: no clock.

A snapshot is a JWS of `typ` ``agent-status+jwt``, signed by a JWT authority of the trust domain's own
bundle. It is complete, short-lived and numbered; who has a newer one takes no older one. It says nothing of
what has expired by itself.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any, Final, Self

from spiffekit import statement
from spiffekit.bundle import BundleSource
from spiffekit.errors import (
    JwtSvidError,
    RevokedError,
    SpiffeIdError,
    StatusError,
    StatusUnknownError,
)
from spiffekit.id import SpiffeId, TrustDomain
from spiffekit.jws import MAX_INSTANT

TYP: Final = "agent-status+jwt"
LIFETIME: Final = timedelta(seconds=90)  # who is cut off for longer knows nothing, and refuses
MAX_SKEW: Final = timedelta(seconds=30)
MAX_BYTES: Final = 16 * 1024 * 1024  # of a snapshot: some 150,000 agents
BACKDATE: Final = timedelta(seconds=10)  # by which an issuer begins a certificate before its issue


@dataclass(frozen=True, kw_only=True)
class AgentStatus:
    """A snapshot of one trust domain. You get a verified one by `verify`."""

    trust_domain: TrustDomain
    sequence: int
    issued_at: datetime
    expires_at: datetime
    suspended: frozenset[SpiffeId] = frozenset()
    retired: frozenset[SpiffeId] = frozenset()
    serials: frozenset[int] = field(default=frozenset(), repr=False)  # of X.509-SVIDs
    jtis: frozenset[str] = field(default=frozenset(), repr=False)  # of JWT-SVIDs and WIT-SVIDs
    roots: frozenset[str] = field(default=frozenset(), repr=False)  # `jti`s of delegations' roots
    not_before: Mapping[SpiffeId, datetime] = field(default_factory=dict)  # what was issued before is void

    def claims(self) -> dict[str, Any]:
        """Return the claims of the token that says this."""
        return {
            "iss": str(self.trust_domain.id),
            "seq": self.sequence,
            "iat": _seconds(self.issued_at),
            "exp": _seconds(self.expires_at),
            "suspended": sorted(map(str, self.suspended)),
            "retired": sorted(map(str, self.retired)),
            "serial_revoked": sorted(map(str, self.serials)),
            "jti_revoked": sorted(self.jtis),
            "root_revoked": sorted(self.roots),
            "min_iat": {str(key): _seconds(at) for key, at in sorted(self.not_before.items())},
        }

    @classmethod
    def verify(cls, token: str, bundles: BundleSource, *, now: datetime) -> Self:
        """Verify a snapshot.

        1. it is a compact JWS of bounded size and of our `typ`, so that nothing else passes for one;
        2. the issuer is a trust domain, and a JWT authority of that trust domain's bundle signed it;
        3. its claims are complete and well-formed, and name only identities of that trust domain;
        4. it is of now: not expired, issued no more than `MAX_SKEW` in the future, for no longer than
           `LIFETIME`.

        Args:
            token: Compact serialization.
            bundles: Where the bundle of the issuer comes from.
            now: The instant to judge by.

        Raises:
            StatusError: It is malformed.
            UnknownTrustDomainError: There is no bundle for its trust domain.
            UntrustedError: No key of that bundle vouches for it.
            StatusUnknownError: It is not of now.
        """
        try:
            # (1), (2)
            trust_domain, jws = statement.verify(token, bundles, typ=TYP, longest=MAX_BYTES, what="status")
            # (3)
            status = cls._of(jws.payload, trust_domain)
        except (JwtSvidError, SpiffeIdError) as error:
            raise StatusError(f"status: {error}") from error
        # (4)
        if status.expires_at - status.issued_at > LIFETIME:
            raise StatusError("status: is valid for too long")
        status.check_fresh(now)
        return status

    @classmethod
    def _of(cls, claims: Mapping[str, Any], trust_domain: TrustDomain) -> Self:
        sequence = claims.get("seq")
        if type(sequence) is not int or sequence < 0:  # bool is an int in Python
            raise StatusError("status: seq is no number")
        minimums = claims.get("min_iat")
        if not isinstance(minimums, dict):
            raise StatusError("status: min_iat is missing")
        return cls(
            trust_domain=trust_domain,
            sequence=sequence,
            issued_at=_instant(claims, "iat"),
            expires_at=_instant(claims, "exp"),
            suspended=_ids(_texts(claims, "suspended"), trust_domain),
            retired=_ids(_texts(claims, "retired"), trust_domain),
            serials=frozenset(map(_serial, _texts(claims, "serial_revoked"))),
            jtis=frozenset(_texts(claims, "jti_revoked")),
            roots=frozenset(_texts(claims, "root_revoked")),
            not_before={
                spiffe_id: _instant(minimums, key)
                for key in minimums
                for spiffe_id in _ids([key], trust_domain)
            },
        )

    def check_fresh(self, now: datetime) -> None:
        """Check that the snapshot can be relied upon now.

        Raises:
            StatusUnknownError: It has expired, or is of the future.
        """
        if now >= self.expires_at:
            raise StatusUnknownError(f"status of {self.trust_domain} has expired")
        if self.issued_at > now + MAX_SKEW:
            raise StatusUnknownError(f"status of {self.trust_domain} is of the future: clocks disagree")

    def check_agent(self, spiffe_id: SpiffeId, *, issued_at: datetime | None = None) -> None:
        """Check that an identity was not taken back, nor what was issued for it at `issued_at`.

        Raises:
            RevokedError: It was.
        """
        if spiffe_id in self.retired:
            raise RevokedError(f"{spiffe_id} is retired")
        if spiffe_id in self.suspended:
            raise RevokedError(f"{spiffe_id} is suspended")
        void_before = self.not_before.get(spiffe_id)
        if void_before is not None and (issued_at is None or issued_at < void_before):
            raise RevokedError(f"what {spiffe_id} got so early is void")

    def check_certificate(self, spiffe_id: SpiffeId, serial: int, not_before: datetime) -> None:
        """Check that an X.509-SVID was not taken back.

        Args:
            spiffe_id: Its SPIFFE ID.
            serial: Its serial number.
            not_before: Where its validity begins: `BACKDATE` before it was issued.

        Raises:
            RevokedError: It was.
        """
        self.check_agent(spiffe_id, issued_at=not_before + BACKDATE)
        if serial in self.serials:
            raise RevokedError(f"certificate {serial:x} of {spiffe_id} is revoked")

    def check_token(self, spiffe_id: SpiffeId, jti: str, issued_at: datetime | None) -> None:
        """Check that a JWT-SVID or WIT-SVID was not taken back.

        Raises:
            RevokedError: It was.
        """
        self.check_agent(spiffe_id, issued_at=issued_at)
        if jti and jti in self.jtis:
            raise RevokedError(f"token {jti[:80]!r} of {spiffe_id} is revoked")


class StatusBook:
    """The newest snapshot of each trust domain. It never goes back to an older one."""

    def __init__(self) -> None:
        self._newest: dict[TrustDomain, AgentStatus] = {}

    def put(self, status: AgentStatus) -> bool:
        """Keep a verified snapshot; tell whether it says anything new.

        Raises:
            StatusUnknownError: A newer one was here before: somebody plays back an old one.
        """
        before = self._newest.get(status.trust_domain)
        if before is not None and status.sequence < before.sequence:
            raise StatusUnknownError(
                f"status {status.sequence} of {status.trust_domain} is older than {before.sequence}"
            )
        # The same once more may have been signed earlier, by another issuer.
        if before is not None and (status.sequence, status.issued_at) <= (before.sequence, before.issued_at):
            return False
        self._newest[status.trust_domain] = status
        return True

    def current(self, trust_domain: TrustDomain, now: datetime) -> AgentStatus:
        """Return what is known of a trust domain now.

        Raises:
            StatusUnknownError: Nothing is, or it is too old.
        """
        status = self._newest.get(trust_domain)
        if status is None:
            raise StatusUnknownError(f"status of {trust_domain} is not known")
        status.check_fresh(now)
        return status


def _seconds(instant: datetime) -> int:
    return int(instant.timestamp())


def _texts(claims: Mapping[str, Any], name: str) -> list[str]:
    value = claims.get(name)
    if not isinstance(value, list) or not all(isinstance(member, str) and member for member in value):
        raise StatusError(f"status: {name} is missing or no list of texts")
    return value


def _instant(claims: Mapping[str, Any], name: str) -> datetime:
    value = claims.get(name)
    if type(value) is not int or not 0 <= value <= MAX_INSTANT:
        raise StatusError(f"status: {name[:80]} is no point in time")
    return datetime.fromtimestamp(value, UTC)


def _serial(text: str) -> int:
    if not text.isascii() or not text.isdecimal() or len(text) > 49:  # 20 octets, RFC 5280 §4.1.2.2
        raise StatusError("status: serial_revoked has a member that is no serial number")
    return int(text)


def _ids(texts: Iterable[str], trust_domain: TrustDomain) -> frozenset[SpiffeId]:
    found = frozenset(map(SpiffeId.parse, texts))
    for spiffe_id in found:
        if not spiffe_id.is_member_of(trust_domain):
            raise StatusError(f"status: {spiffe_id} is not of {trust_domain}")
    return found

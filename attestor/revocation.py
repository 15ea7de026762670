# SPDX-License-Identifier: Apache-2.0
"""What the issuer has taken back: verified by the own bundle, and never older than what was known before.

What cannot be verified is refused and told as an alarm, and what was known stays: an issuer that errs, or
somebody who plays back what it said once, gives nothing back.
"""

import logging
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from typing import Final

from spiffekit.bundle import Bundle, BundleSet
from spiffekit.crl import RevocationList, check_all
from spiffekit.errors import RevokedError, StatusError, StatusUnknownError, VerificationError
from spiffekit.id import SpiffeId
from spiffekit.jwtsvid import JwtSvid
from spiffekit.status import MAX_SKEW, AgentStatus, StatusBook
from spiffekit.witsvid import WitSvid
from spiffekit.x509svid import X509Svid

logger = logging.getLogger(__name__)

MAX_LISTS: Final = 64  # as many authorities sign at most; each list costs a signature to verify
# Bytes: clients of the field take messages of 4 MiB. Were it more, whoever has many certificates revoked
# would cut every workload off from its SVIDs.
MAX_HANDED_OUT: Final = 2 * 1024 * 1024
_EPOCH: Final = datetime.fromtimestamp(0, UTC)
LIST_REFUSED: Final = "issuer's revocation list refused"


@dataclass(frozen=True, slots=True)
class Said:
    """What the issuer said, as it came. **Nothing in it is verified** yet."""

    status: str = field(repr=False)  # a JWS
    crls: tuple[bytes, ...] = field(repr=False)  # DER


@dataclass(frozen=True, slots=True)
class HeldList:
    """A verified revocation list, and its DER."""

    verified: RevocationList
    crl_der: bytes = field(repr=False)


@dataclass(frozen=True, slots=True)
class TakenBack:
    """Everything that is taken back, as far as we know. You get one by `RevocationBook.take`."""

    status: AgentStatus | None = None  # None: the issuer has never said
    token: str = field(default="", repr=False)  # what says so
    lists: tuple[HeldList, ...] = ()

    @property
    def crls(self) -> tuple[bytes, ...]:
        """The revocation lists for workloads, DER: all, for some clients want one of each authority or none.

        There are none if nothing is revoked, or if they are too large for clients.
        """
        if not any(held.verified.serials for held in self.lists):
            return ()
        found = tuple(held.crl_der for held in self.lists)
        return found if sum(map(len, found)) <= MAX_HANDED_OUT else ()

    def is_ended(self, spiffe_id: SpiffeId) -> bool:
        """Tell whether an identity is suspended or retired."""
        status = self.status
        return status is not None and (spiffe_id in status.suspended or spiffe_id in status.retired)

    def check(self, svid: X509Svid | JwtSvid | WitSvid) -> None:
        """Check that an SVID was not taken back.

        Raises:
            RevokedError: It was.
        """
        if isinstance(svid, JwtSvid | WitSvid):
            if self.status is not None and svid.spiffe_id.is_member_of(self.status.trust_domain):
                self.status.check_token(svid.spiffe_id, str(svid.claims.get("jti", "")), svid.issued_at)
            return
        if self.status is not None:
            self.status.check_certificate(svid.spiffe_id, svid.serial_number, svid.not_before)
        check_all((held.verified for held in self.lists), svid.leaf)

    def reason(self, svid: X509Svid | JwtSvid | WitSvid) -> str:
        """Return why an SVID must not be handed out, or "" if nothing forbids it."""
        try:
            self.check(svid)
        except RevokedError as error:
            return str(error)
        return ""

    def differs_from(self, other: "TakenBack") -> bool:
        """Tell whether they differ in more than their age."""
        return (self.lists, _ageless(self.status)) != (other.lists, _ageless(other.status))


class RevocationBook:
    """The newest of what one trust domain has taken back; `current` is what counts."""

    def __init__(self) -> None:
        self.current = TakenBack()
        self.refused = 0  # statuses and lists that could not be verified
        self._book = StatusBook()
        self._numbers: dict[str, int] = {}  # of the newest list, by authority

    def take(self, said: Said, bundle: Bundle | None, now: datetime) -> TakenBack:
        """Take up what verifies of what the issuer said, and return what counts from now on.

        Args:
            said: As it came.
            bundle: Our own, None if there is none yet.
            now: The instant to judge by.
        """
        before = self.current
        status = self._newer_status(said.status, BundleSet(() if bundle is None else (bundle,)), now)
        lists = tuple(self._newer_lists(said.crls, bundle, now))
        if status is not None:
            self.current = TakenBack(status, said.status, lists)
        elif lists != before.lists:
            self.current = TakenBack(before.status, before.token, lists)
        if sum(len(held.crl_der) for held in lists) > MAX_HANDED_OUT:
            logger.error("revocation lists are too large, workloads get none")
        return self.current

    def _newer_status(self, token: str, bundles: BundleSet, now: datetime) -> AgentStatus | None:
        try:
            status = AgentStatus.verify(token, bundles, now=now)
            return status if self._book.put(status) else None
        except (StatusError, VerificationError) as error:
            self._refuse("issuer's status of agents refused", str(error))
            return None

    def _newer_lists(self, crls: Sequence[bytes], bundle: Bundle | None, now: datetime) -> list[HeldList]:
        held = {one.verified.authority_key_id: one for one in self.current.lists}
        found: dict[str, HeldList] = {}
        refused = self.refused
        if len(crls) > MAX_LISTS:
            self._refuse(LIST_REFUSED, f"there are {len(crls)}, at most {MAX_LISTS} are possible")
        for crl_der in crls[:MAX_LISTS]:
            try:
                fresh = self._verified(crl_der, bundle, now)
            except (StatusError, VerificationError) as error:
                self._refuse(LIST_REFUSED, str(error))
                continue
            authority = fresh.authority_key_id
            self._numbers[authority] = fresh.number
            before = held.get(authority)
            # A list that is signed anew and says the same is no news: clients would reload for nothing.
            kept = before is not None and _still_says(before.verified, fresh, now)
            found[authority] = before if before is not None and kept else HeldList(fresh, crl_der)
        if self.refused > refused:
            found = held | found  # what could not be replaced stays
        self._numbers = {authority: self._numbers[authority] for authority in found}
        return [found[authority] for authority in sorted(found)]

    def _verified(self, crl_der: bytes, bundle: Bundle | None, now: datetime) -> RevocationList:
        if bundle is None:
            raise StatusUnknownError("there is no bundle yet to verify it with")
        fresh = RevocationList.verify(crl_der, bundle)
        newest = self._numbers.get(fresh.authority_key_id, fresh.number)
        if fresh.number < newest:
            raise StatusUnknownError(f"revocation list {fresh.number} is older than {newest}")
        if now >= fresh.next_update:
            raise StatusUnknownError("revocation list has expired")
        if fresh.this_update > now + MAX_SKEW:
            raise StatusUnknownError("revocation list is of the future: clocks disagree")
        return fresh

    def _refuse(self, what: str, reason: str) -> None:
        self.refused += 1
        logger.error(what, extra={"reason": reason})  # an alarm: the issuer errs, or somebody plays it


def _ageless(status: AgentStatus | None) -> AgentStatus | None:
    return status and replace(status, sequence=0, issued_at=_EPOCH, expires_at=_EPOCH)


def _still_says(before: RevocationList, fresh: RevocationList, now: datetime) -> bool:
    """Tell whether an older list says the same, and less than half of its life is over."""
    half = before.this_update + (before.next_update - before.this_update) / 2
    return before.serials == fresh.serials and now < half

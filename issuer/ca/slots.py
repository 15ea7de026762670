# SPDX-License-Identifier: Apache-2.0
"""The life of authorities of one kind, as a pure state machine: prepared → active → old.

At most one is prepared, at most one is active, any number are old. What is prepared is published before
it signs anything, so that verifiers know it in time (Federation §4.1); what is old stays published until
nothing that it signed is valid.
"""

from collections.abc import Iterable
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from typing import Final, Self

from issuer.ca.profile import BACKDATE
from issuer.errors import FailedPreconditionError, NotFoundError
from issuer.model import AuthorityKind, AuthorityRecord, AuthorityState

MAX_PREPARE: Final = timedelta(days=30)  # before the end, at most
MAX_ACTIVATE: Final = timedelta(days=7)
_NEXT: Final = {
    AuthorityState.PREPARED: AuthorityState.ACTIVE,
    AuthorityState.ACTIVE: AuthorityState.OLD,
    AuthorityState.OLD: AuthorityState.OLD,
}


@dataclass(frozen=True, slots=True)
class Slots:
    """The authorities of one kind. Every change returns another value."""

    records: tuple[AuthorityRecord, ...] = ()

    @classmethod
    def of(cls, records: Iterable[AuthorityRecord]) -> Self:
        """Return the slots that a journal tells; of several active ones the newest stays so."""
        ordered = sorted(records, key=lambda record: record.issued_at)
        for state in (AuthorityState.ACTIVE, AuthorityState.PREPARED):
            same = [record for record in ordered if record.state is state]
            for older in same[:-1]:
                ordered[ordered.index(older)] = replace(older, state=AuthorityState.OLD)
        return cls(tuple(ordered))

    def _in(self, state: AuthorityState) -> AuthorityRecord | None:
        return next((record for record in self.records if record.state is state), None)

    @property
    def active(self) -> AuthorityRecord | None:
        """The authority that signs."""
        return self._in(AuthorityState.ACTIVE)

    @property
    def prepared(self) -> AuthorityRecord | None:
        """The authority that comes next."""
        return self._in(AuthorityState.PREPARED)

    @property
    def old(self) -> tuple[AuthorityRecord, ...]:
        """The authorities that signed before, oldest first."""
        return tuple(record for record in self.records if record.state is AuthorityState.OLD)

    def find(self, authority_id: str) -> AuthorityRecord:
        """Return an authority by its ID.

        Raises:
            NotFoundError: There is none of that ID.
        """
        for record in self.records:
            if record.id == authority_id:
                return record
        raise NotFoundError(f"no authority {authority_id[:80]!r}")

    def with_prepared(self, record: AuthorityRecord) -> Self:
        """Add a prepared authority; one that was prepared before and never used gives way."""
        kept = [known for known in self.records if known.state is not AuthorityState.PREPARED]
        return type(self)((*kept, replace(record, state=AuthorityState.PREPARED)))

    def activate(self, authority_id: str) -> Self:
        """Let the prepared authority sign; the active one becomes old.

        Raises:
            NotFoundError: There is none of that ID.
            FailedPreconditionError: It is not the prepared one.
        """
        if self.find(authority_id).state is not AuthorityState.PREPARED:
            raise FailedPreconditionError(f"authority {authority_id} is not prepared")
        return type(self)(tuple(_advanced(record) for record in self.records))

    def taint(self, authority_id: str) -> Self:
        """Mark an old authority: what it signed is to be replaced.

        Raises:
            NotFoundError: There is none of that ID.
            FailedPreconditionError: It is not old.
        """
        target = self.find(authority_id)
        if target.state is not AuthorityState.OLD:
            raise FailedPreconditionError(
                f"authority {authority_id} is {target.state}: only an old one can be tainted"
            )
        return type(self)(tuple(replace(r, tainted=True) if r is target else r for r in self.records))

    def revoke(self, authority_id: str) -> Self:
        """Withdraw a tainted authority.

        Raises:
            NotFoundError: There is none of that ID.
            FailedPreconditionError: It is not tainted.
        """
        target = self.find(authority_id)
        if not target.tainted:
            raise FailedPreconditionError(f"authority {authority_id} is not tainted")
        return type(self)(tuple(record for record in self.records if record is not target))

    def without_expired(self, now: datetime, grace: timedelta) -> Self:
        """Drop old authorities that ended longer than `grace` ago."""
        kept = (r for r in self.records if r.state is not AuthorityState.OLD or now < r.not_after + grace)
        return type(self)(tuple(kept))


def _advanced(record: AuthorityRecord) -> AuthorityRecord:
    return replace(record, state=_NEXT[record.state])


def should_prepare(active: AuthorityRecord, now: datetime) -> bool:
    """Tell whether it is time to prepare the next one: at half of the life, or 30 days before the end."""
    life = active.not_after - active.issued_at
    return is_premature(active, now) or now >= active.not_after - min(life / 2, MAX_PREPARE)


def should_activate(active: AuthorityRecord, now: datetime) -> bool:
    """Tell whether the next one is to take over: at 5/6 of the life, or 7 days before the end."""
    life = active.not_after - active.issued_at
    return is_premature(active, now) or now >= active.not_after - min(life / 6, MAX_ACTIVATE)


def is_premature(record: AuthorityRecord, now: datetime) -> bool:
    """Tell whether a certificate is not valid yet: it was made while the clock was ahead."""
    return record.kind is AuthorityKind.X509 and now < record.issued_at - BACKDATE

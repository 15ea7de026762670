# SPDX-License-Identifier: Apache-2.0
"""What was taken back and has not ended by itself."""

from collections.abc import Iterable
from datetime import datetime
from typing import Any

import sqlalchemy as sa

from issuer.model import ChangeKind, Revocation, RevocationKind, RevocationReason
from issuer.store.changes import ChangeStore
from issuer.store.schema import revocations, stamp, unstamp
from spiffekit.id import SpiffeId


class RevocationStore:
    """Revocations by kind and key."""

    def __init__(self, connection: sa.Connection, changes: ChangeStore) -> None:
        self._connection = connection
        self._changes = changes

    def put(self, revocation: Revocation) -> Revocation:
        """Add one, and return it; what is taken back for good is not put on hold."""
        before = self.find(revocation.kind, revocation.key)
        if before is not None and revocation.reason is RevocationReason.CERTIFICATE_HOLD:
            return before
        self._remove(revocation)
        self._connection.execute(
            revocations.insert().values(
                kind=revocation.kind,
                key=revocation.key,
                spiffe_id=str(revocation.spiffe_id),
                at=stamp(revocation.at),
                until=stamp(revocation.until),
                reason=revocation.reason,
            )
        )
        self._changes.record(ChangeKind.REVOCATION, _name(revocation), revocation)
        return revocation

    def _remove(self, revocation: Revocation) -> None:
        same = sa.and_(revocations.c.kind == revocation.kind, revocations.c.key == revocation.key)
        self._connection.execute(revocations.delete().where(same))

    def find(self, kind: RevocationKind, key: str) -> Revocation | None:
        """Return one, or None."""
        query = sa.select(revocations).where(revocations.c.kind == kind, revocations.c.key == key)
        row = self._connection.execute(query).first()
        return None if row is None else _revocation(row)

    def all(self) -> list[Revocation]:
        """Return every one, the oldest first."""
        return self._found(sa.select(revocations))

    def held(self, spiffe_id: SpiffeId) -> list[Revocation]:
        """Return those of an identity that are taken back for a while only."""
        return self._found(
            sa.select(revocations).where(
                revocations.c.spiffe_id == str(spiffe_id),
                revocations.c.reason == RevocationReason.CERTIFICATE_HOLD,
            )
        )

    def ended(self, now: datetime, limit: int) -> list[Revocation]:
        """Return up to `limit` of what has ended by itself."""
        return self._found(sa.select(revocations).where(revocations.c.until <= stamp(now)).limit(limit))

    def _found(self, query: sa.Select[Any]) -> list[Revocation]:
        rows = self._connection.execute(
            query.order_by(revocations.c.at, revocations.c.kind, revocations.c.key)
        )
        return [_revocation(row) for row in rows]

    def forget(self, some: Iterable[Revocation]) -> None:
        """Remove what has ended, or is given back."""
        for revocation in some:
            self._remove(revocation)
            self._changes.record(ChangeKind.REVOCATION, _name(revocation), None)


def _name(revocation: Revocation) -> str:
    return f"{revocation.kind}/{revocation.key}"


def _revocation(row: Any) -> Revocation:
    return Revocation(
        kind=RevocationKind(row.kind),
        key=row.key,
        spiffe_id=SpiffeId.parse(row.spiffe_id),
        at=unstamp(row.at),
        until=unstamp(row.until),
        reason=RevocationReason(row.reason),
    )

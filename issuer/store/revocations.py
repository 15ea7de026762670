# SPDX-License-Identifier: Apache-2.0
"""What was taken back and has not ended by itself."""

from collections.abc import Sequence
from datetime import datetime
from typing import Any, Final

import sqlalchemy as sa

from issuer.model import ChangeKind, Revocation, RevocationKind, RevocationReason
from issuer.store.changes import ChangeStore
from issuer.store.schema import revocations, stamp, unstamp
from spiffekit.id import SpiffeId

_ADD: Final = revocations.insert()
_REMOVE: Final = revocations.delete().where(
    revocations.c.kind == sa.bindparam("of_kind"), revocations.c.key == sa.bindparam("of_key")
)


class RevocationStore:
    """Revocations by kind and key."""

    def __init__(self, connection: sa.Connection, changes: ChangeStore) -> None:
        self._connection = connection
        self._changes = changes

    def put(self, revocation: Revocation) -> Revocation:
        """Add one, and return it; what is taken back for good is not put on hold."""
        (standing,) = self.put_all([revocation])
        return standing

    def put_all(self, some: Sequence[Revocation]) -> list[Revocation]:
        """Add some of different kinds or keys, in few statements: an identity may have been given thousands.

        Returns:
            What stands for each of them now.
        """
        holds = {str(one.spiffe_id) for one in some if one.reason is RevocationReason.CERTIFICATE_HOLD}
        before = self._found(sa.select(revocations).where(revocations.c.spiffe_id.in_(sorted(holds))))
        standing = {_name(one): one for one in before}
        fresh = [
            one
            for one in some
            if one.reason is not RevocationReason.CERTIFICATE_HOLD or _name(one) not in standing
        ]
        self._remove(fresh)
        if fresh:
            self._connection.execute(_ADD, [_row(one) for one in fresh])
        self._changes.record_all(ChangeKind.REVOCATION, [(_name(one), one) for one in fresh])
        standing |= {_name(one): one for one in fresh}
        return [standing[_name(one)] for one in some]

    def _remove(self, some: Sequence[Revocation]) -> None:
        if some:
            self._connection.execute(_REMOVE, [{"of_kind": one.kind, "of_key": one.key} for one in some])

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

    def forget(self, some: Sequence[Revocation]) -> None:
        """Remove what has ended, or is given back."""
        self._remove(some)
        self._changes.record_all(ChangeKind.REVOCATION, [(_name(one), None) for one in some])


def _name(revocation: Revocation) -> str:
    return f"{revocation.kind}/{revocation.key}"


def _row(revocation: Revocation) -> dict[str, Any]:
    return {
        "kind": revocation.kind,
        "key": revocation.key,
        "spiffe_id": str(revocation.spiffe_id),
        "at": stamp(revocation.at),
        "until": stamp(revocation.until),
        "reason": revocation.reason,
    }


def _revocation(row: Any) -> Revocation:
    return Revocation(
        kind=RevocationKind(row.kind),
        key=row.key,
        spiffe_id=SpiffeId.parse(row.spiffe_id),
        at=unstamp(row.at),
        until=unstamp(row.until),
        reason=RevocationReason(row.reason),
    )

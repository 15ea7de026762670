# SPDX-License-Identifier: Apache-2.0
"""The journal of authorities: enough to go on signing after a restart."""

from typing import Any

import sqlalchemy as sa

from issuer.model import AuthorityKind, AuthorityRecord, AuthorityState, ChangeKind
from issuer.store.changes import ChangeStore
from issuer.store.schema import authorities, stamp, unstamp


class AuthorityStore:
    """Authorities by kind and ID."""

    def __init__(self, connection: sa.Connection, changes: ChangeStore) -> None:
        self._connection = connection
        self._changes = changes

    def save(self, record: AuthorityRecord) -> AuthorityRecord:
        """Add or replace a record."""
        self._remove(record.kind, record.id)
        self._connection.execute(
            authorities.insert().values(
                kind=record.kind,
                id=record.id,
                state=record.state,
                key_id=record.key_id,
                issued_at=stamp(record.issued_at),
                not_after=stamp(record.not_after),
                certificate=record.certificate_der,
                public_key=record.public_key_der,
                tainted=record.tainted,
            )
        )
        self._changes.record(ChangeKind.AUTHORITY, f"{record.kind}/{record.id}", record)
        return record

    def delete(self, kind: AuthorityKind, authority_id: str) -> None:
        """Remove a record, if it is there."""
        if self._remove(kind, authority_id):
            self._changes.record(ChangeKind.AUTHORITY, f"{kind}/{authority_id}", None)

    def _remove(self, kind: AuthorityKind, authority_id: str) -> bool:
        same = sa.and_(authorities.c.kind == kind, authorities.c.id == authority_id)
        return self._connection.execute(authorities.delete().where(same)).rowcount > 0

    def all(self, kind: AuthorityKind) -> list[AuthorityRecord]:
        """Return the records of a kind, oldest first."""
        query = sa.select(authorities).where(authorities.c.kind == kind).order_by(authorities.c.issued_at)
        return [_record(row) for row in self._connection.execute(query)]


def _record(row: Any) -> AuthorityRecord:
    return AuthorityRecord(
        id=row.id,
        kind=AuthorityKind(row.kind),
        state=AuthorityState(row.state),
        key_id=row.key_id,
        issued_at=unstamp(row.issued_at),
        not_after=unstamp(row.not_after),
        certificate_der=row.certificate,
        public_key_der=row.public_key,
        tainted=row.tainted,
    )

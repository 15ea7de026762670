# SPDX-License-Identifier: Apache-2.0
"""The audit trail: rows are added and never changed; the database itself refuses anything else."""

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime
from typing import Final

import sqlalchemy as sa
from sqlalchemy.dialects import sqlite

from issuer.errors import StoreError
from issuer.model import AuditRecord
from issuer.store.events import Event, decode, encode, ends_after
from issuer.store.schema import ISSUED, audit, stamp

_LAST: Final = sa.select(sa.func.max(audit.c.sequence))
# The driver takes rows as tuples: SQLAlchemy would spend as long on each as SQLite does without indexes.
_ADD: Final = str(audit.insert().compile(dialect=sqlite.dialect()))
VERIFIED: Final = "node.verified"  # what a verifier made of its peer
NODES_WORD: Final = "node."  # what types begin with of events that a node alone vouches for


@dataclass(frozen=True, slots=True, kw_only=True)
class AuditFilter:
    """Which events are wanted: those for which everything that is given holds."""

    type: str | tuple[str, ...] = ""  # exact, or with a final dot all that begin with it: "svid."
    actor: str = ""
    subject: str = ""
    credential: str = ""
    id: str = ""
    txn: str = ""
    since: datetime | None = None
    until: datetime | None = None  # exclusive

    def clauses(self) -> Iterable[sa.ColumnElement[bool]]:
        """Yield the conditions."""
        for column in (audit.c.actor, audit.c.subject, audit.c.credential, audit.c.id, audit.c.txn):
            if wanted := getattr(self, column.name):
                yield column == wanted
        if self.type:
            yield sa.or_(*map(_of_type, (self.type,) if isinstance(self.type, str) else self.type))
        if self.since is not None:
            yield audit.c.at >= stamp(self.since)
        if self.until is not None:
            yield audit.c.at < stamp(self.until)


def _of_type(wanted: str) -> sa.ColumnElement[bool]:
    if wanted.endswith("."):
        return audit.c.type.startswith(wanted, autoescape=True)
    return audit.c.type == wanted


class AuditStore:
    """Audit records in the order of their sequence number, which is dense and begins with 1."""

    def __init__(self, connection: sa.Connection, refused: str = "") -> None:
        self._connection = connection
        self._refused = refused

    def append(self, record: AuditRecord) -> int:
        """Add a record and return its sequence number.

        Raises:
            InvalidRequestError: It is longer than an event may be.
            StoreError: Nothing may be recorded now.
        """
        return self.append_all([encode(record)])

    def append_all(self, events: Iterable[Event]) -> int:
        """Add events and return the sequence number of the last one.

        Raises:
            StoreError: Nothing may be recorded now.
        """
        if self._refused:
            raise StoreError(f"nothing may be done that has to be recorded: {self._refused}")
        rows = [_row(event, number) for number, event in enumerate(events, self.last() + 1)]
        self._connection.exec_driver_sql(_ADD, rows)
        return rows[-1][0]

    def last(self) -> int:
        """Return the newest sequence number; 0 if there is none."""
        return int(self._connection.execute(_LAST).scalar() or 0)

    def leaves(
        self, after: int, limit: int, wanted: AuditFilter | None = None, *, newest_first: bool = False
    ) -> list[tuple[int, bytes]]:
        """Return up to `limit` events after a sequence number, with their numbers, as they are in the log.

        Args:
            newest_first: From the newest one back; `after` is then the one to go on before, or 0.
        """
        number = audit.c.sequence
        query = sa.select(number, audit.c.event)
        if newest_first:
            query = query.where(number < after) if after else query
            query = query.order_by(number.desc())
        else:
            query = query.where(number > after).order_by(number)
        if wanted is not None:
            query = query.where(*wanted.clauses())
        return [(row.sequence, row.event) for row in self._connection.execute(query.limit(limit))]

    def credentials(self, subject: str, since: datetime, *, valid_at: datetime) -> list[AuditRecord]:
        """Return the records of what a subject was given from an instant on, and that ends after another."""
        query = sa.select(audit.c.event).where(audit.c.subject == subject, audit.c.at >= stamp(since), ISSUED)
        rows = self._connection.execute(query.order_by(audit.c.sequence))
        # There may be a hundred thousand, of which few are left: only these are read whole.
        return [decode(row.event) for row in rows if ends_after(row.event, valid_at)]

    def by_credential(self, credential: str) -> AuditRecord | None:
        """Return the first record of a serial number, `jti` or hash that was handed out, or None."""
        # Ours is the first: it is recorded before anybody hears the name. To look beyond the first would be
        # to read all that a node has said of a name that it made up.
        query = sa.select(audit.c.event, audit.c.type).where(audit.c.credential == credential)
        row = self._connection.execute(query.order_by(audit.c.sequence).limit(1)).first()
        return None if row is None or row.type.startswith(NODES_WORD) else decode(row.event)

    def since(self, sequence: int, limit: int) -> list[tuple[int, AuditRecord]]:
        """Return up to `limit` records after `sequence`, with their numbers."""
        return [(number, decode(leaf)) for number, leaf in self.leaves(sequence, limit)]


def _row(event: Event, sequence: int) -> tuple[int, bytes, str, int, str, str, str, str | None, str | None]:
    """Return the columns of the table, in its order."""
    record, credential = event.record, event.record.credential
    return (
        sequence,
        event.leaf(sequence),
        event.id,
        event.at,
        record.type,
        record.actor,
        record.subject,
        None if credential is None else credential.serial or credential.jti or credential.sha256,
        str(record.detail.get("txn", "")) or None if record.type == VERIFIED else None,
    )

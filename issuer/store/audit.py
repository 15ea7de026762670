# SPDX-License-Identifier: Apache-2.0
"""The audit trail: rows are added and never changed; the database itself refuses anything else."""

import json
from typing import Final

import sqlalchemy as sa

from issuer.model import AuditRecord, Outcome
from issuer.store.schema import audit, stamp, unstamp

_LAST: Final = sa.select(sa.func.max(audit.c.sequence))
_ADD: Final = audit.insert()


class AuditStore:
    """Audit records in the order of their sequence number, which is dense."""

    def __init__(self, connection: sa.Connection) -> None:
        self._connection = connection

    def append(self, record: AuditRecord) -> int:
        """Add a record and return its sequence number."""
        last = self._connection.execute(_LAST).scalar() or 0
        self._connection.execute(
            _ADD,
            {
                "sequence": last + 1,
                "at": stamp(record.at),
                "actor": record.actor,
                "act": record.act,
                "subject": record.subject,
                "outcome": record.outcome,
                "detail": json.dumps(dict(record.detail), separators=(",", ":")),
            },
        )
        return int(last) + 1

    def since(self, sequence: int, limit: int) -> list[tuple[int, AuditRecord]]:
        """Return up to `limit` records after `sequence`, with their numbers."""
        query = sa.select(audit).where(audit.c.sequence > sequence).order_by(audit.c.sequence).limit(limit)
        return [
            (
                row.sequence,
                AuditRecord(
                    at=unstamp(row.at),
                    actor=row.actor,
                    act=row.act,
                    subject=row.subject,
                    outcome=Outcome(row.outcome),
                    detail=json.loads(row.detail),
                ),
            )
            for row in self._connection.execute(query)
        ]

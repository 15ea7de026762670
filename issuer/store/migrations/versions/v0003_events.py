# SPDX-License-Identifier: Apache-2.0
"""The audit trail keeps each event as the bytes that are a leaf of its log."""

import json
from typing import Any

import sqlalchemy as sa
from alembic import op

from issuer.model import AuditRecord, Outcome
from issuer.store.audit import AuditStore
from issuer.store.events import encode
from issuer.store.migrations.versions.v0001_first import APPEND_ONLY
from issuer.store.schema import metadata, unstamp

revision = "0003"
down_revision = "0002"

OUTCOMES = {"ok": Outcome.OK, "denied": Outcome.DENIED, "failed": Outcome.FAILED}
AT_A_TIME = 1000


def upgrade() -> None:
    """Make the table anew, and events of the records that there are, in their order."""
    op.rename_table("audit", "audit_records")
    connection = op.get_bind()
    metadata.create_all(connection, [metadata.tables["audit"]], checkfirst=False)
    store = AuditStore(connection)
    rows = connection.execute(sa.text("SELECT * FROM audit_records ORDER BY sequence"))
    for some in rows.partitions(AT_A_TIME):
        store.append_all([encode(_record(row)) for row in some])
    op.drop_table("audit_records")
    for verb in ("update", "delete"):
        op.execute(APPEND_ONLY.format(verb=verb))


def _record(row: Any) -> AuditRecord:
    service, _, method = row.act.rpartition("/")
    return AuditRecord(
        at=unstamp(row.at),
        actor=row.actor,
        act=row.act,
        subject=row.subject,
        outcome=OUTCOMES[row.outcome],
        type=f"{service.rpartition('.')[2]}.{method}".lower(),
        detail=json.loads(row.detail),
    )

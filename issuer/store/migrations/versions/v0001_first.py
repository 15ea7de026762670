# SPDX-License-Identifier: Apache-2.0
"""The first schema."""

from alembic import op

from issuer.store.schema import metadata

revision = "0001"
down_revision = None

TABLES = "settings entries federations nodes join_tokens bundles authorities changes"
AUDIT = """
CREATE TABLE audit (
    sequence INTEGER NOT NULL PRIMARY KEY, at BIGINT NOT NULL, actor TEXT NOT NULL, act TEXT NOT NULL,
    subject TEXT NOT NULL, outcome TEXT NOT NULL, detail TEXT NOT NULL
)
"""
APPEND_ONLY = """
CREATE TRIGGER audit_no_{verb} BEFORE {verb} ON audit
BEGIN SELECT RAISE(ABORT, 'the audit trail is append-only'); END
"""


def upgrade() -> None:
    """Make its tables; the audit trail takes no change but a new row."""
    tables = [metadata.tables[name] for name in TABLES.split()]
    # Not if they exist: tables of somebody else are no database of ours.
    metadata.create_all(op.get_bind(), tables, checkfirst=False)
    op.execute(AUDIT)
    for verb in ("update", "delete"):
        op.execute(APPEND_ONLY.format(verb=verb))

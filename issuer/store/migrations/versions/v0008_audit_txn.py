# SPDX-License-Identifier: Apache-2.0
"""What verifiers say of a transaction is found by it."""

import sqlalchemy as sa
from alembic import op
from sqlalchemy.schema import CreateIndex

from issuer.store.schema import audit_txn

revision = "0008"
down_revision = "0007"


def upgrade() -> None:
    """Add the column and its index, unless 0003 has just made them with the table."""
    if "txn" not in {column["name"] for column in sa.inspect(op.get_bind()).get_columns("audit")}:
        op.add_column("audit", sa.Column("txn", sa.Text))
    op.execute(CreateIndex(audit_txn, if_not_exists=True))

# SPDX-License-Identifier: Apache-2.0
"""What a subject was given is found without a look at what nodes said of it."""

from alembic import op
from sqlalchemy.schema import CreateIndex

from issuer.store.schema import audit_issued

revision = "0007"
down_revision = "0006"


def upgrade() -> None:
    """Make the index, unless 0003 has just made it with the table."""
    op.execute(CreateIndex(audit_issued, if_not_exists=True))

# SPDX-License-Identifier: Apache-2.0
"""What a subject was given is found without a look at what nodes said of it."""

from alembic import op

from issuer.store.schema import audit_issued

revision = "0007"
down_revision = "0006"


def upgrade() -> None:
    """Make the index, unless 0003 has just made it with the table."""
    audit_issued.create(op.get_bind(), checkfirst=True)

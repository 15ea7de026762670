# SPDX-License-Identifier: Apache-2.0
"""What was taken back."""

from alembic import op

from issuer.store.schema import metadata, revocations

revision = "0004"
down_revision = "0003"


def upgrade() -> None:
    """Make the table."""
    metadata.create_all(op.get_bind(), [revocations], checkfirst=False)

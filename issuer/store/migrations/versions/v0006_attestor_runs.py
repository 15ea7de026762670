# SPDX-License-Identifier: Apache-2.0
"""How far attestors' reports are recorded."""

from alembic import op

from issuer.store.schema import attestor_runs, metadata

revision = "0006"
down_revision = "0005"


def upgrade() -> None:
    """Make the table."""
    metadata.create_all(op.get_bind(), [attestor_runs], checkfirst=False)

# SPDX-License-Identifier: Apache-2.0
"""Policies, every version of them."""

from alembic import op

from issuer.store.schema import metadata, policies

revision = "0005"
down_revision = "0004"

KEPT = """
CREATE TRIGGER policies_are_kept_from_{what} BEFORE {what} ON policies
BEGIN SELECT RAISE(ABORT, 'a version of a policy stays as it is'); END
"""


def upgrade() -> None:
    """Make the table; what was once laid down stays, by the database's own word."""
    metadata.create_all(op.get_bind(), [policies], checkfirst=False)
    for what in ("UPDATE", "DELETE"):
        op.execute(KEPT.format(what=what))

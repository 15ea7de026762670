# SPDX-License-Identifier: Apache-2.0
"""Agents and their classes."""

from alembic import op

from issuer.store.schema import agent_classes, agents, metadata

revision = "0002"
down_revision = "0001"

KEPT = """
CREATE TRIGGER agents_are_kept BEFORE DELETE ON agents
BEGIN SELECT RAISE(ABORT, 'an agent is never forgotten'); END
"""
FINAL = """
CREATE TRIGGER retired_agents_stay BEFORE UPDATE ON agents
WHEN OLD.state = 'retired' OR NEW.spiffe_id != OLD.spiffe_id
BEGIN SELECT RAISE(ABORT, 'an agent keeps its SPIFFE ID, and stays retired'); END
"""


def upgrade() -> None:
    """Make the tables; who is retired is so for ever, by the database's own word."""
    metadata.create_all(op.get_bind(), [agent_classes, agents], checkfirst=False)
    op.execute(KEPT)
    op.execute(FINAL)

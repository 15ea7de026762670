# SPDX-License-Identifier: Apache-2.0
"""Attested nodes."""

from collections.abc import Iterator
from datetime import datetime
from typing import Any

import sqlalchemy as sa

from issuer.errors import NotFoundError
from issuer.model import AttestationLevel, ChangeKind, Node
from issuer.store.changes import ChangeStore
from issuer.store.entries import EntryStore
from issuer.store.schema import nodes, stamp, unstamp
from issuer.store.selectors import decode_selectors, encode_selectors
from spiffekit.id import SpiffeId
from spiffekit.selector import Selector

SERVER_PATH = "/spire/server"
ID_SELECTOR = "spiffe_id"  # implicit for every node; the alias of a join token has it


class NodeStore:
    """Nodes by SPIFFE ID."""

    def __init__(self, connection: sa.Connection, changes: ChangeStore, entries: EntryStore) -> None:
        self._connection = connection
        self._changes = changes
        self._entries = entries

    def get(self, node_id: SpiffeId) -> Node | None:
        """Return a node, or None."""
        row = self._connection.execute(sa.select(nodes).where(nodes.c.id == str(node_id))).first()
        return None if row is None else _node(row)

    def put(self, node: Node) -> Node:
        """Add or replace a node."""
        self._connection.execute(nodes.delete().where(nodes.c.id == str(node.id)))
        self._connection.execute(nodes.insert().values(**_row(node)))
        self._changes.record(ChangeKind.NODE, str(node.id), node)
        return node

    def delete(self, node_id: SpiffeId) -> Node:
        """Remove a node, and the alias that its join token gave it.

        Raises:
            NotFoundError: There is none of that ID.
        """
        node = self.get(node_id)
        if node is None:
            raise NotFoundError(f"node {node_id} does not exist")
        own = encode_selectors([Selector(ID_SELECTOR, str(node_id))])
        for alias in self._entries.below(SpiffeId(node_id.trust_domain, SERVER_PATH), own):
            self._entries.delete(alias.id)
        self._connection.execute(nodes.delete().where(nodes.c.id == str(node_id)))
        self._changes.record(ChangeKind.NODE, str(node_id), None)
        return node

    def all(self) -> Iterator[Node]:
        """Return every node, by ID."""
        return map(_node, self._connection.execute(sa.select(nodes).order_by(nodes.c.id)))

    def expired_before(self, instant: datetime, limit: int, *, tofu: bool) -> list[Node]:
        """Return up to `limit` nodes whose SVID ended before `instant`; banned ones stay.

        Those that cannot prove themselves again are left out unless `tofu`: a proof that counts on first
        use would count again.
        """
        query = sa.select(nodes).where(nodes.c.expires_at < stamp(instant), nodes.c.serial != "")
        if not tofu:
            query = query.where(nodes.c.can_reattest)
        return [_node(row) for row in self._connection.execute(query.limit(limit))]


def _row(node: Node) -> dict[str, Any]:
    return {
        "id": str(node.id),
        "attestation_type": node.attestation_type,
        "serial": node.serial,
        "expires_at": stamp(node.expires_at),
        "new_serial": node.new_serial,
        "new_expires_at": None if node.new_expires_at is None else stamp(node.new_expires_at),
        "can_reattest": node.can_reattest,
        "selectors": encode_selectors(node.selectors),
        "version": node.version,
        "level": int(node.level),
    }


def _node(row: Any) -> Node:
    return Node(
        id=SpiffeId.parse(row.id),
        attestation_type=row.attestation_type,
        serial=row.serial,
        expires_at=unstamp(row.expires_at),
        new_serial=row.new_serial,
        new_expires_at=None if row.new_expires_at is None else unstamp(row.new_expires_at),
        can_reattest=row.can_reattest,
        selectors=decode_selectors(row.selectors),
        version=row.version,
        level=AttestationLevel(row.level),
    )

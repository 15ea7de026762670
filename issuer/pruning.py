# SPDX-License-Identifier: Apache-2.0
"""Remove what has ended: entries, join tokens, and, if an operator wants it, nodes."""

import logging
from collections.abc import Callable
from datetime import timedelta
from typing import Final, NoReturn

from issuer.errors import IssuerError
from issuer.model import AuditRecord, Outcome
from issuer.store import Database, Transaction
from spiffekit.daemon.clock import Clock

logger = logging.getLogger(__name__)

EVERY: Final = timedelta(minutes=5)
BATCH: Final = 1000  # things removed in one transaction
RUNS_KEPT: Final = timedelta(days=7)  # of attestors whose nodes are gone: they may come back
ACTOR: Final = "issuer"


class Pruning:
    """The service that removes what has ended.

    Args:
        nodes_expired_for: How long a node's SVID has to have been expired; None keeps nodes for ever.
        tofu_nodes: Whether to remove nodes that cannot prove themselves again as well.
        batch: Entries, and nodes, removed in one transaction.
    """

    def __init__(
        self,
        database: Database,
        clock: Clock,
        *,
        nodes_expired_for: timedelta | None,
        tofu_nodes: bool = False,
        batch: int = BATCH,
    ) -> None:
        self._database = database
        self._clock = clock
        self._nodes_expired_for = nodes_expired_for
        self._tofu_nodes = tofu_nodes
        self._batch = batch

    async def run(self, ready: Callable[[], None]) -> NoReturn:
        """Prune again and again; a failure is logged and tried again."""
        ready()
        while True:
            await self._clock.sleep(EVERY)
            try:
                while await self.prune() >= self._batch:
                    pass  # there is more; in between, others get a turn
            except IssuerError:
                logger.exception("pruning failed, trying again")

    async def prune(self) -> int:
        """Remove one batch of each kind and return how many things there were."""
        return await self._database.write(self._act)

    def _act(self, tx: Transaction) -> int:
        gone = [
            ("entry", tx.entries.delete(entry.id).name) for entry in tx.entries.expired(tx.now, self._batch)
        ]
        if self._nodes_expired_for is not None:
            before = tx.now - self._nodes_expired_for
            nodes = tx.nodes.expired_before(before, self._batch, tofu=self._tofu_nodes)
            gone += [("node", str(tx.nodes.delete(node.id).id)) for node in nodes]
        for kind, subject in gone:
            tx.audit.append(
                AuditRecord(
                    at=tx.now,
                    actor=ACTOR,
                    act="prune",
                    type=f"{kind}.pruned",
                    subject=subject,
                    outcome=Outcome.OK,
                )
            )
        ended = tx.revocations.ended(tx.now, self._batch)
        tx.revocations.forget(ended)
        tx.attestor_runs.forget_strangers(tx.now - RUNS_KEPT)
        return len(gone) + len(ended) + tx.join_tokens.prune(tx.now)

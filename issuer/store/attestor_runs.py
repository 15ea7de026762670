# SPDX-License-Identifier: Apache-2.0
"""How far the events of each run of an attestor are recorded, so that none is lost or counted twice."""

from datetime import datetime
from typing import Final

import sqlalchemy as sa

from issuer.model import AttestorRun
from issuer.store.schema import attestor_runs, nodes, stamp
from spiffekit.id import SpiffeId

KEPT: Final = 16  # runs of one node: who starts anew in a loop must not fill the database


class AttestorRunStore:
    """Runs of attestors by node."""

    def __init__(self, connection: sa.Connection) -> None:
        self._connection = connection

    def of(self, node: SpiffeId) -> list[AttestorRun]:
        """Return the runs of a node that are remembered; the one that reported last stands last."""
        return [
            AttestorRun(node=node, boot=row.boot, last=row.last, ended=row.ended)
            for row in self._connection.execute(
                sa.select(attestor_runs)
                .where(attestor_runs.c.node == str(node))
                .order_by(attestor_runs.c.turn)
            )
        ]

    def put(self, run: AttestorRun, now: datetime) -> None:
        """Remember a run as the one that reported last; of more than `KEPT`, the oldest are forgotten."""
        kept = [other for other in self.of(run.node) if other.boot != run.boot][1 - KEPT :]
        self._connection.execute(attestor_runs.delete().where(attestor_runs.c.node == str(run.node)))
        self._connection.execute(
            attestor_runs.insert(),
            [
                {
                    "node": str(one.node),
                    "boot": one.boot,
                    "turn": turn,
                    "last": one.last,
                    "ended": one.ended,
                    "at": stamp(now),
                }
                for turn, one in enumerate([*kept, run])
            ],
        )

    def forget_strangers(self, before: datetime) -> int:
        """Forget the runs of nodes that are gone and did not report since an instant; return how many."""
        known = sa.select(nodes.c.id)
        gone = sa.and_(attestor_runs.c.at < stamp(before), attestor_runs.c.node.not_in(known))
        return self._connection.execute(attestor_runs.delete().where(gone)).rowcount

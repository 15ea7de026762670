# SPDX-License-Identifier: Apache-2.0
"""Processes that lost identities because something else became true of them, for an operator to look up."""

import logging
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Final

from attestor.peer import Process
from spiffekit.daemon.clock import Clock
from spiffekit.selector import Selector

logger = logging.getLogger(__name__)

MAX_KEPT: Final = 1000  # changes; who changes in a loop must not fill our memory


@dataclass(frozen=True, slots=True, kw_only=True)
class PostureChange:
    """Entries that a process does not match any longer, and what changed of it."""

    at: datetime
    entries: tuple[str, ...]  # their IDs
    gone: frozenset[Selector]
    new: frozenset[Selector]


class Postures:
    """The newest changes, and how many there were.

    Args:
        clock: The clock.
        changed: Is told of each change.
        kept: How many are remembered.

    Attributes:
        total: Changes since the start.
    """

    def __init__(
        self, clock: Clock, changed: Callable[[Process, PostureChange], None], *, kept: int = MAX_KEPT
    ) -> None:
        self._clock = clock
        self._changed = changed
        self._kept: deque[tuple[tuple[int, int], PostureChange]] = deque(maxlen=kept)
        self.total = 0

    def add(
        self,
        process: Process,
        entries: Sequence[str],
        *,
        before: frozenset[Selector],
        after: frozenset[Selector],
    ) -> None:
        """Remember that a process lost entries.

        Raises:
            PeerGoneError: It has exited.
        """
        change = PostureChange(
            at=self._clock.now(), entries=tuple(entries), gone=before - after, new=after - before
        )
        self._kept.append((_key(process), change))
        self.total += 1
        self._changed(process, change)
        logger.warning(
            "posture changed",
            extra={"pid": process.pid, "uid": process.peer.uid, "entries": list(entries)},
        )

    def of(self, process: Process) -> list[PostureChange]:
        """Return the changes of a process that are remembered, the oldest first.

        Raises:
            PeerGoneError: It has exited.
        """
        wanted = _key(process)
        return [change for key, change in self._kept if key == wanted]


def _key(process: Process) -> tuple[int, int]:
    """Return PID and start, for a PID is used again."""
    return process.pid, process.birth()[1]

# SPDX-License-Identifier: Apache-2.0
"""What happened since revision N: the newest changes in memory, and a way to wait for more."""

import asyncio
from collections import deque
from collections.abc import Sequence
from typing import Final

from issuer.model import Change

KEPT: Final = 10_000  # changes; a follower that is further behind gets a snapshot


class ChangeLog:
    """The tail of the change log. `publish` is called on the loop, in the order of commits."""

    def __init__(self, revision: int, *, kept: int = KEPT) -> None:
        self.revision = revision
        self._tail: deque[Change] = deque(maxlen=kept)
        self._grown = asyncio.Event()

    def publish(self, changes: Sequence[Change]) -> None:
        """Add what was committed, and wake everybody who waits."""
        self._tail.extend(changes)
        self.revision = changes[-1].revision
        self._grown.set()
        self._grown = asyncio.Event()

    def since(self, revision: int) -> list[Change] | None:
        """Return every change after `revision`, or None when it is too old, or not ours."""
        missing = self.revision - revision
        if missing < 0 or missing > len(self._tail):
            return None
        return list(self._tail)[len(self._tail) - missing :] if missing else []

    async def wait_beyond(self, revision: int) -> None:
        """Return as soon as there is a change after `revision`."""
        while self.revision <= revision:
            await self._grown.wait()

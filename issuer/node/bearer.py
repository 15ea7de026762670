# SPDX-License-Identifier: Apache-2.0
"""Tokens by which we ask a cloud's API about nodes: each is kept while it counts."""

import asyncio
from collections.abc import Awaitable, Callable

from spiffekit.daemon.clock import Clock


class KeptToken:
    """The token that counts now; however many nodes come at once, one is fetched.

    Args:
        fetch: Returns a new token, and for how many seconds it counts.
        clock: Says when another is due.
        spare: Seconds before its end in which it is not used any more.
        longest: Seconds that it is used at most, whatever `fetch` says.
    """

    def __init__(
        self, fetch: Callable[[], Awaitable[tuple[str, int]]], clock: Clock, *, spare: int, longest: int
    ) -> None:
        self._fetch = fetch
        self._clock = clock
        self._spare = spare
        self._longest = longest
        self._fetching = asyncio.Lock()
        self._token = ""
        self._until = clock.monotonic()

    async def current(self) -> str:
        """Return it; raises what `fetch` does."""
        async with self._fetching:
            asked_at = self._clock.monotonic()
            if asked_at >= self._until:
                self._token, seconds = await self._fetch()
                self._until = asked_at + min(seconds, self._longest) - self._spare
            return self._token

    def forget(self) -> None:
        """Use it no more: it is refused, whatever it said."""
        self._until = self._clock.monotonic()

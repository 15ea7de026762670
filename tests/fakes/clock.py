# SPDX-License-Identifier: Apache-2.0
"""A clock that stands still until a test moves it, and one that goes on from where a test puts it."""

import asyncio
import heapq
from datetime import UTC, datetime, timedelta

from spiffekit.daemon.clock import SystemClock


class FakeClock:
    def __init__(self, now=datetime(2026, 1, 1, tzinfo=UTC)):
        self._now = now
        self._elapsed = 0.0
        self._sleepers = []
        self._count = 0

    def now(self):
        return self._now

    def monotonic(self):
        return self._elapsed

    async def sleep(self, duration):
        if duration <= timedelta(0):
            await asyncio.sleep(0)
            return
        woken = asyncio.get_running_loop().create_future()
        self._count += 1
        heapq.heappush(self._sleepers, (self._elapsed + duration.total_seconds(), self._count, woken))
        await woken

    @property
    def sleeping(self):
        return sum(1 for *_, woken in self._sleepers if not woken.done())

    def step(self, duration: timedelta):
        """Move the wall clock only, as an operator or NTP would."""
        self._now += duration

    async def advance(self, duration: timedelta):
        """Let time pass; sleepers wake in order, each with a chance to run and sleep again."""
        target = self._elapsed + duration.total_seconds()
        await self._settle()
        while self._sleepers and self._sleepers[0][0] <= target:
            due, _, woken = heapq.heappop(self._sleepers)
            self._move(max(due, self._elapsed))
            if not woken.done():
                woken.set_result(None)
            await self._settle()
        self._move(target)
        await self._settle()

    def _move(self, elapsed):
        self._now += timedelta(seconds=elapsed - self._elapsed)
        self._elapsed = elapsed

    async def _settle(self):
        for _ in range(20):
            await asyncio.sleep(0)


class SteppedClock(SystemClock):
    """The machine's clock, but for how far ahead of it a test has put this one."""

    ahead = timedelta()

    def monotonic(self):
        return super().monotonic() + self.ahead.total_seconds()

    def now(self):
        return super().now() + self.ahead

# SPDX-License-Identifier: Apache-2.0
"""The clock as a dependency, so that tests move time and decisions read it once."""

import asyncio
import time
from collections.abc import Coroutine
from datetime import UTC, datetime, timedelta
from typing import Any, Protocol


class Clock(Protocol):
    """Wall time for what certificates say, monotonic time for how long something took."""

    def now(self) -> datetime:
        """Return the present instant, aware, in UTC."""

    def monotonic(self) -> float:
        """Return seconds since some fixed point; never goes back."""

    async def sleep(self, duration: timedelta) -> None:
        """Wait for `duration`; at once for none or a negative one."""


class SystemClock:
    """The machine's clock."""

    def now(self) -> datetime:
        """Return the present instant, aware, in UTC."""
        return datetime.now(UTC)

    def monotonic(self) -> float:
        """Return seconds since the machine started."""
        return time.monotonic()

    async def sleep(self, duration: timedelta) -> None:
        """Wait for `duration`."""
        await asyncio.sleep(max(duration.total_seconds(), 0.0))


async def first_of(*waits: Coroutine[Any, Any, None]) -> None:
    """Return as soon as one of several waits is over; the others are given up."""
    tasks = [asyncio.ensure_future(wait) for wait in waits]
    try:
        await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
    finally:
        for task in tasks:
            task.cancel()

# SPDX-License-Identifier: Apache-2.0
"""The clock as a dependency, so that tests move time and decisions read it once."""

import asyncio
import time
from datetime import UTC, datetime, timedelta
from typing import Protocol


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

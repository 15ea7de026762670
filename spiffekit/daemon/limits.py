# SPDX-License-Identifier: Apache-2.0
"""How often one source may do something that costs us."""

from collections import OrderedDict
from collections.abc import Callable, Hashable
from typing import Final

MAX_SOURCES: Final = 10_000  # remembered at once; the one that has been quiet longest is forgotten


class RateLimitedError(Exception):
    """A source asked more often than it may."""


class RateLimit:
    """A bucket for each source: `burst` acts at once, `rate` a second after that.

    Args:
        rate: Acts a second.
        burst: Acts at once.
        monotonic: Seconds that never go back.
    """

    def __init__(self, rate: float, burst: float, *, monotonic: Callable[[], float]) -> None:
        self._rate = rate
        self._burst = burst
        self._monotonic = monotonic
        self._buckets: OrderedDict[Hashable, tuple[float, float]] = OrderedDict()

    def spend(self, source: Hashable, amount: int = 1) -> None:
        """Take `amount` from the bucket of `source`.

        Raises:
            RateLimitedError: There is not enough in it.
        """
        now = self._monotonic()
        left, last = self._buckets.pop(source, (self._burst, now))
        left = min(self._burst, left + (now - last) * self._rate)
        allowed = left >= min(amount, self._burst)
        self._buckets[source] = (left - amount if allowed else left, now)
        if len(self._buckets) > MAX_SOURCES:
            self._buckets.popitem(last=False)
        if not allowed:
            raise RateLimitedError("too many requests from this source; try again later")

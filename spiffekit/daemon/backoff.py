# SPDX-License-Identifier: Apache-2.0
"""How long to wait before trying again: growing, jittered, bounded, and reset on success."""

import random
from collections.abc import Callable
from datetime import timedelta


class Backoff:
    """Yields waits that grow by `factor` from `initial` to `ceiling`, each moved by ±`jitter` of itself."""

    def __init__(
        self,
        initial: timedelta,
        ceiling: timedelta,
        *,
        factor: float = 1.5,
        jitter: float = 0.1,
        draw: Callable[[], float] = random.random,
    ) -> None:
        self._initial = initial
        self._ceiling = ceiling
        self._factor = factor
        self._jitter = jitter
        self._draw = draw
        self._next = initial

    def next(self) -> timedelta:
        """Return how long to wait now, and grow."""
        wait = self._next
        self._next = min(self._next * self._factor, self._ceiling)
        return wait * (1 + self._jitter * (2 * self._draw() - 1))

    def reset(self) -> None:
        """Start over: the last try succeeded."""
        self._next = self._initial

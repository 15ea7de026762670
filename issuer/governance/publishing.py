# SPDX-License-Identifier: Apache-2.0
"""Sign what everybody has to know: whenever it changes, and well before what was signed last expires.

Streams of attestors, and whoever asks, get the newest.
"""

import asyncio
import logging
from abc import ABC, abstractmethod
from collections.abc import Callable
from datetime import timedelta
from typing import ClassVar, Final, Generic, NoReturn, Protocol, TypeVar

from issuer.errors import IssuerError
from spiffekit.daemon.clock import Clock, first_of

logger = logging.getLogger(__name__)

RETRY: Final = timedelta(seconds=1)


class Numbered(Protocol):
    """Something that was published."""

    @property
    def number(self) -> int:
        """Counts what this run of the issuer has published; 0 is nothing."""


P = TypeVar("P", bound=Numbered)


class Publishing(ABC, Generic[P]):
    """A service that publishes one kind of thing. Used from one event loop."""

    FAILED: ClassVar[str]  # what the log says when nothing can be signed
    REFRESH: ClassVar[timedelta]  # after which it is signed again although nothing has changed

    def __init__(self, nothing: P, clock: Clock) -> None:
        self.current = nothing
        self._clock = clock
        self._grown = asyncio.Event()

    @abstractmethod
    async def _make(self, number: int) -> P:
        """Return what holds now; raises `IssuerError`."""

    @abstractmethod
    async def _changed(self) -> None:
        """Return when something has changed since the last time."""

    async def run(self, ready: Callable[[], None]) -> NoReturn:
        """Publish again and again; a failure is logged and tried again soon."""
        good = await self._publish()
        ready()
        while True:
            await first_of(self._changed(), self._clock.sleep(self.REFRESH if good else RETRY))
            good = await self._publish()

    async def _publish(self) -> bool:
        try:
            self.current = await self._make(self.current.number + 1)
        except IssuerError:
            logger.exception(self.FAILED)
            return False
        self._grown.set()
        self._grown = asyncio.Event()
        return True

    async def wait_beyond(self, number: int) -> None:
        """Return as soon as there is something newer."""
        while self.current.number <= number:
            await self._grown.wait()

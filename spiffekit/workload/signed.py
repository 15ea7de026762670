# SPDX-License-Identifier: Apache-2.0
"""What the trust domain has signed for all verifiers: it comes from the endpoint, and has to verify."""

import asyncio
import logging
from collections.abc import AsyncIterator, Callable
from typing import Any, Generic, TypeVar

from spiffekit.bundle import BundleSet
from spiffekit.errors import SpiffeError
from spiffekit.workload.client import WorkloadApi

logger = logging.getLogger(__name__)

T = TypeVar("T")


class SignedReader(Generic[T]):
    """Verifies what the endpoint says, and again when the keys are others; what fails is told, not heeded.

    Args:
        what: Its name, as people read it.
        take: Verifies a token and keeps what it says; returns that, or None if it is not new.
    """

    def __init__(self, what: str, take: Callable[[str, BundleSet], T | None]) -> None:
        self._what = what
        self._refused = f"{what} refused"
        self._take = take
        self._bundles = BundleSet()
        self._token = ""
        self._refusal = ""

    def excuse(self) -> str:
        """Return why there is nothing yet."""
        if not self._token:
            return f"no {self._what}: the endpoint has none"
        reason = self._refusal or "this process is granted no keys to verify one with"
        return f"no {self._what}: {reason}"

    async def read(self, api: WorkloadApi, tokens: AsyncIterator[str]) -> AsyncIterator[T]:
        """Yield everything that is new and verifies, for ever."""
        async for news in _merged(api.watch_jwt_bundles(), tokens):
            if isinstance(news, BundleSet):
                self._bundles = news
            else:
                self._token = news
            if self._token and self._bundles and (found := self._newer()) is not None:
                yield found

    def _newer(self) -> T | None:
        try:
            return self._take(self._token, self._bundles)
        except SpiffeError as error:
            self._refusal = str(error)
            logger.error(self._refused, extra={"reason": self._refusal})  # noqa: TRY400 - the reason says it all
            return None


async def _merged(*streams: AsyncIterator[Any]) -> AsyncIterator[Any]:
    """Yield what several endless streams yield, as it comes."""
    waiting = {asyncio.ensure_future(anext(stream)): stream for stream in streams}
    try:
        while True:
            done, _ = await asyncio.wait(waiting, return_when=asyncio.FIRST_COMPLETED)
            for task in done:
                stream = waiting.pop(task)
                news = task.result()
                waiting[asyncio.ensure_future(anext(stream))] = stream
                yield news
    finally:
        for task in waiting:
            task.cancel()
        await asyncio.gather(*waiting, return_exceptions=True)

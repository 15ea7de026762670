# SPDX-License-Identifier: Apache-2.0
"""Send what waits for the audit trail to the issuer: in the background, in the order of the numbers.

While the issuer cannot be told, events wait. What it rejects is lost, alone. An issuer that takes no
reports is asked again now and then: it may have been upgraded.
"""

import asyncio
import logging
import math
from collections.abc import Callable
from datetime import timedelta
from typing import Final, NoReturn

from attestor.errors import AttestorError, ReportRejectedError
from attestor.issuer_client import IssuerClient
from attestor.session import RETRY
from attestor.spool import Spool
from spiffekit.daemon.backoff import Backoff
from spiffekit.daemon.clock import Clock, first_of

logger = logging.getLogger(__name__)

BATCH: Final = 100  # events of one report; as many as the issuer takes
LINGER: Final = timedelta(seconds=1)  # what happens meanwhile goes into one report
ACCOUNT_EVERY: Final = timedelta(minutes=1)  # that we say how much was not told one by one
AGAIN: Final = timedelta(minutes=10)  # until we ask whether the issuer takes reports by now
FLUSH: Final = timedelta(seconds=5)  # that our end may wait for the issuer


class Reporting:
    """See the module."""

    def __init__(self, client: IssuerClient, spool: Spool, clock: Clock) -> None:
        self._client = client
        self._spool = spool
        self._clock = clock
        self._backoff = Backoff(*RETRY)
        self._accounted = -math.inf
        self._failing = False
        self._refused_at: float | None = None  # when the issuer last said that it takes no reports

    async def run(self, ready: Callable[[], None]) -> NoReturn:
        """Send until cancelled; nobody waits for it."""
        ready()
        while True:
            await first_of(_set(self._spool.wake), self._clock.sleep(ACCOUNT_EVERY))
            await self._clock.sleep(LINGER)
            self._spool.wake.clear()
            try:
                await self._drain()
            except AttestorError as error:
                if not self._failing:
                    logger.warning("issuer cannot be told for its audit trail", extra={"reason": str(error)})
                self._failing = True
                self._spool.wake.set()
                await self._clock.sleep(self._backoff.next())

    async def _drain(self) -> None:
        """Send what waits, as long as the issuer takes reports, and once in a while how much was not kept."""
        if self._refused_at is not None and not await self._is_taken_again(self._refused_at):
            return
        while len(self._spool):
            await self._send(BATCH)
        now = self._clock.monotonic()
        if now - self._accounted >= ACCOUNT_EVERY.total_seconds():
            self._accounted = now
            self._spool.account()

    async def _send(self, count: int) -> None:
        """Send the oldest events; if the issuer rejects them, each alone: one must not hold up the rest."""
        if not (some := self._spool.first(count)):
            return
        try:
            await self._client.report(self._spool.boot, some)
            self._spool.sent += len(some)
        except NotImplementedError:
            logger.warning("issuer takes no reports for an audit trail; none are kept until it does")
            self._spool.disable()
            self._refused_at = self._clock.monotonic()
            return
        except ReportRejectedError as error:
            if len(some) > 1:
                for _ in some:
                    await self._send(1)
                return
            logger.error("issuer rejects an event", extra={"reason": str(error)})  # noqa: TRY400 - says it all
            self._spool.lose()
        self._spool.drop(len(some))
        self._backoff.reset()
        if self._failing:
            logger.info("issuer is told again for its audit trail", extra={"waiting": len(self._spool)})
            self._failing = False

    async def _is_taken_again(self, refused_at: float) -> bool:
        """Ask with an empty report, once in a while, and keep events again if it is taken."""
        now = self._clock.monotonic()
        if now - refused_at < AGAIN.total_seconds():
            return False
        self._refused_at = now
        try:
            await self._client.report(self._spool.boot, ())
        except NotImplementedError:
            return False
        logger.info("issuer takes reports for its audit trail now")
        self._refused_at = None
        self._spool.enabled = True
        return True

    async def close(self) -> None:
        """Send what is left, and that nothing follows, if the issuer can be told so soon.

        Call it when nothing is handed out any more, and `run` has ended.
        """
        if not self._spool.enabled or self._client.credentials.svid is None:
            return
        try:
            async with asyncio.timeout(FLUSH.total_seconds()):
                self._accounted = -math.inf
                await self._drain()
                await self._drain()  # the account, too
                if not self._spool.enabled:
                    return
                await self._client.report(self._spool.boot, (), ended=self._spool.last)
        except (TimeoutError, NotImplementedError, AttestorError) as error:
            logger.warning(
                "issuer is not told for its audit trail how this run ended",
                extra={"waiting": len(self._spool), "reason": str(error) or "no answer in time"},
            )


async def _set(event: asyncio.Event) -> None:
    await event.wait()

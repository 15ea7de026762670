# SPDX-License-Identifier: Apache-2.0
"""Tell the audit trail what this process made of its peers: opt-in, in the background, and within bounds.

Nobody waits for it, and nothing depends on it: what does not fit, or cannot be told, is lost, and the trail
says how much. The endpoint is `attestor.v1.Verifications`, which no part of the Workload API is.

::

    async with Reporter.open() as reporter:
        context = mtls_server_context(source, below(agents), reporter=reporter)
        ...
        reporter.report(Verification(kind="policy", allowed=False, peer=peer, reason="over limit"))
"""

import asyncio
import contextlib
import logging
import secrets
import threading
from collections import OrderedDict
from collections.abc import AsyncIterator, Iterable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import timedelta
from itertools import islice
from typing import Final, Literal, NoReturn

from spiffekit.daemon.backoff import Backoff
from spiffekit.daemon.clock import Clock, SystemClock
from spiffekit.errors import WorkloadApiError, WorkloadApiRejectedError, WorkloadApiUnavailableError
from spiffekit.id import SpiffeId
from spiffekit.wire.pb.attestor.v1 import verifications_pb2
from spiffekit.wire.reports import MAX_NAMES, MAX_SERIAL, MAX_TEXT, NAME
from spiffekit.workload.client import RETRY, WorkloadApi

logger = logging.getLogger(__name__)

MAX_WAITING: Final = 1000  # verifications that differ; the same again is counted
BATCH: Final = 50  # of one call; as many as the attestor takes
LINGER: Final = timedelta(seconds=1)  # what happens meanwhile goes into one call
FLUSH: Final = timedelta(seconds=2)  # that leaving the context may wait
AGAIN: Final = timedelta(minutes=10)  # until we ask whether there is an audit trail by now
_MAX_COUNT: Final = 2**32 - 1


@dataclass(frozen=True, slots=True, kw_only=True)
class Verification:
    """What came of verifying one peer. Never put a secret into `reason` or `action`.

    Attributes:
        kind: What was verified.
        allowed: Whether the peer was let in.
        reason: Why, in a few words.
        peer: Whom the peer showed itself to be.
        serial: Of its X.509-SVID.
        jti: Of its token, if there is no `serial`.
        txn: Of the transaction that it takes part in.
        action: What it wanted to do, such as the name of a tool.
        bundle: Hash of the policies that were asked.
        policies: The statements of them that decided.
    """

    kind: Literal["mtls", "jwt-svid", "wit-svid", "delegation", "policy"]
    allowed: bool
    reason: str = ""
    peer: SpiffeId | None = None
    serial: int = 0
    jti: str = ""
    txn: str = ""
    action: str = ""
    bundle: str = ""
    policies: tuple[str, ...] = ()


class Reporter:
    """See the module. You get one by `open`; `report` may be called from any thread.

    Open it after a fork: a process that shares it with its parent would tell the same numbers.

    Attributes:
        told: How many verifications the attestor has taken.
        lost: How many will be missing.
    """

    def __init__(self, api: WorkloadApi, subject: SpiffeId | None, clock: Clock) -> None:
        self._api = api
        self._subject = subject
        self._clock = clock
        self._loop = asyncio.get_running_loop()
        self._wake = asyncio.Event()
        self._lock = threading.Lock()
        self._waiting: OrderedDict[Verification, tuple[int, int]] | None = OrderedDict()  # number and count
        self._run = secrets.token_bytes(16)
        self._number = 0
        self._taken = 0
        self._rejected = False
        self._sending: list[tuple[Verification, int, int]] = []
        self.told = 0
        self.lost = 0

    @classmethod
    @asynccontextmanager
    async def open(
        cls, address: str | None = None, *, subject: SpiffeId | None = None, clock: Clock | None = None
    ) -> AsyncIterator["Reporter"]:
        """Yield a reporter; when the context is left, what waits is told if that is soon done.

        Args:
            address: See `WorkloadApi.connect`.
            subject: Which identity of this process verifies; the default one if left out.
            clock: Another clock, for tests.

        Raises:
            AddressError: The address is malformed or missing.
        """
        clock = clock or SystemClock()
        async with WorkloadApi.connect(address, clock=clock) as api:
            reporter = cls(api, subject, clock)
            task = asyncio.create_task(reporter._tell(), name="reporter")
            try:
                yield reporter
            finally:
                task.cancel()
                with contextlib.suppress(asyncio.CancelledError):
                    await task
                await reporter._flush()

    def report(self, verification: Verification) -> None:
        """Tell of a verification. It never blocks and never raises; the same again is counted."""
        with self._lock:
            if self._waiting is None:  # no audit trail takes it now
                return
            number, count = self._waiting.get(verification, (0, 0))
            if not number:
                self._number += 1
                number = self._number
                if len(self._waiting) >= MAX_WAITING:
                    self.lost += 1
                    return
            self._waiting[verification] = (number, min(count + 1, _MAX_COUNT))
        with contextlib.suppress(RuntimeError):  # the loop is closed
            self._loop.call_soon_threadsafe(self._wake.set)

    async def _tell(self) -> NoReturn:
        backoff = Backoff(*RETRY)
        failing = silent = False
        while True:
            await self._wake.wait()
            await self._clock.sleep(LINGER)
            self._wake.clear()
            try:
                await self._drain()
                failing = silent = False
                backoff.reset()
            except WorkloadApiUnavailableError as error:
                if not failing:
                    logger.warning("verifications cannot be reported now", extra={"reason": str(error)})
                failing = True
                self._wake.set()
                await self._clock.sleep(backoff.next())
            except WorkloadApiError as error:  # there is no audit trail; the issuer may be upgraded
                if not silent:
                    logger.error("verifications are not reported", extra={"reason": str(error)})  # noqa: TRY400
                silent = True
                with self._lock:
                    self._waiting = None
                self._sending = []
                await self._clock.sleep(AGAIN)
                with self._lock:
                    self._waiting = OrderedDict()

    async def _flush(self) -> None:
        try:
            async with asyncio.timeout(FLUSH.total_seconds()):
                await self._drain()
        except (TimeoutError, WorkloadApiError, WorkloadApiUnavailableError):
            with self._lock:
                left = len(self._waiting or ())
            self.lost += left
            logger.warning("verifications are not reported any more", extra={"lost": self.lost})

    async def _drain(self) -> None:
        while some := self._sending or self._oldest():
            self._sending = some  # the same again until it is taken: it may have been, unanswered
            try:
                taken = await self._api.report_verifications(
                    self._run, [_message(*one) for one in some], taken=self._taken, subject=self._subject
                )
            except WorkloadApiRejectedError as error:  # and took none of them: halve until it is found
                self._sending = some[: len(some) // 2]
                if not self._sending:
                    self._reject(some, error)
                continue
            self._taken = max(self._taken, taken)
            self._forget(some)
            self.told += len(some)
            self._sending = []

    def _reject(self, one: list[tuple[Verification, int, int]], error: WorkloadApiRejectedError) -> None:
        """Lose a verification that will never be taken: it must not hold up the others."""
        if not self._rejected:  # a peer may bring about any number of them
            logger.error("a verification is not taken, and lost", extra={"reason": str(error)})
        self._rejected = True
        self._forget(one)
        self.lost += 1

    def _oldest(self) -> list[tuple[Verification, int, int]]:
        with self._lock:
            return [(one, *told) for one, told in islice((self._waiting or {}).items(), BATCH)]

    def _forget(self, told: list[tuple[Verification, int, int]]) -> None:
        """Drop what was taken or rejected; what came to the same meanwhile is another one."""
        with self._lock:
            for verification, _, count in told:
                assert self._waiting is not None  # noqa: S101 - only `_tell` ends it, and not while this drains
                more = self._waiting.pop(verification)[1] - count
                if more:
                    self._number += 1
                    self._waiting[verification] = (self._number, more)


def _message(verification: Verification, number: int, count: int) -> verifications_pb2.Verification:
    message = verifications_pb2.Verification(
        number=number,
        kind=verification.kind,
        allowed=verification.allowed,
        reason=_line(verification.reason),
        peer=str(verification.peer or ""),
        txn=_name(verification.txn),
        action=_line(verification.action),
        count=count,
        bundle=verification.bundle,
        policies=_fitting(verification.policies),
    )
    if 0 < verification.serial <= MAX_SERIAL and not verification.kind.endswith("-svid"):
        message.serial = str(verification.serial)
    elif jti := _name(verification.jti):
        message.jti = jti
    return message


def _line(text: str) -> str:
    """Return as much of a text as fits, on one line."""
    printable = "".join(character if character.isprintable() else " " for character in text[:MAX_TEXT])
    return printable.encode()[:MAX_TEXT].decode("utf-8", "ignore")


def _fitting(names: Iterable[str]) -> list[str]:
    """Return as many names as there is room for."""
    found: list[str] = []
    for name in filter(_name, names):
        if len(found) == MAX_NAMES or sum(map(len, found)) + len(name) > MAX_TEXT:
            break
        found.append(name)
    return found


def _name(name: str) -> str:
    """Return a name, or "" for one that the trail would not take."""
    return name if NAME.fullmatch(name) else ""

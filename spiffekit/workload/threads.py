# SPDX-License-Identifier: Apache-2.0
"""The sources for programs without an event loop: one thread runs it, any thread reads.

::

    with x509_source() as source:
        context = mtls_client_context(source, exact(SpiffeId.parse("spiffe://example.org/api")))
"""

import asyncio
import threading
from collections.abc import Callable, Collection, Coroutine, Iterator
from contextlib import AbstractAsyncContextManager, contextmanager
from datetime import timedelta
from typing import Any, Final, TypeVar

from spiffekit.bundle import Bundle, BundleSet
from spiffekit.id import SpiffeId, TrustDomain
from spiffekit.jwtsvid import JwtSvid
from spiffekit.policy import PolicyBundle
from spiffekit.status import AgentStatus
from spiffekit.workload.client import CALL_WITHIN, ValidatedToken
from spiffekit.workload.policies import PolicySource
from spiffekit.workload.reporting import Reporter
from spiffekit.workload.source import READY_WITHIN, JwtSource, X509Source
from spiffekit.workload.status import StatusSource
from spiffekit.workload.updates import X509Update

T = TypeVar("T")

_CLOSE_WITHIN: Final = 10.0  # seconds


class _LoopThread:
    """An event loop in a thread of its own."""

    def __init__(self) -> None:
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="spiffe-source", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def run(self, work: Coroutine[Any, Any, T], within: float | None = None) -> T:
        return asyncio.run_coroutine_threadsafe(work, self._loop).result(within)

    def stop(self) -> None:
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(_CLOSE_WITHIN)
        self._loop.close()


@contextmanager
def _entered(source: Callable[[], AbstractAsyncContextManager[T]]) -> Iterator[tuple[_LoopThread, T]]:
    thread = _LoopThread()
    thread.start()
    try:
        entered: T
        leave = asyncio.Event()

        async def hold(ready: "asyncio.Future[T]") -> None:
            async with source() as value:
                ready.set_result(value)
                await leave.wait()

        async def begin() -> tuple[T, "asyncio.Task[None]"]:
            ready: asyncio.Future[T] = asyncio.get_running_loop().create_future()
            task = asyncio.create_task(hold(ready))
            await asyncio.wait((ready, task), return_when=asyncio.FIRST_COMPLETED)
            if not ready.done():
                await task  # raises why there is no source
            return ready.result(), task

        async def end(task: "asyncio.Task[None]") -> None:
            leave.set()
            await task

        # Entered and left in one task: what is cancelled inside must not be another task's.
        entered, task = thread.run(begin())
        try:
            yield thread, entered
        finally:
            thread.run(end(task), _CLOSE_WITHIN)
    finally:
        thread.stop()


@contextmanager
def x509_source(
    address: str | None = None,
    *,
    ready_within: timedelta = READY_WITHIN,
    on_update: Callable[[X509Update], None] | None = None,
) -> Iterator[X509Source]:
    """Yield an `X509Source` to be read from any thread; raises as `X509Source.open`.

    `on_update` is called on the source's own thread. `changed` is for event loops only.
    """
    with _entered(lambda: X509Source.open(address, ready_within=ready_within, on_update=on_update)) as (
        _,
        source,
    ):
        yield source


@contextmanager
def status_source(
    address: str | None = None,
    *,
    without_status: Collection[TrustDomain] = (),
    ready_within: timedelta = READY_WITHIN,
    on_update: Callable[[AgentStatus], None] | None = None,
) -> Iterator[StatusSource]:
    """Yield a `StatusSource` to be read from any thread; raises as `StatusSource.open`.

    `on_update` is called on the source's own thread. `changed` is for event loops only.
    """
    with _entered(
        lambda: StatusSource.open(
            address, without_status=without_status, ready_within=ready_within, on_update=on_update
        )
    ) as (_, source):
        yield source


@contextmanager
def policy_source(
    trust_domain: TrustDomain,
    address: str | None = None,
    *,
    ready_within: timedelta = READY_WITHIN,
    on_update: Callable[[PolicyBundle], None] | None = None,
) -> Iterator[PolicySource]:
    """Yield a `PolicySource` to be asked from any thread; raises as `PolicySource.open`.

    `on_update` is called on the source's own thread. `changed` is for event loops only.
    """
    with _entered(
        lambda: PolicySource.open(trust_domain, address, ready_within=ready_within, on_update=on_update)
    ) as (_, source):
        yield source


@contextmanager
def reporter(address: str | None = None, *, subject: SpiffeId | None = None) -> Iterator[Reporter]:
    """Yield a `Reporter` for programs without an event loop; see `Reporter.open`."""
    with _entered(lambda: Reporter.open(address, subject=subject)) as (_, made):
        yield made


class ThreadJwtSource:
    """A `JwtSource` whose calls block. You get one by `jwt_source`."""

    def __init__(self, thread: _LoopThread, source: JwtSource) -> None:
        self._thread = thread
        self._source = source

    @property
    def bundles(self) -> BundleSet:
        """The bundles that are granted now."""
        return self._source.bundles

    def bundle_for(self, trust_domain: TrustDomain) -> Bundle:
        """See `JwtSource.bundle_for`."""
        return self._source.bundle_for(trust_domain)

    def fetch(self, audience: Collection[str], *, subject: SpiffeId | None = None) -> JwtSvid:
        """See `JwtSource.fetch`."""
        return self._thread.run(
            self._source.fetch(audience, subject=subject), CALL_WITHIN.total_seconds() + 1
        )

    def validate(self, token: str, audience: str) -> ValidatedToken:
        """See `JwtSource.validate`."""
        return self._thread.run(self._source.validate(token, audience), CALL_WITHIN.total_seconds() + 1)


@contextmanager
def jwt_source(
    address: str | None = None, *, ready_within: timedelta = READY_WITHIN
) -> Iterator[ThreadJwtSource]:
    """Yield a `ThreadJwtSource`; raises as `JwtSource.open`."""
    with _entered(lambda: JwtSource.open(address, ready_within=ready_within)) as (thread, source):
        yield ThreadJwtSource(thread, source)

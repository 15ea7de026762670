# SPDX-License-Identifier: Apache-2.0
"""Asks a plug-in that runs as a process of its own, over SPIRE's protocol: SPIRE's plug-ins serve us, too."""

import asyncio
import contextlib
import logging
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from datetime import timedelta
from typing import Final, NoReturn, TypeVar

import grpc

from attestor.config import ExternalAttestorTable
from attestor.errors import WorkloadAttestationError
from attestor.peer import Process
from attestor.workload import Facts
from spiffekit.daemon import goplugin
from spiffekit.daemon.backoff import Backoff
from spiffekit.daemon.child import ChildError, Program
from spiffekit.daemon.clock import Clock
from spiffekit.errors import SelectorError
from spiffekit.id import TrustDomain
from spiffekit.selector import Selector
from spiffekit.wire.pb.spire.plugin.agent.workloadattestor.v1 import (
    workloadattestor_pb2,
    workloadattestor_pb2_grpc,
)
from spiffekit.wire.pb.spire.service.common.config.v1 import config_pb2, config_pb2_grpc
from spiffekit.wire.pb.spire.service.private.init.v1 import init_pb2, init_pb2_grpc

T = TypeVar("T")

logger = logging.getLogger(__name__)

COOKIE: Final = "WorkloadAttestor"
SERVES: Final = "spire.plugin.agent.workloadattestor.v1.WorkloadAttestor"
CONFIGURABLE: Final = "spire.service.common.config.v1.Config"
STARTS_WITHIN: Final = 10.0  # seconds, until it is configured: the attestor waits for the first try
DEINIT_WITHIN: Final = 1.0  # seconds
FIRST_RETRY: Final = timedelta(seconds=1)
LAST_RETRY: Final = timedelta(minutes=1)
STEADY: Final = 60.0  # seconds that a plug-in has run, after which its end is the first one again
MAX_SELECTORS: Final = 500  # of one process; evidence may have four times as many, of all attestors
MAX_REASON: Final = 200  # characters of a plug-in's own words


class ExternalAttestor:
    """See the module. Its name in the configuration is the type of all its selectors.

    Args:
        name: That name.
        table: How it is run.
        trust_domain: What the plug-in is told of us.
        clock: Ours.
    """

    def __init__(
        self, name: str, table: ExternalAttestorTable, trust_domain: TrustDomain, clock: Clock
    ) -> None:
        self._name = name
        self._program = Program(
            table.plugin_cmd, table.plugin_checksum, table.plugin_args, table.environment()
        )
        self._data = table.plugin_data
        self._trust_domain = trust_domain
        self._clock = clock
        self._serving: grpc.aio.Channel | None = None

    @property
    def type(self) -> str:
        """See the class."""
        return self._name

    async def attest(self, process: Process) -> Facts:
        """Return what the plug-in states.

        Raises:
            WorkloadAttestationError: It does not run, fails, or states what no attestor may state.
        """
        if self._serving is None:
            raise WorkloadAttestationError("plug-in does not run; the log says why")
        stub = workloadattestor_pb2_grpc.WorkloadAttestorStub(self._serving)
        try:
            answer = await _said(stub.Attest(workloadattestor_pb2.AttestRequest(pid=process.pid)))
        except (ChildError, grpc.RpcError) as error:
            raise WorkloadAttestationError(f"plug-in fails: {_reason(error)}") from error
        except asyncio.CancelledError as error:
            if (task := asyncio.current_task()) is None or task.cancelling():
                raise
            raise WorkloadAttestationError("plug-in has ended while it was asked") from error
        if not process.peer.alive():  # it may have been asked about another that has the number now
            raise WorkloadAttestationError("process has exited")
        return Facts(self._selectors(answer.selector_values))

    def _selectors(self, values: Sequence[str]) -> frozenset[Selector]:
        if len(values) > MAX_SELECTORS:
            raise WorkloadAttestationError(
                f"plug-in states {len(values)} selectors, more than {MAX_SELECTORS}"
            )
        try:
            return frozenset(Selector(self._name, value) for value in values)
        except SelectorError as error:
            raise WorkloadAttestationError(f"plug-in states nonsense: {error}") from error

    async def run(self, ready: Callable[[], None]) -> NoReturn:
        """Run the plug-in, again whenever it ends; ready as soon as the first try is over."""
        backoff = Backoff(FIRST_RETRY, LAST_RETRY)
        while True:
            began = self._clock.monotonic()
            try:
                async with self._started() as plugin:
                    pid = plugin.child.process.pid
                    logger.info("plug-in serves", extra={"attestor": self._name, "pid": pid})
                    how = await self._serve(plugin, ready)
                    logger.warning("plug-in has ended", extra={"attestor": self._name, "how": how})
            except (ChildError, OSError, grpc.RpcError) as error:
                extra = {"attestor": self._name, "reason": _reason(error)}
                logger.error("plug-in cannot be started", extra=extra)  # noqa: TRY400 - the reason says it
            ready()
            if self._clock.monotonic() - began > STEADY:
                backoff.reset()
            await self._clock.sleep(backoff.next())

    async def _serve(self, plugin: goplugin.Plugin, ready: Callable[[], None]) -> str:
        self._serving = plugin.channel
        try:
            ready()
            return await plugin.child.ended()
        finally:
            self._serving = None

    @contextlib.asynccontextmanager
    async def _started(self) -> AsyncIterator[goplugin.Plugin]:
        async with contextlib.AsyncExitStack() as stack:
            try:
                async with asyncio.timeout(STARTS_WITHIN):
                    plugin = await stack.enter_async_context(
                        goplugin.serving(self._program, self._name, cookie=COOKIE)
                    )
                    await self._configure(plugin.channel)
            except TimeoutError as error:
                raise ChildError(f"plug-in does not serve within {STARTS_WITHIN:g} s") from error
            stack.push_async_callback(_deinit, plugin)
            yield plugin

    async def _configure(self, channel: grpc.aio.Channel) -> None:
        # No services of ours: those that SPIRE offers are for metrics.
        offered = (
            await _said(init_pb2_grpc.InitStub(channel).Init(init_pb2.InitRequest()))
        ).plugin_service_names
        if SERVES not in offered:
            raise ChildError(f"plug-in is no workload attestor; it offers {list(offered)!r:.{MAX_REASON}}")
        if CONFIGURABLE in offered:
            core = config_pb2.CoreConfiguration(trust_domain=str(self._trust_domain))
            request = config_pb2.ConfigureRequest(core_configuration=core, hcl_configuration=self._data)
            await config_pb2_grpc.ConfigStub(channel).Configure(request)
        elif self._data:
            raise ChildError("plug-in has plugin_data, and nothing that would take it")


async def _deinit(plugin: goplugin.Plugin) -> None:
    if plugin.child.process.alive():
        with contextlib.suppress(grpc.RpcError):  # older ones have no such method
            await init_pb2_grpc.InitStub(plugin.channel).Deinit(
                init_pb2.DeinitRequest(), timeout=DEINIT_WITHIN
            )


async def _said(call: Awaitable[T | None]) -> T:
    answer = await call
    if answer is None:  # gRPC's word for an answer that is no such message
        raise ChildError("its answer is not what the protocol says")
    return answer


def _reason(error: Exception) -> str:
    """Say why; what it says itself is quoted and cut."""
    if isinstance(error, grpc.aio.AioRpcError):
        return f"{error.code().name}: {(error.details() or '')[:MAX_REASON]!r}"
    return str(error)

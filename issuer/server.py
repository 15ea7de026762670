# SPDX-License-Identifier: Apache-2.0
"""The issuer on its TCP port and its admin socket, each with a gRPC server of its own behind it."""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable, Sequence
from pathlib import Path
from typing import NoReturn

import grpc
from google.protobuf.descriptor import ServiceDescriptor

from issuer.api.caller import Callers, Connection, local_connection
from issuer.api.dispatch import Dispatcher, Metrics
from issuer.store import Database
from spiffekit.daemon.clock import Clock
from spiffekit.daemon.listener import Front, UnixFront, inner_socket, server_options

MAX_REQUEST = 4 * 1024 * 1024  # bytes: a batch of 500 requests for certificates, or of 1,000 entries
DRAIN = 5.0  # seconds that open calls have to finish
SOCKET_MODE = 0o770
SOCKET_FOLDER_MODE = 0o750

Implementation = tuple[ServiceDescriptor, object]
"""A service's descriptor and the object that has its methods."""


async def serve(
    fronts: Sequence[Front[Connection]],
    implementations: Sequence[Implementation],
    ready: Callable[[], None],
    *,
    callers: Callers,
    database: Database,
    clock: Clock,
    metrics: Metrics,
) -> NoReturn:
    """Serve the same services behind every front until cancelled."""
    async with contextlib.AsyncExitStack() as stack:
        for front in fronts:
            dispatcher = Dispatcher(
                callers, connection_of=front.peer_of, database=database, clock=clock, metrics=metrics
            )
            handlers = [dispatcher.handler(*pair) for pair in implementations]
            inner = await stack.enter_async_context(_grpc_server(handlers))
            await stack.enter_async_context(front.open(inner))
        ready()
        await asyncio.Event().wait()
    raise AssertionError("waits for ever")


def admin_front(path: Path) -> UnixFront[Connection]:
    """Return the front of the admin socket at `path`; its folder is made where there is none."""
    folder = path.parent
    if not folder.exists():
        folder.mkdir(mode=SOCKET_FOLDER_MODE, parents=True)
        folder.chmod(SOCKET_FOLDER_MODE)  # whatever the umask says
    return UnixFront(path, mode=SOCKET_MODE, identify=local_connection)


@contextlib.asynccontextmanager
async def _grpc_server(handlers: list[grpc.GenericRpcHandler]) -> AsyncIterator[Path]:
    """Run a gRPC server on an inner socket and yield the socket's path."""
    with inner_socket() as path:
        server = grpc.aio.server(options=server_options(MAX_REQUEST))
        server.add_generic_rpc_handlers(tuple(handlers))
        server.add_insecure_port(f"unix:{path}")
        await server.start()
        try:
            yield path
        finally:
            await server.stop(DRAIN)

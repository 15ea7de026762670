# SPDX-License-Identifier: Apache-2.0
"""A plug-in that speaks the protocol of HashiCorp's go-plugin: a child that serves gRPC at its own socket.

It prints one line that names the socket. Ours is stricter than the protocol: the socket lies in a folder that
only we may enter, and it is the child itself that listens there.
"""

import asyncio
import contextlib
import os
import re
import socket
import stat
import tempfile
from collections.abc import AsyncIterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final

import grpc
from google.protobuf import empty_pb2

from spiffekit.daemon.child import Child, ChildError, Lines, Program, running
from spiffekit.daemon.peer import PeerProcess, PeerUnknownError
from spiffekit.wire.pb.goplugin import goplugin_pb2, goplugin_pb2_grpc

MAX_MESSAGE: Final = 1024 * 1024  # bytes: an answer that fills our memory
ENDS_WITHIN: Final = 1.0  # seconds that a plug-in has to end by itself
# Version 1 of the protocol, version 1 of the application's, and no certificate.
_HANDSHAKE: Final = re.compile(rb"1\|1\|unix\|(/[\w./-]+)\|grpc\|?")


@dataclass(frozen=True, slots=True)
class Plugin:
    """A plug-in that serves."""

    child: Child
    channel: grpc.aio.Channel


@contextlib.asynccontextmanager
async def serving(program: Program, name: str, *, cookie: str) -> AsyncIterator[Plugin]:
    """Run a plug-in, and end it.

    Args:
        program: The plug-in.
        name: What it is called in the log.
        cookie: What tells it that it is started as the kind of plug-in that it is.

    Raises:
        ChildError: It does not speak the protocol, or may not be run.
        OSError: It cannot be run.
    """
    async with contextlib.AsyncExitStack() as stack:
        folder = stack.enter_context(
            tempfile.TemporaryDirectory(prefix="plugin-", ignore_cleanup_errors=True)
        )
        ours = {
            cookie: cookie,
            "PLUGIN_PROTOCOL_VERSIONS": "1",
            "PLUGIN_UNIX_SOCKET_DIR": folder,
            "TMPDIR": folder,
        }
        program = replace(program, environment={**program.environment, **ours})
        child = await stack.enter_async_context(running(program, name))
        path = await _handshake(child, Path(folder))
        options = [("grpc.max_receive_message_length", MAX_MESSAGE), ("grpc.enable_http_proxy", 0)]
        channel = await stack.enter_async_context(grpc.aio.insecure_channel(f"unix:{path}", options=options))
        for task in (
            asyncio.create_task(Lines(name).read(child.stdout), name=f"stdout-{name}"),
            asyncio.create_task(_print(channel, name), name=f"stdio-{name}"),
        ):
            stack.callback(task.cancel)
        stack.push_async_callback(_shut_down, child, channel)
        yield Plugin(child, channel)


async def _handshake(child: Child, folder: Path) -> Path:
    try:
        line = await child.stdout.readuntil(b"\n")
    except asyncio.IncompleteReadError as error:
        raise ChildError("plug-in has ended without saying where it serves") from error
    except asyncio.LimitOverrunError as error:
        raise ChildError("plug-in says too much instead of where it serves") from error
    match = _HANDSHAKE.fullmatch(line.strip())
    if match is None:
        raise ChildError(f"plug-in does not say where it serves, but {line[:80]!r}")
    path = Path(os.fsdecode(match[1]))
    if path.parent != folder:
        raise ChildError(f"plug-in serves at {str(path)!r}, which is not in the folder that it was given")
    _judge(path, child)
    return path


def _judge(path: Path, child: Child) -> None:
    info = path.lstat()  # a link could lead to somebody else's
    if not stat.S_ISSOCK(info.st_mode) or info.st_uid != os.geteuid():
        raise ChildError(f"plug-in has no socket of its own at {str(path)!r}")
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as connection:
        connection.setblocking(False)
        connection.connect(os.fspath(path))
        try:
            peer = PeerProcess.from_socket(connection)
        except PeerUnknownError as error:
            raise ChildError(f"nobody is known to listen at {str(path)!r}") from error
        peer.close()
        if peer.pid != child.process.pid:
            raise ChildError(f"another process than the plug-in, {peer.pid}, listens at {str(path)!r}")


async def _print(channel: grpc.aio.Channel, name: str) -> None:
    """Log what it prints once it serves; one that is not made in Go has no such service."""
    lines = Lines(name)
    with contextlib.suppress(grpc.RpcError):
        stub = goplugin_pb2_grpc.GRPCStdioStub(channel)
        async for piece in stub.StreamStdio(empty_pb2.Empty()):
            await lines.feed(piece.data)


async def _shut_down(child: Child, channel: grpc.aio.Channel) -> None:
    if not child.process.alive():
        return
    with contextlib.suppress(grpc.RpcError, TimeoutError):
        async with asyncio.timeout(ENDS_WITHIN):
            await goplugin_pb2_grpc.GRPCControllerStub(channel).Shutdown(goplugin_pb2.Empty())
            await child.ended()

# SPDX-License-Identifier: Apache-2.0
"""The listener in front of gRPC: it learns who is calling, and splices the bytes to gRPC's own socket.

gRPC cannot tell which process is at the other end of a Unix socket, nor ask for a client certificate
without demanding one. So we accept, learn the peer, and connect to gRPC's inner socket from a random
abstract name. The servicer sees that name as `context.peer()` and looks the peer up by `peer_of`. The
splice is one to one and never reads HTTP/2 beyond frame headers, so callers cannot be mixed up.

* The peer is recorded before the inner connection is made and removed before it is closed: a name in
  the table belongs to one living connection.
* The inner socket lies in a folder that only we may enter; a caller without a record is refused.
* Connections that say nothing, floods, and more than a fair share of connections are closed.
"""

import asyncio
import contextlib
import logging
import os
import resource
import secrets
import socket
import ssl
import tempfile
from collections import Counter
from collections.abc import AsyncIterator, Callable, Hashable
from dataclasses import dataclass, replace
from datetime import timedelta
from pathlib import Path
from typing import Any, Final, Generic, Protocol, TypeVar

from spiffekit.daemon.frames import Allowance, Allowances, FloodError, FrameGuard
from spiffekit.daemon.peer import PeerProcess, PeerUnknownError
from spiffekit.daemon.splice import CHUNK, InnerEnd, OuterEnd
from spiffekit.wire.tls import peer_chain

logger = logging.getLogger(__name__)

P = TypeVar("P")

FD_PER_CONNECTION: Final = 4  # outer, inner client, inner server, pidfd
FD_RESERVE: Final = 256
ACCEPT_PAUSE: Final = 0.1  # seconds to wait when a connection cannot be accepted
GROUP_FACTOR: Final = 4.0  # what all processes of a user may do together, compared with one of them
# What a peer may send ahead of what was read, in bytes. gRPC would measure how much a connection carries, by
# pings that come with every call, and start with four times as much.
FIXED_WINDOW: Final = (("grpc.http2.bdp_probe", 0), ("grpc.http2.lookahead_bytes", 1024 * 1024))
WARNING_BURST: Final = 10.0  # lines, and lines a second, that hostile clients can make us log
WARNING_RATE: Final = 0.2


def server_options(max_message: int) -> list[tuple[str, int]]:
    """Return the options of an inner gRPC server; `max_message` bounds a request, in bytes."""
    return [
        ("grpc.max_receive_message_length", max_message),
        ("grpc.max_send_message_length", 64 * 1024 * 1024),
        ("grpc.max_concurrent_streams", 100),
        ("grpc.max_metadata_size", 16 * 1024),
        ("grpc.absolute_max_metadata_size", 32 * 1024),
        # Clients of the field ping more often than gRPC likes; floods are the frame guard's business.
        ("grpc.http2.min_ping_interval_without_data_ms", 1000),
        ("grpc.keepalive_permit_without_calls", 1),
        ("grpc.so_reuseport", 0),
        *FIXED_WINDOW,
    ]


class UnknownPeerError(Exception):
    """A call came over a connection that we did not make, or that is already gone."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """What one listener allows. A source is a uid, or an address.

    Connections and calls of one process or address beyond `calls_at_once` wait for `calls_per_second`: what
    one asks for must not keep others waiting. It stops resets and hang-ups over ever new connections.
    """

    max_connections: int = 4096
    max_connections_per_source: int = 1536
    first_byte_within: timedelta = timedelta(seconds=3)
    handshake_within: timedelta = timedelta(seconds=5)
    calls_at_once: float = 200
    calls_per_second: float = 500


MANY_NODES: Final = Limits(calls_at_once=2000, calls_per_second=2000)  # many nodes may share an address


@dataclass(frozen=True, slots=True)
class TlsPeer:
    """Who is at the other end of a TLS connection: the verified chain (DER, leaf first) if it showed one."""

    chain_der: tuple[bytes, ...]
    address: str


class Context(Protocol):
    """What we use of a gRPC servicer context."""

    def peer(self) -> str:
        """Return the address of the inner connection."""


class Front(Generic[P]):
    """What both kinds of listener share: the table of peers, the limits, and the splice."""

    def __init__(self, limits: Limits) -> None:
        self._limits = limits
        self._peers: dict[str, P] = {}
        self._sources: Counter[Hashable] = Counter()
        self._tasks: set[asyncio.Task[None]] = set()
        self._inner = ""
        self._warnings = Allowance(WARNING_BURST, WARNING_RATE)
        self._buffer = memoryview(bytearray(CHUNK))
        burst, rate = limits.calls_at_once, limits.calls_per_second
        self._calls = Allowances(burst, rate)
        self._calls_together = Allowances(burst * GROUP_FACTOR, rate * GROUP_FACTOR)

    def peer_of(self, context: Context) -> P:
        """Return who calls.

        Raises:
            UnknownPeerError: The call came round this listener, or its connection is gone.
        """
        try:
            return self._peers[context.peer()]
        except KeyError as error:
            raise UnknownPeerError("caller cannot be identified") from error

    @property
    def connections(self) -> int:
        """How many connections are open."""
        return self._sources.total()

    @contextlib.asynccontextmanager
    async def open(self, inner: Path) -> AsyncIterator[None]:
        """Listen, and splice to the gRPC server that listens at `inner`, until the context is left."""
        self._inner = str(inner)
        listening = self._listen()
        accepting = asyncio.create_task(self._accept(listening), name="accept")
        try:
            yield
        finally:
            accepting.cancel()
            listening.close()
            for task in self._tasks:
                task.cancel()
            await asyncio.gather(accepting, *self._tasks, return_exceptions=True)

    def _listen(self) -> socket.socket:
        raise NotImplementedError

    async def _serve(self, connection: socket.socket, _address: Any) -> None:
        raise NotImplementedError

    async def _accept(self, listening: socket.socket) -> None:
        loop = asyncio.get_running_loop()
        while True:
            try:
                connection, address = await loop.sock_accept(listening)
            except OSError as error:
                # No descriptors are left, or that one connection failed: others will come.
                self._warn("connection not accepted", reason=error.strerror, connections=self.connections)
                await asyncio.sleep(ACCEPT_PAUSE)
                continue
            connection.setblocking(False)
            task = loop.create_task(self._guarded(connection, address))
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)
            await asyncio.sleep(0)  # `sock_accept` alone does not let others run while connections wait

    async def _guarded(self, connection: socket.socket, address: Any) -> None:
        try:
            await self._serve(connection, address)
        except (OSError, ssl.SSLError, TimeoutError, PeerUnknownError, FloodError) as error:
            logger.debug("connection refused", extra={"reason": str(error) or type(error).__name__})
        finally:
            connection.close()

    @contextlib.contextmanager
    def _counted(self, source: Hashable) -> Any:
        limits = self._limits
        if self.connections >= limits.max_connections or (
            self._sources[source] >= limits.max_connections_per_source
        ):
            self._warn("too many connections", source=str(source))
            raise PeerUnknownError("too many connections")
        self._sources[source] += 1
        try:
            yield
        finally:
            self._sources[source] -= 1
            if not self._sources[source]:
                del self._sources[source]

    async def _outer_end(self, source: Hashable, group: Hashable) -> OuterEnd:
        guard = FrameGuard(calls=(self._calls.of(source), self._calls_together.of(group)))
        while wait := guard.wait():  # noqa: ASYNC110 - time pays the debt, and others make new ones meanwhile
            await asyncio.sleep(wait)
        guard.charge()
        return OuterEnd(
            guard,
            self._buffer,
            lambda reason: self._warn("connection closed", source=str(source), reason=reason),
        )

    def _warn(self, event: str, **fields: object) -> None:
        """Tell the operator, but let nobody fill the log."""
        if self._warnings.wait():
            logger.debug(event, extra=fields)
        else:
            self._warnings.spend(1)
            logger.warning(event, extra=fields)

    async def _splice(self, outer: OuterEnd, peer: P) -> None:
        """Pass bytes both ways until one end closes; `outer` is made and paused."""
        inner_socket = socket.socket(socket.AF_UNIX)
        inner_socket.setblocking(False)
        name = f"sa-{secrets.token_hex(16)}"
        key = f"unix-abstract:{name}"
        self._peers[key] = peer
        inner: InnerEnd | None = None
        try:
            inner_socket.bind(f"\0{name}")
            inner_socket.connect(self._inner)  # completes or fails at once on a Unix socket
            loop = asyncio.get_running_loop()
            _, inner = await loop.create_unix_connection(InnerEnd, sock=inner_socket)
            silent = loop.call_later(self._limits.first_byte_within.total_seconds(), outer.close_if_silent)
            try:
                outer.join(inner)
                await outer.closed.wait()
            finally:
                silent.cancel()
        finally:
            del self._peers[key]
            if inner is not None:
                inner.abort()
            inner_socket.close()


class UnixFront(Front[P]):
    """Listens on a Unix socket; a peer is what `identify` makes of the process that connected.

    Args:
        path: Where to listen; what is there is replaced if it is a socket that nobody listens on.
        mode: The permissions of the socket, e.g. 0o777.
        identify: Makes a peer of a process, which is closed after its connection.
        limits: See `Limits`.
    """

    def __init__(
        self, path: Path, *, mode: int, identify: Callable[[PeerProcess], P], limits: Limits | None = None
    ) -> None:
        super().__init__(_bounded_by_descriptors(limits or Limits()))
        self._path = path
        self._mode = mode
        self._identify = identify

    def _listen(self) -> socket.socket:
        listening = socket.socket(socket.AF_UNIX)
        try:
            _remove_stale(self._path)
            # Bound under another name and renamed: nobody can connect before the mode is right.
            fresh = self._path.with_name(f".{secrets.token_hex(4)}")
            listening.bind(str(fresh))
            fresh.chmod(self._mode)
            listening.listen(1024)
            listening.setblocking(False)
            fresh.rename(self._path)
        except BaseException:
            listening.close()
            raise
        return listening

    @contextlib.asynccontextmanager
    async def open(self, inner: Path) -> AsyncIterator[None]:
        """See `Front.open`; the socket's file goes with it."""
        async with super().open(inner):
            mine = self._path.stat().st_ino
            try:
                yield
            finally:
                with contextlib.suppress(FileNotFoundError):
                    if self._path.stat().st_ino == mine:
                        self._path.unlink()

    async def _serve(self, connection: socket.socket, _address: Any) -> None:
        process = PeerProcess.from_socket(connection)
        try:
            with self._counted(process.uid):
                peer = self._identify(process)
                outer = await self._outer_end((process.uid, process.pid), process.uid)
                await asyncio.get_running_loop().connect_accepted_socket(lambda: outer, connection)
                try:
                    await self._splice(outer, peer)
                finally:
                    outer.abort()
        finally:
            process.close()


class TlsFront(Front[P]):
    """Listens on TCP with TLS; a peer is what `identify` makes of the certificate that was shown, or of none.

    Args:
        host: The address to bind.
        port: The port; 0 for any, see `port`.
        context: Returns the context of the next connection, so that keys and roots rotate.
        identify: Makes a peer, or raises `PeerUnknownError` to refuse it.
        limits: See `Limits`.
    """

    def __init__(
        self,
        host: str,
        port: int,
        *,
        context: Callable[[], ssl.SSLContext],
        identify: Callable[[TlsPeer], P],
        limits: Limits | None = None,
    ) -> None:
        super().__init__(_bounded_by_descriptors(limits or MANY_NODES))
        self._host = host
        self.port = port
        self._context = context
        self._identify = identify

    def _listen(self) -> socket.socket:
        family = socket.AF_INET6 if ":" in self._host else socket.AF_INET
        listening = socket.create_server((self._host, self.port), family=family, backlog=1024)
        listening.setblocking(False)
        self.port = listening.getsockname()[1]
        return listening

    async def _serve(self, connection: socket.socket, _address: Any) -> None:
        source = _address[0]
        with self._counted(source):
            connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            loop = asyncio.get_running_loop()
            within = self._limits.handshake_within.total_seconds()
            outer = await self._outer_end(source, source)
            transport, _ = await loop.connect_accepted_socket(
                lambda: outer,
                connection,
                ssl=self._context(),
                ssl_handshake_timeout=within,
                ssl_shutdown_timeout=1,
            )
            try:
                chain = peer_chain(transport.get_extra_info("ssl_object"))
                await self._splice(outer, self._identify(TlsPeer(chain, source)))
            finally:
                outer.abort()


def _bounded_by_descriptors(limits: Limits) -> Limits:
    """Raise our own descriptor limit as far as it goes, and allow no more connections than that carries."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = limits.max_connections * FD_PER_CONNECTION + FD_RESERVE
    if soft < wanted:
        soft = min(wanted, hard) if hard != resource.RLIM_INFINITY else wanted
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    carried = max((soft - FD_RESERVE) // FD_PER_CONNECTION, 1)
    most = min(limits.max_connections, carried)
    share = min(limits.max_connections_per_source, max(most // 2, 1))
    return replace(limits, max_connections=most, max_connections_per_source=share)


def _remove_stale(path: Path) -> None:
    if not path.is_socket():
        if path.exists():
            raise FileExistsError(f"{path} exists and is not a socket")
        return
    with socket.socket(socket.AF_UNIX) as probe:
        try:
            probe.connect(str(path))
        except (ConnectionRefusedError, FileNotFoundError):
            path.unlink(missing_ok=True)
            return
    raise FileExistsError(f"somebody already listens at {path}")


@contextlib.contextmanager
def inner_socket() -> Any:
    """Yield a path for an inner gRPC socket in a folder that nobody else may enter."""
    with tempfile.TemporaryDirectory(prefix="inner-") as folder:
        os.chmod(folder, 0o700)  # noqa: PTH101 - already the default; said again because all rests on it
        yield Path(folder) / "grpc.sock"

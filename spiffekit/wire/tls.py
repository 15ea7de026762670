# SPDX-License-Identifier: Apache-2.0
"""TLS with X.509-SVIDs: contexts whose keys never touch a disk, and a client that knows its server by ID.

`ssl` decides whether a chain is sound; *who* it belongs to is decided by `spiffekit.x509svid.verify`,
against the bundle of the peer's own trust domain, before a byte of the application flows.
"""

import asyncio
import contextlib
import os
import socket
import ssl
import struct
import tempfile
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Iterator, Sequence
from datetime import timedelta
from pathlib import Path
from typing import Any, Final

from spiffekit.certificates import pem_certificate
from spiffekit.x509svid import X509Svid

_GRPC: Final = ("h2",)
CONNECT_WITHIN: Final = timedelta(seconds=10)
_PARTIAL_CHAIN: Final = 0x80000  # X509_V_FLAG_PARTIAL_CHAIN: a root of ours may be an intermediate of others


@contextlib.contextmanager
def memory_file(content: bytes) -> Iterator[str]:
    """Yield a path below /proc from which `content` can be read: `ssl` loads keys from paths only."""
    descriptor = os.memfd_create("pem", os.MFD_CLOEXEC)
    try:
        with open(descriptor, "wb", closefd=False) as file:
            file.write(content)
        yield f"/proc/self/fd/{descriptor}"
    finally:
        os.close(descriptor)


def load_identity(context: ssl.SSLContext, svid: X509Svid) -> None:
    """Present `svid` in the handshakes that follow."""
    with memory_file(svid.chain_pem() + svid.key_pem()) as path:
        context.load_cert_chain(path)


def _hardened(context: ssl.SSLContext, roots_der: Iterable[bytes], alpn: Sequence[str]) -> ssl.SSLContext:
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    # No resumption: a session must not outlive the certificate that opened it.
    context.options |= ssl.OP_NO_TICKET | ssl.OP_NO_RENEGOTIATION | ssl.OP_NO_COMPRESSION
    context.verify_flags |= ssl.VerifyFlags(_PARTIAL_CHAIN)
    context.set_alpn_protocols(list(alpn))
    roots = "".join(pem_certificate(der).decode() for der in roots_der)
    if roots:
        context.load_verify_locations(cadata=roots)
    return context


def server_context(
    svid: X509Svid, roots_der: Iterable[bytes], *, alpn: Sequence[str] = _GRPC
) -> ssl.SSLContext:
    """Return a context for a server that asks for a client certificate and does not demand one."""
    context = _hardened(ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER), roots_der, alpn)
    context.num_tickets = 0
    context.verify_mode = ssl.CERT_OPTIONAL
    load_identity(context, svid)
    return context


def client_context(
    svid: X509Svid | None, roots_der: Iterable[bytes], *, alpn: Sequence[str] = _GRPC
) -> ssl.SSLContext:
    """Return a context for a client; names are not checked here, SPIFFE IDs are by the caller."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    _hardened(context, roots_der, alpn)
    if svid is not None:
        load_identity(context, svid)
    return context


def unverified_client_context() -> ssl.SSLContext:
    """Return a context that accepts any chain: the caller **must** decide by itself whom it reached."""
    context = client_context(None, ())
    context.verify_mode = ssl.CERT_NONE
    return context


def peer_chain(tls: ssl.SSLObject) -> tuple[bytes, ...]:
    """Return the chain that the peer showed, DER, leaf first; empty if it showed none.

    Raises:
        ssl.SSLError: The session was resumed, so that nothing was shown now. OP_NO_TICKET does not keep
            a client of TLS 1.2 from that: OpenSSL remembers sessions by their number as well.
    """
    if tls.session_reused:
        raise ssl.SSLError("the session was resumed, and may outlive the certificate that opened it")
    leaf = tls.getpeercert(binary_form=True)
    if leaf is None:
        return ()
    if hasattr(tls, "get_unverified_chain"):  # pragma: no cover - Python 3.13
        shown: Any = tls.get_unverified_chain()
        return tuple(shown)
    shown = getattr(tls, "_sslobj").get_unverified_chain()  # noqa: B009 - before 3.13 there is no public way
    return tuple(ssl.PEM_cert_to_DER_cert(certificate.public_bytes()) for certificate in shown)


Connect = Callable[[], Awaitable[tuple[asyncio.StreamReader, asyncio.StreamWriter]]]


class Tunnel:
    """Lets a gRPC channel use connections that we dial and verify ourselves.

    gRPC's own TLS knows DNS names only. The channel connects to a private Unix socket, and each such
    connection is spliced to a fresh one from `connect`, which raises to refuse.

    Args:
        connect: Dials and verifies; its error is kept in `last_error`.
    """

    def __init__(self, connect: Connect) -> None:
        self._connect = connect
        self._tasks: set[asyncio.Task[None]] = set()
        self.last_error: Exception | None = None

    def drop(self) -> None:
        """Close the connections that are open: the next call makes one with what `connect` uses then."""
        for task in self._tasks:
            task.cancel()

    @contextlib.asynccontextmanager
    async def open(self) -> AsyncIterator[str]:
        """Yield the target for `grpc.aio.insecure_channel`."""
        with tempfile.TemporaryDirectory(prefix="tunnel-") as folder:
            path = Path(folder) / "grpc.sock"
            server = await asyncio.start_unix_server(self._begin, path)
            path.chmod(0o600)
            try:
                yield f"unix:{path}"
            finally:
                server.close()
                await asyncio.sleep(0)  # what was accepted already begins
                for task in self._tasks:
                    task.cancel()
                await asyncio.gather(*self._tasks, return_exceptions=True)

    def _begin(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.get_running_loop().create_task(self._serve(reader, writer))
        self._tasks.add(task)

        def end(done: asyncio.Task[None]) -> None:
            self._tasks.discard(done)
            if not writer.is_closing():  # also when it was cancelled before it began
                writer.transport.abort()

        task.add_done_callback(end)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        far_writer: asyncio.StreamWriter | None = None
        try:
            _require_own_process(writer.get_extra_info("socket"))
            far_reader, far_writer = await self._connect()
            self.last_error = None
            ends = [
                asyncio.create_task(_pump(reader, far_writer)),
                asyncio.create_task(_pump(far_reader, writer)),
            ]
            try:
                await asyncio.wait(ends, return_when=asyncio.FIRST_COMPLETED)
            finally:
                for end in ends:
                    end.cancel()
                await asyncio.gather(*ends, return_exceptions=True)
            writer.close()  # which still delivers what has been received
        except Exception as error:  # noqa: BLE001 - whatever `connect` raises is the verdict on this connection
            self.last_error = error
        finally:
            if far_writer is not None:
                far_writer.transport.abort()


def _require_own_process(connection: socket.socket) -> None:
    raw = connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, struct.calcsize("iII"))
    if struct.unpack("iII", raw)[0] != os.getpid():
        raise PermissionError("another process tried to use the tunnel")


async def _pump(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    while data := await reader.read(64 * 1024):
        writer.write(data)
        await writer.drain()

# SPDX-License-Identifier: Apache-2.0
"""A small HTTP/1.1 client: one request a connection, TLS verified, nothing unbounded.

h11 does the protocol. Deadlines are the caller's; cancelling drops the connection.
"""

import asyncio
import contextlib
import socket
import ssl
import struct
from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar, Final

import h11

MAX_HEADERS: Final = 64 * 1024  # bytes of an answer's head; a hostile peer sends one without end
_CHUNK: Final = 64 * 1024  # bytes read at once


class HttpError(Exception):
    """The peer cannot be asked, or its answer is not HTTP, too large, or cut off."""


@dataclass(frozen=True, slots=True)
class Peer:
    """Who is asked. Without `tls` the connection is plain: for loopback and clouds' metadata servers."""

    host: str
    port: int
    tls: ssl.SSLContext | None = None
    server_name: str = ""  # whom the certificate has to name, if not `host`

    @property
    def name(self) -> str:
        """What the request calls the peer."""
        return self.server_name or self.host

    def __str__(self) -> str:
        return f"{self.host}:{self.port}"

    async def connect(self) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        """Connect, and verify the certificate."""
        name = self.name if self.tls is not None else None
        return await asyncio.open_connection(self.host, self.port, ssl=self.tls, server_hostname=name)


@dataclass(frozen=True, slots=True)
class UnixPeer:
    """Who is asked at a Unix socket."""

    path: Path
    owner: int | None = None  # the user that must have opened it; None: whoever may write there
    name: ClassVar[str] = "localhost"

    def __str__(self) -> str:
        return str(self.path)

    async def connect(self) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        """Connect, and check the owner.

        Raises:
            HttpError: Another user listens.
        """
        reader, writer = await asyncio.open_unix_connection(self.path)
        # A path in a user's folder may lead to another socket: this is who really listens.
        connection: socket.socket = writer.get_extra_info("socket")
        credentials = connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, struct.calcsize("iII"))
        _, uid, _ = struct.unpack("iII", credentials)
        if self.owner not in {None, uid}:
            writer.transport.abort()
            raise HttpError(f"{self.path} belongs to user {uid}, not {self.owner}")
        return reader, writer


class Answer:
    """An answer whose body is still to be read."""

    def __init__(self, head: h11.Response, reader: asyncio.StreamReader, protocol: h11.Connection) -> None:
        self.status = head.status_code
        self._headers = head.headers
        self._reader = reader
        self._protocol = protocol

    def header(self, name: str) -> str:
        """Return the value of the header `name`, which is in lower case; "" unless it stands there once."""
        values = [value for key, value in self._headers if key == name.encode("ascii")]
        return values[0].decode("latin-1") if len(values) == 1 else ""

    async def pieces(self) -> AsyncIterator[bytes]:
        """Yield the body as it comes.

        Raises:
            HttpError: It was cut off, or is not HTTP.
        """
        while True:
            match await _event(self._reader, self._protocol):
                case h11.Data(data=data):
                    yield bytes(data)
                case _:  # its end
                    return

    async def body(self, limit: int) -> bytes:
        """Return the whole body.

        Raises:
            HttpError: It is longer than `limit` bytes, was cut off, or is not HTTP.
        """
        found = bytearray()
        async for piece in self.pieces():
            found += piece
            if len(found) > limit:
                raise HttpError(f"answer is longer than {limit} bytes")
        return bytes(found)


@contextlib.asynccontextmanager
async def request(
    peer: Peer | UnixPeer,
    method: str,
    target: str,
    *,
    headers: Mapping[str, str] | None = None,
    body: bytes = b"",
) -> AsyncIterator[Answer]:
    """Send a request and yield the answer.

    Raises:
        HttpError: The peer cannot be reached, its certificate is not trusted, or it does not speak HTTP.
    """
    protocol = h11.Connection(h11.CLIENT, max_incomplete_event_size=MAX_HEADERS)
    head = {"host": peer.name, "connection": "close", **(headers or {})}
    if body:
        head["content-length"] = str(len(body))
    try:
        opening = h11.Request(method=method, target=target, headers=list(head.items()))
        sent = (opening, h11.Data(body), h11.EndOfMessage()) if body else (opening, h11.EndOfMessage())
        wire = b"".join(protocol.send(event) or b"" for event in sent)
        reader, writer = await peer.connect()
    except (OSError, h11.LocalProtocolError) as error:
        raise HttpError(f"{peer} cannot be asked: {error}") from error
    try:
        writer.write(wire)
        while isinstance(event := await _event(reader, protocol), h11.InformationalResponse):
            pass
        assert isinstance(event, h11.Response)  # noqa: S101 - h11 refuses what begins in another way
        yield Answer(event, reader, protocol)
    finally:
        writer.transport.abort()  # what is left of the answer is of no interest


async def _event(reader: asyncio.StreamReader, protocol: h11.Connection) -> h11.Event:
    try:
        while (event := protocol.next_event()) is h11.NEED_DATA:
            protocol.receive_data(await reader.read(_CHUNK))
    except OSError as error:
        raise HttpError(f"connection broke: {error}") from error
    except h11.RemoteProtocolError as error:
        raise HttpError(f"answer is not HTTP: {error}") from error
    assert isinstance(event, h11.Event)  # noqa: S101 - not paused: nobody asks on after the end of an answer
    return event

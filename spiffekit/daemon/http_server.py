# SPDX-License-Identifier: Apache-2.0
"""A small HTTP/1.1 server of whole documents: one request a connection, plain or over TLS.

`http_calls` is for those who ask again and again, and by certificate.
"""

import asyncio
import re
import ssl
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from http import HTTPStatus
from typing import Final, NoReturn

from spiffekit.daemon.lifecycle import Service

REQUEST_WITHIN: Final = 3.0  # seconds, and as many for a handshake; a silent client must not hold a socket
MAX_REQUEST: Final = 8192  # bytes of request line and headers
MAX_CONNECTIONS: Final = 200  # at once; more are closed unanswered
_TEXT: Final = "text/plain; charset=utf-8"


@dataclass(frozen=True, slots=True)
class Reply:
    """A whole answer."""

    body: bytes
    content_type: str = _TEXT
    status: HTTPStatus = HTTPStatus.OK

    def encoded(self) -> bytes:
        """Return the bytes to send."""
        head = (
            f"HTTP/1.1 {self.status.value} {self.status.phrase}\r\nContent-Type: {self.content_type}\r\n"
            f"Content-Length: {len(self.body)}\r\nConnection: close\r\n\r\n"
        )
        return head.encode() + self.body


NOT_FOUND: Final = Reply(b"not found\n", status=HTTPStatus.NOT_FOUND)
_WRONG_METHOD: Final = Reply(b"method not allowed\n", status=HTTPStatus.METHOD_NOT_ALLOWED)
_NO_LENGTH: Final = Reply(b"one Content-Length is needed\n", status=HTTPStatus.LENGTH_REQUIRED)
_TOO_LONG: Final = Reply(b"too long\n", status=HTTPStatus.REQUEST_ENTITY_TOO_LARGE)
_LENGTH: Final = re.compile(rb"[0-9]{1,9}")
Respond = Callable[[str], Reply]  # of a request's target, exactly as it was sent
Converse = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]  # over one connection


@dataclass(frozen=True, slots=True)
class Take:
    """What takes the bodies of POST requests, given the target and the whole body."""

    take: Callable[[str, bytes], Awaitable[Reply]]
    max_body: int  # bytes


def serve(
    address: str,
    port: int,
    respond: Respond,
    *,
    context: Callable[[], ssl.SSLContext] | None = None,
    post: Take | None = None,
) -> Service:
    """Return the service that answers on `address`:`port`.

    Args:
        address: The IP address to bind.
        port: The port there.
        respond: Makes the answer to a GET request.
        context: Returns the TLS context of the next connection, so that its certificate rotates.
        post: Makes the answer to a POST request; none are taken without it.
    """

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        async with asyncio.timeout(REQUEST_WITHIN):
            head = await reader.readuntil(b"\r\n\r\n")
            writer.write((await _reply(head, reader, respond, post)).encoded())
            await writer.drain()

    return listen(address, port, answer, context=context)


def listen(
    address: str, port: int, answer: Converse, *, context: Callable[[], ssl.SSLContext] | None = None
) -> Service:
    """Return the service that accepts as many connections as there may be; each ends with `answer`."""
    conversations: dict[asyncio.Task[None] | None, asyncio.StreamWriter] = {}

    async def converse(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        here = asyncio.current_task()
        conversations[here] = writer
        try:
            if len(conversations) <= MAX_CONNECTIONS:
                await answer(reader, writer)
        except (TimeoutError, asyncio.IncompleteReadError, asyncio.LimitOverrunError, OSError):
            pass  # whoever asks badly gets nothing
        finally:
            del conversations[here]
            writer.close()

    async def service(ready: Callable[[], None]) -> NoReturn:
        secure = None if context is None else _rotating(context)
        server = await asyncio.start_server(
            converse,
            address,
            port,
            limit=MAX_REQUEST,
            ssl=secure,
            ssl_handshake_timeout=None if secure is None else REQUEST_WITHIN,
        )
        async with server:  # whose end waits, since Python 3.12, for that of every connection
            try:
                ready()
                await asyncio.Event().wait()
            finally:
                server.close()
                for writer in conversations.values():
                    writer.transport.abort()
                await asyncio.gather(*filter(None, conversations), return_exceptions=True)
        raise AssertionError("waits for ever")

    return service


def _rotating(context: Callable[[], ssl.SSLContext]) -> ssl.SSLContext:
    """Return a context that gives way to the one of the moment in every handshake."""

    def take(connection: ssl.SSLObject, _name: str | None, _context: ssl.SSLContext) -> None:
        connection.context = context()

    first = context()
    first.sni_callback = take
    return first


async def _reply(head: bytes, reader: asyncio.StreamReader, respond: Respond, post: Take | None) -> Reply:
    line, *fields = head.split(b"\r\n")
    parts = line.split(b" ")
    if len(parts) != 3 or parts[0] not in ((b"GET",) if post is None else (b"GET", b"POST")):
        return _WRONG_METHOD
    try:
        target = parts[1].decode("ascii")
    except UnicodeDecodeError:
        return NOT_FOUND
    if post is None or parts[0] == b"GET":
        return respond(target)
    named = [(name.lower(), value.strip()) for name, _, value in (field.partition(b":") for field in fields)]
    lengths = [value for name, value in named if name == b"content-length"]
    if len(lengths) != 1 or not _LENGTH.fullmatch(lengths[0]) or b"transfer-encoding" in dict(named):
        return _NO_LENGTH
    if int(lengths[0]) > post.max_body:
        return _TOO_LONG
    return await post.take(target, await reader.readexactly(int(lengths[0])))

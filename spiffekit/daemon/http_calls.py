# SPDX-License-Identifier: Apache-2.0
"""An HTTP/1.1 server of calls, over mutual TLS: many requests on a connection, each small and whole.

h11 does the protocol. Who calls is the certificate that was shown; whether they may is for whoever answers.
"""

import asyncio
import ssl
from collections import Counter
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from http import HTTPStatus
from typing import Final

import h11

from spiffekit.daemon import http_server
from spiffekit.daemon.http_server import Reply
from spiffekit.daemon.lifecycle import Service
from spiffekit.daemon.listener import TlsPeer
from spiffekit.wire.tls import peer_chain

IDLE: Final = 60.0  # seconds that a connection may be silent between two requests
REQUEST_WITHIN: Final = 3.0  # seconds from the first byte of a request to the last one, and for its answer
MAX_HEAD: Final = 16 * 1024  # bytes of request line and headers
MAX_PER_ADDRESS: Final = 100  # connections, so that nobody takes all of them
_CHUNK: Final = 16 * 1024  # bytes read at once


@dataclass(frozen=True, slots=True)
class Request:
    """One request, whole."""

    method: str
    target: str  # exactly as it was sent
    headers: tuple[tuple[bytes, bytes], ...]  # names in lower case
    body: bytes
    peer: TlsPeer

    def header(self, name: str) -> str | None:
        """Return the value of a header, named in lower case; "" without it, None if it is there twice."""
        values = [value for key, value in self.headers if key == name.encode("ascii")]
        if len(values) > 1:
            return None
        return values[0].decode("latin-1") if values else ""


@dataclass(frozen=True, slots=True)
class Response:
    """What is answered."""

    reply: Reply
    headers: Mapping[str, str]
    close: bool = False  # this one is the last of its connection


Answer = Callable[[Request], Awaitable[Response]]


class _RefusedError(Exception):
    """A request that cannot be read to its end."""

    def __init__(self, status: HTTPStatus) -> None:
        super().__init__(status.phrase)
        self.status = status


def serve(
    address: str, port: int, answer: Answer, *, context: Callable[[], ssl.SSLContext], max_body: int
) -> Service:
    """Return the service that answers on `address`:`port`.

    Args:
        address: The IP address to bind.
        port: The port there.
        answer: Makes the answer to a request.
        context: Returns the TLS context of the next connection, so that certificate and roots rotate. Whether
            a certificate is asked for, and the version of TLS, are those of the first one.
        max_body: Bytes of a body; of a longer one nothing is read.
    """
    sources: Counter[str] = Counter()

    async def converse(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        source = writer.get_extra_info("peername")[0]
        if sources[source] >= MAX_PER_ADDRESS:
            return
        sources[source] += 1
        try:
            peer = TlsPeer(peer_chain(writer.get_extra_info("ssl_object")), source)
            await _Conversation(reader, writer, peer, max_body).run(answer)
        finally:
            sources[source] -= 1
            if not sources[source]:
                del sources[source]

    return http_server.listen(address, port, converse, context=context)


class _Conversation:
    """The requests of one connection, one after another."""

    def __init__(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, peer: TlsPeer, max_body: int
    ) -> None:
        self._reader = reader
        self._writer = writer
        self._peer = peer
        self._max_body = max_body
        self._protocol = h11.Connection(h11.SERVER, max_incomplete_event_size=MAX_HEAD)

    async def run(self, answer: Answer) -> None:
        """Answer until either side has had enough."""
        silent = REQUEST_WITHIN  # a stranger may be silent for less long
        try:
            while (request := await self._request(silent)) is not None:
                response = await answer(request)
                await self._send(response)
                if self._protocol.states != {h11.CLIENT: h11.DONE, h11.SERVER: h11.DONE}:
                    return
                self._protocol.start_next_cycle()
                silent = IDLE
        except _RefusedError as error:
            reply = Reply(f"{error.status.phrase.lower()}\n".encode(), status=error.status)
            await self._send(Response(reply, {}, close=True))

    async def _request(self, silent: float) -> Request | None:
        """Return the next request, or None where there is no other one."""
        if self._protocol.trailing_data == (b"", False):
            async with asyncio.timeout(silent):
                self._protocol.receive_data(await self._reader.read(_CHUNK))
        async with asyncio.timeout(REQUEST_WITHIN):
            head = await self._event()
            if not isinstance(head, h11.Request):
                return None
            body = bytearray()
            while isinstance(event := await self._event(), h11.Data):
                body += event.data
                if len(body) > self._max_body:
                    raise _RefusedError(HTTPStatus.REQUEST_ENTITY_TOO_LARGE)
        method, target = (bytes(part).decode("ascii") for part in (head.method, head.target))
        return Request(method, target, tuple(head.headers), bytes(body), self._peer)

    async def _event(self) -> h11.Event:
        try:
            while (event := self._protocol.next_event()) is h11.NEED_DATA:
                self._protocol.receive_data(await self._reader.read(_CHUNK))
        except h11.RemoteProtocolError as error:
            raise _RefusedError(HTTPStatus(error.error_status_hint)) from error
        assert isinstance(event, h11.Event)  # noqa: S101 - not paused: one request is answered before the next
        return event

    async def _send(self, response: Response) -> None:
        reply = response.reply
        headers = {
            "content-type": reply.content_type,
            "content-length": str(len(reply.body)),
            **response.headers,
            **({"connection": "close"} if response.close else {}),
        }
        events = (
            h11.Response(status_code=reply.status, reason=reply.status.phrase, headers=list(headers.items())),
            h11.Data(reply.body),
            h11.EndOfMessage(),
        )
        self._writer.write(b"".join(self._protocol.send(event) or b"" for event in events))
        async with asyncio.timeout(REQUEST_WITHIN):
            await self._writer.drain()

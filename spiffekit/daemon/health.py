# SPDX-License-Identifier: Apache-2.0
"""Health and metrics over plain HTTP on loopback: ``/live``, ``/ready``, ``/metrics``."""

import asyncio
from collections.abc import Callable
from typing import Final, NoReturn

from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.exposition import CONTENT_TYPE_LATEST

from spiffekit.daemon.lifecycle import Service

REQUEST_WITHIN: Final = 3.0  # seconds; a silent client must not hold a socket
MAX_REQUEST: Final = 8192  # bytes of request line and headers


class Health:
    """What the daemon says of itself: alive from the start, ready when it serves."""

    def __init__(self) -> None:
        self._ready = False
        self._changed = asyncio.Event()  # set, and replaced, whenever it changes

    @property
    def ready(self) -> bool:
        """Whether it serves now."""
        return self._ready

    @ready.setter
    def ready(self, ready: bool) -> None:
        self._ready = ready
        self._changed.set()
        self._changed = asyncio.Event()

    async def wait_unless(self, ready: bool) -> None:
        """Return when `ready` is not the state; at once if it is not now."""
        while self._ready is ready:
            await self._changed.wait()


def serve(address: str, port: int, health: Health, registry: CollectorRegistry) -> Service:
    """Return the service that answers on `address`:`port`."""

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            async with asyncio.timeout(REQUEST_WITHIN):
                head = await reader.readuntil(b"\r\n\r\n")
                writer.write(_response(head, health, registry))
                await writer.drain()
        except (TimeoutError, asyncio.IncompleteReadError, asyncio.LimitOverrunError, ConnectionError):
            pass  # whoever asks badly gets nothing
        finally:
            writer.close()

    async def service(ready: Callable[[], None]) -> NoReturn:
        server = await asyncio.start_server(answer, address, port, limit=MAX_REQUEST)
        async with server:
            ready()
            await asyncio.Event().wait()
        raise AssertionError("waits for ever")

    return service


def _response(head: bytes, health: Health, registry: CollectorRegistry) -> bytes:
    parts = head.split(b"\r\n", 1)[0].split(b" ")
    if len(parts) != 3 or parts[0] != b"GET":
        return _message("405 Method Not Allowed", b"only GET\n")
    match parts[1]:
        case b"/live":
            return _message("200 OK", b"live\n")
        case b"/ready":
            return (
                _message("200 OK", b"ready\n")
                if health.ready
                else _message("503 Service Unavailable", b"not ready\n")
            )
        case b"/metrics":
            return _message("200 OK", generate_latest(registry), CONTENT_TYPE_LATEST)
        case _:
            return _message("404 Not Found", b"not found\n")


def _message(status: str, body: bytes, content_type: str = "text/plain; charset=utf-8") -> bytes:
    head = (
        f"HTTP/1.1 {status}\r\nContent-Type: {content_type}\r\nContent-Length: {len(body)}\r\n"
        "Connection: close\r\n\r\n"
    )
    return head.encode() + body

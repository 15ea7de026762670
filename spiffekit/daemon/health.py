# SPDX-License-Identifier: Apache-2.0
"""Health and metrics over plain HTTP on loopback: ``/live``, ``/ready``, ``/metrics``."""

import asyncio
from http import HTTPStatus
from typing import Final

from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.exposition import CONTENT_TYPE_LATEST

from spiffekit.daemon import http_server
from spiffekit.daemon.http_server import NOT_FOUND, Reply
from spiffekit.daemon.lifecycle import Service

_NOT_READY: Final = Reply(b"not ready\n", status=HTTPStatus.SERVICE_UNAVAILABLE)


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

    def respond(target: str) -> Reply:
        match target:
            case "/live":
                return Reply(b"live\n")
            case "/ready":
                return Reply(b"ready\n") if health.ready else _NOT_READY
            case "/metrics":
                return Reply(generate_latest(registry), CONTENT_TYPE_LATEST)
            case _:
                return NOT_FOUND

    return http_server.serve(address, port, respond)

# SPDX-License-Identifier: Apache-2.0
"""grpc.health.v1, the field's health service: each daemon has it on its admin socket."""

import asyncio
from collections.abc import AsyncIterator, Mapping
from typing import Any, Final

import grpc
from google.protobuf import message_factory
from grpc_health.v1 import health_pb2

from spiffekit.daemon.health import Health

MAX_WATCHERS: Final = 100  # streams that may be open; probes are few, and each costs memory until it ends

SERVICE: Final[Any] = health_pb2.DESCRIPTOR.services_by_name["Health"]
Response = health_pb2.HealthCheckResponse
_List: Any = message_factory.GetMessageClass(SERVICE.methods_by_name["List"].output_type)  # not in the stubs


class UnknownServiceError(Exception):
    """There is no service of the name that was asked for."""


class TooManyWatchersError(Exception):
    """As many streams are open as may be."""


CODES: Final[Mapping[type[Exception], grpc.StatusCode]] = {
    UnknownServiceError: grpc.StatusCode.NOT_FOUND,
    TooManyWatchersError: grpc.StatusCode.RESOURCE_EXHAUSTED,
}
"""How a call ends that raised one of the errors above."""


class HealthService:
    """Whether a daemon serves. It has one service, the whole of it, whose name is empty.

    Args:
        health: What the daemon says of itself.
    """

    def __init__(self, health: Health) -> None:
        self._health = health
        self._watchers = 0

    async def Check(  # noqa: N802 - the method's name on the wire
        self, request: health_pb2.HealthCheckRequest, call: object
    ) -> health_pb2.HealthCheckResponse:
        """Return SERVING or NOT_SERVING.

        Raises:
            UnknownServiceError: Another service is asked for than the whole.
        """
        del call
        if request.service:
            raise UnknownServiceError(f"no service {request.service[:80]!r}")
        return _response(self._health.ready)

    async def List(self, request: object, call: object) -> Any:  # noqa: N802 - the method's name on the wire
        """Return what `Check` says of every service."""
        del request, call
        return _List(statuses={"": _response(self._health.ready)})

    async def Watch(  # noqa: N802 - the method's name on the wire
        self, request: health_pb2.HealthCheckRequest, call: object
    ) -> AsyncIterator[health_pb2.HealthCheckResponse]:
        """Send what `Check` says, and again whenever it changes; the caller ends it.

        A service that is not known may come to be, in the eyes of the protocol: its stream says
        SERVICE_UNKNOWN and stays open. Whoever reads slowly gets the state of when it reads.

        Raises:
            TooManyWatchersError: `MAX_WATCHERS` streams are open.
        """
        del call
        if self._watchers >= MAX_WATCHERS:
            raise TooManyWatchersError(f"too many watchers: {MAX_WATCHERS} streams are open")
        self._watchers += 1
        try:
            if request.service:
                yield Response(status=Response.SERVICE_UNKNOWN)
                await asyncio.Event().wait()
            while True:
                ready = self._health.ready
                yield _response(ready)
                await self._health.wait_unless(ready)
        finally:
            self._watchers -= 1


def _response(ready: bool) -> health_pb2.HealthCheckResponse:
    return Response(status=Response.SERVING if ready else Response.NOT_SERVING)

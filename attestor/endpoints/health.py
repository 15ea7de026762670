# SPDX-License-Identifier: Apache-2.0
"""grpc.health.v1 on the admin socket, whose file permissions are the authorisation."""

from collections.abc import AsyncIterator
from contextlib import aclosing
from typing import Any, Final

import grpc

from spiffekit.daemon import health_service
from spiffekit.daemon.health_service import HealthService
from spiffekit.wire import services
from spiffekit.wire.status import StatusTable, abort

Context = Any  # grpc.aio.ServicerContext: its stubs cannot be subscripted at run time

_STATUS: Final = StatusTable(health_service.CODES)


def handler(service: HealthService) -> grpc.GenericRpcHandler:
    """Return the gRPC handler of the service."""
    return services.handler(health_service.SERVICE, service, unary=_unary, stream=_stream)


def _unary(path: str, behave: services.Behaviour) -> services.Behaviour:
    del path

    async def handle(request: Any, context: Context) -> Any:
        try:
            return await behave(request, context)
        except Exception as error:  # noqa: BLE001 - the RPC boundary: every error becomes a status
            await abort(context, _STATUS.status_of(error))

    return handle


def _stream(path: str, behave: services.Behaviour) -> services.Behaviour:
    del path

    async def handle(request: Any, context: Context) -> AsyncIterator[Any]:
        try:
            async with aclosing(behave(request, context)) as answers:
                async for answer in answers:
                    yield answer
        except Exception as error:  # noqa: BLE001 - the RPC boundary: every error becomes a status
            await abort(context, _STATUS.status_of(error))

    return handle

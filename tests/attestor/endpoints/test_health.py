# SPDX-License-Identifier: Apache-2.0
"""What probes on the same host can ask of the attestor; the service itself is tested with the issuer's."""

import asyncio

import grpc
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc

from attestor.assembly import ADMIN_MODE, serving
from attestor.endpoints import health
from spiffekit.daemon import health_service
from spiffekit.daemon.health import Health
from spiffekit.daemon.health_service import HealthService
from spiffekit.daemon.listener import UnixFront
from tests.attestor.endpoints.world import WITHIN, Client, read

Code = grpc.StatusCode
Kinds = health_pb2.HealthCheckResponse


@pytest.fixture
def state():
    return Health()


@pytest.fixture
async def stub(state, folder):
    path = folder / "admin.sock"
    front = UnixFront(path, mode=ADMIN_MODE, identify=lambda peer: peer)
    async with (
        serving(front, health.handler(HealthService(state))),
        Client.connect(f"unix:{path}") as client,
    ):
        yield health_pb2_grpc.HealthStub(client.channel)


async def test_health_is_checked_and_listed(stub, state):
    for ready, status in [(False, Kinds.NOT_SERVING), (True, Kinds.SERVING)]:
        state.ready = ready
        answer = await stub.Check(health_pb2.HealthCheckRequest(), timeout=WITHIN)
        assert answer == Kinds(status=status)
        answer = await stub.List(health_pb2.HealthListRequest(), timeout=WITHIN)
        assert dict(answer.statuses) == {"": Kinds(status=status)}


async def test_health_is_watched(stub, state):
    stream = stub.Watch(health_pb2.HealthCheckRequest(), timeout=WITHIN)
    assert (await read(stream)).status == Kinds.NOT_SERVING
    state.ready = True
    assert (await read(stream)).status == Kinds.SERVING
    stream.cancel()


async def test_refusals_say_why(stub, monkeypatch):
    monkeypatch.setattr(health_service, "MAX_WATCHERS", 0)
    request = health_pb2.HealthCheckRequest(service="web")
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await stub.Check(request, timeout=WITHIN)
    assert (caught.value.code(), caught.value.details()) == (Code.NOT_FOUND, "no service 'web'")
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await asyncio.wait_for(read(stub.Watch(request, timeout=WITHIN)), WITHIN)
    assert caught.value.code() is Code.RESOURCE_EXHAUSTED

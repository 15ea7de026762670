# SPDX-License-Identifier: Apache-2.0
"""What operators on the same host can ask of the issuer itself."""

import asyncio
from datetime import timedelta

import grpc
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc

from spiffekit.bundle import Bundle
from spiffekit.daemon import health_service
from spiffekit.id import TrustDomain
from spiffekit.wire.pb.spire.api.server.debug.v1 import debug_pb2, debug_pb2_grpc
from tests.issuer_api.calls import WITHIN, refused
from tests.issuer_api.world import id_message

Code = grpc.StatusCode


async def test_debug_tells_uptime_counts_and_the_issuers_own_svid(world, local, clock):
    await world.node("n1")
    await world.entry("/web")
    await world.entry("/db")
    await world.database.write(lambda tx: tx.bundles.put(Bundle(TrustDomain("other.org"))))
    await clock.advance(timedelta(seconds=90.5))
    info = await debug_pb2_grpc.DebugStub(local).GetInfo(debug_pb2.GetInfoRequest())
    assert (info.uptime, info.agents_count, info.entries_count, info.federated_bundles_count) == (90, 1, 2, 1)
    svid = world.identity.x509_svid()
    (shown,) = info.svid_chain
    assert shown.id == id_message("/spire/server")
    assert shown.expires_at == int(svid.expires_at.timestamp())
    assert shown.subject == svid.leaf.subject.rfc4514_string()


@pytest.mark.parametrize("ready", [True, False])
async def test_health_says_whether_the_issuer_serves(world, local, ready):
    world.health.ready = ready
    kinds = health_pb2.HealthCheckResponse
    wanted = kinds(status=kinds.SERVING if ready else kinds.NOT_SERVING)
    stub = health_pb2_grpc.HealthStub(local)
    assert await stub.Check(health_pb2.HealthCheckRequest()) == wanted
    assert dict((await stub.List(health_pb2.HealthListRequest())).statuses) == {"": wanted}


async def test_health_knows_no_single_service(local):
    with refused(Code.NOT_FOUND, f"no service {'x' * 80!r}"):
        await health_pb2_grpc.HealthStub(local).Check(health_pb2.HealthCheckRequest(service="x" * 100))


def watch(channel, service=""):
    return health_pb2_grpc.HealthStub(channel).Watch(health_pb2.HealthCheckRequest(service=service))


async def status(stream):
    """The next status on a stream."""
    message = await asyncio.wait_for(stream.read(), WITHIN)
    return "ended" if message is grpc.aio.EOF else message.ServingStatus.Name(message.status)


async def test_a_watcher_gets_the_state_at_once_and_each_change_of_it(world, local):
    stream = watch(local)
    assert await status(stream) == "NOT_SERVING"
    for ready, name in [(True, "SERVING"), (False, "NOT_SERVING"), (True, "SERVING")]:
        world.health.ready = ready
        assert await status(stream) == name
    stream.cancel()


async def test_what_is_no_change_is_not_sent(world, local):
    world.health.ready = True
    stream = watch(local)
    assert await status(stream) == "SERVING"
    world.health.ready = True
    world.health.ready = False
    assert await status(stream) == "NOT_SERVING"
    stream.cancel()


async def test_a_watcher_of_an_unknown_service_is_told_so_and_stays(world, local):
    """As the protocol wants it: the service may come to be."""
    stream, other = watch(local, "spire.api.server.agent.v1.Agent"), watch(local)
    assert (await status(stream), await status(other)) == ("SERVICE_UNKNOWN", "NOT_SERVING")
    more = asyncio.create_task(stream.read())
    world.health.ready = True
    assert await status(other) == "SERVING"
    assert not more.done()
    for watching in (stream, other):
        watching.cancel()
    await asyncio.wait((more,))


async def test_watchers_are_bounded_and_the_place_of_one_that_left_is_free(world, local, monkeypatch):
    monkeypatch.setattr(health_service, "MAX_WATCHERS", 2)
    streams = [watch(local), watch(local, "unknown")]
    for stream in streams:
        await status(stream)
    with refused(Code.RESOURCE_EXHAUSTED, "too many watchers: 2 streams are open"):
        await anext(aiter(watch(local)))
    for stream in streams:
        stream.cancel()
    async with asyncio.timeout(WITHIN):
        while world.services["health"]._watchers:
            await asyncio.sleep(0.001)
    last = watch(local)
    assert await status(last) == "NOT_SERVING"
    last.cancel()

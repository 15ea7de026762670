# SPDX-License-Identifier: Apache-2.0
"""What operators on the same host can ask of the issuer itself."""

from datetime import timedelta

import grpc
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc

from spiffekit.bundle import Bundle
from spiffekit.id import TrustDomain
from spiffekit.wire.pb.spire.api.server.debug.v1 import debug_pb2, debug_pb2_grpc
from tests.issuer_api.world import id_message


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
    answer = await health_pb2_grpc.HealthStub(local).Check(health_pb2.HealthCheckRequest())
    kinds = health_pb2.HealthCheckResponse
    assert answer.status == (kinds.SERVING if ready else kinds.NOT_SERVING)


async def test_health_knows_no_single_service(local):
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await health_pb2_grpc.HealthStub(local).Check(health_pb2.HealthCheckRequest(service="x" * 100))
    assert caught.value.code() is grpc.StatusCode.NOT_FOUND
    assert caught.value.details() == f"no service {'x' * 80!r}"

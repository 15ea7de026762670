# SPDX-License-Identifier: Apache-2.0
"""What costs the issuer is limited for each source, and other sources do not feel it."""

from datetime import timedelta

import grpc
import pytest

from spiffekit.wire.pb.spire.api import types_pb2
from spiffekit.wire.pb.spire.api.server.agent.v1 import agent_pb2, agent_pb2_grpc
from spiffekit.wire.pb.spire.api.server.bundle.v1 import bundle_pb2, bundle_pb2_grpc
from spiffekit.wire.pb.spire.api.server.svid.v1 import svid_pb2, svid_pb2_grpc
from tests.issuer_api.calls import refused
from tests.issuer_api.world import World, csr

Code = grpc.StatusCode
TOO_MANY = "too many requests from this source; try again later"


@pytest.fixture
async def world(place, clock):
    async with World.open(place, clock, attest_limit=(1, 3), sign_limit=(2, 4)) as made:
        yield made


async def attest(channel):
    data = types_pb2.AttestationData(type="join_token", payload=b"guess")
    wanted = agent_pb2.AgentX509SVIDParams(csr=csr())
    request = agent_pb2.AttestAgentRequest(
        params=agent_pb2.AttestAgentRequest.Params(data=data, params=wanted)
    )
    async for _ in agent_pb2_grpc.AgentStub(channel).AttestAgent(iter([request])):
        pass


async def is_rejected(channel):
    with refused(Code.PERMISSION_DENIED):
        await attest(channel)


async def is_limited(call):
    with refused(Code.RESOURCE_EXHAUSTED, TOO_MANY):
        await call


async def test_join_tokens_cannot_be_guessed_at_speed(world, clock):
    """However many connections a source makes."""
    for _ in range(3):
        await is_rejected(await world.dial())
    channel = await world.dial()
    await is_limited(attest(channel))
    await clock.advance(timedelta(seconds=1))
    await is_rejected(channel)
    await is_limited(attest(channel))
    await clock.advance(timedelta(hours=1))
    for _ in range(3):
        await is_rejected(channel)
    await is_limited(attest(channel))


async def test_another_source_is_not_hurt(world):
    channel = await world.dial()
    for _ in range(3):
        await is_rejected(channel)
    await is_limited(attest(channel))
    await is_rejected(await world.dial(source="127.0.0.2"))
    await is_rejected(await world.local())


async def test_other_calls_of_a_limited_source_go_through(world):
    channel = await world.dial()
    for _ in range(3):
        await is_rejected(channel)
    await is_limited(attest(channel))
    await bundle_pb2_grpc.BundleStub(channel).GetBundle(bundle_pb2.GetBundleRequest())


async def test_renewals_count_as_attestations(world):
    stub = agent_pb2_grpc.AgentStub(await world.dial(await world.node("n1")))
    request = agent_pb2.RenewAgentRequest(params=agent_pb2.AgentX509SVIDParams(csr=csr()))
    for _ in range(3):
        await stub.RenewAgent(request)
    await is_limited(stub.RenewAgent(request))


def new(stub, count):
    params = [svid_pb2.NewX509SVIDParams(entry_id="web", csr=csr()) for _ in range(count)]
    return stub.BatchNewX509SVID(svid_pb2.BatchNewX509SVIDRequest(params=params))


async def test_each_svid_of_a_batch_counts(world, clock):
    await world.entry("/web")
    svid = await world.node("n1")
    stub = svid_pb2_grpc.SVIDStub(await world.dial(svid))
    await new(stub, 3)
    await is_limited(new(stub, 2))
    await stub.NewJWTSVID(svid_pb2.NewJWTSVIDRequest(entry_id="web", audience=["a"]))
    await is_limited(stub.NewJWTSVID(svid_pb2.NewJWTSVIDRequest(entry_id="web", audience=["a"])))
    other = svid_pb2_grpc.SVIDStub(await world.dial(svid, source="127.0.0.2"))
    await new(other, 4)
    await clock.advance(timedelta(seconds=1))
    await new(stub, 2)


async def test_a_batch_larger_than_the_bucket_takes_all_of_it(world, clock):
    """It must be possible at all; it is paid off before the next one."""
    await world.entry("/web")
    stub = svid_pb2_grpc.SVIDStub(await world.dial(await world.node("n1")))
    await new(stub, 10)
    await clock.advance(timedelta(seconds=3))
    await is_limited(new(stub, 1))
    await clock.advance(timedelta(seconds=0.5))
    await new(stub, 1)

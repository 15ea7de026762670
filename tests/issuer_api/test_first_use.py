# SPDX-License-Identifier: Apache-2.0
"""A proof that others on the node could make as well counts once."""

import asyncio

import grpc
import pytest

from issuer.node.gcp_iit import Config, create_with
from spiffekit.wire.pb.spire.api.server.agent.v1 import agent_pb2, agent_pb2_grpc
from tests.issuer.node.google import Google
from tests.issuer_api.calls import refused
from tests.issuer_api.test_node import attest, params
from tests.issuer_api.world import World, id_message

DENIED = grpc.StatusCode.PERMISSION_DENIED
NODE = id_message("/spire/agent/gcp_iit/project-1/152986662232938449")
USED = "failed to attest: the node is known and its proof counts once; evict it first"


@pytest.fixture
async def google(clock):
    async with Google(clock) as made:
        yield made


@pytest.fixture
async def world(place, clock, google):
    verifier = create_with(Config(("project-1",)), google.server.peer, clock)
    async with World.open(place, clock, verifiers={"gcp_iit": verifier}) as made:
        yield made


@pytest.fixture
async def stub(world):
    return agent_pb2_grpc.AgentStub(await world.dial())


async def test_of_many_that_prove_the_same_instance_one_is_the_node(google, stub):
    ends = await asyncio.gather(
        *(attest(stub, params("gcp_iit", google.token())) for _ in range(20)), return_exceptions=True
    )
    ((last,),) = [end for end in ends if isinstance(end, list)]
    assert (last.result.svid.id, last.result.reattestable) == (NODE, False)
    assert {end.details() for end in ends if not isinstance(end, list)} == {USED}


async def test_an_instance_comes_back_when_its_node_was_evicted(google, stub, local):
    await attest(stub, params("gcp_iit", google.token()))
    with refused(DENIED, USED):
        await attest(stub, params("gcp_iit", google.token()))
    await agent_pb2_grpc.AgentStub(local).DeleteAgent(agent_pb2.DeleteAgentRequest(id=NODE))
    (last,) = await attest(stub, params("gcp_iit", google.token()))
    assert last.result.svid.id == NODE

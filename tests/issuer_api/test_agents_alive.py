# SPDX-License-Identifier: Apache-2.0
"""An identity that is an agent's is given only while the agent is active."""

from dataclasses import replace

import grpc
import pytest

from issuer.model import AgentState
from spiffekit.wire.pb.spire.api.server.entry.v1 import entry_pb2_grpc
from spiffekit.wire.pb.spire.api.server.svid.v1 import svid_pb2, svid_pb2_grpc
from tests.issuer.strategies import an_agent
from tests.issuer_api.entries import create_one
from tests.issuer_api.test_evidence import evidence, sign
from tests.issuer_api.test_svid import request, uri
from tests.issuer_api.watching import opened, says
from tests.issuer_api.world import id_message

STATES = [AgentState.REGISTERED, AgentState.SUSPENDED, AgentState.RETIRED]


async def set_state(world, agent, state):
    """Bring an agent to a state, whatever the way there."""
    if state is AgentState.SUSPENDED and agent.state is AgentState.REGISTERED:
        agent = await set_state(world, agent, AgentState.ACTIVE)
    if state is agent.state:
        return agent
    return await world.database.write(lambda tx: tx.agents.update(replace(agent, state=state)))


@pytest.fixture
async def agent(world):
    await world.entry("/agent/payer")
    return await world.database.write(lambda tx: tx.agents.create(an_agent(state=AgentState.REGISTERED)))


async def ask(channel, clock):
    return (await sign(svid_pb2_grpc.SVIDStub(channel), "agent-payer", evidence(clock))).status


@pytest.mark.parametrize("state", STATES)
async def test_no_svid_is_signed_for_an_agent_that_is_not_active(world, agent, clock, state):
    channel = await world.dial(await world.node("n1"))
    agent = await set_state(world, agent, AgentState.ACTIVE) if state != "registered" else agent
    if state != "registered":
        assert (await ask(channel, clock)).message == "OK"
    await set_state(world, agent, state)
    status = await ask(channel, clock)
    assert (status.code, status.message) == (5, "entry not found or not authorized")
    jwt = svid_pb2.NewJWTSVIDRequest(entry_id="agent-payer", audience=["db"], evidence=evidence(clock))
    with pytest.raises(grpc.aio.AioRpcError, match="entry not found or not authorized"):
        await svid_pb2_grpc.SVIDStub(channel).NewJWTSVID(jwt)


@pytest.mark.parametrize("state", STATES)
async def test_nobody_mints_for_an_agent_that_is_not_active(world, agent, state):
    await set_state(world, agent, state)
    stub = svid_pb2_grpc.SVIDStub(await world.local())
    x509 = svid_pb2.MintX509SVIDRequest(csr=request(uri(str(agent.spiffe_id))))
    jwt = svid_pb2.MintJWTSVIDRequest(id=id_message("/agent/payer"), audience=["db"])
    for call in (stub.MintX509SVID(x509), stub.MintJWTSVID(jwt)):
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await call
        assert caught.value.code() is grpc.StatusCode.PERMISSION_DENIED
        assert caught.value.details() == f"agent {agent.spiffe_id} is {state}"


@pytest.mark.parametrize("state", STATES)
async def test_what_a_template_gives_is_refused_when_it_is_such_an_agent(world, agent, clock, state):
    node = svid_pb2_grpc.SVIDStub(await world.dial(await world.node("n1")))
    template = "spiffe://example.org/agent/{unix:user}"
    made = await create_one(
        entry_pb2_grpc.EntryStub(await world.local()), spiffe_id=None, spiffe_id_template=template
    )
    await set_state(world, agent, state)
    refused = await sign(node, made.id, evidence(clock, "unix:uid:1000", "unix:user:payer"))
    assert (refused.status.code, refused.status.message) == (7, f"agent {agent.spiffe_id} is {state}")
    assert (
        await sign(node, made.id, evidence(clock, "unix:uid:1000", "unix:user:other"))
    ).status.message == "OK"


async def test_nodes_are_told_when_an_agent_comes_and_goes(world, agent):
    async with opened(await world.dial(await world.node("n1"))) as watch:
        assert says(watch.snapshot, snapshot=True, bundles=["example.org"])
        agent = await set_state(world, agent, AgentState.ACTIVE)
        assert says(await watch.next(), entries=["agent-payer"])
        agent = await set_state(world, agent, AgentState.SUSPENDED)
        assert says(await watch.next(), removed=["agent-payer"])

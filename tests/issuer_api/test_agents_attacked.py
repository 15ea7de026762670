# SPDX-License-Identifier: Apache-2.0
"""An agent that was taken back tries everything; operators race; an administrator cheats."""

import asyncio

import grpc
import pytest

from issuer.model import AgentState
from spiffekit.wire.pb.issuer.v1 import agents_pb2, agents_pb2_grpc
from spiffekit.wire.pb.spire.api.server.entry.v1 import entry_pb2, entry_pb2_grpc
from tests.issuer.governance.people import IDP
from tests.issuer.strategies import an_agent
from tests.issuer_api.calls import call_empty, refused
from tests.issuer_api.test_agents import PAYER, agents, change, register, spec
from tests.issuer_api.test_agents_alive import STATES, set_state
from tests.issuer_api.test_authorization import ANYBODY
from tests.issuer_api.world import SERVICES, World, spiffe_id

__all__ = ["agents"]
Code = grpc.StatusCode
AT_ONCE = 8
STEPS = ("ActivateAgent", "ResumeAgent", "ReviewAgent", "TransferAgent", "UpdateAgent")


@pytest.fixture
async def world(place, clock):
    async with World.open(place, clock, wit=True, admin_ids=frozenset([spiffe_id("/agent/payer")])) as made:
        yield made


@pytest.fixture
async def powerful(world):
    """An agent with every power that an identity can have: by its entries, and by the configuration."""
    await world.entry("/agent/payer", admin=True, downstream=True)
    return await world.database.write(lambda tx: tx.agents.create(an_agent(state=AgentState.REGISTERED)))


@pytest.mark.parametrize("state", STATES)
async def test_who_is_not_active_is_refused_by_every_method_but_what_anybody_may_call(world, powerful, state):
    svid = await world.sign("/agent/payer")
    before = await world.dial(svid)
    agent = await set_state(world, powerful, AgentState.ACTIVE) if state != "registered" else powerful
    if state != "registered":
        stub = entry_pb2_grpc.EntryStub(before)
        assert (await stub.CountEntries(entry_pb2.CountEntriesRequest())).count == 1
    await set_state(world, agent, state)
    nobody, after = await world.dial(), await world.dial(svid)
    for service in SERVICES.values():
        for method in service.methods:
            # What is not refused is what the whole world is told.
            wanted = (
                Code.PERMISSION_DENIED,
                f"authorization denied for method /{service.full_name}/{method.name}",
            )
            if f"{service.name}/{method.name}" in ANYBODY:
                wanted = await call_empty(nobody, method)
            for channel in (before, after):
                answer = await call_empty(channel, method)
                assert answer == wanted or answer[0] is Code.UNIMPLEMENTED, (method.full_name, answer)


async def test_an_agent_is_no_downstream_issuer(world, powerful):
    """What it had signed could not be taken back with it."""
    await set_state(world, powerful, AgentState.ACTIVE)
    channel = await world.dial(await world.sign("/agent/payer"))
    method = SERVICES["bundle"].methods_by_name["PublishJWTAuthority"]
    assert await call_empty(channel, method) == (
        Code.PERMISSION_DENIED,
        f"authorization denied for method /{method.containing_service.full_name}/{method.name}",
    )


async def test_an_agent_that_is_an_administrator_approves_and_widens_nobody(world, powerful, agents):
    await set_state(world, powerful, AgentState.ACTIVE)
    other = "spiffe://example.org/agent/other"
    await register(agents, other)
    mallory = agents_pb2_grpc.AgentsStub(await world.dial(await world.sign("/agent/payer")))
    asked = {
        "ReviewAgent": lambda of: agents_pb2.ReviewAgentRequest(spiffe_id=of, reason="x"),
        "UpdateAgent": lambda of: agents_pb2.UpdateAgentRequest(spec=spec(of), reason="x"),
        "TransferAgent": lambda of: agents_pb2.TransferAgentRequest(
            spiffe_id=of, reason="x", owner={"issuer": IDP, "subject": "mallory"}
        ),
    }
    for step in STEPS:
        for of in (PAYER, other):
            with refused(Code.PERMISSION_DENIED, f"{PAYER} is an agent: that takes a person"):
                await getattr(mallory, step)(asked.get(step, change)(of))
    # It may propose, and take away.
    await register(mallory, "spiffe://example.org/agent/third")
    assert (await mallory.SuspendAgent(change())).state == agents_pb2.SUSPENDED


# Operators race.


async def race(*calls):
    """Make calls at once; return how many succeeded, and the codes of the others."""
    ended = await asyncio.gather(*calls, return_exceptions=True)
    failed = [one for one in ended if isinstance(one, BaseException)]
    assert all(isinstance(one, grpc.aio.AioRpcError) for one in failed), failed
    return len(ended) - len(failed), {one.code() for one in failed}


async def test_of_operators_who_race_one_wins(world, agents):
    every = [register(agents) for _ in range(AT_ONCE)]
    assert await race(*every) == (1, {Code.ALREADY_EXISTS})
    retire = agents_pb2.RetireAgentRequest(spiffe_id=PAYER, reason="because")
    for step, request in (
        (agents.ActivateAgent, change()),
        (agents.SuspendAgent, change()),
        (agents.ResumeAgent, change()),
        (agents.RetireAgent, retire),
    ):
        assert await race(*(step(request) for _ in range(AT_ONCE))) == (1, {Code.FAILED_PRECONDITION})
    done = [record.type for record in await world.trail() if record.outcome == "allow"]
    assert done == [
        f"agent.{what}" for what in ("registered", "activated", "suspended", "resumed", "retired")
    ]


async def test_whoever_ends_it_first_it_stays_ended(agents):
    await register(agents)
    await agents.ActivateAgent(change())
    retire = agents_pb2.RetireAgentRequest(spiffe_id=PAYER, reason="because")
    steps = [agents.SuspendAgent(change()), agents.ResumeAgent(change()), agents.RetireAgent(retire)]
    await race(*steps, *(agents.ResumeAgent(change()) for _ in range(AT_ONCE)))
    agent = await agents.GetAgent(agents_pb2.GetAgentRequest(spiffe_id=PAYER))
    assert agent.state == agents_pb2.RETIRED
    with refused(Code.FAILED_PRECONDITION):
        await agents.ResumeAgent(change())


async def test_every_step_has_a_version_of_its_own_and_none_goes_back(world, agents):
    told = []
    world.database.on_commit.append(
        lambda changes: told.extend(one.value.version for one in changes if one.kind == "agent")
    )
    ids = [f"spiffe://example.org/agent/n{number}" for number in range(AT_ONCE)]
    await asyncio.gather(*(register(agents, of) for of in ids))
    for step in (agents.ActivateAgent, agents.SuspendAgent, agents.ResumeAgent):
        await asyncio.gather(*(step(change(of)) for of in ids))
    assert told == list(range(1, 4 * AT_ONCE + 1))


# The ID of a retired agent.

TRICKS = {
    "trailing-slash": PAYER + "/",
    "two-slashes": PAYER.replace("/agent", "//agent"),
    "dot": PAYER.replace("/payer", "/./payer"),
    "dot-dot": PAYER.replace("/payer", "/x/../payer"),
    "percent": PAYER.replace("payer", "%70ayer"),
    "upper-case-trust-domain": PAYER.replace("example", "EXAMPLE"),
    "upper-case-scheme": PAYER.replace("spiffe:", "SPIFFE:"),
    "newline": PAYER + "\n",
    "space": " " + PAYER,
    "nul": PAYER + "\0",
    "query": PAYER + "?x",
    "fragment": PAYER + "#x",
    "port": PAYER.replace(".org", ".org:443"),
    "user": PAYER.replace("://", "://x@"),
    "look-alike": PAYER.replace("a", "\u0430"),
    "full-width": PAYER.replace("p", "\uff50"),
    "combining": PAYER + "\u0301",
    "zero-width": PAYER + "\u200b",
    "another-trust-domain": PAYER.replace("example.org", "partner.org"),
}


@pytest.mark.parametrize("twisted", TRICKS.values(), ids=TRICKS)
async def test_the_id_of_who_is_retired_comes_back_in_no_disguise(world, agents, twisted):
    await register(agents)
    await agents.RetireAgent(agents_pb2.RetireAgentRequest(spiffe_id=PAYER, reason="because"))
    with refused(Code.INVALID_ARGUMENT):
        await register(agents, twisted)
    assert [agent.spiffe_id for agent in world.registrations.agents()] == [spiffe_id("/agent/payer")]


async def test_ids_that_differ_in_case_are_two_and_neither_stands_for_the_other(world, agents):
    await register(agents)
    await agents.RetireAgent(agents_pb2.RetireAgentRequest(spiffe_id=PAYER, reason="because"))
    other = PAYER.replace("payer", "Payer")
    await register(agents, other)
    await agents.ActivateAgent(change(other))
    with refused(Code.ALREADY_EXISTS):
        await register(agents)
    states = {str(agent.spiffe_id): agent.state for agent in world.registrations.agents()}
    assert states == {PAYER: AgentState.RETIRED, other: AgentState.ACTIVE}


# Two people, and one of them cheats.


async def test_who_registers_leaves_no_class_that_asks_for_two(agents):
    await agents.PutAgentClass(agents_pb2.AgentClass(name="two", two_people=True))
    await register(agents, agent_class="two")
    asked = "class 'two' asks for two people: local:uid="
    with refused(Code.PERMISSION_DENIED) as caught:
        await agents.ActivateAgent(change())
    assert asked in caught.value.details()
    with refused(Code.PERMISSION_DENIED) as caught:
        await agents.UpdateAgent(agents_pb2.UpdateAgentRequest(spec=spec(), reason="because"))
    assert asked in caught.value.details()
    # Nor does the class ask for fewer while somebody is of it.
    with refused(Code.FAILED_PRECONDITION, f"class 'two': agent {PAYER} belongs to it"):
        await agents.PutAgentClass(agents_pb2.AgentClass(name="two"))
    with refused(Code.FAILED_PRECONDITION):
        await agents.DeleteAgentClass(agents_pb2.DeleteAgentClassRequest(name="two"))
    await agents.PutAgentClass(agents_pb2.AgentClass(name="two", two_people=True, review_every=86400))

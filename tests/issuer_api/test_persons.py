# SPDX-License-Identifier: Apache-2.0
"""The record of what an operator does says which person that account is, where a list of people knows it."""

import os

import grpc
import pytest

from issuer.model import Outcome
from spiffekit.wire.pb.issuer.v1 import policy_pb2, policy_pb2_grpc, revocation_pb2, revocation_pb2_grpc
from spiffekit.wire.pb.spire.api.server.agent.v1 import agent_pb2, agent_pb2_grpc
from tests.issuer.governance.people import ALICE, BOB, listed, user, write
from tests.issuer_api.calls import refused
from tests.issuer_api.test_publish import key, publish
from tests.issuer_api.world import World, id_message

ADMIN = "spiffe://example.org/admin"


async def put_a_policy(channel):
    wanted = policy_pb2.PutPolicyRequest(name="p", text="permit(principal, action, resource);", reason="why")
    await policy_pb2_grpc.PolicyStub(channel).Put(wanted)


async def take_something_back(channel):
    wanted = revocation_pb2.RevokeRequest(spiffe_id="spiffe://example.org/web", reason="why")
    await revocation_pb2_grpc.RevocationStub(channel).Revoke(wanted)


async def ban_a_node(channel):
    wanted = agent_pb2.BanAgentRequest(id=id_message("/spire/agent/test/n1"))
    await agent_pb2_grpc.AgentStub(channel).BanAgent(wanted)


async def be_refused(channel):
    with refused(grpc.StatusCode.INVALID_ARGUMENT):
        await policy_pb2_grpc.PolicyStub(channel).Put(policy_pb2.PutPolicyRequest(name="p", text="("))


@pytest.fixture
async def people(tmp_path):
    path = tmp_path / "people.json"
    write(path, user("alice", f"local:uid={os.getuid()}"), user("bob", ADMIN))
    people = listed(path)
    await people.reload()
    return people


@pytest.mark.parametrize("act", [put_a_policy, take_something_back, ban_a_node, be_refused])
async def test_the_record_says_who_it_was(place, clock, people, act):
    async with World.open(place, clock, people=people) as world:
        await world.node("n1")
        await world.entry("/admin", admin=True)
        for channel, person in (
            (await world.local(), ALICE),
            (await world.dial(await world.sign("/admin")), BOB),
        ):
            await act(channel)
            record = (await world.trail())[-1]
            assert record.outcome is (Outcome.FAILED if act is be_refused else Outcome.OK)
            assert record.detail["person"] == str(person)


async def test_whom_the_list_does_not_name_is_an_account_only(place, clock, people):
    async with World.open(place, clock, people=people) as world:
        await world.node("n1")
        await world.entry("/other", admin=True)
        await ban_a_node(await world.dial(await world.sign("/other")))
        (record,) = await world.trail()
        assert (record.actor, "person" in record.detail) == ("spiffe://example.org/other", False)


async def test_who_is_no_operator_is_no_person(place, clock, people):
    async with World.open(place, clock, people=people) as world:
        await world.entry("/admin", downstream=True)
        channel = await world.dial(await world.sign("/admin"))
        await publish(channel, key(world))
        (record,) = await world.trail()
        assert (record.actor, "person" in record.detail) == (ADMIN, False)

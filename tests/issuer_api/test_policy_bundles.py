# SPDX-License-Identifier: Apache-2.0
"""Policies and agents on their way to whoever decides elsewhere: signed anew as they change, and pushed."""

import asyncio
import contextlib
from dataclasses import replace
from datetime import timedelta

import pytest

from issuer.errors import FailedPreconditionError
from issuer.governance import policy_bundles
from issuer.governance.policy_bundles import BYTES_PER_SECOND, PUSHED_LIFETIME, REFRESH
from issuer.governance.publishing import RETRY
from issuer.model import AgentClass, AgentState, Limits, StoredPolicy
from spiffekit.bundle import BundleSet
from spiffekit.delegation.tools import Tools
from spiffekit.policy import PolicyBundle
from tests.issuer.strategies import an_agent
from tests.issuer_api.calls import WITHIN
from tests.issuer_api.watching import Watch, opened
from tests.issuer_api.world import spiffe_id
from tests.spiffekit.policy.asked import ALL, NONE

PAYER = spiffe_id("/agent/payer")
SECOND = timedelta(seconds=1)


@pytest.fixture
async def published(world):
    """The world, publishing."""
    ready = asyncio.Event()
    running = asyncio.create_task(world.policies.run(ready.set))
    await ready.wait()
    yield world
    running.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await running


async def lay_down(world, text=ALL, name="p"):
    stored = StoredPolicy(
        name=name, text=text, enforced=True, author="ann", reason="because", created_at=world.clock.now()
    )
    await world.database.write(lambda tx: tx.policies.add(stored))


async def agent(world, **changes):
    return await world.database.write(lambda tx: tx.agents.create(an_agent(**changes)))


def read(world, token=None):
    """What is published, verified as others do."""
    bundles = BundleSet(world.registrations.bundles())
    return PolicyBundle.verify(token or world.policies.current.token, bundles, now=world.clock.now())


async def newest(world, after):
    async with asyncio.timeout(WITHIN):
        await world.policies.wait_beyond(after)
    return read(world)


async def test_before_there_is_any_policy_it_is_said_that_there_is_none(published):
    found = read(published)
    assert (found.policies, found.agents, found.version) == ((), {}, 0)
    assert found.sequence == published.log.revision
    assert found.expires_at - found.issued_at == PUSHED_LIFETIME


async def test_a_policy_is_published_at_once(published):
    before = published.policies.current.number
    await lay_down(published, NONE)
    found = await newest(published, before)
    assert [(policy.name, policy.text) for policy in found.policies] == [("p", NONE)]
    assert found.sequence == published.log.revision


async def test_agents_are_published_with_what_policy_sees_of_them_while_they_are_active(published, clock):
    before = published.policies.current.number
    made = await agent(published, team="treasury")
    await clock.advance(SECOND)
    assert {a.spiffe_id: a.team for a in (await newest(published, before)).agents.values()} == {
        PAYER: "treasury"
    }
    before = published.policies.current.number
    await published.database.write(lambda tx: tx.agents.update(replace(made, state=AgentState.SUSPENDED)))
    await clock.advance(SECOND)
    assert (await newest(published, before)).agents == {}


async def test_an_agents_ceiling_and_that_of_its_class_go_along(published, clock):
    before = published.policies.current.number
    narrow, wide = (Tools.from_json(text) for text in (b'{"pay":{}}', b'{"pay":{},"list":{}}'))
    bots = AgentClass(name="bots", limits=Limits(tools=wide))
    await published.database.write(lambda tx: tx.agents.put_class(bots))
    await agent(published, agent_class="bots", limits=Limits(tools=narrow))
    await agent(published, path="/agent/other", agent_class="bots")
    await agent(published, path="/agent/free")
    await clock.advance(SECOND)
    found = (await newest(published, before)).ceilings
    assert found == {PAYER: narrow, spiffe_id("/agent/other"): wide}
    before = published.policies.current.number
    bots = replace(bots, limits=Limits(tools=Tools({})))
    await published.database.write(lambda tx: tx.agents.put_class(bots))
    await clock.advance(SECOND)
    assert list((await newest(published, before)).ceilings.values()) == [Tools({})] * 2


async def test_agents_that_come_and_go_do_not_flood_the_nodes_and_do_not_hold_up_a_policy(published, clock):
    before = published.policies.current
    await agent(published)
    paid_off = timedelta(seconds=len(before.token) / BYTES_PER_SECOND)
    await clock.advance(paid_off * 0.9)
    assert published.policies.current is before
    await lay_down(published)
    found = await newest(published, before.number)
    assert (len(found.policies), len(found.agents)) == (1, 1)
    before = published.policies.current
    await agent(published, path="/agent/other")
    await clock.advance(SECOND)
    assert len((await newest(published, before.number)).agents) == 2


async def test_a_bundle_is_replaced_long_before_it_ends(published, clock):
    before = published.policies.current.number
    await clock.advance(REFRESH)
    assert (await newest(published, before)).issued_at == clock.now().replace(microsecond=0)
    assert REFRESH < PUSHED_LIFETIME / 2


async def test_what_cannot_be_signed_is_tried_again_and_the_last_one_stays(
    published, clock, monkeypatch, caplog
):
    before = published.policies.current
    monkeypatch.setattr(policy_bundles, "MAX_BYTES", 100)
    await clock.advance(REFRESH)
    assert published.policies.current is before
    assert "policies cannot be signed, trying again" in [record.message for record in caplog.records]
    with pytest.raises(FailedPreconditionError, match="more than the 100 bytes of a bundle"):
        await published.policies.token(clock.now(), PUSHED_LIFETIME)
    monkeypatch.undo()
    await clock.advance(RETRY)
    await newest(published, before.number)


# On the push stream.


async def pushed(watch):
    """The next message that brings policies."""
    async with asyncio.timeout(WITHIN):
        while True:
            message = await watch.call.read()
            if message.HasField("policies"):
                assert message.heartbeat
                return message


async def test_a_node_is_told_at_once_and_with_every_change(published, channel):
    await lay_down(published, ALL)
    async with opened(channel) as watch:
        first = read(published, (await pushed(watch)).policies.bundle)
        await lay_down(published, NONE, "q")
        second = read(published, (await pushed(watch)).policies.bundle)
    assert [policy.text for policy in first.policies][:1] == [ALL]
    assert [policy.text for policy in second.policies] == [ALL, NONE]


async def test_what_was_taken_back_is_told_before_policies_which_may_be_large(published, channel):
    await published.publisher._publish()
    await lay_down(published)
    async with opened(channel) as watch, asyncio.timeout(WITHIN):
        message = await watch.call.read()
        while not (message.HasField("policies") or message.HasField("revocations")):
            message = await watch.call.read()
    assert message.HasField("revocations")


async def test_who_comes_back_gets_the_policies_again_only_if_others_hold(published, channel):
    async with opened(channel) as watch:
        last = await pushed(watch)
    held = {"revision": last.revision, "epoch": last.epoch, "policies": last.policies.number}
    async with Watch(channel, **held) as watch:
        await watch.heartbeat()  # in answer to the resumption: nothing is new
        await lay_down(published)
        while not (now := await pushed(watch)).policies.number > last.policies.number:
            pass
        assert len(read(published, now.policies.bundle).policies) == 1
    async with Watch(channel, **held) as watch:
        assert (await pushed(watch)).policies.number == published.policies.current.number


async def test_the_number_of_another_run_counts_for_nothing(published, channel):
    async with opened(channel) as watch:
        last = await pushed(watch)
    async with Watch(channel, revision=last.revision, epoch="other", policies=2**60) as watch:
        assert (await pushed(watch)).policies.bundle == last.policies.bundle

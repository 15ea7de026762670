# SPDX-License-Identifier: Apache-2.0
"""A node proves itself once, keeps its identity over restarts, and renews it at half of its life."""

import pytest

from attestor.connection import Credentials
from attestor.errors import IssuerUnavailableError, NodeAttestationError, StateError
from attestor.keys import memory
from attestor.session import RETRY
from spiffekit.testing import TestCA
from tests.attestor.session_world import HOUR, MINUTE, SECOND, TOKEN_NODE, Crash, World


@pytest.fixture
def world(tmp_path):
    return World(tmp_path)


async def test_a_node_that_is_killed_again_and_again_renews_at_half_of_its_life(world):
    await world.session.start()
    for minute in range(1, 120):
        async with world.running():
            await world.clock.advance(MINUTE)
        world.restart()
        await world.session.start()
        assert 26 <= world.left / MINUTE <= 60, minute
    assert world.called("attest") == 1
    assert 3 <= world.called("renew") <= 4


async def test_a_restart_does_not_put_off_renewal(world):
    await world.session.start()
    await world.clock.advance(25 * MINUTE)
    world.restart()
    await world.session.start()
    assert world.called("renew") == 0
    async with world.running():
        await world.clock.advance(10 * MINUTE)
    assert world.called("renew") == 1


async def test_what_is_late_is_renewed_before_anything_else(world):
    await world.session.start()
    await world.clock.advance(59 * MINUTE)
    world.restart()
    before = len(world.issuer.calls)
    await world.session.start()
    assert world.issuer.calls[before:] == ["renew"]
    assert world.left > 59 * MINUTE


async def test_a_renewal_that_fails_at_the_start_is_tried_again(world, caplog):
    await world.session.start()
    await world.clock.advance(58 * MINUTE)
    world.restart()
    world.issuer.error = IssuerUnavailableError("Stream removed")
    await world.session.start()
    assert world.left == 2 * MINUTE
    assert "issuer cannot be used now" in caplog.text
    async with world.running():
        world.issuer.error = None
        await world.clock.advance(SECOND)
    assert world.left > 59 * MINUTE
    assert world.called("attest") == 1


async def test_a_node_proves_itself_and_keeps_its_identity(world):
    await world.session.start()
    assert world.issuer.calls == ["bundle", "attest"]
    assert world.svid.spiffe_id == TOKEN_NODE
    assert world.left == HOUR
    assert world.client.credentials == Credentials(world.issuer.bundle, world.svid)
    assert world.kept.svid == world.svid
    assert world.kept.bundle == world.issuer.bundle
    assert not world.kept.reattestable


async def test_a_restart_takes_up_the_state(world):
    await world.session.start()
    svid = world.svid
    world.restart()
    await world.session.start()
    assert world.called("attest") == 1
    assert world.client.credentials == Credentials(world.issuer.bundle, svid)
    await world.client.post_status("1", 0)


async def test_without_its_key_a_node_proves_itself_again(world):
    world.restart_as_machine(keys=memory.create(memory.Config()))
    await world.session.start()
    first = world.svid
    world.restart_as_machine(keys=memory.create(memory.Config()))
    await world.session.start()
    assert world.called("attest") == 2
    assert world.svid.private_key_der != first.private_key_der


async def test_an_identity_that_has_expired_is_not_taken_up(world):
    world.restart_as_machine()
    await world.session.start()
    await world.clock.advance(HOUR)
    world.restart_as_machine()
    await world.session.start()
    assert world.called("attest") == 2
    assert world.left == HOUR


async def test_a_node_that_was_away_trusts_what_was_published_last(world):
    """What the operator gave it may be years old; only what was remembered names the authorities of now."""
    world.restart_as_machine()
    await world.session.start()
    world.bootstrap = TestCA("example.org").bundle
    await world.clock.advance(2 * HOUR)
    world.restart_as_machine(rebootstrap=False)
    await world.session.start()
    assert world.left == HOUR


async def test_a_start_is_tried_until_the_issuer_answers_with_waits_that_grow(world, caplog):
    world.issuer.error = IssuerUnavailableError("away")
    async with world.starting() as start:
        tries = []
        for _ in range(120):
            tries.append(len(world.issuer.calls))
            await world.clock.advance(SECOND)
        assert not start.done()
        assert 5 <= tries[5] - tries[0] <= 10
        assert 1 <= tries[-1] - tries[-61] <= 4
        world.issuer.error = None
        await world.clock.advance(RETRY[1] * 1.1)
        assert start.done()
    assert world.svid.spiffe_id == TOKEN_NODE
    assert "away" in {record.reason for record in caplog.records}


async def test_waits_differ_from_node_to_node(tmp_path):
    waits = set()
    for number in range(5):
        world = World(tmp_path / str(number))
        world.issuer.error = IssuerUnavailableError("away")
        async with world.starting():
            waits.add(world.clock._sleepers[0][0])
    assert len(waits) == 5
    assert all(0.9 * RETRY[0] <= wait * SECOND <= 1.1 * RETRY[0] for wait in waits)


async def test_a_refused_proof_ends_the_start(world):
    world.issuer.tokens.clear()
    with pytest.raises(NodeAttestationError, match="join token does not exist"):
        await world.session.start()


async def test_an_issuer_that_is_not_ours_gets_no_proof(world):
    world.bootstrap = TestCA("example.org").bundle
    world.restart()
    async with world.starting() as start:
        await world.clock.advance(MINUTE)
        assert not start.done()
    assert world.called("attest") == 0
    assert world.issuer.tokens == {"token"}


async def test_a_token_is_not_spent_before_the_bundle_is_there(world):
    world.issuer.failing = {"bundle": IssuerUnavailableError("connection was closed")}
    async with world.starting() as start:
        await world.clock.advance(SECOND)
        assert world.issuer.tokens == {"token"}
        world.issuer.failing = {}
        await world.clock.advance(SECOND)
        assert start.done()
    assert world.svid.spiffe_id == TOKEN_NODE


async def test_an_svid_that_cannot_be_used_is_not_taken_up(world):
    world.issuer.spoiled = {TOKEN_NODE}
    with pytest.raises(NodeAttestationError, match=r"^issuer sent an SVID that cannot be used: "):
        await world.session.start()
    assert world.svid is None
    assert world.kept is None


async def test_an_identity_that_cannot_be_kept_is_not_used(world):
    world.state.full = True
    with pytest.raises(StateError, match=r"^node identity cannot be kept: .*No space left on device"):
        await world.session.start()
    assert world.svid is None


@pytest.mark.parametrize("moment", ["before", "after"])
async def test_a_crash_while_the_key_is_replaced_leaves_an_identity_that_counts(world, moment):
    await world.session.start()
    old = world.svid
    await world.clock.advance(40 * MINUTE)
    world.state.crash = moment
    with pytest.raises(Crash):
        async with world.running() as service:
            await service
    assert len(world.keys.load()) == 2
    world.restart()
    assert (world.kept.svid == old) == (moment == "before")
    await world.session.start()
    await world.client.post_status("1", 0)
    assert world.left > 19 * MINUTE
    async with world.running():
        await world.clock.advance(HOUR)
    assert len(world.keys.load()) == 1
    assert world.called("attest") == 1


async def test_a_renewal_has_a_new_key_and_new_connections(world):
    await world.session.start()
    old = world.svid
    drops = world.client.drops
    async with world.running():
        await world.clock.advance(34 * MINUTE)
    assert world.svid.private_key_der != old.private_key_der
    assert world.client.drops == drops + 1
    assert world.kept.svid == world.svid
    assert len(world.keys.load()) == 1


async def test_renewal_is_at_half_of_the_life_a_tenth_sooner_or_later(tmp_path):
    moments = set()
    for number in range(8):
        world = World(tmp_path / str(number))
        await world.session.start()
        async with world.running():
            await world.clock.advance(27 * MINUTE - SECOND)
            assert world.called("renew") == 0
            while not world.called("renew"):
                await world.clock.advance(SECOND)
        moments.add(world.clock.monotonic())
    assert len(moments) > 4
    assert max(moments) <= 33 * 60 + 1


async def test_a_node_that_can_prove_itself_again_renews_by_that(world):
    world.restart_as_machine()
    await world.session.start()
    async with world.running():
        await world.clock.advance(34 * MINUTE)
    assert (world.called("renew"), world.called("attest")) == (0, 2)
    assert world.kept.reattestable
    world.restart_as_machine()
    await world.session.start()
    async with world.running():
        await world.clock.advance(34 * MINUTE)
    assert (world.called("renew"), world.called("attest")) == (0, 3)


async def test_others_go_on_with_the_old_identity_while_the_node_proves_itself_again(world):
    world.restart_as_machine()
    await world.session.start()
    old = world.svid
    world.issuer.failing = {"attest": IssuerUnavailableError("away")}
    drops = world.client.drops
    with pytest.raises(IssuerUnavailableError):
        await world.session.attest()
    assert world.svid == old
    assert world.client.drops == drops
    await world.client.post_status("1", 0)


async def test_a_proof_that_is_refused_at_renewal_does_not_end_a_node_that_still_has_an_identity(
    world, caplog
):
    world.restart_as_machine()
    await world.session.start()
    world.issuer.failing = {"attest": NodeAttestationError("certificate has expired")}
    async with world.running() as service:
        await world.clock.advance(59 * MINUTE)
        assert not service.done()
        world.issuer.failing = {}
        await world.clock.advance(RETRY[1] * 1.1)
    assert world.left > 59 * MINUTE
    assert "issuer cannot be used now" in caplog.text

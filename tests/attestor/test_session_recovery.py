# SPDX-License-Identifier: Apache-2.0
"""What a node does when it is banned, evicted or late, and when its issuer is away, lost or false."""

import asyncio
import contextlib
from dataclasses import replace

import pytest

from attestor.connection import Credentials
from attestor.errors import (
    IssuerUnavailableError,
    IssuerUntrustedError,
    MustReattestError,
    NodeAttestationError,
    NodeBannedError,
    StateError,
)
from attestor.session import CHECK_EVERY, RETRY
from spiffekit.daemon.config import ConfigError
from spiffekit.testing import TestCA
from tests.attestor.session_world import HOUR, MACHINE, MINUTE, SECOND, TOKEN_NODE, World
from tests.fakes.clock import FakeClock
from tests.fakes.issuer import FakeClient

REJECTED = MustReattestError("node is not attested")
FALSE = IssuerUntrustedError("no authority vouches for the issuer")
AWAY = IssuerUnavailableError("away")


@pytest.fixture
async def world(tmp_path):
    """A node that has a join token only, started."""
    world = World(tmp_path)
    await world.session.start()
    return world


@pytest.fixture
async def machine(tmp_path):
    """A node that can prove itself again, started."""
    world = World(tmp_path)
    world.restart_as_machine()
    await world.session.start()
    return world


def a_call(world):
    """Raises what the issuer has against the node."""
    return world.client.post_status("1", 0)


# Banned.


async def test_a_banned_node_forgets_its_identity_and_ends(world):
    world.issuer.nodes[TOKEN_NODE].banned = True
    async with world.running() as service:
        with pytest.raises(NodeBannedError, match=r"^node is banned$"):
            await service
    assert world.kept is None
    assert world.state.bundle() is None


async def test_a_ban_that_others_are_told_of_counts_as_well(world):
    with pytest.raises(NodeBannedError):
        await world.session.recover(NodeBannedError("node is banned"))
    assert world.kept is None


async def test_a_ban_that_meets_a_node_that_proves_itself_again_counts_as_well(machine):
    machine.issuer.nodes[MACHINE].banned = True
    with pytest.raises(NodeBannedError):
        await machine.session.recover(REJECTED)
    assert machine.kept is None


async def test_a_banned_node_cannot_start(machine):
    machine.issuer.nodes[MACHINE].banned = True
    await machine.clock.advance(2 * HOUR)
    machine.restart_as_machine()
    with pytest.raises(NodeBannedError):
        await machine.session.start()
    assert machine.state.bundle() is None


# Evicted.


async def test_an_evicted_node_proves_itself_again(machine):
    before = machine.svid
    machine.issuer.nodes.clear()
    with pytest.raises(MustReattestError) as caught:
        await a_call(machine)
    await machine.session.recover(caught.value)
    assert machine.svid.serial_number != before.serial_number
    assert machine.kept.svid == machine.svid
    await a_call(machine)


async def test_an_evicted_node_whose_token_is_spent_ends(world):
    world.issuer.nodes.clear()
    async with world.running() as service:
        with pytest.raises(NodeAttestationError, match="already been used"):
            await service


@pytest.mark.parametrize("error", [AWAY, FALSE], ids=["away", "false"])
async def test_an_evicted_node_tries_until_the_issuer_answers(machine, caplog, error):
    machine.issuer.nodes.clear()
    machine.issuer.failing = {"attest": error}
    async with machine.running() as service:
        await machine.clock.advance(MINUTE)
        assert not service.done()
        assert "node not attested yet" in caplog.text
        machine.issuer.failing = {}
        await machine.clock.advance(RETRY[1] * 1.1)
        assert not service.done()
    await a_call(machine)


async def test_an_evicted_node_whose_disk_is_full_tries_until_it_is_not(machine):
    before = machine.svid
    machine.issuer.nodes.clear()
    machine.state.full = True
    await machine.session.recover(REJECTED)
    assert machine.svid == before
    machine.state.full = False
    await machine.session.recover(REJECTED)
    await a_call(machine)


async def test_services_that_are_refused_together_have_the_node_prove_itself_once(machine):
    machine.issuer.nodes.clear()
    await asyncio.gather(*(machine.session.recover(REJECTED) for _ in range(5)))
    assert machine.called("attest") == 2
    await a_call(machine)


async def test_a_bundle_that_is_pushed_meanwhile_is_not_undone(machine):
    newer = replace(machine.issuer.bundle, sequence=7)

    class Slow(FakeClient):
        async def attest(self, *args):
            machine.session.adopt_bundle(newer)
            return await super().attest(*args)

    machine.client.anonymous = lambda bundle: contextlib.nullcontext(
        Slow(machine.issuer, Credentials(bundle))
    )
    await machine.session.recover(REJECTED)
    assert machine.client.credentials.bundle == newer
    assert machine.kept.bundle == newer


# Late.


async def test_an_identity_that_has_expired_while_the_issuer_was_away_is_replaced(machine):
    machine.issuer.error = AWAY
    async with machine.running():
        await machine.clock.advance(2 * HOUR)
        machine.issuer.error = None
        await machine.clock.advance(RETRY[1] * 1.1)
    assert machine.left > 59 * MINUTE


async def test_a_node_that_may_be_refused_for_an_expired_identity_proves_itself(world, caplog):
    """An issuer that verifies certificates at the door refuses the connection and gives no reason."""
    await world.clock.advance(HOUR + SECOND)
    world.issuer.tokens = {"token"}
    world.issuer.failing = {"renew": IssuerUnavailableError("connection was refused")}
    async with world.running() as service:
        await world.clock.advance(SECOND)
        assert not service.done()
    assert world.left > 59 * MINUTE
    assert "node SVID has expired, attesting again" in caplog.text


async def test_an_issuer_that_is_away_does_not_have_a_valid_node_prove_itself(world):
    world.issuer.error = AWAY
    async with world.running() as service:
        await world.clock.advance(59 * MINUTE)
        assert not service.done()
    assert world.called("attest") == 1


# Lost authorities.


async def test_a_node_follows_an_issuer_that_the_operator_vouches_for(machine):
    """The issuer was built anew; what the operator gave the node names its authority."""
    machine.issuer.rebuild()
    machine.bootstrap = machine.issuer.bundle
    machine.restart_as_machine()
    await machine.session.start()
    async with machine.running():
        await machine.clock.advance(CHECK_EVERY)
        await a_call(machine)
    assert machine.client.credentials.bundle == machine.issuer.bundle
    assert machine.kept.bundle == machine.issuer.bundle
    assert machine.kept.svid == machine.svid


async def test_a_node_without_another_proof_asks_for_the_bundle_and_keeps_its_identity(world):
    """Its bundle is too old, its SVID still counts."""
    svid = world.svid
    world.issuer.ca = TestCA("example.org", now=world.clock.now())
    world.bootstrap = world.issuer.bundle
    world.restart()
    await world.session.start()
    async with world.running() as service:
        await world.clock.advance(CHECK_EVERY)
        assert not service.done()
        await a_call(world)
    assert world.svid == svid
    assert world.kept.bundle == world.issuer.bundle
    assert world.client.drops == 1, "else the next call waits until gRPC dials again"
    assert world.called("attest") == 1


async def test_what_the_operator_gives_a_running_node_is_read(machine, caplog):
    machine.issuer.rebuild()
    async with machine.running():
        machine.bootstrap = ConfigError("attestor.trust_bundle_path: no such file")
        await machine.session.recover(FALSE)
        assert "trust bundle cannot be read" in caplog.text
        machine.bootstrap = machine.issuer.bundle
        await machine.session.recover(FALSE)
        await a_call(machine)


async def test_a_mistake_in_what_the_operator_gives_ends_the_start(tmp_path):
    world = World(tmp_path)
    world.bootstrap = ConfigError("attestor.trust_bundle_path: no such file")
    with pytest.raises(ConfigError):
        await world.session.start()


async def test_services_that_distrust_together_bootstrap_once(machine):
    machine.issuer.rebuild()
    machine.bootstrap = machine.issuer.bundle
    machine.restart_as_machine()
    await machine.session.start()
    await asyncio.gather(*(machine.session.recover(FALSE) for _ in range(5)))
    assert machine.called("attest") == 2


async def test_a_node_that_was_never_attested_follows_too(tmp_path):
    world = World(tmp_path)
    world.restart_as_machine()
    await world.session.start()
    world.issuer.rebuild()
    world.bootstrap = world.issuer.bundle
    await world.clock.advance(2 * HOUR)
    world.restart_as_machine()
    async with world.starting() as start:
        await world.clock.advance(SECOND)
        assert start.done()
    await a_call(world)


async def test_a_false_issuer_changes_nothing(machine, caplog):
    """Nor does it make the node forget what it knows for what it was given once."""
    true, known = machine.issuer.ca, machine.client.credentials.bundle
    machine.issuer.ca = TestCA("example.org")
    machine.bootstrap = TestCA("example.org").bundle
    machine.restart_as_machine()
    await machine.session.start()
    async with machine.running() as service:
        await machine.clock.advance(MINUTE)
        assert not service.done()
        assert machine.client.credentials.bundle == known
        machine.issuer.ca = true
        await machine.clock.advance(RETRY[1] * 1.1)
        await a_call(machine)
    assert "issuer is not trusted, bootstrapping again" in caplog.text
    assert machine.called("attest") == 1


async def test_a_node_that_is_refused_by_an_issuer_built_anew_goes_on_trying(machine, caplog):
    machine.issuer.rebuild()
    machine.bootstrap = machine.issuer.bundle
    machine.restart_as_machine()
    await machine.session.start()
    machine.issuer.failing = {"attest": NodeAttestationError("no configured root vouches")}
    async with machine.running() as service:
        await machine.clock.advance(MINUTE)
        assert not service.done()
        machine.issuer.failing = {}
        await machine.clock.advance(RETRY[1] * 1.1)
        await a_call(machine)
    assert "no configured root vouches" in {getattr(record, "reason", "") for record in caplog.records}


async def test_never_means_that_only_the_remembered_bundle_counts(machine, caplog):
    known = machine.client.credentials.bundle
    machine.issuer.rebuild()
    machine.bootstrap = machine.issuer.bundle
    machine.restart_as_machine(rebootstrap=False)
    await machine.session.start()
    async with machine.running() as service:
        await machine.clock.advance(20 * MINUTE)
        assert not service.done()
    assert machine.client.credentials.bundle == known
    assert machine.called("attest") == 1
    assert "issuer cannot be used now" in caplog.text


async def test_an_insecure_first_contact_is_not_repeated(machine):
    """Else whoever stands between would only have to show any certificate to be trusted."""
    known = machine.client.credentials.bundle
    machine.issuer.rebuild()
    machine.bootstrap = None
    machine.restart_as_machine()
    await machine.session.start()
    async with machine.running():
        await machine.clock.advance(20 * MINUTE)
    assert machine.client.credentials.bundle == known
    machine.restart_as_machine()
    await machine.clock.advance(HOUR)
    async with machine.starting() as start:
        await machine.clock.advance(MINUTE)
        assert not start.done()
    assert machine.called("attest") == 1


async def test_an_insecure_first_contact_remembers_whom_it_met(tmp_path):
    world = World(tmp_path)
    world.bootstrap = None
    world.restart()
    await world.session.start()
    assert world.client.credentials.bundle == world.issuer.bundle
    assert world.kept.bundle == world.issuer.bundle


# A disk that is full.


async def test_a_renewal_that_cannot_be_kept_is_tried_again(world, caplog):
    before = world.svid
    world.state.full = True
    async with world.running() as service:
        await world.clock.advance(40 * MINUTE)
        assert world.svid == before
        assert "node identity cannot be kept" in caplog.text
        world.state.full = False
        await world.clock.advance(RETRY[1] * 1.1)
        assert not service.done()
    assert world.svid != before
    assert world.kept.svid == world.svid


async def test_a_bundle_that_cannot_be_kept_counts_until_a_restart(world, caplog):
    newer = TestCA("example.org").bundle
    world.state.full = True
    world.session.adopt_bundle(newer)
    assert world.client.credentials.bundle == newer
    assert "bundle cannot be kept" in caplog.text
    world.restart()
    await world.session.start()
    assert world.client.credentials.bundle != newer


async def test_a_bundle_is_kept_over_a_restart(world):
    newer = TestCA("example.org").bundle
    world.session.adopt_bundle(newer)
    assert (world.kept.bundle, world.kept.svid) == (newer, world.svid)


async def test_a_bundle_that_is_known_is_not_written_again(world):
    world.state.full = True
    world.session.adopt_bundle(world.issuer.bundle)


async def test_a_bundle_before_there_is_an_identity_is_not_kept(tmp_path):
    world = World(tmp_path)
    world.session.adopt_bundle(newer := TestCA("example.org").bundle)
    assert world.client.credentials.bundle == newer
    assert world.state.bundle() is None


# The clock.


@pytest.mark.parametrize("step", [-100 * HOUR, -MINUTE, MINUTE, 2 * HOUR, 100 * HOUR])
async def test_a_step_of_the_clock_does_not_make_a_node_ask_without_end(world, step):
    world.issuer.clock = true = FakeClock(world.clock.now())  # which nobody steps
    async with world.running():
        world.clock.step(step)
        for _ in range(20):
            await true.advance(MINUTE)
            await world.clock.advance(MINUTE)
        assert world.called("renew") <= 1
        for _ in range(20):
            await true.advance(MINUTE)
            await world.clock.advance(MINUTE)
    assert 1 <= world.called("renew") <= 2
    assert world.called("attest") == 1


# What it tells.


async def test_the_issuer_is_told_the_version_once(world):
    async with world.running():
        await world.clock.advance(20 * MINUTE)
    assert world.called("post_status") == 1


async def test_what_could_not_be_told_is_told_later_and_does_not_keep_the_node_from_renewing(world):
    """Older servers do not know the call."""
    world.issuer.failing = {"post_status": AWAY}
    async with world.running():
        await world.clock.advance(35 * MINUTE)
        assert world.called("renew") == 1
        world.issuer.failing = {}
        told = world.called("post_status")
        await world.clock.advance(5 * MINUTE)
        assert world.called("post_status") == told + 1


async def test_an_error_of_the_disk_is_an_error_in_the_log(world, caplog):
    await world.session.recover(StateError("node identity cannot be kept"))
    assert caplog.records[-1].levelname == "ERROR"


async def test_a_node_is_ready_at_once(world):
    ready = asyncio.Event()
    service = asyncio.create_task(world.session.run(ready.set))
    await asyncio.wait_for(ready.wait(), 5)
    service.cancel()
    await asyncio.gather(service, return_exceptions=True)

# SPDX-License-Identifier: Apache-2.0
"""The cache follows the issuer: by its push stream, or by polling one that cannot push."""

import asyncio
import contextlib
from dataclasses import replace
from datetime import timedelta

import pytest

from attestor.cache import Cache
from attestor.errors import IssuerUnavailableError, MustReattestError, NodeBannedError
from attestor.instances import Instances
from attestor.policies import SaidPolicies
from attestor.revocation import Said, TakenBack
from attestor.session import RETRY
from attestor.sync import Sync
from spiffekit.bundle import X509Authority
from spiffekit.testing import TestCA
from tests.attestor.factory import entry
from tests.fakes.clock import FakeClock
from tests.fakes.issuer import FakeIssuer

SECOND = timedelta(seconds=1)
EVERY = timedelta(seconds=5)
AWAY = IssuerUnavailableError("away")
NOW = timedelta(0)


class Session:
    """Remembers what it was told."""

    def __init__(self):
        self.errors = []
        self.bundles = []
        self.verdict = None

    async def recover(self, error):
        self.errors.append(error)
        if self.verdict is not None:
            raise self.verdict

    def adopt_bundle(self, bundle):
        self.bundles.append(bundle)


class World:
    def __init__(self):
        self.clock = FakeClock()
        self.issuer = FakeIssuer(self.clock)
        self.cache = Cache(self.issuer.ca.trust_domain)
        self.session = Session()
        self.client = self.issuer.client(self.issuer.node(lifetime=timedelta(days=1)))
        self.instances = Instances(self.client, self.cache, self.clock)
        self.sync = Sync(
            self.client,
            self.session,
            self.cache,
            instances=self.instances,
            clock=self.clock,
            poll_every=EVERY,
        )
        self.ready = False

    def announce(self):
        self.ready = True

    @contextlib.asynccontextmanager
    async def running(self):
        service = asyncio.create_task(self.sync.run(self.announce))
        await self.clock.advance(NOW)
        try:
            yield service
        finally:
            service.cancel()
            await asyncio.gather(service, return_exceptions=True)

    async def hear(self, *messages):
        """What the issuer says now."""
        self.issuer.push(*messages)
        await self.clock.advance(NOW)

    async def break_off(self):
        """The stream ends, and another is opened."""
        await self.hear(AWAY)
        await self.clock.advance(RETRY[0] * 1.2)

    @property
    def known(self):
        return sorted(self.cache.entries)


@pytest.fixture
def world():
    return World()


@pytest.fixture
def stock():
    """A world whose issuer cannot push."""
    world = World()
    world.issuer.pushes = False
    return world


# The push stream.


async def test_the_node_is_ready_with_the_first_state(world):
    world.issuer.opens_with_snapshot = False
    world.issuer.grant(entry("a"), entry("b"))
    async with world.running():
        assert not world.ready
        await world.hear(world.issuer.snapshot())
        assert world.ready
    assert world.known == ["a", "b"]
    assert world.cache.bundles.get(world.cache.trust_domain) == world.issuer.bundle
    assert world.session.bundles == [world.issuer.bundle]


async def test_the_state_is_there_before_the_node_is_ready(world):
    world.issuer.grant(entry("a"))
    seen = []
    world.announce = lambda: seen.append(world.known)
    async with world.running():
        pass
    assert seen == [["a"]]


async def test_a_snapshot_in_several_parts_is_applied_whole(world):
    world.issuer.opens_with_snapshot = False
    parts = [
        world.issuer.update(snapshot=True, more=True, entries=(entry("a"),)),
        world.issuer.update(snapshot=True, more=True, bundles=(world.issuer.bundle,)),
        world.issuer.update(snapshot=True, entries=(entry("b"),)),
    ]
    async with world.running():
        with world.cache.watching():
            version = world.cache.version
            await world.hear(parts[0])
            await world.hear(parts[1])
            assert (world.known, world.cache.version, world.ready) == ([], version, False)
            await world.hear(parts[2])
            assert (world.known, world.cache.version) == (["a", "b"], version + 1)


async def test_a_change_in_several_parts_is_applied_whole(world):
    world.issuer.grant(entry("a"), entry("b"))
    async with world.running():
        await world.hear(world.issuer.update(more=True, removed=("a",)))
        assert world.known == ["a", "b"]
        await world.hear(world.issuer.update(entries=(entry("c"),)))
        assert world.known == ["b", "c"]


async def test_half_a_change_is_dropped_with_its_stream(world):
    world.issuer.grant(entry("a"))
    async with world.running():
        await world.hear(world.issuer.update(revision=2, more=True, removed=("a",)))
        await world.break_off()
        assert world.known == ["a"]
        await world.hear(world.issuer.update(revision=2, entries=(entry("b"),)))
        assert world.known == ["a", "b"]
    assert world.issuer.watches == [(0, ""), (1, "epoch")]


async def test_a_heartbeat_between_two_parts_belongs_to_neither(world):
    async with world.running():
        await world.hear(
            world.issuer.update(revision=2, more=True, entries=(entry("a"),)),
            world.issuer.update(revision=2, heartbeat=True),
        )
        await world.break_off()
        assert world.issuer.watches[-1] == (1, "epoch")
        await world.hear(
            world.issuer.update(revision=2, more=True, entries=(entry("a"),)),
            world.issuer.update(revision=2, heartbeat=True),
            world.issuer.update(revision=2, entries=(entry("b"),)),
        )
    assert world.known == ["a", "b"]


async def test_what_a_snapshot_does_not_name_is_gone(world):
    world.issuer.grant(entry("a"))
    other = TestCA("other.org").bundle
    world.issuer.federated = {other.trust_domain: other}
    async with world.running():
        assert world.cache.bundles.get(other.trust_domain) == other
        await world.hear(
            world.issuer.update(snapshot=True, entries=(entry("b"),), bundles=(world.issuer.bundle,))
        )
        assert world.known == ["b"]
        assert world.cache.bundles.get(other.trust_domain) is None


async def test_bundles_come_and_go(world):
    other = TestCA("other.org").bundle
    async with world.running():
        await world.hear(world.issuer.update(bundles=(other,)))
        assert world.cache.bundles.get(other.trust_domain) == other
        await world.hear(world.issuer.update(removed_bundles=(other.trust_domain,)))
        assert world.cache.bundles.get(other.trust_domain) is None
    assert world.session.bundles == [world.issuer.bundle], "only our own says whom we trust"


async def test_our_own_bundle_is_what_the_node_trusts_from_then_on(world):
    newer = replace(world.issuer.bundle, sequence=9)
    async with world.running():
        await world.hear(world.issuer.update(bundles=(newer,)))
    assert world.session.bundles == [world.issuer.bundle, newer]


async def test_tainted_authorities_are_known(world):
    async with world.running():
        await world.hear(world.issuer.update(tainted=("0f",)))
        assert world.cache.tainted == {"0f"}


async def test_an_update_without_our_own_bundle_is_refused_whole(world):
    """It was malformed, or is said to be gone: nobody could be verified by what is left."""
    async with world.running():
        await world.hear(
            world.issuer.update(
                revision=9, removed_bundles=(world.cache.trust_domain,), entries=(entry("a"),)
            )
        )
        (error,) = world.session.errors
        assert str(error) == "issuer's own bundle is malformed or gone"
        assert world.known == []
        assert world.cache.bundles.get(world.cache.trust_domain) == world.issuer.bundle
        await world.clock.advance(RETRY[1])
        assert world.issuer.watches == [(0, ""), (1, "epoch")]


# What is taken back.


def revoking(world, **fields):
    said = Said(world.issuer.ca.status(**fields), (world.issuer.ca.crl(7),))
    return world.issuer.update(heartbeat=True, revocations=said)


async def test_what_is_taken_back_counts_as_soon_as_it_is_said(world):
    agent = entry("agent")
    world.issuer.grant(agent)
    async with world.running():
        assert world.cache.matching(agent.selectors) == (agent,)
        world.cache.put_svids({"agent": world.issuer.ca.issue(str(agent.spiffe_id))})
        await world.hear(revoking(world, suspended=frozenset([agent.spiffe_id])))
        assert world.cache.matching(agent.selectors) == ()
        assert world.cache.svid(agent) is None
        assert len(world.cache.taken_back.crls) == 1
        await world.hear(world.issuer.update(heartbeat=True))
        assert world.cache.matching(agent.selectors) == ()
        await world.hear(revoking(world, sequence=2))
        assert world.cache.matching(agent.selectors) == (agent,)


async def test_before_there_is_a_bundle_nothing_of_it_is_believed(world):
    world.issuer.opens_with_snapshot = False
    async with world.running():
        await world.hear(revoking(world))
        assert world.cache.taken_back == TakenBack()
        await world.hear(world.issuer.snapshot(), revoking(world))
        assert world.cache.taken_back.status is not None


async def test_what_was_taken_back_stays_so_while_the_issuer_is_away(world):
    agent = entry("agent")
    world.issuer.grant(agent)
    async with world.running():
        await world.hear(revoking(world, suspended=frozenset([agent.spiffe_id])))
        world.issuer.error = AWAY
        await world.hear(AWAY)
        await world.clock.advance(timedelta(hours=1))
        assert world.cache.matching(agent.selectors) == ()


# Where a stream goes on.


async def test_a_stream_that_breaks_is_resumed_where_it_ended(world):
    async with world.running():
        await world.hear(world.issuer.update(revision=7, entries=(entry("a"),)))
        await world.break_off()
        assert world.session.errors == [AWAY]
    assert world.issuer.watches == [(0, ""), (7, "epoch")]


async def test_a_heartbeat_moves_the_revision(world):
    """What lies between was not for this node; the issuer need not look it up again."""
    async with world.running():
        await world.hear(world.issuer.update(heartbeat=True, revision=9))
        await world.break_off()
    assert world.issuer.watches == [(0, ""), (9, "epoch")]


async def test_a_heartbeat_of_another_epoch_does_not(world):
    async with world.running():
        await world.hear(world.issuer.update(heartbeat=True, revision=9, epoch="another"))
        await world.break_off()
    assert world.issuer.watches == [(0, ""), (1, "epoch")]


async def test_when_the_issuer_last_said_what_holds_is_known(world):
    assert world.sync.known_at is None
    async with world.running():
        assert world.sync.known_at == 0
        for message in (
            world.issuer.update(revision=1, heartbeat=True),
            world.issuer.update(revision=2, entries=(entry("a"),)),
        ):
            await world.clock.advance(SECOND)
            await world.hear(message)
            assert world.sync.known_at == world.clock.monotonic()
        await world.clock.advance(SECOND)
        await world.hear(world.issuer.update(revision=3, more=True))
        assert world.sync.known_at == world.clock.monotonic() - 1


async def test_half_a_change_does_not_move_the_revision(world):
    async with world.running():
        await world.hear(world.issuer.update(revision=9, more=True))
        await world.break_off()
    assert world.issuer.watches == [(0, ""), (1, "epoch")]


async def test_another_epoch_starts_over(world):
    async with world.running():
        world.issuer.epoch = "another"
        await world.break_off()
        await world.break_off()
    assert world.issuer.watches == [(0, ""), (1, "epoch"), (1, "another")]


async def test_a_stream_whose_connections_were_dropped_is_opened_at_once_and_is_no_trouble(world):
    async with world.running():
        world.client.drop_connections()
        await world.clock.advance(NOW)
        assert len(world.issuer.watches) == 2
    assert world.session.errors == []


# When the issuer cannot be followed.


async def test_an_issuer_that_is_away_is_asked_again_with_waits_that_grow(world):
    world.issuer.error = AWAY
    async with world.running() as service:
        tries = []
        for _ in range(120):
            tries.append(len(world.session.errors))
            await world.clock.advance(SECOND)
        assert 5 <= tries[5] - tries[0] <= 10
        assert 1 <= tries[-1] - tries[-61] <= 4
        assert not world.ready
        assert not service.done()
        world.issuer.error = None
        await world.clock.advance(RETRY[1] * 1.1)
        assert world.ready


async def test_waits_are_short_again_after_something_was_heard(world):
    world.issuer.error = AWAY
    async with world.running():
        await world.clock.advance(timedelta(minutes=2))
        world.issuer.error = None
        await world.clock.advance(RETRY[1] * 1.1)
        await world.break_off()
        assert len(world.issuer.streams) == 1


async def test_what_is_known_stays_while_the_issuer_is_away(world):
    world.issuer.grant(entry("a"))
    async with world.running():
        world.issuer.error = AWAY
        await world.hear(AWAY)
        await world.clock.advance(timedelta(minutes=5))
        assert world.known == ["a"]


@pytest.mark.parametrize(
    "error", [NodeBannedError("banned"), MustReattestError("evicted")], ids=["ban", "evict"]
)
async def test_what_an_error_means_is_for_the_session_to_say(world, error):
    world.session.verdict = error
    async with world.running() as service:
        await world.hear(error)
        with pytest.raises(type(error)):
            await service
    assert world.session.errors == [error]


async def test_a_service_that_ends_leaves_no_task_behind(world):
    world.issuer.error = AWAY
    before = asyncio.all_tasks()
    async with world.running():
        assert len(asyncio.all_tasks() - before) == 2
    await world.clock.advance(NOW)
    assert asyncio.all_tasks() == before


# Polling.


async def test_an_issuer_that_cannot_push_is_polled_and_said_so_once(stock, caplog):
    stock.issuer.grant(entry("a"))
    async with stock.running():
        assert stock.ready
        assert stock.known == ["a"]
        await stock.clock.advance(10 * EVERY)
    assert stock.issuer.calls.count("watch") == 1
    assert 9 <= stock.issuer.calls.count("sync_entries") <= 13
    assert caplog.text.count("issuer has no push stream") == 1
    assert stock.session.bundles[0] == stock.issuer.bundle


async def test_polls_of_many_nodes_are_spread():
    waits = set()
    for _ in range(5):
        world = World()
        world.issuer.pushes = False
        async with world.running():
            waits.add(world.clock._sleepers[0][0])
    assert len(waits) == 5
    assert all(0.9 * EVERY <= wait * SECOND <= 1.1 * EVERY for wait in waits)


async def test_a_poll_brings_what_has_changed_and_wakes_nobody_otherwise(stock):
    stock.issuer.grant(entry("a"), entry("b"))
    async with stock.running():
        version = stock.cache.version
        await stock.clock.advance(4 * EVERY)
        assert stock.cache.version == version
        del stock.issuer.entries["a"]
        stock.issuer.grant(entry("c"), entry("b", revision=1))
        await stock.clock.advance(EVERY * 1.1)
        assert stock.known == ["b", "c"]
        assert stock.cache.entries["b"].revision == 1
        assert stock.cache.version == version + 1


async def test_a_poll_brings_federated_bundles_of_the_entries(stock):
    other = TestCA("other.org").bundle
    stock.issuer.federated = {other.trust_domain: other}
    async with stock.running():
        assert stock.cache.bundles.get(other.trust_domain) is None
        stock.issuer.grant(entry("a", federates_with=["other.org"]))
        await stock.clock.advance(EVERY * 1.1)
        assert stock.cache.bundles.get(other.trust_domain) == other


async def test_a_federated_bundle_that_is_not_there_yet_does_not_keep_the_rest_away(stock):
    stock.issuer.grant(entry("a", federates_with=["other.org"]))
    async with stock.running():
        assert stock.ready
        assert stock.known == ["a"]
        other = TestCA("other.org").bundle
        stock.issuer.federated = {other.trust_domain: other}
        await stock.clock.advance(EVERY * 1.1)
        assert stock.cache.bundles.get(other.trust_domain) == other


async def test_a_poll_brings_a_new_bundle_with_its_tainted_authorities(stock):
    async with stock.running():
        (authority,) = stock.issuer.bundle.x509_authorities
        successor = TestCA("example.org", now=stock.clock.now())
        stock.issuer.ca = successor
        tainted = X509Authority(authority.certificate_der, tainted=True)
        whole = replace(successor.bundle, x509_authorities=(tainted, *successor.bundle.x509_authorities))
        stock.client.bundle = lambda: asyncio.sleep(0, whole)
        stock.client.credentials.bundle = None
        await stock.clock.advance(EVERY * 1.1)
    assert stock.cache.tainted == {authority.subject_key_id}
    assert stock.session.bundles[-1] == whole


async def test_a_poll_that_fails_changes_nothing_and_is_tried_again(stock):
    stock.issuer.grant(entry("a"))
    async with stock.running():
        assert stock.sync.known_at == 0
        stock.issuer.failing = {"bundle": AWAY}
        stock.issuer.grant(entry("b"))
        await stock.clock.advance(EVERY * 1.1)
        assert stock.known == ["a"]
        assert stock.sync.known_at == 0
        assert stock.session.errors == [AWAY] * len(stock.session.errors)
        stock.issuer.failing = {}
        await stock.clock.advance(EVERY)
        assert stock.known == ["a", "b"]


async def test_policies_are_held_as_soon_as_they_are_said_and_asked_for_only_if_they_are_others(world):
    token = world.issuer.ca.policies("permit(principal, action, resource);")
    async with world.running():
        await world.hear(world.issuer.update(heartbeat=True, policies=SaidPolicies(7, token)))
        assert world.sync.policies.token == token
        await world.hear(world.issuer.update(heartbeat=True, policies=SaidPolicies(8, "nonsense")))
        assert (world.sync.policies.token, world.sync.policies.refused) == (token, 1)
        await world.break_off()
    assert world.issuer.resumed_policies == [0, 7]

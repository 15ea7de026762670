# SPDX-License-Identifier: Apache-2.0
"""Every entry has an SVID with a key of its own, replaced at half of its life, whatever the clock does."""

import asyncio
import contextlib
from datetime import timedelta

import pytest

from attestor.cache import Cache
from attestor.connection import Credentials
from attestor.errors import IssuerUnavailableError, NodeBannedError
from attestor.issuer_client import make_csr, new_key
from attestor.rotation import BATCH, REFUSED_FOR, Rotation
from spiffekit.errors import SpiffeError
from tests.attestor.factory import entry, selectors
from tests.fakes.clock import FakeClock
from tests.fakes.issuer import FakeClient, FakeIssuer

HOUR = timedelta(hours=1)
MINUTE = timedelta(minutes=1)
SECOND = timedelta(seconds=1)


class World:
    def __init__(self):
        self.clock = FakeClock()
        self.issuer = FakeIssuer(FakeClock())  # on a clock of its own, which nobody steps
        self.cache = Cache(self.issuer.ca.trust_domain)
        self.credentials = Credentials(None, self.issuer.node(lifetime=10_000 * HOUR))
        client = FakeClient(self.issuer, self.credentials)
        self.rotation = Rotation(client, self.cache, clock=self.clock)

    def apply(self, *entries, **changes):
        self.issuer.grant(*entries)
        self.cache.apply(entries=entries, **changes)

    def serial(self, entry_id="only"):
        svid = self.cache.svid(self.cache.entries[entry_id])
        return svid and svid.serial_number

    async def pass_time(self, span):
        """On both clocks."""
        steps = max(int(span / (10 * SECOND)), 1)
        for _ in range(steps):
            self.issuer.clock.step(span / steps)
            await self.clock.advance(span / steps)

    @contextlib.asynccontextmanager
    async def running(self):
        ready = asyncio.Event()
        service = asyncio.create_task(self.rotation.run(ready.set))
        await asyncio.wait({asyncio.create_task(ready.wait()), service}, return_when=asyncio.FIRST_COMPLETED)
        try:
            yield service
        finally:
            service.cancel()
            await asyncio.gather(service, return_exceptions=True)


@pytest.fixture
def world():
    return World()


async def test_it_is_ready_with_an_svid_for_every_entry(world):
    entries = [entry(f"e{n}") for n in range(5)]
    world.apply(*entries)
    async with world.running():
        assert all(world.cache.svid(e) is not None for e in entries)
    assert world.issuer.batches == [["e0", "e1", "e2", "e3", "e4"]]


async def test_each_svid_has_a_key_of_its_own_and_each_rotation_a_new_one(world):
    world.apply(entry("a"), entry("b"))
    await world.rotation.rotate()
    first = {e.id: world.cache.svid(e).private_key_der for e in world.cache.entries.values()}
    await world.pass_time(MINUTE)
    world.clock.step(2 * HOUR)
    await world.rotation.rotate()
    second = {e.id: world.cache.svid(e).private_key_der for e in world.cache.entries.values()}
    assert len({*first.values(), *second.values()}) == 4


async def test_many_entries_are_asked_for_in_batches(world, monkeypatch):
    monkeypatch.setattr(world.rotation, "_batch", 2)
    world.apply(*(entry(f"e{n}") for n in range(5)))
    await world.rotation.rotate()
    assert [len(batch) for batch in world.issuer.batches] == [2, 2, 1]
    assert BATCH <= 500  # what an issuer takes in one call


async def test_nothing_is_asked_for_without_need(world):
    world.apply(entry("only"))
    async with world.running():
        await world.pass_time(20 * MINUTE)
        world.cache.notify()
        await world.pass_time(SECOND)
    assert len(world.issuer.batches) == 1


async def test_an_svid_is_replaced_at_half_of_its_life_with_jitter(world):
    entries = [entry(f"e{n}") for n in range(60)]
    world.apply(*entries)
    async with world.running():
        await world.pass_time(26 * MINUTE)
        assert len(world.issuer.batches) == 1
        await world.pass_time(8 * MINUTE)
    replaced = world.issuer.batches[1:]
    assert sorted(entry_id for batch in replaced for entry_id in batch) == sorted(e.id for e in entries)
    assert len(replaced) > 20  # and not all at once


@pytest.mark.parametrize("step", [HOUR, -HOUR, 100 * HOUR, -100 * HOUR])
async def test_a_step_of_the_clock_neither_stops_rotation_nor_makes_it_ask_without_end(world, step):
    world.apply(entry("only"))
    async with world.running():
        await world.pass_time(MINUTE)
        world.clock.step(step)
        await world.pass_time(5 * MINUTE)
        assert len(world.issuer.batches) == 2  # once, because by that clock the SVID does not hold
        serial = world.serial()
        await world.pass_time(30 * MINUTE)
        assert len(world.issuer.batches) == 3  # and then at half of its life, as ever
        assert world.serial() != serial
        world.clock.step(-step)
        await world.pass_time(40 * MINUTE)
        assert len(world.issuer.batches) <= 5


async def test_what_there_is_goes_on_being_served_while_the_issuer_is_away(world):
    world.apply(entry("only"))
    async with world.running():
        serial = world.serial()
        world.issuer.error = IssuerUnavailableError("away")
        await world.pass_time(50 * MINUTE)
        assert world.serial() == serial
        tries = len(world.issuer.batches)
        assert 20 < tries < 120  # with waits that grow
        world.issuer.error = None
        await world.pass_time(40 * SECOND)
        assert world.serial() != serial


async def test_an_issuer_that_is_away_at_the_start_does_not_keep_the_node_from_starting(world, caplog):
    world.apply(entry("only"))
    world.issuer.error = IssuerUnavailableError("away")
    async with world.running() as service:
        assert not service.done()
        assert world.serial() is None
        world.issuer.error = None
        await world.pass_time(40 * SECOND)
        assert world.serial() is not None
    assert "SVIDs not renewed yet" in caplog.text


async def test_a_ban_is_left_to_the_session_which_forgets_the_node(world, caplog):
    world.apply(entry("only"))
    world.issuer.error = NodeBannedError("banned")
    async with world.running() as service:
        await world.pass_time(MINUTE)
        assert not service.done()
    assert "SVIDs not renewed yet" in caplog.text


async def test_a_new_entry_has_its_svid_at_once(world):
    async with world.running():
        world.apply(entry("late"))
        await world.clock.advance(timedelta(0))
        assert world.serial("late") is not None


async def test_a_changed_entry_gets_another_svid(world):
    world.apply(entry("only"))
    async with world.running():
        before = world.serial()
        world.apply(entry("only", path="/moved", revision=1))
        await world.clock.advance(timedelta(0))
        after = world.cache.svid(world.cache.entries["only"])
        assert after.serial_number != before
        assert str(after.spiffe_id) == "spiffe://example.org/moved"


async def test_an_entry_that_is_gone_leaves_nothing_behind(world):
    world.apply(entry("only"))
    world.issuer.refused = {"refused"}
    world.apply(entry("refused"))
    await world.rotation.rotate()
    world.cache.apply(entries=[], snapshot=True)
    await world.rotation.rotate()
    assert (world.rotation._plans, world.rotation._refused) == ({}, {})


@pytest.mark.parametrize("trouble", ["refused", "spoiled"])
async def test_an_entry_without_an_svid_does_not_deny_the_others_and_is_asked_for_later(
    world, trouble, caplog
):
    getattr(world.issuer, trouble).add("bad")
    world.apply(entry("bad"), entry("good"), bundles=[world.issuer.bundle])
    async with world.running():
        assert world.serial("good") is not None
        assert [i.entry.id for i in world.cache.update(selectors("unix:uid:1")).identities] == ["good"]
        await world.pass_time(REFUSED_FOR - 2 * SECOND)
        assert world.issuer.batches == [["bad", "good"]]
        assert caplog.text.count("no SVID for an entry") == 1
        getattr(world.issuer, trouble).clear()
        await world.pass_time(4 * SECOND)
        assert world.serial("bad") is not None


async def test_an_svid_of_an_entry_that_changed_while_it_was_issued_is_not_used(world):
    """It may have other DNS names, or too long a life."""
    world.apply(entry("only"), entry("gone"))
    changed = entry("only", revision=1)

    class Slow(FakeClient):
        async def new_x509_svids(self, requests):
            chains = await super().new_x509_svids(requests)
            world.apply(changed)
            world.cache.apply(entries=[], removed=["gone"])
            return chains

    world.rotation = Rotation(Slow(world.issuer, world.credentials), world.cache, clock=world.clock)
    await world.rotation.rotate()
    assert world.serial() is None
    world.rotation = Rotation(FakeClient(world.issuer, world.credentials), world.cache, clock=world.clock)
    await world.rotation.rotate()
    assert world.serial() is not None
    assert world.issuer.batches == [["only", "gone"], ["only"]]


async def test_a_refused_entry_that_changes_is_asked_for_at_once(world):
    world.issuer.refused = {"bad"}
    world.apply(entry("bad"))
    async with world.running():
        world.issuer.refused = set()
        world.apply(entry("bad", revision=1))
        await world.clock.advance(timedelta(0))
        assert world.serial("bad") is not None


async def test_an_svid_of_a_tainted_authority_is_replaced_at_once(world):
    world.apply(entry("only"))
    async with world.running():
        before = world.serial()
        old = authority_of(world)
        world.issuer.ca = type(world.issuer.ca)("example.org", now=world.issuer.clock.now())
        world.apply(entry("only"), tainted=[old])
        await world.clock.advance(timedelta(0))
        assert world.serial() != before
        assert authority_of(world) != old
        await world.pass_time(MINUTE)
    assert len(world.issuer.batches) == 2


async def test_an_issuer_that_goes_on_with_a_tainted_authority_is_not_asked_without_end(world):
    world.apply(entry("only"))
    async with world.running():
        world.apply(entry("only"), tainted=[authority_of(world)])
        await world.pass_time(MINUTE)
        assert world.serial() is not None
    assert 2 < len(world.issuer.batches) < 10


def authority_of(world):
    svid = world.cache.svid(world.cache.entries["only"])
    from cryptography import x509

    extension = svid.leaf.extensions.get_extension_for_class(x509.AuthorityKeyIdentifier)
    return extension.value.key_identifier.hex()


async def test_an_answer_for_another_key_is_not_used(world):
    class Confused(FakeClient):
        async def new_x509_svids(self, requests):
            return await super().new_x509_svids([(entry_id, make_csr(new_key())) for entry_id, _ in requests])

    client = Confused(world.issuer, world.credentials)
    world.rotation = Rotation(client, world.cache, clock=world.clock)
    world.apply(entry("only"))
    with contextlib.suppress(SpiffeError):
        await world.rotation.rotate()
    assert world.serial() is None

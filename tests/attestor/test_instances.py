# SPDX-License-Identifier: Apache-2.0
"""What belongs to one process: made for it, renewed with new evidence, gone with it."""

import asyncio
import os
import subprocess
import sys
from dataclasses import replace
from datetime import timedelta

import pytest

from attestor.cache import Cache
from attestor.errors import IssuerUnavailableError, PeerGoneError
from attestor.instances import ASK_AGAIN, REFUSED_FOR, Instances, evidence_of
from attestor.peer import Process
from attestor.workload.examination import Examination
from spiffekit.daemon.peer import PeerProcess
from spiffekit.evidence import ContainerFacts
from spiffekit.id import SpiffeId
from tests.attestor.factory import entry, selectors
from tests.fakes.clock import FakeClock
from tests.fakes.issuer import FakeIssuer

HOUR = timedelta(hours=1)
SECOND = timedelta(seconds=1)
CONTAINER = ContainerFacts(engine="docker", id="a" * 64)


class World:
    def __init__(self, limit=10):
        self.clock = FakeClock()
        self.issuer = FakeIssuer(self.clock, lifetime=HOUR)
        self.client = self.issuer.client(self.issuer.node(lifetime=10_000 * HOUR))
        self.cache = Cache(self.issuer.ca.trust_domain)
        self.instances = Instances(self.client, self.cache, self.clock, limit=limit)

    def examination(self, *texts, container=None):
        found = selectors(*(texts or ("unix:uid:1",)))
        return Examination((), found, container, None, self.clock.now())

    async def ensure(self, process, *entries, **changes):
        examination = self.examination(**changes)
        self.issuer.grant(*entries)
        instance = self.instances.of(process, examination)
        await self.instances.ensure(instance, process, examination, entries)
        return instance


@pytest.fixture
async def world():
    world = World()
    yield world
    world.instances.close()


@pytest.fixture
def start():
    """Processes that run until the test ends."""
    children, peers = [], []

    def begin():
        child = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
        peer = PeerProcess.from_pid(child.pid)
        children.append(child)
        peers.append(peer)
        return child, Process.of(peer)

    yield begin
    for child in children:
        child.kill()
        child.wait()
        child.stdin.close()
    for peer in peers:
        peer.close()


OWN = entry("own", needs_evidence=True)


def serial(instance, entry_id="own"):
    return instance.svids()[entry_id].serial_number


async def test_each_process_has_svids_and_keys_of_its_own(world, start):
    (_, one), (_, two) = start(), start()
    first, second = await world.ensure(one, OWN), await world.ensure(two, OWN)
    assert first.uid != second.uid
    assert serial(first) != serial(second)
    assert first.svids()["own"].private_key_der != second.svids()["own"].private_key_der


async def test_a_process_is_the_same_instance_each_time(world, start):
    _, process = start()
    first, again = await world.ensure(process, OWN), await world.ensure(process, OWN)
    assert first is again
    assert world.issuer.batches == [["own"]]
    assert len(world.instances) == 1


async def test_a_uid_tells_nothing_and_is_never_the_same(start):
    _, process = start()
    uids = set()
    for _ in range(5):
        world = World()
        uids.add((await world.ensure(process, OWN)).uid)
        world.instances.close()
    assert len(uids) == 5
    assert all(len(uid) == 26 and uid.islower() for uid in uids)


async def test_the_issuer_is_sent_evidence_of_this_process(world, start):
    child, process = start()
    path = os.path.realpath(f"/proc/{child.pid}/exe")
    examination = world.examination("unix:uid:1", f"unix:path:{path}", "unix:sha256:ff", container=CONTAINER)
    world.issuer.grant(OWN)
    instance = world.instances.of(process, examination)
    await world.instances.ensure(instance, process, examination, [OWN])
    (saw,) = world.issuer.evidence
    assert (saw.instance_uid, saw.selectors, saw.container) == (
        instance.uid,
        examination.selectors,
        CONTAINER,
    )
    assert (saw.process.pid, saw.process.uid) == (child.pid, os.getuid())
    assert (saw.process.executable, saw.process.sha256) == (path, "ff")
    assert saw.process.inode == os.stat(path).st_ino
    assert saw.collected_at == world.clock.now()


async def test_each_evidence_is_another(world, start):
    _, process = start()
    examination = world.examination()
    assert len({evidence_of("a" * 26, process, examination).id for _ in range(5)}) == 5


async def test_an_svid_is_renewed_at_half_of_its_life_with_another_key(world, start):
    _, process = start()
    instance = await world.ensure(process, OWN)
    before = instance.svids()["own"]
    assert 0.45 * 3600 <= instance.due() - world.clock.monotonic() <= 0.55 * 3600
    await world.clock.advance(0.4 * HOUR)
    await world.ensure(process, OWN)
    assert serial(instance) == before.serial_number
    await world.clock.advance(0.2 * HOUR)
    await world.ensure(process, OWN)
    after = instance.svids()["own"]
    assert after.serial_number != before.serial_number
    assert after.private_key_der != before.private_key_der


async def test_what_is_refused_is_withheld(world, start):
    _, process = start()
    other = entry("other", needs_evidence=True)
    world.issuer.refused.add("own")
    instance = await world.ensure(process, OWN, other)
    assert instance.svids().keys() == {"other"}
    assert instance.due() == world.clock.monotonic() + REFUSED_FOR


async def test_what_was_refused_is_asked_for_again(world, start):
    """The issuer may learn of a pod a moment later than we do."""
    _, process = start()
    world.issuer.refused.add("own")
    instance = await world.ensure(process, OWN)
    world.issuer.refused.clear()
    await world.clock.advance(REFUSED_FOR * SECOND)
    await world.ensure(process, OWN)
    assert instance.svids().keys() == {"own"}
    assert instance.due() > world.clock.monotonic() + 60


async def test_an_svid_whose_renewal_is_refused_is_gone(world, start):
    _, process = start()
    instance = await world.ensure(process, OWN)
    world.issuer.refused.add("own")
    await world.clock.advance(0.6 * HOUR)
    await world.ensure(process, OWN)
    assert instance.svids() == {}


async def test_while_the_issuer_is_away_what_is_valid_stays_and_is_asked_for_again(world, start):
    _, process = start()
    instance = await world.ensure(process, OWN)
    before = serial(instance)
    world.issuer.error = IssuerUnavailableError("away")
    await world.clock.advance(0.6 * HOUR)
    await world.ensure(process, OWN)
    assert serial(instance) == before
    assert instance.due() == world.clock.monotonic() + ASK_AGAIN
    world.issuer.error = None
    await world.clock.advance(ASK_AGAIN * SECOND)
    await world.ensure(process, OWN)
    assert serial(instance) != before


async def test_what_was_refused_is_not_asked_for_at_every_change(world, start):
    _, process = start()
    world.issuer.refused.add("own")
    await world.ensure(process, OWN)
    await world.ensure(process, OWN)
    assert world.issuer.batches == [["own"]]
    await world.ensure(process, replace(OWN, revision=1))  # but at once when the entry is another
    assert world.issuer.batches == [["own"], ["own"]]


async def test_a_refused_entry_that_is_gone_leaves_nothing_to_wait_for(world, start):
    """A time that is past for ever would keep the stream busy."""
    _, process = start()
    other = entry("other", needs_evidence=True)
    world.issuer.refused.add("own")
    instance = await world.ensure(process, OWN, other)
    await world.clock.advance(10 * REFUSED_FOR * SECOND)
    await world.ensure(process, other)
    assert instance.due() > world.clock.monotonic()


@pytest.mark.parametrize("held", [False, True], ids=["none yet", "expired"])
async def test_without_an_svid_an_issuer_that_is_away_is_told(world, start, held):
    _, process = start()
    if held:
        await world.ensure(process, OWN)
        await world.clock.advance(2 * HOUR)
    world.issuer.error = IssuerUnavailableError("away")
    with pytest.raises(IssuerUnavailableError, match="no SVID for this process"):
        await world.ensure(process, OWN)


async def test_an_svid_that_cannot_be_used_counts_as_none(world, start):
    _, process = start()
    world.issuer.spoiled.add("own")
    with pytest.raises(IssuerUnavailableError, match="cannot be used"):
        await world.ensure(process, OWN)


async def test_an_svid_for_another_id_counts_as_none(world, start):
    _, process = start()
    world.issuer.grant(replace(OWN, spiffe_id=SpiffeId.parse("spiffe://example.org/new")))
    examination = world.examination()
    instance = world.instances.of(process, examination)
    with pytest.raises(IssuerUnavailableError, match="is for spiffe:"):
        await world.instances.ensure(instance, process, examination, [OWN])
    assert instance.svids() == {}


@pytest.mark.parametrize(
    "changed",
    [replace(OWN, revision=1), replace(OWN, spiffe_id=SpiffeId.parse("spiffe://example.org/new"))],
    ids=["revision", "expansion"],
)
async def test_a_changed_entry_gives_another_svid(world, start, changed):
    _, process = start()
    instance = await world.ensure(process, OWN)
    before = serial(instance)
    await world.ensure(process, changed)
    assert serial(instance) != before
    assert instance.svids()["own"].spiffe_id == changed.spiffe_id


async def test_an_entry_that_is_gone_takes_its_svid_along(world, start):
    _, process = start()
    instance = await world.ensure(process, OWN)
    await world.ensure(process)
    assert instance.svids() == {}
    assert instance.due() is None


async def test_keys_end_with_their_process(world, start):
    child, process = start()
    instance = await world.ensure(process, OWN)
    child.kill()
    child.wait()
    async with asyncio.timeout(5):
        while len(world.instances):
            await asyncio.sleep(0.001)
    assert instance.svids() == {}
    with pytest.raises(PeerGoneError):
        world.instances.of(process, world.examination())


async def test_instances_are_bounded(start):
    world = World(limit=2)
    processes = [start()[1] for _ in range(3)]
    first, *_ = [await world.ensure(process, OWN) for process in processes]
    assert len(world.instances) == 2
    assert first.svids() == {}
    world.instances.close()
    assert len(world.instances) == 0


async def test_two_calls_of_one_process_ask_once(world, start):
    _, process = start()
    await asyncio.gather(*(world.ensure(process, OWN) for _ in range(5)))
    assert world.issuer.batches == [["own"]]


def taint(world):
    """The authority that the issuer signs with now."""
    (authority,) = world.issuer.bundle.x509_authorities
    world.cache.apply(entries=(), tainted=[authority.subject_key_id])


async def test_an_svid_of_a_tainted_authority_is_replaced_at_once(world, start):
    _, process = start()
    first = serial(await world.ensure(process, OWN))
    taint(world)
    world.issuer.ca = type(world.issuer.ca)("example.org", now=world.clock.now())
    world.client.credentials.bundle = world.issuer.bundle
    instance = await world.ensure(process, OWN)
    second = serial(instance)
    assert second != first
    assert instance.due() - world.clock.monotonic() > REFUSED_FOR
    assert serial(await world.ensure(process, OWN)) == second


async def test_an_issuer_that_goes_on_with_a_tainted_authority_is_asked_again_later(world, start):
    _, process = start()
    first = serial(await world.ensure(process, OWN))
    taint(world)
    second = serial(await world.ensure(process, OWN))
    assert second != first
    assert serial(await world.ensure(process, OWN)) == second
    await world.clock.advance(REFUSED_FOR * SECOND)
    assert serial(await world.ensure(process, OWN)) != second


async def test_an_svid_of_a_tainted_authority_stays_while_the_issuer_is_away(world, start):
    _, process = start()
    first = serial(await world.ensure(process, OWN))
    taint(world)
    world.issuer.error = IssuerUnavailableError("away")
    instance = await world.ensure(process, OWN)
    assert serial(instance) == first
    assert instance.due() == world.clock.monotonic() + ASK_AGAIN
    await world.ensure(process, OWN)
    assert world.issuer.calls.count("new_x509_svids") == 2

# SPDX-License-Identifier: Apache-2.0
"""What has ended goes, with a record of it; what lives, and what is banned, stays."""

import asyncio
from datetime import timedelta

import pytest

from issuer.errors import StoreError
from issuer.model import JoinToken, Outcome
from issuer.pruning import EVERY, Pruning
from issuer.store import Database
from spiffekit.id import SpiffeId
from tests.issuer.strategies import NOW, SERVER, a_node, an_entry, an_id, selectors

HOUR, DAY, INSTANT = timedelta(hours=1), timedelta(days=1), timedelta(microseconds=1)


async def ids(database):
    def act(tx):
        return {e.id for e in tx.entries.all()}, {str(n.id).rsplit("/", 1)[1] for n in tx.nodes.all()}

    return await database.read(act)


async def fill(database):
    def act(tx):
        for name, end in {"past": NOW - HOUR, "now": NOW, "future": NOW + INSTANT, "never": None}.items():
            tx.entries.create(an_entry(name, expires_at=end))
        for name, end in {"gone": NOW - DAY - INSTANT, "day": NOW - DAY, "fresh": NOW + HOUR}.items():
            tx.nodes.put(a_node(name, expires_at=end, can_reattest=True))
        tx.nodes.put(a_node("banned", expires_at=NOW - 100 * DAY, serial="", can_reattest=True))
        for seconds in (-1, 0, 1):
            tx.join_tokens.create(JoinToken(value=f"t{seconds}", expires_at=NOW + timedelta(seconds=seconds)))

    await database.write(act)


async def test_what_has_ended_goes(database, clock):
    await fill(database)
    pruning = Pruning(database, clock, nodes_expired_for=DAY)
    assert await pruning.prune() == 5
    assert await ids(database) == ({"future", "never"}, {"day", "fresh", "banned"})
    assert (await database.write(lambda tx: tx.join_tokens.redeem("t1"))).value == "t1"
    assert await pruning.prune() == 0


async def test_nodes_stay_for_ever_unless_an_operator_says_otherwise(database, clock):
    await fill(database)
    await Pruning(database, clock, nodes_expired_for=None).prune()
    assert (await ids(database))[1] == {"gone", "day", "fresh", "banned"}


async def test_a_node_that_is_trusted_on_first_use_stays_unless_an_operator_says_otherwise(database, clock):
    """Once it is forgotten, whoever has a copy of its proof is that node."""
    await database.write(lambda tx: tx.nodes.put(a_node("first", expires_at=NOW - 2 * DAY)))
    await Pruning(database, clock, nodes_expired_for=DAY).prune()
    assert (await ids(database))[1] == {"first"}
    await Pruning(database, clock, nodes_expired_for=DAY, tofu_nodes=True).prune()
    assert (await ids(database))[1] == set()


async def test_what_was_removed_is_recorded(database, clock):
    await fill(database)
    told = []
    database.on_commit.append(told.extend)
    await Pruning(database, clock, nodes_expired_for=DAY).prune()
    records = [record for _, record in await database.read(lambda tx: tx.audit.since(0, 100))]
    assert sorted(record.subject for record in records) == [
        "spiffe://example.org/now",
        "spiffe://example.org/past",
        "spiffe://example.org/spire/agent/gone",
    ]
    assert {(r.actor, r.act, r.outcome, r.at) for r in records} == {("issuer", "prune", Outcome.OK, NOW)}
    assert {change.key for change in told} == {"past", "now", "spiffe://example.org/spire/agent/gone"}
    assert all(change.value is None for change in told)


async def test_the_alias_of_a_node_goes_with_it(database, clock):
    node = a_node("gone", expires_at=NOW - 2 * DAY, can_reattest=True)
    alias = an_entry("alias", parent_id=SERVER, selectors=selectors(f"spiffe_id:{node.id}"))
    await database.write(lambda tx: (tx.nodes.put(node), tx.entries.create(alias)))
    await Pruning(database, clock, nodes_expired_for=DAY).prune()
    assert await ids(database) == (set(), set())


async def test_an_entry_and_the_node_whose_alias_it_is_may_end_together(database, clock):
    node = a_node("gone", expires_at=NOW - 2 * DAY, can_reattest=True)
    own = selectors(f"spiffe_id:{node.id}")
    alias = an_entry("alias", parent_id=SERVER, selectors=own, expires_at=NOW)
    await database.write(lambda tx: (tx.nodes.put(node), tx.entries.create(alias)))
    assert await Pruning(database, clock, nodes_expired_for=DAY).prune() == 2


@pytest.fixture
async def running(database, clock):
    tasks = []

    async def run(service):
        ready = asyncio.Event()
        tasks.append(asyncio.create_task(service.run(ready.set)))
        await asyncio.wait_for(ready.wait(), 5)
        return tasks[-1]

    yield run
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)


async def asleep(clock):
    """Wait until the service sleeps again."""
    for _ in range(5000):
        if clock.sleeping:
            return
        await asyncio.sleep(0.001)
    raise AssertionError("the service does not come to rest")


async def test_the_service_prunes_every_five_minutes(database, clock, running):
    await fill(database)
    await running(Pruning(database, clock, nodes_expired_for=None))
    await clock.advance(EVERY - timedelta(seconds=1))
    assert len((await ids(database))[0]) == 4
    await clock.advance(timedelta(seconds=1))
    await asleep(clock)
    assert (await ids(database))[0] == {"never"}
    await database.write(lambda tx: tx.entries.create(an_entry("later", expires_at=NOW + 2 * EVERY)))
    await clock.advance(EVERY)
    await asleep(clock)
    assert (await ids(database))[0] == {"never"}


async def test_more_than_a_batch_goes_in_one_round(database, clock, running):
    parent = SpiffeId.parse("spiffe://example.org/p")

    def act(tx):
        for number in range(25):
            entry = an_entry(f"e{number}", spiffe_id=an_id(f"/{number}"), parent_id=parent, expires_at=NOW)
            tx.entries.create(entry)

    await database.write(act)
    await running(Pruning(database, clock, nodes_expired_for=None, batch=10))
    await clock.advance(EVERY)
    await asleep(clock)
    assert (await ids(database))[0] == set()


class Failing(Database):
    failures = 0

    async def write(self, act):
        if self.failures:
            self.failures -= 1
            raise StoreError("database failed, nothing was changed: database or disk is full")
        return await super().write(act)


async def test_a_failing_database_is_tried_again(tmp_path, clock, running, caplog):
    database = Failing.open(tmp_path / "issuer.db", clock=clock)
    await fill(database)
    database.failures = 2
    service = await running(Pruning(database, clock, nodes_expired_for=None))
    for _ in range(3):
        await clock.advance(EVERY)
        await asleep(clock)
    assert not service.done()
    assert [record.message for record in caplog.records] == ["pruning failed, trying again"] * 2
    assert (await ids(database))[0] == {"never"}
    database.close()

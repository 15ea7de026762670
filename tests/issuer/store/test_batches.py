# SPDX-License-Identifier: Apache-2.0
"""Acts of a batch: together in one commit, each standing for itself."""

import pytest

from issuer.errors import AlreadyExistsError, StoreError
from issuer.store import Database
from issuer.store.database import PER_COMMIT
from tests.fakes.clock import FakeClock
from tests.issuer.strategies import an_entry


@pytest.fixture
def database(tmp_path):
    opened = Database.open(tmp_path / "issuer.db", clock=FakeClock())
    yield opened
    opened.close()


def creating(entry):
    return lambda tx: tx.entries.create(entry)


async def test_one_refusal_undoes_only_itself_and_leaves_no_gap(database):
    told = []
    database.on_commit.append(told.extend)
    first, twin, second = an_entry("a"), an_entry("a"), an_entry("b")
    outcomes = await database.write_each([creating(first), creating(twin), creating(second)])
    assert outcomes[0] == first
    assert isinstance(outcomes[1], AlreadyExistsError)
    assert outcomes[2] == second
    assert [(change.revision, change.key) for change in told] == [(1, "a"), (2, "b")]
    kept = await database.read(lambda tx: [change.key for change in tx.changes.since(0, 10)])
    assert kept == ["a", "b"]


async def test_what_a_refused_act_wrote_before_is_undone(database):
    def act(tx):
        tx.entries.create(an_entry("half"))
        raise AlreadyExistsError("no", None)

    (outcome,) = await database.write_each([act])
    assert isinstance(outcome, AlreadyExistsError)
    assert await database.read(lambda tx: list(tx.entries.all())) == []
    assert await database.read(lambda tx: tx.changes.last()) == 0


async def test_a_database_that_fails_fails_each_act_of_that_commit_only(database):
    entries = [an_entry(f"e{number}") for number in range(PER_COMMIT)]

    def broken(tx):
        tx._connection.exec_driver_sql("INSERT INTO nowhere VALUES (1)")

    outcomes = await database.write_each([*map(creating, entries), creating(an_entry("late")), broken])
    assert outcomes[:PER_COMMIT] == entries
    assert [type(outcome) for outcome in outcomes[PER_COMMIT:]] == [StoreError, StoreError]
    assert len(await database.read(lambda tx: list(tx.entries.all()))) == PER_COMMIT

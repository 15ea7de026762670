# SPDX-License-Identifier: Apache-2.0
"""Audit records without another change share commits, and nobody is told that one is kept before it is."""

import asyncio

import pytest
import sqlalchemy as sa

from issuer.errors import InvalidRequestError, StoreError
from issuer.model import AuditRecord, Outcome
from tests.issuer.strategies import NOW


async def audit_of(database):
    return [(n, record.subject) for n, record in await database.read(lambda tx: tx.audit.since(0, 10_000))]


def a_record(subject, **detail):
    return AuditRecord(at=NOW, actor="", act="", type="", subject=subject, outcome=Outcome.OK, detail=detail)


async def test_records_of_the_same_moment_share_a_commit(database):
    commits = []
    sa.event.listen(database._engine, "commit", commits.append)
    await asyncio.gather(*(database.record(a_record(str(n))) for n in range(100)))
    assert len(commits) <= 2
    assert await audit_of(database) == [(n + 1, str(n)) for n in range(100)]


async def test_a_record_is_committed_when_its_caller_goes_on(database):
    async def one(number):
        await database.record(a_record(str(number)))
        assert str(number) in {subject for _, subject in await audit_of(database)}
        await database.record(a_record(f"{number} again"))

    await asyncio.gather(*map(one, range(20)))
    subjects = [subject for _, subject in await audit_of(database)]
    assert len(subjects) == len(set(subjects)) == 40


async def test_who_is_cancelled_takes_no_record_along(database):
    tasks = [asyncio.create_task(database.record(a_record(str(n)))) for n in range(5)]
    await asyncio.sleep(0)
    tasks[0].cancel()
    tasks[3].cancel()
    results = await asyncio.gather(*tasks, return_exceptions=True)
    assert [result is None for result in results] == [False, True, True, False, True]
    assert [subject for _, subject in await audit_of(database)] == ["0", "1", "2", "3", "4"]


async def record_both(database, first, second):
    waiting = asyncio.gather(database.record(first), database.record(second), return_exceptions=True)
    return [type(result) for result in await asyncio.wait_for(waiting, 5)]


async def test_a_failing_database_is_told_to_everybody_who_waits(database):
    refuse = lambda connection: connection.exec_driver_sql("PRAGMA query_only = ON")
    sa.event.listen(database._engine, "begin", refuse)
    assert await record_both(database, a_record("one"), a_record("two")) == [StoreError, StoreError]
    sa.event.remove(database._engine, "begin", refuse)
    database._engine.dispose()
    await asyncio.wait_for(database.record(a_record("after")), 5)
    assert await audit_of(database) == [(1, "after")]


@pytest.mark.parametrize(
    ("value", "error"),
    [(object(), TypeError), ("x" * 17_000, InvalidRequestError), ("\ud800", InvalidRequestError)],
)
async def test_a_record_that_cannot_be_written_is_the_failure_of_its_caller_alone(database, value, error):
    bad = a_record("bad", value=value)
    assert await record_both(database, a_record("good"), bad) == [type(None), error]
    assert await record_both(database, bad, a_record("again")) == [error, type(None)]
    assert await audit_of(database) == [(1, "good"), (2, "again")]


async def test_records_of_one_call_are_kept_together(database):
    await asyncio.gather(
        database.record(a_record("a1"), a_record("a2")), database.record(a_record("b1"), a_record("b2"))
    )
    assert [subject for _, subject in await audit_of(database)] == ["a1", "a2", "b1", "b2"]
    with pytest.raises(InvalidRequestError):
        await database.record(a_record("c1"), a_record("c2", value="x" * 17_000))
    assert len(await audit_of(database)) == 4


@pytest.mark.parametrize("count", [1, 7])
async def test_records_and_changes_keep_one_order_of_numbers(database, count):
    recorded = (database.record(a_record(f"r{n}")) for n in range(count))
    changed = (database.write(lambda tx, n=n: tx.audit.append(a_record(f"c{n}"))) for n in range(count))
    await asyncio.gather(*recorded, *changed)
    assert [number for number, _ in await audit_of(database)] == list(range(1, 2 * count + 1))

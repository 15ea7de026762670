# SPDX-License-Identifier: Apache-2.0
"""A transaction is all or nothing, and revisions are dense whoever writes at the same time."""

import asyncio
from dataclasses import replace
from datetime import timedelta

import pytest

from issuer.errors import AlreadyExistsError, NotFoundError, StoreError
from issuer.model import (
    AuditRecord,
    AuthorityKind,
    AuthorityRecord,
    AuthorityState,
    ChangeKind,
    JoinToken,
    Outcome,
)
from issuer.store.bundles import DeleteMode
from spiffekit.bundle import Bundle
from spiffekit.id import TrustDomain
from tests.issuer.strategies import NOW, a_node, an_entry, an_id

OTHER = TrustDomain("other.org")
HOUR = timedelta(hours=1)


class MiddleError(Exception):
    """Something fails in the middle of a transaction."""


def audited(tx, subject="e"):
    return tx.audit.append(
        AuditRecord(
            at=tx.now, actor="local:uid=0", act="/test", type="test", subject=subject, outcome=Outcome.OK
        )
    )


def an_authority(authority_id="a"):
    return AuthorityRecord(
        id=authority_id,
        kind=AuthorityKind.JWT,
        state=AuthorityState.ACTIVE,
        key_id="k",
        issued_at=NOW,
        not_after=NOW + HOUR,
    )


MUTATIONS = {
    "entry": lambda tx: tx.entries.create(an_entry("new")),
    "updated entry": lambda tx: tx.entries.update(an_entry(hint="changed")),
    "deleted entry": lambda tx: tx.entries.delete("e"),
    "node": lambda tx: tx.nodes.put(a_node("new")),
    "deleted node": lambda tx: tx.nodes.delete(a_node().id),
    "bundle": lambda tx: tx.bundles.put(Bundle(TrustDomain("new.org"))),
    "deleted bundle": lambda tx: tx.bundles.delete(OTHER, DeleteMode.DELETE),
    "authority": lambda tx: tx.authorities.save(an_authority("new")),
    "deleted authority": lambda tx: tx.authorities.delete(AuthorityKind.JWT, "a"),
    "join token": lambda tx: tx.join_tokens.create(JoinToken(value="new", expires_at=NOW)),
    "redeemed token": lambda tx: tx.join_tokens.redeem("token"),
    "pruned tokens": lambda tx: tx.join_tokens.prune(NOW + 2 * HOUR),
}


async def fill(database):
    def act(tx):
        tx.bundles.put(Bundle(OTHER))
        tx.entries.create(an_entry(federates_with=(OTHER,)))
        tx.nodes.put(a_node())
        tx.authorities.save(an_authority())
        tx.join_tokens.create(JoinToken(value="token", expires_at=NOW + HOUR))
        audited(tx)

    await database.write(act)


def everything(database):
    """Every row of every table."""
    with database._engine.connect() as connection:
        names = connection.exec_driver_sql("SELECT name FROM sqlite_master WHERE type = 'table'").scalars()
        return {
            name: sorted(map(tuple, connection.exec_driver_sql(f"SELECT * FROM {name}")))
            for name in list(names)
        }


@pytest.mark.parametrize("mutation", MUTATIONS)
async def test_a_failure_in_the_middle_leaves_nothing(database, mutation):
    await fill(database)
    before, told = everything(database), []
    database.on_commit.append(told.append)

    def act(tx):
        MUTATIONS[mutation](tx)
        audited(tx)
        raise MiddleError

    with pytest.raises(MiddleError):
        await database.write(act)
    assert everything(database) == before
    assert told == []


async def test_deleting_an_authority_that_is_not_there_changes_nothing(database):
    await database.write(lambda tx: tx.authorities.delete(AuthorityKind.X509, "a"))
    assert await database.read(lambda tx: tx.changes.last()) == 0


@pytest.mark.parametrize("mutation", MUTATIONS)
async def test_a_change_of_what_followers_see_is_a_row_of_the_change_log(database, mutation):
    await fill(database)
    before = await database.read(lambda tx: tx.changes.last())
    told = []
    database.on_commit.append(told.extend)
    await database.write(MUTATIONS[mutation])
    rows = await database.read(lambda tx: tx.changes.since(before, 100))
    assert [(row.revision, row.kind, row.key) for row in rows] == [(c.revision, c.kind, c.key) for c in told]
    assert [row.revision for row in rows] == list(range(before + 1, before + 1 + len(rows)))
    assert bool(rows) is ("token" not in mutation), "join tokens are secrets and concern no follower"
    gone = [change.key for change in told if change.value is None]
    assert gone == {
        "deleted entry": ["e"],
        "deleted node": [str(a_node().id)],
        "deleted bundle": ["e", "other.org"],
        "deleted authority": ["jwt/a"],
    }.get(mutation, [])


async def test_a_statement_that_fails_undoes_what_came_before_it(database):
    await fill(database)
    before = everything(database)

    def act(tx):
        tx.entries.create(an_entry("new"))
        tx._connection.exec_driver_sql("SELECT * FROM nonsense")

    with pytest.raises(StoreError, match=r"^database failed, nothing was changed: no such table: nonsense$"):
        await database.write(act)
    assert everything(database) == before
    await database.write(lambda tx: tx.entries.create(an_entry("new")))


async def test_the_time_of_a_transaction_is_one_instant(database, clock):
    def act(tx):
        clock.step(HOUR)
        return tx.now

    assert await database.write(act) == NOW


async def test_what_a_read_writes_is_undone(database):
    await fill(database)
    before = everything(database)
    created = await database.read(lambda tx: tx.entries.create(an_entry("new")))
    assert created.id == "new"
    assert everything(database) == before


async def test_a_failing_read_is_a_store_error(database):
    with pytest.raises(StoreError, match=r"^database failed: no such table: nonsense$"):
        await database.read(lambda tx: tx._connection.exec_driver_sql("SELECT * FROM nonsense"))


async def test_revisions_are_dense_and_told_in_order_under_concurrent_writers(database):
    told = []
    database.on_commit.append(told.extend)

    def writer(number):
        def act(tx):
            for part in range(number % 3 + 1):
                tx.entries.create(an_entry(f"{number}-{part}"))
            audited(tx)
            if number % 5 == 4:
                raise MiddleError

        return database.write(act)

    results = await asyncio.gather(*map(writer, range(100)), return_exceptions=True)
    assert sum(isinstance(result, MiddleError) for result in results) == 20
    rows = await database.read(lambda tx: tx.changes.since(0, 10_000))
    entries = await database.read(lambda tx: list(tx.entries.all()))
    assert [row.revision for row in rows] == list(range(1, len(entries) + 1))
    assert [change.revision for change in told] == [row.revision for row in rows]
    assert [change.key for change in told] == [row.key for row in rows]
    audit = await database.read(lambda tx: tx.audit.since(0, 10_000))
    assert [number for number, _ in audit] == list(range(1, 81))


async def test_two_databases_on_one_file_give_no_revision_twice(database, tmp_path, clock):
    """Another process writes too; the lock is taken before the revision is."""
    second = type(database).open(tmp_path / "issuer.db", clock=clock)
    writes = [
        (database, second)[number % 2].write(
            lambda tx, n=number: tx.entries.create(an_entry(f"e{n}", spiffe_id=an_id(f"/e{n}")))
        )
        for number in range(40)
    ]
    await asyncio.gather(*writes)
    rows = await database.read(lambda tx: tx.changes.since(0, 100))
    assert [row.revision for row in rows] == list(range(1, 41))
    second.close()


async def test_who_is_cancelled_does_not_keep_others_from_hearing(database):
    told = []
    database.on_commit.append(told.extend)
    task = asyncio.create_task(database.write(lambda tx: tx.entries.create(an_entry())))
    await asyncio.sleep(0)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    await database.write(lambda tx: tx.entries.create(an_entry("after")))
    assert [(change.revision, change.key) for change in told] == [(1, "e"), (2, "after")]


@pytest.mark.parametrize("attempts", [100])
async def test_a_join_token_is_redeemed_once_by_a_hundred_at_the_same_time(database, attempts):
    """SPIRE 1.14.6: the result of deleting the token was not looked at."""
    await database.write(lambda tx: tx.join_tokens.create(JoinToken(value="once", expires_at=NOW + HOUR)))
    results = await asyncio.gather(
        *(database.write(lambda tx: tx.join_tokens.redeem("once")) for _ in range(attempts)),
        return_exceptions=True,
    )
    won = [result for result in results if isinstance(result, JoinToken)]
    lost = {str(result) for result in results if isinstance(result, NotFoundError)}
    assert won == [JoinToken(value="once", expires_at=NOW + HOUR)]
    assert lost == {"join token does not exist or has already been used"}
    assert len(results) == attempts


async def test_a_join_token_exists_once(database):
    token = JoinToken(value="t", expires_at=NOW)
    await database.write(lambda tx: tx.join_tokens.create(token))
    with pytest.raises(AlreadyExistsError, match=r"^a join token of that value exists$"):
        await database.write(lambda tx: tx.join_tokens.create(replace(token, expires_at=NOW + HOUR)))
    assert (
        "t" not in repr(token).replace("JoinToken", "").replace("expires_at=datetime", "").split("(")[1][:3]
    )


async def test_expired_join_tokens_are_pruned(database):
    for seconds in (-1, 0, 1):
        token = JoinToken(value=f"t{seconds}", expires_at=NOW + timedelta(seconds=seconds))
        await database.write(lambda tx, token=token: tx.join_tokens.create(token))
    assert await database.write(lambda tx: tx.join_tokens.prune(NOW)) == 2
    assert (await database.write(lambda tx: tx.join_tokens.redeem("t1"))).value == "t1"


@pytest.mark.parametrize("statement", ["UPDATE audit SET actor = 'nobody'", "DELETE FROM audit"])
async def test_the_audit_trail_takes_no_change(database, statement):
    await database.write(audited)
    with pytest.raises(StoreError, match=r"the audit trail is append-only$"):
        await database.write(lambda tx: tx._connection.exec_driver_sql(statement))
    assert len(await database.read(lambda tx: tx.audit.since(0, 10))) == 1


async def test_the_audit_trail_is_read_in_pages(database):
    await database.write(lambda tx: [audited(tx, str(number)) for number in range(1, 11)])
    page = await database.read(lambda tx: tx.audit.since(3, 4))
    assert [(number, record.subject) for number, record in page] == [(n, str(n)) for n in (4, 5, 6, 7)]


async def test_the_change_log_is_read_in_pages(database):
    await database.write(lambda tx: [tx.entries.create(an_entry(f"e{n}")) for n in range(1, 11)])
    page = await database.read(lambda tx: tx.changes.since(3, 4))
    assert [(c.revision, c.kind, c.key) for c in page] == [
        (n, ChangeKind.ENTRY, f"e{n}") for n in (4, 5, 6, 7)
    ]
    assert await database.read(lambda tx: tx.changes.since(10, 4)) == []
    assert await database.read(lambda tx: tx.changes.last()) == 10

# SPDX-License-Identifier: Apache-2.0
"""Policies, as the store keeps them: every version, for ever."""

import pytest

from issuer.errors import FailedPreconditionError, NotFoundError, StoreError
from issuer.model import ChangeKind
from tests.issuer.governance.policies import a_stored
from tests.spiffekit.policy.asked import ALL, NONE


async def add(database, *some, **options):
    return await database.write(lambda tx: [tx.policies.add(one, **options) for one in some])


async def test_every_version_is_kept(database):
    told = []
    database.on_commit.append(told.extend)
    first, second, other = await add(
        database, a_stored(ALL, version=9), a_stored(NONE), a_stored(ALL, "q", enforced=False)
    )
    assert [(p.version, p.sequence) for p in (first, second, other)] == [(1, 1), (2, 2), (1, 3)]
    assert [(c.kind, c.key, c.value) for c in told] == [
        (ChangeKind.POLICY, "p", first),
        (ChangeKind.POLICY, "p", second),
        (ChangeKind.POLICY, "q", other),
    ]
    assert await database.read(lambda tx: tx.policies.newest()) == [second, other]
    assert await database.read(lambda tx: tx.policies.get("p")) == second
    assert await database.read(lambda tx: tx.policies.get("p", 1)) == first
    assert await database.read(lambda tx: tx.policies.last()) == 3


async def test_what_ends_a_policy_is_a_version_too(database):
    await add(database, a_stored(ALL))
    (ended,) = await add(database, a_stored(None, enforced=False))
    assert await database.read(lambda tx: tx.policies.newest()) == [ended]
    with pytest.raises(NotFoundError, match=r"^policy 'p' does not exist$"):
        await add(database, a_stored(None))
    (again,) = await add(database, a_stored(ALL))
    assert again.version == 3


async def test_whether_any_ever_counted_is_known(database):
    def enforced(tx):
        return tx.policies.enforced()

    assert not await database.read(enforced)
    await add(database, a_stored(ALL, enforced=False))
    assert not await database.read(enforced)
    await add(database, a_stored(ALL), a_stored(None, enforced=False))
    assert await database.read(enforced)


async def test_nobodys_change_is_lost(database):
    await add(database, a_stored(ALL))
    with pytest.raises(FailedPreconditionError, match=r"^policy 'p' is at version 1, not 2$"):
        await add(database, a_stored(NONE), replaces=2)
    await add(database, a_stored(NONE), replaces=1)


@pytest.mark.parametrize(
    ("name", "version", "message"), [("q", 0, " does not exist"), ("p", 2, " has no version 2")]
)
async def test_what_is_not_there_is_not_found(database, name, version, message):
    await add(database, a_stored(ALL))
    with pytest.raises(NotFoundError, match=f"^policy {name!r}{message}$"):
        await database.read(lambda tx: tx.policies.get(name, version))


@pytest.mark.parametrize("change", ["UPDATE policies SET text = ''", "DELETE FROM policies"])
async def test_the_database_itself_lets_nothing_be_changed(database, change):
    await add(database, a_stored(ALL))
    with pytest.raises(StoreError, match="a version of a policy stays as it is"):
        await database.write(lambda tx: tx._connection.exec_driver_sql(change))

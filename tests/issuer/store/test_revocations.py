# SPDX-License-Identifier: Apache-2.0
"""What was taken back, as the store keeps it."""

from dataclasses import replace
from datetime import timedelta

import pytest
import sqlalchemy as sa

from issuer.model import ChangeKind, Revocation, RevocationKind, RevocationReason
from tests.issuer.strategies import NOW, an_id

PAYER = an_id("/agent/payer")
HOUR = timedelta(hours=1)


def a_revocation(key="5", **changes):
    fixed = {
        "kind": RevocationKind.CERTIFICATE,
        "spiffe_id": PAYER,
        "at": NOW,
        "until": NOW + HOUR,
        "reason": RevocationReason.CERTIFICATE_HOLD,
    }
    return Revocation(key=key, **fixed | changes)


async def put(database, *some):
    return await database.write(lambda tx: [tx.revocations.put(one) for one in some])


@pytest.mark.parametrize("kind", RevocationKind)
@pytest.mark.parametrize("reason", RevocationReason)
async def test_what_is_put_is_there(database, kind, reason):
    told = []
    database.on_commit.append(told.extend)
    one = a_revocation(kind=kind, reason=reason)
    await put(database, one)
    assert await database.read(lambda tx: tx.revocations.find(kind, "5")) == one
    assert await database.read(lambda tx: tx.revocations.all()) == [one]
    assert [(c.kind, c.key, c.value) for c in told] == [(ChangeKind.REVOCATION, f"{kind}/5", one)]


async def test_what_is_taken_back_for_good_is_not_put_on_hold(database):
    hold = a_revocation()
    final = replace(hold, reason=RevocationReason.KEY_COMPROMISE)
    assert await put(database, hold, final, hold) == [hold, final, final]
    assert await database.read(lambda tx: tx.revocations.held(PAYER)) == []


async def test_many_are_put_and_forgotten_as_one_is_and_in_few_statements(database):
    """Who was given thousands of certificates is not suspended the later for it."""
    final = a_revocation("7", reason=RevocationReason.KEY_COMPROMISE)
    await put(database, final)
    told, statements = [], []
    database.on_commit.append(told.extend)
    sa.event.listen(database._engine, "before_cursor_execute", lambda *a: statements.append(a[2]))
    many = [a_revocation(str(number)) for number in range(1000)]
    standing = await database.write(lambda tx: tx.revocations.put_all(many))
    assert standing == [final if one.key == "7" else one for one in many]
    assert [change.value for change in told] == [one for one in many if one.key != "7"]
    assert [change.revision for change in told] == list(range(2, 1001))
    assert len(statements) < 10
    held = await database.read(lambda tx: tx.revocations.held(PAYER))
    assert len(held) == 999
    del told[:], statements[:]
    await database.write(lambda tx: tx.revocations.forget(held))
    assert {change.value for change in told} == {None}
    assert len(statements) < 10
    assert await database.read(lambda tx: tx.revocations.all()) == [final]


async def test_nothing_is_put_or_forgotten(database):
    told = []
    database.on_commit.append(told.extend)
    assert await database.write(lambda tx: tx.revocations.put_all([])) == []
    await database.write(lambda tx: tx.revocations.forget([]))
    assert told == []


async def test_only_what_is_held_is_given_back(database):
    hold, final = a_revocation("1"), a_revocation("2", reason=RevocationReason.KEY_COMPROMISE)
    other = a_revocation("3", spiffe_id=an_id("/agent/other"))
    await put(database, hold, final, other)
    held = await database.read(lambda tx: tx.revocations.held(PAYER))
    assert held == [hold]
    told = []
    database.on_commit.append(told.extend)
    await database.write(lambda tx: tx.revocations.forget(held))
    assert [(c.key, c.value) for c in told] == [("certificate/1", None)]
    assert await database.read(lambda tx: tx.revocations.all()) == [final, other]


async def test_what_has_ended_is_found(database):
    await put(database, a_revocation("1", until=NOW), a_revocation("2", until=NOW + HOUR))
    assert [one.key for one in await database.read(lambda tx: tx.revocations.ended(NOW, 9))] == ["1"]
    assert await database.read(lambda tx: tx.revocations.ended(NOW + HOUR, 1)) != []

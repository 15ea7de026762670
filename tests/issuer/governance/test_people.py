# SPDX-License-Identifier: Apache-2.0
"""Who may own agents is who the identity provider says is there."""

import pytest

from issuer.errors import FailedPreconditionError, NotAuthorizedError
from issuer.governance import people as module
from issuer.governance.people import People
from issuer.model import Owner
from tests.issuer.governance.people import ALICE, BOB, IDP, TEAM, listed, user, write


@pytest.fixture
def file(tmp_path):
    return tmp_path / "people.json"


async def test_whoever_is_active_is_there(file):
    write(file, user("alice"), user("bob", active=False))
    people = listed(file)
    await people.reload()
    assert (people.listed, people.readable) == (True, True)
    assert people.exists(ALICE)
    for other in (BOB, TEAM, Owner("https://other.example.org", "alice"), Owner(IDP, "alice", group=True)):
        assert not people.exists(other)


async def test_a_group_is_there_while_somebody_active_is_in_it(file):
    people = listed(file)
    write(file, user("alice", groups=["team"]), user("bob", groups=["team"], active=False))
    await people.reload()
    assert people.exists(TEAM)
    write(file, user("alice", groups=["team"], active=False), user("bob"))
    await people.reload()
    assert not people.exists(TEAM)


async def test_who_owns_is_told_by_account(file):
    admin = "spiffe://example.org/admin/bob"
    write(file, user("alice", "local:uid=1000"), user("bob", admin, groups=["team"]))
    people = listed(file)
    await people.reload()
    assert people.person_of("local:uid=1000,pid=7") == people.person_of("local:uid=1000,pid=8") == ALICE
    assert people.person_of("local:uid=0,pid=7") == "local:uid=0"
    people.check_owns("local:uid=1000,pid=7", ALICE)
    people.check_owns(admin, BOB)
    people.check_owns(admin, TEAM)
    for actor, owner in [("local:uid=1000,pid=7", TEAM), (admin, ALICE), ("local:uid=10", ALICE)]:
        with pytest.raises(NotAuthorizedError, match=r"^only the owner may: https://idp\.example\.org\|"):
            people.check_owns(actor, owner)


async def test_the_record_says_who_an_account_is_where_anybody_knows(file):
    write(file, user("alice", "local:uid=1000"))
    people = listed(file)
    assert people.known_as("local:uid=1000,pid=7") is None  # nothing is read yet
    await people.reload()
    assert people.known_as("local:uid=1000,pid=7") == ALICE
    assert people.known_as("local:uid=1001,pid=7") is None
    file.write_text("not a list")
    await people.reload()
    assert people.known_as("local:uid=1000,pid=7") is None
    assert People(None).known_as("local:uid=1000,pid=7") is None


async def test_without_a_list_every_owner_is_taken_and_every_operator_is_one():
    people = People(None)
    await people.reload()
    assert not people.listed
    assert people.exists(ALICE)
    assert people.person_of("local:uid=0,pid=7") == "local:uid=0"
    people.check_owns("local:uid=0,pid=7", ALICE)


@pytest.mark.parametrize(
    ("content", "why"),
    [
        (b"", "truncated"),
        (b"[]", "Expected `object`"),
        (b'{"totalResults": 0}', "Resources"),
        (b'{"totalResults": 2, "Resources": [{"externalId": "a"}]}', "totalResults is 2, but 1 resources"),
        (
            b'{"totalResults": 2, "Resources": [{"externalId": "a"}, {"externalId": "a"}]}',
            "externalId 'a' is there twice",
        ),
        (b'{"totalResults": 1, "Resources": [{"userName": "a"}]}', "externalId"),
        (b'{"totalResults": 0, "Resources": []}', "nobody is there"),
        (b'{"totalResults": 1, "Resources": [{"externalId": "a", "active": false}]}', "nobody is there"),
        (b"\xff", ""),
    ],
)
async def test_a_list_that_cannot_be_read_makes_nobody_known_and_is_told_once(file, caplog, content, why):
    people = listed(file)
    write(file, user("alice"))
    await people.reload()
    file.write_bytes(content)
    await people.reload()
    await people.reload()
    (record,) = caplog.records
    assert why in record.reason
    assert not people.readable
    for ask in (
        lambda: people.exists(ALICE),
        lambda: people.person_of("local:uid=0"),
        lambda: people.check_owns("local:uid=0", ALICE),
    ):
        with pytest.raises(FailedPreconditionError, match=r"^owner: the list of people cannot be read$"):
            ask()
    write(file, user("alice"))
    await people.reload()
    assert people.exists(ALICE)


async def test_an_account_of_two_people_is_nobodys(file, caplog):
    write(file, user("alice", "local:uid=1"), user("bob", "local:uid=1"))
    people = listed(file)
    await people.reload()
    assert not people.readable
    assert caplog.records[0].reason == "account 'local:uid=1' is of two people"


async def test_a_list_that_is_missing_or_too_large_is_not_read(file, caplog, monkeypatch):
    people = listed(file)
    await people.reload()
    assert not people.readable
    monkeypatch.setattr(module, "MAX_FILE", 100)
    write(file, user("alice"))
    other = listed(file)
    await other.reload()
    assert not other.readable
    assert caplog.records[-1].reason == "larger than 100 bytes"


async def test_a_list_is_read_again_only_when_it_changes(file, monkeypatch):
    write(file, user("alice"))
    people = listed(file)
    await people.reload()
    monkeypatch.setattr(people, "_parse", None)
    await people.reload()
    assert people.readable

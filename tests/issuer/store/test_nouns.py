# SPDX-License-Identifier: Apache-2.0
"""The rules of each noun: what is unique, what is counted, and what goes with what."""

import re
from dataclasses import replace
from datetime import timedelta

import pytest

from issuer.errors import AlreadyExistsError, FailedPreconditionError, NotFoundError
from issuer.model import ChangeKind
from issuer.store.bundles import DeleteMode
from spiffekit.bundle import Bundle, JwtAuthority
from spiffekit.id import TrustDomain
from spiffekit.keys import KeyType, generate_private_key, public_key_to_der
from spiffekit.testing import TestCA
from spiffekit.wire.convert import MAX_AUTHORITIES
from tests.issuer.strategies import NOW, OURS, SERVER, a_node, an_entry, an_id, selectors

OTHER = TrustDomain("other.org")
HOUR = timedelta(hours=1)


def refused(kind, message):
    return pytest.raises(kind, match=f"^{re.escape(message)}$")


async def create(database, *entries):
    await database.write(lambda tx: [tx.entries.create(entry) for entry in entries])


@pytest.mark.parametrize(
    "changes",
    [{"id": "other"}, {"spiffe_id": an_id("/other")}, {"hint": "x", "id": "other"}, {"dns_names": ("a",)}],
    ids=["same content", "same ID", "another hint only", "same everything"],
)
async def test_an_entry_exists_once(database, changes):
    entry = an_entry()
    await create(database, entry)
    with refused(AlreadyExistsError, "similar entry already exists") as caught:
        await create(database, replace(entry, **changes))
    assert caught.value.existing == entry


@pytest.mark.parametrize(
    "changes",
    [
        {"spiffe_id": an_id("/other")},
        {"parent_id": an_id("/other")},
        {"selectors": selectors("unix:uid:1")},
        {"selectors": selectors("unix:uid:0", "unix:uid:1")},
    ],
    ids=["ID", "parent", "selectors", "more selectors"],
)
async def test_entries_that_differ_in_what_they_are_about_are_two(database, changes):
    await create(database, an_entry(), replace(an_entry(), id="other", **changes))
    assert len(await database.read(lambda tx: list(tx.entries.all()))) == 2


async def test_an_update_counts_and_keeps_the_time_of_creation(database):
    await create(database, an_entry(revision=5))
    changed = an_entry(hint="h", created_at=NOW + HOUR, revision=99, selectors=selectors("a:b"))
    after = await database.write(lambda tx: tx.entries.update(changed))
    assert after == replace(changed, revision=6, created_at=NOW)
    assert await database.read(lambda tx: tx.entries.get("e")) == after


async def test_an_update_to_what_another_one_is_about_is_refused(database):
    first, second = an_entry(), an_entry("second")
    await create(database, first, second)
    like_first = replace(second, spiffe_id=first.spiffe_id)
    with refused(AlreadyExistsError, "similar entry already exists") as caught:
        await database.write(lambda tx: tx.entries.update(like_first))
    assert caught.value.existing == first
    await database.write(lambda tx: tx.entries.update(second))  # to what it is itself


async def test_what_is_not_there_is_not_found(database):
    with refused(NotFoundError, "entry 'x' does not exist"):
        await database.read(lambda tx: tx.entries.get("x"))
    with refused(NotFoundError, "entry 'x' does not exist"):
        await database.write(lambda tx: tx.entries.update(an_entry("x")))
    with refused(NotFoundError, f"entry {'y' * 255!r} does not exist"):
        await database.write(lambda tx: tx.entries.delete("y" * 10_000))
    with refused(NotFoundError, "node spiffe://example.org/spire/agent/node does not exist"):
        await database.write(lambda tx: tx.nodes.delete(a_node().id))
    with refused(NotFoundError, "no bundle for trust domain other.org"):
        await database.write(lambda tx: tx.bundles.delete(OTHER, DeleteMode.DELETE))
    assert await database.read(lambda tx: tx.nodes.get(a_node().id)) is None
    assert await database.read(lambda tx: tx.bundles.find(OTHER)) is None


@pytest.mark.parametrize("update", [False, True], ids=["create", "update"])
async def test_federating_with_an_unknown_trust_domain_is_refused(database, update):
    if update:
        await create(database, an_entry())
    federating = an_entry(federates_with=(OTHER,))
    message = "federates_with: no bundle is known for trust domain other.org; set it first"
    with refused(FailedPreconditionError, message):
        await database.write(lambda tx: (tx.entries.update if update else tx.entries.create)(federating))
    assert await database.read(lambda tx: tx.entries.federating_with(OTHER)) == []


async def test_an_update_changes_what_an_entry_federates_with(database):
    third = TrustDomain("third.org")
    await database.write(lambda tx: [tx.bundles.put(Bundle(td)) for td in (OTHER, third)])
    await create(database, an_entry(federates_with=(OTHER,)))
    after = await database.write(lambda tx: tx.entries.update(an_entry(federates_with=(third,))))
    assert await database.read(lambda tx: tx.entries.federating_with(OTHER)) == []
    assert await database.read(lambda tx: tx.entries.federating_with(third)) == [after]
    await database.write(lambda tx: tx.entries.delete("e"))
    assert await database.read(lambda tx: tx.entries.federating_with(third)) == []
    await database.write(lambda tx: tx.bundles.delete(third, DeleteMode.RESTRICT))


async def two_federate(database):
    await database.write(lambda tx: tx.bundles.put(Bundle(OTHER)))
    await create(
        database,
        an_entry("a", federates_with=(OTHER,)),
        an_entry("b", federates_with=(OTHER,)),
        an_entry("c"),
    )


async def test_a_bundle_in_use_is_not_deleted_by_default(database):
    await two_federate(database)
    with refused(FailedPreconditionError, "2 entries federate with other.org"):
        await database.write(lambda tx: tx.bundles.delete(OTHER, DeleteMode.RESTRICT))
    assert await database.read(lambda tx: tx.bundles.get(OTHER))


async def test_a_bundle_can_go_and_leave_the_entries(database):
    await two_federate(database)
    assert (
        await database.write(lambda tx: tx.bundles.delete(OTHER, DeleteMode.DISSOCIATE))
    ).trust_domain == OTHER
    found = {
        e.id: (e.federates_with, e.revision) for e in await database.read(lambda tx: list(tx.entries.all()))
    }
    assert found == {"a": ((), 1), "b": ((), 1), "c": ((), 0)}


async def test_a_bundle_can_take_the_entries_along(database):
    await two_federate(database)
    told = []
    database.on_commit.append(told.extend)
    await database.write(lambda tx: tx.bundles.delete(OTHER, DeleteMode.DELETE))
    assert [e.id for e in await database.read(lambda tx: list(tx.entries.all()))] == ["c"]
    assert {(c.kind, c.key) for c in told} == {
        (ChangeKind.ENTRY, "a"),
        (ChangeKind.ENTRY, "b"),
        (ChangeKind.BUNDLE, "other.org"),
    }


@pytest.mark.requirement("BND-04", "BND-05")
async def test_a_sequence_number_grows_when_the_content_changes_and_only_then(database):
    ca = TestCA("other.org").bundle
    put = lambda bundle: database.write(lambda tx: tx.bundles.put(bundle).sequence)
    assert await put(Bundle(OTHER)) == 1
    told = []
    database.on_commit.append(told.extend)
    assert await put(Bundle(OTHER)) == 1
    assert await put(Bundle(OTHER, sequence=70)) == 1, "same content"
    assert told == []
    assert await put(replace(ca, sequence=None)) == 2
    assert await put(replace(ca, sequence=7, jwt_authorities=())) == 7, "the publisher's own, if it is ahead"
    assert await put(replace(ca, sequence=3)) == 8, "never back"
    assert [(c.kind, c.key, c.value.sequence) for c in told] == [
        (ChangeKind.BUNDLE, "other.org", n) for n in (2, 7, 8)
    ]


async def test_a_sequence_number_at_the_end_of_64_bits_stays_there(database):
    most = 2**64 - 1
    ca = TestCA("other.org").bundle
    await database.write(lambda tx: tx.bundles.put(replace(ca, sequence=most)))
    after = await database.write(lambda tx: tx.bundles.put(Bundle(OTHER, sequence=most)))
    assert after.sequence == most
    assert await database.read(lambda tx: tx.bundles.get(OTHER)) == after


async def test_a_bundle_that_could_not_be_read_again_is_refused(database):
    """Else appending to our own bundle could make the issuer unable to start."""
    der = generate_private_key(KeyType.EC_P256).public_key()
    many = tuple(JwtAuthority(f"k{n}", public_key_to_der(der)) for n in range(MAX_AUTHORITIES + 1))
    with refused(FailedPreconditionError, "bundle of other.org: more than 1000 authorities"):
        await database.write(lambda tx: tx.bundles.put(Bundle(OTHER, (), many)))
    await database.write(lambda tx: tx.bundles.put(Bundle(OTHER, (), many[1:])))
    assert len((await database.read(lambda tx: tx.bundles.get(OTHER))).jwt_authorities) == MAX_AUTHORITIES


async def test_bundles_are_listed_by_trust_domain(database):
    names = ["b.org", "a.org", "a-b.org", "c"]
    await database.write(lambda tx: [tx.bundles.put(Bundle(TrustDomain(name))) for name in names])
    listed = await database.read(lambda tx: [bundle.trust_domain.name for bundle in tx.bundles.all()])
    assert listed == sorted(names)


async def test_a_node_takes_the_alias_of_its_join_token_along(database):
    node = a_node()
    own = selectors(f"spiffe_id:{node.id}")
    alias = an_entry("alias", parent_id=SERVER, selectors=own)
    anothers = selectors("spiffe_id:spiffe://example.org/spire/agent/another")
    others = [
        an_entry("of two", spiffe_id=an_id("/o1"), parent_id=SERVER, selectors=own | selectors("a:b")),
        an_entry("of another", spiffe_id=an_id("/o2"), parent_id=SERVER, selectors=anothers),
        an_entry("child", parent_id=node.id, selectors=own),
    ]
    await create(database, alias, *others)
    await database.write(lambda tx: tx.nodes.put(node))
    assert await database.write(lambda tx: tx.nodes.delete(node.id)) == node
    left = await database.read(lambda tx: {entry.id for entry in tx.entries.all()})
    assert left == {"of two", "of another", "child"}
    assert await database.read(lambda tx: tx.nodes.get(node.id)) is None


async def test_a_node_is_replaced_whole(database):
    await database.write(lambda tx: tx.nodes.put(a_node(version="1", selectors=selectors("a:b"))))
    after = a_node(serial="", version="2")
    await database.write(lambda tx: tx.nodes.put(after))
    found = await database.read(lambda tx: list(tx.nodes.all()))
    assert found == [after]
    assert found[0].banned


async def test_entries_that_ended_are_found(database):
    ends = {"before": -1, "now": 0, "after": 1}
    await create(
        database,
        an_entry("never"),
        *(an_entry(name, expires_at=NOW + timedelta(microseconds=n)) for name, n in ends.items()),
    )
    expired = await database.read(lambda tx: tx.entries.expired(NOW, 10))
    assert {entry.id for entry in expired} == {"before", "now"}
    assert len(await database.read(lambda tx: tx.entries.expired(NOW, 1))) == 1


async def test_nodes_that_ended_are_found_and_banned_ones_stay(database):
    instant = timedelta(microseconds=1)
    nodes = [
        a_node("old", expires_at=NOW - instant, can_reattest=True),
        a_node("at", expires_at=NOW),
        a_node("banned", expires_at=NOW - HOUR, serial=""),
        a_node("fresh"),
    ]
    await database.write(lambda tx: [tx.nodes.put(node) for node in nodes])
    assert await database.read(lambda tx: tx.nodes.expired_before(NOW, 10, tofu=False)) == [nodes[0]]
    assert await database.read(lambda tx: tx.nodes.expired_before(NOW, 10, tofu=True)) == [nodes[0]]
    later = NOW + 9 * HOUR
    assert await database.read(lambda tx: tx.nodes.expired_before(later, 2, tofu=False)) == [nodes[0]]
    assert len(await database.read(lambda tx: tx.nodes.expired_before(later, 2, tofu=True))) == 2


async def test_our_own_bundle_is_one_of_many(database):
    await database.write(lambda tx: tx.bundles.put(TestCA("example.org").bundle))
    assert (await database.read(lambda tx: tx.bundles.get(OURS))).trust_domain == OURS

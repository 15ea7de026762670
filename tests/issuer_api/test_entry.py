# SPDX-License-Identifier: Apache-2.0
"""Operators create, update, read and delete registration entries."""

import grpc
import pytest

from issuer.model import Outcome
from spiffekit.bundle import Bundle
from spiffekit.id import TrustDomain
from spiffekit.wire.pb.spire.api import types_pb2
from spiffekit.wire.pb.spire.api.server.entry.v1 import entry_pb2, entry_pb2_grpc
from tests.issuer_api.calls import refused
from tests.issuer_api.entries import create, create_one, get, message, update
from tests.issuer_api.world import id_message

Code = grpc.StatusCode
CREATE = "/spire.api.server.entry.v1.Entry/BatchCreateEntry"
FLAGS = ("admin", "downstream", "store_svid")
ATTRIBUTES = ("disable_x509_svid_prefetch", "jwt_svid_include_jti")


@pytest.fixture
def stub(local):
    return entry_pb2_grpc.EntryStub(local)


def is_refused(result, code, text):
    assert (result.status.code, result.status.message) == (code.value[0], text)
    assert not result.HasField("entry")


async def test_an_entry_comes_back_as_it_was_given(world, stub, clock):
    await world.database.write(lambda tx: tx.bundles.put(Bundle(TrustDomain("partner.org"))))
    given = message(
        id="my.own_ID-1",
        selectors=[types_pb2.Selector(type="unix", value=value) for value in ("uid:1000", "gid:5")],
        x509_svid_ttl=600,
        jwt_svid_ttl=60,
        federates_with=["partner.org"],
        dns_names=["web.example.org", "*.web.example.org"],
        hint="outside",
        expires_at=int(clock.now().timestamp()) + 3600,
    )
    (result,) = await create(stub, given)
    assert result.status == types_pb2.Status(message="OK")
    wanted = types_pb2.Entry()
    wanted.CopyFrom(given)
    del wanted.selectors[:]
    wanted.selectors.extend(types_pb2.Selector(type="unix", value=v) for v in ("gid:5", "uid:1000"))
    wanted.created_at = int(clock.now().timestamp())
    assert result.entry == wanted
    assert await get(stub, "my.own_ID-1") == wanted


@pytest.mark.parametrize("name", [*FLAGS, *ATTRIBUTES])
async def test_a_flag_grants_itself_and_no_other(stub, name):
    """SPIRE 1.14.3 (#6636): a copy of an entry turned one flag into another."""
    attributes = types_pb2.Entry.AdditionalAttributes
    given = {name: True} if name in FLAGS else {"additional_attributes": attributes(**{name: True})}
    entry = await create_one(stub, **given)
    (updated,) = await update(
        stub, types_pb2.Entry(id=entry.id, hint="x"), mask=types_pb2.EntryMask(hint=True)
    )
    for seen in (entry, await get(stub, entry.id), updated.entry):
        shown = {flag: getattr(seen, flag) for flag in FLAGS}
        shown |= {flag: getattr(seen.additional_attributes, flag) for flag in ATTRIBUTES}
        assert [flag for flag, value in shown.items() if value] == [name]


async def test_what_the_issuer_decides_cannot_be_given(stub, clock):
    entry = await create_one(stub, created_at=1, revision_number=77)
    assert (entry.created_at, entry.revision_number) == (int(clock.now().timestamp()), 0)
    assert len(entry.id) == 36


async def test_each_item_of_a_batch_stands_for_itself(world, stub):
    results = await create(stub, message("/a"), message("/b/"), message("/c"))
    assert [result.status.code for result in results] == [0, 3, 0]
    assert results[1].status.message == "spiffe_id: path cannot have a trailing slash"
    assert {entry.spiffe_id.path for entry in world.registrations.entries()} == {"/a", "/c"}


async def test_a_similar_entry_is_refused_and_the_existing_one_shown(world, stub):
    first = await create_one(stub, hint="first")
    (result,) = await create(stub, message(hint="second"))
    assert (result.status.code, result.status.message) == (6, "similar entry already exists")
    assert result.entry == first
    (result,) = await create(stub, message("/other", id=first.id), mask=types_pb2.EntryMask(hint=True))
    assert result.status.code == 6
    assert result.entry == types_pb2.Entry(id=first.id, hint="first")
    assert world.registrations.count() == (1, 0)


async def test_a_set_of_selectors_has_no_order_and_no_doubles(stub):
    a, b = (types_pb2.Selector(type="unix", value=value) for value in ("uid:1", "uid:2"))
    await create_one(stub, selectors=[a, b])
    (result,) = await create(stub, message(selectors=[b, a, b]))
    assert result.status.code == 6
    assert list(result.entry.selectors) == [a, b]
    await create_one(stub, selectors=[a])


async def test_federation_needs_a_bundle_first(stub):
    (result,) = await create(stub, message(federates_with=["partner.org"]))
    is_refused(
        result,
        Code.FAILED_PRECONDITION,
        "federates_with: no bundle is known for trust domain partner.org; set it first",
    )


@pytest.mark.parametrize(
    "call",
    [
        lambda stub: create(stub, *[message()] * 1001),
        lambda stub: update(stub, *[message(id="a")] * 1001),
        lambda stub: stub.BatchDeleteEntry(entry_pb2.BatchDeleteEntryRequest(ids=["a"] * 1001)),
    ],
    ids=["create", "update", "delete"],
)
async def test_a_batch_is_bounded(stub, call):
    with refused(Code.INVALID_ARGUMENT, "more than 1000 items in one call"):
        await call(stub)


async def test_an_update_without_a_mask_replaces_everything(stub):
    before = await create_one(stub, hint="old", admin=True, x509_svid_ttl=60)
    (result,) = await update(stub, message("/web2", id=before.id))
    assert result.status == types_pb2.Status(message="OK")
    wanted = message("/web2", id=before.id, created_at=before.created_at, revision_number=1)
    assert result.entry == await get(stub, before.id) == wanted


NEW = {
    "spiffe_id": id_message("/new"),
    "parent_id": id_message("/spire/agent/test/n2"),
    "selectors": [types_pb2.Selector(type="unix", value="uid:7")],
    "x509_svid_ttl": 77,
    "jwt_svid_ttl": 78,
    "federates_with": ["partner.org"],
    "admin": False,
    "downstream": True,
    "store_svid": True,
    "dns_names": ["new.example.org"],
    "hint": "new",
    "expires_at": 4_000_000_000,
    "additional_attributes": types_pb2.Entry.AdditionalAttributes(jwt_svid_include_jti=True),
    "evidence_required": True,
    "svid_per_process": True,
}


@pytest.mark.parametrize("name", NEW)
async def test_an_update_with_a_mask_changes_that_field_only(world, stub, name):
    await world.database.write(lambda tx: tx.bundles.put(Bundle(TrustDomain("partner.org"))))
    before = await create_one(stub, hint="old", admin=True, dns_names=["a", "b"])
    given = types_pb2.Entry(id=before.id, revision_number=9, created_at=9, **NEW)
    mask = types_pb2.EntryMask(**{name: True}, revision_number=True, created_at=True)
    (result,) = await update(stub, given, mask=mask)
    wanted = types_pb2.Entry()
    wanted.CopyFrom(before)
    wanted.ClearField(name)
    wanted.MergeFrom(types_pb2.Entry(**{name: NEW[name]}))
    wanted.revision_number = 1
    assert result.entry == wanted


def test_every_field_that_can_be_masked_is_tried():
    fields = {field.name for field in types_pb2.EntryMask.DESCRIPTOR.fields}
    assert fields == NEW.keys() | {"revision_number", "created_at", "spiffe_id_template"}


async def test_an_update_cannot_make_two_entries_alike(stub):
    first, second = await create_one(stub, "/a"), await create_one(stub, "/b")
    (result,) = await update(stub, message("/a", id=second.id))
    assert (result.status.code, result.status.message) == (6, "similar entry already exists")
    assert result.entry == first
    assert await get(stub, second.id) == second


async def test_what_is_not_there_is_not_found(stub):
    (result,) = await update(stub, message(id="x" * 300))
    is_refused(result, Code.NOT_FOUND, f"entry {'x' * 255!r} does not exist")
    with refused(Code.NOT_FOUND, f"entry {'x' * 255!r} does not exist"):
        await get(stub, "x" * 300)


async def test_deleting_says_for_each_id_how_it_went(world, stub):
    entry = await create_one(stub)
    request = entry_pb2.BatchDeleteEntryRequest(ids=["none", entry.id, entry.id])
    results = (await stub.BatchDeleteEntry(request)).results
    assert [(r.id, r.status.code, r.status.message) for r in results] == [
        ("none", 5, "entry 'none' does not exist"),
        (entry.id, 0, "OK"),
        (entry.id, 5, f"entry {entry.id!r} does not exist"),
    ]
    assert world.registrations.count() == (0, 0)


async def test_a_mask_leaves_out_what_it_does_not_name(stub):
    entry = await create_one(stub, hint="a", admin=True)
    assert await get(stub, entry.id, types_pb2.EntryMask()) == types_pb2.Entry(id=entry.id)
    shown = await get(stub, entry.id, types_pb2.EntryMask(admin=True, spiffe_id=True))
    assert shown == types_pb2.Entry(id=entry.id, admin=True, spiffe_id=entry.spiffe_id)


async def test_every_change_leaves_an_audit_record_and_nothing_else_does(world, stub):
    entry = await create_one(stub, admin=True)
    await create(stub, message())  # refused: nothing changed
    await update(stub, message("/web2", id=entry.id))
    await stub.BatchDeleteEntry(entry_pb2.BatchDeleteEntryRequest(ids=[entry.id]))
    trail = await world.trail()
    assert [(r.act.rpartition("/")[2], r.subject, r.outcome) for r in trail] == [
        ("BatchCreateEntry", "spiffe://example.org/web", Outcome.OK),
        ("BatchUpdateEntry", "spiffe://example.org/web2", Outcome.OK),
        ("BatchDeleteEntry", "spiffe://example.org/web2", Outcome.OK),
    ]
    assert trail[0].act == CREATE
    assert trail[0].actor.startswith("local:uid=")
    assert (trail[0].detail["entry"], trail[0].detail["admin"]) == (entry.id, True)

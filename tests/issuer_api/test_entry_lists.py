# SPDX-License-Identifier: Apache-2.0
"""Listing and counting entries: filters, and pages."""

import grpc
import pytest
from google.protobuf.wrappers_pb2 import BoolValue, StringValue

from spiffekit.bundle import Bundle
from spiffekit.id import TrustDomain
from spiffekit.wire.pb.spire.api import types_pb2
from spiffekit.wire.pb.spire.api.server.entry.v1 import entry_pb2, entry_pb2_grpc
from tests.issuer_api.calls import refused
from tests.issuer_api.world import id_message

Code = grpc.StatusCode
Filter = entry_pb2.ListEntriesRequest.Filter
A, B, C = (types_pb2.Selector(type="unix", value=value) for value in ("a:1", "b:2", "c:3"))


@pytest.fixture
def stub(local):
    return entry_pb2_grpc.EntryStub(local)


@pytest.fixture
async def registry(world):
    domains = [TrustDomain(f"{name}.org") for name in "abc"]
    for domain in domains:
        await world.database.write(lambda tx, domain=domain: tx.bundles.put(Bundle(domain)))
    await world.entry("/a", selectors=["unix:a:1"], hint="x")
    await world.entry("/ab", selectors=["unix:a:1", "unix:b:2"], federates_with=tuple(domains[:1]))
    await world.entry("/abc", selectors=["unix:a:1", "unix:b:2", "unix:c:3"], federates_with=tuple(domains))
    await world.entry("/c", selectors=["unix:c:3"], parent="/other", downstream=True)
    await world.entry("/twin", id="twin-1", selectors=["unix:c:3"], federates_with=tuple(domains[:2]))
    await world.entry("/twin", id="twin-2", selectors=["unix:b:2"], hint="x")


def to(match, *selectors):
    return types_pb2.SelectorMatch(selectors=selectors, match=match)


def federating(match, *names):
    return types_pb2.FederatesWithMatch(trust_domains=names, match=match)


EXACT, SUBSET, SUPERSET, ANY = range(4)
FILTERS = [
    ({}, "a ab abc c twin-1 twin-2"),
    ({"by_spiffe_id": id_message("/twin")}, "twin-1 twin-2"),
    ({"by_spiffe_id": id_message("/nobody")}, ""),
    ({"by_parent_id": id_message("/other")}, "c"),
    ({"by_selectors": to(EXACT, A, B)}, "ab"),
    ({"by_selectors": to(EXACT, B, A, B)}, "ab"),
    ({"by_selectors": to(SUBSET, A, B)}, "a ab twin-2"),
    ({"by_selectors": to(SUPERSET, A, B)}, "ab abc"),
    ({"by_selectors": to(ANY, A, B)}, "a ab abc twin-2"),
    ({"by_federates_with": federating(EXACT, "a.org")}, "ab"),
    ({"by_federates_with": federating(EXACT, "spiffe://a.org")}, "ab"),
    ({"by_federates_with": federating(SUBSET, "a.org", "b.org")}, "ab twin-1"),
    ({"by_federates_with": federating(SUPERSET, "a.org", "b.org")}, "abc twin-1"),
    ({"by_federates_with": federating(ANY, "b.org", "c.org")}, "abc twin-1"),
    ({"by_federates_with": federating(ANY, "d.org")}, ""),
    ({"by_hint": StringValue(value="x")}, "a twin-2"),
    ({"by_hint": StringValue()}, "ab abc c twin-1"),
    ({"by_downstream": BoolValue(value=True)}, "c"),
    ({"by_downstream": BoolValue()}, "a ab abc twin-1 twin-2"),
    ({"by_hint": StringValue(value="x"), "by_selectors": to(ANY, A)}, "a"),
]


@pytest.mark.usefixtures("registry")
async def test_a_filter_lists_and_counts_what_it_names(stub):
    listed, counted = {}, {}
    for number, (fields, _) in enumerate(FILTERS):
        request = entry_pb2.ListEntriesRequest(filter=Filter(**fields))
        listed[number] = " ".join(entry.id for entry in (await stub.ListEntries(request)).entries)
        request = entry_pb2.CountEntriesRequest(filter=entry_pb2.CountEntriesRequest.Filter(**fields))
        counted[number] = (await stub.CountEntries(request)).count
    assert listed == {number: names for number, (_, names) in enumerate(FILTERS)}
    assert counted == {number: len(names.split()) for number, (_, names) in enumerate(FILTERS)}


BAD_FILTERS = {
    "by_spiffe_id: trust domain is missing": {"by_spiffe_id": types_pb2.SPIFFEID()},
    "by_parent_id: path cannot contain dot segments": {"by_parent_id": id_message("/..")},
    "by_selectors: at least one is required": {"by_selectors": to(EXACT)},
    "by_selectors: match 9 is not known": {"by_selectors": to(9, A)},
    "by_selectors: selector of type 'a' has no value": {
        "by_selectors": to(EXACT, types_pb2.Selector(type="a"))
    },
    "by_federates_with: match 4 is not known": {"by_federates_with": federating(4, "a.org")},
    "by_federates_with: trust domain is missing": {"by_federates_with": federating(EXACT, "")},
}


async def test_a_bad_filter_is_refused_and_never_widened(stub):
    for text, fields in BAD_FILTERS.items():
        with refused(Code.INVALID_ARGUMENT, text):
            await stub.ListEntries(entry_pb2.ListEntriesRequest(filter=Filter(**fields)))
        with refused(Code.INVALID_ARGUMENT, text):
            count = entry_pb2.CountEntriesRequest.Filter(**fields)
            await stub.CountEntries(entry_pb2.CountEntriesRequest(filter=count))


async def page(stub, **fields):
    answer = await stub.ListEntries(entry_pb2.ListEntriesRequest(**fields))
    return " ".join(entry.id for entry in answer.entries), answer.next_page_token


@pytest.mark.usefixtures("registry")
@pytest.mark.parametrize(
    ("size", "pages"),
    [
        (1, ["a", "ab", "abc", "c", "twin-1", "twin-2"]),
        (4, ["a ab abc c", "twin-1 twin-2"]),
        (5, ["a ab abc c twin-1", "twin-2"]),
        (6, ["a ab abc c twin-1 twin-2"]),
        (2**31 - 1, ["a ab abc c twin-1 twin-2"]),
        (0, ["a ab abc c twin-1 twin-2"]),
        (-1, ["a ab abc c twin-1 twin-2"]),
        (-(2**31), ["a ab abc c twin-1 twin-2"]),
    ],
)
async def test_pages_follow_each_other_to_the_end(stub, size, pages):
    """SPIRE 1.9.3: a page size of 2**31 - 1 costs nothing by itself."""
    found, token = [], None
    while token != "":
        names, token = await page(stub, page_size=size, page_token=token or "")
        found.append(names)
    assert found == pages


@pytest.mark.usefixtures("registry")
async def test_pages_of_a_filter_are_full(stub):
    fields = {"filter": Filter(by_hint=StringValue(value="x")), "page_size": 1}
    assert await page(stub, **fields) == ("a", "a")
    assert await page(stub, **fields, page_token="a") == ("twin-2", "")


@pytest.mark.usefixtures("registry")
@pytest.mark.parametrize(
    ("token", "names"),
    [
        ("ab", "abc c twin-1 twin-2"),
        ("b", "c twin-1 twin-2"),  # gone since, or never was
        ("\x00", "a ab abc c twin-1 twin-2"),
        ("zzz", ""),
        ("\U0010ffff" * 1000, ""),
        ("' or 1=1 --", "a ab abc c twin-1 twin-2"),
    ],
    ids=ascii,
)
async def test_a_page_token_is_only_a_place_in_the_order(stub, token, names):
    assert await page(stub, page_token=token[:1000]) == (names, "")


async def test_a_page_has_at_most_a_thousand_entries(world, stub):
    def fill(tx):
        for number in range(1001):
            entry = world.made(f"/n{number:04}")
            tx.entries.create(entry)

    await world.database.write(fill)
    answer = await stub.ListEntries(
        entry_pb2.ListEntriesRequest(page_size=2**31 - 1, output_mask=types_pb2.EntryMask(spiffe_id=True))
    )
    assert len(answer.entries) == 1000
    assert answer.next_page_token == "n0999"
    assert answer.entries[0] == types_pb2.Entry(id="n0000", spiffe_id=id_message("/n0000"))


async def test_a_page_of_large_entries_has_fewer(world, stub):
    """gRPC's own limit is 4 MiB, and clients of the field do not raise it."""
    names = await world.large_entries(7)
    found, token, sizes = [], None, []
    while token != "":
        answer = await stub.ListEntries(entry_pb2.ListEntriesRequest(page_token=token or ""))
        token = answer.next_page_token
        found += [entry.id for entry in answer.entries]
        sizes.append(answer.ByteSize())
    assert found == names
    assert len(sizes) == 3
    assert max(sizes) < 4 * 1024 * 1024

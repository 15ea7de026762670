# SPDX-License-Identifier: Apache-2.0
"""Every field of an entry: what it may hold, and what is said of what it may not."""

import grpc
import pytest

from spiffekit.wire.pb.spire.api import types_pb2
from spiffekit.wire.pb.spire.api.server.entry.v1 import entry_pb2_grpc
from tests.issuer_api.entries import create, create_one, get, message, update
from tests.issuer_api.world import id_message

Code = grpc.StatusCode


@pytest.fixture
def stub(local):
    return entry_pb2_grpc.EntryStub(local)


LONG = "/" + "a" * (2048 - len("spiffe://example.org/"))
TOO_LONG = "longer than 2048 bytes"
SEGMENT = "use only a-z, A-Z, 0-9, '.', '-' and '_'"
PATHS = {
    "/..": "path cannot contain dot segments",
    "/a/../b": "path cannot contain dot segments",
    "/a/./b": "path cannot contain dot segments",
    "//": "path cannot have a trailing slash",
    "//a": "path cannot contain empty segments",
    "/a//b": "path cannot contain empty segments",
    "/a/": "path cannot have a trailing slash",
    "/": "path cannot have a trailing slash",
    "a": "path must start with a slash",
    "/%2e": f"invalid path segment '%2e': {SEGMENT}",
    "/%2E%2e/a": f"invalid path segment '%2E%2e': {SEGMENT}",
    "/a%2Fb": f"invalid path segment 'a%2Fb': {SEGMENT}",
    "/a\0": f"invalid path segment 'a\\x00': {SEGMENT}",
    "/a\n": f"invalid path segment 'a\\n': {SEGMENT}",
    "/a b": f"invalid path segment 'a b': {SEGMENT}",
    "/ä": f"invalid path segment 'ä': {SEGMENT}",
    "/\u2024\u2024": f"invalid path segment '\u2024\u2024': {SEGMENT}",
    "/a?b": f"invalid path segment 'a?b': {SEGMENT}",
    "/a#b": f"invalid path segment 'a#b': {SEGMENT}",
    LONG + "a": f"SPIFFE ID is {TOO_LONG}",
}


@pytest.mark.requirement("ID-12", "ID-13", "ID-14", "ID-15", "ID-16", "ID-19")
@pytest.mark.parametrize("field", ["spiffe_id", "parent_id"])
async def test_an_id_is_never_decoded_or_normalised(stub, field):
    """CVE-2021-27099 and its class: each spelling is refused, none is turned into another identity."""
    results = await create(stub, *(message(**{field: id_message(path)}) for path in PATHS))
    assert {result.status.code for result in results} == {Code.INVALID_ARGUMENT.value[0]}
    texts = [result.status.message.removeprefix(f"{field}: ") for result in results]
    assert dict(zip(PATHS, texts, strict=True)) == PATHS


@pytest.mark.requirement("ID-18")
async def test_an_id_of_full_length_is_good(stub):
    await create_one(stub, LONG)


DOMAIN = "use only a-z, 0-9, '.', '-' and '_'"
BAD = {
    "no-id": ({"spiffe_id": None}, "spiffe_id: trust domain is missing"),
    "no-parent": ({"parent_id": None}, "parent_id: trust domain is missing"),
    "id-without-path": ({"spiffe_id": id_message("")}, "spiffe_id: spiffe://example.org has no path"),
    "parent-without-path": ({"parent_id": id_message("")}, "parent_id: spiffe://example.org has no path"),
    "foreign-id": (
        {"spiffe_id": id_message("/a", "other.org")},
        "spiffe_id: spiffe://other.org/a is not a member of trust domain example.org",
    ),
    "foreign-parent": (
        {"parent_id": id_message("/a", "other.org")},
        "parent_id: spiffe://other.org/a is not a member of trust domain example.org",
    ),
    "trust-domain-in-capitals": (
        {"spiffe_id": id_message("/a", "Example.org")},
        f"spiffe_id: invalid trust domain 'Example.org': {DOMAIN}",
    ),
    "kelvin-sign": (
        {"spiffe_id": id_message("/a", "\u212a")},
        f"spiffe_id: invalid trust domain '\u212a': {DOMAIN}",
    ),
    "long-trust-domain": (
        {"spiffe_id": id_message("/a", "a" * 256)},
        "spiffe_id: trust domain is longer than 255 bytes",
    ),
    "the-issuers-id": ({"spiffe_id": id_message("/spire/server")}, "spiffe_id: is that of the issuer itself"),
    "no-selectors": ({"selectors": []}, "selectors: at least one is required"),
    "too-many-selectors": (
        {"selectors": [types_pb2.Selector(type="unix", value=f"uid:{i}") for i in range(101)]},
        "selectors: more than 100",
    ),
    "selector-without-type": (
        {"selectors": [types_pb2.Selector(value="a")]},
        "selectors: invalid selector type ''",
    ),
    "selector-type-with-colon": (
        {"selectors": [types_pb2.Selector(type="a:b", value="c")]},
        "selectors: invalid selector type 'a:b'",
    ),
    "selector-without-value": (
        {"selectors": [types_pb2.Selector(type="unix")]},
        "selectors: selector of type 'unix' has no value",
    ),
    "selector-with-newline": (
        {"selectors": [types_pb2.Selector(type="unix", value="a\n")]},
        "selectors: selector of type 'unix' has a control character",
    ),
    "long-selector": (
        {"selectors": [types_pb2.Selector(type="unix", value="ä" * 4097)]},
        "selectors: selector of type 'unix' is longer than 8192 bytes",
    ),
    "negative-ttl": ({"x509_svid_ttl": -1}, "x509_svid_ttl: not between 1 second and 3650 days"),
    "long-ttl": ({"x509_svid_ttl": 3650 * 86400 + 1}, "x509_svid_ttl: not between 1 second and 3650 days"),
    "negative-jwt-ttl": ({"jwt_svid_ttl": -(2**31)}, "jwt_svid_ttl: not between 1 second and 3650 days"),
    "long-jwt-ttl": ({"jwt_svid_ttl": 2**31 - 1}, "jwt_svid_ttl: not between 1 second and 3650 days"),
    "federates-with-itself": (
        {"federates_with": ["example.org"]},
        "federates_with: has the own trust domain",
    ),
    "federates-with-nonsense": (
        {"federates_with": ["a/b"]},
        f"federates_with: invalid trust domain 'a/b': {DOMAIN}",
    ),
    "federates-with-too-many": (
        {"federates_with": [f"td{i}" for i in range(101)]},
        "federates_with: more than 100",
    ),
    "bad-dns-name": ({"dns_names": ["a..b"]}, "dns_names: 'a..b' is not a DNS name"),
    "unicode-dns-name": ({"dns_names": ["bücher.de"]}, "dns_names: 'bücher.de' is not a DNS name"),
    "dns-name-with-newline": ({"dns_names": ["a\n"]}, "dns_names: 'a\\n' is not a DNS name"),
    "wide-wildcard": ({"dns_names": ["*.org"]}, "dns_names: '*.org' is too wide a wildcard"),
    "dns-name-twice": ({"dns_names": ["a", "A"]}, "dns_names: a name stands twice"),
    "too-many-dns-names": ({"dns_names": [f"a{i}" for i in range(65)]}, "dns_names: more than 64"),
    "long-hint": ({"hint": "a" * 1025}, "hint: longer than 1024 bytes"),
    "hint-long-in-bytes": ({"hint": "ä" * 513}, "hint: longer than 1024 bytes"),
    "negative-expiry": ({"expires_at": -1}, "expires_at: not a point in time that can be kept"),
    "far-expiry": ({"expires_at": 2**63 - 1}, "expires_at: not a point in time that can be kept"),
    "id-with-slash": ({"id": "a/b"}, "id: use 1 to 255 of A-Z a-z 0-9 . _ -"),
    "id-with-newline": ({"id": "a\n"}, "id: use 1 to 255 of A-Z a-z 0-9 . _ -"),
    "id-in-unicode": ({"id": "ä"}, "id: use 1 to 255 of A-Z a-z 0-9 . _ -"),
    "long-id": ({"id": "a" * 256}, "id: use 1 to 255 of A-Z a-z 0-9 . _ -"),
}


@pytest.mark.requirement("WLAPI-68")
async def test_a_bad_field_is_named_with_the_rule_that_it_breaks(stub):
    results = await create(stub, *(message(**changes) for changes, _ in BAD.values()))
    assert {result.status.code for result in results} == {Code.INVALID_ARGUMENT.value[0]}
    texts = [result.status.message for result in results]
    assert dict(zip(BAD, texts, strict=True)) == {name: text for name, (_, text) in BAD.items()}


async def test_an_update_obeys_the_same_rules(stub):
    entry = await create_one(stub)
    bad = {name: row for name, row in BAD.items() if "id" not in row[0]}
    results = await update(stub, *(message(**{"id": entry.id} | changes) for changes, _ in bad.values()))
    texts = [result.status.message for result in results]
    assert dict(zip(bad, texts, strict=True)) == {name: text for name, (_, text) in bad.items()}
    assert await get(stub, entry.id) == entry


@pytest.mark.requirement("WLAPI-68")
@pytest.mark.parametrize(
    "changes",
    [
        {"hint": "a" * 1024},
        {"hint": "ä" * 512},
        {"id": "a" * 255},
        {"id": "A-z_0.9"},
        {"x509_svid_ttl": 1, "jwt_svid_ttl": 3650 * 86400},
        {"dns_names": [f"a{i}" for i in range(64)]},
        {"selectors": [types_pb2.Selector(type="unix", value=f"{i:03}") for i in range(100)]},
        {"selectors": [types_pb2.Selector(type="k8s", value="ä" * 4096)]},
        {"expires_at": 253402300799},
    ],
    ids="-".join,
)
async def test_a_field_at_its_limit_is_good(stub, changes):
    entry = await create_one(stub, **changes)
    for name in changes:
        assert getattr(entry, name) == changes[name]

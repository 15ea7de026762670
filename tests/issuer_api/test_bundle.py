# SPDX-License-Identifier: Apache-2.0
"""Our own bundle, and those of federated trust domains."""

import grpc
import pytest

from issuer.api.bundle import MAX_OWN
from issuer.model import AuthorityKind
from spiffekit.id import TrustDomain
from spiffekit.keys import KeyType, generate_private_key, public_key_to_der
from spiffekit.testing import TestCA
from spiffekit.wire.convert import bundle_to_proto
from spiffekit.wire.pb.spire.api import types_pb2
from spiffekit.wire.pb.spire.api.server.bundle.v1 import bundle_pb2, bundle_pb2_grpc
from tests.issuer_api.calls import refused
from tests.issuer_api.world import TRUST_DOMAIN

Code = grpc.StatusCode
OK = types_pb2.Status(message="OK")
RESTRICT, DELETE, DISSOCIATE = range(3)


@pytest.fixture(scope="module")
def partner():
    return TestCA("partner.org")


@pytest.fixture
def stub(local):
    return bundle_pb2_grpc.BundleStub(local)


def key(key_id, der=None, **fields):
    public = der or public_key_to_der(generate_private_key(KeyType.EC_P256).public_key())
    return types_pb2.JWTKey(public_key=public, key_id=key_id, **fields)


def root(ca, **fields):
    return types_pb2.X509Certificate(asn1=ca.bundle.x509_authorities[0].certificate_der, **fields)


def message(name="partner.org", **fields):
    return types_pb2.Bundle(trust_domain=name, **fields)


async def own(stub):
    return await stub.GetBundle(bundle_pb2.GetBundleRequest())


async def federated(stub, name="partner.org", mask=None):
    return await stub.GetFederatedBundle(
        bundle_pb2.GetFederatedBundleRequest(trust_domain=name, output_mask=mask)
    )


async def batch(stub, verb, *bundles, **fields):
    request = getattr(bundle_pb2, f"Batch{verb}FederatedBundleRequest")(bundle=bundles, **fields)
    return list((await getattr(stub, f"Batch{verb}FederatedBundle")(request)).results)


async def delete(stub, *names, mode=RESTRICT):
    request = bundle_pb2.BatchDeleteFederatedBundleRequest(trust_domains=names, mode=mode)
    answer = await stub.BatchDeleteFederatedBundle(request)
    return [(r.trust_domain, r.status.code, r.status.message) for r in answer.results]


# Our own bundle.


async def test_anybody_gets_our_own_bundle(world):
    stub = bundle_pb2_grpc.BundleStub(await world.dial())
    answer = await own(stub)
    assert answer == bundle_to_proto(world.registrations.bundle(TRUST_DOMAIN))
    assert (len(answer.x509_authorities), len(answer.jwt_authorities)) == (1, 1)
    mask = types_pb2.BundleMask(refresh_hint=True)
    answer = await stub.GetBundle(bundle_pb2.GetBundleRequest(output_mask=mask))
    assert answer == message("example.org", refresh_hint=8640)


async def append(stub, *, x509=(), jwt=(), mask=None):
    request = bundle_pb2.AppendBundleRequest(x509_authorities=x509, jwt_authorities=jwt, output_mask=mask)
    return await stub.AppendBundle(request)


@pytest.mark.requirement("BND-04", "BND-05")
async def test_authorities_are_appended_once(world, stub, partner):
    before = await own(stub)
    jwt = key("k1")
    after = await append(stub, x509=[root(partner)], jwt=[jwt])
    assert list(after.x509_authorities) == [*before.x509_authorities, root(partner)]
    assert list(after.jwt_authorities) == [*before.jwt_authorities, jwt]
    assert after.sequence_number == before.sequence_number + 1
    again = await append(
        stub, x509=[root(partner, tainted=True)], jwt=[key("k1", jwt.public_key, expires_at=7)]
    )
    assert again == after == await own(stub)


async def test_appended_authorities_survive_a_rotation(world, stub, partner):
    await append(stub, x509=[root(partner)], jwt=[key("k1")])
    for kind in AuthorityKind:
        await world.authorities.prepare(kind)
    after = await own(stub)
    assert root(partner) in after.x509_authorities
    assert (len(after.x509_authorities), len(after.jwt_authorities)) == (3, 3)


async def test_two_keys_cannot_have_one_id(world, stub):
    before = await own(stub)
    taken = before.jwt_authorities[0].key_id
    with refused(Code.INVALID_ARGUMENT, f"jwt_authorities: two keys have the ID {taken!r}"):
        await append(stub, jwt=[key(taken)])
    with refused(Code.INVALID_ARGUMENT, "jwt_authorities: two keys have the ID 'k1'"):
        await append(stub, jwt=[key("k1"), key("k1")])
    assert await own(stub) == before
    (result,) = await batch(stub, "Set", message(jwt_authorities=[key("k1"), key("k1")]))
    assert result.status.message == "jwt_authorities: two keys have the ID 'k1'"


async def test_our_own_bundle_stays_small_enough_to_be_read(world, stub):
    """A bundle of more authorities than a reader accepts could never be loaded again."""
    der = key("k").public_key
    room = MAX_OWN - 2
    with refused(Code.INVALID_ARGUMENT, f"the bundle would have more than {MAX_OWN} authorities"):
        await append(stub, jwt=[key(f"k{i}", der) for i in range(room + 1)])
    answer = await append(stub, jwt=[key(f"k{i}", der) for i in range(room)])
    assert len(answer.x509_authorities) + len(answer.jwt_authorities) == MAX_OWN


@pytest.mark.parametrize(
    ("fields", "text"),
    [
        ({"x509": [types_pb2.X509Certificate()]}, "x509_authorities[0]: certificate is not well-formed DER"),
        ({"jwt": [key("a"), key("")]}, "jwt_authorities[1]: key_id is missing"),
        ({"jwt": [types_pb2.JWTKey(key_id="a", public_key=b"junk")]}, None),
        ({"jwt": [key("a", expires_at=-1)]}, "jwt_authorities[0]: not a point in time that can be kept"),
    ],
)
async def test_a_bad_authority_is_not_appended(stub, fields, text):
    before = await own(stub)
    with refused(Code.INVALID_ARGUMENT, text):
        await append(stub, **fields)
    assert await own(stub) == before


async def test_what_cannot_be_kept_is_refused_and_not_dropped(stub):
    request = bundle_pb2.AppendBundleRequest(wit_authorities=[types_pb2.WITKey(key_id="a")])
    with refused(Code.INVALID_ARGUMENT, "wit_authorities: are not supported"):
        await stub.AppendBundle(request)


async def test_a_leaf_is_no_authority(stub, partner):
    leaf = partner.issue("spiffe://partner.org/web").chain_der[0]
    with refused(Code.INVALID_ARGUMENT, "x509_authorities[0]: signing certificate has cA false"):
        await append(stub, x509=[types_pb2.X509Certificate(asn1=leaf)])


# Federated bundles.


async def test_a_federated_bundle_comes_back_as_it_was_given(world, stub, partner):
    given = bundle_to_proto(partner.bundle)
    given.refresh_hint = 300
    given.sequence_number = 42
    (result,) = await batch(stub, "Create", given)
    assert (result.status, result.bundle) == (OK, given)
    assert await federated(stub) == await federated(stub, "spiffe://partner.org") == given
    node = bundle_pb2_grpc.BundleStub(await world.dial(await world.node()))
    assert await federated(node) == given


async def test_creating_refuses_what_is_there(stub):
    first = message(refresh_hint=1)
    results = await batch(stub, "Create", first, message(refresh_hint=2))
    assert [(r.status.code, r.status.message) for r in results] == [
        (0, "OK"),
        (6, "bundle of partner.org already exists"),
    ]
    assert (await federated(stub)).refresh_hint == 1


async def test_updating_refuses_what_is_not_there(stub):
    (result,) = await batch(stub, "Update", message())
    assert (result.status.code, result.status.message) == (5, "no bundle for trust domain partner.org")


@pytest.mark.parametrize("name", ["x509_authorities", "jwt_authorities", "refresh_hint", None])
async def test_an_update_replaces_what_its_mask_names(stub, partner, name):
    first = message(x509_authorities=[root(partner)], jwt_authorities=[key("a")], refresh_hint=1)
    second = message(jwt_authorities=[key("b")], refresh_hint=2)
    await batch(stub, "Create", first)
    mask = None if name is None else types_pb2.BundleMask(**{name: True})
    (result,) = await batch(stub, "Update", second, input_mask=mask)
    wanted = types_pb2.Bundle()
    wanted.CopyFrom(second if name is None else first)
    if name is not None:
        wanted.ClearField(name)
        wanted.MergeFrom(message(**{name: getattr(second, name)}))
    wanted.sequence_number = 2
    assert result.bundle == await federated(stub) == wanted


@pytest.mark.requirement("BND-04", "BND-05")
async def test_setting_adds_and_replaces_and_counts_changes_only(stub):
    sequences = []
    for given in (
        message(refresh_hint=1),
        message(refresh_hint=1),
        message(refresh_hint=2, sequence_number=1),
    ):
        (result,) = await batch(stub, "Set", given)
        sequences.append(result.bundle.sequence_number)
    assert sequences == [1, 1, 2]


async def test_each_item_of_a_batch_stands_for_itself(stub):
    bad = types_pb2.X509Certificate(asn1=b"junk")
    results = await batch(
        stub,
        "Set",
        message("a.org"),
        message("example.org"),
        message("No Domain"),
        message("b.org", x509_authorities=[bad]),
        message("c.org", refresh_hint=-1),
        message("d.org", sequence_number=2**64 - 1),
        message("e.org", sequence_number=2**63 - 1),
    )
    assert [(r.status.code, r.status.message) for r in results] == [
        (0, "OK"),
        (3, "trust_domain: is the issuer's own"),
        (3, "trust_domain: invalid trust domain 'No Domain': use only a-z, 0-9, '.', '-' and '_'"),
        (3, "x509_authorities[0]: certificate is not well-formed DER"),
        (3, "refresh_hint is not a whole number of 0 to 2147483647 seconds"),
        (3, f"sequence_number: larger than {2**63 - 1}"),
        (0, "OK"),
    ]
    (result,) = await batch(stub, "Set", message("e.org", refresh_hint=1))
    assert result.bundle.sequence_number == 2**63


@pytest.mark.parametrize("verb", ["Create", "Update", "Set"])
async def test_answers_are_masked(stub, verb):
    await batch(stub, "Set", *([message(refresh_hint=1)] if verb == "Update" else []))
    mask = types_pb2.BundleMask(refresh_hint=True)
    (result,) = await batch(stub, verb, message(refresh_hint=2, jwt_authorities=[key("a")]), output_mask=mask)
    assert result.bundle == message(refresh_hint=2)


@pytest.mark.parametrize("verb", ["Create", "Update", "Set"])
async def test_a_batch_is_bounded(stub, verb):
    with refused(Code.INVALID_ARGUMENT, "more than 100 items in one call"):
        await batch(stub, verb, *[message()] * 101)


async def test_a_batch_of_deletions_is_bounded_and_never_cut(stub):
    await batch(stub, "Set", message())
    with refused(Code.INVALID_ARGUMENT, "more than 100 items in one call"):
        await delete(stub, *["a.org"] * 100, "partner.org")
    await federated(stub)


@pytest.mark.parametrize(
    ("name", "code", "text"),
    [
        ("nobody.org", Code.NOT_FOUND, "no bundle for trust domain nobody.org"),
        ("", Code.INVALID_ARGUMENT, "trust_domain: trust domain is missing"),
        ("example.org", Code.INVALID_ARGUMENT, "trust_domain: is the issuer's own"),
        (
            "a.org/b",
            Code.INVALID_ARGUMENT,
            "trust_domain: invalid trust domain 'a.org/b': use only a-z, 0-9, '.', '-' and '_'",
        ),
    ],
)
async def test_a_bundle_that_cannot_be_shown_is_refused(stub, name, code, text):
    with refused(code, text):
        await federated(stub, name)


async def list_page(stub, **fields):
    answer = await stub.ListFederatedBundles(bundle_pb2.ListFederatedBundlesRequest(**fields))
    return " ".join(bundle.trust_domain for bundle in answer.bundles), answer.next_page_token


@pytest.mark.parametrize(
    ("size", "pages"),
    [(1, ["a.org", "b.org", "z.org"]), (2, ["a.org b.org", "z.org"]), (3, ["a.org b.org z.org"])]
    + [(size, ["a.org b.org z.org"]) for size in (0, -1, 2**31 - 1)],
)
async def test_pages_leave_our_own_bundle_out(stub, size, pages):
    await batch(stub, "Set", message("z.org"), message("a.org"), message("b.org"))
    found, token = [], None
    while token != "":
        names, token = await list_page(stub, page_size=size, page_token=token or "")
        found.append(names)
    assert found == pages
    assert (await stub.CountBundles(bundle_pb2.CountBundlesRequest())).count == 4


async def test_a_page_token_is_only_a_place_in_the_order(stub):
    await batch(stub, "Set", message("a.org"), message("b.org"))
    assert await list_page(stub, page_token="aa") == ("b.org", "")
    assert await list_page(stub, page_token="\U0010ffff") == ("", "")


# Deleting, and the entries that federate.


async def entry_with(world, *names):
    await world.entry("/web", federates_with=tuple(map(TrustDomain, names)))


async def seen(world):
    return [[td.name for td in entry.federates_with] for entry in world.registrations.entries()]


@pytest.mark.parametrize(
    ("mode", "status", "left"),
    [
        (RESTRICT, (9, "1 entries federate with partner.org"), [["other.org", "partner.org"]]),
        (DISSOCIATE, (0, "OK"), [["other.org"]]),
        (DELETE, (0, "OK"), []),
    ],
)
async def test_deleting_minds_the_entries_that_federate(world, stub, mode, status, left):
    await batch(stub, "Set", message(), message("other.org"))
    await entry_with(world, "other.org", "partner.org")
    assert await delete(stub, "partner.org", mode=mode) == [("partner.org", *status)]
    assert await seen(world) == left
    assert (world.registrations.bundle(TrustDomain("partner.org")) is None) == (status[0] == 0)


async def test_deleting_says_for_each_how_it_went(stub):
    await batch(stub, "Set", message())
    assert await delete(stub, "nobody.org", "example.org", "partner.org", "A") == [
        ("nobody.org", 5, "no bundle for trust domain nobody.org"),
        ("example.org", 3, "trust_domain: is the issuer's own"),
        ("partner.org", 0, "OK"),
        ("A", 3, "trust_domain: invalid trust domain 'A': use only a-z, 0-9, '.', '-' and '_'"),
    ]


async def test_an_unknown_mode_deletes_nothing(stub):
    await batch(stub, "Set", message())
    with refused(Code.INVALID_ARGUMENT, "mode: 3 is not known"):
        await delete(stub, "partner.org", mode=3)
    await federated(stub)


async def test_every_change_leaves_an_audit_record(world, stub):
    await append(stub, jwt=[key("a")])
    await batch(stub, "Create", message())
    await batch(stub, "Update", message(refresh_hint=1))
    await batch(stub, "Set", message(refresh_hint=2))
    await delete(stub, "partner.org")
    assert [(r.act.rpartition("/")[2], r.subject) for r in await world.trail()] == [
        ("AppendBundle", "example.org"),
        ("BatchCreateFederatedBundle", "partner.org"),
        ("BatchUpdateFederatedBundle", "partner.org"),
        ("BatchSetFederatedBundle", "partner.org"),
        ("BatchDeleteFederatedBundle", "partner.org"),
    ]

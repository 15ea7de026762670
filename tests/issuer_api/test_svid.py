# SPDX-License-Identifier: Apache-2.0
"""Nodes get SVIDs for their entries, operators mint them by hand."""

import json
from datetime import UTC, datetime, timedelta

import grpc
import pytest
from cryptography import x509

from issuer.model import CredentialFacts
from issuer.store.audit import AuditFilter
from spiffekit import jwtsvid, x509svid
from spiffekit.keys import KeyType, generate_private_key
from spiffekit.wire.pb.spire.api import types_pb2
from spiffekit.wire.pb.spire.api.server.svid.v1 import svid_pb2, svid_pb2_grpc
from tests.issuer_api.calls import refused
from tests.issuer_api.world import TRUST_DOMAIN, World, csr, id_message, spiffe_id

Code = grpc.StatusCode
OK = types_pb2.Status(message="OK")


@pytest.fixture
async def node(world):
    return svid_pb2_grpc.SVIDStub(await world.dial(await world.node("n1")))


@pytest.fixture
def operator(local):
    return svid_pb2_grpc.SVIDStub(local)


async def batch(stub, *params):
    wanted = [svid_pb2.NewX509SVIDParams(entry_id=entry_id, csr=request) for entry_id, request in params]
    return list((await stub.BatchNewX509SVID(svid_pb2.BatchNewX509SVIDRequest(params=wanted))).results)


def request(*names, key=None, common_name=""):
    """A PKCS#10 request that asks for these names."""
    attributes = [x509.NameAttribute(x509.NameOID.COMMON_NAME, common_name)] if common_name else []
    builder = x509.CertificateSigningRequestBuilder().subject_name(x509.Name(attributes))
    if names:
        builder = builder.add_extension(x509.SubjectAlternativeName(names), critical=False)
    return csr(key, builder)


def uri(text):
    return x509.UniformResourceIdentifier(text)


def names_of(svid):
    leaf = x509.load_der_x509_certificate(svid.cert_chain[0])
    return list(leaf.extensions.get_extension_for_class(x509.SubjectAlternativeName).value)


async def test_a_node_gets_an_svid_that_its_bundle_verifies(world, node, clock):
    await world.entry(
        "/web", dns_names=("web.example.org", "w"), hint="out", x509_svid_ttl=timedelta(minutes=5)
    )
    key = generate_private_key(KeyType.EC_P256)
    (result,) = await batch(node, ("web", csr(key)))
    assert result.status == OK
    svid = result.svid
    assert (svid.id, svid.hint) == (id_message("/web"), "out")
    assert svid.expires_at == int((clock.now() + timedelta(minutes=5)).timestamp())
    bundle = world.registrations.bundle(TRUST_DOMAIN)
    assert x509svid.verify(tuple(svid.cert_chain), _Only(bundle), now=clock.now()) == spiffe_id("/web")
    leaf = x509.load_der_x509_certificate(svid.cert_chain[0])
    assert leaf.public_key() == key.public_key()
    assert names_of(svid) == [
        uri("spiffe://example.org/web"),
        x509.DNSName("web.example.org"),
        x509.DNSName("w"),
    ]


class _Only:
    def __init__(self, bundle):
        self.bundle = bundle

    def bundle_for(self, trust_domain):
        assert trust_domain == self.bundle.trust_domain
        return self.bundle


async def test_nothing_of_a_request_but_its_key_enters_a_certificate(world, node):
    """CVE-2021-27098: the names of the request are those of the attacker, the entry's are ours."""
    await world.entry("/web")
    evil = request(uri("spiffe://example.org/admin"), x509.DNSName("admin"), common_name="admin")
    (result,) = await batch(node, ("web", evil))
    assert names_of(result.svid) == [uri("spiffe://example.org/web")]
    leaf = x509.load_der_x509_certificate(result.svid.cert_chain[0])
    assert leaf.subject.get_attributes_for_oid(x509.NameOID.COMMON_NAME) == []


async def test_each_item_of_a_batch_stands_for_itself(world, node):
    await world.entry("/a")
    await world.entry("/b")
    await world.entry("/theirs", parent="/spire/agent/test/n2")
    results = await batch(
        node,
        ("a", csr()),
        ("theirs", csr()),
        ("none", csr()),
        ("", csr()),
        ("a", b"junk"),
        ("b", b""),
        ("b", csr()),
    )
    unknown = (5, "entry not found or not authorized")
    assert [(r.status.code, r.status.message) for r in results] == [
        (0, "OK"),
        unknown,
        unknown,
        unknown,
        (3, "csr: not a well-formed PKCS#10 request"),
        (3, "csr: is missing"),
        (0, "OK"),
    ]
    assert [r.svid.id.path for r in results] == ["/a", "", "", "", "", "", "/b"]
    trail = await world.trail()
    assert [record.detail["entry"] for record in trail] == ["a", "b"]
    for record, result in zip(trail, [results[0], results[6]], strict=True):
        issued = x509.load_der_x509_certificate(result.svid.cert_chain[0])
        assert record.subject == f"spiffe://example.org{result.svid.id.path}"
        assert record.type == "svid.issued"
        assert record.credential.kind == "x509-svid"
        assert record.credential.serial == str(issued.serial_number)
        assert record.credential.exp == f"{issued.not_valid_after_utc:%Y-%m-%dT%H:%M:%SZ}"
        assert record.attest.node == record.actor
    assert trail[0].detail["call"] == trail[1].detail["call"]


async def test_a_large_batch_lets_others_have_their_turn(world, node):
    await world.entry("/a")
    one = csr()
    results = await batch(node, *[("a", one)] * 70)
    assert {r.status.code for r in results} == {0}
    assert len({x509.load_der_x509_certificate(r.svid.cert_chain[0]).serial_number for r in results}) == 70


async def test_a_batch_is_neither_empty_nor_without_bounds(node):
    with refused(Code.INVALID_ARGUMENT, "params: are missing"):
        await batch(node)
    with refused(Code.INVALID_ARGUMENT, "params: more than 500"):
        await batch(node, *[("a", b"")] * 501)


async def test_a_batch_of_which_nothing_is_issued_leaves_no_record(world, node):
    await batch(node, ("none", csr()))
    assert await world.trail() == []


async def test_an_entry_that_is_over_gives_nothing(world, node, clock):
    await world.entry("/web", expires_at=clock.now() + timedelta(seconds=1))
    (result,) = await batch(node, ("web", csr()))
    assert result.status == OK
    clock.step(timedelta(seconds=1))
    (result,) = await batch(node, ("web", csr()))
    assert result.status.code == 5


async def test_what_cannot_be_recorded_is_not_issued(world, node):
    await world.entry("/web")
    await world.lose_the_trail()
    with refused(Code.UNAVAILABLE, "database failed, nothing was changed: no such table: audit"):
        await batch(node, ("web", csr()))


# JWT-SVIDs.


async def new_jwt(stub, entry_id, *audience):
    return (await stub.NewJWTSVID(svid_pb2.NewJWTSVIDRequest(entry_id=entry_id, audience=audience))).svid


async def test_a_node_gets_a_jwt_svid_that_its_bundle_verifies(world, node, clock):
    await world.entry("/web", jwt_svid_ttl=timedelta(seconds=90), hint="out")
    svid = await new_jwt(node, "web", "db", "cache")
    assert (svid.id, svid.hint) == (id_message("/web"), "out")
    now = int(clock.now().timestamp())
    assert (svid.issued_at, svid.expires_at) == (now, now + 90)
    verified = jwtsvid.verify(
        svid.token, _Only(world.registrations.bundle(TRUST_DOMAIN)), audience=["cache"], now=clock.now()
    )
    assert verified.spiffe_id == spiffe_id("/web")
    assert tuple(verified.audience) == ("db", "cache")
    (record,) = await world.trail()
    assert record.subject == "spiffe://example.org/web"
    assert (record.detail["entry"], record.detail["audience"]) == ("web", ["db", "cache"])
    assert record.credential == CredentialFacts(
        kind="jwt-svid", exp=f"{clock.now() + timedelta(seconds=90):%Y-%m-%dT%H:%M:%SZ}"
    )
    assert svid.token not in repr(record)


async def test_a_jwt_svid_says_in_the_trail_by_what_it_is_found_again(world, node):
    await world.entry("/web", jwt_svid_include_jti=True)
    svid = await new_jwt(node, "web", "db")
    (record,) = await world.trail()
    assert record.credential.jti == jwtsvid.JwtSvid.parse_unverified(svid.token).claims["jti"]
    (found,) = await world.database.read(
        lambda tx: tx.audit.leaves(0, 10, AuditFilter(credential=record.credential.jti))
    )
    assert json.loads(found[1])["credential"]["jti"] == record.credential.jti


async def test_an_audience_that_fits_into_no_event_is_refused(world, node):
    await world.entry("/web")
    with refused(Code.INVALID_ARGUMENT, "what is to be recorded is longer than the 16384 bytes of an event"):
        await new_jwt(node, "web", *(str(number) * 1000 for number in range(20)))
    assert await world.trail() == []


BAD_AUDIENCES = [(), ("",), ("", ""), ("a" * 2049,), tuple(f"a{i}" for i in range(51))]


@pytest.mark.requirement("JWT-11")
@pytest.mark.parametrize(
    "audience", BAD_AUDIENCES, ids=lambda audience: f"{len(audience)}-{audience[-1:]!r}"[:12]
)
async def test_a_token_is_for_somebody(world, node, operator, audience):
    await world.entry("/web")
    with refused(Code.INVALID_ARGUMENT) as caught:
        await new_jwt(node, "web", *audience)
    assert caught.value.details().startswith("audience: ")
    with refused(Code.INVALID_ARGUMENT, caught.value.details()):
        await mint_jwt(operator, audience=audience)


@pytest.mark.parametrize("entry_id", ["theirs", "none", "", "x" * 10_000])
async def test_a_node_gets_no_token_for_what_it_may_not_serve(world, node, entry_id):
    await world.entry("/theirs", parent="/spire/agent/test/n2")
    with refused(Code.NOT_FOUND, "entry not found or not authorized"):
        await new_jwt(node, entry_id, "db")


@pytest.mark.requirement("ID-18")
async def test_an_id_of_full_length_is_issued(world, node, operator):
    path = "/" + "a" * (2048 - len("spiffe://example.org/"))
    await world.entry(path, id="long")
    (result,) = await batch(node, ("long", csr()))
    assert names_of(result.svid) == [uri(f"spiffe://example.org{path}")]
    assert (await new_jwt(node, "long", "db")).id == id_message(path)
    assert (await mint(operator, request(uri(f"spiffe://example.org{path}")))).id == id_message(path)
    with refused(Code.INVALID_ARGUMENT, "csr: SPIFFE ID is longer than 2048 bytes"):
        await mint(operator, request(uri(f"spiffe://example.org{path}a")))


# Minting by operators.


async def mint(stub, csr_der, ttl=0):
    return (await stub.MintX509SVID(svid_pb2.MintX509SVIDRequest(csr=csr_der, ttl=ttl))).svid


async def mint_jwt(stub, path="/web", trust_domain="example.org", audience=("db",), ttl=0):
    wanted = svid_pb2.MintJWTSVIDRequest(id=id_message(path, trust_domain), audience=audience, ttl=ttl)
    return (await stub.MintJWTSVID(wanted)).svid


async def test_an_operator_mints_the_names_of_the_request(world, operator, clock):
    svid = await mint(
        operator, request(uri("spiffe://example.org/by/hand"), x509.DNSName("hand.example.org"))
    )
    assert svid.id == id_message("/by/hand")
    assert names_of(svid) == [uri("spiffe://example.org/by/hand"), x509.DNSName("hand.example.org")]
    assert svid.expires_at == int((clock.now() + timedelta(hours=1)).timestamp())
    (record,) = await world.trail()
    assert (record.act.rpartition("/")[2], record.subject) == ("MintX509SVID", "spiffe://example.org/by/hand")


NO_WORKLOAD = "is no workload of trust domain example.org"
REQUESTS = {
    "no-name": ((), "csr: has 0 URI SANs: exactly one is needed"),
    "two-ids": (
        (uri("spiffe://example.org/a"), uri("spiffe://example.org/b")),
        "csr: has 2 URI SANs: exactly one is needed",
    ),
    "another-scheme": (
        (uri("https://example.org/a"),),
        "csr: scheme of 'https://example.org/a' is not 'spiffe'",
    ),
    "dot-segment": ((uri("spiffe://example.org/a/../b"),), "csr: path cannot contain dot segments"),
    "trust-domain": ((uri("spiffe://example.org"),), f"id: spiffe://example.org {NO_WORKLOAD}"),
    "foreign": ((uri("spiffe://other.org/a"),), f"id: spiffe://other.org/a {NO_WORKLOAD}"),
    "the-issuer": ((uri("spiffe://example.org/spire/server"),), "id: is that of the issuer itself"),
    "bad-dns-name": (
        (uri("spiffe://example.org/a"), x509.DNSName("a..b")),
        "dns_names: 'a..b' is not a DNS name",
    ),
    "dns-name-twice": (
        (uri("spiffe://example.org/a"), x509.DNSName("a"), x509.DNSName("A")),
        "dns_names: a name stands twice",
    ),
}


@pytest.mark.requirement("X509-01", "X509-04")
@pytest.mark.parametrize(("names", "text"), [pytest.param(*row, id=key) for key, row in REQUESTS.items()])
async def test_a_name_that_may_not_be_minted_is_refused(operator, names, text):
    with refused(Code.INVALID_ARGUMENT, text):
        await mint(operator, request(*names))


@pytest.mark.parametrize(
    ("path", "trust_domain", "text"),
    [
        ("", "example.org", "id: spiffe://example.org has no path"),
        ("/a", "other.org", "id: spiffe://other.org/a is not a member of trust domain example.org"),
        ("/spire/server", "example.org", "id: is that of the issuer itself"),
        ("/..", "example.org", "id: path cannot contain dot segments"),
        ("/a", "", "id: trust domain is missing"),
    ],
)
async def test_a_token_for_a_name_that_may_not_be_minted_is_refused(operator, path, trust_domain, text):
    with refused(Code.INVALID_ARGUMENT, text):
        await mint_jwt(operator, path, trust_domain)


async def test_an_operator_says_how_long(operator, clock):
    made = [
        await mint(operator, request(uri("spiffe://example.org/a")), ttl=60),
        await mint_jwt(operator, ttl=60),
    ]
    assert [datetime.fromtimestamp(svid.expires_at, UTC) - clock.now() for svid in made] == [
        timedelta(seconds=60)
    ] * 2
    default = await mint_jwt(operator)
    assert datetime.fromtimestamp(default.expires_at, UTC) - clock.now() == timedelta(minutes=5)
    for call in (mint(operator, request(uri("spiffe://example.org/a")), ttl=-1), mint_jwt(operator, ttl=-1)):
        with refused(Code.INVALID_ARGUMENT, "ttl: is negative"):
            await call


async def test_nothing_outlives_its_authority(place, clock):
    """A TTL that is longer is cut, not refused."""
    async with World.open(place, clock, ca_ttl=timedelta(minutes=10)) as world:
        operator = svid_pb2_grpc.SVIDStub(await world.local())
        made = [
            await mint(operator, request(uri("spiffe://example.org/a")), ttl=2**31 - 1),
            await mint_jwt(operator, ttl=2**31 - 1),
        ]
        assert {svid.expires_at for svid in made} == {int((clock.now() + timedelta(minutes=10)).timestamp())}
        clock.step(timedelta(minutes=10))
        with refused(Code.UNAVAILABLE, "the X.509 authority has expired"):
            await mint(operator, request(uri("spiffe://example.org/a")))
        with refused(Code.UNAVAILABLE, "the JWT authority has expired"):
            await mint_jwt(operator)

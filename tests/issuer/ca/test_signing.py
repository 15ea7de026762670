# SPDX-License-Identifier: Apache-2.0
"""What is signed is what was asked for, in the profile of the standards, and ends with its authority."""

import base64
import re
from datetime import UTC, datetime, timedelta

import pytest
from cryptography import x509
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric import ec, ed25519
from hypothesis import given
from hypothesis import strategies as st
from joserfc import jwt
from joserfc.jwk import import_key

from issuer.ca.authorities import Authorities, AuthorityPolicy
from issuer.ca.profile import BACKDATE, Leaf
from issuer.ca.signing import (
    MAX_AUDIENCE_BYTES,
    MAX_AUDIENCES,
    Holder,
    JwtSigner,
    X509Signer,
    check_audience,
    key_kind,
)
from issuer.errors import AuthorityNotReadyError, InvalidRequestError
from issuer.keys import LocalKey
from issuer.keys.memory import MemoryKeyManager
from issuer.model import AuthorityKind, AuthorityRecord, AuthorityState
from spiffekit.bundle import Bundle, BundleSet, JwtAuthority, X509Authority
from spiffekit.certificates import check_leaf, check_signing_certificate, spiffe_id_of
from spiffekit.id import SpiffeId, TrustDomain
from spiffekit.jwtsvid import verify as verify_jwt
from spiffekit.keys import KeyType, generate_private_key, public_key_to_der
from spiffekit.x509svid import verify as verify_x509

NOW = datetime(2026, 1, 1, tzinfo=UTC)
HOUR = timedelta(hours=1)
AGENT = SpiffeId.parse("spiffe://example.org/agent")
OURS = TrustDomain("example.org")
KINDS = [KeyType.EC_P256, KeyType.EC_P384, KeyType.RSA_2048]
SIGNED_BY = {"secp256r1": KeyType.EC_P256, "secp384r1": KeyType.EC_P384, "rsa": KeyType.RSA_2048}
KEY = public_key_to_der(ec.generate_private_key(ec.SECP256R1()).public_key())


@pytest.fixture(params=KINDS, ids=str)
async def authorities(request, database, clock):
    policy = AuthorityPolicy(ca_key_type=request.param, jwt_key_type=request.param, jwt_issuer="")
    authorities = Authorities(OURS, policy, keys=MemoryKeyManager(), database=database, clock=clock)
    await authorities.load()
    return authorities


def root_of(authorities):
    return x509.load_der_x509_certificate(authorities.slots(AuthorityKind.X509).active.certificate_der)


def bundles_of(authorities):
    x509_authority = authorities.slots(AuthorityKind.X509).active
    key = authorities.slots(AuthorityKind.JWT).active
    return BundleSet(
        [
            Bundle(
                OURS,
                (X509Authority(x509_authority.certificate_der),),
                (JwtAuthority(key.id, key.public_key_der, key.not_after),),
            )
        ]
    )


@pytest.mark.requirement(
    "ID-22", "ID-23", "ID-24", "ID-28", "X509-07", "X509-10", "X509-13", "X509-14", "X509-17", "X509-18",
    "X509-19", "X509-20", "X509-21", "X509-28", "X509-39", "X509-43",
)  # fmt: skip
async def test_an_authority_has_the_profile_of_a_signing_certificate(authorities):
    root = root_of(authorities)
    assert root.version is x509.Version.v3
    assert root.subject == root.issuer
    root.verify_directly_issued_by(root)
    assert root.subject.rfc4514_string() == f"2.5.4.5={root.serial_number},O=SPIFFE,C=US"
    assert root.not_valid_before_utc == NOW - BACKDATE
    assert root.not_valid_after_utc == NOW + timedelta(hours=24)
    assert [(e.oid._name, e.critical) for e in root.extensions] == [
        ("keyUsage", True),
        ("basicConstraints", True),
        ("subjectKeyIdentifier", False),
        ("subjectAltName", False),
    ]
    values = {extension.oid._name: extension.value for extension in root.extensions}
    assert values["basicConstraints"] == x509.BasicConstraints(ca=True, path_length=None)
    assert values["keyUsage"] == x509.KeyUsage(
        digital_signature=False,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        key_cert_sign=True,
        crl_sign=True,
        encipher_only=False,
        decipher_only=False,
    )
    assert list(values["subjectAltName"]) == [x509.UniformResourceIdentifier("spiffe://example.org")]
    assert values["subjectKeyIdentifier"].digest.hex() == authorities.slots(AuthorityKind.X509).active.id
    assert spiffe_id_of(root) == OURS.id
    check_signing_certificate(root)


async def test_the_librarys_builder_makes_the_same_authority(authorities):
    root = root_of(authorities)
    builder = (
        x509.CertificateBuilder()
        .subject_name(root.subject)
        .issuer_name(root.subject)
        .public_key(root.public_key())
        .serial_number(root.serial_number)
        .not_valid_before(root.not_valid_before_utc)
        .not_valid_after(root.not_valid_after_utc)
    )
    for extension in root.extensions:
        builder = builder.add_extension(extension.value, extension.critical)
    private = generate_private_key(SIGNED_BY[key_kind(root.public_key())])
    rebuilt = builder.sign(private, root.signature_hash_algorithm)
    assert rebuilt.tbs_certificate_bytes == root.tbs_certificate_bytes


@pytest.mark.requirement("X509-01", "X509-15", "X509-22", "X509-27", "ID-25", "X509-09")
async def test_a_leaf_is_valid_under_its_authority(authorities):
    issued = await authorities.x509.sign(AGENT, KEY, ttl=HOUR, now=NOW, dns_names=("a.example.org",))
    assert verify_x509(issued.chain_der, bundles_of(authorities), now=NOW) == AGENT
    (leaf_der,) = issued.chain_der
    leaf = x509.load_der_x509_certificate(leaf_der)
    leaf.verify_directly_issued_by(root_of(authorities))
    assert check_leaf(leaf) == issued.spiffe_id == AGENT
    assert leaf.serial_number == issued.serial
    assert leaf.not_valid_after_utc == issued.expires_at == NOW + HOUR
    assert leaf.not_valid_before_utc == NOW - BACKDATE
    assert public_key_to_der(leaf.public_key()) == KEY
    assert issued.authority_id == authorities.slots(AuthorityKind.X509).active.id
    identifier = leaf.extensions.get_extension_for_class(x509.AuthorityKeyIdentifier).value
    assert identifier.key_identifier.hex() == issued.authority_id


@pytest.fixture
async def ec_authorities(database, clock):
    authorities = Authorities(
        OURS,
        AuthorityPolicy(jwt_issuer="https://issuer", wit=True),
        keys=MemoryKeyManager(),
        database=database,
        clock=clock,
    )
    await authorities.load()
    return authorities


@pytest.mark.parametrize(
    ("ttl", "left"),
    [
        (HOUR, timedelta(minutes=5)),
        (timedelta(days=365_000), timedelta(hours=24)),
        (timedelta(seconds=2), timedelta(seconds=1)),
    ],
)
@pytest.mark.parametrize("kind", AuthorityKind)
async def test_nothing_outlives_the_authority_that_signed_it(ec_authorities, kind, ttl, left):
    end = ec_authorities.slots(kind).active.not_after
    now = end - left
    issued = await sign(ec_authorities, kind, ttl=ttl, now=now)
    assert issued.expires_at == end


@pytest.mark.parametrize("late", [timedelta(0), timedelta(microseconds=1), HOUR])
@pytest.mark.parametrize("kind", AuthorityKind)
async def test_an_authority_that_has_ended_signs_nothing(ec_authorities, kind, late):
    now = ec_authorities.slots(kind).active.not_after + late
    with pytest.raises(AuthorityNotReadyError, match=r"^the (X\.509|JWT|WIT) authority has expired$"):
        await sign(ec_authorities, kind, ttl=HOUR, now=now)


@pytest.mark.requirement("JWT-16")
@pytest.mark.parametrize("ttl", [timedelta(0), timedelta(seconds=-1), timedelta(milliseconds=-1)])
@pytest.mark.parametrize("kind", AuthorityKind)
async def test_a_lifetime_of_nothing_is_refused(ec_authorities, kind, ttl):
    with pytest.raises(AuthorityNotReadyError):
        await sign(ec_authorities, kind, ttl=ttl, now=NOW)


@pytest.mark.requirement("X509-04", "X509-09", "ID-29", "JWT-10")
@pytest.mark.parametrize(
    ("spiffe_id", "message"),
    [
        ("spiffe://example.org", "spiffe_id: spiffe://example.org has no path"),
        (
            "spiffe://other.org/agent",
            "spiffe_id: spiffe://other.org/agent is not in trust domain example.org",
        ),
        ("spiffe://other.org", "spiffe_id: spiffe://other.org has no path"),
    ],
)
@pytest.mark.parametrize("kind", AuthorityKind)
async def test_ids_that_are_not_of_our_workloads_are_never_signed(ec_authorities, kind, spiffe_id, message):
    with pytest.raises(InvalidRequestError, match=f"^{re.escape(message)}$"):
        await sign(ec_authorities, kind, SpiffeId.parse(spiffe_id), ttl=HOUR, now=NOW)


async def sign(authorities, kind, spiffe_id=AGENT, *, ttl, now):
    if kind is AuthorityKind.X509:
        return await authorities.x509.sign(spiffe_id, KEY, ttl=ttl, now=now)
    if kind is AuthorityKind.WIT:
        return await authorities.wit.sign(spiffe_id, Holder(KEY, "ES256"), ttl=ttl, now=now)
    return await authorities.jwt.sign(spiffe_id, ("them",), ttl=ttl, now=now)


async def test_instants_are_cut_to_whole_seconds(ec_authorities):
    now = NOW + timedelta(microseconds=999_999)
    issued = await ec_authorities.x509.sign(AGENT, KEY, ttl=HOUR, now=now)
    assert issued.expires_at == NOW + HOUR
    token = await ec_authorities.jwt.sign(AGENT, ("them",), ttl=HOUR, now=now)
    assert (token.issued_at, token.expires_at) == (NOW, NOW + HOUR)


async def test_serial_numbers_differ_between_leaves(ec_authorities):
    issued = [await ec_authorities.x509.sign(AGENT, KEY, ttl=HOUR, now=NOW) for _ in range(50)]
    assert len({one.serial for one in issued}) == 50


async def test_before_an_authority_is_there_nothing_can_be_signed(database, clock):
    authorities = Authorities(
        OURS, AuthorityPolicy(), keys=MemoryKeyManager(), database=database, clock=clock
    )
    with pytest.raises(AuthorityNotReadyError, match=r"^no X\.509 authority is active yet$"):
        _ = authorities.x509
    with pytest.raises(AuthorityNotReadyError, match=r"^no JWT authority is active yet$"):
        _ = authorities.jwt


async def test_authorities_have_keys_that_the_standards_know(ec_authorities):
    """JWT-SVID §2.1 has no algorithm for Ed25519."""
    record = ec_authorities.slots(AuthorityKind.JWT).active
    key = LocalKey("k", ed25519.Ed25519PrivateKey.generate())
    with pytest.raises(AuthorityNotReadyError, match=r"^an authority's key has to be EC or RSA$"):
        JwtSigner(record, key, trust_domain=OURS)
    with pytest.raises(AuthorityNotReadyError):
        X509Signer(ec_authorities.slots(AuthorityKind.X509).active, key)
    with pytest.raises(ValueError, match="authorities do not use Ed25519"):
        await key.sign(b"x")


ALGORITHM = {KeyType.EC_P256: "ES256", KeyType.EC_P384: "ES384", KeyType.RSA_2048: "RS256"}


def decode(token, authorities):
    """Decode with a library that is not ours."""
    record = authorities.slots(AuthorityKind.JWT).active
    key = import_key(pem(record.public_key_der), "RSA" if len(record.public_key_der) > 200 else "EC")
    return jwt.decode(token, key, algorithms=list(ALGORITHM.values()))


def pem(der):
    text = base64.encodebytes(der).decode()
    return f"-----BEGIN PUBLIC KEY-----\n{text}-----END PUBLIC KEY-----\n"


@pytest.mark.requirement(
    "JWT-02", "JWT-04", "JWT-07", "JWT-08", "JWT-10", "JWT-16", "JWT-19", "JWT-28", "JWT-29"
)
async def test_a_token_says_this_and_no_more(authorities, request):
    issued = await authorities.jwt.sign(AGENT, ("them",), ttl=HOUR, now=NOW)
    assert re.fullmatch(r"[\w-]+\.[\w-]+\.[\w-]+", issued.token)
    token = decode(issued.token, authorities)
    kind = request.node.callspec.params["authorities"]
    kid = authorities.slots(AuthorityKind.JWT).active.id
    assert token.header == {"alg": ALGORITHM[kind], "kid": kid, "typ": "JWT"}
    issued_at = int(NOW.timestamp())
    assert token.claims == {"sub": str(AGENT), "aud": ["them"], "exp": issued_at + 3600, "iat": issued_at}
    assert type(token.claims["exp"]) is int
    verified = verify_jwt(issued.token, bundles_of(authorities), audience=["them"], now=NOW)
    assert verified.spiffe_id == AGENT
    assert issued.authority_id == kid


async def test_a_configured_issuer_and_a_wanted_token_id_stand_in_the_token(ec_authorities):
    first = decode((await jwt_with(ec_authorities, jti=True)).token, ec_authorities).claims
    second = decode((await jwt_with(ec_authorities, jti=True)).token, ec_authorities).claims
    assert first["iss"] == "https://issuer"
    assert first["jti"] != second["jti"]
    assert re.fullmatch("[0-9a-f]{32}", first["jti"])  # people type it: it never looks like an option
    assert "jti" not in decode((await jwt_with(ec_authorities, jti=False)).token, ec_authorities).claims


async def test_the_owner_is_a_claim_if_there_is_one(ec_authorities):
    owned = await jwt_with(ec_authorities, jti=True, owner="https://idp.example.org|alice")
    claims = decode(owned.token, ec_authorities).claims
    assert (claims["owner"], claims["jti"]) == ("https://idp.example.org|alice", owned.jti)
    plain = await jwt_with(ec_authorities, jti=False)
    assert "owner" not in decode(plain.token, ec_authorities).claims


async def jwt_with(authorities, *, jti, owner=""):
    return await authorities.jwt.sign(AGENT, ("them",), ttl=HOUR, now=NOW, jti=jti, owner=owner)


async def test_signatures_have_a_fixed_width(ec_authorities):
    """RFC 7518 §3.4: 64 bytes for ES256, whatever leading zeros r and s have; one in 128 has some."""
    for _ in range(300):
        issued = await ec_authorities.jwt.sign(AGENT, ("them",), ttl=HOUR, now=NOW)
        assert len(issued.token.split(".")[2]) == 86


@pytest.mark.requirement("JWT-11")
@pytest.mark.parametrize(
    ("audience", "message"),
    [
        ((), "audience: at least one is required"),
        (("",), "audience: at least one is required"),
        (("", ""), "audience: at least one is required"),
        (("x" * (MAX_AUDIENCE_BYTES + 1),), "audience: at most 50 of at most 2048 bytes each"),
        (("é" * (MAX_AUDIENCE_BYTES // 2 + 1),), "audience: at most 50 of at most 2048 bytes each"),
        (("a",) * (MAX_AUDIENCES + 1), "audience: at most 50 of at most 2048 bytes each"),
    ],
)
async def test_an_audience_of_nothing_or_too_much_gets_no_token(ec_authorities, audience, message):
    with pytest.raises(InvalidRequestError, match=f"^{re.escape(message)}$"):
        await ec_authorities.jwt.sign(AGENT, audience, ttl=HOUR, now=NOW)


@pytest.mark.parametrize("audience", [("x" * MAX_AUDIENCE_BYTES,), tuple("ab" * (MAX_AUDIENCES // 2))])
def test_the_largest_audiences_are_accepted(audience):
    assert check_audience(audience) == audience


@given(st.lists(st.text(max_size=10), max_size=10).map(tuple).filter(any))
def test_an_audience_keeps_its_names_and_their_order(audience):
    assert check_audience(audience) == tuple(name for name in audience if name)


@given(name=st.text(min_size=1, max_size=40))
async def test_any_audience_arrives_as_it_was_given(name):
    key = LocalKey("k", ec.generate_private_key(ec.SECP256R1()))
    record = AuthorityRecord(
        id="kid",
        kind=AuthorityKind.JWT,
        state=AuthorityState.ACTIVE,
        key_id="k",
        issued_at=NOW,
        not_after=NOW + HOUR,
        public_key_der=public_key_to_der(key.public_key),
    )
    token = await JwtSigner(record, key, trust_domain=OURS).sign(AGENT, (name,), ttl=HOUR, now=NOW)
    bundles = BundleSet([Bundle(OURS, (), (JwtAuthority("kid", record.public_key_der),))])
    assert verify_jwt(token.token, bundles, audience=[name], now=NOW).audience == (name,)


async def test_a_certificate_that_came_out_wrong_never_leaves(ec_authorities):
    """The check after signing, with a leaf that differs from what was signed in one field each."""
    signer = ec_authorities.x509
    issued = await signer.sign(AGENT, KEY, ttl=HOUR, now=NOW, dns_names=("a.example.org",))
    (certificate,) = issued.chain_der
    leaf = Leaf(
        spiffe_id=AGENT,
        public_key_der=KEY,
        dns_names=("a.example.org",),
        serial=issued.serial,
        not_before=NOW - BACKDATE,
        not_after=NOW + HOUR,
    )
    signer._check(certificate, leaf)
    for wrong in (
        {"serial": issued.serial + 1},
        {"not_after": NOW + 2 * HOUR},
        {"spiffe_id": AGENT.with_path("/other")},
        {"dns_names": ()},
        {"dns_names": ("b.example.org",)},
        {"public_key_der": public_key_to_der(ec.generate_private_key(ec.SECP256R1()).public_key())},
    ):
        made, differing = x509.load_der_x509_certificate(certificate), leaf._replace(**wrong)
        with pytest.raises(AssertionError, match="differs from its profile"):
            signer._check(certificate, differing)
            signer._check_whole(made, differing)  # of the first of a signer, and of a sample


async def test_a_signature_by_another_key_is_found_out_at_once(ec_authorities):
    """The first certificate of a signer is verified whole, and one of so many after it."""
    record = ec_authorities.slots(AuthorityKind.X509).active
    liar = X509Signer(record, LocalKey("k", generate_private_key(KeyType.EC_P256)))
    with pytest.raises(InvalidSignature):
        await liar.sign(AGENT, KEY, ttl=HOUR, now=NOW)
    with pytest.raises(InvalidSignature):
        await liar.sign(AGENT, KEY, ttl=HOUR, now=NOW)

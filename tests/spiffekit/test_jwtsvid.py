# SPDX-License-Identifier: Apache-2.0
"""JWT-SVIDs: parse and verify (JWT-SVID §2 to §6)."""

import json
import string
from datetime import UTC, datetime, timedelta

import pytest
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from hypothesis import given
from hypothesis import strategies as st
from joserfc import jwt as joserfc_jwt
from joserfc.jwk import ECKey, RSAKey

from spiffekit import errors
from spiffekit.bundle import Bundle, BundleSet, JwtAuthority
from spiffekit.errors import AudienceError, ExpiredError, JwtSvidError, UntrustedError
from spiffekit.id import TrustDomain
from spiffekit.jwk import MAX_KEY_ID
from spiffekit.jws import ALGORITHMS, MAX_AUDIENCES, MAX_TOKEN_BYTES
from spiffekit.jwtsvid import JwtSvid, verify
from spiffekit.keys import public_key_to_der
from spiffekit.testing import TestCA
from tests.vectors import keys, load

VECTORS = load("jwt_svids")
NOW = datetime.fromtimestamp(VECTORS["now"], UTC)
BUNDLES = BundleSet(
    Bundle.parse(TrustDomain(name), json.dumps(document).encode())
    for name, document in VECTORS["bundles"].items()
)
GOOD = {
    "plain": (),
    "audience": pytest.mark.requirement("JWT-13", "JWT-14", "JWT-18"),
    "type": pytest.mark.requirement("JWT-08"),
    "further headers": pytest.mark.requirement("JWT-02"),
    "further claims": pytest.mark.requirement("JWT-09", "ID-26"),
    "instant with a fraction": pytest.mark.requirement("JWT-29"),
    "expired within leeway": pytest.mark.requirement("JWT-18"),
    "begins within leeway": (),
    "issued in the future": (),
    "no iat": (),
    "end of time": (),
    "longest": pytest.mark.requirement("ID-18"),
}
BAD = {
    "JSON serialization": pytest.mark.requirement("JWT-01"),
    "encrypted": pytest.mark.requirement("JWT-03"),
    "parts": pytest.mark.requirement("JWT-19", "ID-27"),
    "encoding": pytest.mark.requirement("JWT-19"),
    "algorithm": pytest.mark.requirement("JWT-05", "JWT-28"),
    "type": pytest.mark.requirement("JWT-08"),
    "critical": pytest.mark.requirement("JWT-02"),
    "no kid": pytest.mark.requirement("JWT-07"),
    "subject": pytest.mark.requirement("JWT-10", "ID-01"),
    "subject without path": pytest.mark.requirement("JWT-10"),
    "no audience": pytest.mark.requirement("JWT-12"),
    "no expiry": pytest.mark.requirement("JWT-17"),
    "expiry": pytest.mark.requirement("JWT-17", "JWT-29"),
    "other instants": (),
    "no object": (),
    "tampered": pytest.mark.requirement("ID-25"),
    "signature": (),
    "unknown kid": pytest.mark.requirement("JWT-07"),
    "key of another trust domain": pytest.mark.requirement("JWT-27", "ID-29", "BND-28"),
    "no bundle": pytest.mark.requirement("JWT-27", "WLAPI-51"),
    "expired": pytest.mark.requirement("JWT-18"),
    "not yet": (),
    "audience": pytest.mark.requirement("JWT-13"),
}
CA = TestCA(now=NOW)
WEB = "spiffe://example.org/web"


def cases(kind, marks):
    return [
        pytest.param(vector, marks=marks[vector["rule"]], id=vector["rule"].replace(" ", "-"))
        for vector in VECTORS[kind]
    ]


def judge(token, bundles=BUNDLES, audience=VECTORS["audience"]):
    return verify(token, bundles, audience=audience, now=NOW)


@pytest.mark.parametrize("vector", cases("good", GOOD))
def test_a_good_token_is_believed(vector):
    svid = judge(vector["token"])
    assert svid.spiffe_id.trust_domain.name == "example.org"
    assert svid.token == vector["token"]
    assert "test" in svid.audience


@pytest.mark.parametrize("vector", cases("bad", BAD))
def test_a_bad_token_is_refused(vector):
    """The fix of SPIRE 1.11.3 (tokens without `exp`) and py-spiffe's #449 (trust domain of the subject)."""
    with pytest.raises(errors.SpiffeError) as refusal:
        judge(vector["token"])
    assert type(refusal.value).__name__ == vector["error"]
    assert vector["message"] in (None, str(refusal.value))


@pytest.mark.requirement("JWT-26")
def test_a_token_is_as_good_the_second_time():
    token = CA.jwt(WEB)
    assert judge(token, CA.bundle) == judge(token, CA.bundle)


def test_what_a_token_says_is_handed_out():
    svid = judge(CA.jwt(WEB, ["a", "test"], claims={"role": {"x": 1}}), CA.bundle)
    assert str(svid.spiffe_id) == WEB
    assert svid.audience == ("a", "test")
    assert svid.expires_at == NOW + timedelta(hours=1)
    assert svid.issued_at == NOW
    assert svid.claims["role"] == {"x": 1}


def test_neither_token_nor_claims_are_shown():
    svid = judge(CA.jwt(WEB, claims={"role": "secret-role"}), CA.bundle)
    assert svid.token not in repr(svid)
    assert "secret-role" not in repr(svid)
    with pytest.raises(TypeError):
        svid.claims["sub"] = "spiffe://example.org/other"


@pytest.mark.requirement("JWT-06")
@pytest.mark.parametrize("algorithm", ["none", "HS256", "EdDSA"])
def test_no_key_is_looked_up_for_an_algorithm_that_is_not_allowed(algorithm):
    class Nobody:
        def bundle_for(self, trust_domain):
            pytest.fail("asked for a bundle")

    with pytest.raises(JwtSvidError, match="is not allowed"):
        judge(CA.jwt(WEB, header={"alg": algorithm}), Nobody())


EC = {
    curve.name: keys.elliptic_key(curve, curve.name)
    for curve in (ec.SECP256R1(), ec.SECP384R1(), ec.SECP521R1())
}
FITTING = {"ES256": EC["secp256r1"], "ES384": EC["secp384r1"], "ES512": EC["secp521r1"]}
RSA = keys.rsa_key()


def by_joserfc(algorithm, key, **claims):
    """Return a token that another library has made and signed."""
    pem = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    whole = {"sub": WEB, "aud": "test", "exp": VECTORS["now"] + 300, **claims}
    reader = RSAKey if key is RSA else ECKey
    header = {"alg": algorithm, "kid": "k", "typ": "JWT"}
    return joserfc_jwt.encode(header, whole, reader.import_key(pem), algorithms=[algorithm])


def trusting(key):
    authority = JwtAuthority("k", public_key_to_der(key.public_key()))
    return Bundle(TrustDomain("example.org"), jwt_authorities=(authority,))


@pytest.mark.requirement("JWT-04")
def test_the_algorithms_are_the_nine_of_the_standard():
    nine = {"RS256", "RS384", "RS512", "ES256", "ES384", "ES512", "PS256", "PS384", "PS512"}
    assert nine == ALGORITHMS


@pytest.mark.requirement("JWT-05", "JWT-28")
@pytest.mark.parametrize("algorithm", sorted(ALGORITHMS))
def test_a_token_that_another_library_signed_is_believed(algorithm):
    key = FITTING.get(algorithm, RSA)
    token = by_joserfc(algorithm, key)
    assert str(judge(token, trusting(key)).spiffe_id) == WEB
    head, _, signature = token.split(".")
    tampered = by_joserfc(algorithm, key, role="admin").split(".")[1]
    with pytest.raises(UntrustedError, match="signature is not good"):
        judge(f"{head}.{tampered}.{signature}", trusting(key))


@pytest.mark.requirement("JWT-28")
@pytest.mark.parametrize("algorithm", sorted(ALGORITHMS))
def test_a_key_of_another_kind_than_the_algorithm_asks_for_is_not_used(algorithm):
    fitting = FITTING.get(algorithm, RSA)
    token = by_joserfc(algorithm, fitting)
    for key in {*EC.values(), RSA, keys.edwards_key("Ed25519")} - {fitting}:
        with pytest.raises(UntrustedError, match=f"is not of the kind that {algorithm} uses"):
            judge(token, trusting(key))


@pytest.mark.requirement("JWT-28")
def test_the_algorithms_of_one_key_are_not_interchangeable():
    _, body, signature = by_joserfc("RS256", RSA).split(".")
    for algorithm in ("RS384", "PS256"):
        other_head = by_joserfc(algorithm, RSA).split(".")[0]
        with pytest.raises(UntrustedError, match="signature is not good"):
            judge(f"{other_head}.{body}.{signature}", trusting(RSA))


@pytest.mark.requirement("JWT-25", "BND-13")
def test_a_bundle_without_jwt_authorities_vouches_for_no_token():
    for authorities in ((), CA.bundle.x509_authorities):
        with pytest.raises(
            UntrustedError, match=r"no JWT authority 'test-key' in the bundle of example\.org"
        ):
            judge(CA.jwt(WEB), Bundle(CA.trust_domain, authorities))


def test_a_validator_without_a_name_believes_nothing():
    with pytest.raises(AudienceError):
        judge(CA.jwt(WEB), CA.bundle, audience=[])


@pytest.mark.requirement("JWT-13")
def test_one_of_several_names_suffices():
    assert judge(CA.jwt(WEB, ["b"]), CA.bundle, audience=["a", "b"])


@pytest.mark.requirement("JWT-18")
@pytest.mark.parametrize("leeway", [timedelta(0), timedelta(seconds=5)])
def test_the_leeway_is_the_callers(leeway):
    token = CA.jwt(WEB, claims={"nbf": VECTORS["now"]})
    ends = NOW + timedelta(hours=1) + leeway
    for good in (NOW - leeway, ends - timedelta(microseconds=1)):
        assert verify(token, CA.bundle, audience=["test"], now=good, leeway=leeway)
    for bad in (NOW - leeway - timedelta(microseconds=1), ends):
        with pytest.raises(ExpiredError):
            verify(token, CA.bundle, audience=["test"], now=bad, leeway=leeway)


def test_a_token_that_is_too_long_is_not_even_split():
    with pytest.raises(JwtSvidError, match="token is longer than 65536 bytes"):
        judge("." * (MAX_TOKEN_BYTES + 1))


def test_the_limits_themselves_are_within_bounds():
    svid = judge(CA.jwt(WEB, ["test", *map(str, range(99))]), CA.bundle)
    assert len(svid.audience) == MAX_AUDIENCES
    key_id = "k" * MAX_KEY_ID
    bundle = Bundle(CA.trust_domain, (), (JwtAuthority(key_id, CA.bundle.jwt_authorities[0].public_key_der),))
    assert judge(CA.jwt(WEB, header={"kid": key_id}), bundle)
    room = MAX_TOKEN_BYTES - len(CA.jwt(WEB, claims={"x": ""}))
    token = next(
        token
        for pad in range(room * 3 // 4 - 8, room)
        if len(token := CA.jwt(WEB, claims={"x": "x" * pad})) >= MAX_TOKEN_BYTES - 1
    )
    assert len(token) <= MAX_TOKEN_BYTES
    assert judge(token, CA.bundle)


def test_a_token_from_a_trusted_source_is_parsed_without_a_key():
    svid = JwtSvid.parse_unverified(
        CA.jwt(WEB, ["a", "b"], header={"kid": None}), ["a", "b"], hint="internal"
    )
    assert (str(svid.spiffe_id), svid.audience, svid.hint) == (WEB, ("a", "b"), "internal")
    assert svid.key_id == ""
    with pytest.raises(AudienceError, match="token is not meant for 'c'"):
        JwtSvid.parse_unverified(svid.token, ["a", "c"])


@pytest.mark.parametrize(
    "changes",
    [
        {"header": {"alg": "none"}},
        {"header": {"kid": ""}},
        {"claims": {"sub": "x"}},
        {"claims": {"exp": None}},
    ],
)
def test_a_malformed_token_is_refused_from_a_trusted_source_too(changes):
    with pytest.raises(JwtSvidError):
        JwtSvid.parse_unverified(CA.jwt(WEB, **changes))


def test_a_token_names_the_key_that_is_said_to_have_signed_it():
    token = CA.jwt(WEB, ["a"])
    assert (
        JwtSvid.parse_unverified(token).key_id == judge(token, CA.bundle, audience=["a"]).key_id == CA.key_id
    )


names = st.text(string.ascii_letters, min_size=1, max_size=10)


@given(st.lists(names, min_size=1, max_size=5), st.lists(names, max_size=5))
def test_a_token_is_believed_by_exactly_those_it_is_meant_for(meant, asked):
    token = CA.jwt(WEB, meant)
    if set(meant) & set(asked):
        assert judge(token, CA.bundle, audience=asked).audience == tuple(meant)
    else:
        with pytest.raises(AudienceError):
            judge(token, CA.bundle, audience=asked)

# SPDX-License-Identifier: Apache-2.0
"""WIT-SVIDs and their proofs: parse, prove, verify (WIT-SVID §2 to §7)."""

import json
from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat, PublicFormat
from hypothesis import given
from hypothesis import strategies as st
from joserfc import jwt as joserfc_jwt
from joserfc.jwk import ECKey, RSAKey

from spiffekit import errors, jwtsvid
from spiffekit.bundle import Bundle, BundleSet, JwtAuthority
from spiffekit.errors import (
    AudienceError,
    ExpiredError,
    JwtSvidError,
    ReplayedError,
    UnauthorizedPeerError,
    UntrustedError,
    WitSvidError,
)
from spiffekit.id import SpiffeId, TrustDomain
from spiffekit.jws import ALGORITHMS
from spiffekit.keys import public_key_to_der
from spiffekit.testing import TestCA
from spiffekit.witsvid import (
    MAX_PROOF_LIFETIME,
    Bound,
    Presentation,
    Replays,
    WitSvid,
    confirmation,
    hash_of,
    make_proof,
    proof_claims,
    verify,
)
from tests.vectors import keys, load

VECTORS = load("wit_svids")
NOW = datetime.fromtimestamp(VECTORS["now"], UTC)
BUNDLES = BundleSet(
    Bundle.parse(TrustDomain(name), json.dumps(document).encode())
    for name, document in VECTORS["bundles"].items()
)
GOOD = {
    "plain": pytest.mark.requirement("WIT-38", "WIT-42"),
    "further headers": pytest.mark.requirement("WIT-08"),
    "further claims": pytest.mark.requirement("WIT-32"),
    "jti": pytest.mark.requirement("WIT-15"),
    "iat": pytest.mark.requirement("WIT-27", "WIT-28"),
    "iss": pytest.mark.requirement("WIT-29"),
    "begins": pytest.mark.requirement("WIT-23"),
    "expired within leeway": pytest.mark.requirement("WIT-22"),
    "begins within leeway": (),
    "key with an ID": (),
    "further confirmation": (),
    "proof with further headers": (),
    "proof with further claims": (),
    "proof within leeway": (),
    "audience in an array": (),
}
BAD = {
    "algorithm": pytest.mark.requirement("WIT-06"),
    "type": pytest.mark.requirement("WIT-04"),
    "critical": pytest.mark.requirement("WIT-08"),
    "no kid": pytest.mark.requirement("WIT-01"),
    "subject": pytest.mark.requirement("WIT-09"),
    "subject without path": pytest.mark.requirement("WIT-09"),
    "audience": pytest.mark.requirement("WIT-31"),
    "confirmation": pytest.mark.requirement("WIT-11", "WIT-12"),
    "private key": pytest.mark.requirement("WIT-12"),
    "confirmed key": (),
    "confirmed algorithm": pytest.mark.requirement("WIT-13", "WIT-14"),
    "no expiry": pytest.mark.requirement("WIT-20"),
    "expiry": (),
    "ID": (),
    "no proof": pytest.mark.requirement("WIT-34"),
    "proof": (),
    "algorithm of the proof": pytest.mark.requirement("WIT-38"),
    "type of the proof": pytest.mark.requirement("WIT-38"),
    "audience of the proof": pytest.mark.requirement("WIT-38"),
    "expiry of the proof": pytest.mark.requirement("WIT-44"),
    "ID of the proof": (),
    "proof that is too long": (),
    "tampered": (),
    "signature": (),
    "signed by its own key": (),
    "key of another use": pytest.mark.requirement("WIT-42"),
    "unknown kid": pytest.mark.requirement("WIT-02"),
    "key of another trust domain": (),
    "no bundle": (),
    "expired": pytest.mark.requirement("WIT-21", "WIT-22"),
    "not yet": pytest.mark.requirement("WIT-24"),
    "proof by another key": pytest.mark.requirement("WIT-35"),
    "signature of the proof": (),
    "proof of another SVID": pytest.mark.requirement("WIT-38"),
    "proof for others": pytest.mark.requirement("WIT-38"),
    "time of the proof": pytest.mark.requirement("WIT-44", "WIT-45"),
    "proof for other tokens": (),
}
CA = TestCA(now=NOW)
KEY = CA.new_key()
PUBLIC = KEY.public_key()
AGENT, TOOL = "spiffe://example.org/agent", "https://tools.example/run"
ANOTHER = SpiffeId.parse("spiffe://example.org/other")


def cases(kind, marks):
    return [
        pytest.param(vector, marks=marks[vector["rule"]], id=vector["rule"].replace(" ", "-"))
        for vector in VECTORS[kind]
    ]


def judge(presented, bundles=BUNDLES, audience=VECTORS["audience"], replays=None, now=NOW):
    return verify(presented, bundles, audience=audience, now=now, replays=replays)


def present(audience=TOOL, token=None, key=KEY, bound=None, **changes):
    svid = WitSvid.parse_unverified(token or CA.wit(AGENT, PUBLIC))
    bound = bound or Bound()
    proof = make_proof(svid, key, audience, now=NOW, bound=bound)
    return replace(Presentation(svid.token, proof, bound=bound), **changes)


@pytest.mark.parametrize("vector", cases("good", GOOD))
def test_a_token_with_its_proof_is_believed(vector):
    svid = judge(Presentation(vector["token"], vector["proof"]))
    assert str(svid.spiffe_id) == AGENT
    assert svid.token == vector["token"]


@pytest.mark.parametrize("vector", cases("bad", BAD))
def test_a_bad_token_or_proof_is_refused(vector):
    with pytest.raises(errors.SpiffeError) as refusal:
        judge(Presentation(vector["token"], vector["proof"]))
    assert type(refusal.value).__name__ == vector["error"]
    assert vector["message"] in (None, str(refusal.value))


def test_what_a_token_says_is_handed_out():
    token = CA.wit(AGENT, PUBLIC, claims={"jti": "ID", "agent_instance_id": "a2"})
    svid = judge(present(token=token), CA.wit_bundle)
    assert (str(svid.spiffe_id), svid.jti, svid.key_id) == (AGENT, "ID", CA.wit_key_id)
    assert (svid.issued_at, svid.expires_at) == (NOW, NOW + timedelta(hours=1))
    assert (svid.public_key, svid.algorithm) == (PUBLIC, "ES256")
    assert svid.claims["agent_instance_id"] == "a2"
    assert svid == WitSvid.parse_unverified(token)


def test_neither_token_nor_proof_nor_claims_are_shown():
    presented = present(
        token=CA.wit(AGENT, PUBLIC, claims={"role": "secret-role"}), bound=Bound("secret-token")
    )
    shown = repr(presented) + repr(judge(presented, CA.wit_bundle))
    for secret in (presented.token, presented.proof, "secret-role", "secret-token"):
        assert secret not in shown


@pytest.mark.requirement("WIT-48")
def test_a_validator_of_jwt_svids_believes_none():
    """Neither as it is, nor if whoever holds a JWT authority's key could be made to sign one."""
    for token in (
        CA.wit(AGENT, PUBLIC),
        CA.wit(AGENT, PUBLIC, header={"kid": CA.key_id}),
    ):
        with pytest.raises(JwtSvidError, match=r"typ 'wit\+jwt' is not JWT or JOSE"):
            jwtsvid.verify(token, CA.wit_bundle, audience=["test"], now=NOW)


def test_a_jwt_svid_is_none():
    with pytest.raises(WitSvidError, match=r"typ 'JWT' is not wit\+jwt"):
        WitSvid.parse_unverified(CA.jwt(AGENT))


@pytest.mark.requirement("WIT-43")
def test_a_bundle_without_wit_authorities_vouches_for_no_token():
    with pytest.raises(UntrustedError, match="no WIT authority 'test-wit-key' in the bundle of example"):
        judge(present(), CA.bundle)


EC = {c.name: keys.elliptic_key(c, c.name) for c in (ec.SECP256R1(), ec.SECP384R1(), ec.SECP521R1())}
FITTING = {"ES256": EC["secp256r1"], "ES384": EC["secp384r1"], "ES512": EC["secp521r1"]}
RSA = keys.rsa_key()


def joserfc_key(key):
    pem = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    return (RSAKey if key is RSA else ECKey).import_key(pem)


@pytest.mark.requirement("WIT-05", "WIT-13")
@pytest.mark.parametrize("algorithm", sorted(ALGORITHMS))
def test_what_another_library_has_signed_and_proven_is_believed(algorithm):
    key = FITTING.get(algorithm, RSA)
    exp = VECTORS["now"] + 30
    claims = {"sub": AGENT, "exp": exp, "cnf": confirmation(key.public_key(), algorithm)}
    header = {"alg": algorithm, "kid": "k", "typ": "wit+jwt"}
    token = joserfc_jwt.encode(header, claims, joserfc_key(key), algorithms=[algorithm])
    claims = {"aud": TOOL, "exp": exp, "jti": "x", "wth": hash_of(token)}
    header = {"alg": algorithm, "typ": "wpt+jwt"}
    proof = joserfc_jwt.encode(header, claims, joserfc_key(key), algorithms=[algorithm])
    authority = JwtAuthority("k", public_key_to_der(key.public_key()))
    bundle = Bundle(TrustDomain("example.org"), wit_authorities=(authority,))
    assert judge(Presentation(token, proof), bundle).algorithm == algorithm


@pytest.mark.parametrize("algorithm", sorted(FITTING))
def test_another_library_believes_our_proofs(algorithm):
    key = FITTING[algorithm]
    token = CA.wit(AGENT, PUBLIC, claims={"cnf": confirmation(key.public_key(), algorithm)})
    presented = present(token=token, key=key)
    pem = key.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
    decoded = joserfc_jwt.decode(presented.proof, ECKey.import_key(pem), algorithms=[algorithm])
    assert decoded.header == {"alg": algorithm, "typ": "wpt+jwt"}
    assert set(decoded.claims) == {"aud", "exp", "jti", "wth"}
    assert judge(presented, CA.wit_bundle).algorithm == algorithm


@pytest.mark.requirement("WIT-45")
def test_a_proof_lives_for_seconds():
    for lifetime in (timedelta(0), timedelta(milliseconds=999), MAX_PROOF_LIFETIME + timedelta(seconds=1)):
        with pytest.raises(WitSvidError, match="proof: lifetime is not between 1 and 30 seconds"):
            proof_claims("x", TOOL, now=NOW, lifetime=lifetime)
    assert proof_claims("x", TOOL, now=NOW, lifetime=timedelta(seconds=2))["exp"] == VECTORS["now"] + 2


@pytest.mark.parametrize("audience", ["", "x" * 2049])
def test_a_proof_is_for_somebody(audience):
    with pytest.raises(WitSvidError, match="proof: aud is empty or longer than 2048 characters"):
        present(audience)


@pytest.mark.requirement("WIT-35")
def test_nothing_is_proven_with_the_key_of_another():
    with pytest.raises(WitSvidError, match="proof: the key is not that of the SVID"):
        present(key=CA.new_key())


@pytest.mark.requirement("WIT-46", "WIT-17", "WIT-18")
def test_a_proof_counts_once_and_a_token_as_often_as_it_is_proven():
    token = CA.wit(AGENT, PUBLIC, claims={"jti": "one"})
    replays, presented = Replays(), present(token=token)
    assert judge(presented, CA.wit_bundle, replays=replays)
    for _ in range(2):
        with pytest.raises(ReplayedError, match="proof was here before"):
            judge(presented, CA.wit_bundle, replays=replays)
    assert judge(present(token=token), CA.wit_bundle, replays=replays)
    assert judge(presented, CA.wit_bundle), "without a memory nothing was here before"


def test_a_proof_that_is_refused_is_not_spent():
    replays, presented = Replays(), present()
    with pytest.raises(AudienceError):
        judge(presented, CA.wit_bundle, audience=["https://other.example/"], replays=replays)
    assert len(replays) == 0
    assert judge(presented, CA.wit_bundle, replays=replays)


def test_a_proof_is_remembered_for_as_long_as_it_counts():
    """Also at the last instant at which it is good there is no second time."""
    replays, presented = Replays(limit=1), present()
    last = NOW + timedelta(seconds=60) - timedelta(microseconds=1)
    assert judge(presented, CA.wit_bundle, replays=replays)
    with pytest.raises(ReplayedError, match="more than 1 proofs at once: too many to remember"):
        judge(present(), CA.wit_bundle, replays=replays, now=last)
    with pytest.raises(ReplayedError, match="was here before"):
        judge(presented, CA.wit_bundle, replays=replays, now=last)
    replays.spend("w", "later", until=last + timedelta(hours=1), now=last + timedelta(microseconds=1))
    assert len(replays) == 1


@pytest.mark.requirement("WIT-38")
def test_a_proof_is_for_all_tokens_of_the_request_and_for_no_other():
    every = [
        Bound(),
        Bound("a"),
        Bound("b"),
        Bound("a", "t"),
        Bound("a", "t", {"x": "o"}),
        Bound(others={"y": "o"}),
    ]
    for made_for in every:
        presented = present(bound=made_for)
        for came_with in every:
            if came_with == made_for:
                assert judge(presented, CA.wit_bundle)
            else:
                with pytest.raises(UntrustedError, match="proof is for other tokens"):
                    judge(replace(presented, bound=came_with), CA.wit_bundle)


def test_the_subject_is_the_peer_of_the_connection():
    presented = present()
    assert judge(replace(presented, peer=SpiffeId.parse(AGENT)), CA.wit_bundle)
    with pytest.raises(UnauthorizedPeerError, match=f"{ANOTHER} presents the WIT-SVID of {AGENT}"):
        judge(replace(presented, peer=ANOTHER), CA.wit_bundle)


@pytest.mark.requirement("WIT-34", "WIT-36", "WIT-37")
def test_a_token_comes_in_its_own_field_and_never_as_a_bearer():
    presented = present()
    assert Presentation.from_headers(presented.headers()) == presented
    fields = {"workload-identity-token": presented.token, "Workload-Proof-Token": presented.proof}
    peer = SpiffeId.parse(AGENT)
    assert Presentation.from_headers(fields, peer=peer) == replace(presented, peer=peer)
    assert Presentation.from_headers({**fields, "Authorization": f"Bearer {CA.jwt(AGENT)}"}) == presented
    for value in (f"Bearer {presented.token}", f"bearer  {presented.token}", presented.token):
        with pytest.raises(WitSvidError, match="Authorization has a WIT-SVID: it is no bearer token"):
            Presentation.from_headers({**fields, "authorization": value})
    for name, value in fields.items():
        missing = "Workload-Proof-Token" if "identity" in name else "Workload-Identity-Token"
        with pytest.raises(WitSvidError, match=f"{missing} is missing"):
            Presentation.from_headers({name: value})


@pytest.mark.requirement("WIT-25", "WIT-26")
def test_whoever_limits_lifetimes_has_what_is_needed_for_it():
    svid = judge(present(token=CA.wit(AGENT, PUBLIC, claims={"nbf": VECTORS["now"]})), CA.wit_bundle)
    assert svid.expires_at.timestamp() - svid.claims["nbf"] == 3600


@given(
    st.sampled_from(["aud", "exp", "jti", "wth", "ath", "tth", "oth"]),
    st.none()
    | st.booleans()
    | st.integers()
    | st.text(max_size=5)
    | st.lists(st.text(max_size=3), max_size=2),
)
def test_a_proof_with_any_claim_changed_is_good_only_if_it_says_the_same(name, value):
    svid = WitSvid.parse_unverified(CA.wit(AGENT, PUBLIC))
    claims = proof_claims(hash_of(svid.token), TOOL, now=NOW)
    proof = CA.sign({"alg": "ES256", "typ": "wpt+jwt"}, {**claims, name: value}, KEY)
    presented = Presentation(svid.token, proof)
    try:
        judge(presented, CA.wit_bundle)
    except errors.SpiffeError:
        return
    assert name == "jti" or (name in ("ath", "tth", "oth") and value is None)


@given(
    st.datetimes(NOW.replace(tzinfo=None) - timedelta(hours=2), NOW.replace(tzinfo=None) + timedelta(hours=2))
)
def test_a_proof_is_good_within_its_time_and_never_outside(instant):
    now = instant.replace(tzinfo=UTC)
    presented = present()
    if NOW - timedelta(seconds=30) <= now < NOW + timedelta(seconds=60):
        assert judge(presented, CA.wit_bundle, now=now)
    else:
        with pytest.raises(ExpiredError):
            judge(presented, CA.wit_bundle, now=now)

# SPDX-License-Identifier: Apache-2.0
"""Trust bundles (Trust_Domain_and_Bundle §3 and §4)."""

import hashlib
import json
import logging
from datetime import timedelta

import pytest
from cryptography.hazmat.primitives.asymmetric import ed25519
from cryptography.hazmat.primitives.serialization import Encoding
from hypothesis import given
from hypothesis import strategies as st
from joserfc.jwk import KeySet

from spiffekit.bundle import Bundle, BundleSet, JwtAuthority, X509Authority
from spiffekit.errors import BundleError, UnknownTrustDomainError
from spiffekit.id import TrustDomain
from spiffekit.keys import public_key_to_der
from spiffekit.testing import CA_USAGE, TestCA
from tests.vectors import load

VECTORS = load("bundles")
COM, ORG = TrustDomain("example.com"), TrustDomain("example.org")
CA = TestCA()
GOOD = {
    "appendix A, bundle 1": pytest.mark.requirement("X509-37", "BND-06"),
    "appendix A, bundle 2": pytest.mark.requirement("X509-42"),
    "appendix A, ID with a slash": pytest.mark.requirement("ID-15", "X509-10"),
    "keys alone": pytest.mark.requirement("BND-02", "BND-14"),
    "further members": pytest.mark.requirement("BND-01"),
    "no keys left": pytest.mark.requirement("BND-12"),
    "no usable keys left": pytest.mark.requirement("BND-12"),
    "sequence": pytest.mark.requirement("BND-04", "BND-06"),
    "hint": pytest.mark.requirement("BND-08"),
    "unknown key type": pytest.mark.requirement("BND-11", "BND-18"),
    "no key type": pytest.mark.requirement("BND-17", "BND-18"),
    "symmetric key": pytest.mark.requirement("BND-18", "JWT-28"),
    "use": pytest.mark.requirement("BND-11", "BND-19", "BND-20", "JWT-24"),
    "no object": (),
    "x5c": pytest.mark.requirement("X509-40"),
    "x5c of two": pytest.mark.requirement("X509-41"),
    "x5c of two, bad first": pytest.mark.requirement("X509-41"),
    "the same twice": (),
    "key of another": pytest.mark.requirement("X509-44"),
    "key left out": pytest.mark.requirement("X509-44"),
    "leaf": pytest.mark.requirement("X509-14"),
    "CA with a path": pytest.mark.requirement("X509-10"),
    "CA without ID": pytest.mark.requirement("X509-08"),
    "no kid": pytest.mark.requirement("JWT-23"),
    "kid": pytest.mark.requirement("JWT-23"),
    "kinds of keys": (),
    "bad key material": pytest.mark.requirement("BND-11"),
}
BAD = {
    "no keys": pytest.mark.requirement("BND-10"),
    "no array": pytest.mark.requirement("BND-10"),
    "no object": (),
    "no JSON": (),
    "name twice": pytest.mark.requirement("BND-29"),
    "sequence": pytest.mark.requirement("BND-04"),
    "hint": pytest.mark.requirement("BND-08"),
}


def cases(kind, marks):
    return [
        pytest.param(vector, marks=marks[vector["rule"]], id=vector["rule"].replace(" ", "-"))
        for vector in VECTORS[kind]
    ]


@pytest.mark.parametrize("vector", cases("good", GOOD))
def test_what_validates_is_taken_and_the_rest_ignored(vector):
    bundle = Bundle.parse(COM, vector["document"].encode())
    assert bundle.trust_domain == COM
    assert len(bundle.x509_authorities) == len(bundle.x509_roots) == vector["x509_authorities"]
    assert [authority.key_id for authority in bundle.jwt_authorities] == vector["jwt_key_ids"]
    assert bundle.sequence == vector["sequence"]
    hint = vector["refresh_hint"]
    assert bundle.refresh_hint == (None if hint is None else timedelta(seconds=hint))


@pytest.mark.parametrize("vector", cases("bad", BAD))
def test_a_malformed_bundle_is_refused(vector):
    with pytest.raises(BundleError) as refusal:
        Bundle.parse(COM, vector["document"].encode())
    assert str(refusal.value).startswith("bundle is not a JSON object: " if vector["message"] is None else "")
    assert vector["message"] in (None, str(refusal.value))


@pytest.mark.requirement("X509-41")
def test_of_two_certificates_the_first_is_the_one_that_counts():
    document = next(v["document"] for v in VECTORS["good"] if v["rule"] == "x5c of two")
    alone = next(v["document"] for v in VECTORS["good"] if v["rule"] == "keys alone")
    assert Bundle.parse(COM, document.encode()).x509_authorities == (
        Bundle.parse(COM, alone.encode()).x509_authorities
    )


@pytest.mark.requirement("BND-11")
def test_an_ignored_element_is_logged_with_its_place_and_reason(caplog):
    document = {"keys": [json.loads(CA.bundle.to_jwks())["keys"][0], {"kty": "EC", "use": "sig"}]}
    with caplog.at_level(logging.WARNING):
        assert len(Bundle.parse(ORG, json.dumps(document).encode()).x509_authorities) == 1
    (record,) = caplog.records
    assert record.message == "bundle element ignored"
    assert (record.trust_domain, record.index, record.reason) == ("example.org", 1, "use 'sig' is not known")


@pytest.mark.requirement("X509-35", "X509-36", "JWT-22", "JWT-23", "BND-03", "BND-07", "BND-08", "BND-16")
def test_a_published_bundle_has_what_the_standards_name_and_no_more():
    bundle = Bundle(ORG, CA.bundle.x509_authorities, CA.bundle.jwt_authorities, 7, timedelta(seconds=300))
    document = json.loads(bundle.to_jwks())
    assert set(document) == {"keys", "spiffe_sequence", "spiffe_refresh_hint"}
    assert type(document["spiffe_sequence"]) is type(document["spiffe_refresh_hint"]) is int
    assert (document["spiffe_sequence"], document["spiffe_refresh_hint"]) == (7, 300)
    assert [set(element) for element in document["keys"]] == [
        {"use", "kty", "crv", "x", "y", "x5c"},
        {"use", "kid", "kty", "crv", "x", "y"},
    ]
    assert [element["use"] for element in document["keys"]] == ["x509-svid", "jwt-svid"]


@pytest.mark.requirement("BND-05")
def test_the_same_bundle_gives_the_same_bytes():
    assert CA.bundle.to_jwks() == CA.bundle.to_jwks() == Bundle.parse(ORG, CA.bundle.to_jwks()).to_jwks()


def test_members_that_are_not_known_are_left_out():
    assert json.loads(Bundle(ORG).to_jwks()) == {"keys": []}


certificates = [TestCA().certificate.public_bytes(Encoding.DER) for _ in range(3)]
keys = [public_key_to_der(TestCA().jwt_key.public_key()) for _ in range(3)]
bundles = st.builds(
    Bundle,
    st.just(ORG),
    st.lists(st.sampled_from(certificates).map(X509Authority), unique=True).map(tuple),
    st.lists(
        st.builds(JwtAuthority, st.text(min_size=1, max_size=5), st.sampled_from(keys)),
        unique_by=lambda authority: authority.key_id,
    ).map(tuple),
    sequence=st.none() | st.integers(0, 2**64 - 1),
    wit_authorities=st.lists(
        st.builds(JwtAuthority, st.text(min_size=6, max_size=9), st.sampled_from(keys)),
        unique_by=lambda authority: authority.key_id,
    ).map(tuple),
    refresh_hint=st.none() | st.integers(1, 2**31 - 1).map(lambda seconds: timedelta(seconds=seconds)),
)


@pytest.mark.parametrize(
    "member",
    [
        {"sequence": -1},
        {"sequence": 2**64},
        {"refresh_hint": timedelta(0)},
        {"refresh_hint": timedelta(seconds=-1)},
        {"refresh_hint": timedelta(seconds=1.5)},
        {"refresh_hint": timedelta(seconds=2**31)},
    ],
    ids=str,
)
def test_what_could_not_be_read_again_is_no_bundle(member):
    (name,) = member
    with pytest.raises(BundleError, match=f"{name} is not a whole number of"):
        Bundle(ORG, **member)


@given(bundles)
def test_a_bundle_survives_json_and_back(bundle):
    assert Bundle.parse(ORG, bundle.to_jwks()) == bundle


@given(bundles)
def test_a_bundle_survives_the_forms_of_the_workload_api(bundle):
    assert Bundle.from_x509_der(ORG, bundle.x509_der()).x509_authorities == bundle.x509_authorities
    assert Bundle.from_jwks(ORG, bundle.to_jwt_jwks()).jwt_authorities == bundle.jwt_authorities
    assert Bundle.from_wit_jwks(ORG, bundle.to_wit_jwks()).wit_authorities == bundle.wit_authorities


@pytest.mark.requirement("WLAPI-42", "JWT-24")
def test_a_jwks_for_tokens_has_no_other_keys():
    document = json.loads(CA.bundle.to_jwt_jwks())
    assert [element["use"] for element in document["keys"]] == ["jwt-svid"]
    del document["keys"][0]["use"]  # joserfc knows sig and enc only
    assert KeySet.import_key_set(document).keys[0].kid == CA.key_id


@pytest.mark.requirement("JWT-24", "WLAPI-40")
@pytest.mark.parametrize("use", ["x509-svid", "wit-svid", "sig", ""])
def test_a_key_of_another_use_never_judges_tokens(use):
    """WIT keys must not become JWT authorities, as they do in clients that ignore `use`."""
    element = json.loads(CA.bundle.to_jwt_jwks())["keys"][0]
    document = json.dumps({"keys": [{**element, "use": use}, {**element, "kid": "good"}]}).encode()
    assert [a.key_id for a in Bundle.from_jwks(ORG, document).jwt_authorities] == ["good"]


@pytest.mark.requirement("WIT-40", "WIT-42", "WLAPI-62")
def test_keys_for_wit_svids_have_their_own_use_and_judge_nothing_else():
    document = json.loads(CA.wit_bundle.to_jwks())
    assert [element["use"] for element in document["keys"]] == ["x509-svid", "jwt-svid", "wit-svid"]
    assert [element["use"] for element in json.loads(CA.wit_bundle.to_wit_jwks())["keys"]] == ["wit-svid"]
    assert CA.wit_bundle.to_jwt_jwks() == CA.bundle.to_jwt_jwks()
    assert Bundle.from_jwks(ORG, CA.wit_bundle.to_wit_jwks()) == Bundle(ORG)
    assert Bundle.from_wit_jwks(ORG, CA.bundle.to_jwt_jwks()) == Bundle(ORG)
    assert b"wit-svid" not in CA.bundle.to_jwks()
    assert CA.wit_bundle.wit_authority("test-wit-key") == CA.wit_bundle.wit_authorities[0]
    assert CA.wit_bundle.wit_authority(CA.key_id) is None
    assert CA.wit_bundle.size == 3
    assert not CA.wit_bundle.same_content(CA.bundle)


@pytest.mark.requirement("WIT-41")
@pytest.mark.parametrize("first", ["jwt-svid", "wit-svid"])
def test_one_key_id_names_one_key_of_the_bundle(first, caplog):
    keys_of = json.loads(CA.wit_bundle.to_jwks())["keys"][1:]
    both = sorted(({**element, "kid": "k"} for element in keys_of), key=lambda e: e["use"] != first)
    bundle = Bundle.parse(ORG, json.dumps({"keys": both}).encode())
    assert (len(bundle.jwt_authorities), len(bundle.wit_authorities)) in ((1, 0), (0, 1))
    assert "kid is that of a key of another use" in caplog.records[0].reason
    (authority,) = CA.bundle.jwt_authorities
    with pytest.raises(BundleError, match="kid 'test-key' is that of a JWT and of a WIT authority"):
        Bundle(ORG, jwt_authorities=(authority,), wit_authorities=(authority,))


def test_a_jwks_for_tokens_need_not_name_the_use():
    element = json.loads(CA.bundle.to_jwt_jwks())["keys"][0]
    del element["use"]
    bundle = Bundle.from_jwks(ORG, json.dumps({"keys": [element]}).encode())
    assert bundle.jwt_authorities == CA.bundle.jwt_authorities


@pytest.mark.parametrize("document", [b"", b"{}", b"[]"])
def test_a_malformed_jwks_for_tokens_is_refused(document):
    with pytest.raises(BundleError):
        Bundle.from_jwks(ORG, document)


def test_pem_goes_out_and_comes_in():
    bundle = Bundle(ORG, (*CA.bundle.x509_authorities, X509Authority(certificates[0])))
    assert bundle.to_pem().count(b"BEGIN CERTIFICATE") == 2
    assert Bundle.from_pem(ORG, bundle.to_pem() * 2) == bundle


@pytest.mark.requirement("X509-14")
def test_a_leaf_in_pem_is_no_authority():
    with pytest.raises(BundleError) as refusal:
        Bundle.from_pem(ORG, CA.issue("spiffe://example.org/web").chain_pem())
    assert str(refusal.value) == "bundle of example.org: signing certificate has cA false"


def test_pem_without_a_certificate_is_refused():
    with pytest.raises(BundleError, match=r"bundle of example\.org: no certificate in the PEM text"):
        Bundle.from_pem(ORG, b"")


def test_no_certificates_at_all_are_a_bundle_without_authorities():
    assert Bundle.from_x509_der(ORG, b"") == Bundle(ORG)


@pytest.mark.parametrize("der", [b"\x30", b"\x30\x00", b"rubbish"])
def test_malformed_certificates_are_refused(der):
    with pytest.raises(BundleError, match=r"bundle of example\.org: "):
        Bundle.from_x509_der(ORG, der)


def test_an_edwards_authority_can_be_published():
    """One authority that has no JSON form would have kept the whole bundle from being published."""
    key = ed25519.Ed25519PrivateKey.generate()
    certificate = CA.certify(
        key.public_key(), uris=["spiffe://example.org"], ca=True, usage=CA_USAGE, purposes=()
    )
    bundle = Bundle.from_pem(ORG, certificate.public_bytes(Encoding.PEM))
    assert Bundle.parse(ORG, bundle.to_jwks()) == bundle


def test_an_authority_is_named_by_its_key_identifier():
    (authority,) = CA.bundle.x509_authorities
    assert authority.subject_key_id == authority.certificate.extensions[0].value.digest.hex()


def test_an_authority_without_a_key_identifier_is_named_by_the_hash_of_its_key(edwards_certificate):

    authority = X509Authority(edwards_certificate.public_bytes(Encoding.DER))
    raw = edwards_certificate.public_key().public_bytes_raw()
    assert authority.subject_key_id == hashlib.sha1(raw).hexdigest()


def test_keys_stay_out_of_the_representation():
    assert "der" not in repr(CA.bundle)


@pytest.mark.requirement("JWT-25")
def test_a_key_is_found_by_its_exact_name():
    bundle = CA.bundle
    assert bundle.jwt_authority("test-key") == bundle.jwt_authorities[0]
    assert bundle.jwt_authority("Test-key") is None
    assert Bundle(ORG).jwt_authority("test-key") is None


def test_content_is_the_same_whatever_the_sequence_number():
    bundle = CA.bundle
    renumbered = Bundle(ORG, bundle.x509_authorities, bundle.jwt_authorities, sequence=99)
    assert bundle.same_content(renumbered)
    assert bundle != renumbered
    assert not bundle.same_content(Bundle(ORG, bundle.x509_authorities, (), sequence=1))
    assert not bundle.same_content(Bundle(COM, bundle.x509_authorities, bundle.jwt_authorities, sequence=1))


@pytest.mark.requirement("BND-28")
def test_a_bundle_answers_for_its_own_trust_domain_only():
    assert CA.bundle.bundle_for(ORG) == CA.bundle
    with pytest.raises(UnknownTrustDomainError, match=r"no bundle for trust domain example\.com"):
        CA.bundle.bundle_for(COM)


@pytest.mark.requirement("BND-28", "WLAPI-17")
def test_a_set_keeps_bundles_apart():
    one, other = CA.bundle, TestCA("example.com").bundle
    bundles = BundleSet([one, other])
    assert bundles.bundle_for(ORG) == one
    assert bundles.bundle_for(COM) == bundles.get(COM) == other
    with pytest.raises(UnknownTrustDomainError, match="no bundle for trust domain nobody"):
        bundles.bundle_for(TrustDomain("nobody"))
    assert bundles.get(TrustDomain("nobody")) is None


def test_a_set_changes_by_making_another():
    one, other, newer = CA.bundle, TestCA("example.com").bundle, TestCA().bundle
    bundles = BundleSet([one])
    assert list(bundles.with_bundle(other)) == [one, other]
    assert list(bundles.with_bundle(newer)) == [newer]
    assert bundles.with_bundle(other).without(ORG) == BundleSet([other])
    assert list(bundles) == [one]
    assert len(bundles) == 1


def test_sets_are_equal_by_what_is_in_them():
    one, other = CA.bundle, TestCA("example.com").bundle
    assert BundleSet([one, other]) == BundleSet([other, one])
    assert hash(BundleSet([one, other])) == hash(BundleSet([other, one]))
    assert BundleSet([one]) != BundleSet()
    assert BundleSet() != []

# SPDX-License-Identifier: Apache-2.0
"""X.509-SVIDs: one of our own is parsed, one of a peer is verified (X509-SVID §2 to §6)."""

import base64
import json
from datetime import UTC, datetime, timedelta

import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding

from spiffekit import errors
from spiffekit.bundle import Bundle, BundleSet, X509Authority
from spiffekit.errors import ExpiredError, UntrustedError, X509SvidError
from spiffekit.id import TrustDomain
from spiffekit.keys import private_key_from_der
from spiffekit.testing import CA_USAGE, TestCA
from spiffekit.x509svid import MAX_CHAIN, X509Svid, verify
from tests.vectors import load

VECTORS = load("x509_svids")
NOW = datetime.fromtimestamp(VECTORS["now"], UTC)
BUNDLES = BundleSet(
    Bundle.parse(TrustDomain(name), json.dumps(document).encode())
    for name, document in VECTORS["bundles"].items()
)
GOOD = {
    "plain": (),
    "no EKU": pytest.mark.requirement("X509-25"),
    "DNS name": pytest.mark.requirement("X509-03"),
    "no subject": pytest.mark.requirement("X509-05", "X509-06"),
    "unknown extension": pytest.mark.requirement("ID-26"),
    "longest": pytest.mark.requirement("ID-18"),
    "intermediate": pytest.mark.requirement("X509-11", "ID-28"),
    "two intermediates": pytest.mark.requirement("X509-11"),
    "path length": pytest.mark.requirement("X509-13"),
    "another bundle": pytest.mark.requirement("X509-34"),
    "needless certificates": (),
    "first second": pytest.mark.requirement("X509-29"),
    "last second": pytest.mark.requirement("X509-29"),
    "one second": pytest.mark.requirement("X509-29"),
    "kinds of keys": (),
}
BAD = {
    "no certificate": (),
    "long chain": (),
    "two IDs": pytest.mark.requirement("X509-02"),
    "no ID": pytest.mark.requirement("X509-01", "ID-27"),
    "scheme": pytest.mark.requirement("X509-32"),
    "no path": pytest.mark.requirement("X509-33"),
    "authority as leaf": pytest.mark.requirement("X509-12", "X509-30"),
    "signs certificates": pytest.mark.requirement("X509-31"),
    "signs revocation lists": pytest.mark.requirement("X509-31"),
    "no constraints": pytest.mark.requirement("X509-15"),
    "no key usage": pytest.mark.requirement("X509-18"),
    "clients only": pytest.mark.requirement("X509-27"),
    "intermediate without cA": pytest.mark.requirement("X509-29"),
    "intermediate without keyCertSign": pytest.mark.requirement("X509-29"),
    "intermediate with a path": pytest.mark.requirement("X509-10"),
    "leaf as intermediate": pytest.mark.requirement("X509-29"),
    "expired": pytest.mark.requirement("X509-29"),
    "not yet": pytest.mark.requirement("X509-29"),
    "expired intermediate": pytest.mark.requirement("X509-29"),
    "intermediate not yet": pytest.mark.requirement("X509-29"),
    "stranger": pytest.mark.requirement("X509-29"),
    "no bundle": pytest.mark.requirement("X509-34", "WLAPI-17"),
    "root of another": pytest.mark.requirement("X509-34", "X509-09", "BND-28", "ID-29"),
    "intermediate left out": pytest.mark.requirement("X509-29"),
    "path length": pytest.mark.requirement("X509-13", "X509-29"),
    "unknown critical extension": pytest.mark.requirement("X509-29"),
    "name constraints": pytest.mark.requirement("X509-16", "X509-17"),
    "no subject": pytest.mark.requirement("X509-05"),
    "weak key": (),
    "signature": pytest.mark.requirement("X509-29", "ID-25"),
}
CA = TestCA(now=NOW)
WEB = "spiffe://example.org/web"


def cases(kind, marks):
    return [
        pytest.param(vector, marks=marks[vector["rule"]], id=vector["rule"].replace(" ", "-"))
        for vector in VECTORS[kind]
    ]


def chain(vector):
    return [base64.b64decode(text) for text in vector["chain"]]


def der(certificate):
    return certificate.public_bytes(Encoding.DER)


@pytest.mark.parametrize("vector", cases("good", GOOD))
def test_a_good_chain_is_believed(vector):
    assert verify(chain(vector), BUNDLES, now=NOW).path


@pytest.mark.parametrize("vector", cases("bad", BAD))
def test_a_bad_chain_is_refused(vector):
    """SPIRE's #655 (path not validated), spiffe's #375 and #422 (roots of trust domains pooled)."""
    with pytest.raises(errors.SpiffeError) as refusal:
        verify(chain(vector), BUNDLES, now=NOW)
    assert type(refusal.value).__name__ == vector["error"]


def test_a_chain_of_eight_is_not_too_long():
    links = [TestCA(now=NOW)]
    for number in range(MAX_CHAIN - 1):
        links.append(TestCA(now=NOW))
        key = links[-1].key.public_key()
        wanted = {"uris": ["spiffe://example.org"], "common_name": f"{number}", "ca": True, "usage": CA_USAGE}
        links[-1].certificate = links[-2].certify(key, purposes=(), **wanted)
    whole = [*links[-1].issue(WEB).chain_der, *(der(link.certificate) for link in reversed(links[1:]))]
    assert len(whole) == MAX_CHAIN
    assert str(verify(whole, links[0].bundle, now=NOW)) == WEB


def test_a_refusal_says_who_and_when():
    svid = CA.issue(WEB)
    with pytest.raises(ExpiredError) as refusal:
        verify(svid.chain_der, CA.bundle, now=NOW + timedelta(hours=2))
    assert str(refusal.value) == f"X.509-SVID of {WEB} is not valid at 2026-01-01T14:00:00Z"


@pytest.mark.requirement("X509-42", "BND-13")
def test_a_bundle_without_x509_authorities_vouches_for_nobody():
    """An empty bundle means that everything is revoked."""
    svid = CA.issue(WEB)
    assert verify(svid.chain_der, CA.bundle, now=NOW)
    for bundle in (Bundle(CA.trust_domain), Bundle(CA.trust_domain, (), CA.bundle.jwt_authorities)):
        with pytest.raises(UntrustedError, match=r"bundle of example\.org has no X\.509 authorities"):
            verify(svid.chain_der, bundle, now=NOW)


def authority(**changes):
    """Return an authority whose own certificate is made with changes."""
    made = TestCA(now=NOW)
    wanted = {
        "uris": ["spiffe://example.org"],
        "common_name": "root",
        "ca": True,
        "usage": CA_USAGE,
        "purposes": (),
    }
    del made.certificate
    made.certificate = made.certify(made.key.public_key(), **{**wanted, **changes})
    return made


def test_an_authority_of_ones_own_making_is_believed():
    root = authority()
    assert verify(root.issue(WEB).chain_der, root.bundle, now=NOW)


@pytest.mark.requirement("X509-08")
def test_a_root_without_an_id_is_a_trust_anchor():
    root = authority(uris=[])
    assert str(verify(root.issue(WEB).chain_der, root.bundle, now=NOW)) == WEB


@pytest.mark.parametrize(
    "changes",
    [
        pytest.param({"ca": False}, marks=pytest.mark.requirement("X509-14"), id="no cA"),
        pytest.param({"ca": None}, marks=pytest.mark.requirement("X509-14"), id="no constraints"),
        pytest.param(
            {"usage": {"crl_sign": True}}, marks=pytest.mark.requirement("X509-20"), id="no keyCertSign"
        ),
        pytest.param({"usage": {}}, marks=pytest.mark.requirement("X509-18"), id="no key usage"),
        pytest.param(
            {"lifetime": timedelta(seconds=5)}, marks=pytest.mark.requirement("X509-29"), id="expired"
        ),
        pytest.param({"not_before": NOW + timedelta(hours=1)}, id="not yet"),
    ],
)
def test_a_root_that_may_not_sign_vouches_for_nobody(changes):
    """The Workload API carries certificates as they are; what one may do is judged when it is used."""
    root = authority(**changes)
    bundle = Bundle.from_x509_der(root.trust_domain, der(root.certificate))
    with pytest.raises(UntrustedError, match=r"no authority of example\.org vouches for the chain"):
        verify(root.issue(WEB).chain_der, bundle, now=NOW)


@pytest.mark.requirement("X509-34", "BND-28")
def test_trusting_two_authorities_of_one_trust_domain_is_no_pool():
    old, new, foreign = TestCA(now=NOW), TestCA(now=NOW), TestCA("other.example", now=NOW)
    both = Bundle(old.trust_domain, old.bundle.x509_authorities + new.bundle.x509_authorities)
    bundles = BundleSet([both, foreign.bundle])
    for ca in (old, new):
        assert verify(ca.issue(WEB).chain_der, bundles, now=NOW)
    with pytest.raises(UntrustedError):
        verify(foreign.issue(WEB).chain_der, bundles, now=NOW)


@pytest.mark.requirement("X509-29")
def test_an_authority_that_was_taken_away_vouches_no_more():
    """go-spiffe's #383: what a removed authority had signed lived on in a pool."""
    old, new = TestCA(now=NOW), TestCA(now=NOW)
    svid = old.issue(WEB)
    before = BundleSet([Bundle(old.trust_domain, old.bundle.x509_authorities + new.bundle.x509_authorities)])
    assert verify(svid.chain_der, before, now=NOW)
    with pytest.raises(UntrustedError):
        verify([*svid.chain_der, der(old.certificate)], before.with_bundle(new.bundle), now=NOW)


@pytest.mark.requirement("X509-29")
def test_a_chain_that_rests_on_sha1_is_not_believed(sha1_issuer):
    issuer, weaken = sha1_issuer
    key = ec.generate_private_key(ec.SECP256R1()).public_key()
    sound = issuer.certify(key, uris=[WEB])
    bundle = Bundle(issuer.trust_domain, (X509Authority(der(issuer.certificate)),))
    assert verify([der(sound)], bundle, now=issuer.now)
    with pytest.raises(UntrustedError, match="certificate is signed with sha1"):
        verify([der(weaken(sound))], bundle, now=issuer.now)


def test_an_svid_of_ones_own_is_parsed():
    made = CA.issue(WEB)
    svid = X509Svid.parse(made.chain_der[0], made.private_key_der, hint="internal")
    assert (str(svid.spiffe_id), svid.hint) == (WEB, "internal")
    assert svid.not_before == NOW - timedelta(seconds=10)
    assert svid.expires_at == svid.not_before + timedelta(hours=1)
    assert svid.serial_number == svid.leaf.serial_number
    assert svid.x509_svid() is svid


@pytest.mark.requirement("WLAPI-18")
def test_intermediates_of_an_svid_are_kept_in_their_order():
    intermediate = TestCA(now=NOW)
    intermediate.certificate = CA.certify(
        intermediate.key.public_key(), uris=["spiffe://example.org"], ca=True, usage=CA_USAGE, purposes=()
    )
    made = intermediate.issue(WEB)
    whole = made.chain_der[0] + der(intermediate.certificate)
    svid = X509Svid.parse(whole, made.private_key_der)
    assert svid.chain_der == (made.chain_der[0], der(intermediate.certificate))
    assert verify(svid.chain_der, CA.bundle, now=NOW) == svid.spiffe_id


def test_an_svid_survives_pem_and_back():
    made = CA.issue(WEB)
    assert X509Svid.parse_pem(made.chain_pem(), made.key_pem()) == made
    assert made.key_pem().startswith(b"-----BEGIN PRIVATE KEY-----\n")


def test_a_private_key_that_does_not_fit_is_refused():
    one, other = CA.issue(WEB), CA.issue(WEB)
    with pytest.raises(X509SvidError, match="private key does not fit the leaf certificate"):
        X509Svid.parse(one.chain_der[0], other.private_key_der)
    with pytest.raises(X509SvidError, match="private key does not fit the leaf certificate"):
        X509Svid.parse_pem(one.chain_pem(), other.key_pem())


@pytest.mark.requirement("WLAPI-19")
@pytest.mark.parametrize("form", ["SEC 1", "rubbish", "nothing"])
def test_a_private_key_that_is_not_pkcs8_is_refused(form):
    made = CA.issue(WEB)
    sec1 = private_key_from_der(made.private_key_der).private_bytes(
        Encoding.DER, serialization.PrivateFormat.TraditionalOpenSSL, serialization.NoEncryption()
    )
    key = {"SEC 1": sec1, "rubbish": b"rubbish", "nothing": b""}[form]
    with pytest.raises(X509SvidError, match=r"private key: not an? .*PKCS#8 private key"):
        X509Svid.parse(made.chain_der[0], key)


def test_a_private_key_in_bad_pem_is_refused():
    made = CA.issue(WEB)
    with pytest.raises(X509SvidError, match="private key: not a PEM private key"):
        X509Svid.parse_pem(made.chain_pem(), b"")


def test_a_leaf_with_a_key_that_we_do_not_accept_is_refused():
    weak = CA.certify(ec.generate_private_key(ec.SECP256K1()).public_key(), uris=[WEB])
    with pytest.raises(X509SvidError, match="leaf: curve secp256k1 is not supported"):
        X509Svid.parse(der(weak), CA.issue(WEB).private_key_der)


@pytest.mark.parametrize("which", ["no chain", "bad leaf", "bad intermediate"])
def test_what_is_no_svid_is_refused(which):
    made = CA.issue(WEB)
    chains = {
        "no chain": b"",
        "bad leaf": der(CA.certificate),
        "bad intermediate": made.chain_der[0] + CA.issue(WEB).chain_der[0],
    }
    with pytest.raises(X509SvidError):
        X509Svid.parse(chains[which], made.private_key_der)


def test_no_key_is_shown():
    made = CA.issue(WEB, hint="internal")
    assert repr(made) == f"X509Svid(spiffe_id={made.spiffe_id!r}, hint='internal')"

# SPDX-License-Identifier: Apache-2.0
"""Between the messages of the SPIRE API and our values."""

from datetime import UTC, datetime, timedelta

import pytest
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding
from hypothesis import given
from hypothesis import strategies as st

from spiffekit.bundle import MAX_REFRESH_HINT, Bundle, JwtAuthority, X509Authority
from spiffekit.errors import BundleError, SelectorError, SpiffeIdError
from spiffekit.id import SpiffeId, TrustDomain
from spiffekit.keys import public_key_to_der
from spiffekit.selector import Selector
from spiffekit.testing import CA_USAGE, TestCA
from spiffekit.wire import convert
from spiffekit.wire.pb.spire.api import types_pb2

CA = TestCA()
ORG = TrustDomain("example.org")
EXPIRY = datetime(2027, 1, 1, tzinfo=UTC)


@pytest.mark.requirement("ID-18")
@pytest.mark.parametrize("text", ["spiffe://td", "spiffe://td/a/b", f"spiffe://td/{'a' * 2036}"])
def test_an_id_survives_its_message(text):
    spiffe_id = SpiffeId.parse(text)
    message = types_pb2.SPIFFEID.FromString(convert.spiffe_id_to_proto(spiffe_id).SerializeToString())
    assert (message.trust_domain, message.path) == ("td", spiffe_id.path)
    assert convert.spiffe_id_from_proto(message) == spiffe_id


def test_a_message_may_name_the_trust_domain_by_its_id():
    message = types_pb2.SPIFFEID(trust_domain="spiffe://td", path="/a")
    assert str(convert.spiffe_id_from_proto(message)) == "spiffe://td/a"


@pytest.mark.requirement("ID-02", "ID-13", "ID-14", "ID-15")
@pytest.mark.parametrize(
    ("trust_domain", "path"),
    [
        ("", ""),
        ("", "/a"),
        ("Td", "/a"),
        ("td/a", ""),
        ("td", "a"),
        ("td", "/"),
        ("td", "/a/../b"),
        ("td", "//a"),
    ],
)
def test_a_bad_id_in_a_message_is_refused(trust_domain, path):
    """CVE-2021-27099: the path of a message must not be repaired either."""
    with pytest.raises(SpiffeIdError):
        convert.spiffe_id_from_proto(types_pb2.SPIFFEID(trust_domain=trust_domain, path=path))


def test_a_selector_survives_its_message():
    selector = Selector("unix", "path:/usr/bin/\u00e9")
    assert convert.selector_from_proto(convert.selector_to_proto(selector)) == selector
    with pytest.raises(SelectorError, match="selector of type 'unix' has no value"):
        convert.selector_from_proto(types_pb2.Selector(type="unix"))


@given(
    st.datetimes(datetime(1970, 1, 1, 0, 0, 1), datetime(9999, 12, 31, 23, 59, 59), timezones=st.just(UTC))
)
def test_an_instant_survives_in_whole_seconds(moment):
    assert convert.instant(convert.seconds(moment)) == moment.replace(microsecond=0)


def test_no_instant_is_zero():
    assert convert.seconds(None) == 0
    assert convert.instant(0) is None


@pytest.mark.parametrize("seconds", [-1, 253402300800, 2**63 - 1, -(2**63)])
def test_what_is_no_instant_is_refused(seconds):
    with pytest.raises(ValueError, match="not a point in time that can be kept"):
        convert.instant(seconds)


def whole_bundle():
    return Bundle(
        ORG,
        (X509Authority(CA.bundle.x509_authorities[0].certificate_der, tainted=True),),
        (
            JwtAuthority("k1", public_key_to_der(CA.jwt_key.public_key()), EXPIRY),
            JwtAuthority("k2", public_key_to_der(CA.key.public_key()), None, tainted=True),
        ),
        sequence=2**64 - 1,
        refresh_hint=timedelta(seconds=MAX_REFRESH_HINT),
        wit_authorities=(
            JwtAuthority("k3", public_key_to_der(CA.wit_key.public_key()), EXPIRY, tainted=True),
        ),
    )


def test_a_bundle_survives_its_message_with_all_that_it_has():
    bundle = whole_bundle()
    message = types_pb2.Bundle.FromString(convert.bundle_to_proto(bundle).SerializeToString())
    assert convert.bundle_from_proto(message) == bundle


def test_a_bundle_without_sequence_and_hint_has_zeros_in_its_message():
    message = convert.bundle_to_proto(Bundle(ORG))
    assert (message.sequence_number, message.refresh_hint) == (0, 0)
    assert convert.bundle_from_proto(message) == Bundle(ORG, sequence=0)


def leaf_der():
    return CA.issue("spiffe://example.org/web").chain_der[0]


def weak_der():
    key = ec.generate_private_key(ec.SECP256K1()).public_key()
    certificate = CA.certify(key, uris=["spiffe://example.org"], ca=True, usage=CA_USAGE, purposes=())
    return certificate.public_bytes(Encoding.DER)


def ca_der():
    return CA.bundle.x509_authorities[0].certificate_der


def key_der():
    return public_key_to_der(CA.jwt_key.public_key())


X509, KEY = types_pb2.X509Certificate, types_pb2.JWTKey


DER = "certificate is not well-formed DER"
NO_CA = "signing certificate has cA false"


@pytest.mark.parametrize(
    ("members", "message"),
    [
        ({"x509_authorities": [X509(asn1=ca_der()), X509()]}, f"x509_authorities[1]: {DER}"),
        ({"x509_authorities": [X509(asn1=ca_der() * 2)]}, f"x509_authorities[0]: {DER}"),
        ({"x509_authorities": [X509(asn1=leaf_der())]}, f"x509_authorities[0]: {NO_CA}"),
        (
            {"x509_authorities": [X509(asn1=weak_der())]},
            "x509_authorities[0]: signing certificate: curve secp256k1 is not supported",
        ),
        ({"jwt_authorities": [KEY(public_key=key_der())]}, "jwt_authorities[0]: key_id is missing"),
        ({"jwt_authorities": [KEY(key_id="k")]}, "jwt_authorities[0]: not a SubjectPublicKeyInfo in DER"),
        (
            {"jwt_authorities": [KEY(key_id="k", public_key=key_der(), expires_at=-1)]},
            "jwt_authorities[0]: not a point in time that can be kept",
        ),
        ({"refresh_hint": -1}, "refresh_hint is not a whole number of 0 to 2147483647 seconds"),
        ({"refresh_hint": 2**31}, "refresh_hint is not a whole number of 0 to 2147483647 seconds"),
        ({"refresh_hint": 2**63 - 1}, "refresh_hint is not a whole number of 0 to 2147483647 seconds"),
        ({"x509_authorities": [X509()] * 1001}, "bundle of example.org has more than 1000 authorities"),
        ({"wit_authorities": [types_pb2.WITKey()]}, "wit_authorities[0]: key_id is missing"),
        (
            {"jwt_authorities": [KEY()] * 500, "wit_authorities": [types_pb2.WITKey()] * 501},
            "bundle of example.org has more than 1000 authorities",
        ),
        ({"jwt_authorities": [KEY()] * 1001}, "bundle of example.org has more than 1000 authorities"),
    ],
)  # fmt: skip
def test_a_bad_bundle_in_a_message_is_refused_by_name(members, message):
    with pytest.raises(BundleError) as refusal:
        convert.bundle_from_proto(types_pb2.Bundle(trust_domain="example.org", **members))
    assert str(refusal.value) == message


def test_a_bundle_of_nobody_is_refused():
    with pytest.raises(SpiffeIdError, match="trust domain is missing"):
        convert.bundle_from_proto(types_pb2.Bundle())

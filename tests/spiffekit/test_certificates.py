# SPDX-License-Identifier: Apache-2.0
"""The profile of X.509-SVIDs (X509-SVID §2 to §4), and the forms of certificates."""

import time

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import dsa, ec
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509.oid import ExtendedKeyUsageOID

from spiffekit.certificates import (
    MAX_CERTIFICATE_BYTES,
    MAX_CHAIN_BYTES,
    certificates_from_pem,
    check_leaf,
    check_signing_certificate,
    check_strength,
    load_authority,
    load_certificate,
    pem_certificate,
    public_key_of,
    spiffe_id_of,
    split_der,
)
from spiffekit.errors import UnsupportedKeyError, UntrustedError, X509SvidError
from spiffekit.testing import CA_USAGE, TestCA

CA = TestCA()
KEY = ec.generate_private_key(ec.SECP256R1()).public_key()
ID = "spiffe://example.org/web"


def leaf(**changes):
    return CA.certify(KEY, **{"uris": [ID], **changes})


def authority(**changes):
    wanted = {"uris": ["spiffe://example.org"], "ca": True, "usage": CA_USAGE, "purposes": ()}
    return CA.certify(KEY, **{**wanted, **changes})


def san(*names, critical):
    return (x509.SubjectAlternativeName(names), critical)


URI = x509.UniformResourceIdentifier
BAD_LEAVES = [
    pytest.param({"common_name": "", "uris": [], "extra": [san(URI(ID), critical=False)]},
        "leaf has no subject, and its SAN is not critical", id="no subject",
        marks=pytest.mark.requirement("X509-05")),
    pytest.param({"uris": []}, "certificate has 0 URI SANs: exactly one is needed", id="no URI",
        marks=pytest.mark.requirement("X509-01")),
    pytest.param({"uris": [ID, "spiffe://example.org/db"]},
        "certificate has 2 URI SANs: exactly one is needed", id="two IDs",
        marks=pytest.mark.requirement("X509-02")),
    pytest.param({"uris": [ID, ID]}, "certificate has 2 URI SANs: exactly one is needed", id="the ID twice",
        marks=pytest.mark.requirement("X509-02")),
    pytest.param({"uris": [ID, "https://example.org/"]},
        "certificate has 2 URI SANs: exactly one is needed", id="ID and URL",
        marks=pytest.mark.requirement("X509-02")),
    pytest.param({"uris": ["https://example.org/web"]},
        "URI SAN: scheme of 'https://example.org/web' is not 'spiffe'", id="URL",
        marks=pytest.mark.requirement("X509-32", "ID-01")),
    pytest.param({"uris": ["SPIFFE://example.org/web"]},
        "URI SAN: scheme of 'SPIFFE://example.org/web' is not 'spiffe'", id="upper case",
        marks=pytest.mark.requirement("X509-32")),
    pytest.param({"uris": ["spiffe://example.org"]}, "leaf ID spiffe://example.org has no path", id="no path",
        marks=pytest.mark.requirement("X509-33", "X509-04")),
    pytest.param({"ca": None}, "leaf lacks the extension basicConstraints", id="no basic constraints",
        marks=pytest.mark.requirement("X509-15")),
    pytest.param({"ca": True}, "leaf is a signing certificate", id="CA",
        marks=pytest.mark.requirement("X509-30", "X509-12")),
    pytest.param({"usage": {}}, "leaf lacks the extension keyUsage", id="no key usage",
        marks=pytest.mark.requirement("X509-18")),
    pytest.param({"usage": {"key_encipherment": True}}, "leaf's key usage lacks digitalSignature",
        id="no digitalSignature", marks=pytest.mark.requirement("X509-22")),
    pytest.param({"usage": {"digital_signature": True, "key_cert_sign": True}},
        "leaf's key usage has keyCertSign or cRLSign", id="keyCertSign",
        marks=pytest.mark.requirement("X509-24", "X509-31")),
    pytest.param({"usage": {"digital_signature": True, "crl_sign": True}},
        "leaf's key usage has keyCertSign or cRLSign", id="cRLSign",
        marks=pytest.mark.requirement("X509-24", "X509-31")),
    pytest.param({"purposes": (ExtendedKeyUsageOID.CLIENT_AUTH,)},
        "leaf's extended key usage lacks serverAuth or clientAuth", id="clients only",
        marks=pytest.mark.requirement("X509-27")),
    pytest.param({"purposes": (ExtendedKeyUsageOID.SERVER_AUTH,)},
        "leaf's extended key usage lacks serverAuth or clientAuth", id="servers only",
        marks=pytest.mark.requirement("X509-27")),
]  # fmt: skip
GOOD_LEAVES = [
    pytest.param({}, id="plain"),
    pytest.param(
        {"uris": [], "extra": [san(URI(ID), x509.DNSName("a.b"), x509.DNSName("c.d"), critical=False)]},
        id="DNS names",
        marks=pytest.mark.requirement("X509-03", "ID-26"),
    ),
    pytest.param(
        {"common_name": "", "uris": [], "extra": [san(URI(ID), critical=True)]},
        id="no subject",
        marks=pytest.mark.requirement("X509-05", "X509-06"),
    ),
    pytest.param(
        {"usage": {"digital_signature": True, "key_encipherment": True, "key_agreement": True}},
        id="key encipherment and agreement",
        marks=pytest.mark.requirement("X509-23"),
    ),
    pytest.param({"purposes": ()}, id="no EKU", marks=pytest.mark.requirement("X509-25")),
    pytest.param(
        {
            "purposes": (),
            "extra": [
                (
                    x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH, ExtendedKeyUsageOID.CLIENT_AUTH]),
                    True,
                )
            ],
        },
        id="critical EKU",
        marks=pytest.mark.requirement("X509-26"),
    ),
]


@pytest.mark.parametrize("changes", GOOD_LEAVES)
def test_a_leaf_of_the_profile_has_an_id(changes):
    assert str(check_leaf(leaf(**changes))) == ID


@pytest.mark.parametrize(("changes", "message"), BAD_LEAVES)
def test_a_leaf_outside_the_profile_is_refused(changes, message):
    with pytest.raises(X509SvidError) as refusal:
        check_leaf(leaf(**changes))
    assert str(refusal.value) == message


BAD_AUTHORITIES = [
    pytest.param({"ca": False}, "signing certificate has cA false", id="not CA",
        marks=pytest.mark.requirement("X509-14")),
    pytest.param({"ca": None}, "signing certificate lacks basic constraints or key usage", id="unsaid",
        marks=pytest.mark.requirement("X509-14")),
    pytest.param({"usage": {}}, "signing certificate lacks basic constraints or key usage", id="no usage",
        marks=pytest.mark.requirement("X509-18")),
    pytest.param({"usage": {"crl_sign": True}}, "signing certificate's key usage lacks keyCertSign",
        id="no keyCertSign", marks=pytest.mark.requirement("X509-20")),
    pytest.param({"uris": ["spiffe://example.org/ca"]}, "SPIFFE ID of a signing certificate has a path",
        id="path", marks=pytest.mark.requirement("X509-10", "ID-24")),
    pytest.param({"uris": ["spiffe://example.org/"]},
        "signing certificate: path cannot have a trailing slash", id="slash",
        marks=pytest.mark.requirement("X509-10")),
    pytest.param({"uris": ["https://example.org"]},
        "signing certificate: scheme of 'https://example.org' is not 'spiffe'", id="URL",
        marks=pytest.mark.requirement("X509-02")),
    pytest.param({"uris": ["spiffe://example.org", "spiffe://other.example"]},
        "signing certificate has 2 URI SANs: at most one is possible", id="two IDs",
        marks=pytest.mark.requirement("X509-02")),
]  # fmt: skip


@pytest.mark.parametrize(("changes", "message"), BAD_AUTHORITIES)
def test_a_signing_certificate_outside_the_profile_is_refused(changes, message):
    with pytest.raises(X509SvidError) as refusal:
        check_signing_certificate(authority(**changes))
    assert str(refusal.value) == message


@pytest.mark.parametrize(
    "changes",
    [
        pytest.param({"usage": CA_USAGE}, id="with cRLSign", marks=pytest.mark.requirement("X509-21")),
        pytest.param(
            {"usage": {"key_cert_sign": True}}, id="without", marks=pytest.mark.requirement("X509-21")
        ),
        pytest.param({"uris": []}, id="without ID", marks=pytest.mark.requirement("X509-08")),
        pytest.param(
            {"usage": {**CA_USAGE, "digital_signature": True}}, id="digitalSignature of another's CA"
        ),
        pytest.param({"path_length": 0}, id="path length", marks=pytest.mark.requirement("X509-13")),
    ],
)
def test_a_signing_certificate_of_the_profile_is_accepted(changes):
    der = authority(**changes).public_bytes(Encoding.DER)
    assert load_authority(der).public_key() == KEY


@pytest.mark.requirement("X509-14")
def test_a_leaf_is_no_authority():
    with pytest.raises(X509SvidError, match="signing certificate has cA false"):
        load_authority(leaf().public_bytes(Encoding.DER))


@pytest.mark.parametrize(
    ("key", "message"),
    [
        (ec.generate_private_key(ec.SECP256K1()), "curve secp256k1 is not supported"),
        (dsa.generate_private_key(1024), "keys of type DSAPublicKey are not supported"),
    ],
    ids=["secp256k1", "DSA"],
)
def test_a_certificate_with_a_key_that_we_do_not_accept_vouches_for_nothing(key, message):
    certificate = CA.certify(
        key.public_key(), uris=["spiffe://example.org"], ca=True, usage=CA_USAGE, purposes=()
    )
    with pytest.raises(UnsupportedKeyError) as refusal:
        public_key_of(certificate)
    assert str(refusal.value) == message
    with pytest.raises(X509SvidError) as refusal:
        load_authority(certificate.public_bytes(Encoding.DER))
    assert str(refusal.value) == f"signing certificate: {message}"
    with pytest.raises(UntrustedError) as refusal:
        check_strength(certificate)
    assert str(refusal.value) == f"certificate's key or signature is not supported: {message}"


def test_a_key_that_cannot_be_read_is_one_that_we_do_not_accept():
    """The curve's name is replaced by one that nobody has."""
    der = leaf().public_bytes(Encoding.DER)
    p256 = bytes.fromhex("06082a8648ce3d030107")
    assert der.count(p256) == 1
    broken = load_certificate(der.replace(p256, bytes.fromhex("06082a8648ce3d03017f")))
    with pytest.raises(UnsupportedKeyError, match="the certificate's public key cannot be read"):
        public_key_of(broken)
    with pytest.raises(UntrustedError, match="not supported"):
        check_strength(broken)


def test_a_sha1_signature_is_weak(sha1_certificate):
    with pytest.raises(UntrustedError, match="certificate is signed with sha1"):
        check_strength(sha1_certificate)


def test_an_edwards_signature_has_no_hash_and_is_strong(edwards_certificate):
    check_strength(edwards_certificate)


@pytest.mark.parametrize("algorithm", [hashes.SHA256(), hashes.SHA384(), hashes.SHA512()])
def test_the_usual_hashes_are_strong(algorithm):
    check_strength(leaf(hash_algorithm=algorithm))


def test_the_id_of_an_authority_is_read_without_judging_it():
    assert str(spiffe_id_of(authority())) == "spiffe://example.org"


def test_an_extension_that_stands_twice_is_malformed():
    """cryptography raises another class for it than for the rest; two SANs could hide an ID."""
    once = leaf(extra=[(x509.UnrecognizedExtension(x509.ObjectIdentifier("2.5.29.99"), b"\x30\x00"), False)])
    data = once.public_bytes(Encoding.DER)
    assert data.count(bytes.fromhex("0603551d63")) == 1
    twice = data.replace(bytes.fromhex("0603551d63"), bytes.fromhex("0603551d11"))
    with pytest.raises(X509SvidError, match="certificate is not well-formed DER"):
        load_certificate(twice)


@pytest.mark.parametrize(
    ("before", "after"),
    [
        (b"\x0c\x08workload", b"\x00\x08workload"),  # the subject's name is no string
        (b"\x0c\x08workload", b"\x03\x08\x00orkload"),  # a string of bits
        (b"\x0c\x16Test CA of", b"\x00\x16Test CA of"),  # nor is the issuer's
    ],
    ids=["subject", "bits", "issuer"],
)
def test_what_is_parsed_late_is_well_formed_from_the_start(before, after):
    der = leaf().public_bytes(Encoding.DER)
    assert der.count(before) == 1
    with pytest.raises(X509SvidError, match="certificate is not well-formed DER"):
        load_certificate(der.replace(before, after))


@pytest.mark.parametrize("der", [b"", b"\x30", b"\x30\x00", b"rubbish", b"\x30\x82\xff\xff"])
def test_rubbish_is_no_certificate(der):
    with pytest.raises(X509SvidError, match="certificate is not well-formed DER"):
        load_certificate(der)


def test_what_follows_a_certificate_is_malformed():
    with pytest.raises(X509SvidError, match="not well-formed"):
        load_certificate(leaf().public_bytes(Encoding.DER) + b"\x00")


def test_a_huge_certificate_is_not_even_parsed():
    with pytest.raises(X509SvidError, match="certificate is larger than 65536 bytes"):
        load_certificate(bytes(MAX_CERTIFICATE_BYTES + 1))


@pytest.mark.requirement("WLAPI-18")
def test_concatenated_der_is_split_where_it_was_joined():
    ders = [certificate.public_bytes(Encoding.DER) for certificate in (leaf(), authority(), CA.certificate)]
    assert split_der(b"".join(ders)) == tuple(ders)
    small = (b"\x30\x00", b"\x30\x01\x05", b"\x30\x81\x80" + bytes(128))
    assert split_der(b"".join(small)) == small
    assert split_der(small[0]) == small[:1]


def test_the_limits_themselves_are_within_bounds():
    """What stands at the limit is refused for what it is, not for its size."""
    with pytest.raises(X509SvidError, match="not well-formed DER"):
        load_certificate(bytes(MAX_CERTIFICATE_BYTES))
    with pytest.raises(X509SvidError, match="no certificate in the PEM text"):
        certificates_from_pem(bytes(2 * MAX_CHAIN_BYTES))
    largest = b"\x30\x83" + (MAX_CHAIN_BYTES - 5).to_bytes(3) + bytes(MAX_CHAIN_BYTES - 5)
    assert split_der(largest) == (largest,)


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"", "no certificate"),
        (b"\x30", "certificates are not concatenated DER"),
        (b"\x31\x00", "certificates are not concatenated DER"),
        (b"\x30\x80\x00\x00", "certificates are not concatenated DER"),
        (b"\x30\x85\x00\x00\x00\x00\x01\x00", "certificates are not concatenated DER"),
        (b"\x30\x82\x01", "certificates are not concatenated DER"),
        (b"\x30\x02\x00", "the last certificate is cut off"),
        (b"\x30\x00\x00", "certificates are not concatenated DER"),
        (b"-----BEGIN CERTIFICATE-----", "certificates are not concatenated DER"),
        (b"\x30\x84\xff\xff\xff\xff", "the last certificate is cut off"),
        (bytes(MAX_CHAIN_BYTES + 1), "certificates are larger than 1048576 bytes in all"),
    ],
)
def test_what_is_not_concatenated_der_is_refused(data, message):
    with pytest.raises(X509SvidError) as refusal:
        split_der(data)
    assert str(refusal.value) == message


def test_pem_is_what_everybody_writes():
    assert pem_certificate(leaf().public_bytes(Encoding.DER)).startswith(b"-----BEGIN CERTIFICATE-----\nMII")
    certificate = leaf()
    assert pem_certificate(certificate.public_bytes(Encoding.DER)) == certificate.public_bytes(Encoding.PEM)


def test_pem_certificates_are_found_among_other_text():
    one, two = leaf(), authority()
    text = b"".join(
        [
            b"# comment\r\n",
            one.public_bytes(Encoding.PEM).replace(b"\n", b"\r\n"),
            b"-----BEGIN PUBLIC KEY-----\nAAAA\n-----END PUBLIC KEY-----\n",
            two.public_bytes(Encoding.PEM),
        ]
    )
    assert certificates_from_pem(text) == (one.public_bytes(Encoding.DER), two.public_bytes(Encoding.DER))


@pytest.mark.parametrize(
    ("pem", "message"),
    [
        (b"", "no certificate in the PEM text"),
        (b"-----BEGIN CERTIFICATE-----\nAAAA", "no certificate in the PEM text"),
        (b"-----BEGIN CERTIFICATE-----\n*\n-----END CERTIFICATE-----", "PEM is malformed"),
        (b"-----BEGIN CERTIFICATE-----\nAAA\n-----END CERTIFICATE-----", "PEM is malformed"),
        (bytes(2 * MAX_CHAIN_BYTES + 1), "PEM is too large"),
    ],
)
def test_bad_pem_is_refused(pem, message):
    with pytest.raises(X509SvidError) as refusal:
        certificates_from_pem(pem)
    assert str(refusal.value) == message


def test_a_flood_of_openings_does_not_take_quadratic_time():
    started = time.process_time()
    with pytest.raises(X509SvidError):
        certificates_from_pem(b"-----BEGIN CERTIFICATE-----" * 70_000)
    assert time.process_time() - started < 1

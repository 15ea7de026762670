# SPDX-License-Identifier: Apache-2.0
"""Our writer of leaves against the library's builder, byte for byte, and the profile of what it writes."""

import functools
import operator
from datetime import UTC, datetime, timedelta
from functools import cache

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID
from hypothesis import example, given, settings
from hypothesis import strategies as st

from issuer.ca import der
from issuer.ca.profile import (
    MAX_COMMON_NAME,
    Issuer,
    Leaf,
    common_name,
    leaf_builder,
    leaf_tbs,
    new_serial,
    subject,
)
from spiffekit.certificates import check_leaf
from spiffekit.id import MAX_ID_BYTES, SpiffeId, TrustDomain
from spiffekit.keys import public_key_to_der, subject_key_id

NOW = datetime(2026, 1, 1, tzinfo=UTC)
ECDSA_SHA256 = der.sequence(der.oid("1.2.840.10045.4.3.2"))
ECDSA_SHA384 = der.sequence(der.oid("1.2.840.10045.4.3.3"))
RSA_SHA256 = der.sequence(der.oid("1.2.840.113549.1.1.11"), b"\x05\x00")
LEAF_KEYS = ("p256", "p384", "p521", "rsa2048", "rsa3072", "ed25519")
AUTHORITY = {
    "p256": (ECDSA_SHA256, hashes.SHA256()),
    "p384": (ECDSA_SHA384, hashes.SHA384()),
    "rsa2048": (RSA_SHA256, hashes.SHA256()),
}


@cache
def private_key(name, which="leaf"):
    match name:
        case "rsa2048" | "rsa3072":
            return rsa.generate_private_key(public_exponent=65537, key_size=int(name[3:]))
        case "ed25519":
            return ed25519.Ed25519PrivateKey.generate()
        case _:
            curve = {"p256": ec.SECP256R1, "p384": ec.SECP384R1, "p521": ec.SECP521R1}[name]
            return ec.generate_private_key(curve())


def a_leaf(**changes):
    values = {
        "spiffe_id": SpiffeId.parse("spiffe://example.org/agent"),
        "public_key_der": public_key_to_der(private_key("p256").public_key()),
        "serial": 4711,
        "not_before": NOW,
        "not_after": NOW + timedelta(hours=1),
    }
    return Leaf(**{**values, **changes})


def both(leaf, authority="p256", authority_name=None):
    """Return the TBSCertificate of our writer and that of the library, for one authority."""
    key = private_key(authority, "authority")
    algorithm, digest = AUTHORITY[authority]
    name = authority_name or x509.Name([x509.NameAttribute(NameOID.ORGANIZATION_NAME, "SPIFFE")])
    key_id = subject_key_id(key.public_key())
    ours = leaf_tbs(
        leaf, Issuer(name_der=name.public_bytes(), key_id=key_id, signature_algorithm_der=algorithm)
    )
    certificate = leaf_builder(leaf, name, key_id).sign(key, digest)
    return ours, certificate


def certificate_of(leaf):
    ours, certificate = both(leaf)
    assert certificate.tbs_certificate_bytes == ours
    return certificate


label = st.from_regex(r"[a-zA-Z0-9]([a-zA-Z0-9-]{0,61}[a-zA-Z0-9])?", fullmatch=True)
dns_names = st.lists(st.lists(label, min_size=1, max_size=4).map(".".join), max_size=5)
segments = st.lists(
    st.from_regex(r"[a-zA-Z0-9_-][a-zA-Z0-9._-]{0,40}", fullmatch=True), min_size=1, max_size=9
)
trust_domains = st.from_regex(r"[a-z0-9._-]{1,60}", fullmatch=True).map(TrustDomain)
instants = st.one_of(
    st.datetimes(datetime(2000, 1, 1), datetime(9999, 12, 31, 23, 59, 58)),
    st.datetimes(datetime(2049, 12, 31, 23, 59, 50), datetime(2050, 1, 1, 0, 0, 10)),
).map(lambda instant: instant.replace(microsecond=0, tzinfo=UTC))
names = st.lists(st.text(min_size=1, max_size=20).filter(str.isprintable), min_size=1, max_size=3).map(
    lambda values: x509.Name([x509.NameAttribute(NameOID.ORGANIZATIONAL_UNIT_NAME, v) for v in values])
)


@settings(max_examples=60)
@given(
    trust_domain=trust_domains,
    path=segments.map(lambda parts: "/" + "/".join(parts)),
    dns=dns_names,
    key=st.sampled_from(LEAF_KEYS),
    serial=st.one_of(st.integers(1, 2**127 - 1), st.integers(1, 2**159 - 1)),
    times=st.tuples(instants, instants).map(sorted),
    authority=st.sampled_from(sorted(AUTHORITY)),
    authority_name=names,
)
@pytest.mark.requirement("X509-01", "X509-03", "ID-26")
def test_our_writer_and_the_librarys_builder_agree_on_every_byte(
    trust_domain, path, dns, key, serial, times, authority, authority_name
):
    leaf = Leaf(
        spiffe_id=SpiffeId(trust_domain, path),
        public_key_der=public_key_to_der(private_key(key).public_key()),
        dns_names=tuple(dns),
        serial=serial,
        not_before=times[0],
        not_after=times[1],
    )
    ours, certificate = both(leaf, authority, authority_name)
    assert ours == certificate.tbs_certificate_bytes


@pytest.mark.parametrize("second", [-1, 0, 1])
@pytest.mark.parametrize("end", ["not_before", "not_after"])
def test_the_change_to_generalized_time_is_the_librarys(end, second):
    """RFC 5280 §4.1.2.5: UTCTime through 2049, GeneralizedTime from 2050."""
    turn = datetime(2050, 1, 1, tzinfo=UTC) + timedelta(seconds=second)
    other = {"not_before": {"not_after": turn + timedelta(days=1)}, "not_after": {"not_before": NOW}}[end]
    certificate_of(a_leaf(**{end: turn}, **other))


@pytest.mark.parametrize("serial", [1, 127, 128, 255, 256, 2**63, 2**127 - 1])
def test_serial_numbers_at_the_edges_of_their_encoding_are_the_librarys(serial):
    assert certificate_of(a_leaf(serial=serial)).serial_number == serial


@pytest.mark.requirement("ID-18")
def test_an_id_of_2048_bytes_goes_into_a_certificate_whole():
    trust_domain = TrustDomain("a" * 255)
    spiffe_id = SpiffeId(trust_domain, "/" + "b" * (MAX_ID_BYTES - len("spiffe://") - 255 - 1))
    assert len(str(spiffe_id)) == MAX_ID_BYTES
    certificate = certificate_of(a_leaf(spiffe_id=spiffe_id))
    assert check_leaf(certificate) == spiffe_id


@pytest.mark.requirement("X509-05", "X509-06")
@pytest.mark.parametrize("dns", [(), ("a.example.org",), ("x" * 63 + "." + "y" * 63,)])
def test_the_subject_is_never_empty_so_the_names_need_not_be_critical(dns):
    certificate = certificate_of(a_leaf(dns_names=dns))
    assert len(list(certificate.subject)) >= 2
    assert certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).critical is False


@pytest.mark.parametrize(
    ("dns", "expected"),
    [
        ((), ""),
        (("first.example.org", "second.example.org"), "first.example.org"),
        (("x" * 50 + "." + "y" * 13,), "x" * 50 + "." + "y" * 13),
        (("x" * 50 + "." + "y" * 14, "short.example.org"), ""),
    ],
    ids=["none", "the first of two", "64 characters", "65 characters"],
)
def test_the_first_dns_name_is_the_common_name_if_it_fits(dns, expected):
    """RFC 5280 appendix A.1: at most 64 characters."""
    leaf = a_leaf(dns_names=dns)
    assert common_name(leaf) == expected
    found = certificate_of(leaf).subject.get_attributes_for_oid(NameOID.COMMON_NAME)
    assert [attribute.value for attribute in found] == ([expected] if expected else [])
    assert len(expected) <= MAX_COMMON_NAME


def test_the_subject_says_no_more_than_country_and_organization():
    assert subject("").rfc4514_string() == "O=SPIRE,C=US"
    assert subject("web").rfc4514_string() == "CN=web,O=SPIRE,C=US"


@pytest.mark.requirement(
    "X509-01", "X509-15", "X509-18", "X509-19", "X509-22", "X509-23", "X509-24", "X509-25", "X509-26",
    "X509-27", "X509-43",
)  # fmt: skip
@pytest.mark.parametrize("key", LEAF_KEYS)
def test_a_leaf_has_these_extensions_and_no_other(key):
    leaf = a_leaf(
        public_key_der=public_key_to_der(private_key(key).public_key()),
        dns_names=("a.example.org", "b.example.org"),
    )
    certificate = certificate_of(leaf)
    assert certificate.version is x509.Version.v3
    assert [(e.oid._name, e.critical) for e in certificate.extensions] == [
        ("keyUsage", True),
        ("extendedKeyUsage", False),
        ("basicConstraints", True),
        ("subjectKeyIdentifier", False),
        ("authorityKeyIdentifier", False),
        ("subjectAltName", False),
    ]
    values = {extension.oid._name: extension.value for extension in certificate.extensions}
    assert values["basicConstraints"] == x509.BasicConstraints(ca=False, path_length=None)
    assert list(values["extendedKeyUsage"]) == [
        ExtendedKeyUsageOID.SERVER_AUTH,
        ExtendedKeyUsageOID.CLIENT_AUTH,
    ]
    usage = values["keyUsage"]
    assert usage.digital_signature
    assert usage.key_encipherment is key.startswith("rsa")
    others = (
        usage.content_commitment, usage.data_encipherment, usage.key_agreement, usage.key_cert_sign,
        usage.crl_sign,
    )  # fmt: skip
    assert not any(others)
    assert values["subjectKeyIdentifier"].digest == subject_key_id(private_key(key).public_key())
    authority = private_key("p256", "authority").public_key()
    assert values["authorityKeyIdentifier"].key_identifier == subject_key_id(authority)
    assert list(values["subjectAltName"]) == [
        x509.UniformResourceIdentifier("spiffe://example.org/agent"),
        x509.DNSName("a.example.org"),
        x509.DNSName("b.example.org"),
    ]
    assert check_leaf(certificate) == leaf.spiffe_id


@pytest.mark.parametrize("year", [2026, 2040, 9999])
def test_serial_numbers_are_positive_and_do_not_repeat(year):
    """RFC 5280 §4.1.2.2: positive, at most 20 octets."""
    serials = {new_serial(datetime(year, 1, 1, tzinfo=UTC)) for _ in range(1000)}
    assert len(serials) == 1000
    assert all(0 < serial < 2**159 for serial in serials)


def test_serial_numbers_cannot_be_guessed():
    """At least 64 bits of each are random (CA/Browser Forum baseline requirements §7.1): here 96."""
    serials = [new_serial(datetime(2026, 1, 1, tzinfo=UTC)) for _ in range(256)]
    differing = functools.reduce(operator.or_, (serial ^ serials[0] for serial in serials))
    assert differing == 2**96 - 1


def test_later_serial_numbers_come_after_earlier_ones_as_text_too():
    """The index that they are found by is of text, and is written at one end only."""
    start = datetime(2026, 1, 1, tzinfo=UTC)
    serials = [str(new_serial(start + timedelta(days=days, seconds=days))) for days in range(0, 20_000, 50)]
    assert serials == sorted(serials)


@given(st.text(min_size=1, max_size=20).filter(lambda text: not text.isascii()))
@example("münchen.example.org")
def test_a_name_that_is_not_ascii_never_reaches_a_certificate(name):
    """DNS names are checked when an entry is made; this is the last line of defence."""
    with pytest.raises(UnicodeEncodeError):
        leaf_tbs(
            a_leaf(dns_names=(name,)),
            Issuer(name_der=der.sequence(), key_id=b"k" * 20, signature_algorithm_der=ECDSA_SHA256),
        )

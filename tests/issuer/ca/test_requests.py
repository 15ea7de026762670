# SPDX-License-Identifier: Apache-2.0
"""A request gives a key and the proof of its possession; nothing else of it enters a certificate.

CVE-2021-27098: SPIRE's old node API signed the ID that stood in the request.
"""

import contextlib
import ipaddress
import re
from datetime import UTC, datetime, timedelta
from functools import cache

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import dsa, ec, ed448, ed25519, padding, rsa, x25519
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID
from hypothesis import given, settings
from hypothesis import strategies as st

from issuer.ca import der
from issuer.ca.requests import MAX_CSR_BYTES, MAX_DNS_NAMES, check_dns_names, parse_csr
from issuer.ca.signing import X509Signer
from issuer.errors import InvalidRequestError
from issuer.keys import LocalKey
from issuer.model import AuthorityKind, AuthorityRecord, AuthorityState
from spiffekit.id import SpiffeId
from spiffekit.testing import TestCA

NOW = datetime(2026, 1, 1, tzinfo=UTC)
EC_KEY = ec.generate_private_key(ec.SECP256R1())
RSA_KEY = rsa.generate_private_key(public_exponent=65537, key_size=2048)
ECDSA_SHA256 = der.sequence(der.oid("1.2.840.10045.4.3.2"))


def csr(key=EC_KEY, *, name=(), extensions=(), digest=None, **options):
    builder = x509.CertificateSigningRequestBuilder().subject_name(x509.Name(name))
    for extension in extensions:
        builder = builder.add_extension(extension, critical=False)
    edwards = isinstance(key, ed25519.Ed25519PrivateKey | ed448.Ed448PrivateKey)
    request = builder.sign(key, None if edwards else digest or hashes.SHA256(), **options)
    return request.public_bytes(Encoding.DER)


def with_san(value):
    return csr(extensions=[x509.UnrecognizedExtension(x509.ObjectIdentifier("2.5.29.17"), value)])


def raw_csr(public_key_der, *, algorithm=ECDSA_SHA256, version=0, attributes=b"\xa0\x00"):
    """A request whose key or form no library would write; nobody could have signed it, we do."""
    tbs = der.sequence(der.integer(version), der.sequence(), public_key_der, attributes)
    signature = EC_KEY.sign(tbs, ec.ECDSA(hashes.SHA256()))
    return der.sequence(tbs, algorithm, der.bit_string(signature))


def spki(key):
    return key.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)


def refused(message):
    return pytest.raises(InvalidRequestError, match=f"^{re.escape(message)}$")


@pytest.mark.parametrize(
    ("key", "digest"),
    [
        (EC_KEY, hashes.SHA256()),
        (EC_KEY, hashes.SHA512()),
        (ec.generate_private_key(ec.SECP384R1()), hashes.SHA384()),
        (ec.generate_private_key(ec.SECP521R1()), hashes.SHA512()),
        (RSA_KEY, hashes.SHA256()),
        (RSA_KEY, hashes.SHA384()),
        (ed25519.Ed25519PrivateKey.generate(), None),
    ],
    ids=["p256", "p256 sha512", "p384", "p521", "rsa", "rsa sha384", "ed25519"],
)
def test_a_good_request_gives_its_key(key, digest):
    request = parse_csr(csr(key, digest=digest))
    assert request.public_key_der == spki(key.public_key())
    assert request.uris() == []
    assert request.dns_names() == ()


@pytest.mark.parametrize("size", [0, 100, 200, 300, 7000])
def test_another_key_that_a_request_names_is_not_certified(size):
    """Nothing that looks like a key where none belongs is taken for it, whatever the lengths around it."""
    decoy = spki(ec.generate_private_key(ec.SECP256R1()).public_key())
    name = [x509.NameAttribute(NameOID.ORGANIZATION_NAME, "x" * 60)] * (size // 60)
    name.append(
        x509.NameAttribute(NameOID.X500_UNIQUE_IDENTIFIER, decoy, _type=x509.name._ASN1Type.BitString)
    )
    extension = x509.UnrecognizedExtension(x509.ObjectIdentifier("1.2.3.4"), decoy + b"x" * size)
    sent = csr(name=name, extensions=[extension])
    assert sent.count(decoy) == 2
    assert parse_csr(sent).public_key_der == spki(EC_KEY.public_key())


def test_a_key_is_written_in_one_way_only():
    """RFC 5480 §2.2: a point may be compressed; certificates of the field have it whole."""
    point = EC_KEY.public_key().public_bytes(Encoding.X962, PublicFormat.CompressedPoint)
    algorithm = der.sequence(der.oid("1.2.840.10045.2.1"), der.oid("1.2.840.10045.3.1.7"))
    assert parse_csr(raw_csr(der.sequence(algorithm, der.bit_string(point)))).public_key_der == POINT


@cache
def weak_keys():
    return {
        "RSA of 1024 bits": (
            rsa.generate_private_key(public_exponent=65537, key_size=1024),
            "csr: RSA key of 1024 bits: use 2048 to 8192",
        ),
        "P-192": (ec.generate_private_key(ec.SECP192R1()), "csr: curve secp192r1 is not supported"),
        "P-224": (ec.generate_private_key(ec.SECP224R1()), "csr: curve secp224r1 is not supported"),
        "Bitcoin's curve": (ec.generate_private_key(ec.SECP256K1()), "csr: curve secp256k1 is not supported"),
        "brainpool": (
            ec.generate_private_key(ec.BrainpoolP256R1()),
            "csr: curve brainpoolP256r1 is not supported",
        ),
        "Ed448": (ed448.Ed448PrivateKey.generate(), "csr: keys of type Ed448PublicKey are not supported"),
        "DSA": (dsa.generate_private_key(2048), "csr: keys of type DSAPublicKey are not supported"),
    }


@pytest.mark.filterwarnings("ignore:::cryptography")
@pytest.mark.parametrize(
    "kind", ["RSA of 1024 bits", "P-192", "P-224", "Bitcoin's curve", "brainpool", "Ed448", "DSA"]
)
def test_a_weak_or_odd_key_is_refused(kind):
    key, message = weak_keys()[kind]
    with refused(message):
        parse_csr(csr(key))


def test_a_huge_key_is_refused_before_its_signature_is_looked_at():
    """GHSA of SPIRE 1.13.4: verifying with a huge RSA key costs seconds. Here the signature is no good."""
    huge = rsa.RSAPublicNumbers(65537, (1 << 16383) + 1).public_key()
    with refused("csr: RSA key of 16384 bits: use 2048 to 8192"):
        parse_csr(raw_csr(spki(huge)))


def padded(size):
    padding_bytes = x509.UnrecognizedExtension(x509.ObjectIdentifier("1.2.3.4"), b"x" * size)
    return csr(RSA_KEY, extensions=[padding_bytes])


def test_a_request_of_exactly_the_largest_size_is_looked_at():
    around = len(padded(10_000)) - 10_000
    sent = padded(MAX_CSR_BYTES - around)
    assert len(sent) == MAX_CSR_BYTES
    assert parse_csr(sent).public_key_der == spki(RSA_KEY.public_key())


POINT = spki(EC_KEY.public_key())
OFF_THE_CURVE = POINT[:-1] + bytes((POINT[-1] ^ 1,))


@pytest.mark.parametrize(
    ("sent", "message"),
    [
        (b"", "csr: is missing"),
        (b"\x30", "csr: not a well-formed PKCS#10 request"),
        (b"\x00" * 100, "csr: not a well-formed PKCS#10 request"),
        (b"\x30\x84\xff\xff\xff\xff", "csr: not a well-formed PKCS#10 request"),
        (b"-----BEGIN CERTIFICATE REQUEST-----", "csr: not a well-formed PKCS#10 request"),
        (csr() + b"\x00", "csr: not a well-formed PKCS#10 request"),
        (csr()[:-1], "csr: not a well-formed PKCS#10 request"),
        (POINT, "csr: not a well-formed PKCS#10 request"),
        (raw_csr(POINT, version=1), "csr: not a well-formed PKCS#10 request"),
        (raw_csr(OFF_THE_CURVE), "csr: not a well-formed PKCS#10 request"),
        (raw_csr(der.sequence()), "csr: not a well-formed PKCS#10 request"),
        (
            raw_csr(spki(x25519.X25519PrivateKey.generate().public_key())),
            "csr: keys of type X25519PublicKey are not supported",
        ),
        (
            raw_csr(POINT, algorithm=der.sequence(der.oid("1.2.3.4"))),
            "csr: not a well-formed PKCS#10 request",
        ),
        (
            raw_csr(spki(RSA_KEY.public_key()), algorithm=ECDSA_SHA256),
            "csr: RSA signatures have to be PKCS#1 v1.5",
        ),
        (csr(RSA_KEY, digest=hashes.SHA224()), "csr: signed with a hash that is not accepted"),
        (csr(RSA_KEY, digest=hashes.SHA3_256()), "csr: signed with a hash that is not accepted"),
        (
            csr(RSA_KEY, rsa_padding=padding.PSS(padding.MGF1(hashes.SHA256()), 32)),
            "csr: RSA signatures have to be PKCS#1 v1.5",
        ),
        (csr(name=[x509.NameAttribute(NameOID.COMMON_NAME, "x" * 64)] * 250), "csr: larger than 16384 bytes"),
        (b"\x30" * (MAX_CSR_BYTES + 1), "csr: larger than 16384 bytes"),
    ],
    ids=[
        "nothing", "one byte", "zeros", "a length without end", "PEM", "a byte more", "a byte less", "a key",
        "version 2", "off the curve", "no key", "X25519", "unknown algorithm", "ECDSA of RSA", "SHA-224",
        "SHA-3", "PSS", "a huge name", "too much",
    ],
)  # fmt: skip
def test_what_is_no_request_of_ours_is_refused(sent, message):
    with refused(message):
        parse_csr(sent)


@pytest.mark.parametrize(
    "key", [EC_KEY, RSA_KEY, ed25519.Ed25519PrivateKey.generate()], ids=["ec", "rsa", "ed"]
)
def test_a_key_that_the_caller_does_not_hold_is_refused(key):
    """SPIRE takes a request of a node whose own signature is wrong; we do not."""
    sent = bytearray(csr(key))
    sent[-1] ^= 1
    with refused("csr: signature is not good"):
        parse_csr(bytes(sent))


def test_somebody_elses_key_is_refused():
    stolen = ec.generate_private_key(ec.SECP256R1()).public_key()
    with refused("csr: signature is not good"):
        parse_csr(raw_csr(spki(stolen)))
    with refused("csr: signature is not good"):
        parse_csr(raw_csr(spki(ed25519.Ed25519PrivateKey.generate().public_key())))


GOOD = csr()


@settings(max_examples=200)
@given(st.data())
def test_a_changed_request_never_passes(data):
    sent = bytearray(GOOD)
    for _ in range(data.draw(st.integers(1, 3))):
        sent[data.draw(st.integers(0, len(sent) - 1))] ^= data.draw(st.integers(1, 255))
    if bytes(sent) != GOOD:
        with pytest.raises(InvalidRequestError):
            parse_csr(bytes(sent))


def test_a_signature_whose_last_bit_is_said_not_to_count_is_another_request():
    sent = bytearray(next(made for made in iter(csr, b"") if made[-1] % 2 == 0))
    length = len(x509.load_der_x509_csr(bytes(sent)).signature)
    assert sent[-length - 1] == 0
    sent[-length - 1] = 1
    with pytest.raises(InvalidRequestError):
        parse_csr(bytes(sent))


@given(st.binary(max_size=400))
def test_garbage_never_passes(sent):
    with pytest.raises(InvalidRequestError):
        parse_csr(sent)


@given(st.binary(max_size=60))
def test_names_of_any_bytes_are_read_or_refused(value):
    request = parse_csr(with_san(value))
    with contextlib.suppress(InvalidRequestError):
        assert isinstance(request.uris(), list)
        assert isinstance(request.dns_names(), tuple)


@pytest.mark.parametrize(
    "value",
    [b"", b"\x30\x02\xa3\x00", b"\x30\x02\xa5\x00", b"\x30\x03\x82\x01\xff", b"\x30\x02\x87\x00"],
    ids=["empty", "x400Address", "ediPartyName", "not ASCII", "an address of no bytes"],
)
def test_names_that_cannot_be_read_are_an_error_of_the_caller(value):
    request = parse_csr(with_san(value))
    for read in (request.uris, request.dns_names):
        with refused("csr: extensions are malformed"):
            read()


def test_names_given_twice_are_an_error_of_the_caller():
    san = der.sequence(der.oid("2.5.29.17"), der.octet_string(der.sequence(der.tlv(0x82, b"a.b"))))
    extensions = der.sequence(der.oid("1.2.840.113549.1.9.14"), der.tlv(0x31, der.sequence(san, san)))
    request = parse_csr(raw_csr(POINT, attributes=der.tlv(0xA0, extensions)))
    with refused("csr: extensions are malformed"):
        request.dns_names()


def test_an_operators_request_tells_the_names_it_asks_for():
    names = [
        x509.DNSName("a.example.org"),
        x509.UniformResourceIdentifier("spiffe://example.org/a"),
        x509.IPAddress(ipaddress.ip_address("10.0.0.1")),
        x509.UniformResourceIdentifier("https://example.org"),
        x509.DNSName("b.example.org"),
    ]
    request = parse_csr(csr(extensions=[x509.SubjectAlternativeName(names)]))
    assert request.uris() == ["spiffe://example.org/a", "https://example.org"]
    assert request.dns_names() == ("a.example.org", "b.example.org")


@pytest.mark.requirement("X509-01", "ID-07")
async def test_only_the_key_of_a_request_enters_a_certificate():
    """CVE-2021-27098: foreign IDs, names, extensions and purposes in a request."""
    wanted = [
        x509.SubjectAlternativeName(
            [
                x509.UniformResourceIdentifier("spiffe://example.org/admin"),
                x509.UniformResourceIdentifier("spiffe://other.org/x"),
                x509.DNSName("admin.example.org"),
                x509.IPAddress(ipaddress.ip_address("10.0.0.1")),
                x509.RFC822Name("root@example.org"),
            ]
        ),
        x509.BasicConstraints(ca=True, path_length=5),
        x509.ExtendedKeyUsage([ExtendedKeyUsageOID.CODE_SIGNING]),
        x509.NameConstraints(None, [x509.DNSName("example.org")]),
        x509.KeyUsage(False, False, False, False, False, True, True, False, False),
        x509.UnrecognizedExtension(x509.ObjectIdentifier("1.2.3.4.5"), b"\x05\x00"),
    ]
    subject = [
        x509.NameAttribute(NameOID.COMMON_NAME, "admin"),
        x509.NameAttribute(NameOID.ORGANIZATION_NAME, "masters"),
    ]
    with_everything = parse_csr(csr(name=subject, extensions=wanted)).public_key_der
    with_nothing = parse_csr(csr()).public_key_der
    first, second = [
        x509.load_der_x509_certificate((await sign(key)).chain_der[0])
        for key in (with_everything, with_nothing)
    ]
    assert first.subject == second.subject
    assert list(first.extensions) == list(second.extensions)
    san = first.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    assert list(san) == [
        x509.UniformResourceIdentifier("spiffe://example.org/agent"),
        x509.DNSName("agent.example.org"),
    ]
    for foreign in (b"admin", b"masters", b"other.org", b"\x2a\x03\x04\x05"):
        assert foreign not in first.tbs_certificate_bytes


CA = TestCA(now=NOW)


async def sign(public_key_der):
    key_id = x509.SubjectKeyIdentifier.from_public_key(CA.key.public_key()).digest
    record = AuthorityRecord(
        id=key_id.hex(),
        kind=AuthorityKind.X509,
        state=AuthorityState.ACTIVE,
        key_id="k",
        issued_at=NOW,
        not_after=NOW + timedelta(hours=24),
        certificate_der=CA.certificate.public_bytes(Encoding.DER),
    )
    return await X509Signer(record, LocalKey("k", CA.key)).sign(
        SpiffeId.parse("spiffe://example.org/agent"),
        public_key_der,
        ttl=timedelta(hours=1),
        now=NOW,
        dns_names=("agent.example.org",),
    )


LABEL = "x" * 63


@pytest.mark.requirement("X509-03")
@pytest.mark.parametrize(
    "names",
    [
        (),
        ("a",),
        ("a.b", "c.d"),
        ("A-1.example.org",),
        ("*.example.org",),
        ("xn--mnchen-3ya.example.org",),
        (".".join([LABEL, LABEL, LABEL, "x" * 61]),),
        tuple(f"n{number}" for number in range(MAX_DNS_NAMES)),
    ],
)
def test_dns_names_that_may_stand_in_a_certificate(names):
    check_dns_names(names)


@pytest.mark.parametrize(
    ("names", "message"),
    [
        (("",), "dns_names: '' is not a DNS name"),
        (("a b",), "dns_names: 'a b' is not a DNS name"),
        (("a..b",), "dns_names: 'a..b' is not a DNS name"),
        (("a.",), "dns_names: 'a.' is not a DNS name"),
        ((".a",), "dns_names: '.a' is not a DNS name"),
        (("-a",), "dns_names: '-a' is not a DNS name"),
        (("a-",), "dns_names: 'a-' is not a DNS name"),
        (("a_b",), "dns_names: 'a_b' is not a DNS name"),
        (("a\n",), r"dns_names: 'a\n' is not a DNS name"),
        (("a\0.b",), r"dns_names: 'a\x00.b' is not a DNS name"),
        (("ä.de",), "dns_names: 'ä.de' is not a DNS name"),
        (("*",), "dns_names: '*' is not a DNS name"),
        (("*.",), "dns_names: '*.' is not a DNS name"),
        (("*.com",), "dns_names: '*.com' is too wide a wildcard"),
        (("*.*.a.b",), "dns_names: '*.*.a.b' is not a DNS name"),
        (("a.*.b",), "dns_names: 'a.*.b' is not a DNS name"),
        (("w*.a.b",), "dns_names: 'w*.a.b' is not a DNS name"),
        (("spiffe://a/b",), "dns_names: 'spiffe://a/b' is not a DNS name"),
        ((LABEL + "x",), f"dns_names: '{LABEL}x' is not a DNS name"),
        ((".".join([LABEL, LABEL, LABEL, "x" * 62]),), f"dns_names: '{LABEL}.{'x' * 16}' is not a DNS name"),
        ((".".join([LABEL] * 4),), f"dns_names: '{LABEL}.{'x' * 16}' is not a DNS name"),
        (("a.b", "A.B"), "dns_names: a name stands twice"),
        (tuple(f"n{number}" for number in range(MAX_DNS_NAMES + 1)), "dns_names: more than 64"),
    ],
)
def test_dns_names_that_may_not(names, message):
    with refused(message):
        check_dns_names(names)

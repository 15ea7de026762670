# SPDX-License-Identifier: Apache-2.0
"""What our certificates look like: X509-SVID §2 to §4, and what every client of the field accepts.

`leaf_tbs` writes the TBSCertificate of a leaf by hand, which is two and a half times faster than the
library's general builder; `leaf_builder` makes the same with that builder, and a test holds both equal.
Only what is given here enters a certificate: nothing of a request but its public key.
"""

import hashlib
import secrets
from dataclasses import dataclass
from datetime import datetime, timedelta
from functools import lru_cache
from typing import Final, NamedTuple

from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import rsa
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from issuer.ca import der
from spiffekit.id import SpiffeId
from spiffekit.keys import PublicKey, public_key_from_der, subject_key_id

BACKDATE: Final = timedelta(seconds=10)  # for verifiers whose clock is a little behind
MAX_COMMON_NAME: Final = 64  # characters, RFC 5280 appendix A.1
SERIAL_BITS: Final = 96  # random ones of a serial number; below the time it has at most 17 octets of 20

_COUNTRY, _ORGANIZATION = "US", "SPIRE"  # leaves of SPIRE carry these; tools match on them


class Leaf(NamedTuple):
    """All that varies between leaves."""

    spiffe_id: SpiffeId
    public_key_der: bytes  # SubjectPublicKeyInfo of a key that we accept
    serial: int
    not_before: datetime  # whole seconds
    not_after: datetime
    dns_names: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Issuer:
    """What a leaf says of its issuer."""

    name_der: bytes
    key_id: bytes
    signature_algorithm_der: bytes


def new_serial(now: datetime) -> int:
    """Return a random serial number, the later the greater (RFC 5280 §4.1.2.2: positive, at most 20 octets).

    It begins with the second of issue, which the certificate tells anyway: what is written together then
    stands together in the index that serial numbers are found by, instead of on as many of its pages.
    """
    return int(now.timestamp()) << SERIAL_BITS | secrets.randbits(SERIAL_BITS)


def common_name(leaf: Leaf) -> str:
    """Return the first DNS name if it fits into a common name, "" otherwise."""
    return leaf.dns_names[0] if leaf.dns_names and len(leaf.dns_names[0]) <= MAX_COMMON_NAME else ""


def subject(name: str) -> x509.Name:
    """Return the subject with that common name, if any: never empty, and never the authority's own."""
    attributes = [
        x509.NameAttribute(NameOID.COUNTRY_NAME, _COUNTRY),
        x509.NameAttribute(NameOID.ORGANIZATION_NAME, _ORGANIZATION),
    ]
    if name:
        attributes.append(x509.NameAttribute(NameOID.COMMON_NAME, name))
    return x509.Name(attributes)


def key_usage(key: PublicKey) -> x509.KeyUsage:
    """Return the usage of a leaf's key: signatures, and for RSA key transport too (X509-SVID §4.3)."""
    return x509.KeyUsage(
        digital_signature=True,
        content_commitment=False,
        key_encipherment=isinstance(key, rsa.RSAPublicKey),
        data_encipherment=False,
        key_agreement=False,
        key_cert_sign=False,
        crl_sign=False,
        encipher_only=False,
        decipher_only=False,
    )


def leaf_builder(leaf: Leaf, issuer_name: x509.Name, issuer_key_id: bytes) -> x509.CertificateBuilder:
    """Return the library's builder of a leaf: the oracle for `leaf_tbs`."""
    names: list[x509.GeneralName] = [x509.UniformResourceIdentifier(str(leaf.spiffe_id))]
    names += [x509.DNSName(name) for name in leaf.dns_names]
    public_key = public_key_from_der(leaf.public_key_der)
    return (
        x509.CertificateBuilder()
        .subject_name(subject(common_name(leaf)))
        .issuer_name(issuer_name)
        .public_key(public_key)
        .serial_number(leaf.serial)
        .not_valid_before(leaf.not_before)
        .not_valid_after(leaf.not_after)
        .add_extension(key_usage(public_key), critical=True)
        .add_extension(
            x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH, ExtendedKeyUsageOID.CLIENT_AUTH]),
            critical=False,
        )
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(x509.SubjectKeyIdentifier(subject_key_id(public_key)), critical=False)
        .add_extension(x509.AuthorityKeyIdentifier(issuer_key_id, None, None), critical=False)
        .add_extension(x509.SubjectAlternativeName(names), critical=False)
    )


def _extension(dotted: str, value: bytes, *, critical: bool = False) -> bytes:
    return der.sequence(der.oid(dotted), der.TRUE if critical else b"", der.octet_string(value))


_VERSION_3: Final = b"\xa0\x03\x02\x01\x02"
_USAGE: Final = _extension("2.5.29.15", der.bit_string(b"\x80", 7), critical=True)
_USAGE_RSA: Final = _extension("2.5.29.15", der.bit_string(b"\xa0", 5), critical=True)
_PURPOSES: Final = _extension(
    "2.5.29.37", der.sequence(der.oid("1.3.6.1.5.5.7.3.1"), der.oid("1.3.6.1.5.5.7.3.2"))
)
_NOT_CA: Final = _extension("2.5.29.19", der.sequence(), critical=True)
_SKI: Final = der.oid("2.5.29.14")
_AKI: Final = der.oid("2.5.29.35")
_SAN: Final = der.oid("2.5.29.17")


# Written once: the extensions that never vary, and all of a subject key identifier but the identifier.
_FIXED: Final = b"".join((_USAGE, _PURPOSES, _NOT_CA))
_FIXED_RSA: Final = b"".join((_USAGE_RSA, _PURPOSES, _NOT_CA))
_SKI_PREFIX: Final = der.sequence(_SKI, der.octet_string(der.octet_string(bytes(20))))[:-20]

_P256_KEY: Final = der.sequence(  # RFC 5480 §2: a key on P-256, up to its uncompressed point
    der.sequence(der.oid("1.2.840.10045.2.1"), der.oid("1.2.840.10045.3.1.7")),
    der.bit_string(b"\x04" + bytes(64)),
)[:-64]


@lru_cache(maxsize=1024)
def _subject_der(name: str) -> bytes:
    return subject(name).public_bytes()


@lru_cache(maxsize=256)
def _validity_der(not_before: datetime, not_after: datetime) -> bytes:
    """The same for a whole batch, so it is remembered."""
    return der.sequence(der.time(not_before), der.time(not_after))


@lru_cache(maxsize=16)
def _authority_key_id_der(key_id: bytes) -> bytes:
    return der.sequence(_AKI, der.octet_string(der.sequence(der.tlv(0x80, key_id))))


def leaf_tbs(leaf: Leaf, issuer: Issuer) -> bytes:
    """Return the TBSCertificate of a leaf (RFC 5280 §4.1.2), DER."""
    fixed, key_id = _of_key(leaf.public_key_der)
    names = der.tlv(0x86, str(leaf.spiffe_id).encode("ascii"))
    if leaf.dns_names:
        names += b"".join(der.tlv(0x82, name.encode("ascii")) for name in leaf.dns_names)
    extensions = der.sequence(
        fixed,
        _SKI_PREFIX,
        key_id,
        _authority_key_id_der(issuer.key_id),
        der.sequence(_SAN, der.octet_string(der.sequence(names))),
    )
    return der.sequence(
        _VERSION_3,
        der.integer(leaf.serial),
        issuer.signature_algorithm_der,
        issuer.name_der,
        _validity_der(leaf.not_before, leaf.not_after),
        _subject_der(common_name(leaf)),
        leaf.public_key_der,
        der.tlv(0xA3, extensions),
    )


def is_plain_p256(public_key_der: bytes) -> bool:
    """Tell whether a SubjectPublicKeyInfo is what `public_key_to_der` writes of a key on P-256."""
    return public_key_der.startswith(_P256_KEY) and len(public_key_der) == len(_P256_KEY) + 64


def _of_key(public_key_der: bytes) -> tuple[bytes, bytes]:
    """Return the extensions that depend on the kind of a key, and its key identifier."""
    if is_plain_p256(
        public_key_der
    ):  # `subject_key_id` of it, without decoding it: that costs a signature's third
        return _FIXED, hashlib.sha1(public_key_der[-65:]).digest()  # noqa: S324 - a name
    key = public_key_from_der(public_key_der)
    return _FIXED_RSA if isinstance(key, rsa.RSAPublicKey) else _FIXED, subject_key_id(key)

# SPDX-License-Identifier: Apache-2.0
"""Certificates of the X.509-SVID profile: its rules for leaves and signing certificates, and their forms."""

import base64
import re
from typing import Final

from cryptography import x509
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.x509.oid import ExtendedKeyUsageOID

from spiffekit.errors import SpiffeIdError, UnsupportedKeyError, UntrustedError, X509SvidError
from spiffekit.id import SpiffeId
from spiffekit.keys import PublicKey, check_public_key

MAX_CERTIFICATE_BYTES: Final = 64 * 1024  # bytes of DER
MAX_CHAIN_BYTES: Final = 1024 * 1024  # bytes of DER, all certificates of a response or bundle
_WEAK_HASHES: Final = ("md5", "sha1")
# What cryptography parses when it is asked for, and what therefore may be malformed until then.
_PARSED_LAZILY: Final = ("extensions", "subject", "issuer", "not_valid_before_utc", "not_valid_after_utc")
# No hyphen inside: with `.+?` a text of many openings and no end would take quadratic time.
_PEM: Final = re.compile(rb"-----BEGIN CERTIFICATE-----([^-]+)-----END CERTIFICATE-----")
# cryptography has no common class for what a malformed certificate makes it raise.
MALFORMED: Final = (
    ValueError,
    TypeError,  # a name that is a BIT STRING
    x509.DuplicateExtension,
    x509.InvalidVersion,
    x509.UnsupportedGeneralNameType,
)


def check_leaf(certificate: x509.Certificate) -> SpiffeId:
    """Return the SPIFFE ID of a leaf that obeys X509-SVID §2 to §4.

    Raises:
        X509SvidError: It does not; the message names the rule.
    """
    spiffe_id = spiffe_id_of(certificate)
    if not spiffe_id.path:
        raise X509SvidError(f"leaf ID {spiffe_id} has no path")  # X509-SVID §5.2
    san = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName)
    if not certificate.subject.rdns and not san.critical:
        raise X509SvidError("leaf has no subject, and its SAN is not critical")  # X509-SVID §3.1
    try:
        basic = certificate.extensions.get_extension_for_class(x509.BasicConstraints).value
        usage = certificate.extensions.get_extension_for_class(x509.KeyUsage).value
    except x509.ExtensionNotFound as error:
        raise X509SvidError(f"leaf lacks the extension {error.oid._name}") from error  # noqa: SLF001 - no public name
    if basic.ca:
        raise X509SvidError("leaf is a signing certificate")  # X509-SVID §4.1
    if not usage.digital_signature:
        raise X509SvidError("leaf's key usage lacks digitalSignature")  # X509-SVID §4.3
    if usage.key_cert_sign or usage.crl_sign:
        raise X509SvidError("leaf's key usage has keyCertSign or cRLSign")  # X509-SVID §4.3
    try:
        purposes = certificate.extensions.get_extension_for_class(x509.ExtendedKeyUsage).value
    except x509.ExtensionNotFound:
        return spiffe_id
    wanted = {ExtendedKeyUsageOID.SERVER_AUTH, ExtendedKeyUsageOID.CLIENT_AUTH}
    if not wanted <= set(purposes):
        raise X509SvidError("leaf's extended key usage lacks serverAuth or clientAuth")  # X509-SVID §4.4
    return spiffe_id


def check_signing_certificate(certificate: x509.Certificate) -> None:
    """Check that a certificate may sign SVIDs (X509-SVID §3.2 and §4).

    Raises:
        X509SvidError: It may not; the message names the rule.
    """
    try:
        basic = certificate.extensions.get_extension_for_class(x509.BasicConstraints).value
        usage = certificate.extensions.get_extension_for_class(x509.KeyUsage).value
    except x509.ExtensionNotFound as error:
        raise X509SvidError("signing certificate lacks basic constraints or key usage") from error
    if not basic.ca:
        raise X509SvidError("signing certificate has cA false")
    if not usage.key_cert_sign:
        raise X509SvidError("signing certificate's key usage lacks keyCertSign")
    uris = uris_of(certificate)
    if len(uris) > 1:
        raise X509SvidError(f"signing certificate has {len(uris)} URI SANs: at most one is possible")
    for uri in uris:
        try:
            if SpiffeId.parse(uri).path:
                raise X509SvidError("SPIFFE ID of a signing certificate has a path")  # X509-SVID §3.2
        except SpiffeIdError as error:
            raise X509SvidError(f"signing certificate: {error}") from error


def spiffe_id_of(certificate: x509.Certificate) -> SpiffeId:
    """Return the SPIFFE ID of a certificate.

    Raises:
        X509SvidError: It does not have exactly one URI SAN that is a SPIFFE ID (X509-SVID §2).
    """
    uris = uris_of(certificate)
    if len(uris) != 1:
        raise X509SvidError(f"certificate has {len(uris)} URI SANs: exactly one is needed")
    try:
        return SpiffeId.parse(uris[0])
    except SpiffeIdError as error:
        raise X509SvidError(f"URI SAN: {error}") from error


def uris_of(certificate: x509.Certificate) -> list[str]:
    """Return the URI SANs of a certificate that was loaded here, as they stand."""
    try:
        san = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    except x509.ExtensionNotFound:
        return []
    return san.get_values_for_type(x509.UniformResourceIdentifier)


def check_strength(certificate: x509.Certificate) -> None:
    """Check that a certificate rests on no weak hash or key.

    Raises:
        UntrustedError: It does.
    """
    try:
        public_key_of(certificate)
        algorithm = certificate.signature_hash_algorithm
    except (UnsupportedKeyError, UnsupportedAlgorithm) as error:
        raise UntrustedError(f"certificate's key or signature is not supported: {error}") from error
    if algorithm is not None and algorithm.name in _WEAK_HASHES:
        raise UntrustedError(f"certificate is signed with {algorithm.name}")


def public_key_of(certificate: x509.Certificate) -> PublicKey:
    """Return the public key of a certificate.

    Raises:
        UnsupportedKeyError: It is malformed, or of a kind that we do not accept.
    """
    try:
        key = certificate.public_key()
    except (ValueError, UnsupportedAlgorithm) as error:
        raise UnsupportedKeyError("the certificate's public key cannot be read") from error
    return check_public_key(key)


def load_certificate(der: bytes) -> x509.Certificate:
    """Load one DER certificate of bounded size.

    Raises:
        X509SvidError: It is malformed or too large.
    """
    if len(der) > MAX_CERTIFICATE_BYTES:
        raise X509SvidError(f"certificate is larger than {MAX_CERTIFICATE_BYTES} bytes")
    try:
        certificate = x509.load_der_x509_certificate(der)
        for part in _PARSED_LAZILY:
            getattr(certificate, part)
    except MALFORMED as error:
        raise X509SvidError("certificate is not well-formed DER") from error
    return certificate


def load_authority(der: bytes) -> x509.Certificate:
    """Load a certificate that SVIDs may rest on: a signing certificate with a key that we accept.

    Raises:
        X509SvidError: It is anything else.
    """
    certificate = load_certificate(der)
    check_signing_certificate(certificate)
    try:
        public_key_of(certificate)
    except UnsupportedKeyError as error:
        raise X509SvidError(f"signing certificate: {error}") from error
    return certificate


def split_der(concatenated: bytes) -> tuple[bytes, ...]:
    """Split concatenated DER certificates, the form in which the Workload API carries a chain.

    Raises:
        X509SvidError: It is empty, too large, or not a sequence of DER SEQUENCEs.
    """
    if not concatenated:
        raise X509SvidError("no certificate")
    if len(concatenated) > MAX_CHAIN_BYTES:
        raise X509SvidError(f"certificates are larger than {MAX_CHAIN_BYTES} bytes in all")
    found: list[bytes] = []
    position = 0
    while position < len(concatenated):
        length = _sequence_length(concatenated, position)
        found.append(concatenated[position : position + length])
        position += length
    return tuple(found)


def _sequence_length(data: bytes, position: int) -> int:
    """Return the length of the SEQUENCE at `position`, header included (X.690 §8.1.3)."""
    header = data[position : position + 6]
    if len(header) < 2 or header[0] != 0x30:
        raise X509SvidError("certificates are not concatenated DER")
    size, octets = header[1], 0
    if size & 0x80:
        octets = size & 0x7F
        if not 1 <= octets <= 4 or len(header) < 2 + octets:
            raise X509SvidError("certificates are not concatenated DER")
        size = int.from_bytes(header[2 : 2 + octets])
    length = 2 + octets + size
    if position + length > len(data):
        raise X509SvidError("the last certificate is cut off")
    return length


def certificates_from_pem(pem: bytes) -> tuple[bytes, ...]:
    """Return the DER of each certificate in a PEM text; other blocks are skipped.

    Raises:
        X509SvidError: There is none, or one is malformed.
    """
    if len(pem) > 2 * MAX_CHAIN_BYTES:
        raise X509SvidError("PEM is too large")
    try:
        found = tuple(base64.b64decode(b"".join(body.split()), validate=True) for body in _PEM.findall(pem))
    except ValueError as error:
        raise X509SvidError("PEM is malformed") from error
    if not found:
        raise X509SvidError("no certificate in the PEM text")
    return found


def pem_certificate(der: bytes) -> bytes:
    """Return one DER certificate as PEM."""
    return b"-----BEGIN CERTIFICATE-----\n" + _lines(der) + b"-----END CERTIFICATE-----\n"


def _lines(der: bytes) -> bytes:
    text = base64.b64encode(der)
    return b"".join(text[i : i + 64] + b"\n" for i in range(0, len(text), 64))

# SPDX-License-Identifier: Apache-2.0
"""Certificate requests: a public key, and the proof that the caller holds its private half.

Nothing else of a request enters a certificate, but for an administrator's `MintX509SVID`.
"""

import re
from dataclasses import dataclass
from typing import Final

from cryptography import x509
from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, padding, rsa

from issuer.ca.profile import is_plain_p256
from issuer.errors import InvalidRequestError
from spiffekit.errors import UnsupportedKeyError
from spiffekit.keys import PublicKey, check_public_key, public_key_to_der

MAX_CSR_BYTES: Final = 16 * 1024  # bytes
MAX_DNS_NAME: Final = 253  # characters, RFC 1035 §2.3.4
MAX_DNS_NAMES: Final = 64

_LABEL: Final = re.compile(r"[A-Za-z0-9](?:[A-Za-z0-9-]{0,61}[A-Za-z0-9])?", re.ASCII)
# cryptography has no common class for what a malformed request makes it raise.
_MALFORMED: Final = (
    ValueError,
    x509.DuplicateExtension,
    x509.InvalidVersion,
    x509.UnsupportedGeneralNameType,
)
_ECDSA: Final = {
    digest.name: ec.ECDSA(digest) for digest in (hashes.SHA256(), hashes.SHA384(), hashes.SHA512())
}


@dataclass(frozen=True, slots=True)
class Request:
    """A request whose signature is good."""

    public_key_der: bytes  # SubjectPublicKeyInfo, as `public_key_to_der` writes it
    csr: x509.CertificateSigningRequest

    def uris(self) -> list[str]:
        """Return the URI SANs that it asks for."""
        return self._san().get_values_for_type(x509.UniformResourceIdentifier)

    def dns_names(self) -> tuple[str, ...]:
        """Return the DNS SANs that it asks for."""
        return tuple(self._san().get_values_for_type(x509.DNSName))

    def _san(self) -> x509.SubjectAlternativeName:
        try:
            return self.csr.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
        except x509.ExtensionNotFound:
            return x509.SubjectAlternativeName([])
        except _MALFORMED as error:
            raise InvalidRequestError("csr: extensions are malformed") from error


def parse_csr(csr_der: bytes) -> Request:
    """Parse a PKCS#10 request, DER, and check the proof of possession.

    Key and algorithm are judged before the signature, so that a huge key costs nothing.

    Raises:
        InvalidRequestError: It is malformed, its key is not accepted, or its signature is not good.
    """
    if not csr_der:
        raise InvalidRequestError("csr: is missing")
    if len(csr_der) > MAX_CSR_BYTES:
        raise InvalidRequestError(f"csr: larger than {MAX_CSR_BYTES} bytes")
    try:
        csr = x509.load_der_x509_csr(csr_der)
        key = check_public_key(csr.public_key())
        digest = csr.signature_hash_algorithm
    except (*_MALFORMED, UnsupportedAlgorithm) as error:
        raise InvalidRequestError("csr: not a well-formed PKCS#10 request") from error
    except UnsupportedKeyError as error:
        raise InvalidRequestError(f"csr: {error}") from error
    # The signature ends the request. What stands before it says how many bits of it do not count: none, or
    # two requests would be one.
    if csr_der[-len(csr.signature) - 1]:
        raise InvalidRequestError("csr: not a well-formed PKCS#10 request")
    signed, public_key_der = _parts(csr_der)
    try:
        _verify(key, csr, signed, digest)
    except InvalidSignature as error:
        raise InvalidRequestError("csr: signature is not good") from error
    if not is_plain_p256(public_key_der):  # others may be written in more ways than one
        public_key_der = public_key_to_der(key)
    return Request(public_key_der, csr)


def _parts(csr_der: bytes) -> tuple[bytes, bytes]:
    """Return what is signed and the SubjectPublicKeyInfo, DER (RFC 2986 §4.1), of a request that was parsed.

    The strict parser vouches for the form, so an element's length says where the next one stands. It would
    write both anew for us, at a tenth of what verifying costs.
    """
    info, _ = _inside(csr_der, 0)
    version, end = _inside(csr_der, info)
    _, subject = _inside(csr_der, version)
    _, key = _inside(csr_der, subject)
    _, attributes = _inside(csr_der, key)
    return csr_der[info:end], csr_der[key:attributes]


def _inside(der: bytes, start: int) -> tuple[int, int]:
    """Return where the contents of the element at `start` begin and end (X.690 §8.1.3)."""
    size = der[start + 1]
    begin = start + 2
    if size & 0x80:
        begin += size & 0x7F
        size = int.from_bytes(der[start + 2 : begin])
    return begin, begin + size


def _verify(
    key: PublicKey, csr: x509.CertificateSigningRequest, signed: bytes, digest: hashes.HashAlgorithm | None
) -> None:
    ecdsa = _ECDSA.get(digest.name) if digest is not None else None
    if isinstance(key, ec.EllipticCurvePublicKey) and ecdsa is not None:
        key.verify(csr.signature, signed, ecdsa)
        return
    if isinstance(key, ed25519.Ed25519PublicKey):
        key.verify(csr.signature, signed)
        return
    if digest is None or ecdsa is None:
        raise InvalidRequestError("csr: signed with a hash that is not accepted")
    if not isinstance(csr.signature_algorithm_parameters, padding.PKCS1v15):
        raise InvalidRequestError("csr: RSA signatures have to be PKCS#1 v1.5")
    assert isinstance(key, rsa.RSAPublicKey)  # noqa: S101 - the last kind that check_public_key lets through
    key.verify(csr.signature, signed, padding.PKCS1v15(), digest)


def check_dns_names(names: tuple[str, ...]) -> None:
    """Check DNS names for a certificate: LDH labels, at most one wildcard, and only as the first label.

    Raises:
        InvalidRequestError: One breaks a rule, or there are too many, or one stands twice.
    """
    if len(names) > MAX_DNS_NAMES:
        raise InvalidRequestError(f"dns_names: more than {MAX_DNS_NAMES}")
    if len({name.lower() for name in names}) != len(names):
        raise InvalidRequestError("dns_names: a name stands twice")
    for name in names:
        labels = name.removeprefix("*.").split(".")
        if len(name) > MAX_DNS_NAME or not all(_LABEL.fullmatch(label) for label in labels):
            raise InvalidRequestError(f"dns_names: {name[:80]!r} is not a DNS name")
        if name.startswith("*.") and len(labels) < 2:
            raise InvalidRequestError(f"dns_names: {name[:80]!r} is too wide a wildcard")

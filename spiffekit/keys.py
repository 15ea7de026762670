# SPDX-License-Identifier: Apache-2.0
"""Keys: which kinds we accept, and their forms on a wire or disk."""

from enum import StrEnum
from typing import Final, cast

from cryptography import x509
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa

from spiffekit.errors import UnsupportedKeyError

PrivateKey = ec.EllipticCurvePrivateKey | rsa.RSAPrivateKey | ed25519.Ed25519PrivateKey
PublicKey = ec.EllipticCurvePublicKey | rsa.RSAPublicKey | ed25519.Ed25519PublicKey

MIN_RSA_BITS: Final = 2048  # bits; smaller ones can be factored
MAX_RSA_BITS: Final = 8192  # bits; verifying with a huge key costs the verifier seconds
_CURVES: Final = ("secp256r1", "secp384r1", "secp521r1")


class KeyType(StrEnum):
    """The kinds of key that we make; the values are SPIRE's names."""

    EC_P256 = "ec-p256"
    EC_P384 = "ec-p384"
    RSA_2048 = "rsa-2048"
    RSA_4096 = "rsa-4096"


def generate_private_key(key_type: KeyType) -> PrivateKey:
    """Make a new private key."""
    match key_type:
        case KeyType.EC_P256:
            return ec.generate_private_key(ec.SECP256R1())
        case KeyType.EC_P384:
            return ec.generate_private_key(ec.SECP384R1())
        case KeyType.RSA_2048:
            return rsa.generate_private_key(public_exponent=65537, key_size=2048)
        case KeyType.RSA_4096:  # pragma: no branch - the last kind there is, mypy checks
            return rsa.generate_private_key(public_exponent=65537, key_size=4096)


def check_public_key(key: object) -> PublicKey:
    """Return `key` if it is of a kind and size that we accept.

    Raises:
        UnsupportedKeyError: It is not EC P-256, P-384 or P-521, RSA of 2048 to 8192 bits, or Ed25519.
    """
    match key:
        case ec.EllipticCurvePublicKey() if key.curve.name in _CURVES:
            return key
        case rsa.RSAPublicKey() if MIN_RSA_BITS <= key.key_size <= MAX_RSA_BITS:
            return key
        case ed25519.Ed25519PublicKey():
            return key
        case ec.EllipticCurvePublicKey():
            raise UnsupportedKeyError(f"curve {key.curve.name} is not supported")
        case rsa.RSAPublicKey():
            raise UnsupportedKeyError(f"RSA key of {key.key_size} bits: use {MIN_RSA_BITS} to {MAX_RSA_BITS}")
        case _:
            raise UnsupportedKeyError(f"keys of type {type(key).__name__} are not supported")


def private_key_from_der(pkcs8_der: bytes) -> PrivateKey:
    """Load an unencrypted PKCS#8 private key, DER.

    Raises:
        UnsupportedKeyError: It is not PKCS#8, or of a kind that we do not accept.
    """
    try:
        key = serialization.load_der_private_key(pkcs8_der, password=None)
    except (ValueError, TypeError, UnsupportedAlgorithm) as error:
        raise UnsupportedKeyError("not an unencrypted PKCS#8 private key") from error
    # The loader takes SEC 1 and PKCS#1 as well; go-spiffe does not, so neither form may spread.
    if not _is_pkcs8(pkcs8_der):
        raise UnsupportedKeyError("not a PKCS#8 private key")
    check_public_key(key.public_key())
    return cast("PrivateKey", key)


def _is_pkcs8(der: bytes) -> bool:
    """Tell whether a private key is SEQUENCE { INTEGER 0 or 1, SEQUENCE …: PKCS#8 (RFC 5958 §2)."""
    start = 2 + (der[1] & 0x7F if der[1] & 0x80 else 0)
    return der[start : start + 2] == b"\x02\x01" and der[start + 3 : start + 4] == b"\x30"


def private_key_to_der(key: PrivateKey) -> bytes:
    """Return the key as unencrypted PKCS#8, DER."""
    return key.private_bytes(
        serialization.Encoding.DER, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )


def private_key_from_pem(pem: bytes, password: bytes | None = None) -> PrivateKey:
    """Load a PEM private key.

    Raises:
        UnsupportedKeyError: It is malformed, the password is wrong, or its kind is not accepted.
    """
    try:
        key = serialization.load_pem_private_key(pem, password=password)
    except (ValueError, TypeError, UnsupportedAlgorithm) as error:
        raise UnsupportedKeyError("not a PEM private key, or the password is wrong") from error
    check_public_key(key.public_key())
    return cast("PrivateKey", key)


def public_key_from_der(spki_der: bytes) -> PublicKey:
    """Load a SubjectPublicKeyInfo, DER.

    Raises:
        UnsupportedKeyError: It is malformed, or of a kind that we do not accept.
    """
    try:
        key = serialization.load_der_public_key(spki_der)
    except (ValueError, UnsupportedAlgorithm) as error:
        raise UnsupportedKeyError("not a SubjectPublicKeyInfo in DER") from error
    return check_public_key(key)


def public_key_to_der(key: PublicKey) -> bytes:
    """Return the key's SubjectPublicKeyInfo, DER."""
    return key.public_bytes(serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo)


def subject_key_id(key: PublicKey) -> bytes:
    """Return the 20-byte key identifier, RFC 5280 §4.2.1.2 (1): SHA-1 of the key's bits.

    It names a key and protects nothing.
    """
    return x509.SubjectKeyIdentifier.from_public_key(key).digest

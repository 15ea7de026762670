# SPDX-License-Identifier: Apache-2.0
"""Secrets for a key of one TPM: only the TPM that holds both keys can open them.

What TPM2_MakeCredential does (TPM 2.0 Library, Part 1, section 24), without a TPM.
"""

import hashlib
import hmac
import secrets
import struct
from dataclasses import dataclass
from typing import Final

from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, padding, rsa
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes

from issuer.node.tpm import Public, PublicKey

SEED: Final = 32  # bytes, as many as SHA-256 has
KEY: Final = 16  # bytes of AES-128, the cipher of the default template
_LABEL: Final = b"IDENTITY\0"


@dataclass(frozen=True, slots=True)
class Credential:
    """A TPM2B_ID_OBJECT, and the TPM2B_ENCRYPTED_SECRET of the seed that protects it."""

    blob: bytes
    secret: bytes


def make(endorsement: Public, name: bytes, secret: bytes) -> Credential:
    """Protect a secret: the TPM of `endorsement` gives it out if it also holds the key called `name`."""
    seed, encrypted = _share(endorsement.key)
    identity = _encrypt(_kdfa(seed, b"STORAGE", name, KEY), _sized(secret))
    integrity = hmac.digest(_kdfa(seed, b"INTEGRITY", b"", SEED), identity + name, hashlib.sha256)
    return Credential(_sized(_sized(integrity) + identity), _sized(encrypted))


def _share(key: PublicKey) -> tuple[bytes, bytes]:
    """Return a new seed, and in which form the TPM finds it (Part 1, annexes B.10.4 and C.6.4)."""
    if isinstance(key, rsa.RSAPublicKey):
        seed = secrets.token_bytes(SEED)
        oaep = padding.OAEP(padding.MGF1(hashes.SHA256()), hashes.SHA256(), _LABEL)
        return seed, key.encrypt(seed, oaep)
    ours = ec.generate_private_key(key.curve)
    shared = ours.exchange(ec.ECDH(), key)
    x, y = _point(ours.public_key())
    seed = hashlib.sha256(struct.pack(">I", 1) + shared + _LABEL + x + _point(key)[0]).digest()  # KDFe
    return seed, _sized(x) + _sized(y)


def _point(key: ec.EllipticCurvePublicKey) -> tuple[bytes, bytes]:
    numbers, size = key.public_numbers(), (key.key_size + 7) // 8
    return numbers.x.to_bytes(size), numbers.y.to_bytes(size)


def _kdfa(key: bytes, label: bytes, context: bytes, size: int) -> bytes:
    """Derive up to 32 bytes, for which one round is enough (Part 1, section 11.4.10.2)."""
    data = struct.pack(">I", 1) + label + b"\0" + context + struct.pack(">I", size * 8)
    return hmac.digest(key, data, hashlib.sha256)[:size]


def _encrypt(key: bytes, data: bytes) -> bytes:
    """Encrypt in CFB mode, whose place in cryptography depends on its version.

    The key is used once, so that the initial value may be zeros (Part 1, section 24).
    """
    cipher = Cipher(algorithms.AES128(key), modes.ECB()).encryptor()  # noqa: S305 - one block of CFB
    block, encrypted = bytes(KEY), b""
    for start in range(0, len(data), KEY):
        block = bytes(a ^ b for a, b in zip(data[start : start + KEY], cipher.update(block), strict=False))
        encrypted += block
    return encrypted


def _sized(data: bytes) -> bytes:
    return struct.pack(">H", len(data)) + data

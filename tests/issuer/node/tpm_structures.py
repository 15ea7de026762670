# SPDX-License-Identifier: Apache-2.0
"""Structures of a TPM 2.0, written by hand, so that each part of them can be made wrong."""

import struct

from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, padding, rsa
from cryptography.hazmat.primitives.asymmetric.utils import decode_dss_signature

MAGIC = 0xFF544347
QUOTE, CERTIFY = 0x8018, 0x8017
AES_128_CFB, NULL, SHA256 = (0x0006, 128, 0x0043), 0x0010, 0x000B
RSASSA, ECDSA = (0x0014, SHA256), (0x0018, SHA256)
EK_POLICY = bytes.fromhex("837197674484b3f81a90cc8d46a5d724fd52d76e06520b64f2a1da1b331469aa")
EK_ATTRIBUTES = 0x000300B2
DEVICE_ATTRIBUTES = 1 << 1 | 1 << 4 | 1 << 5 | 1 << 6 | 1 << 18
AK_ATTRIBUTES = DEVICE_ATTRIBUTES | 1 << 16
RSA_KEY = rsa.generate_private_key(65537, 2048)
EC_KEY = ec.generate_private_key(ec.SECP256R1())


def numbers(*values):
    return struct.pack(f">{len(values)}H", *values)


def sized(data):
    return numbers(len(data)) + data


def unique(key):
    """The kind of a key, private or public, and the end of its public area."""
    key = key.public_key() if hasattr(key, "public_key") else key
    if isinstance(key, rsa.RSAPublicKey):
        modulus = key.public_numbers().n.to_bytes(key.key_size // 8)
        return 0x0001, numbers(key.key_size) + bytes(4) + sized(modulus)
    point, size = key.public_numbers(), (key.key_size + 7) // 8
    return 0x0023, numbers(3, NULL) + sized(point.x.to_bytes(size)) + sized(point.y.to_bytes(size))


def endorsement(key, *, attributes=EK_ATTRIBUTES, policy=EK_POLICY, symmetric=AES_128_CFB):
    kind, end = unique(key)
    front = numbers(kind, SHA256) + attributes.to_bytes(4) + sized(policy)
    return front + numbers(*symmetric, NULL) + end


def signing(key, *, attributes=AK_ATTRIBUTES, scheme=None, policy=b"", name_hash=SHA256):
    kind, end = unique(key)
    scheme = scheme or (RSASSA if kind == 1 else ECDSA)
    front = numbers(kind, name_hash) + attributes.to_bytes(4) + sized(policy)
    return front + numbers(NULL, *scheme) + end


def attested(kind, body, *, nonce=b"", magic=MAGIC):
    front = magic.to_bytes(4) + numbers(kind) + sized(b"signer") + sized(nonce)
    return front + bytes(17 + 8) + body


def quote(*, nonce=b"n" * 32, bank=SHA256, selected=b"\x81\0\0", digest=b"d" * 32, banks=1):
    body = banks.to_bytes(4) + numbers(bank) + bytes([len(selected)]) + selected + sized(digest)
    return attested(QUOTE, body, nonce=nonce)


def certification(name, **changes):
    return attested(CERTIFY, sized(name) + sized(b"qualified"), **changes)


def signature(key, data):
    if isinstance(key, rsa.RSAPrivateKey):
        return numbers(*RSASSA) + sized(key.sign(data, padding.PKCS1v15(), hashes.SHA256()))
    r, s = decode_dss_signature(key.sign(data, ec.ECDSA(hashes.SHA256())))
    return numbers(*ECDSA) + sized(r.to_bytes(32)) + sized(s.to_bytes(32))

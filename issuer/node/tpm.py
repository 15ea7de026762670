# SPDX-License-Identifier: Apache-2.0
"""Structures of a TPM 2.0 as a node sends them, read strictly: keys, what a TPM attests, and signatures.

TPM 2.0 Library, Part 2 has their forms. What a node of ours does not make is refused.
"""

import hashlib
from dataclasses import dataclass
from typing import Final

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, padding, rsa
from cryptography.hazmat.primitives.asymmetric.utils import encode_dss_signature

from issuer.errors import NodeRejectedError

MAX_STRUCTURE: Final = 2048  # bytes of one structure, as large as a TPM's own buffers
PCRS: Final = 24  # of a PC
EXPONENT: Final = 65537  # what a TPM writes as 0
RSA: Final = 0x0001
_AES, _CFB, _NULL, _SHA256, _P256 = 0x0006, 0x0043, 0x0010, 0x000B, 0x0003
_RSASSA, _ECDSA = 0x0014, 0x0018
_MAGIC, _CERTIFY, _QUOTE = 0xFF544347, 0x8017, 0x8018
_FIXED_TPM, _FIXED_PARENT, _ORIGIN = 1 << 1, 1 << 4, 1 << 5
_RESTRICTED, _DECRYPT, _SIGN = 1 << 16, 1 << 17, 1 << 18
_RESIDENT: Final = {
    "fixedTPM": _FIXED_TPM,
    "fixedParent": _FIXED_PARENT,
    "sensitiveDataOrigin": _ORIGIN,
    "sign": _SIGN,
}
_BANKS: Final = {0x0004: "sha1", 0x000B: "sha256", 0x000C: "sha384", 0x000D: "sha512"}
# Of the templates L-1 and L-2 of the TCG's EK Credential Profile: what an endorsement key is and is not, and
# that whoever may use the endorsement hierarchy may use it.
_EK_ATTRIBUTES: Final = 0x000300B2
_EK_POLICY: Final = bytes.fromhex("837197674484b3f81a90cc8d46a5d724fd52d76e06520b64f2a1da1b331469aa")

PublicKey = rsa.RSAPublicKey | ec.EllipticCurvePublicKey


class Reader:
    """Takes values off the front of a structure; each mistake is a `NodeRejectedError` that names it."""

    def __init__(self, data: bytes, name: str) -> None:
        if len(data) > MAX_STRUCTURE:
            raise NodeRejectedError(f"{name} is too large")
        self._data, self._name = data, name

    def take(self, size: int) -> bytes:
        """Return the next bytes."""
        if size > len(self._data):
            raise NodeRejectedError(f"{self._name} is cut short")
        taken, self._data = self._data[:size], self._data[size:]
        return taken

    def number(self, size: int = 2) -> int:
        """Return the next number, of `size` bytes."""
        return int.from_bytes(self.take(size))

    def sized(self) -> bytes:
        """Return the next bytes, which their size precedes."""
        return self.take(self.number())

    def expect(self, what: str, *numbers: int) -> None:
        """Take numbers of two bytes that have to be these."""
        for number in numbers:
            if self.number() != number:
                raise NodeRejectedError(f"{self._name} has another {what} than is supported")

    def end(self) -> None:
        """Refuse what is left."""
        if self._data:
            raise NodeRejectedError(f"{self._name} has bytes after its end")


@dataclass(frozen=True, slots=True)
class Public:
    """The public area of a key."""

    area: bytes
    key: PublicKey

    @property
    def name(self) -> bytes:
        """What a TPM knows the key by: it depends on all that the area says."""
        return _SHA256.to_bytes(2) + hashlib.sha256(self.area).digest()


def unsized(data: bytes, name: str) -> bytes:
    """Return the public area that a TPM2B_PUBLIC has.

    Raises:
        NodeRejectedError: It is anything else.
    """
    reader = Reader(data, name)
    area = reader.sized()
    reader.end()
    return area


def endorsement_key(area: bytes) -> Public:
    """Read the TPMT_PUBLIC of an endorsement key.

    It has to follow the default template to the bit, RSA 2048 or P-256: then its hash depends on the key
    alone, and one TPM cannot be several nodes.

    Raises:
        NodeRejectedError: It is anything else.
    """
    reader = Reader(area, "endorsement key")
    kind = reader.number()
    reader.expect("name algorithm", _SHA256)
    if reader.number(4) != _EK_ATTRIBUTES or reader.sized() != _EK_POLICY:
        raise NodeRejectedError("endorsement key does not follow the default template")
    reader.expect("symmetric algorithm", _AES, 128, _CFB)
    reader.expect("scheme", _NULL)
    return Public(area, _key(reader, kind, "endorsement key", (2048,)))


def attestation_key(area: bytes) -> Public:
    """Read the TPMT_PUBLIC of a key that cannot leave its TPM and signs only what that made.

    Raises:
        NodeRejectedError: It is anything else.
    """
    return _signing_key(area, "attestation key", _RESIDENT | {"restricted": _RESTRICTED})


def device_key(area: bytes) -> Public:
    """Read the TPMT_PUBLIC of a key that was made in its TPM, cannot leave it, and signs.

    Raises:
        NodeRejectedError: It is anything else.
    """
    return _signing_key(area, "DevID key", _RESIDENT)


def _signing_key(area: bytes, name: str, wanted: dict[str, int]) -> Public:
    reader = Reader(area, name)
    kind = reader.number()
    reader.expect("name algorithm", _SHA256)
    attributes = reader.number(4)
    for attribute, bit in wanted.items():
        if not attributes & bit:
            raise NodeRejectedError(f"{name} lacks the attribute {attribute}")
    if attributes & _DECRYPT:
        raise NodeRejectedError(f"{name} has the attribute decrypt")
    reader.sized()  # its policy says who may use it, which is the node's own business
    reader.expect("symmetric algorithm", _NULL)
    reader.expect("scheme", _RSASSA if kind == RSA else _ECDSA, _SHA256)
    return Public(area, _key(reader, kind, name, (2048, 3072)))


def _key(reader: Reader, kind: int, name: str, sizes: tuple[int, ...]) -> PublicKey:
    """Read a key to the end of its area."""
    match kind:
        case 0x0001:  # RSA
            size, exponent, modulus = reader.number(), reader.number(4), reader.sized()
            if size not in sizes or exponent != 0 or len(modulus) * 8 != size:
                raise NodeRejectedError(f"{name} has another size or exponent than is supported")
            numbers: rsa.RSAPublicNumbers | ec.EllipticCurvePublicNumbers = rsa.RSAPublicNumbers(
                EXPONENT, int.from_bytes(modulus)
            )
        case 0x0023:  # of an elliptic curve
            reader.expect("curve", _P256, _NULL)
            x, y = reader.sized(), reader.sized()
            if not len(x) == len(y) == 32:
                raise NodeRejectedError(f"{name} has coordinates of another size")
            numbers = ec.EllipticCurvePublicNumbers(int.from_bytes(x), int.from_bytes(y), ec.SECP256R1())
        case _:
            raise NodeRejectedError(f"{name} is neither RSA nor of an elliptic curve")
    reader.end()
    try:
        return numbers.public_key()
    except ValueError as error:
        raise NodeRejectedError(f"{name} is no key") from error


@dataclass(frozen=True, slots=True)
class Quote:
    """What a TPM says of its platform configuration registers, in answer to a nonce."""

    nonce: bytes
    bank: str
    pcrs: tuple[int, ...]
    digest: bytes  # of the registers' contents in their order


def quote(data: bytes) -> Quote:
    """Read a TPMS_ATTEST of a quote. This does not verify who signed it.

    Raises:
        NodeRejectedError: It is anything else.
    """
    reader = Reader(data, "quote")
    nonce = _attested(reader, _QUOTE)
    if reader.number(4) != 1:
        raise NodeRejectedError("quote is not of one bank")
    bank = _BANKS.get(reader.number())
    size = reader.number(1)
    if bank is None or size > PCRS // 8:
        raise NodeRejectedError("quote is of another bank than is supported")
    selected = int.from_bytes(reader.take(size), "little")
    digest = reader.sized()
    reader.end()
    return Quote(nonce, bank, tuple(i for i in range(PCRS) if selected >> i & 1), digest)


def certified_name(data: bytes) -> bytes:
    """Read a TPMS_ATTEST of a certification, and return the name of the key that is certified to be there.

    This does not verify who signed it.

    Raises:
        NodeRejectedError: It is anything else.
    """
    reader = Reader(data, "certification")
    _attested(reader, _CERTIFY)
    name = reader.sized()
    reader.sized()  # its qualified name, which says below which keys it is
    reader.end()
    return name


def _attested(reader: Reader, kind: int) -> bytes:
    """Read what precedes that which is attested, and return the nonce."""
    reader.expect("magic number", *divmod(_MAGIC, 1 << 16))  # which nothing has that a TPM did not make
    reader.expect("type", kind)
    reader.sized()  # the signer, which its signature shows
    nonce = reader.sized()
    reader.take(17 + 8)  # clock and firmware
    return nonce


def verify_signature(key: PublicKey, data: bytes, signed: bytes) -> None:
    """Verify a TPMT_SIGNATURE of an attestation key over `signed`.

    Raises:
        NodeRejectedError: It is malformed, or not one by `key`.
    """
    reader = Reader(data, "signature")
    if isinstance(key, rsa.RSAPublicKey):
        reader.expect("algorithm", _RSASSA, _SHA256)
        signature = reader.sized()
    else:
        reader.expect("algorithm", _ECDSA, _SHA256)
        r, s = (int.from_bytes(reader.sized()) for _ in range(2))
        signature = encode_dss_signature(r, s)
    reader.end()
    verify(key, signature, signed, "attestation key")


def verify(key: PublicKey, signature: bytes, signed: bytes, name: str) -> None:
    """Verify a signature: PKCS #1 v1.5, or DER if the key is of an elliptic curve; both over a SHA-256.

    Raises:
        NodeRejectedError: It is not one by `key`, which the message calls by `name`.
    """
    try:
        if isinstance(key, rsa.RSAPublicKey):
            key.verify(signature, signed, padding.PKCS1v15(), hashes.SHA256())
        else:
            key.verify(signature, signed, ec.ECDSA(hashes.SHA256()))
    except InvalidSignature as error:
        raise NodeRejectedError(f"signature is not by the {name}") from error

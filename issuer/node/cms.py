# SPDX-License-Identifier: Apache-2.0
"""SignedData of CMS (RFC 5652), PKCS #7 in its time, as clouds sign documents about machines with it.

One signer, RSA and SHA-256, the document inside. Whatever else the standard knows is refused: that a
library would find some way to make sense of a message is how forgeries pass.
"""

import base64
import hashlib
import hmac
from typing import Final

from cryptography import x509
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import padding, rsa

from issuer.errors import NodeRejectedError
from issuer.node.asn1 import INTEGER, NULL, OCTETS, OID, SEQUENCE, SET, Reader, octets
from spiffekit.certificates import public_key_of
from spiffekit.errors import SpiffeError

MAX_CERTIFICATES: Final = 8
MAX_ATTRIBUTES: Final = 16
_CONTEXT_0: Final = 0xA0
_SEGMENTED: Final = 0x24  # an OCTET STRING in segments
_SIGNED_DATA: Final = bytes.fromhex("2a864886f70d010702")  # 1.2.840.113549.1.7.2
_DATA: Final = bytes.fromhex("2a864886f70d010701")  # 1.2.840.113549.1.7.1
_CONTENT_TYPE: Final = bytes.fromhex("2a864886f70d010903")  # 1.2.840.113549.1.9.3
_MESSAGE_DIGEST: Final = bytes.fromhex("2a864886f70d010904")  # 1.2.840.113549.1.9.4
_SHA256: Final = bytes.fromhex("608648016503040201")  # 2.16.840.1.101.3.4.2.1
_RSA: Final = bytes.fromhex("2a864886f70d010101")  # 1.2.840.113549.1.1.1
_SHA256_RSA: Final = bytes.fromhex("2a864886f70d01010b")  # 1.2.840.113549.1.1.11
_DIGESTS: Final = (_SHA256, _SHA256_RSA)  # Azure names the algorithm of the signature here
_SIGNATURES: Final = (_RSA, _SHA256_RSA)


class SignedData:
    """A signed message taken apart. You get one by `parse_unverified`, and its document by `verify`."""

    def __init__(self, content: bytes, certificates: tuple[bytes, ...], signer: "_Signer") -> None:
        self.certificates = certificates
        self._content = content
        self._signer = signer

    @classmethod
    def from_base64_unverified(cls, text: str) -> "SignedData":
        """Take a message apart that is written in base64, lines or not; see `parse_unverified`."""
        try:
            return cls.parse_unverified(base64.b64decode("".join(text.split()), validate=True))
        except ValueError as error:
            raise NodeRejectedError("signed data is not base64") from error

    @classmethod
    def parse_unverified(cls, data: bytes) -> "SignedData":
        """Take a message apart: BER, a ContentInfo with SignedData and nothing after it (RFC 5652 §5.1).

        **This verifies nothing**; `certificates`, DER, are whatever came along.

        Raises:
            NodeRejectedError: It is malformed, or something that no cloud sends.
        """
        outside = Reader(data)
        info = outside.inside(SEQUENCE)
        outside.end()
        if info.take(OID).content != _SIGNED_DATA:
            raise NodeRejectedError("message is no signed data")
        wrapped = info.inside(_CONTEXT_0)
        info.end()
        signed = wrapped.inside(SEQUENCE)
        wrapped.end()
        signed.number(1)
        _one_algorithm(signed.inside(SET))
        content = _content(signed.inside(SEQUENCE))
        bag = signed.optional(_CONTEXT_0)
        found = Reader(bag.content).all(SEQUENCE, MAX_CERTIFICATES) if bag else []
        signers = signed.inside(SET)
        signed.end()
        signer = _Signer(signers.inside(SEQUENCE))
        signers.end()  # one alone
        return cls(content, tuple(certificate.encoded for certificate in found), signer)

    def names(self, certificate: x509.Certificate) -> bool:
        """Tell whether the signer says that it has this certificate."""
        signer = self._signer
        return (certificate.issuer.public_bytes(), certificate.serial_number) == (
            signer.issuer,
            signer.serial,
        )

    def verify(self, certificate: x509.Certificate) -> bytes:
        """Return the document, once the key of `certificate` is seen to have signed it (RFC 5652 §5.6).

        1. The signer names the certificate, whose key is RSA and not weak.
        2. Signed attributes have the type of the content and the SHA-256 of the document.
        3. The key has signed the attributes, or the document if there are none.

        Who vouches for the certificate is for the caller to know.

        Raises:
            NodeRejectedError: It has not.
        """
        if not self.names(certificate):  # (1)
            raise NodeRejectedError("document is signed by another certificate")
        try:
            key = public_key_of(certificate)
        except SpiffeError as error:
            raise NodeRejectedError(f"document is signed with a weak key: {error}") from error
        if not isinstance(key, rsa.RSAPublicKey):
            raise NodeRejectedError("document is signed with a key that is not RSA")
        signed = self._signer.attributes
        if signed is None:
            # A signature over attributes must not pass for one over a document that looks like them.
            if self._content[:1] == bytes((SET,)):
                raise NodeRejectedError("document could be signed attributes")
            signed = self._content
        else:
            self._check_attributes(signed)  # (2)
        try:
            key.verify(self._signer.signature, signed, padding.PKCS1v15(), hashes.SHA256())  # (3)
        except InvalidSignature as error:
            raise NodeRejectedError("signature of the document is not good") from error
        return self._content

    def _check_attributes(self, encoded: bytes) -> None:
        found: dict[bytes, bytes] = {}
        for attribute in Reader(encoded).inside(SET).all(SEQUENCE, MAX_ATTRIBUTES):
            parts = Reader(attribute.content)
            kind, values = parts.take(OID).content, parts.take(SET).content
            parts.end()
            if kind in found:
                raise NodeRejectedError("signed data has an attribute twice")
            found[kind] = values
        if _value(found, _CONTENT_TYPE, OID) != _DATA:
            raise NodeRejectedError("signed attributes are of another type of content")
        digest = hashlib.sha256(self._content).digest()
        if not hmac.compare_digest(_value(found, _MESSAGE_DIGEST, OCTETS), digest):
            raise NodeRejectedError("signed attributes are of another document")


class _Signer:
    """A SignerInfo (RFC 5652 §5.3), which names its certificate by issuer and serial number."""

    def __init__(self, info: Reader) -> None:
        info.number(1)
        name = info.inside(SEQUENCE)
        self.issuer = name.take(SEQUENCE).encoded
        self.serial = int.from_bytes(name.take(INTEGER).content, signed=True)
        name.end()
        _algorithm(info, _DIGESTS)
        attributes = info.optional(_CONTEXT_0)
        # They are signed as the SET that they are, in DER: exactly as sent, but for the tag (RFC 5652 §5.4).
        self.attributes = None if attributes is None else bytes((SET,)) + attributes.encoded[1:]
        _algorithm(info, _SIGNATURES)
        self.signature = info.take(OCTETS).content
        info.end()  # unsigned attributes say nothing that could be believed


def _content(info: Reader) -> bytes:
    """Return the document of an EncapsulatedContentInfo (RFC 5652 §5.2)."""
    if info.take(OID).content != _DATA:
        raise NodeRejectedError("signed data is not about plain data")
    wrapped = info.optional(_CONTEXT_0)
    info.end()
    if wrapped is None:
        raise NodeRejectedError("signed data has no document inside")
    inside = Reader(wrapped.content)
    content = octets(inside.optional(_SEGMENTED) or inside.take(OCTETS))
    inside.end()
    return content


def _one_algorithm(algorithms: Reader) -> None:
    _algorithm(algorithms, _DIGESTS)
    algorithms.end()


def _algorithm(reader: Reader, allowed: tuple[bytes, ...]) -> None:
    """Take an AlgorithmIdentifier that has to be one of these, without parameters."""
    identifier = reader.inside(SEQUENCE)
    if identifier.take(OID).content not in allowed:
        raise NodeRejectedError("signed data uses another algorithm than RSA with SHA-256")
    parameters = identifier.optional(NULL)
    if parameters and parameters.content:
        raise NodeRejectedError("signed data has an algorithm with parameters")
    identifier.end()


def _value(attributes: dict[bytes, bytes], kind: bytes, tag: int) -> bytes:
    """Return the one value of an attribute."""
    if kind not in attributes:
        raise NodeRejectedError("signed attributes lack the type or the digest of the content")
    values = Reader(attributes[kind])
    value = values.take(tag).content
    values.end()
    return value

# SPDX-License-Identifier: Apache-2.0
"""Signed messages in the forms of clouds, in which everything can be made wrong."""

import hashlib

from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import padding
from cryptography.hazmat.primitives.serialization import Encoding

from issuer.ca.der import integer, octet_string, oid, sequence, tlv

DATA, SIGNED_DATA = oid("1.2.840.113549.1.7.1"), oid("1.2.840.113549.1.7.2")
CONTENT_TYPE, MESSAGE_DIGEST = oid("1.2.840.113549.1.9.3"), oid("1.2.840.113549.1.9.4")
NULL = b"\x05\x00"
SHA256 = sequence(oid("2.16.840.1.101.3.4.2.1"))
SHA1 = sequence(oid("1.3.14.3.2.26"), NULL)
MD5 = sequence(oid("1.2.840.113549.2.5"), NULL)
SHA256_RSA = sequence(oid("1.2.840.113549.1.1.11"), NULL)
RSA = sequence(oid("1.2.840.113549.1.1.1"), NULL)
SHA1_RSA = sequence(oid("1.2.840.113549.1.1.5"), NULL)
PSS = sequence(oid("1.2.840.113549.1.1.10"), sequence())


def indefinite(tag, *parts):
    """An element whose length is not said."""
    return bytes((tag, 0x80)) + b"".join(parts) + b"\0\0"


def attribute(kind, *values):
    return sequence(kind, tlv(0x31, *values))


def attributes_of(content, content_type=DATA, digest=None):
    return (
        attribute(CONTENT_TYPE, content_type),
        attribute(MESSAGE_DIGEST, octet_string(digest or hashlib.sha256(content).digest())),
    )


class Message:
    """A message that `key` signs for `certificate`; each part can be set to another before it is built.

    `attributes` None: the document itself is signed, as Azure does.
    """

    def __init__(self, content, certificate, key, *, attributes=()):
        self.key, self.content, self.certificate = key, content, certificate
        self.attributes = attributes_of(content) if attributes == () else attributes
        self.outer_type, self.inner_type = SIGNED_DATA, DATA
        self.version = self.signer_version = integer(1)
        self.digests, self.digest, self.algorithm = SHA256, SHA256, SHA256_RSA
        self.hash = hashes.SHA256()
        self.inside = None  # instead of the document, what stands where it stands
        self.certificates = self.crls = b""
        self.issuer, self.serial = certificate.issuer.public_bytes(), integer(certificate.serial_number)
        self.signed = None  # instead of what should be signed
        self.unsigned = b""
        self.signers = None
        self.after = b""
        self.wrap = tlv  # or `indefinite`, as AWS does

    def with_certificates(self, *certificates):
        self.certificates = tlv(0xA0, *(c.public_bytes(Encoding.DER) for c in certificates))
        return self

    def signer(self):
        attributes, signed = b"", self.content
        if self.attributes is not None:
            attributes = tlv(0xA0, *self.attributes)
            signed = b"\x31" + attributes[1:]
        signature = self.key.sign(self.signed or signed, padding.PKCS1v15(), self.hash)
        return sequence(
            self.signer_version,
            sequence(self.issuer, self.serial),
            self.digest,
            attributes,
            self.algorithm,
            octet_string(signature),
            self.unsigned,
        )

    def build(self):
        inside = self.inside
        if inside is None:
            inside = self.wrap(0xA0, octet_string(self.content))
        signers = self.signers or (self.signer(),)
        signed = self.wrap(
            0x30,
            self.version,
            tlv(0x31, self.digests),
            self.wrap(0x30, self.inner_type, inside),
            self.certificates,
            self.crls,
            tlv(0x31, *signers),
        )
        return self.wrap(0x30, self.outer_type, self.wrap(0xA0, signed)) + self.after

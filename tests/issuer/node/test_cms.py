# SPDX-License-Identifier: Apache-2.0
"""A signed document is what its one signer signed, and nothing that could be taken for it."""

import base64
import hashlib

import pytest
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.serialization import Encoding, pkcs7

from issuer.ca.der import integer, octet_string, oid, sequence, tlv
from issuer.errors import NodeRejectedError
from issuer.node.asn1 import MAX_SEGMENTS, MAX_SIZE
from issuer.node.cms import MAX_ATTRIBUTES, MAX_CERTIFICATES, SignedData
from spiffekit.testing import TestCA
from tests.issuer.node import cms
from tests.issuer.node.cms import Message, attribute, attributes_of, indefinite

KEY = rsa.generate_private_key(public_exponent=65537, key_size=2048)
OTHER = rsa.generate_private_key(public_exponent=65537, key_size=2048)
CERTIFICATE = TestCA().certify(KEY.public_key(), uris=[])
SAME_NAME = TestCA().certify(OTHER.public_key(), uris=[])
DOCUMENT = b'{"a": 1}'


def message(content=DOCUMENT, certificate=CERTIFICATE, key=KEY, **changes):
    made = Message(content, certificate, key, attributes=changes.pop("attributes", ()))
    for name, value in changes.items():
        assert hasattr(made, name)
        setattr(made, name, value)
    return made


def verified(data, certificate=CERTIFICATE):
    return SignedData.parse_unverified(data).verify(certificate)


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"wrap": indefinite},
        {"inside": tlv(0xA0, indefinite(0x24, octet_string(DOCUMENT[:3]), octet_string(DOCUMENT[3:])))},
        {"attributes": None},
        {"attributes": None, "digests": cms.SHA256_RSA, "digest": cms.SHA256_RSA, "algorithm": cms.RSA},
        {"digest": sequence(oid("2.16.840.1.101.3.4.2.1"), cms.NULL)},
        {"content": b"", "attributes": attributes_of(b"")},
        {"content": b"x" * 10_000, "attributes": attributes_of(b"x" * 10_000)},
        {"attributes": (*attributes_of(DOCUMENT), attribute(oid("1.2.3"), octet_string(b"x")))},
    ],
    ids=["der", "indefinite", "segments", "bare", "azure", "null", "empty", "long", "another attribute"],
)
def test_a_document_is_what_was_signed(changes):
    made = message(**changes)
    assert verified(made.build()) == made.content


@pytest.mark.parametrize(
    "options", [(), (pkcs7.PKCS7Options.NoCapabilities,), (pkcs7.PKCS7Options.NoAttributes,)]
)
def test_a_message_of_another_library_is_read(options):
    builder = pkcs7.PKCS7SignatureBuilder().set_data(DOCUMENT).add_signer(CERTIFICATE, KEY, hashes.SHA256())
    data = builder.sign(Encoding.DER, [pkcs7.PKCS7Options.Binary, *options])
    assert verified(data) == DOCUMENT
    assert SignedData.parse_unverified(data).certificates == (CERTIFICATE.public_bytes(Encoding.DER),)


def test_lines_of_base64_are_read():
    text = base64.encodebytes(message().build()).decode()
    assert SignedData.from_base64_unverified(text).verify(CERTIFICATE) == DOCUMENT
    for other in ("MII%", "ä", text.replace("A", "-")):
        with pytest.raises(NodeRejectedError, match="base64"):
            SignedData.from_base64_unverified(other)


EVIL = b'{"a": 2}'
TWO_DIGESTS = attribute(
    cms.MESSAGE_DIGEST, *(octet_string(hashlib.sha256(text).digest()) for text in (DOCUMENT, EVIL))
)
EC_KEY = ec.generate_private_key(ec.SECP256R1()).public_key()
SMALL_KEY = rsa.generate_private_key(public_exponent=65537, key_size=1024).public_key()


@pytest.mark.parametrize(
    ("changes", "why"),
    [
        ({"key": OTHER}, "not good"),
        ({"signed": b"another"}, "not good"),
        ({"inside": tlv(0xA0, octet_string(EVIL))}, "of another document"),
        ({"attributes": None, "inside": tlv(0xA0, octet_string(EVIL))}, "not good"),
        ({"hash": hashes.SHA512()}, "not good"),
        ({"attributes": attributes_of(EVIL)}, "of another document"),
        ({"attributes": attributes_of(DOCUMENT, content_type=cms.SIGNED_DATA)}, "another type"),
        ({"attributes": attributes_of(DOCUMENT)[:1]}, "lack"),
        ({"attributes": attributes_of(DOCUMENT)[1:]}, "lack"),
        ({"attributes": attributes_of(EVIL) + attributes_of(DOCUMENT)[1:]}, "twice"),
        ({"attributes": attributes_of(DOCUMENT) * 9}, "more than"),
        ({"attributes": (attributes_of(DOCUMENT)[0], TWO_DIGESTS)}, "more than belongs"),
        ({"attributes": (sequence(cms.CONTENT_TYPE, tlv(0x31, cms.DATA), cms.NULL),)}, "more than belongs"),
    ],
)
def test_what_was_not_signed_is_no_document(changes, why):
    with pytest.raises(NodeRejectedError, match=why):
        verified(message(**changes).build())


def test_signed_attributes_do_not_pass_for_a_document():
    """A signature over attributes is one over bytes: put where the document stands, they seem signed."""
    attributes = tlv(0x31, *attributes_of(DOCUMENT))
    with pytest.raises(NodeRejectedError, match="could be signed attributes"):
        verified(message(content=attributes, attributes=None).build())


def test_only_the_certificate_that_is_named_is_used():
    for certificate in (SAME_NAME, TestCA().certify(KEY.public_key(), uris=[], common_name="x")):
        with pytest.raises(NodeRejectedError, match="another certificate"):
            verified(message().build(), certificate)


@pytest.mark.parametrize(("key", "why"), [(EC_KEY, "not RSA"), (SMALL_KEY, "weak key")], ids=["ec", "small"])
def test_a_weak_key_signs_nothing(key, why):
    certificate = TestCA().certify(key, uris=[])
    with pytest.raises(NodeRejectedError, match=why):
        verified(message(certificate=certificate).build(), certificate)


def test_a_certificate_that_came_along_vouches_for_nothing():
    """The one that is named is a good one; the one in the message has the key that signed."""
    made = message(key=OTHER).with_certificates(SAME_NAME)
    with pytest.raises(NodeRejectedError, match="not good"):
        verified(made.build())


SIGNER = message().signer()


@pytest.mark.parametrize(
    ("changes", "why"),
    [
        ({"signers": (SIGNER, SIGNER)}, "more than belongs"),
        ({"signers": (b"",)}, "another structure"),
        ({"inside": b""}, "no document inside"),
        ({"inside": tlv(0xA0)}, "another structure"),
        ({"inside": tlv(0xA0, octet_string(b"a"), octet_string(b"b"))}, "more than belongs"),
        ({"inside": tlv(0xA0, tlv(0x24, tlv(0x24, octet_string(b"a"))))}, "another structure"),
        ({"inside": tlv(0xA0, tlv(0x24, *[octet_string(b"a")] * (MAX_SEGMENTS + 1)))}, "more than"),
        ({"unsigned": tlv(0xA1, attribute(oid("1.2.3"), octet_string(EVIL)))}, "more than belongs"),
        ({"crls": tlv(0xA1, sequence())}, "another structure"),
        ({"after": b"\0"}, "more than belongs"),
        ({"after": b"\0\0"}, "more than belongs"),
        ({"outer_type": cms.DATA}, "no signed data"),
        ({"inner_type": cms.SIGNED_DATA}, "plain data"),
        ({"version": integer(3)}, "another version"),
        ({"signer_version": integer(3)}, "another version"),
        ({"digests": cms.SHA1}, "another algorithm"),
        ({"digests": cms.SHA256 + cms.SHA256}, "more than belongs"),
        ({"digests": b""}, "another structure"),
        ({"digest": cms.SHA1}, "another algorithm"),
        ({"digest": cms.MD5}, "another algorithm"),
        ({"algorithm": cms.SHA1_RSA}, "another algorithm"),
        ({"algorithm": cms.PSS}, "another algorithm"),
        ({"algorithm": sequence(oid("1.2.840.113549.1.1.11"), tlv(0x05, b"x"))}, "parameters"),
        ({"algorithm": sequence(oid("1.2.840.113549.1.1.11"), sequence())}, "more than belongs"),
        ({"certificates": tlv(0xA0, *[sequence()] * (MAX_CERTIFICATES + 1))}, "more than"),
        ({"certificates": tlv(0xA0, tlv(0xA2))}, "another structure"),
        ({"attributes": (sequence(),) * (MAX_ATTRIBUTES + 1)}, "more than|structure"),
    ],
)
def test_what_clouds_do_not_send_is_refused(changes, why):
    with pytest.raises(NodeRejectedError, match=why):
        verified(message(**changes).build())


@pytest.mark.parametrize(
    ("data", "why"),
    [
        (b"", "another structure"),
        (b"\x30", "cut short"),
        (b"\x30\x02\x00", "cut short"),
        (b"\x30\x80", "cut short"),
        (b"\x30\x81\x05" + bytes(5), "not the shortest"),
        (b"\x30\x82\x00\x80" + bytes(128), "not the shortest"),
        (b"\x30\x84\x00\x00\x01\x00" + bytes(256), "not the shortest"),
        (b"\x30\xff" + bytes(200), "not the shortest"),
        (b"\x30\x80\x04\x80\x00\x00\x00\x00", "indefinite length where none"),
        (b"\x30\x80" * 20, "indefinite length where none"),
        (b"\x30\x80\x1f\x01\x00\x00\x00", "more than one octet"),
        (bytes(MAX_SIZE + 1), "too large"),
    ],
)
def test_what_is_not_ber_is_refused(data, why):
    with pytest.raises(NodeRejectedError, match=why):
        SignedData.parse_unverified(data)


def test_every_byte_counts():
    """Whatever byte is changed: the document is refused, or the same one."""
    good = message(attributes=attributes_of(DOCUMENT)).build()
    for at in range(len(good)):
        for change in (1, 0x80):
            bad = bytearray(good)
            bad[at] ^= change
            try:
                found = verified(bytes(bad))
            except NodeRejectedError:
                continue
            raise AssertionError(f"byte {at} can be changed: {found}")


def test_every_beginning_is_refused():
    good = message(wrap=indefinite).build()
    for size in range(len(good)):
        with pytest.raises(NodeRejectedError):
            verified(good[:size])

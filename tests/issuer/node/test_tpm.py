# SPDX-License-Identifier: Apache-2.0
"""Structures of a TPM: what is malformed, or of another kind than is asked for, is refused."""

import hashlib

import pytest
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from hypothesis import given, settings
from hypothesis import strategies as st

from issuer.errors import NodeRejectedError
from issuer.node import tpm
from tests.issuer.node import tpm_structures as made

KEYS = pytest.mark.parametrize("key", [made.RSA_KEY, made.EC_KEY], ids=["RSA", "EC"])
NAME = b"\0\x0b" + b"n" * 32
GOOD = {
    "endorsement key": (tpm.endorsement_key, made.endorsement(made.RSA_KEY)),
    "endorsement key of a curve": (tpm.endorsement_key, made.endorsement(made.EC_KEY)),
    "attestation key": (tpm.attestation_key, made.signing(made.RSA_KEY, policy=b"p" * 32)),
    "attestation key of a curve": (tpm.attestation_key, made.signing(made.EC_KEY)),
    "DevID key": (tpm.device_key, made.signing(made.EC_KEY, attributes=made.DEVICE_ATTRIBUTES)),
    "quote": (tpm.quote, made.quote()),
    "certification": (tpm.certified_name, made.certification(NAME)),
}
ALL = pytest.mark.parametrize(("read", "data"), GOOD.values(), ids=GOOD)


@KEYS
def test_keys_are_what_their_areas_say(key):
    for read, area in (
        (tpm.endorsement_key, made.endorsement(key)),
        (tpm.attestation_key, made.signing(key)),
        (tpm.device_key, made.signing(key)),
    ):
        found = read(area)
        assert found.key == key.public_key()
        assert found.name == b"\0\x0b" + hashlib.sha256(area).digest()


def test_a_quote_is_what_it_says():
    found = tpm.quote(made.quote(nonce=b"once", selected=b"\x81\0\x80", digest=b"of"))
    assert found == tpm.Quote(b"once", "sha256", (0, 7, 23), b"of")


def test_a_certification_is_of_the_name_that_it_has():
    assert tpm.certified_name(made.certification(NAME)) == NAME


@ALL
def test_a_structure_that_is_cut_anywhere_is_refused(read, data):
    assert read(data)
    for end in range(len(data)):
        with pytest.raises(NodeRejectedError):
            read(data[:end])


@ALL
def test_a_structure_ends_where_it_ends(read, data):
    with pytest.raises(NodeRejectedError, match="bytes after its end"):
        read(data + b"\0")
    with pytest.raises(NodeRejectedError, match="too large"):
        read(data + bytes(tpm.MAX_STRUCTURE))


def test_no_bit_of_a_quote_is_ignored_but_of_its_signer_clock_and_firmware():
    good = made.quote()
    for at in (*range(6), *range(14, 48), *range(73, len(good))):
        for bit in range(8):
            damaged = bytearray(good)
            damaged[at] ^= 1 << bit
            try:
                assert tpm.quote(bytes(damaged)) != tpm.quote(good)
            except NodeRejectedError:
                continue


@given(st.integers(0, 2**32 - 1))
@settings(max_examples=300, deadline=None)
def test_a_key_attests_only_with_every_attribute_that_binds_it(attributes):
    bound = attributes & made.DEVICE_ATTRIBUTES | 1 << 6 == made.DEVICE_ATTRIBUTES
    signs = bound and not attributes & 1 << 17
    for read, good in (
        (tpm.device_key, signs),
        (tpm.attestation_key, signs and bool(attributes & 1 << 16)),
    ):
        area = made.signing(made.EC_KEY, attributes=attributes)
        if good:
            assert read(area).area == area
        else:
            with pytest.raises(NodeRejectedError, match="attribute"):
                read(area)


@given(st.integers(0, 31))
@settings(max_examples=32, deadline=None)
def test_an_endorsement_key_has_the_attributes_of_the_template_alone(bit):
    with pytest.raises(NodeRejectedError, match="default template"):
        tpm.endorsement_key(made.endorsement(made.EC_KEY, attributes=made.EK_ATTRIBUTES ^ 1 << bit))


P384 = ec.generate_private_key(ec.SECP384R1())
BIG = made.signing(made.EC_KEY)
REFUSED = {
    "policy": (tpm.endorsement_key, made.endorsement(made.EC_KEY, policy=b"p" * 32), "default template"),
    "cipher": (
        tpm.endorsement_key,
        made.endorsement(made.EC_KEY, symmetric=(6, 256, 0x43)),
        "another symmetric algorithm",
    ),
    "name algorithm": (
        tpm.attestation_key,
        made.signing(made.EC_KEY, name_hash=0x0C),
        "another name algorithm",
    ),
    "scheme": (tpm.attestation_key, made.signing(made.EC_KEY, scheme=made.RSASSA), "another scheme"),
    "scheme's hash": (tpm.device_key, made.signing(made.RSA_KEY, scheme=(0x14, 4)), "another scheme"),
    "coordinates": (tpm.attestation_key, made.signing(P384), "coordinates of another size"),
    "kind": (
        tpm.attestation_key,
        b"\0\x08" + made.signing(made.EC_KEY, scheme=made.ECDSA)[2:],
        "neither RSA",
    ),
    "point": (tpm.attestation_key, BIG[:-1] + bytes([BIG[-1] ^ 1]), "is no key"),
    "size": (
        tpm.endorsement_key,
        made.endorsement(rsa.generate_private_key(65537, 3072)),
        "another size or exponent",
    ),
    "magic": (tpm.quote, made.attested(made.QUOTE, b"", magic=0xFF544348), "another magic number"),
    "certification": (tpm.quote, made.certification(NAME), "another type"),
    "quote": (tpm.certified_name, made.quote(), "another type"),
    "banks": (tpm.quote, made.quote(banks=2), "not of one bank"),
    "no bank": (tpm.quote, made.quote(banks=0), "not of one bank"),
    "bank": (tpm.quote, made.quote(bank=0x12), "another bank"),
    "registers": (tpm.quote, made.quote(selected=b"\1\0\0\1"), "another bank"),
}


@pytest.mark.parametrize(("read", "data", "why"), REFUSED.values(), ids=REFUSED)
def test_what_is_not_supported_is_refused(read, data, why):
    with pytest.raises(NodeRejectedError, match=why):
        read(data)


def test_a_sized_structure_has_its_size():
    assert tpm.unsized(b"\0\3abc", "key") == b"abc"
    for data in (b"", b"\0", b"\0\4abc", b"\0\2abc"):
        with pytest.raises(NodeRejectedError, match=r"^key "):
            tpm.unsized(data, "key")


@KEYS
def test_a_signature_is_of_its_key_over_its_bytes(key):
    good = made.signature(key, b"signed")
    tpm.verify_signature(key.public_key(), good, b"signed")
    other = made.EC_KEY if key is made.RSA_KEY else made.RSA_KEY
    stranger = ec.generate_private_key(ec.SECP256R1()) if key is made.EC_KEY else P384
    for wrong, data, signed in (
        (key, good, b"other"),
        (key, made.signature(other, b"signed"), b"signed"),
        (key, made.signature(stranger, b"signed") if key is made.EC_KEY else good[:-1] + b"\0", b"signed"),
        (key, b"", b"signed"),
        (key, good + b"\0", b"signed"),
        (other, good, b"signed"),
    ):
        with pytest.raises(NodeRejectedError, match="signature"):
            tpm.verify_signature(wrong.public_key(), data, signed)


def test_a_signature_of_zeros_is_none():
    for zeros in (made.sized(b"") * 2, made.sized(bytes(32)) * 2):
        with pytest.raises(NodeRejectedError, match="not by the attestation key"):
            tpm.verify_signature(made.EC_KEY.public_key(), made.numbers(*made.ECDSA) + zeros, b"signed")

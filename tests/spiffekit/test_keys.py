# SPDX-License-Identifier: Apache-2.0
"""Which keys are accepted, and in which forms."""

import hashlib

import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import dsa, ec, ed25519, rsa, x25519

from spiffekit.errors import UnsupportedKeyError
from spiffekit.keys import (
    KeyType,
    check_public_key,
    generate_private_key,
    private_key_from_der,
    private_key_from_pem,
    private_key_to_der,
    public_key_from_der,
    public_key_to_der,
    subject_key_id,
)

DER, PEM = serialization.Encoding.DER, serialization.Encoding.PEM
PLAIN = serialization.NoEncryption()
ACCEPTED = {
    "P-256": lambda: ec.generate_private_key(ec.SECP256R1()),
    "P-384": lambda: ec.generate_private_key(ec.SECP384R1()),
    "P-521": lambda: ec.generate_private_key(ec.SECP521R1()),
    "RSA 2048": lambda: rsa.generate_private_key(65537, 2048),
    "Ed25519": ed25519.Ed25519PrivateKey.generate,
}
REFUSED = {
    "curve secp256k1 is not supported": lambda: ec.generate_private_key(ec.SECP256K1()),
    "curve secp224r1 is not supported": lambda: ec.generate_private_key(ec.SECP224R1()),
    "RSA key of 1024 bits: use 2048 to 8192": lambda: rsa.generate_private_key(65537, 1024),
    "keys of type X25519PublicKey are not supported": x25519.X25519PrivateKey.generate,
    "keys of type DSAPublicKey are not supported": lambda: dsa.generate_private_key(1024),
}


def public_der(key):
    return key.public_key().public_bytes(DER, serialization.PublicFormat.SubjectPublicKeyInfo)


@pytest.mark.parametrize("kind", ACCEPTED)
def test_an_accepted_key_survives_both_forms(kind):
    key = ACCEPTED[kind]()
    assert private_key_from_der(private_key_to_der(key)).public_key() == key.public_key()
    assert public_key_from_der(public_key_to_der(key.public_key())) == key.public_key()
    pem = key.private_bytes(PEM, serialization.PrivateFormat.PKCS8, PLAIN)
    assert private_key_from_pem(pem).public_key() == key.public_key()


@pytest.mark.parametrize("message", REFUSED)
def test_a_weak_or_unknown_key_is_refused_in_every_form(message):
    key = REFUSED[message]()
    forms = [
        lambda: check_public_key(key.public_key()),
        lambda: public_key_from_der(public_der(key)),
        lambda: private_key_from_der(key.private_bytes(DER, serialization.PrivateFormat.PKCS8, PLAIN)),
        lambda: private_key_from_pem(key.private_bytes(PEM, serialization.PrivateFormat.PKCS8, PLAIN)),
    ]
    for form in forms:
        with pytest.raises(UnsupportedKeyError) as refusal:
            form()
        assert str(refusal.value) == message


def test_a_huge_rsa_key_is_refused():
    """The fix of SPIRE 1.13.4: verifying with a huge key costs the verifier seconds."""
    numbers = rsa.RSAPublicNumbers(65537, (1 << 8192) + 1)
    with pytest.raises(UnsupportedKeyError, match="RSA key of 8193 bits"):
        check_public_key(numbers.public_key())


@pytest.mark.requirement("WLAPI-19")
@pytest.mark.parametrize("key", [ACCEPTED["P-256"](), ACCEPTED["RSA 2048"]()], ids=["SEC 1", "PKCS#1"])
def test_a_private_key_of_another_form_than_pkcs8_is_refused(key):
    der = key.private_bytes(DER, serialization.PrivateFormat.TraditionalOpenSSL, PLAIN)
    with pytest.raises(UnsupportedKeyError, match="not a PKCS#8 private key"):
        private_key_from_der(der)


def test_an_encrypted_private_key_is_refused_without_its_password():
    key = ACCEPTED["P-256"]()
    encryption = serialization.BestAvailableEncryption(b"correct")
    der = key.private_bytes(DER, serialization.PrivateFormat.PKCS8, encryption)
    with pytest.raises(UnsupportedKeyError, match="not an unencrypted PKCS#8 private key"):
        private_key_from_der(der)
    pem = key.private_bytes(PEM, serialization.PrivateFormat.PKCS8, encryption)
    assert private_key_from_pem(pem, b"correct").public_key() == key.public_key()
    for password in (None, b"wrong"):
        with pytest.raises(UnsupportedKeyError, match="not a PEM private key, or the password is wrong"):
            private_key_from_pem(pem, password)


@pytest.mark.parametrize("data", [b"", b"\x30", b"\x30\x80", b"rubbish", b"\x30\x03\x02\x01\x00"])
def test_rubbish_is_no_key(data):
    for load in (private_key_from_der, private_key_from_pem, public_key_from_der):
        with pytest.raises(UnsupportedKeyError):
            load(data)


@pytest.mark.parametrize(
    ("key_type", "kind", "bits"),
    [
        (KeyType.EC_P256, ec.EllipticCurvePrivateKey, 256),
        (KeyType.EC_P384, ec.EllipticCurvePrivateKey, 384),
        (KeyType.RSA_2048, rsa.RSAPrivateKey, 2048),
        (KeyType.RSA_4096, rsa.RSAPrivateKey, 4096),
    ],
)
def test_a_generated_key_is_of_the_kind_asked_for(key_type, kind, bits):
    key = generate_private_key(key_type)
    assert isinstance(key, kind)
    assert key.key_size == bits
    assert check_public_key(key.public_key())


def test_the_key_identifier_is_that_of_rfc_5280():
    """RFC 5280 §4.2.1.2 (1): SHA-1 of the subject public key's bits."""
    point = bytes.fromhex(
        "046b17d1f2e12c4247f8bce6e563a440f277037d812deb33a0f4a13945d898c296"
        "4fe342e2fe1a7f9b8ee7eb4a7c0f9e162bce33576b315ececbb6406837bf51f5"
    )  # the generator of P-256
    key = ec.EllipticCurvePublicKey.from_encoded_point(ec.SECP256R1(), point)

    assert subject_key_id(key) == hashlib.sha1(point).digest()

# SPDX-License-Identifier: Apache-2.0
"""JSON and JSON Web Keys, with joserfc for a second opinion."""

import base64
import json

import pytest
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from hypothesis import given
from hypothesis import strategies as st
from joserfc.jwk import ECKey, OKPKey, RSAKey

from spiffekit import jwk
from spiffekit.errors import BundleError
from spiffekit.testing import TestCA
from tests.vectors import keys

KEYS = {
    "P-256": (ECKey, keys.elliptic_key(ec.SECP256R1(), "P-256")),
    "P-384": (ECKey, keys.elliptic_key(ec.SECP384R1(), "P-384")),
    "P-521": (ECKey, keys.elliptic_key(ec.SECP521R1(), "P-521")),
    "RSA": (RSAKey, keys.rsa_key()),
    "Ed25519": (OKPKey, keys.edwards_key("Ed25519")),
}


@given(st.binary(max_size=100))
def test_base64url_survives_both_ways(data):
    assert jwk.encode_base64url(data) == base64.urlsafe_b64encode(data).decode().rstrip("=")
    if data:
        assert jwk.decode_base64url(jwk.encode_base64url(data)) == data


@pytest.mark.parametrize(
    "text",
    ["", "A", "AAAAA", "AA==", "AA=", "AA\n", " AA", "A A", "+/+/", "\u00c4\u00c4", "AA.", None, 1, b"AA"],
)
def test_what_is_not_plain_base64url_is_refused(text):
    with pytest.raises(ValueError, match="not base64url without padding"):
        jwk.decode_base64url(text)


@pytest.mark.parametrize("text", ["AB", "AAB"])
def test_one_value_has_one_spelling(text):
    """Bits that decoding drops would let two tokens with one meaning differ."""
    with pytest.raises(ValueError, match="base64url has stray bits"):
        jwk.decode_base64url(text)


@pytest.mark.requirement("BND-29")
@pytest.mark.parametrize("text", ['{"a":1,"a":2}', '{"a":{"b":1,"b":1}}', '{"a":[{"b":1,"b":2}]}'])
def test_a_name_that_stands_twice_is_refused_at_every_level(text):
    with pytest.raises(ValueError, match="a name stands twice"):
        jwk.parse_json_object(text.encode())


@pytest.mark.parametrize(
    ("document", "message"),
    [
        (b"[]", "not a JSON object"),
        (b'{"a":NaN}', "NaN is not JSON"),
        (b'{"a":Infinity}', "Infinity is not JSON"),
        (b'{"a":' + b"[" * 100_000, "nested too deeply"),
    ],
)
def test_what_is_no_json_object_is_refused(document, message):
    with pytest.raises(ValueError, match=message):
        jwk.parse_json_object(document)


def test_the_size_of_a_document_is_bounded_by_the_caller():
    assert jwk.parse_json_object(b"{" + b" " * 18 + b"}", limit=20) == {}
    with pytest.raises(ValueError, match="larger than 20 bytes"):
        jwk.parse_json_object(b"{" + b" " * 19 + b"}", limit=20)


@pytest.mark.parametrize(
    "document", [b"", b"{", b"{}{}", b"\xff{}", b"\xef\xbb\xbf{}", '{"a":"ä"}'.encode("latin-1")]
)
def test_what_is_no_json_is_refused(document):
    with pytest.raises(ValueError):
        jwk.parse_json_object(document)


@pytest.mark.parametrize("text", [r'{"a":"\ud800"}', r'{"\uDFFF":1}', r'{"a":["\udc00\ud800"]}'])
def test_half_a_character_is_refused(text):
    """It would parse, and then be refused by protobuf as a bug of ours."""
    with pytest.raises(ValueError, match="surrogates not allowed"):
        jwk.parse_json_object(text.encode())


def test_a_character_may_be_written_in_two_halves():
    assert jwk.parse_json_object(rb'{"a":"\ud83d\ude00"}') == {"a": "\U0001f600"}


@pytest.mark.requirement("BND-16", "BND-17", "BND-19", "JWT-22", "JWT-23")
@pytest.mark.parametrize("kind", KEYS)
def test_a_published_key_is_what_others_publish(kind):
    reader, key = KEYS[kind]
    public = key.public_key()
    made = jwk.from_public_key(public, "jwt-svid", "k1")
    pem = public.public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
    assert made == {**reader.import_key(pem).as_dict(), "use": "jwt-svid", "kid": "k1"}
    del made["use"]  # joserfc knows sig and enc only
    assert reader.import_key(made).as_pem(private=False) == pem


@pytest.mark.parametrize("kind", KEYS)
def test_a_key_of_others_is_read(kind):
    reader, key = KEYS[kind]
    pem = key.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
    assert jwk.Element(0, reader.import_key(pem).as_dict()).public_key() == key.public_key()


def test_a_coordinate_keeps_its_leading_zeros():
    """RFC 7518 §6.2.1.2: full width; encoders of plain integers lose a byte in one of 256 keys."""
    key = keys.elliptic_key(ec.SECP256R1(), "P-256 427").public_key()
    made = jwk.from_public_key(key, "jwt-svid", "k1")
    raw = jwk.decode_base64url(made["x"])
    assert (len(raw), raw[0]) == (32, 0)
    assert jwk.Element(0, made).public_key() == key
    for other in (raw[1:], b"\0" + raw):
        with pytest.raises(BundleError, match="coordinates do not have the width of the curve"):
            jwk.Element(0, {**made, "x": jwk.encode_base64url(other)}).public_key()


@pytest.mark.requirement("X509-35", "X509-36", "X509-37", "X509-38", "X509-44", "BND-16")
def test_a_published_authority_has_its_certificate_and_no_key_id():
    ca = TestCA()
    der = ca.certificate.public_bytes(Encoding.DER)
    made = jwk.from_certificate(der, "x509-svid")
    assert set(made) == {"use", "kty", "crv", "x", "y", "x5c"}
    assert made["use"] == "x509-svid"
    assert [base64.b64decode(text, validate=True) for text in made["x5c"]] == [der]
    assert jwk.Element(0, made).public_key() == ca.certificate.public_key()
    assert jwk.Element(0, made).certificate() == der


def test_json_is_compact_ascii():
    assert jwk.to_json({"b": ["ä"], "a": 1}) == b'{"b":["\\u00e4"],"a":1}'


def test_a_set_of_too_many_keys_is_refused():
    document = json.dumps({"keys": [{}] * (jwk.MAX_KEYS + 1)}).encode()
    with pytest.raises(BundleError, match="bundle has more than 1000 keys"):
        jwk.key_set(document)


def test_a_document_that_is_too_large_is_not_even_parsed():
    with pytest.raises(BundleError, match="bundle is not a JSON object: larger than 1048576 bytes"):
        jwk.key_set(b'{"keys":[]}' + b" " * jwk.MAX_DOCUMENT_BYTES)


@pytest.mark.parametrize("name", ["P-256", "P-384", "P-521"])
def test_a_private_key_survives_both_ways_and_another_library_reads_it(name):
    reader, key = KEYS[name]
    fields = jwk.from_private_key(key)
    assert jwk.Element(0, fields).private_key().private_numbers() == key.private_numbers()
    assert reader.import_key(fields).as_dict(private=True)["d"] == fields["d"]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"d": None}, "d does not validate"),
        ({"d": "AA=="}, "d does not validate"),
        ({"d": jwk.encode_base64url(bytes(32))}, "d does not validate"),
        ({"d": "AQAB"}, "d does not have the width of the curve"),
        ({"d": jwk.encode_base64url(bytes(31) + b"\1")}, "private and public half do not fit"),
        ({"x": "AA"}, "coordinates do not have the width of the curve"),
        (jwk.from_public_key(KEYS["RSA"][1].public_key()), "key is not an elliptic one"),
    ],
    ids=str,
)
def test_a_private_key_that_does_not_validate_is_refused_and_not_shown(changes, message):
    element = jwk.Element(0, {**jwk.from_private_key(KEYS["P-256"][1]), **changes})
    with pytest.raises(BundleError) as refusal:
        element.private_key()
    assert message in str(refusal.value)
    assert refusal.value.__cause__ is None or "x" in changes

# SPDX-License-Identifier: Apache-2.0
"""Payloads and responses of other forms than the protocol's prove nothing, and break nothing."""

import json
import re
from datetime import timedelta

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509.oid import NameOID
from hypothesis import given, settings
from hypothesis import strategies as st

from issuer.errors import NodeRejectedError
from issuer.node.x509pop import MAX_PAYLOAD, X509PopVerifier
from tests.issuer.node.x509pop_node import ROOT, Context, Node, payload, text

DAY = timedelta(days=1)


def refused(message):
    return pytest.raises(NodeRejectedError, match="^" + re.escape(message))


NONCE = text(b"n" * 32)


@pytest.mark.parametrize(
    ("response", "message"),
    [
        (b"", "challenge response is malformed"),
        (b"[" * 100_000, "challenge response is malformed"),
        (b"[]", "challenge response is malformed"),
        (b"{}", "challenge response is malformed"),
        (b'{"rsa_signature": {}}', "challenge response is malformed"),
        (b'{"ecdsa_signature": 7}', "challenge response is malformed"),
        (b'{"ecdsa_signature": {"nonce": 7}}', "challenge response is malformed"),
        (b'{"ecdsa_signature": {"nonce": "!"}}', "challenge response is malformed"),
        ({"nonce": NONCE}, "challenge response is malformed"),
        ({"nonce": NONCE, "r": "AA==", "s": 1}, "challenge response is malformed"),
        (
            {"nonce": text(b"n" * 31), "r": "AQ==", "s": "AQ=="},
            "challenge response has a nonce of another length",
        ),
        ({"nonce": "", "r": "AQ==", "s": "AQ=="}, "challenge response has a nonce of another length"),
        ({"nonce": NONCE, "r": "", "s": ""}, "challenge response has a bad signature"),
        ({"nonce": NONCE, "r": "AA==", "s": "AA=="}, "challenge response has a bad signature"),
        (
            {"nonce": NONCE, "r": text(b"\xff" * 60_000), "s": "AQ=="},
            "challenge response has a bad signature",
        ),
        (b" " * (MAX_PAYLOAD + 1), "challenge response is too large"),
    ],
    ids=[
        "nothing", "deep", "a list", "an empty object", "another kind", "a number", "a nonce of a number",
        "a nonce not in base64", "no signature", "s is a number", "a short nonce", "an empty nonce",
        "empty r and s", "zero r and s", "a huge r", "too much",
    ],
)  # fmt: skip
async def test_a_response_of_another_form_proves_nothing(response, message):
    node = Node()
    answer = response if isinstance(response, bytes) else json.dumps({"ecdsa_signature": response}).encode()

    async def respond(_):
        return answer

    with refused(message):
        await X509PopVerifier([ROOT.certificate]).verify(node.payload(), respond, Context())


GOOD = Node().certificate.public_bytes(Encoding.DER)


@pytest.mark.parametrize(
    ("sent", "message"),
    [
        (b"", "payload is malformed"),
        (b"\xff\xfe", "payload is malformed"),
        (b"[" * 100_000, "payload is malformed"),
        (b"{}", "payload is malformed"),
        (b"[]", "payload is malformed"),
        (b'{"certificates": null}', "payload needs 1 to 5 certificates"),
        (b'{"certificates": []}', "payload needs 1 to 5 certificates"),
        (b'{"certificates": "AAAA"}', "payload needs 1 to 5 certificates"),
        (b'{"certificates": [7]}', "payload is malformed"),
        (b'{"certificates": ["!"]}', "payload is malformed"),
        (payload(b"\x30\x00"), "payload is malformed"),
        (payload(GOOD + b"x"), "payload is malformed"),
        (payload(GOOD[:-1]), "payload is malformed"),
        (payload(GOOD, b""), "payload is malformed"),
        (b" " * (MAX_PAYLOAD + 1), "payload is too large"),
    ],
    ids=[
        "nothing", "not UTF-8", "deep", "an object", "a list", "null", "an empty list", "a string",
        "a number", "not base64", "an empty sequence", "a byte more", "a byte less", "an empty second",
        "too much",
    ],
)  # fmt: skip
async def test_a_payload_of_another_form_proves_nothing(sent, message):
    with refused(message):
        await X509PopVerifier([ROOT.certificate]).verify(sent, never, Context())


async def test_what_has_exactly_the_largest_size_is_looked_at():
    node = Node()

    async def respond(challenge):
        return (await node.respond(challenge)).ljust(MAX_PAYLOAD)

    sent = node.payload().ljust(MAX_PAYLOAD)
    assert await X509PopVerifier([ROOT.certificate]).verify(sent, respond, Context())


async def never(_):
    raise AssertionError("nothing to challenge")


@pytest.mark.filterwarnings("ignore::cryptography.utils.CryptographyDeprecationWarning")  # a negative serial
@settings(max_examples=50)
@given(st.data())
async def test_a_certificate_with_a_bit_changed_never_passes(data):
    position = data.draw(st.integers(0, len(GOOD) * 8 - 1))
    changed = bytearray(GOOD)
    changed[position // 8] ^= 1 << position % 8
    with pytest.raises(NodeRejectedError):
        await X509PopVerifier([ROOT.certificate]).verify(payload(bytes(changed)), never, Context())


async def test_a_certificate_with_an_extension_twice_is_malformed():
    der = bytearray(GOOD)
    first = der.index(b"\x06\x03\x55\x1d\x0e")  # subject key identifier → authority key identifier
    der[first + 4] = 0x23
    with refused("payload is malformed"):
        await X509PopVerifier([ROOT.certificate]).verify(payload(bytes(der)), never, Context())


@pytest.mark.parametrize("name", ["a\nb", "\x7f", "x\0y"])
async def test_a_common_name_that_cannot_be_a_selector_proves_nothing(name):
    with refused("certificate's common name: "):
        await Node(common_name=name).prove()


async def test_a_uri_of_our_trust_domain_states_a_key_and_a_value():
    uris = ["x509pop://example.org/environment/production", "x509pop://example.org/rack/eu/7"]
    values = {selector.value for selector in (await Node(uris=uris).prove()).selectors}
    assert {value for value in values if value.startswith("san")} == {
        "san:environment:production",
        "san:rack:eu/7",
    }


OTHERS = [
    "x509pop://other.org/a/b", "x509pop://example.org.evil/a/b", "x509pop://example.org/a",
    "x509pop://example.org/a/", "x509pop://example.org//b", "x509pop://example.org/a/b/",
    "x509pop://example.org/a:b/c", "x509pop://example.org/a/b%2fc", "x509pop://example.org/a/b?c",
    "x509pop://example.org/a/b#c", "X509POP://example.org/a/b", "spiffe://example.org/a/b",
]  # fmt: skip


@pytest.mark.parametrize("uri", OTHERS)
async def test_a_uri_of_another_form_states_nothing(uri):
    values = {selector.value for selector in (await Node(uris=[uri]).prove()).selectors}
    assert not [value for value in values if value.startswith("san")]


async def test_a_uri_that_cannot_be_a_selector_proves_nothing():
    with refused("certificate's URI SAN: "):
        await Node(uris=["x509pop://example.org/a/b\nc"]).prove()


async def test_a_certificate_without_a_common_name_has_no_selector_of_it():
    values = {selector.value for selector in (await Node(common_name="").prove()).selectors}
    assert not [value for value in values if value.startswith("subject")]


async def test_only_the_first_common_name_is_a_selector():
    node = Node()
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, n) for n in ("first", "second")])
    builder = x509.CertificateBuilder(
        issuer_name=ROOT.certificate.subject,
        subject_name=subject,
        public_key=node.key.public_key(),
        serial_number=1,
        not_valid_before=ROOT.now - DAY,
        not_valid_after=ROOT.now + DAY,
    )
    node.chain = [builder.sign(ROOT.key, hashes.SHA256())]
    values = {selector.value for selector in (await node.prove()).selectors}
    assert {"serialnumber:1", "subject:cn:first"} < values
    assert "subject:cn:second" not in values

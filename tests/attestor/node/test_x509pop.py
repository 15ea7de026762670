# SPDX-License-Identifier: Apache-2.0
"""A node shows its certificate and signs what the issuer asks for, together with a nonce of its own."""

import base64
import hashlib
import json

import pytest
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, padding, rsa
from cryptography.hazmat.primitives.asymmetric.utils import Prehashed, encode_dss_signature
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

from attestor.errors import NodeAttestationError
from attestor.node.x509pop import NONCE, Config, create
from spiffekit.testing import TestCA

CA = TestCA()
EC = ec.generate_private_key(ec.SECP256R1())
RSA = rsa.generate_private_key(public_exponent=65537, key_size=2048)
THEIRS = bytes(range(NONCE))
MALFORMED = "issuer's challenge is malformed"


class Machine:
    """The files of a node."""

    def __init__(self, folder, key=EC):
        self.config = Config(folder / "node.crt", folder / "node.key")
        self.renew(key)

    def renew(self, key=EC):
        self.key = key
        self.leaf = CA.certify(key.public_key(), uris=[], common_name="node")
        self.config.certificate_path.write_bytes(self.leaf.public_bytes(Encoding.PEM))
        pem = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
        self.config.private_key_path.write_bytes(pem)


@pytest.fixture
def machine(tmp_path):
    return Machine(tmp_path)


async def shown(attestor):
    """The certificates of a proof, DER."""
    document = json.loads(await attestor.payload())
    assert document.keys() == {"certificates"}
    return [base64.b64decode(text, validate=True) for text in document["certificates"]]


def challenge(kind="ecdsa_signature", nonce=THEIRS):
    return json.dumps({kind: {"nonce": base64.b64encode(nonce).decode()}}).encode()


def answered(response, kind):
    document = json.loads(response)
    assert document.keys() == {kind}
    return {name: base64.b64decode(text, validate=True) for name, text in document[kind].items()}


def der(certificate):
    return certificate.public_bytes(Encoding.DER)


async def test_the_certificate_is_shown(machine):
    attestor = create(machine.config)
    assert attestor.type == "x509pop"
    assert await shown(attestor) == [der(machine.leaf)]


async def test_intermediates_come_after_it(machine, tmp_path):
    path = machine.config.certificate_path
    path.write_bytes(path.read_bytes() + CA.certificate.public_bytes(Encoding.PEM))
    assert await shown(create(machine.config)) == [der(machine.leaf), der(CA.certificate)]
    further = TestCA().certificate
    (tmp_path / "more.pem").write_bytes(further.public_bytes(Encoding.PEM))
    config = Config(path, machine.config.private_key_path, tmp_path / "more.pem")
    assert await shown(create(config)) == [der(machine.leaf), der(CA.certificate), der(further)]


@pytest.mark.parametrize("key", [EC, ec.generate_private_key(ec.SECP384R1())], ids=["p256", "p384"])
async def test_an_ec_key_signs_both_nonces(tmp_path, key):
    answer = answered(await create(Machine(tmp_path, key).config).respond(challenge()), "ecdsa_signature")
    assert answer.keys() == {"nonce", "r", "s"}
    assert len(answer["nonce"]) == NONCE
    signature = encode_dss_signature(int.from_bytes(answer["r"]), int.from_bytes(answer["s"]))
    digest = hashlib.sha256(THEIRS + answer["nonce"]).digest()
    key.public_key().verify(signature, digest, ec.ECDSA(Prehashed(hashes.SHA256())))
    with pytest.raises(InvalidSignature):
        key.public_key().verify(signature, digest[::-1], ec.ECDSA(Prehashed(hashes.SHA256())))


async def test_an_rsa_key_signs_both_nonces(tmp_path):
    response = await create(Machine(tmp_path, RSA).config).respond(challenge("rsa_signature"))
    answer = answered(response, "rsa_signature")
    assert answer.keys() == {"nonce", "signature"}
    salted = padding.PSS(padding.MGF1(hashes.SHA256()), padding.PSS.AUTO)
    digest = hashlib.sha256(THEIRS + answer["nonce"]).digest()
    RSA.public_key().verify(answer["signature"], digest, salted, Prehashed(hashes.SHA256()))


async def test_our_nonce_is_another_one_each_time(machine):
    attestor = create(machine.config)
    nonces = {answered(await attestor.respond(challenge()), "ecdsa_signature")["nonce"] for _ in range(5)}
    assert len(nonces) == 5
    assert THEIRS not in nonces


async def test_a_renewed_certificate_counts_from_the_next_proof_on(machine):
    attestor = create(machine.config)
    before = await shown(attestor)
    machine.renew(RSA)
    assert await shown(attestor) == [der(machine.leaf)] != before
    assert await attestor.respond(challenge("rsa_signature"))


@pytest.mark.parametrize(
    "text",
    [
        b"", b"{}", b"[]", b"null", b"not JSON", b"\xff", b"[" * 100_000,
        b'{"ecdsa_signature": null}', b'{"ecdsa_signature": {}}', b'{"ecdsa_signature": []}',
        b'{"ecdsa_signature": {"nonce": 1}}', b'{"ecdsa_signature": {"nonce": "!"}}',
        '{"ecdsa_signature": {"nonce": "ä"}}'.encode(),
        b'{"ecdsa_signature": {"nonce": ""}, "rsa_signature": {"nonce": ""}}',
    ],
    ids=lambda text: repr(text[:50]),
)  # fmt: skip
async def test_a_malformed_challenge_is_not_answered(machine, text):
    with pytest.raises(NodeAttestationError) as caught:
        await create(machine.config).respond(text)
    assert str(caught.value) == MALFORMED


@pytest.mark.parametrize("length", [0, NONCE - 1, NONCE + 1])
async def test_a_nonce_of_another_length_is_not_signed(machine, length):
    with pytest.raises(NodeAttestationError, match="nonce of another length"):
        await create(machine.config).respond(challenge(nonce=bytes(length)))


@pytest.mark.parametrize(
    ("key", "kind"), [(EC, "rsa_signature"), (RSA, "ecdsa_signature"), (EC, "ed25519_signature")],
    ids=["rsa for ec", "ec for rsa", "unknown"],
)  # fmt: skip
async def test_a_challenge_for_another_kind_of_key_is_not_answered(tmp_path, key, kind):
    with pytest.raises(NodeAttestationError, match=r"^issuer's challenge does not fit the node's key$"):
        await create(Machine(tmp_path, key).config).respond(challenge(kind))


@pytest.mark.parametrize("content", [None, b"", b"no PEM"], ids=["missing", "empty", "no PEM"])
async def test_files_that_cannot_be_used_are_told(machine, content):
    for path in (machine.config.certificate_path, machine.config.private_key_path):
        path.unlink() if content is None else path.write_bytes(content)
    attestor = create(machine.config)
    with pytest.raises(NodeAttestationError, match=r"^node certificate cannot be read: "):
        await attestor.payload()
    with pytest.raises(NodeAttestationError, match=r"^node key cannot be read: "):
        await attestor.respond(challenge())


async def test_intermediates_that_cannot_be_read_are_told(machine, tmp_path):
    config = Config(machine.config.certificate_path, machine.config.private_key_path, tmp_path / "none")
    with pytest.raises(NodeAttestationError, match=r"^node certificate cannot be read: "):
        await create(config).payload()

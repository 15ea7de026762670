# SPDX-License-Identifier: Apache-2.0
"""A node holds the key of a certificate that a configured root vouches for, and nothing less."""

import json
import re
from datetime import timedelta

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509.oid import ExtendedKeyUsageOID

from attestor.node import x509pop as other_half
from issuer.errors import NodeRejectedError
from issuer.node.chains import MAX_INTERMEDIATES
from issuer.node.x509pop import Config, X509PopVerifier, create
from spiffekit.certificates import pem_certificate
from spiffekit.daemon.config import ConfigError
from spiffekit.selector import Selector
from spiffekit.testing import CA_USAGE, TestCA
from tests.issuer.node.x509pop_node import AUTHORITY, ROOT, Context, Intermediate, Node

RSA = rsa.generate_private_key(public_exponent=65537, key_size=2048)
VOUCHES = "no configured root vouches for the certificate: "


def refused(message):
    return pytest.raises(NodeRejectedError, match="^" + re.escape(message))


@pytest.mark.parametrize(
    "key", [None, RSA, ec.generate_private_key(ec.SECP384R1())], ids=["p256", "rsa", "p384"]
)
async def test_a_node_with_certificate_and_key_is_proved(key):
    node = Node(key=key, common_name="node-7")
    proof = await node.prove()
    fingerprint = node.certificate.fingerprint(hashes.SHA1()).hex()
    assert str(proof.node_id) == f"spiffe://example.org/spire/agent/x509pop/{fingerprint}"
    assert proof.can_reattest
    assert proof.selectors == {
        Selector("x509pop", f"serialnumber:{node.certificate.serial_number:x}"),
        Selector("x509pop", "subject:cn:node-7"),
        Selector("x509pop", f"ca:fingerprint:{ROOT.certificate.fingerprint(hashes.SHA1()).hex()}"),
    }


@pytest.mark.parametrize("key", [None, RSA], ids=["p256", "rsa"])
async def test_both_halves_understand_each_other(tmp_path, key):
    intermediate = Intermediate(ROOT)
    node = Node(intermediate, key=key, chain=[intermediate.certificate])
    (tmp_path / "node.pem").write_bytes(pem_of(node.certificate))
    (tmp_path / "chain.pem").write_bytes(pem_of(intermediate.certificate))
    (tmp_path / "node.key").write_bytes(key_pem(node.key))
    (tmp_path / "roots.pem").write_bytes(pem_of(TestCA().certificate) + pem_of(ROOT.certificate))
    attestor = other_half.create(
        other_half.Config(tmp_path / "node.pem", tmp_path / "node.key", tmp_path / "chain.pem")
    )

    async def challenge(data):
        return await attestor.respond(data)

    proof = await create(Config(tmp_path / "roots.pem")).verify(
        await attestor.payload(), challenge, Context()
    )
    cas = {ROOT.certificate, intermediate.certificate}
    assert {s.value for s in proof.selectors if s.value.startswith("ca:")} == {
        f"ca:fingerprint:{ca.fingerprint(hashes.SHA1()).hex()}" for ca in cas
    }


def pem_of(certificate):
    return pem_certificate(certificate.public_bytes(Encoding.DER))


def key_pem(key):
    from cryptography.hazmat.primitives.serialization import NoEncryption, PrivateFormat

    return key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())


DAY = timedelta(days=1)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"ca": True, "usage": {**CA_USAGE, "digital_signature": True}},
            "certificate is a signing certificate",
        ),
        ({"usage": {"key_encipherment": True}}, "certificate's key usage lacks digitalSignature"),
        (
            {"purposes": [ExtendedKeyUsageOID.SERVER_AUTH]},
            "certificate's extended key usage lacks clientAuth",
        ),
        (
            {"not_before": ROOT.now - 2 * DAY, "lifetime": DAY},
            VOUCHES + "validation failed: cert is not valid",
        ),
        ({"not_before": ROOT.now + DAY, "lifetime": DAY}, VOUCHES + "validation failed: cert is not valid"),
        ({"hash_algorithm": hashes.SHA224()}, VOUCHES),
        (
            {"extra": [(x509.UnrecognizedExtension(x509.ObjectIdentifier("1.2.3.4"), b"\x05\x00"), True)]},
            VOUCHES + "validation failed: invalid extension: 1.2.3.4",
        ),
    ],
    ids=[
        "CA true",
        "no signatures",
        "servers only",
        "expired",
        "not yet valid",
        "SHA-224",
        "unknown critical",
    ],
)
async def test_a_certificate_that_is_meant_for_something_else_proves_nothing(changes, message):
    node = Node(**changes)
    with refused(message):
        await node.prove()
    assert not node.challenges, "what is not trusted is not challenged"


@pytest.mark.parametrize(
    "changes",
    [
        {"purposes": ()},
        {"usage": {}},
        {"ca": None},
        {"purposes": [ExtendedKeyUsageOID.ANY_EXTENDED_KEY_USAGE]},
    ],
    ids=["no EKU", "no key usage", "no basic constraints", "any purpose"],
)
async def test_a_certificate_that_says_nothing_of_its_purpose_has_all(changes):
    """RFC 5280 §4.2.1.3 and §4.2.1.12; the nodes of the field come with such certificates."""
    assert await Node(**changes).prove()


async def test_another_root_vouches_for_nothing():
    """Issue 655 of SPIRE (2019): the path of a node's certificate was not validated."""
    with refused(VOUCHES):
        await Node(TestCA()).prove()


async def test_a_root_does_not_prove_itself():
    node = Node()
    node.key, node.chain = ROOT.key, [ROOT.certificate]
    with refused("certificate is a signing certificate"):
        await node.prove()


async def test_a_self_signed_certificate_of_the_roots_name_proves_nothing():
    impostor = TestCA()
    assert impostor.certificate.subject == ROOT.certificate.subject
    with refused(VOUCHES):
        await Node(impostor, chain=[impostor.certificate]).prove()


@pytest.mark.parametrize(
    "changes",
    [
        {"ca": False, "usage": None},
        {"ca": None},
        {"usage": {"digital_signature": True}},
        {"not_before": ROOT.now - 2 * DAY, "lifetime": DAY},
    ],
    ids=["a leaf", "no basic constraints", "no keyCertSign", "expired"],
)
async def test_what_is_no_signing_certificate_vouches_for_nobody(changes):
    """Else each node could make further nodes with its own certificate."""
    false = Intermediate(ROOT, **changes)
    with refused(VOUCHES):
        await Node(false, chain=[false.certificate]).prove()


async def test_a_path_length_is_kept():
    bounded = Intermediate(ROOT, path_length=0)
    below = Intermediate(bounded, "below")
    assert await Node(bounded, chain=[bounded.certificate]).prove()
    with refused(VOUCHES):
        await Node(below, chain=[below.certificate, bounded.certificate]).prove()


async def test_name_constraints_are_kept():
    permitted = x509.NameConstraints([x509.DNSName("a.example")], None)
    bounded = Intermediate(ROOT, extra=[(permitted, True)])
    inside = x509.SubjectAlternativeName([x509.DNSName("n.a.example")])
    outside = x509.SubjectAlternativeName([x509.DNSName("b.example")])
    assert await Node(bounded, chain=[bounded.certificate], extra=[(inside, False)]).prove()
    with refused(VOUCHES):
        await Node(bounded, chain=[bounded.certificate], extra=[(outside, False)]).prove()


def chain_of(count):
    authorities = [ROOT]
    for number in range(count):
        authorities.append(Intermediate(authorities[-1], f"intermediate {number}"))
    return Node(authorities[-1], chain=[a.certificate for a in reversed(authorities[1:])])


async def test_a_chain_has_at_most_four_intermediates():
    """GHSA of SPIRE 1.13.4 and 1.14.2: x509pop could be made to verify chains without end."""
    assert await chain_of(MAX_INTERMEDIATES).prove()
    with refused("payload needs 1 to 5 certificates"):
        await chain_of(MAX_INTERMEDIATES + 1).prove()


async def test_a_root_at_the_end_of_the_chain_is_tolerated():
    intermediate = Intermediate(ROOT)
    node = Node(intermediate, chain=[intermediate.certificate, ROOT.certificate])
    assert await node.prove()


async def test_intermediates_come_in_any_order():
    first = Intermediate(ROOT, "first")
    second = Intermediate(first, "second")
    assert await Node(second, chain=[first.certificate, second.certificate]).prove()


async def test_a_huge_key_is_refused_before_anything_is_verified():
    """GHSA of SPIRE 1.13.4 and 1.14.2: verifying with a huge RSA key costs the issuer seconds."""
    huge = rsa.RSAPublicNumbers(65537, (1 << 16383) + 1).public_key()
    node = Node()
    node.chain = [ROOT.certify(huge, uris=[])]
    with refused("certificate's key or signature is not supported: RSA key of 16384 bits: use 2048 to 8192"):
        await node.prove()
    authority = ROOT.certify(huge, **AUTHORITY)
    node.chain = [node.certificate, authority]
    with refused("certificate's key or signature is not supported: RSA key of 16384 bits"):
        await node.prove()


async def test_a_key_that_has_no_kind_of_proof_is_refused():
    with refused("certificate's key has to be EC or RSA"):
        await Node(key=ed25519.Ed25519PrivateKey.generate()).prove()


@pytest.mark.parametrize("key", [None, RSA], ids=["p256", "rsa"])
async def test_a_signature_by_another_key_proves_nothing(key):
    node = Node(key=key)
    node.key = (
        ec.generate_private_key(ec.SECP256R1())
        if key is None
        else rsa.generate_private_key(public_exponent=65537, key_size=2048)
    )
    with refused("challenge response has a bad signature"):
        await node.prove()


async def test_a_replayed_response_proves_nothing():
    node = Node()
    recorded = []

    async def record(challenge):
        recorded.append(await Node.respond(node, challenge))
        return recorded[0]

    verifier = X509PopVerifier([ROOT.certificate])
    assert await verifier.verify(node.payload(), record, Context())
    with refused("challenge response has a bad signature"):
        await verifier.verify(node.payload(), record, Context())
    assert len({json.loads(c)["ecdsa_signature"]["nonce"] for c in node.challenges}) == 2


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, "No such file or directory"),
        (b"", "no certificate in the PEM text"),
        (
            b"-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n",
            "certificate is not well-formed DER",
        ),
    ],
)
def test_roots_that_cannot_be_read_are_a_configuration_error(tmp_path, content, message):
    path = tmp_path / "roots.pem"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(ConfigError) as caught:
        create(Config(path))
    assert caught.value.errors == [f"ca_bundle_path: {path}: {message}"]

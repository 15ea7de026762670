# SPDX-License-Identifier: Apache-2.0
"""A document that AWS signs for an instance proves it; another, or one of another region, does not."""

import base64
import json
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric import rsa
from cryptography.hazmat.primitives.serialization import Encoding

from attestor.errors import NodeAttestationError
from attestor.node import aws_iid as machine
from issuer.errors import NodeRejectedError
from issuer.model import AttestationLevel
from issuer.node.aws_iid import Config, create, create_with, published
from issuer.node.payloads import MAX_BYTES
from spiffekit.certificates import check_strength
from spiffekit.daemon.config import ConfigError
from spiffekit.selector import typo
from spiffekit.testing import TestCA
from tests.fakes.clock import FakeClock
from tests.fakes.web import WebServer, ok
from tests.issuer.node.cms import Message, attributes_of, indefinite
from tests.issuer.node.x509pop_node import Context
from tests.issuer.strategies import a_node

REAL = Path(__file__).parent / "published" / "aws_document.json"
ACCOUNT = "123456789012"
NOW = datetime(2026, 1, 1, tzinfo=UTC)
KEYS = {
    region: rsa.generate_private_key(public_exponent=65537, key_size=2048)
    for region in ("us-west-2", "eu-central-1")
}
CERTIFICATES = {region: TestCA().certify(key.public_key(), uris=[]) for region, key in KEYS.items()}
DOCUMENT = {
    "accountId": ACCOUNT,
    "architecture": "x86_64",
    "availabilityZone": "us-west-2b",
    "billingProducts": None,
    "devpayProductCodes": None,
    "marketplaceProductCodes": ["1abc2defghijklm3nopqrs4tu"],
    "imageId": "ami-5fb8c835",
    "instanceId": "i-1234567890abcdef0",
    "instanceType": "t2.micro",
    "kernelId": None,
    "pendingTime": "2025-12-31T23:50:00Z",
    "privateIp": "10.158.112.84",
    "ramdiskId": None,
    "region": "us-west-2",
    "version": "2017-09-30",
}


async def unasked(challenge):
    raise AssertionError("no challenge is sent")


def text_of(**changes):
    return json.dumps(DOCUMENT | changes, indent=2)


def signed(text, *, region="us-west-2", key=None, attributes=(), **changes):
    """The message that AWS would make of a document, in base64."""
    made = Message(text.encode(), CERTIFICATES[region], key or KEYS[region], attributes=attributes)
    made.wrap = indefinite
    for name, value in changes.items():
        assert hasattr(made, name)
        setattr(made, name, value)
    return base64.encodebytes(made.build()).decode()


def sent(text=None, signature=None, **changes):
    """A payload; by default of a good document."""
    text = text_of() if text is None else text
    whole = {"document": text, "signature": "", "rsa2048": signature or signed(text), **changes}
    return json.dumps(whole).encode()


async def verify(payload, certificates=CERTIFICATES, now=NOW, **options):
    config = Config(**{"account_id_allow_list": (ACCOUNT,), **options})
    return await create_with(config, certificates, FakeClock(now)).verify(payload, unasked, Context())


async def test_an_instance_proves_itself():
    proof = await verify(sent())
    assert proof.node_id.path == f"/spire/agent/aws_iid/{ACCOUNT}/us-west-2/i-1234567890abcdef0"
    assert {str(selector) for selector in proof.selectors} == {
        f"aws_iid:account_id:{ACCOUNT}",
        "aws_iid:region:us-west-2",
        "aws_iid:az:us-west-2b",
        "aws_iid:instance:id:i-1234567890abcdef0",
        "aws_iid:image:id:ami-5fb8c835",
    }
    assert not any(map(typo, proof.selectors))
    assert (proof.can_reattest, proof.first_use) == (False, True)
    assert proof.level is AttestationLevel.PLATFORM


async def test_a_document_of_aws_itself_counts():
    """Of a real instance, with the certificate that AWS publishes for its region."""
    signature = json.loads(REAL.read_text())["rsa2048"]
    inside = base64.b64decode("".join(signature.split()))
    text = inside[inside.index(b"{") : inside.index(b"}") + 1].decode()
    verifier = create(Config(("189292791360",)))
    proof = await verifier.verify(sent(text, signature), unasked, Context())
    assert proof.node_id.path == "/spire/agent/aws_iid/189292791360/ap-southeast-2/i-0c5541936caf78c12"
    with pytest.raises(NodeRejectedError, match="another than the one that is signed"):
        await verifier.verify(sent(text.replace("i-0c", "i-0d"), signature), unasked, Context())


def test_certificates_that_aws_publishes_are_read():
    certificates = published()
    assert len(certificates) == 39
    assert {"us-east-1", "eu-central-1", "cn-north-1", "us-gov-west-1"} <= set(certificates)
    for certificate in certificates.values():
        check_strength(certificate)
    assert len({c.public_bytes(Encoding.DER) for c in certificates.values()}) == 39
    assert len({(c.issuer, c.serial_number) for c in certificates.values()}) == 39


async def test_the_document_that_was_signed_is_the_one_that_counts():
    """SPIRE 1.14.6: a good signature of one document, and beside it another, which was believed."""
    with pytest.raises(NodeRejectedError, match="another than the one that is signed"):
        await verify(sent(text_of(instanceId="i-00000000000000000"), signed(text_of())))
    with pytest.raises(NodeRejectedError, match="another than the one that is signed"):
        await verify(sent(text_of() + "\n", signed(text_of())))


async def test_a_region_vouches_for_its_own_instances_only():
    text = text_of()
    with pytest.raises(NodeRejectedError, match="certificate of eu-central-1, which is not its region"):
        await verify(sent(text, signed(text, region="eu-central-1")))
    with pytest.raises(NodeRejectedError, match="not good"):
        await verify(sent(text, signed(text, key=KEYS["eu-central-1"])))


async def test_a_certificate_that_is_not_of_aws_vouches_for_nothing():
    text = text_of()
    with pytest.raises(NodeRejectedError, match="no certificate of AWS's"):
        await verify(sent(text, signed(text)), certificates=published())


async def test_a_certificate_in_the_message_is_not_looked_at():
    key = rsa.generate_private_key(public_exponent=65537, key_size=2048)
    text = text_of()
    message = Message(text.encode(), TestCA().certify(key.public_key(), uris=[]), key)
    message.with_certificates(message.certificate)
    with pytest.raises(NodeRejectedError, match="no certificate of AWS's"):
        await verify(sent(text, base64.b64encode(message.build()).decode()))


@pytest.mark.parametrize(
    "changes",
    [{"attributes": attributes_of(b"{}")}, {"unsigned": attributes_of(b"{}")[0]}, {"inside": b""}],
    ids=["other attributes", "unsigned attributes", "detached"],
)
async def test_a_message_of_another_form_is_refused(changes):
    text = text_of()
    with pytest.raises(NodeRejectedError, match="signed"):
        await verify(sent(text, signed(text, **changes)))


@pytest.mark.parametrize(
    ("changes", "why"),
    [
        ({"accountId": "210987654321"}, "account '210987654321' is not allowed"),
        ({"accountId": "../x"}, "is not allowed"),
        ({"accountId": 123456789012}, "malformed"),
        ({"region": "us-east-1"}, "not its region"),
        ({"region": None}, "malformed"),
        ({"instanceId": ""}, "instanceId"),
        ({"instanceId": "i-1/../2"}, "instanceId"),
        ({"instanceId": "i-1234567890abcdef0\n"}, "instanceId"),
        ({"instanceId": "I-1234567890ABCDEF0"}, "instanceId"),
        ({"imageId": ["ami"]}, "malformed"),
        ({"imageId": "a\nb"}, "control character"),
        ({"pendingTime": "soon"}, "malformed"),
        ({"pendingTime": "2026-01-01T00:00:00"}, "without its zone"),
    ],
    ids=str,
)
async def test_what_a_document_says_has_to_be_right(changes, why):
    with pytest.raises(NodeRejectedError, match=why):
        await verify(sent(text_of(**changes)))


@pytest.mark.parametrize("text", ["", "[]", "{}", "x", '{"a": 1, "a": 1}', "[" * 5000])
async def test_what_is_no_document_is_refused(text):
    with pytest.raises(NodeRejectedError, match="malformed"):
        await verify(sent(text))


@pytest.mark.parametrize(
    "payload",
    [
        b"",
        b"[]",
        b"{}",
        b'{"document":"{}"}',
        b'{"document":1,"rsa2048":""}',
        b"\xff",
        b'{"document":"\xff","rsa2048":""}',
        bytes(MAX_BYTES + 1),
    ],
    ids=["empty", "array", "object", "no signature", "number", "bytes", "bytes inside", "large"],
)
async def test_a_payload_that_is_none_is_refused(payload):
    with pytest.raises(NodeRejectedError, match="payload"):
        await verify(payload)


@pytest.mark.parametrize(
    "signature", ["", "%", "MIIB", "x" * 50_000], ids=["empty", "text", "short", "large"]
)
async def test_a_signature_that_is_none_is_refused(signature):
    with pytest.raises(NodeRejectedError, match="signed data"):
        await verify(sent(text_of(), signature or "=", rsa2048=signature))


async def test_the_signature_of_rsa_1024_is_not_enough():
    with pytest.raises(NodeRejectedError, match="rsa2048"):
        await verify(json.dumps({"document": text_of(), "signature": "AAAA"}).encode())


async def test_an_instance_may_have_to_be_young():
    """A document never expires: it may have been read long ago, on an instance that is gone."""
    within = {"started_within": timedelta(minutes=10)}
    assert await verify(sent(), **within)
    with pytest.raises(NodeRejectedError, match=r"longer than 0:10:00 ago"):
        await verify(sent(), now=NOW + timedelta(seconds=1), **within)
    assert await verify(sent(), now=NOW + timedelta(days=999))


async def test_a_node_renews_while_its_account_is_allowed():
    proof = await verify(sent())
    node = a_node(f"aws_iid/{ACCOUNT}/us-west-2/i-1", selectors=proof.selectors)
    allowing, other = (create(Config((account,))) for account in (ACCOUNT, "999999999999"))
    assert await allowing.refresh(node) == proof.selectors
    with pytest.raises(NodeRejectedError, match="is not allowed"):
        await other.refresh(node)


async def test_a_certificate_of_a_further_region_can_be_given(tmp_path):
    path = tmp_path / "region.pem"
    path.write_bytes(CERTIFICATES["us-west-2"].public_bytes(Encoding.PEM))
    options = {"region_certificates": {"us-west-2": path}}
    assert await verify(sent(), certificates={}, **options)
    with pytest.raises(NodeRejectedError, match="no certificate of AWS's"):
        await verify(sent(), certificates={})


@pytest.mark.parametrize(
    ("options", "why"),
    [
        ({"account_id_allow_list": ()}, "nobody could attest"),
        ({"account_id_allow_list": ("1",)}, "not 12 digits"),
        ({"region_certificates": {"us-west-2": Path("/none")}}, "region_certificates.us-west-2"),
        ({"region_certificates": {"../x": Path("/none")}}, "name of a region"),
        ({"region_certificates": {"us-west-2": Path(__file__)}}, "no certificate"),
    ],
    ids=str,
)
def test_a_policy_that_cannot_be_meant_is_refused(options, why):
    with pytest.raises(ConfigError, match=why):
        create(Config(**{"account_id_allow_list": (ACCOUNT,), **options}))


def test_a_region_has_one_certificate(tmp_path):
    path = tmp_path / "two.pem"
    path.write_bytes(b"".join(c.public_bytes(Encoding.PEM) for c in CERTIFICATES.values()))
    with pytest.raises(ConfigError, match="one certificate"):
        create(Config((ACCOUNT,), region_certificates={"us-west-2": path}))


class Ec2:
    """The instance metadata service of one instance, version 2."""

    def __init__(self):
        self.document = text_of()
        self.answers = {"document": self.document, "signature": "AAAA\n", "rsa2048": signed(self.document)}
        self.session = ok("AQAEAOSnyMkQ==")

    def __call__(self, head):
        method, target, _ = head.split(" ", 2)
        headers = dict(line.lower().split(": ", 1) for line in head.split("\r\n")[1:] if line)
        if (method, target) == ("PUT", "/latest/api/token"):
            assert int(headers["x-aws-ec2-metadata-token-ttl-seconds"]) > 0
            return self.session
        if method != "GET" or headers.get("x-aws-ec2-metadata-token") != "aqaeaosnymkq==":
            return ok("", status="401 Unauthorized")
        folder, _, name = target.rpartition("/")
        assert folder == "/latest/dynamic/instance-identity"
        return ok(self.answers[name])


async def test_document_and_signatures_are_the_proof():
    ec2 = Ec2()
    async with WebServer(ec2) as server:
        attestor = machine.create(machine.Config(server.host))
        payload = await attestor.payload()
    assert json.loads(payload) == ec2.answers, "what stock servers read, to the byte"
    assert (await verify(payload)).first_use


@pytest.mark.parametrize(
    ("session", "why"),
    [
        (ok("", status="403 Forbidden"), "status 403"),
        (ok("", "Location: http://evil.example/", status="302 Found"), "status 302"),
        (ok("a b"), "opened no session"),
        (ok("x" * 2000), "opened no session"),
        (ok(""), "with nothing"),
        (ok("other"), "status 401"),
    ],
    ids=["off", "redirect", "text", "long", "empty", "unknown"],
)
async def test_without_a_session_there_is_no_proof(session, why):
    ec2 = Ec2()
    ec2.session = session
    async with WebServer(ec2) as server:
        with pytest.raises(NodeAttestationError, match=why):
            await machine.create(machine.Config(server.host)).payload()


async def test_a_challenge_is_not_answered():
    with pytest.raises(NodeAttestationError, match="challenge"):
        await machine.create(machine.Config()).respond(b"nonce")


def test_a_table_of_the_attestor_is_checked():
    with pytest.raises(ConfigError, match="metadata_host"):
        machine.create(machine.Config("http://169.254.169.254"))

# SPDX-License-Identifier: Apache-2.0
"""A document with our nonce that Azure signs for a virtual machine proves it; nothing else does."""

import asyncio
import base64
import json
import re
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import rsa
from cryptography.hazmat.primitives.serialization import Encoding

from attestor.errors import NodeAttestationError
from attestor.node import azure_imds as machine
from issuer.ca.der import octet_string, oid, sequence, tlv
from issuer.errors import NodeRejectedError
from issuer.model import AttestationLevel
from issuer.node import azure_chain
from issuer.node.azure_chain import published
from issuer.node.azure_imds import OPENING, Config, Tenant, create, create_with
from issuer.node.payloads import MAX_BYTES
from spiffekit.certificates import certificates_from_pem
from spiffekit.daemon.config import ConfigError
from spiffekit.selector import typo
from tests.fakes.clock import FakeClock
from tests.fakes.web import WebServer, ok
from tests.issuer.node import cms
from tests.issuer.node.azure import (
    DOMAIN,
    KEY,
    MACHINE,
    NAME,
    OTHER,
    PATH,
    SUBSCRIPTION,
    TENANT,
    Authority,
    Azure,
)
from tests.issuer.node.cms import attributes_of
from tests.issuer.node.x509pop_node import Context
from tests.issuer.strategies import a_node

REAL = json.loads((Path(__file__).parent / "published" / "azure_document.json").read_text())
TENANTS = {DOMAIN: Tenant(TENANT, (SUBSCRIPTION,))}
NOW = datetime.now(UTC).replace(microsecond=0)
AZURE = Azure(NOW)


@pytest.fixture(scope="module")
def bundle(tmp_path_factory):
    path = tmp_path_factory.mktemp("azure") / "roots.pem"
    path.write_bytes(AZURE.root.certificate.public_bytes(Encoding.PEM))
    return path


@pytest.fixture
def clock():
    return FakeClock(NOW)


@pytest.fixture
async def microsoft():
    async with WebServer(lambda head: ok(AZURE.certificate()), name="www.microsoft.com") as server:
        yield server


@pytest.fixture
def verifier(microsoft, bundle, clock):
    return create_with(Config(TENANTS, trust_bundle_path=bundle), microsoft.peer, clock)


@pytest.fixture
def prove(verifier):
    """Prove with a document whose changes are named, or with what `sign` makes of it."""

    async def prove(sign=AZURE.sign, *, domain=DOMAIN, encoding="pkcs7", hints=None, **changes):
        async def respond(nonce):
            signature = sign(AZURE.document(**{"nonce": nonce.decode(), **changes}))
            metadata = {"agentDomain": domain, "vmssName": None, **(hints or {})}
            document = {"encoding": encoding, "signature": signature}
            return json.dumps({"document": document, "metadata": metadata}).encode()

        return await verifier.verify(OPENING, respond, Context())

    return prove


async def test_a_machine_proves_itself(verifier):
    async with WebServer(AZURE) as server:
        attestor = machine.create(machine.Config(DOMAIN, server.host))
        proof = await verifier.verify(await attestor.payload(), attestor.respond, Context())
    assert proof.node_id.path == f"/spire/agent/azure_imds/{TENANT}/{SUBSCRIPTION}/{MACHINE}"
    assert {str(selector) for selector in proof.selectors} == {f"azure_imds:subscription-id:{SUBSCRIPTION}"}
    assert not any(map(typo, proof.selectors))
    assert (proof.can_reattest, proof.first_use) == (False, True)
    assert proof.level is AttestationLevel.PLATFORM


async def test_what_is_sent_is_what_stock_servers_read():
    async with WebServer(AZURE) as server:
        attestor = machine.create(machine.Config(DOMAIN, server.host))
        assert await attestor.payload() == b"non_empty_payload"
        sent = json.loads(await attestor.respond(b"a1B2" * 8))
    assert sent["document"]["encoding"] == "pkcs7"
    assert sent["metadata"] == {"agentDomain": DOMAIN, "vmssName": "set-1"}
    assert server.requests[0].startswith("GET /metadata/attested/document?nonce=a1B2")


async def test_the_nonce_is_what_stock_agents_expect(verifier):
    nonces = []

    async def respond(nonce):
        nonces.append(nonce)
        return b""

    for _ in range(2):
        with pytest.raises(NodeRejectedError, match="malformed"):
            await verifier.verify(OPENING, respond, Context())
    assert all(re.fullmatch(rb"[a-zA-Z0-9]{32}", nonce) for nonce in nonces)
    assert nonces[0] != nonces[1]


async def test_a_document_of_azure_itself_counts():
    """Of a real machine, with the certificates that Microsoft and DigiCert published at its time."""
    subscription, when = "0afbfffa-5df9-4a3b-987e-fe7577624272", datetime(2023, 3, 8, 23, 10, tzinfo=UTC)
    config = Config(
        {DOMAIN: Tenant(TENANT, (subscription,))}, allowed_metadata_domains=("metadata.azure.us",)
    )
    (intermediate,) = certificates_from_pem(REAL["intermediate"].encode())

    async def respond(nonce):
        document = {"encoding": "pkcs7", "signature": REAL["signature"]}
        return json.dumps({"document": document, "metadata": {"agentDomain": DOMAIN}}).encode()

    async with WebServer(lambda head: ok(intermediate), name="www.microsoft.com") as server:
        # All is well with it, but that it was made for somebody else's nonce.
        with pytest.raises(NodeRejectedError, match="another nonce"):
            await create_with(config, server.peer, FakeClock(when)).verify(OPENING, respond, Context())
        later = FakeClock(datetime(2024, 6, 1, tzinfo=UTC))
        with pytest.raises(NodeRejectedError, match="no known authority"):
            await create_with(config, server.peer, later).verify(OPENING, respond, Context())
        here = Config(config.tenants)
        with pytest.raises(NodeRejectedError, match="allowed metadata domain"):
            await create_with(here, server.peer, FakeClock(when)).verify(OPENING, respond, Context())
    assert "/pkiops/certs/Microsoft%20Azure%20TLS%20Issuing%20CA%2005%20-%20xsign.crt" in server.requests[0]


def test_authorities_that_are_published_are_read():
    assert [root.subject.rfc4514_string().split(",")[0] for root in published()] == [
        "CN=DigiCert Global Root G2",
        "CN=DigiCert Global Root CA",
        "CN=Microsoft TLS RSA Root G2",
    ]


@pytest.mark.parametrize(
    ("changes", "why"),
    [
        ({"nonce": "a" * 32}, "another nonce"),
        ({"nonce": ""}, "another nonce"),
        ({"nonce": None}, "malformed"),
        ({"vmId": ""}, "no UUID"),
        ({"vmId": f"{MACHINE}/.."}, "no UUID"),
        ({"vmId": f"{MACHINE}\n"}, "no UUID"),
        ({"vmId": 1}, "malformed"),
        ({"subscriptionId": TENANT}, "not allowed in that tenant"),
        ({"subscriptionId": ""}, "not allowed in that tenant"),
        ({"subscriptionId": None}, "malformed"),
    ],
    ids=str,
)
async def test_what_a_document_says_has_to_be_right(prove, changes, why):
    with pytest.raises(NodeRejectedError, match=why):
        await prove(**changes)


@pytest.mark.parametrize("domain", ["", "other.example", "CONTOSO.example", f"{DOMAIN}."])
async def test_a_tenant_has_to_be_configured(prove, domain):
    with pytest.raises(NodeRejectedError, match="is not configured"):
        await prove(domain=domain)


async def test_a_node_renews_while_its_subscription_is_allowed(prove, microsoft, clock):
    proof = await prove()
    node = a_node(f"azure_imds/{TENANT}/{SUBSCRIPTION}/{MACHINE}", selectors=proof.selectors)

    def allowing(tenant, subscription):
        first = Tenant(tenant, ("00000000-0000-0000-0000-000000000001",))
        tables = {"a.example.org": first, "b.example.org": Tenant(tenant, (subscription,))}
        return create_with(Config(tables), microsoft.peer, clock)

    assert await allowing(TENANT, SUBSCRIPTION).refresh(node) == proof.selectors
    for tenant, subscription in ((TENANT, MACHINE), (MACHINE, SUBSCRIPTION)):
        with pytest.raises(NodeRejectedError, match="is no longer allowed"):
            await allowing(tenant, subscription).refresh(node)


async def test_one_machine_has_one_id(prove):
    lower, upper = await prove(), await prove(vmId=MACHINE.upper(), subscriptionId=SUBSCRIPTION.upper())
    assert lower == upper


async def test_what_is_not_signed_is_not_believed(prove):
    assert await prove(hints={"vmssName": "set-9", "vmId": "x", "subscriptionId": "y"}) == await prove()


async def test_the_certificate_that_is_judged_is_the_one_that_signed(prove):
    """SPIRE 1.14.7 and 1.15.1: a good certificate came along, and another one had signed."""
    rogue = Azure(NOW)
    rogue.issuing = Authority(NOW, name="Test Issuing CA 01").again()
    theirs = rogue.certify(key=OTHER)
    for bag in ((AZURE.signer, theirs), (theirs, AZURE.signer), (theirs, AZURE.issuing.certificate)):
        with pytest.raises(NodeRejectedError, match=r"no known authority|one certificate that signed"):
            await prove(lambda d, bag=bag: AZURE.sign(d, signer=theirs, key=OTHER, bag=bag))
    # The good one is named, and does not fit the signature.
    for bag in ((AZURE.signer,), (AZURE.signer, theirs)):
        with pytest.raises(NodeRejectedError, match="not good"):
            await prove(lambda d, bag=bag: AZURE.sign(d, key=OTHER, bag=bag))


async def test_two_certificates_of_one_name_are_none(prove):
    """Issuer and serial number are the same: it cannot be said which one signed."""
    twin = AZURE.certify()
    with pytest.raises(NodeRejectedError, match="one certificate that signed"):
        await prove(lambda d: AZURE.sign(d, bag=(AZURE.signer, AZURE.signer)))
    with pytest.raises(NodeRejectedError, match="one certificate that signed"):
        await prove(lambda d: AZURE.sign(d, bag=(twin,)))
    with pytest.raises(NodeRejectedError, match="one certificate that signed"):
        await prove(lambda d: AZURE.sign(d, bag=()))


async def test_a_certificate_that_is_none_is_refused(prove):
    bad = tlv(0xA0, sequence(octet_string(b"x")))

    def sign(document):
        made = cms.Message(document, AZURE.signer, KEY, attributes=None)
        made.certificates = bad
        return base64.b64encode(made.build()).decode()

    with pytest.raises(NodeRejectedError, match="malformed certificate"):
        await prove(sign)


@pytest.mark.parametrize(
    ("changes", "why"),
    [
        ({"attributes": attributes_of(b"{}")}, "of another document"),
        ({"unsigned": tlv(0xA1, cms.attribute(oid("1.2.3"), octet_string(b"x")))}, "more than belongs"),
        ({"inside": b""}, "no document inside"),
        ({"after": b"\0"}, "more than belongs"),
        ({"digest": cms.SHA1}, "another algorithm"),
        ({"algorithm": cms.SHA1_RSA}, "another algorithm"),
    ],
    ids=["attributes", "unsigned", "detached", "after", "digest", "algorithm"],
)
async def test_a_message_of_another_form_is_refused(prove, changes, why):
    with pytest.raises(NodeRejectedError, match=why):
        await prove(lambda document: AZURE.sign(document, **changes))


async def test_a_message_with_signed_attributes_is_read(prove):
    assert await prove(lambda document: AZURE.sign(document, attributes=attributes_of(document)))


async def test_a_document_that_is_none_is_refused(prove):
    for text in (b"", b"[]", b"{}", b"[" * 5000):
        with pytest.raises(NodeRejectedError, match="malformed"):
            await prove(lambda _, text=text: AZURE.sign(text))


async def test_another_encoding_is_refused(prove):
    with pytest.raises(NodeRejectedError, match="encoding"):
        await prove(encoding="jwt")


@pytest.mark.parametrize(
    "answer",
    [b"", b"[]", b"{}", b'{"document":{}}', b"\xff", b"[" * 9000, b" " * (MAX_BYTES + 1)],
    ids=["empty", "array", "object", "part", "bytes", "deep", "large"],
)
async def test_a_response_that_is_none_is_refused(verifier, answer):
    async def respond(nonce):
        return answer

    with pytest.raises(NodeRejectedError, match="challenge response"):
        await verifier.verify(OPENING, respond, Context())


@pytest.mark.parametrize(
    "names",
    [
        (),
        ("metadata.azure.com.evil.com",),
        ("evilmetadata.azure.com",),
        ("azure.com",),
        ("*.metadata.azure.com",),
        ("metadata.azure.us",),
        ("METADATA.azure.com",),
    ],
    ids=str,
)
async def test_a_signer_has_a_name_of_the_metadata_service(prove, names):
    with pytest.raises(NodeRejectedError, match="signer has no name"):
        await prove(lambda document: AZURE.sign(document, signer=AZURE.certify(names)))


@pytest.mark.parametrize(
    "names", [("metadata.azure.com",), ("other.example", NAME), ("a.b.metadata.azure.com",)]
)
async def test_a_name_below_the_domain_is_one(prove, names):
    assert await prove(lambda document: AZURE.sign(document, signer=AZURE.certify(names)))


SMALL = rsa.generate_private_key(public_exponent=65537, key_size=1024)


@pytest.mark.parametrize(
    ("changes", "why"),
    [
        ({"lifetime": timedelta(seconds=5)}, "no known authority"),
        ({"not_before": datetime(2090, 1, 1, tzinfo=UTC)}, "no known authority"),
        ({"purposes": (x509.oid.ExtendedKeyUsageOID.CLIENT_AUTH,)}, "no known authority"),
        ({"ca": True}, "no known authority"),
        ({"where": ""}, "which authority"),
        ({"where": "http://www.example.org" + PATH}, "not published by Microsoft"),
        ({"where": "http://www.microsoft.com.evil.com" + PATH}, "not published by Microsoft"),
        ({"where": "http://www.microsoft.com@evil.com" + PATH}, "not published by Microsoft"),
        ({"where": "http://www.microsoft.com:8080" + PATH}, "not published by Microsoft"),
        ({"where": "http://www.microsoft.com/pki/../x"}, "not published by Microsoft"),
        ({"where": "http://www.microsoft.com/other/x.crt"}, "not published by Microsoft"),
        ({"where": "ftp://www.microsoft.com" + PATH}, "not published by Microsoft"),
    ],
    ids=str,
)
async def test_a_signer_that_nobody_vouches_for_signs_nothing(prove, changes, why):
    with pytest.raises(NodeRejectedError, match=why):
        await prove(lambda document: AZURE.sign(document, signer=AZURE.certify(**changes)))


async def test_a_weak_signer_signs_nothing(prove):
    with pytest.raises(NodeRejectedError, match="weak key"):
        await prove(lambda d: AZURE.sign(d, signer=AZURE.certify(key=SMALL), key=SMALL))
    weak_authority = AZURE.root.certify(
        SMALL.public_key(), uris=[], common_name="Test Issuing CA 01", ca=True, purposes=()
    )
    with pytest.raises(NodeRejectedError, match="signer: certificate's key"):
        await prove(lambda d: AZURE.sign(d, bag=(AZURE.signer, weak_authority)))


async def test_an_authority_that_comes_along_is_not_asked_for(prove, microsoft):
    bag = (AZURE.issuing.certificate, AZURE.signer)
    assert await prove(lambda document: AZURE.sign(document, bag=bag))
    assert microsoft.requests == []


async def test_a_signer_of_the_authority_itself_needs_nobody_between(prove, microsoft):
    direct = Azure(NOW)
    direct.root = direct.issuing = AZURE.root
    assert await prove(lambda document: AZURE.sign(document, signer=direct.certify(where="")))
    assert microsoft.requests == []


async def test_the_authority_in_between_is_asked_for_once(prove, microsoft):
    for _ in range(3):
        assert await prove()
    assert len(microsoft.requests) == 1
    assert microsoft.requests[0].startswith(f"GET {PATH} HTTP/1.1\r\nhost: www.microsoft.com\r\n")


async def test_what_vouches_for_nobody_is_not_remembered(prove, microsoft):
    good, microsoft.answer = (
        microsoft.answer,
        lambda head: ok(Authority(NOW).certificate.public_bytes(Encoding.DER)),
    )
    for _ in range(2):
        with pytest.raises(NodeRejectedError, match="no known authority"):
            await prove()
    microsoft.answer = good
    assert await prove()
    assert len(microsoft.requests) == 3


async def test_an_authority_that_has_expired_is_asked_for_again(prove, microsoft, clock):
    signer = AZURE.certify(lifetime=timedelta(hours=20))
    assert await prove(lambda d: AZURE.sign(d, signer=signer))
    await clock.advance(timedelta(hours=2))
    for _ in range(2):
        with pytest.raises(NodeRejectedError, match="no known authority"):
            await prove(lambda d: AZURE.sign(d, signer=signer))
    assert len(microsoft.requests) == 2


async def test_not_many_authorities_are_remembered(prove, microsoft, monkeypatch):
    monkeypatch.setattr(azure_chain, "MAX_KEPT", 1)
    for where in (PATH, "/pki/mscorp/other.crt", "/pki/mscorp/other.crt"):
        signer = AZURE.certify(where=f"https://www.microsoft.com{where}")
        assert await prove(lambda d, signer=signer: AZURE.sign(d, signer=signer))
    assert len(microsoft.requests) == 3


@pytest.mark.parametrize(
    "answer",
    [
        ok("", status="404 Not Found"),
        ok(AZURE.certificate(), "Location: http://evil.example/", status="302 Found"),
        ok("<html>"),
        ok(b"x" * 20_000),
        b"",
    ],
    ids=["missing", "redirect", "html", "large", "closed"],
)
async def test_what_is_no_certificate_vouches_for_nobody(prove, microsoft, answer):
    microsoft.answer = lambda head: answer
    with pytest.raises(NodeRejectedError, match="cannot be fetched"):
        await prove()
    assert len(microsoft.requests) == 1


async def test_a_server_that_hangs_is_given_up(prove, microsoft, monkeypatch):
    monkeypatch.setattr(azure_chain, "TIMEOUT", 0.1)
    microsoft.answer = lambda head: None
    async with asyncio.timeout(5):
        with pytest.raises(NodeRejectedError, match="cannot be fetched"):
            await prove()


def test_certificates_are_asked_for_at_microsoft():
    peer = create(Config(TENANTS))._chain._microsoft
    assert (str(peer), peer.tls.check_hostname) == ("www.microsoft.com:443", True)


LEAF = AZURE.signer.public_bytes(Encoding.PEM)
UPPER = SUBSCRIPTION.upper()


@pytest.mark.parametrize(
    ("options", "why"),
    [
        ({"tenants": {}}, "tenants: nobody"),
        ({"tenants": {DOMAIN: Tenant("x", (SUBSCRIPTION,))}}, "tenant_id: is no UUID"),
        ({"tenants": {DOMAIN: Tenant(TENANT, ())}}, "subscriptions: nobody"),
        ({"tenants": {DOMAIN: Tenant(TENANT, (UPPER,))}}, "no UUID in lower case"),
        ({"tenants": {"Contoso": Tenant(TENANT, (SUBSCRIPTION,))}}, "is not a domain"),
        ({"tenants": TENANTS | {"b.example": TENANTS[DOMAIN]}}, "a subscription is of one tenant"),
        ({"allowed_metadata_domains": ()}, "allowed_metadata_domains: nobody"),
        ({"allowed_metadata_domains": (".azure.com",)}, "not a domain"),
        ({"allowed_metadata_domains": ("com",)}, "not a domain"),
        ({"trust_bundle_path": Path("/none")}, "trust_bundle_path"),
    ],
    ids=str,
)
def test_a_policy_that_cannot_be_meant_is_refused(options, why):
    with pytest.raises(ConfigError, match=why):
        create(Config(**{"tenants": TENANTS, **options}))


def test_only_authorities_are_trusted(tmp_path):
    path = tmp_path / "leaf.pem"
    path.write_bytes(LEAF)
    with pytest.raises(ConfigError, match=r"trust_bundle_path: .*cA false"):
        create(Config(TENANTS, trust_bundle_path=path))


async def of(answer):
    async with WebServer(lambda head: answer) as server:
        return await machine.create(machine.Config(DOMAIN, server.host)).respond(b"nonce")


@pytest.mark.parametrize(
    ("answer", "why"),
    [
        (ok("{}"), "another document"),
        (ok("x"), "another document"),
        (ok("[" * 9000), "another document"),
        (ok("{}", status="400 Bad Request"), "status 400"),
        (ok("{}", "Location: http://evil.example/", status="307 Temporary Redirect"), "status 307"),
    ],
    ids=["object", "text", "deep", "refused", "redirect"],
)
async def test_another_answer_is_not_passed_on(answer, why):
    with pytest.raises(NodeAttestationError, match=why):
        await of(answer)


@pytest.mark.parametrize("challenge", [b"", b"a b", b"a&b=c", b"a\n", b"\xff", b"a" * 65])
async def test_a_challenge_that_is_no_nonce_is_not_signed(challenge):
    with pytest.raises(NodeAttestationError, match="nonce"):
        await machine.create(machine.Config(DOMAIN)).respond(challenge)


def test_a_table_of_the_attestor_is_checked():
    with pytest.raises(ConfigError, match="tenant_domain"):
        machine.create(machine.Config(""))

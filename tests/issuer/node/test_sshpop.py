# SPDX-License-Identifier: Apache-2.0
"""A machine proves itself with a host certificate that OpenSSH made; nothing else proves anything."""

import base64
import json
import shutil
import subprocess

import pytest
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import padding
from cryptography.hazmat.primitives.serialization import load_ssh_private_key

from attestor.errors import NodeAttestationError
from attestor.node import sshpop as machine
from issuer.errors import NodeRejectedError
from issuer.model import AttestationLevel
from issuer.node.sshpop import MAX_PAYLOAD, Config, create
from spiffekit.daemon.config import ConfigError
from tests.issuer.node.x509pop_node import Context

pytestmark = pytest.mark.skipif(shutil.which("ssh-keygen") is None, reason="OpenSSH is not installed")
KINDS = {
    "ed25519": ("-t", "ed25519"),
    "p256": ("-t", "ecdsa", "-b", "256"),
    "p384": ("-t", "ecdsa", "-b", "384"),
    "p521": ("-t", "ecdsa", "-b", "521"),
    "rsa": ("-t", "rsa", "-b", "2048"),
}
HOST = ("-h", "-n", "web-1.example.org,web-1")


def keygen(*arguments):
    subprocess.run(["ssh-keygen", "-q", *arguments], check=True, capture_output=True)


def new_key(path, kind="ed25519"):
    keygen(*KINDS[kind], "-N", "", "-C", "", "-f", str(path))
    return path


def encoded(data):
    return base64.b64encode(data).decode()


class Host:
    """A machine: its files, and its half of the proof."""

    def __init__(self, folder, authority, kind="ed25519", options=HOST, name="host"):
        self.key = new_key(folder / name, kind)
        keygen("-s", str(authority), "-I", name, *options, f"{self.key}.pub")
        self.certificate = folder / f"{name}-cert.pub"
        self.attestor = machine.create(machine.Config(self.key, self.certificate))

    async def prove(self, verifier, respond=None):
        payload = await self.attestor.payload()
        return await verifier.verify(payload, respond or self.attestor.respond, Context())


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("ssh")


@pytest.fixture(scope="module")
def authority(folder):
    return new_key(folder / "authority")


@pytest.fixture(scope="module")
def verifier(authority):
    return create(Config(cert_authorities_path=authority.with_suffix(".pub")))


@pytest.fixture(scope="module")
def host(folder, authority):
    return Host(folder, authority)


@pytest.mark.parametrize("signer", ["ed25519", "p384", "rsa"])
@pytest.mark.parametrize("kind", KINDS)
async def test_a_host_proves_itself(tmp_path, signer, kind):
    authority = new_key(tmp_path / "ca", signer)
    host = Host(tmp_path, authority, kind)
    proof = await host.prove(create(Config(cert_authorities=((tmp_path / "ca.pub").read_text(),))))
    assert {str(selector) for selector in proof.selectors} == {"sshpop:hostname:web-1.example.org"}
    assert (proof.can_reattest, proof.level) == (True, AttestationLevel.PLATFORM)


async def test_the_id_is_the_fingerprint_of_the_certificate(host, verifier):
    shown = subprocess.run(
        ["ssh-keygen", "-L", "-f", str(host.certificate)], check=True, capture_output=True, text=True
    )
    assert "host certificate" in shown.stdout
    node_id = (await host.prove(verifier)).node_id
    assert node_id == (await host.prove(verifier)).node_id
    kind, _, fingerprint = node_id.path.removeprefix("/spire/agent/").partition("/")
    assert (kind, len(fingerprint)) == ("sshpop", 43)


@pytest.mark.parametrize(
    ("options", "why"),
    [
        (("-n", "ann"), "is not a host's"),
        ((*HOST, "-V", "20200101:20200102"), "not valid now"),
        ((*HOST, "-V", "+1w:+2w"), "not valid now"),
        (("-h",), "has no principal"),
        (("-n", "ann", "-O", "force-command=/bin/true"), "is not a host's"),
        ((*HOST, "-O", "critical:other@example.org=x"), "critical options"),
    ],
    ids=["user", "expired", "later", "no principal", "user with options", "critical"],
)
async def test_a_certificate_that_is_not_for_this_is_refused(tmp_path, authority, verifier, options, why):
    with pytest.raises(NodeRejectedError, match=why):
        await Host(tmp_path, authority, options=options).prove(verifier)


async def test_a_certificate_of_another_authority_is_refused(tmp_path, verifier):
    stranger = Host(tmp_path, new_key(tmp_path / "other"))
    with pytest.raises(NodeRejectedError, match="no configured authority"):
        await stranger.prove(verifier)


async def test_a_certificate_whose_content_was_changed_is_refused(host, verifier):
    document = json.loads(await host.attestor.payload())
    raw = base64.b64decode(document["Certificate"])
    document["Certificate"] = encoded(raw.replace(b"web-1.example.org", b"web-2.example.org"))
    with pytest.raises(NodeRejectedError, match="certificate has a bad signature"):
        await verifier.verify(json.dumps(document).encode(), host.attestor.respond, Context())


async def test_a_host_of_another_domain_is_refused(host, authority):
    public = (authority.with_suffix(".pub").read_text(),)
    assert await host.prove(create(Config(cert_authorities=public, canonical_domain="example.org")))
    for domain in ("other.org", "ample.org", "web-1.example.org"):
        with pytest.raises(NodeRejectedError, match="no host of"):
            await host.prove(create(Config(cert_authorities=public, canonical_domain=domain)))


async def test_whoever_has_only_the_certificate_proves_nothing(tmp_path, host, verifier):
    thief = machine.create(machine.Config(new_key(tmp_path / "mine"), host.certificate))
    with pytest.raises(NodeRejectedError, match="challenge response has a bad signature"):
        await host.prove(verifier, thief.respond)


async def test_a_recorded_response_is_of_no_use(host, verifier):
    recorded = []

    async def record(challenge):
        recorded.append(await host.attestor.respond(challenge))
        return recorded[0]

    await host.prove(verifier, record)
    with pytest.raises(NodeRejectedError, match="challenge response has a bad signature"):
        await host.prove(verifier, record)


async def test_a_stock_agents_rsa_signature_is_taken(tmp_path, authority, verifier):
    host = Host(tmp_path, authority, "rsa")

    async def respond(challenge):
        theirs = base64.b64decode(json.loads(challenge)["Nonce"])
        digest = hashes.Hash(hashes.SHA256())
        digest.update(theirs + bytes(32))
        key = load_ssh_private_key(host.key.read_bytes(), None)
        blob = key.sign(digest.finalize(), padding.PKCS1v15(), hashes.SHA1())
        signature = {"Format": "ssh-rsa", "Blob": encoded(blob), "Rest": None}
        return json.dumps({"Nonce": encoded(bytes(32)), "Signature": signature}).encode()

    assert await host.prove(verifier, respond)


def spoiled(change):
    def respond_with(host):
        async def respond(challenge):
            answer = json.loads(await host.attestor.respond(challenge))
            changed = change(answer)
            return changed if isinstance(changed, bytes) else json.dumps(answer).encode()

        return respond

    return respond_with


@pytest.mark.parametrize(
    ("change", "why"),
    [
        (lambda a: a.update(Nonce=encoded(b"short")), "nonce of another length"),
        (lambda a: a["Signature"].update(Format="ssh-rsa"), "another kind"),
        (lambda a: a["Signature"].update(Blob="*"), "malformed"),
        (lambda a: a["Signature"].update(Blob=encoded(b"x")), "bad signature"),
        (lambda a: a.pop("Signature"), "malformed"),
        (lambda _: b"[]", "malformed"),
        (lambda _: b"[" * 100_000, "malformed|too large"),
        (lambda _: b" " * (MAX_PAYLOAD + 1), "too large"),
    ],
    ids=["nonce", "kind", "base64", "blob", "none", "list", "deep", "large"],
)
async def test_a_malformed_response_is_refused(host, verifier, change, why):
    with pytest.raises(NodeRejectedError, match=why):
        await host.prove(verifier, spoiled(change)(host))


@pytest.mark.parametrize("blob", [b"", b"\0\0\0\1", b"\0\0\0\0", b"\0\0\0\1a\0\0\0\1bc"])
async def test_a_malformed_ecdsa_signature_is_refused(tmp_path, authority, verifier, blob):
    host = Host(tmp_path, authority, "p256")
    with pytest.raises(NodeRejectedError, match=r"malformed|bad signature"):
        await host.prove(verifier, spoiled(lambda a: a["Signature"].update(Blob=encoded(blob)))(host))


@pytest.mark.parametrize(
    "payload",
    [
        b"",
        b"{}",
        b'{"Certificate": 1}',
        b'{"Certificate": "AAAA"}',
        b" " * (MAX_PAYLOAD + 1),
        b"[" * 60_000,
    ],
    ids=["empty", "nothing", "number", "cut", "large", "deep"],
)
async def test_a_malformed_payload_is_refused(host, verifier, payload):
    with pytest.raises(NodeRejectedError, match="payload"):
        await verifier.verify(payload, host.attestor.respond, Context())


async def test_a_key_without_a_certificate_is_refused(host, verifier):
    raw = base64.b64decode((host.key.parent / "host.pub").read_text().split()[1])
    payload = json.dumps({"Certificate": encoded(raw)}).encode()
    with pytest.raises(NodeRejectedError, match="without a certificate"):
        await verifier.verify(payload, host.attestor.respond, Context())


@pytest.mark.parametrize(
    ("config", "why"),
    [
        (Config(), "1 to 100 are needed"),
        (Config(cert_authorities=("nonsense",)), "is no public key"),
        (Config(cert_authorities=("ssh-ed25519 AAAA",)), "is no public key"),
    ],
    ids=["none", "nonsense", "cut"],
)
def test_authorities_are_judged_at_the_start(config, why):
    with pytest.raises(ConfigError, match=why):
        create(config)


def test_a_file_of_authorities_that_cannot_be_read_is_named(tmp_path):
    with pytest.raises(ConfigError, match="cert_authorities_path"):
        create(Config(cert_authorities_path=tmp_path / "none"))


@pytest.mark.parametrize("challenge", [b"", b"{}", b'{"Nonce": "AAAA"}', b'{"Nonce": 1}', b"[" * 99_999])
async def test_a_host_answers_no_malformed_challenge(host, challenge):
    with pytest.raises(NodeAttestationError, match="issuer's challenge"):
        await host.attestor.respond(challenge)


@pytest.mark.parametrize("text", ["", "ssh-ed25519 AAAA", "ssh-ed25519-cert-v01@openssh.com *"])
async def test_files_that_cannot_be_used_are_named(tmp_path, text):
    path = tmp_path / "file"
    path.write_text(text)
    attestor = machine.create(machine.Config(path, path))
    with pytest.raises(NodeAttestationError, match="host_cert_path"):
        await attestor.payload()
    with pytest.raises(NodeAttestationError, match="host_key_path"):
        await attestor.respond(json.dumps({"Nonce": encoded(bytes(32))}).encode())
    with pytest.raises(NodeAttestationError, match="cannot be read"):
        await machine.create(machine.Config(path, tmp_path / "none")).payload()

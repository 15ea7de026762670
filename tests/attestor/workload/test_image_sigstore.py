# SPDX-License-Identifier: Apache-2.0
"""Bundles signed with certificates: those of a fake instance, and a real one of the public good instance."""

import json
import os
import shutil
import subprocess
import sys
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.x509.oid import ExtendedKeyUsageOID

from attestor.errors import SignatureRejectedError
from attestor.workload.image_signers import Signer
from attestor.workload.image_sigstore import Sigstore
from spiffekit.daemon.config import ConfigError
from tests.fakes.sigstore import ISSUER, SUBJECT, FakeSigstore, changed, flipped, new_key, statement

ROOT = Path(__file__).parents[3]
PUBLIC_GOOD = json.loads((ROOT / "tests/vectors/sigstore/public_good.json").read_text())
GITHUB = "https://token.actions.githubusercontent.com"
REPOSITORY = "https://github.com/trailofbits/pypi-attestations"
WORKFLOW = f"{REPOSITORY}/.github/workflows/release.yml@refs/tags/v0.0.19"
DIGEST = "sha256:" + "2e" * 32
FAKE = FakeSigstore()


@pytest.fixture
def load(tmp_path):
    """Users of an instance, who know a signer, or some by name."""

    def load(trusted_root, signer):
        path = tmp_path / "trusted_root.json"
        path.write_text(trusted_root if isinstance(trusted_root, str) else json.dumps(trusted_root))
        return Sigstore.load(path, signer if isinstance(signer, dict) else {"release": signer})

    return load


@pytest.fixture
def fake(load):
    return load(FAKE.trusted_root(), Signer(issuer=ISSUER, subject=SUBJECT))


@pytest.fixture(params=["fake", "public good"])
def world(request, load):
    """Users of an instance, and a bundle that they believe."""
    if request.param == "fake":
        return request.getfixturevalue("fake"), FAKE.sign(statement(DIGEST))
    users = load(PUBLIC_GOOD["trusted_root"], Signer(issuer=GITHUB, subject=WORKFLOW))
    return users, PUBLIC_GOOD["bundle"]


def verify(users, bundle):
    return users.verify(json.dumps(bundle).encode())


def test_a_bundle_is_believed(world):
    signed = verify(*world)
    assert json.loads(signed.payload)["_type"] == "https://in-toto.io/Statement/v1"
    assert signed.signers == {"release"}
    assert [kind.removeprefix("image-signature-") for kind, _ in signed.details] == [
        "subject", "issuer", "value", "log-id", "log-index", "integrated-time", "signed-entry-timestamp"
    ]  # fmt: skip


def test_a_real_signature_has_the_details_that_its_log_shows(load):
    pattern = rf"{REPOSITORY}/[.]github/workflows/release[.]yml@refs/tags/.*"
    users = load(PUBLIC_GOOD["trusted_root"], Signer(issuer=GITHUB, subject_regexp=pattern))
    signed = verify(users, PUBLIC_GOOD["bundle"])
    (entry,) = PUBLIC_GOOD["bundle"]["verificationMaterial"]["tlogEntries"]
    assert (signed.subject, signed.repository) == (WORKFLOW, REPOSITORY)
    assert dict(signed.details) == {
        "image-signature-subject": WORKFLOW,
        "image-signature-issuer": GITHUB,
        "image-signature-value": PUBLIC_GOOD["bundle"]["dsseEnvelope"]["signatures"][0]["sig"],
        "image-signature-log-id": "c0d23d6ad406973f9559f3ba2d1ca01f84147d8ffc5b8445c224f98b9591801d",
        "image-signature-log-index": "153454647",
        "image-signature-integrated-time": "1733354026",
        "image-signature-signed-entry-timestamp": entry["inclusionPromise"]["signedEntryTimestamp"],
    }


OFFLINE = """
import json, pathlib, sys

def refuse(event, args):
    if event.startswith(("socket.connect", "socket.getaddrinfo")):
        raise AssertionError(event)

sys.addaudithook(refuse)
from attestor.workload.image_signers import Signer
from attestor.workload.image_sigstore import Sigstore

vector, root, issuer, subject = sys.argv[1:]
document = json.loads(pathlib.Path(vector).read_text())
pathlib.Path(root).write_text(json.dumps(document["trusted_root"]))
users = Sigstore.load(pathlib.Path(root), {"release": Signer(issuer=issuer, subject=subject)})
print(*users.verify(json.dumps(document["bundle"]).encode()).signers)
"""


def test_nobody_is_asked_and_nothing_is_kept(tmp_path):
    vector = ROOT / "tests/vectors/sigstore/public_good.json"
    done = subprocess.run(
        [sys.executable, "-c", OFFLINE, vector, tmp_path / "root.json", GITHUB, WORKFLOW],
        cwd=ROOT,
        env={**os.environ, "HOME": str(tmp_path)},
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert (done.stdout, done.returncode) == ("release\n", 0), done.stderr
    assert os.listdir(tmp_path) == ["root.json"]


ENTRY = "verificationMaterial.tlogEntries.0."
PROOF = ENTRY + "inclusionProof."
ENVELOPE = "dsseEnvelope."
MALFORMED = "^failed to load bundle"
TAMPERED = {
    "another payload": (ENVELOPE + "payload", flipped, "DSSE: invalid signature"),
    "another type of payload": (ENVELOPE + "payloadType", "text/plain", "DSSE: invalid signature"),
    "another signature": (ENVELOPE + "signatures.0.sig", flipped, "DSSE: invalid signature"),
    "no signature": (ENVELOPE + "signatures", [], "exactly one signature"),
    "two signatures": (ENVELOPE + "signatures", lambda s: s * 2, "exactly one signature"),
    "no envelope": ("dsseEnvelope", None, MALFORMED),
    "no log entry": ("verificationMaterial.tlogEntries", [], "exactly one log entry"),
    "two log entries": ("verificationMaterial.tlogEntries", lambda s: s * 2, "exactly one log entry"),
    "no inclusion proof": (ENTRY + "inclusionProof", None, MALFORMED),
    "no checkpoint": (PROOF + "checkpoint", None, "with checkpoint"),
    "a checkpoint of another size": (
        PROOF + "checkpoint.envelope",
        lambda s: s.replace("\n", "\n1", 1),
        "checkpoint: invalid signature",
    ),
    "a checkpoint nobody signed": (PROOF + "checkpoint.envelope", lambda s: s.split("\u2014")[0], "Note"),
    "a checkpoint signed otherwise": (
        PROOF + "checkpoint.envelope",
        lambda s: s[:-9] + "AAAA" + s[-5:],
        "checkpoint: invalid signature",
    ),
    "another root": (PROOF + "rootHash", flipped, "invalid root hash"),
    "a proof cut short": (PROOF + "hashes", lambda s: s[:-1], "wrong size"),
    "a proof by another path": (PROOF + "hashes.0", flipped, "invalid root hash"),
    "a proof for another place": (PROOF + "logIndex", "0", "inclusion proof"),
    "an empty tree": (PROOF + "treeSize", "0", MALFORMED),
    "no promise of the log": (ENTRY + "inclusionPromise", None, "must contain an inclusion promise"),
    "another promise": (ENTRY + "inclusionPromise.signedEntryTimestamp", flipped, "invalid inclusion"),
    "no time": (ENTRY + "integratedTime", None, "not enough sources of verified time"),
    "a time a day later": (ENTRY + "integratedTime", lambda s: str(int(s) + 86400), "not valid at"),
    "a time a second later": (
        ENTRY + "integratedTime", lambda s: str(int(s) + 1), "invalid inclusion promise"
    ),
    "a time beyond all": (ENTRY + "integratedTime", str(2**62), "is malformed"),
    "another index": (ENTRY + "logIndex", "7", "invalid inclusion promise"),
    "another log": (ENTRY + "logId.keyId", flipped, "invalid inclusion promise|checkpoint"),
    "another entry": (ENTRY + "canonicalizedBody", flipped, "invalid root hash"),
    "an entry of another kind": (ENTRY + "kindVersion.kind", "intoto", "only supported for"),
    "another certificate": ("verificationMaterial.certificate.rawBytes", flipped, "chain|malformed"),
    "no certificate": ("verificationMaterial.certificate", None, MALFORMED),
    "another version": ("mediaType", "application/vnd.dev.sigstore.bundle.v9+json", MALFORMED),
}  # fmt: skip


@pytest.mark.parametrize(("path", "value", "reason"), TAMPERED.values(), ids=TAMPERED)
def test_a_bundle_that_was_tampered_with_is_refused(world, path, value, reason):
    users, bundle = world
    with pytest.raises(SignatureRejectedError, match=reason):
        verify(users, changed(bundle, path, value))


def test_a_log_entry_of_another_signature_is_refused(fake):
    one, other = FAKE.sign(statement(DIGEST)), FAKE.sign(statement(DIGEST))
    entries = other["verificationMaterial"]["tlogEntries"]
    with pytest.raises(SignatureRejectedError, match="log entry signatures do not match"):
        verify(fake, changed(one, "verificationMaterial.tlogEntries", entries))


@pytest.mark.skipif(shutil.which("openssl") is None, reason="OpenSSL plays the timestamp authority")
def test_a_timestamp_authority_may_give_the_time_and_then_nothing_is_said_of_the_log(load, tmp_path):
    """Rekor 2 promises nothing beforehand: what it says of an entry is in its tree alone."""
    instance = FakeSigstore(now=datetime.now(UTC).replace(microsecond=0) - timedelta(minutes=1))
    signer = Signer(issuer=ISSUER, subject=SUBJECT)
    users = load(instance.trusted_root(), signer)
    bundle = instance.sign_and_stamp(statement(DIGEST), tmp_path)
    signed = verify(users, bundle)
    assert [kind for kind, _ in signed.details] == [
        "image-signature-subject", "image-signature-issuer", "image-signature-value"
    ]  # fmt: skip
    stamps = "verificationMaterial.timestampVerificationData.rfc3161Timestamps"
    other = instance.sign_and_stamp(statement(DIGEST), tmp_path)["verificationMaterial"]
    others = other["timestampVerificationData"]["rfc3161Timestamps"]
    for path, value, reason in (
        (stamps, [], "must contain an inclusion promise or signed timestamp"),
        (stamps, others, "not enough sources of verified time"),
        ("verificationMaterial.tlogEntries", other["tlogEntries"], "inconsistent with other materials"),
    ):
        with pytest.raises(SignatureRejectedError, match=reason):
            verify(users, changed(bundle, path, value))
    authorities = FAKE.trusted_root()["timestampAuthorities"]
    strangers = instance.trusted_root() | {"timestampAuthorities": authorities}
    with pytest.raises(SignatureRejectedError, match="not enough sources of verified time"):
        verify(load(strangers, signer), bundle)


URI = x509.UniformResourceIdentifier
STRANGERS = {
    "logged after its certificate ended": ({"after": timedelta(minutes=11)}, "not valid at"),
    "logged before its certificate began": ({"after": timedelta(seconds=-1)}, "not valid at"),
    "logged elsewhere": ({"rekor": new_key()}, "keyring: invalid signature|checkpoint"),
    "a certificate that is in no log": ({"ct": new_key()}, "SCT verify failed"),
    "a certificate for servers": ({"purpose": ExtendedKeyUsageOID.SERVER_AUTH}, "code signing"),
    "another subject": ({"names": [URI(SUBJECT + "2")]}, "is no signer that is configured"),
    "the subject in capitals": ({"names": [URI(SUBJECT.upper())]}, "is no signer"),
    "a subject that begins so": ({"names": [URI(SUBJECT[:-1])]}, "is no signer"),
    "the subject as one of two": ({"names": [URI(SUBJECT), URI("urn:x")]}, "not exactly one URI"),
    "a DNS name": ({"names": [x509.DNSName("git.example.org")]}, "not exactly one URI"),
    "another issuer": ({"issuer": "https://accounts.example.com"}, "is no signer"),
    "no issuer": ({"issuer": ""}, "is no signer"),
    "the issuer by the old extension only, but another by the new": (
        {"issuer": "https://accounts.example.com", "old_issuer": ISSUER}, "is no signer"
    ),
}  # fmt: skip


@pytest.mark.parametrize(("how", "reason"), STRANGERS.values(), ids=STRANGERS)
def test_who_is_not_configured_or_not_logged_in_time_is_refused(fake, how, reason):
    with pytest.raises(SignatureRejectedError, match=reason):
        verify(fake, FAKE.sign(statement(DIGEST), **how))


def test_an_old_certificate_names_its_issuer_otherwise(fake):
    assert verify(fake, FAKE.sign(statement(DIGEST), issuer="", old_issuer=ISSUER)).signers == {"release"}


def test_a_person_signs_by_an_email_address(load):
    users = load(FAKE.trusted_root(), Signer(issuer=ISSUER, subject="ann@example.org"))
    bundle = FAKE.sign(statement(DIGEST), names=[x509.RFC822Name("ann@example.org")])
    assert verify(users, bundle).subject == "ann@example.org"


def test_the_same_names_under_another_root_are_strangers(fake):
    with pytest.raises(SignatureRejectedError, match="certificate chain"):
        verify(fake, FakeSigstore().sign(statement(DIGEST)))


def test_a_pattern_has_to_match_the_whole_subject(load):
    names = {
        "whole": Signer(issuer=ISSUER, subject_regexp=r"https://git[.]example[.]org/web/.*"),
        "begin": Signer(issuer=ISSUER, subject_regexp=r"https://git[.]example[.]org/web/"),
        "end": Signer(issuer=ISSUER, subject_regexp=r"refs/heads/main"),
        "other": Signer(issuer=ISSUER + "/", subject_regexp=r".*"),
    }
    assert verify(load(FAKE.trusted_root(), names), FAKE.sign(statement(DIGEST))).signers == {"whole"}


def test_what_is_signed_has_to_be_a_statement(fake):
    with pytest.raises(SignatureRejectedError, match="no envelope of an in-toto statement"):
        verify(fake, FAKE.sign(b"{}", kind="application/json"))


@pytest.mark.parametrize("text", [b"", b"{", b"[]", b"{}", b"\xff", b'{"mediaType": 1}', b"[" * 100_000])
def test_what_is_no_bundle_is_refused(fake, text):
    with pytest.raises(SignatureRejectedError):
        fake.verify(text)


ROOTS = {
    "nothing": "",
    "no JSON": "{",
    "no root": "{}",
    "another version": changed(FAKE.trusted_root(), "mediaType", "application/json"),
    "no authority": changed(FAKE.trusted_root(), "certificateAuthorities", []),
    "no log": changed(FAKE.trusted_root(), "tlogs", []),
    "a broken authority": changed(
        FAKE.trusted_root(), "certificateAuthorities.0.certChain.certificates.0.rawBytes", "AAAA"
    ),
}


@pytest.mark.parametrize("root", ROOTS.values(), ids=ROOTS)
def test_what_is_no_trusted_root_cannot_be_loaded(load, root):
    with pytest.raises(ConfigError, match=r"^trusted_root: is no trusted root of a Sigstore instance$"):
        load(root, {})


def test_a_root_that_cannot_be_read_is_named(tmp_path):
    with pytest.raises(ConfigError, match=r"^trusted_root: No such file or directory$"):
        Sigstore.load(tmp_path / "missing", {})


@pytest.mark.parametrize("keys", ["ctlogs", "tlogs"])
def test_a_root_with_keys_of_another_log_believes_nothing(load, keys):
    root = FAKE.trusted_root() | {keys: FakeSigstore().trusted_root()[keys]}
    with pytest.raises(SignatureRejectedError):
        verify(load(root, Signer(issuer=ISSUER, subject=SUBJECT)), FAKE.sign(statement(DIGEST)))


@pytest.mark.parametrize("where", ["certificateAuthorities.0", "tlogs.0.publicKey", "ctlogs.0.publicKey"])
def test_until_when_an_authority_is_trusted_is_not_heeded_as_the_reference_says(load, where):
    ended = {"start": "2020-01-01T00:00:00Z", "end": "2021-01-01T00:00:00Z"}
    root = changed(FAKE.trusted_root(), f"{where}.validFor", lambda _: ended)
    users = load(root, Signer(issuer=ISSUER, subject=SUBJECT))
    assert verify(users, FAKE.sign(statement(DIGEST))).signers == {"release"}

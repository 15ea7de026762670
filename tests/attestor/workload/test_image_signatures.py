# SPDX-License-Identifier: Apache-2.0
"""What is stated of an image by the bundles in a folder, and who cannot make it state more."""

import asyncio
import json
import os
import subprocess
import sys

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import serialization

from attestor.workload import containers, image_signatures
from attestor.workload.image_signatures import (
    MAX_BUNDLE,
    MAX_BUNDLES,
    MAX_FILE,
    Config,
    create,
)
from attestor.workload.image_signers import Signer
from spiffekit.daemon.config import ConfigError, decode
from spiffekit.selector import typo
from tests.fakes.sigstore import ISSUER, SUBJECT, FakeSigstore, keyed, new_key, provenance, statement

DIGEST, OTHER = "sha256:" + "2e" * 32, "sha256:" + "3f" * 32
GENERATOR = "https://builder.example/generator@refs/tags/v2"
REPOSITORY = "https://git.example.org/web"
FAKE = FakeSigstore()
KEY = new_key()
SIGNERS = {
    "release": Signer(issuer=ISSUER, subject=SUBJECT, slsa_level=2, builders={GENERATOR: 3}),
    "ann": Signer(issuer=ISSUER, subject="ann@example.org"),
}
ANN = {"names": [x509.RFC822Name("ann@example.org")]}


@pytest.fixture
def folder(tmp_path):
    found = tmp_path / "bundles"
    found.mkdir()
    return found


@pytest.fixture
def config(folder, tmp_path):
    """A configuration with signers by certificate and by key."""
    (tmp_path / "root.json").write_text(json.dumps(FAKE.trusted_root()))
    (tmp_path / "key.pem").write_bytes(
        KEY.public_key().public_bytes(
            serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo
        )
    )
    by_key = Signer(public_key=tmp_path / "key.pem", builders={GENERATOR: 1})
    return Config(folder=folder, signers=SIGNERS | {"ci": by_key}, trusted_root=tmp_path / "root.json")


@pytest.fixture
def images(config):
    return create(config)


@pytest.fixture
def put(folder):
    """Writes the file of an image, a bundle in each line."""

    def put(*bundles, digest=DIGEST):
        lines = [one if isinstance(one, bytes) else json.dumps(one).encode() for one in bundles]
        path = folder / f"{digest.replace(':', '-')}.jsonl"
        path.write_bytes(b"".join(line + b"\n" for line in lines))
        return path

    return put


async def stated(images, *digests):
    """What is stated, as the selectors of a container."""
    found = containers.selectors("docker", await images.stated(digests or (DIGEST,)))
    assert [one for one in found if typo(one)] == []
    return {str(one).removeprefix("docker:") for one in found}


def reasons(caplog):
    return [record.reason for record in caplog.records]


async def test_a_signature_is_stated_as_spire_does(images, put):
    bundle = FAKE.sign(statement(DIGEST))
    put(bundle)
    (entry,) = bundle["verificationMaterial"]["tlogEntries"]
    log = {key.partition(":")[0]: key for key in await stated(images)}["image-signature-log-id"]
    assert await stated(images) == {
        "image-signature:verified",
        "image-signed-by:release",
        f"image-signature-subject:{SUBJECT}",
        f"image-signature-issuer:{ISSUER}",
        f"image-signature-value:{bundle['dsseEnvelope']['signatures'][0]['sig']}",
        log,
        f"image-signature-log-index:{entry['logIndex']}",
        f"image-signature-integrated-time:{entry['integratedTime']}",
        "image-signature-signed-entry-timestamp:" + entry["inclusionPromise"]["signedEntryTimestamp"],
    }


async def test_a_signature_by_a_key_is_stated_without_names_and_log(images, put):
    put(keyed(KEY, statement(DIGEST)))
    assert await stated(images) == {"image-signature:verified", "image-signed-by:ci"}


async def test_an_attestation_is_no_signature(images, put):
    put(FAKE.sign(statement(DIGEST, "https://spdx.dev/Document", {"any": "thing"}), **ANN))
    assert await stated(images) == {"image-attestations:verified", "image-attested-by:ann"}


async def test_of_an_image_without_bundles_nothing_is_known(images, put, caplog):
    put(FAKE.sign(statement(OTHER)), digest=OTHER)
    assert await stated(images) == set()
    assert await stated(images, "", "latest", "sha256:../../etc", DIGEST.upper()) == set()
    assert caplog.records == []


BUILT = {"image-attestations:verified", "image-attested-by:release"}


@pytest.mark.parametrize(("builder", "level"), [(SUBJECT, 2), (GENERATOR, 3)])
async def test_provenance_is_that_of_a_builder_that_the_signer_may_speak_for(images, put, builder, level):
    put(FAKE.sign(provenance(DIGEST, builder)))
    assert await stated(images) == BUILT | {
        f"image-builder:{builder}",
        f"image-source:{REPOSITORY}",
        f"image-slsa-level:{level}",
    }


async def test_provenance_by_a_key_has_the_level_of_that_signer(images, put):
    put(keyed(KEY, provenance(DIGEST, GENERATOR)))
    assert "image-slsa-level:1" in await stated(images)


async def test_nobody_speaks_for_the_builder_of_another(images, put):
    put(FAKE.sign(provenance(DIGEST, GENERATOR), **ANN), FAKE.sign(provenance(DIGEST, SUBJECT), **ANN))
    assert await stated(images) == {"image-attestations:verified", "image-attested-by:ann"}


@pytest.mark.parametrize("builder", [GENERATOR + " ", GENERATOR[:-1], GENERATOR.upper(), "", "release"])
async def test_a_builder_is_compared_exactly(images, put, builder):
    put(FAKE.sign(provenance(DIGEST, builder)))
    assert await stated(images) == BUILT


async def test_a_builder_cannot_state_its_own_level(images, put):
    said = provenance(DIGEST, SUBJECT, slsaLevel=3, level=3)
    said["predicate"]["runDetails"]["builder"] |= {"level": 3, "slsaLevel": "SLSA_BUILD_LEVEL_3"}
    put(FAKE.sign(said))
    assert {one for one in await stated(images) if "level" in one} == {"image-slsa-level:2"}


async def test_provenance_that_names_another_source_than_its_certificate_is_refused(images, put, caplog):
    put(FAKE.sign(provenance(DIGEST, repository="https://git.example.org/trusted"), repository=REPOSITORY))
    assert await stated(images) == set()
    assert reasons(caplog) == ["bundle names another source than its certificate"]
    put(
        FAKE.sign(
            provenance(DIGEST, repository=f"git+{REPOSITORY}.git@refs/heads/main"), repository=REPOSITORY
        )
    )
    assert f"image-source:{REPOSITORY}" in await stated(images)
    put(FAKE.sign(provenance(DIGEST, repository=""), repository=REPOSITORY))
    assert await stated(images) == BUILT | {f"image-builder:{SUBJECT}", "image-slsa-level:2"}


async def test_of_two_builds_that_differ_none_is_stated(images, put):
    """Otherwise the builder of one and the source of the other could be taken for one build."""
    trusted = FAKE.sign(provenance(DIGEST, GENERATOR))
    put(trusted, FAKE.sign(provenance(DIGEST, SUBJECT, "https://git.example.org/other")))
    assert await stated(images) == BUILT
    put(trusted, FAKE.sign(provenance(DIGEST, GENERATOR)))
    assert f"image-builder:{GENERATOR}" in await stated(images)
    put(FAKE.sign(provenance(OTHER, SUBJECT)), digest=OTHER)
    assert await stated(images, DIGEST, OTHER) == BUILT


async def test_an_image_is_known_by_each_of_its_digests(images, put):
    put(FAKE.sign(statement(DIGEST)))
    put(keyed(KEY, statement(OTHER)), digest=OTHER)
    assert {"image-signed-by:release", "image-signed-by:ci"} <= await stated(images, DIGEST, OTHER)


async def test_a_certificate_of_several_signers_is_each_ones_and_has_the_least_level(config, put):
    pattern = Signer(issuer=ISSUER, subject_regexp=r"https://git\.example\.org/.*", slsa_level=1)
    signers = {**SIGNERS, "forge": pattern}
    put(FAKE.sign(provenance(DIGEST, SUBJECT)))
    found = await stated(
        create(Config(folder=config.folder, signers=signers, trusted_root=config.trusted_root))
    )
    assert {"image-attested-by:release", "image-attested-by:forge", "image-slsa-level:1"} <= found


def doubled(bundle):
    """The same bundle, with a name that stands twice."""
    return json.dumps(bundle).encode()[:-1] + b',"mediaType":"application/vnd.dev.sigstore.bundle.v0.3+json"}'


REFUSED = {
    "a bundle of another image": (lambda: FAKE.sign(statement(OTHER)), "something else than the image"),
    "a key's bundle of another image": (lambda: keyed(KEY, statement(OTHER)), "something else"),
    "a signer who is not configured": (
        lambda: FAKE.sign(statement(DIGEST), names=[x509.RFC822Name("eve@example.org")]),
        "'eve@example.org' of 'https://accounts.example.org' is no signer that is configured",
    ),
    "a key that is not configured": (lambda: keyed(new_key(), statement(DIGEST)), "by no key that is known"),
    "another instance": (lambda: FakeSigstore().sign(statement(DIGEST)), "certificate chain"),
    "a name twice": (lambda: doubled(FAKE.sign(statement(DIGEST))), "no well-formed bundle"),
    "a name twice in what is signed": (
        lambda: FAKE.sign(doubled(statement(DIGEST))[:-1] + b',"mediaType":1}'), "no well-formed statement"
    ),
    "a huge bundle": (lambda: FAKE.sign(statement(DIGEST, note="x" * MAX_BUNDLE)), "no well-formed bundle"),
    "no JSON": (lambda: b"secret", "no well-formed bundle"),
    "no object": (lambda: b"[]", "no well-formed bundle"),
    "an empty object": (lambda: b"{}", "failed to load bundle"),
    "material that is none": (lambda: {"verificationMaterial": "publicKey"}, "failed to load bundle"),
    "a key's bundle without envelope": (
        lambda: {"verificationMaterial": {"publicKey": {}}}, "no well-formed bundle"
    ),
    "a key's bundle that is no base64": (
        lambda: keyed(KEY, statement(DIGEST)) | {"dsseEnvelope": {
            "payload": "?", "payloadType": "application/vnd.in-toto+json", "signatures": []
        }}, "no well-formed bundle"
    ),
    "depth": (lambda: b"[" * 100_000, "no well-formed bundle"),
}  # fmt: skip


@pytest.mark.parametrize(("bundle", "reason"), REFUSED.values(), ids=REFUSED)
async def test_what_cannot_be_believed_says_nothing_and_takes_nothing_away(
    images, put, caplog, bundle, reason
):
    put(bundle())
    assert await stated(images) == set()
    (found,) = reasons(caplog)
    assert found.startswith("bundle ")
    assert reason in found
    assert "secret" not in caplog.text
    put(bundle(), b"", keyed(KEY, statement(DIGEST)), bundle())
    assert await stated(images) == {"image-signature:verified", "image-signed-by:ci"}
    assert [record.number for record in caplog.records[1:]] == [1, 3]


def test_without_signers_by_certificate_their_package_is_not_even_loaded():
    program = """
import sys, attestor.cli, attestor.assembly
from attestor.workload import cri, docker, image_signatures, k8s, podman
print(sorted({"sigstore", "pydantic", "requests", "tuf"} & set(sys.modules)))
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=60)
    assert (done.stdout, done.stderr) == ("[]\n", "")


async def test_without_signers_by_certificate_none_is_believed(config, put, caplog):
    images = create(Config(folder=config.folder, signers={"ci": config.signers["ci"]}))
    put(FAKE.sign(statement(DIGEST)))
    assert await stated(images) == set()
    assert reasons(caplog) == ["bundle is signed with a certificate, and no signer has one"]


async def test_too_many_bundles_are_none(images, put, caplog):
    put(*[keyed(KEY, statement(DIGEST))] * MAX_BUNDLES)
    assert await stated(images) == {"image-signature:verified", "image-signed-by:ci"}
    put(*[keyed(KEY, statement(DIGEST))] * (MAX_BUNDLES + 1))
    assert await stated(images) == set()
    assert reasons(caplog) == [f"file has more than {MAX_BUNDLES} bundles"]


async def test_a_huge_file_is_not_read(images, put, caplog):
    path = put(keyed(KEY, statement(DIGEST)))
    os.truncate(path, MAX_FILE + 1)
    assert await stated(images) == set()
    assert reasons(caplog) == [f"file is larger than {MAX_FILE} bytes"]


async def test_links_lead_out_of_the_folder_nowhere(images, put, folder, tmp_path):
    """Within it they are followed: Kubernetes mounts its objects so."""
    path = put(keyed(KEY, statement(DIGEST)))
    path.rename(tmp_path / "elsewhere")
    for target in (tmp_path / "elsewhere", "../elsewhere", "/proc/self/cwd/elsewhere"):
        path.symlink_to(target)
        assert await stated(images) == set()
        path.unlink()
    (folder / "..data").mkdir()
    (tmp_path / "elsewhere").rename(folder / "..data" / "file")
    path.symlink_to("..data/file")
    assert "image-signed-by:ci" in await stated(images)


@pytest.mark.parametrize("make", [os.mkfifo, os.mkdir], ids=["a pipe", "a folder"])
async def test_what_is_no_file_is_not_opened(images, put, caplog, make):
    path = put()
    path.unlink()
    make(path)
    assert await asyncio.wait_for(stated(images), 5) == set()
    assert await stated(images) == set()
    assert reasons(caplog) == ["is no regular file"]


async def test_a_file_that_cannot_be_read_is_told_once(images, put, folder, caplog):
    path = put()
    path.unlink()
    path.symlink_to(path.name)
    for _ in range(3):
        assert await stated(images) == set()
    assert reasons(caplog) == ["file cannot be read: cannot be opened"]
    path.unlink()
    put(keyed(KEY, statement(DIGEST)))
    assert "image-signed-by:ci" in await stated(images)
    (folder / path.name).unlink()
    folder.rmdir()
    assert await stated(images) == set()


async def test_a_folder_of_thousands_is_not_listed(images, put, folder, monkeypatch):
    for number in range(5000):
        put(digest=f"sha256:{number:064x}")
    put(keyed(KEY, statement(DIGEST)))
    monkeypatch.setattr(os, "listdir", None)
    monkeypatch.setattr(os, "scandir", None)
    assert "image-signed-by:ci" in await stated(images)


class Counting:
    """Counts what it passes on."""

    def __init__(self, verifier):
        self.verifier = verifier
        self.asked = 0

    def verify(self, bundle):
        self.asked += 1
        return self.verifier.verify(bundle)


@pytest.fixture
def counting(images):
    images._certificates = Counting(images._certificates)
    return images._certificates


async def test_an_image_is_verified_once_for_all_who_ask(images, put, counting):
    put(FAKE.sign(statement(DIGEST)), FAKE.sign(statement(DIGEST), **ANN))
    found = await asyncio.gather(*(stated(images) for _ in range(200)))
    assert all(one == found[0] for one in found)
    assert {"image-signed-by:release", "image-signed-by:ann"} <= found[0]
    assert counting.asked == 2


async def test_a_file_that_changed_is_verified_anew(images, put, counting):
    path = put(FAKE.sign(statement(DIGEST)))
    assert "image-signed-by:release" in await stated(images)
    before = path.stat()
    changed = path.read_bytes().replace(b'"mediaType"', b'"mediaTypo"')
    path.write_bytes(changed)
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))  # as before, by all that a user can set
    assert path.stat().st_size == before.st_size
    assert await stated(images) == set()
    assert await stated(images) == set()
    assert counting.asked == 2
    path.unlink()
    assert await stated(images) == set()
    put(FAKE.sign(statement(DIGEST)))
    assert "image-signed-by:release" in await stated(images)


async def test_what_is_remembered_is_bounded(images, put, counting, monkeypatch):
    monkeypatch.setattr(image_signatures, "MAX_REMEMBERED", 2)
    digests = [f"sha256:{number:064x}" for number in range(3)]
    for digest in digests:
        put(FAKE.sign(statement(digest)), digest=digest)
        await stated(images, digest)
    await stated(images, digests[1], digests[2])
    assert counting.asked == 3
    await stated(images, digests[0])
    assert counting.asked == 4


async def test_who_gives_up_does_not_harm_others(images, put):
    put(FAKE.sign(statement(DIGEST)))
    one, other = (asyncio.create_task(stated(images)) for _ in range(2))
    await asyncio.sleep(0)
    one.cancel()
    assert "image-signed-by:release" in await other


def test_nothing_is_made_without_a_table():
    assert create(None) is None


def errors(table):
    config, problems = decode(table, Config)
    if problems:
        return problems
    with pytest.raises(ConfigError) as caught:
        create(config)
    return caught.value.errors


def test_every_mistake_in_the_table_is_named(tmp_path):
    by_certificate = {"issuer": "i", "subject": "s"}
    table = {"folder": str(tmp_path), "signers": {"release": by_certificate}}
    assert errors(table) == ["signatures.trusted_root: is required for signers without public_key"]
    assert errors({**table, "trusted_root": str(tmp_path / "x")}) == [
        "signatures.trusted_root: No such file or directory"
    ]
    assert errors({**table, "folder": str(tmp_path / "x"), "signers": {"a b": {"public_key": "/k"}}}) == [
        "signatures.signers: 'a b' is no name: use 1 to 64 of A-Z, a-z, 0-9, '_', '.' and '-'",
        "signatures.folder: is no folder",
    ]
    assert errors({**table, "signers": {"ci": {"public_key": str(tmp_path / "x")}}}) == [
        "signatures.signers.ci.public_key: No such file or directory"
    ]
    levels = by_certificate | {"slsa_level": 4, "builders": {"b": 0}}
    assert errors({**table, "signers": {"release": levels}, "typo": 1}) == [
        "typo: unknown key",
        "signers.release.slsa_level: Expected `int` <= 3",
        "signers.release.builders: Expected `int` >= 1",
    ]
    assert errors({}) == ["folder: is required", "signers: is required"]


def test_without_the_package_it_is_said_what_is_missing(config, monkeypatch):
    monkeypatch.setitem(sys.modules, "attestor.workload.image_sigstore", None)
    with pytest.raises(ConfigError, match=r"^signatures\.trusted_root: needs the extra `signatures` to be"):
        create(config)

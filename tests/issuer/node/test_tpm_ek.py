# SPDX-License-Identifier: Apache-2.0
"""A machine proves itself with a real software TPM; nothing else proves anything."""

import base64
import hashlib
import json

import pytest

from attestor.errors import NodeAttestationError
from attestor.node import tpm_ek as machine
from issuer.errors import NodeRejectedError
from issuer.model import AttestationLevel
from issuer.node import tpm
from issuer.node.payloads import MAX_BYTES
from issuer.node.tpm_ek import Config, create
from spiffekit.daemon.config import ConfigError
from spiffekit.selector import typo
from tests.issuer.node.x509pop_node import Context

ZEROS = "00" * 32


def encoded(data):
    return base64.b64encode(data).decode()


def decoded(text):
    return base64.b64decode(text)


def fingerprint(payload):
    return hashlib.sha256(decoded(json.loads(payload)["ek_public"])[2:]).hexdigest()


async def prove(host, verifier, respond=None, **changes):
    payload = json.loads(await host.payload()) | changes
    return await verifier.verify(json.dumps(payload).encode(), respond or host.respond, Context())


@pytest.fixture
def host(real):
    return machine.create(machine.Config(real.tcti))


@pytest.fixture
def verifier(real):
    return create(Config(real.authority))


def spoiled(host, **changes):
    """Change fields of the response; each is told the good one."""

    async def respond(challenge):
        answer = json.loads(await host.respond(challenge))
        for field, change in changes.items():
            answer[field] = encoded(change(decoded(answer[field])))
        return json.dumps(answer).encode()

    return respond


def asked_otherwise(host, **changes):
    """Answer another question than the issuer's."""

    async def respond(challenge):
        return await host.respond(json.dumps(json.loads(challenge) | changes).encode())

    return respond


async def test_a_machine_proves_itself_by_the_certificate_of_its_tpm(host, verifier):
    proof = await prove(host, verifier)
    digest = fingerprint(await host.payload())
    assert proof.node_id == Context().node_id(f"/tpm_ek/{digest}")
    assert (proof.can_reattest, proof.level) == (True, AttestationLevel.TPM)
    pcrs = {s.value for s in proof.selectors if s.value.startswith("pcr:")}
    assert pcrs == {f"pcr:sha256:0:{ZEROS}", f"pcr:sha256:7:{ZEROS}"}
    assert {s.value for s in proof.selectors} - pcrs == {f"ek-hash:{digest}", "manufacturer:00001014"}
    assert [typo(selector) for selector in proof.selectors] == [None] * 4


async def test_a_machine_proves_itself_by_the_hash_of_its_key(real):
    host = machine.create(machine.Config(real.tcti, key="ecc"))
    digest = fingerprint(await host.payload())
    proof = await prove(host, create(Config(ek_hashes=(digest,))))
    assert proof.node_id.path == f"/spire/agent/tpm_ek/{digest}"
    assert proof.node_id == (await prove(host, create(Config(ek_hashes=(digest,))))).node_id
    with pytest.raises(NodeRejectedError, match="not in ek_hashes"):
        await prove(host, create(Config(ek_hashes=("00" * 32,))))


async def test_a_listed_key_needs_no_good_certificate(host):
    digest = fingerprint(await host.payload())
    proof = await prove(host, create(Config(ek_hashes=(digest,))))
    assert not any(selector.value.startswith("manufacturer") for selector in proof.selectors)


async def test_a_key_that_is_neither_listed_nor_certified_is_refused(host, verifier):
    with pytest.raises(NodeRejectedError, match="has no certificate and is not in ek_hashes"):
        await prove(host, verifier, ek_certificate="")


async def test_the_tpm_of_another_authority_is_refused(host, other):
    with pytest.raises(NodeRejectedError, match="no configured root vouches"):
        await prove(host, create(Config(other.authority)))


async def test_the_certificate_of_another_tpm_is_refused(host, other, verifier):
    theirs = json.loads(await machine.create(machine.Config(other.tcti)).payload())["ek_certificate"]
    with pytest.raises(NodeRejectedError, match="of another endorsement key"):
        await prove(host, verifier, ek_certificate=theirs)


async def test_the_attestation_key_of_another_tpm_is_refused(host, other, verifier):
    """The good machine cannot open a secret that is for another's key, nor the other one for this one's."""
    stranger = machine.create(machine.Config(other.tcti))
    theirs = json.loads(await stranger.payload())["ak_public"]
    for respond in (host.respond, stranger.respond):
        with pytest.raises(NodeAttestationError, match="tpm2_activatecredential failed"):
            await prove(host, verifier, respond, ak_public=theirs)


async def test_an_older_attestation_key_is_not_this_one(host, verifier):
    older = json.loads(await host.payload())["ak_public"]
    with pytest.raises(NodeAttestationError, match="tpm2_activatecredential failed"):
        await prove(host, verifier, ak_public=older)


@pytest.mark.parametrize(
    ("attributes", "why"),
    [
        ("fixedtpm|fixedparent|sensitivedataorigin|userwithauth|sign", "lacks the attribute restricted"),
        ("sensitivedataorigin|userwithauth|sign", "lacks the attribute fixedTPM"),
        (
            "fixedtpm|fixedparent|sensitivedataorigin|userwithauth|restricted|decrypt",
            "lacks the attribute sign",
        ),
    ],
    ids=["signs anything", "can be moved", "decrypts"],
)
async def test_a_key_that_is_for_something_else_attests_nothing(
    tmp_path, real, host, verifier, attributes, why
):
    real("createprimary", "-C", "e", "-G", "ecc", "-c", "primary", cwd=tmp_path)
    kind = "ecc" if attributes.endswith("decrypt") else "ecc:ecdsa-sha256"
    real(
        "create", "-C", "primary", "-G", kind, "-a", attributes, "-u", "public", "-r", "private", cwd=tmp_path
    )
    with pytest.raises(NodeRejectedError, match=why):
        await prove(host, verifier, ak_public=encoded((tmp_path / "public").read_bytes()))


async def test_another_key_than_the_default_is_no_endorsement_key(tmp_path, real, host, verifier):
    real("createprimary", "-C", "e", "-G", "ecc", "-c", "primary", cwd=tmp_path)
    real("readpublic", "-c", "primary", "-o", "public", cwd=tmp_path)
    with pytest.raises(NodeRejectedError, match="default template"):
        await prove(host, verifier, ek_public=encoded((tmp_path / "public").read_bytes()))


async def test_a_recorded_response_is_of_no_use(host, verifier):
    recorded = []

    async def record(challenge):
        recorded.append(await host.respond(challenge))
        return recorded[0]

    payload = await host.payload()
    await verifier.verify(payload, record, Context())
    with pytest.raises(NodeRejectedError, match="another secret"):
        await verifier.verify(payload, record, Context())


async def test_a_recorded_quote_is_of_no_use_with_the_right_secret(host, verifier):
    recorded = {}

    async def record(challenge):
        answer = json.loads(await host.respond(challenge))
        recorded.setdefault("quote", answer["quote"])
        recorded.setdefault("signature", answer["signature"])
        return json.dumps(answer | recorded).encode()

    payload = await host.payload()
    await verifier.verify(payload, record, Context())
    with pytest.raises(NodeRejectedError, match="over another nonce"):
        await verifier.verify(payload, record, Context())


@pytest.mark.parametrize(
    ("changes", "why"),
    [
        ({"nonce": encoded(b"n" * 32)}, "over another nonce"),
        ({"pcrs": "sha256:0"}, "of other registers"),
        ({"pcrs": "sha256:0,1"}, "of other registers"),
    ],
    ids=["nonce", "fewer", "others"],
)
async def test_a_quote_of_something_else_is_refused(host, verifier, changes, why):
    with pytest.raises(NodeRejectedError, match=why):
        await prove(host, verifier, asked_otherwise(host, **changes))


@pytest.mark.parametrize(
    ("changes", "why"),
    [
        ({"secret": lambda _: bytes(32)}, "another secret"),
        ({"secret": lambda s: s[:-1]}, "another secret"),
        ({"quote": lambda q: q[:-1] + b"\0"}, "not by the attestation key"),
        ({"quote": lambda q: q[:-1]}, "not by the attestation key"),
        ({"signature": lambda s: s[:-1]}, "signature is cut short"),
        ({"signature": lambda s: s + b"\0"}, "after its end"),
        ({"signature": lambda _: bytes(4000)}, "signature is too large"),
        ({"signature": lambda s: b"\0\x18" + s[2:]}, "another algorithm"),
        ({"pcrs": lambda _: b"\1" * 64}, "other contents"),
        ({"pcrs": lambda p: p[:-1]}, "other contents"),
    ],
    ids=[
        "secret",
        "cut secret",
        "quote",
        "cut quote",
        "cut signature",
        "long",
        "large",
        "kind",
        "pcrs",
        "cut pcrs",
    ],
)
async def test_a_response_that_was_changed_is_refused(host, verifier, changes, why):
    with pytest.raises(NodeRejectedError, match=why):
        await prove(host, verifier, spoiled(host, **changes))


async def test_registers_have_to_have_what_the_policy_says(tmp_path, real, host):
    async def attempt(*digests):
        return await prove(host, create(Config(real.authority, pcrs=(0, 16), pcr_digests={"16": digests})))

    real("pcrreset", "16", cwd=tmp_path)
    assert await attempt("11" * 32, ZEROS)
    real("pcrextend", f"16:sha256={'22' * 32}", cwd=tmp_path)
    extended = hashlib.sha256(bytes(32) + b"\x22" * 32).hexdigest()
    assert await attempt(extended)
    for digests in ((ZEROS,), ()):
        with pytest.raises(NodeRejectedError, match="register 16 has"):
            await attempt(*digests)


@pytest.mark.parametrize(
    "payload",
    [
        b"",
        b"[]",
        b"{}",
        b'{"ek_public": 1}',
        b'{"ek_public": "AAAA"}',
        b"[" * 30_000,
        b" " * (MAX_BYTES + 1),
    ],
    ids=["empty", "list", "nothing", "number", "cut", "deep", "large"],
)
async def test_a_malformed_payload_is_refused(host, verifier, payload):
    with pytest.raises(NodeRejectedError, match=r"payload|endorsement key"):
        await verifier.verify(payload, host.respond, Context())


async def test_a_key_that_is_cut_anywhere_is_refused(host):
    document = json.loads(await host.payload())
    for field, read in (("ek_public", tpm.endorsement_key), ("ak_public", tpm.attestation_key)):
        whole = decoded(document[field])
        for end in range(len(whole)):
            area = whole[2:end]
            with pytest.raises(NodeRejectedError):
                read(len(area).to_bytes(2) + area)
            with pytest.raises(NodeRejectedError):
                read(whole[:end])


@pytest.mark.parametrize(
    ("config", "why"),
    [
        ({}, "ek_ca_path or ek_hashes is needed"),
        ({"ek_hashes": ("AB",)}, "is no SHA-256"),
        ({"ek_hashes": (ZEROS,), "pcr_bank": "md5"}, "pcr_bank"),
        ({"ek_hashes": (ZEROS,), "pcrs": ()}, "pcrs"),
        ({"ek_hashes": (ZEROS,), "pcrs": (24,)}, "pcrs"),
        ({"ek_hashes": (ZEROS,), "pcr_digests": {"1": ()}}, "is not in pcrs"),
        ({"ek_hashes": (ZEROS,), "pcr_digests": {"0": ("00",)}}, "digests of 32 bytes"),
    ],
    ids=["nothing", "hash", "bank", "no registers", "register", "not quoted", "digest"],
)
def test_the_policy_is_judged_at_the_start(config, why):
    with pytest.raises(ConfigError, match=why):
        create(Config(**config))


def test_authorities_that_cannot_be_read_are_named(tmp_path):
    (tmp_path / "empty").touch()
    for name in ("none", "empty"):
        with pytest.raises(ConfigError, match="ek_ca_path"):
            create(Config(tmp_path / name))


@pytest.mark.parametrize(
    "challenge",
    [b"", b"{}", b"[]", b'{"credential":"\xff"}', b" " * 40_000],
    ids=["empty", "nothing", "list", "bytes", "large"],
)
async def test_a_machine_answers_no_malformed_challenge(host, challenge):
    with pytest.raises(NodeAttestationError, match="issuer's challenge"):
        await host.respond(challenge)


async def test_a_selection_is_no_way_to_other_options(host):
    question = {"credential": "", "secret": "", "nonce": encoded(b"n"), "pcrs": "sha256:0 --help"}
    with pytest.raises(NodeAttestationError, match="malformed"):
        await host.respond(json.dumps(question).encode())


async def test_a_tpm_that_is_not_there_is_named(tmp_path, real):
    host = machine.create(machine.Config(f"swtpm:path={tmp_path}/none"))
    with pytest.raises(NodeAttestationError, match="tpm2_createek failed"):
        await host.payload()


def test_without_tpm2_tools_the_configuration_is_refused(monkeypatch):
    monkeypatch.setenv("PATH", "/nonexistent")
    with pytest.raises(ConfigError, match="needs tpm2-tools"):
        machine.create(machine.Config())

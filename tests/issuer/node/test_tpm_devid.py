# SPDX-License-Identifier: Apache-2.0
"""A machine proves its device identity with a real software TPM, in SPIRE's words; nothing else proves it."""

import asyncio
import base64
import json
from datetime import timedelta

import pytest
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, padding
from cryptography.hazmat.primitives.serialization import Encoding

from attestor.errors import NodeAttestationError
from attestor.node import tpm_devid as machine
from issuer.errors import NodeRejectedError
from issuer.model import AttestationLevel
from issuer.node import tpm
from issuer.node.payloads import MAX_BYTES
from issuer.node.tpm_devid import Config, create
from spiffekit.certificates import pem_certificate
from spiffekit.daemon.config import ConfigError
from spiffekit.selector import typo
from spiffekit.testing import CA_USAGE, TestCA
from tests.issuer.node import tpm_structures as made
from tests.issuer.node.x509pop_node import ROOT, Context, Intermediate

RESIDENT = "fixedtpm|fixedparent|sensitivedataorigin|userwithauth|sign"
STORAGE = f"{RESIDENT.removesuffix('|sign')}|noda|restricted|decrypt"  # as stock agents expect it
KINDS = {"rsa": "rsa2048:rsassa-sha256:null", "ecc": "ecc256:ecdsa-sha256:null"}
INTERMEDIATE = Intermediate(ROOT)


def encoded(data):
    return base64.b64encode(data).decode()


def decoded(text):
    return base64.b64decode(text)


class Device:
    """A machine with a DevID key in its TPM and a certificate of it."""

    def __init__(self, real, folder, kind="ecc", *, attributes=RESIDENT, password=None, key=None):
        self.folder, self.tcti = folder, real.tcti
        folder.mkdir(exist_ok=True)
        storage = {"rsa": "rsa2048", "ecc": "ecc"}[kind]
        real("createprimary", "-C", "o", "-G", storage, "-a", STORAGE, "-c", "srk", cwd=folder)
        secret = ("-p", password) if password else ()
        real(
            *("create", "-C", "srk", "-G", KINDS[kind], "-a", attributes, *secret),
            *("-u", "public", "-r", "private"),
            cwd=folder,
        )
        self.area = (folder / "public").read_bytes()[2:]
        self.certify(key=key)

    def certify(self, *, issuer=ROOT, chain=(), key=None, **changes):
        key = key or tpm.device_key(self.area).key
        settings = {"uris": [], "common_name": "device-7", "purposes": ()}
        self.certificate = issuer.certify(key, **settings | changes)
        ders = [c.public_bytes(Encoding.DER) for c in (self.certificate, *chain)]
        (self.folder / "certificate").write_bytes(b"".join(map(pem_certificate, ders)))

    def host(self, **options):
        paths = {
            "devid_cert_path": self.folder / "certificate",
            "devid_priv_path": self.folder / "private",
            "devid_pub_path": self.folder / "public",
        }
        return machine.create(machine.Config(**paths | {"tcti": self.tcti} | options))


@pytest.fixture(scope="module")
def device(real, tmp_path_factory):
    return Device(real, tmp_path_factory.mktemp("device"))


@pytest.fixture
def roots(tmp_path):
    path = tmp_path / "roots.pem"
    path.write_bytes(pem_certificate(ROOT.certificate.public_bytes(Encoding.DER)))
    return path


@pytest.fixture
def verifier(real, roots):
    return create(Config(roots, real.authority))


async def prove(host, verifier, respond=None, **changes):
    payload = json.loads(await host.payload()) | changes
    return await verifier.verify(json.dumps(payload).encode(), respond or host.respond, Context())


@pytest.fixture(scope="module")
def sent(device):
    return json.loads(asyncio.run(device.host().payload()))


async def unasked(_):
    raise AssertionError("asked although the payload is not good")


async def send(sent, verifier, **changes):
    """Send a good payload with changes, for which nothing is to be asked."""
    await verifier.verify(json.dumps(sent | changes).encode(), unasked, Context())


@pytest.mark.parametrize("kind", KINDS)
async def test_a_machine_proves_its_device_identity(tmp_path, real, verifier, kind):
    device = Device(real, tmp_path / "device", kind)
    device.certify(issuer=INTERMEDIATE, chain=[INTERMEDIATE.certificate])
    proof = await prove(device.host(), verifier)
    print_of = {c: c.fingerprint(hashes.SHA1()).hex() for c in (device.certificate, *authorities())}
    assert proof.node_id == Context().node_id(f"/tpm_devid/{print_of[device.certificate]}")
    assert (proof.can_reattest, proof.level) == (True, AttestationLevel.TPM)
    assert {s.value for s in proof.selectors} == {
        "subject:cn:device-7",
        "issuer:cn:intermediate",
        *(f"ca:fingerprint:{print_of[authority]}" for authority in authorities()),
    }
    assert {s.type for s in proof.selectors} == {"tpm_devid"}
    assert [typo(selector) for selector in proof.selectors] == [None] * 4


def authorities():
    return INTERMEDIATE.certificate, ROOT.certificate


async def test_names_that_a_certificate_lacks_are_no_selectors(device, verifier):
    device.certify(common_name="")
    assert {s.value[:6] for s in (await prove(device.host(), verifier)).selectors} == {"issuer", "ca:fin"}
    device.certify()


@pytest.mark.parametrize("kind", KINDS)
async def test_the_words_are_spires(tmp_path, real, verifier, kind):
    """Structures have no size before them, and signatures are as Go's crypto/x509 checks them."""
    device = Device(real, tmp_path / "device", kind)
    host, seen = device.host(), {}

    async def respond(challenge):
        seen.update(asked=json.loads(challenge))
        seen.update(answer=json.loads(await host.respond(challenge)))
        return json.dumps(seen["answer"]).encode()

    payload = json.loads(await host.payload())
    await verifier.verify(json.dumps(payload).encode(), respond, Context())
    assert list(payload) == [
        *("DevIDCert", "DevIDPub", "EKCert", "EKPub", "AKPub", "CertifiedDevID", "CertificationSignature"),
    ]
    assert decoded(payload["EKPub"])[:4] == decoded(payload["AKPub"])[:4] == b"\0\x01\0\x0b"
    assert decoded(payload["DevIDPub"]) == device.area
    assert decoded(payload["CertifiedDevID"])[:6] == b"\xffTCG\x80\x17"
    assert decoded(payload["CertificationSignature"])[:4] == b"\0\x14\0\x0b"
    assert list(seen["asked"]) == ["DevID", "CredActivation"]
    nonce, activation = decoded(seen["asked"]["DevID"]), seen["asked"]["CredActivation"]
    assert (len(nonce), list(activation)) == (32, ["Credential", "Secret"])
    credential, secret = map(decoded, activation.values())
    assert (credential[:2], len(credential), len(secret)) == (b"\0\x20", 2 + 32 + 2 + 32, 256)
    assert list(seen["answer"]) == ["DevID", "CredActivation"]
    signature, key = decoded(seen["answer"]["DevID"]), device.certificate.public_key()
    if kind == "rsa":
        key.verify(signature, nonce, padding.PKCS1v15(), hashes.SHA256())
    else:
        key.verify(signature, nonce, ec.ECDSA(hashes.SHA256()))


async def test_keys_without_sizes_are_read_as_well(tmp_path, device, verifier):
    """As SPIRE's tools leave them."""
    for part in ("public", "private"):
        (tmp_path / part).write_bytes((device.folder / part).read_bytes()[2:])
    host = device.host(devid_pub_path=tmp_path / "public", devid_priv_path=tmp_path / "private")
    assert await prove(host, verifier)


async def test_a_key_with_a_password_needs_it(tmp_path, real, verifier):
    device = Device(real, tmp_path / "device", password="correct horse")
    (tmp_path / "right").write_text("correct horse")
    (tmp_path / "wrong").write_text("battery staple")
    assert await prove(device.host(devid_password_file=tmp_path / "right"), verifier)
    for options in ({}, {"devid_password_file": tmp_path / "wrong"}):
        with pytest.raises(NodeAttestationError, match="tpm2_certify failed") as caught:
            await prove(device.host(**options), verifier)
        assert "horse" not in str(caught.value)
        assert "staple" not in str(caught.value)


async def test_hierarchies_with_passwords_need_them(tmp_path, verifier, other, roots):
    device = Device(other, tmp_path / "device", "rsa")
    verifier = create(Config(roots, other.authority))
    options = {}
    for hierarchy, name in (("o", "owner"), ("e", "endorsement")):
        (tmp_path / name).write_text(f"of the {name}")
        options[f"{name}_hierarchy_password_file"] = tmp_path / name
        other("changeauth", "-c", hierarchy, f"of the {name}", cwd=tmp_path)
    try:
        assert await prove(device.host(**options), verifier)
        for missing, failing in (("owner", "createprimary"), ("endorsement", "createek")):
            rest = {option: path for option, path in options.items() if not option.startswith(missing)}
            with pytest.raises(NodeAttestationError, match=f"tpm2_{failing} failed"):
                await prove(device.host(**rest), verifier)
    finally:
        for hierarchy, name in (("o", "owner"), ("e", "endorsement")):
            other("changeauth", "-c", hierarchy, "-p", f"of the {name}", cwd=tmp_path)


async def test_a_key_that_is_in_no_tpm_proves_nothing(tmp_path, device, verifier):
    """Whoever copied the key of a certificate has some TPM of a known maker, which certifies another key."""
    copied = ec.generate_private_key(ec.SECP256R1())
    device.certify(key=copied.public_key())
    host = device.host()

    async def respond(challenge):
        answer = json.loads(await host.respond(challenge))
        nonce = decoded(json.loads(challenge)["DevID"])
        return json.dumps(answer | {"DevID": encoded(copied.sign(nonce, ec.ECDSA(hashes.SHA256())))}).encode()

    with pytest.raises(NodeRejectedError, match="DevID certificate is of another DevID key"):
        await prove(host, verifier, respond)
    public = made.signing(copied, attributes=made.DEVICE_ATTRIBUTES)
    with pytest.raises(NodeRejectedError, match="certification is of another DevID key"):
        await prove(host, verifier, unasked, DevIDPub=encoded(public))
    device.certify()


async def test_the_key_of_another_tpm_proves_nothing(tmp_path, other, device, sent, verifier):
    stranger = Device(other, tmp_path / "stranger")
    theirs = json.loads(await stranger.host().payload())
    # Their key, certified by their attestation key, but the endorsement key is ours.
    mixed = {name: theirs[name] for name in theirs if not name.startswith("EK")}
    host, strangers = device.host(), stranger.host()
    await strangers.payload()
    for respond in (host.respond, strangers.respond):
        with pytest.raises(NodeAttestationError, match="tpm2_activatecredential failed"):
            await prove(host, verifier, respond, **mixed)
    # Our certification of our key does not lend itself to theirs.
    for names, why in (
        (("DevIDCert",), "DevID certificate is of another DevID key"),
        (("DevIDCert", "DevIDPub"), "certification is of another DevID key"),
        (("DevIDCert", "DevIDPub", "CertifiedDevID"), "not by the attestation key"),
        (("AKPub",), "not by the attestation key"),
        (("EKPub",), "certificate is of another endorsement key"),
        (("EKCert",), "certificate is of another endorsement key"),
        (("EKPub", "EKCert"), "no configured root vouches"),
    ):
        with pytest.raises(NodeRejectedError, match=why):
            await send(sent, verifier, **{name: theirs[name] for name in names})


async def test_a_key_that_can_leave_its_tpm_is_no_device_identity(tmp_path, real, verifier):
    attributes = "sensitivedataorigin|userwithauth|sign"
    device = Device(real, tmp_path, attributes=attributes, key=made.EC_KEY.public_key())
    with pytest.raises(NodeRejectedError, match="DevID key lacks the attribute fixedTPM"):
        await prove(device.host(), verifier, unasked)


async def test_an_attestation_key_that_signs_anything_certifies_nothing(tmp_path, real, device, verifier):
    """It would sign a certification that no TPM made, of a key that is in none."""
    signer = Device(real, tmp_path / "signer", "rsa")
    copied = ec.generate_private_key(ec.SECP256R1())
    public = made.signing(copied, attributes=made.DEVICE_ATTRIBUTES)
    forged = made.certification(tpm.device_key(public).name)
    (tmp_path / "forged").write_bytes(forged)
    real("load", "-C", "srk", "-u", "public", "-r", "private", "-c", "key", cwd=signer.folder)
    signer_key = ("-c", str(signer.folder / "key"), "-g", "sha256", "-o", "signature")
    real("sign", *signer_key, "forged", cwd=tmp_path)
    device.certify(key=copied.public_key())
    attack = {
        "AKPub": encoded(signer.area),
        "DevIDPub": encoded(public),
        "CertifiedDevID": encoded(forged),
        "CertificationSignature": encoded((tmp_path / "signature").read_bytes()),
    }
    with pytest.raises(NodeRejectedError, match="attestation key lacks the attribute restricted"):
        await prove(device.host(), verifier, unasked, **attack)
    device.certify()


@pytest.mark.parametrize(
    ("changes", "why"),
    [
        ({"issuer": TestCA()}, "no configured root vouches"),
        ({"issuer": INTERMEDIATE}, "no configured root vouches"),
        ({"lifetime": timedelta(seconds=1)}, "no configured root vouches"),
        ({"not_before": ROOT.now + timedelta(days=1)}, "no configured root vouches"),
        ({"ca": True, "usage": CA_USAGE | {"digital_signature": True}}, "is a signing certificate"),
        ({"usage": {"key_agreement": True}}, "lacks digitalSignature"),
        ({"common_name": "a\nb"}, "common name"),
    ],
    ids=["another root", "no intermediate", "expired", "not yet", "authority", "usage", "name"],
)
async def test_a_certificate_that_breaks_a_rule_is_refused(device, verifier, changes, why):
    device.certify(**changes)
    with pytest.raises(NodeRejectedError, match=why):
        await prove(device.host(), verifier)
    device.certify()


def changed(host, **changes):
    """Change fields of the response; each is told the good one."""

    async def respond(challenge):
        answer = json.loads(await host.respond(challenge))
        for field, change in changes.items():
            answer[field] = encoded(change(decoded(answer[field])))
        return json.dumps(answer).encode()

    return respond


@pytest.mark.parametrize(
    ("changes", "why"),
    [
        ({"CredActivation": lambda _: bytes(32)}, "another secret"),
        ({"CredActivation": lambda s: s[:-1]}, "another secret"),
        ({"CredActivation": lambda s: s + b"\0"}, "another secret"),
        ({"DevID": lambda s: s[:-1] + bytes([s[-1] ^ 1])}, "not by the DevID key"),
        ({"DevID": lambda _: b""}, "not by the DevID key"),
        ({"DevID": lambda _: bytes(200_000)}, "challenge response is too large"),
    ],
    ids=["secret", "cut secret", "long secret", "signature", "no signature", "large"],
)
async def test_a_response_that_was_changed_is_refused(device, verifier, changes, why):
    host = device.host()
    with pytest.raises(NodeRejectedError, match=why):
        await prove(host, verifier, changed(host, **changes))


@pytest.mark.parametrize("kind", KINDS)
async def test_a_signature_over_another_nonce_is_refused(tmp_path, real, verifier, kind):
    host = Device(real, tmp_path / "device", kind).host()

    async def respond(challenge):
        asked = json.loads(challenge) | {"DevID": encoded(b"n" * 32)}
        return await host.respond(json.dumps(asked).encode())

    with pytest.raises(NodeRejectedError, match="not by the DevID key"):
        await prove(host, verifier, respond)


async def test_a_recorded_response_is_of_no_use(device, verifier):
    host, recorded = device.host(), []

    async def record(challenge):
        recorded.append(await host.respond(challenge))
        return recorded[0]

    payload = await host.payload()
    await verifier.verify(payload, record, Context())
    with pytest.raises(NodeRejectedError, match="another secret"):
        await verifier.verify(payload, record, Context())


@pytest.mark.parametrize(
    "changes",
    [
        {"DevIDCert": []},
        {"DevIDCert": [""] * 6},
        {"DevIDCert": ["AAAA"]},
        {"DevIDCert": [encoded(b"\x30" * 20_000)]},
        {"DevIDCert": None},
        {"DevIDPub": ""},
        {"DevIDPub": encoded(bytes(tpm.MAX_STRUCTURE + 1))},
        {"EKPub": None},
        {"EKPub": ""},
        {"EKCert": ""},
        {"AKPub": "?"},
        {"AKPub": ""},
        {"CertifiedDevID": encoded(bytes(tpm.MAX_STRUCTURE + 1))},
        {"CertificationSignature": ""},
        {"more": "x" * MAX_BYTES},
    ],
    ids=lambda changes: next(iter(changes)),
)
async def test_a_payload_that_lacks_something_or_has_too_much_is_refused(sent, verifier, changes):
    with pytest.raises(NodeRejectedError):
        await send(sent, verifier, **changes)


async def test_members_that_we_do_not_know_are_skipped(device, verifier):
    assert await prove(device.host(), verifier, Later="x")


@pytest.mark.parametrize(
    "challenge",
    [
        b"",
        b"{}",
        b'{"DevID": "AAAA", "CredActivation": null}',
        b'{"DevID": "AAAA", "CredActivation": {"Credential": "", "Secret": ""}}',
        b" " * 40_000,
    ],
    ids=["empty", "nothing", "no activation", "short nonce", "large"],
)
async def test_a_machine_answers_no_malformed_challenge(device, challenge):
    with pytest.raises(NodeAttestationError, match="issuer's challenge"):
        await device.host().respond(challenge)


async def test_files_that_are_none_are_named(tmp_path, device):
    (tmp_path / "empty").touch()
    for option, why in (
        ("devid_cert_path", "DevID certificate cannot be read"),
        ("devid_pub_path", "neither RSA nor of an elliptic curve"),
        ("devid_priv_path", "tpm2_load failed"),
    ):
        with pytest.raises(NodeAttestationError, match=why):
            await device.host(**{option: tmp_path / "empty"}).payload()
        with pytest.raises(NodeAttestationError, match="none cannot be read"):
            await device.host(**{option: tmp_path / "none"}).payload()


async def test_the_endorsement_certificate_may_be_in_a_file(tmp_path, device, verifier):
    (tmp_path / "ek").write_bytes(decoded(json.loads(await device.host().payload())["EKCert"]))
    assert await prove(device.host(ek_certificate_path=tmp_path / "ek"), verifier)


@pytest.mark.parametrize("option", ["devid_ca_path", "endorsement_ca_path"])
def test_authorities_that_cannot_be_read_are_named(tmp_path, roots, option):
    with pytest.raises(ConfigError, match=option):
        create(Config(**{"devid_ca_path": roots, "endorsement_ca_path": roots} | {option: tmp_path / "none"}))


def test_without_tpm2_tools_the_configuration_is_refused(tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", "/nonexistent")
    with pytest.raises(ConfigError, match="tpm_devid needs tpm2-tools"):
        machine.create(machine.Config(tmp_path, tmp_path, tmp_path))

# SPDX-License-Identifier: Apache-2.0
"""Signers as they are configured, and signatures by keys."""

import base64
import json

import pytest
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import dsa, ec, ed25519, padding, rsa

from attestor.errors import SignatureRejectedError
from attestor.workload.image_signers import Envelope, KeyHolders, Signature, Signer, pae, problems
from spiffekit.daemon.config import ConfigError

RSA = rsa.generate_private_key(public_exponent=65537, key_size=2048)
KEYS = {
    "P-256": (ec.generate_private_key(ec.SECP256R1()), (ec.ECDSA(hashes.SHA256()),)),
    "RSA": (RSA, (padding.PKCS1v15(), hashes.SHA256())),
    "Ed25519": (ed25519.Ed25519PrivateKey.generate(), ()),
}
STATEMENT = "application/vnd.in-toto+json"


def pem(key):
    return key.public_key().public_bytes(
        serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo
    )


@pytest.fixture
def holders(tmp_path):
    signers = {}
    for name, (key, _) in KEYS.items():
        path = tmp_path / f"{name}.pem"
        path.write_bytes(pem(key))
        signers[name] = Signer(public_key=path)
    return KeyHolders.of(signers | {"by-certificate": Signer(issuer="i", subject="s")})


def sealed(name, payload=b"{}", kind=STATEMENT):
    key, how = KEYS[name]
    unsigned = Envelope(payload, kind, ())
    return Envelope(payload, kind, (Signature(key.sign(pae(unsigned), *how)),))


def test_the_bytes_that_are_signed_are_those_of_the_standard():
    """The example of DSSE's protocol."""
    example = Envelope(b"hello world", "http://example.com/HelloWorld", ())
    assert pae(example) == b"DSSEv1 29 http://example.com/HelloWorld 11 hello world"


@pytest.mark.parametrize("name", KEYS)
def test_a_signature_by_a_key_is_its_holders(holders, name):
    signed = holders.verify(sealed(name, b'{"a": 1}'))
    assert (signed.payload, signed.signers) == (b'{"a": 1}', {name})
    assert (signed.subject, signed.repository, signed.details) == ("", "", ())


@pytest.mark.parametrize("name", KEYS)
def test_something_else_than_was_signed_is_refused(holders, name):
    good = sealed(name)
    for bad in (
        Envelope(b"{} ", STATEMENT, good.signatures),
        Envelope(good.payload, STATEMENT, (Signature(good.signatures[0].sig[:-1]),)),
        Envelope(good.payload, STATEMENT, (Signature(b""),)),
    ):
        with pytest.raises(SignatureRejectedError, match=r"^is signed by no key that is known$"):
            holders.verify(bad)


def test_who_is_not_configured_is_nobody(tmp_path):
    (tmp_path / "key.pem").write_bytes(pem(ec.generate_private_key(ec.SECP256R1())))
    holders = KeyHolders.of({"other": Signer(public_key=tmp_path / "key.pem")})
    for name in KEYS:
        with pytest.raises(SignatureRejectedError, match=r"^is signed by no key that is known$"):
            holders.verify(sealed(name))
        with pytest.raises(SignatureRejectedError, match=r"^is signed by no key that is known$"):
            KeyHolders.of({}).verify(sealed(name))


def test_an_envelope_of_something_else_is_refused(holders):
    with pytest.raises(SignatureRejectedError, match=r"^is no envelope of an in-toto statement$"):
        holders.verify(sealed("P-256", kind="application/json"))


def test_an_envelope_has_exactly_one_signature(holders):
    good = sealed("P-256")
    for signatures in ((), good.signatures * 2):
        with pytest.raises(SignatureRejectedError, match=r"^has not exactly one signature$"):
            holders.verify(Envelope(good.payload, STATEMENT, signatures))


REFUSED = {
    "P-384": pem(ec.generate_private_key(ec.SECP384R1())),
    "a short RSA key": pem(rsa.generate_private_key(public_exponent=65537, key_size=1024)),
    "DSA": pem(dsa.generate_private_key(2048)),
    "nothing": b"",
    "a private key": RSA.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    ),
}


@pytest.mark.parametrize("text", REFUSED.values(), ids=REFUSED)
def test_a_key_of_another_kind_is_refused(tmp_path, text):
    (tmp_path / "key.pem").write_bytes(text)
    with pytest.raises(ConfigError, match=r"^signers\.ci\.public_key: .* supported$"):
        KeyHolders.of({"ci": Signer(public_key=tmp_path / "key.pem")})


def test_a_key_that_cannot_be_read_is_named(tmp_path):
    with pytest.raises(ConfigError, match=r"^signers\.ci\.public_key: No such file or directory$"):
        KeyHolders.of({"ci": Signer(public_key=tmp_path / "missing")})


def test_an_envelope_is_read_from_json():
    import msgspec

    text = {"payload": base64.b64encode(b"x").decode(), "payloadType": "t", "signatures": [{"sig": "AAAA"}]}
    envelope = msgspec.json.decode(json.dumps(text), type=Envelope)
    assert envelope == Envelope(b"x", "t", (Signature(b"\0\0\0"),))


CERTIFIED = {"issuer": "https://accounts.example.org", "subject": "ann@example.org"}


def found(tmp_path, **signer):
    if "public_key" in signer:
        signer["public_key"] = tmp_path
    return list(problems({"ci": Signer(**signer)}))


WRONG = [
    ({}, ["issuer: is required without public_key", "subject: exactly one of subject and subject_regexp"]),
    ({"issuer": "i"}, ["subject: exactly one of subject and subject_regexp"]),
    (CERTIFIED | {"subject_regexp": ".*"}, ["subject: exactly one of subject and subject_regexp"]),
    ({"issuer": "i", "subject_regexp": "("}, ["subject_regexp: missing ), unterminated subpattern"]),
    (CERTIFIED | {"public_key": 1}, ["issuer: cannot be given with", "subject: cannot be given with"]),
    ({"public_key": 1, "slsa_level": 3}, ["slsa_level: cannot be given with public_key"]),
    ({"public_key": 1, "subject_regexp": "a"}, ["subject_regexp: cannot be given with public_key"]),
    (CERTIFIED | {"builders": {"": 1}}, ["builders: an ID cannot be empty"]),
]


@pytest.mark.parametrize(("signer", "rules"), WRONG)
def test_a_signer_that_contradicts_itself_is_refused(tmp_path, signer, rules):
    lines = found(tmp_path, **signer)
    assert len(lines) == len(rules)
    for line, rule in zip(lines, rules, strict=True):
        assert line.startswith(f"signers.ci.{rule}")


def test_a_signer_that_does_not_is_not(tmp_path):
    assert found(tmp_path, **CERTIFIED, slsa_level=3) == []
    assert found(tmp_path, issuer="i", subject_regexp=".*") == []
    assert found(tmp_path, public_key=1, builders={"https://builder.example": 2}) == []


def test_signers_have_names_and_are_few():
    one = Signer(**CERTIFIED)
    assert list(problems({})) == ["signers: from 1 to 64 are needed, not 0"]
    assert list(problems({str(n): one for n in range(65)})) == ["signers: from 1 to 64 are needed, not 65"]
    for name in ("", "a b", "a:b", "a\n", "x" * 65, "é"):
        (line,) = problems({name: one})
        assert "is no name" in line


def test_who_has_a_key_is_not_named_by_a_certificate(tmp_path):
    assert not Signer(public_key=tmp_path).is_named_by("", "")


def test_a_level_is_that_of_the_builder_a_signer_may_speak_for():
    signer = Signer(issuer="i", subject_regexp=".*", slsa_level=2, builders={"https://builder.example": 3})
    assert signer.level("https://builder.example", "me") == 3
    assert signer.level("me", "me") == 2
    assert signer.level("https://builder.example/", "me") is None
    assert Signer(**CERTIFIED).level("ann@example.org", "ann@example.org") is None

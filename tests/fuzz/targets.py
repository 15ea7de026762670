# SPDX-License-Identifier: Apache-2.0
"""One function for each parser of hostile input: it returns, or raises a `SpiffeError` or an `AttestorError`.

They take bytes, and so fit any fuzzer; `test_targets.py` drives them with hypothesis.
"""

import asyncio
import functools

from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.utils import decode_dss_signature

from attestor.workload import cgroups
from attestor.workload.engine import Engine
from spiffekit import jwtsvid, witsvid, x509svid
from spiffekit.bundle import Bundle
from spiffekit.certificates import certificates_from_pem, load_certificate, split_der
from spiffekit.crl import RevocationList
from spiffekit.delegation.tools import Tools
from spiffekit.id import SpiffeId, TrustDomain
from spiffekit.jwk import Element, encode_base64url, parse_json_object
from spiffekit.keys import private_key_from_der, private_key_from_pem, public_key_from_der
from spiffekit.selector import Selector
from spiffekit.status import AgentStatus
from spiffekit.testing import TestCA
from spiffekit.transparency.notes import Checkpoint, Note, VerifierKey
from spiffekit.transparency.proofs import AddCheckpoint, Proof
from spiffekit.transparency.tiles import decode_entries, encode_entries
from tests.vectors import keys, narrowing

CA = TestCA("example.org", now=keys.NOW, seed=b"fuzz")
ORG = TrustDomain("example.org")
SVID = CA.issue("spiffe://example.org/web")
TOOLS = Tools.from_value(
    {
        "read": {},
        "pay": {
            "amount": narrowing.all_of(narrowing.within(0, 5), narrowing.at_most(9)),
            "to": narrowing.any_of(
                narrowing.below("/srv"), narrowing.under("https://a.example/"), narrowing.exact(None)
            ),
            "tags": narrowing.subset("a", ["b"]),
        },
    }
)


def spiffe_id(data):
    text = data.decode("utf-8", "surrogateescape")
    assert str(SpiffeId.parse(text)) == text
    assert text.encode("ascii") == data


def selector(data):
    text = data.decode("utf-8", "surrogateescape")
    assert str(Selector.parse(text)) == text


def bundle(data):
    found = Bundle.parse(ORG, data)
    assert Bundle.parse(ORG, found.to_jwks()) == found


def jwks(data):
    found = Bundle.from_jwks(ORG, data)
    assert Bundle.from_jwks(ORG, found.to_jwt_jwks()) == found


def x509_bundle(data):
    found = Bundle.from_x509_der(ORG, data)
    for authority in found.x509_authorities:
        assert authority.subject_key_id
    x509svid.verify(SVID.chain_der, found, now=CA.now)


def jwt(data):
    """A token that is not signed: nothing in it may be believed."""
    token = data.decode("utf-8", "surrogateescape")
    jwtsvid.JwtSvid.parse_unverified(token)
    jwtsvid.verify(token, CA.bundle, audience=["test"], now=CA.now)
    raise AssertionError("an unsigned token was believed")


AGENT_KEY = keys.elliptic_key(ec.SECP256R1(), "agent")
WIT = CA.wit("spiffe://example.org/agent", AGENT_KEY.public_key())


def wit(data):
    """A WIT-SVID that is not signed, with a proof that is good for it."""
    token = data.decode("utf-8", "surrogateescape")
    svid = witsvid.WitSvid.parse_unverified(token)
    proof = witsvid.make_proof(svid, AGENT_KEY, "test", now=CA.now)
    _present(token, proof)


def wit_payload(data):
    head, _, signature = WIT.split(".")
    wit(f"{head}.{encode_base64url(data)}.{signature}".encode())


def wit_proof(data):
    """A proof that is not signed, for a WIT-SVID that is."""
    _present(WIT, data.decode("utf-8", "surrogateescape"))


def wit_proof_payload(data):
    head = encode_base64url(b'{"alg":"ES256","typ":"wpt+jwt"}')
    wit_proof(f"{head}.{encode_base64url(data)}.{encode_base64url(bytes(64))}".encode())


def _present(token, proof):
    presented = witsvid.Presentation(token, proof)
    witsvid.verify(presented, CA.wit_bundle, audience=["test"], now=CA.now, replays=None)
    raise AssertionError("what is not signed was believed")


def status(data):
    """A status that is not signed."""
    AgentStatus.verify(data.decode("utf-8", "surrogateescape"), CA.bundle, now=CA.now)
    raise AssertionError("what is not signed was believed")


def status_claims(data):
    """Claims that the issuer did sign, whatever they are."""
    head = encode_base64url(b'{"alg":"ES256","kid":"test-key","typ":"agent-status+jwt"}')
    signed = f"{head}.{encode_base64url(data)}"
    r, s = decode_dss_signature(CA.jwt_key.sign(signed.encode(), ec.ECDSA(hashes.SHA256())))
    token = f"{signed}.{encode_base64url(r.to_bytes(32) + s.to_bytes(32))}"
    found = AgentStatus.verify(token, CA.bundle, now=CA.now)
    found.check_certificate(SVID.spiffe_id, SVID.serial_number, SVID.not_before)


def revocation_list(data):
    found = RevocationList.verify(data, CA.bundle)
    found.check(SVID.leaf)


def private_jwk(data):
    try:
        fields = parse_json_object(data)
    except ValueError:
        return
    assert Element(0, fields).private_key().public_key() == Element(0, fields).public_key()


def jwt_header(data):
    jwt(f"{encode_base64url(data)}.{_parts()[1]}.{_parts()[2]}".encode())


def jwt_payload(data):
    jwt(f"{_parts()[0]}.{encode_base64url(data)}.{_parts()[2]}".encode())


@functools.cache
def _parts():
    return CA.jwt("spiffe://example.org/web").split(".")


def certificate(data):
    x509svid.verify([data], CA.bundle, now=CA.now)


def svid(data):
    x509svid.X509Svid.parse(data, SVID.private_key_der)


def svid_key(data):
    x509svid.X509Svid.parse(SVID.chain_der[0], data)


def pem(data):
    for der in certificates_from_pem(data):
        load_certificate(der)


def der_sequence(data):
    assert b"".join(split_der(data)) == data


def private_key(data):
    private_key_from_der(data)


def private_key_pem(data):
    private_key_from_pem(data)


def public_key(data):
    public_key_from_der(data)


def tools(data):
    found = Tools.from_json(data)
    assert Tools.from_json(found.to_json()) == found
    found.check_narrows(found)


def invocation(data):
    """Arguments that an agent makes up, for a tool that takes any and one that does not."""
    try:
        arguments = parse_json_object(data)
    except ValueError:
        return
    TOOLS.check_permits("read", arguments)
    TOOLS.check_permits("pay", arguments, spent={"amount": 1})


def cgroup(data):
    groups = cgroups.parse(data)
    if found := cgroups.container(groups):
        assert all(groups[controllers].startswith(path) for controllers, path in found.paths)
    cgroups.pod(groups)
    cgroups.pod(groups, "/kubelet")


CONTAINER = "ab" * 32


def engine(data):
    """An engine's answer, which is what it says of a container and of its image."""

    class Api:
        async def get(self, _):
            return data

    found = asyncio.run(Engine(Api(), kind="docker", environment=frozenset({"*"})).inspect(CONTAINER))
    assert found is None or found.facts.id == CONTAINER


def note(data):
    found = Note.parse(data)
    assert found.encode() == data
    checkpoint = Checkpoint.parse(found.text)
    assert checkpoint.text == found.text


def verifier_key(data):
    text = data.decode("utf-8", "surrogateescape")
    assert str(VerifierKey.parse(text)) == text


def log_proof(data):
    found = Proof.parse(data)
    assert found.encode() == data
    assert Note.parse(found.checkpoint).encode() == found.checkpoint


def add_checkpoint(data):
    found = AddCheckpoint.parse(data)
    assert found.encode() == data
    assert found.note.encode() == found.checkpoint


def log_entries(data):
    assert encode_entries(decode_entries(data, 3)) == data

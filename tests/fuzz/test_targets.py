# SPDX-License-Identifier: Apache-2.0
"""Drives the targets: with noise, with damaged good input, and with shapes that parsers stumble over.

Short in the check; ``HYPOTHESIS_MAX_EXAMPLES=100000`` makes it long.
"""

import json
import os

import pytest
from cryptography.hazmat.primitives.serialization import Encoding
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from attestor.errors import AttestorError
from issuer.errors import IssuerError
from spiffekit import witsvid
from spiffekit.daemon.frames import FloodError
from spiffekit.errors import SpiffeError
from spiffekit.id import SpiffeId
from spiffekit.jwk import from_private_key
from spiffekit.keys import public_key_to_der
from spiffekit.status import LIFETIME, AgentStatus
from spiffekit.transparency.notes import Checkpoint, Note
from spiffekit.transparency.proofs import AddCheckpoint, Proof
from spiffekit.transparency.tiles import encode_entries
from tests.fuzz import cloud_targets, targets, tpm_targets, wire_targets
from tests.spiffekit.transparency.logs import signer
from tests.vectors import load

EXAMPLES = int(os.environ.get("HYPOTHESIS_MAX_EXAMPLES", "60"))
SHORT = settings(
    max_examples=EXAMPLES,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)


def survives(target, data):
    try:
        target(data)
    except (SpiffeError, AttestorError, IssuerError, FloodError):
        return


DIGEST = "sha256:" + "cd" * 32
CONTAINER = {
    "Id": targets.CONTAINER, "Name": "/web", "Image": DIGEST, "State": {"Pid": 7},
    "Config": {"Image": "web:1", "Labels": {"app": "a", "b:c": ""}, "Env": ["A=b", "C"]},
    "RepoDigests": [f"registry.example/web@{DIGEST}", "x"],
}  # fmt: skip

LOG = signer("example.org/log")
HEAD = Checkpoint("example.org/log", 2, b"r" * 32).text
LOG_NOTE = Note(HEAD, (LOG.sign(HEAD, now=targets.CA.now),)).encode()


def wit_claims():
    cnf = witsvid.confirmation(targets.AGENT_KEY.public_key(), "ES256")
    return {"sub": "spiffe://example.org/agent", "exp": 2**32, "cnf": cnf, "jti": "x", "nbf": 0, "iat": 1.5}


def wit_proof():
    svid = witsvid.WitSvid.parse_unverified(targets.WIT)
    return witsvid.make_proof(svid, targets.AGENT_KEY, "test", now=targets.CA.now)


def status_claims():
    now = targets.CA.now
    ended = frozenset([SpiffeId.parse("spiffe://example.org/agent")])
    return AgentStatus(
        trust_domain=targets.ORG,
        sequence=1,
        issued_at=now,
        expires_at=now + LIFETIME,
        suspended=ended,
        serials=frozenset([7]),
        not_before=dict.fromkeys(ended, now),
    ).claims()


def seeds():
    """Good input of each target."""
    ca, svid = targets.CA, targets.SVID
    token = ca.jwt("spiffe://example.org/web").encode()
    document, root = ca.bundle.to_jwks(), ca.certificate.public_bytes(Encoding.DER)
    claims = {"sub": "spiffe://example.org/web", "aud": ["test"], "exp": 2**32, "nbf": 0, "iat": 1.5}
    header = {"alg": "ES256", "kid": "test-key", "typ": "JWT"}
    return {
        targets.spiffe_id: b"spiffe://example.org/ns/a/sa/b",
        targets.selector: b"unix:path:/usr/bin/python3",
        targets.bundle: document,
        targets.jwks: ca.bundle.to_jwt_jwks(),
        targets.x509_bundle: root * 2,
        targets.jwt: token[:-2] + b"AA",
        targets.jwt_header: json.dumps(header | {"crit": []}).encode(),
        targets.jwt_payload: json.dumps(claims | {"exp": 1}).encode(),
        targets.wit: targets.WIT.encode()[:-2] + b"AA",
        targets.wit_payload: json.dumps(wit_claims()).encode(),
        targets.wit_proof: wit_proof().encode()[:-2] + b"AA",
        targets.wit_proof_payload: json.dumps({"aud": "test", "exp": 2**32, "jti": "x", "wth": "y"}).encode(),
        targets.status: ca.status().encode()[:-2] + b"AA",
        targets.status_claims: json.dumps(status_claims()).encode(),
        targets.revocation_list: ca.crl(7, 8),
        targets.private_jwk: json.dumps(from_private_key(targets.AGENT_KEY)).encode(),
        targets.certificate: svid.chain_der[0],
        targets.svid: svid.chain_der[0] + root,
        targets.svid_key: svid.private_key_der,
        targets.pem: ca.bundle.to_pem() + svid.chain_pem(),
        targets.der_sequence: root + svid.chain_der[0],
        targets.private_key: svid.private_key_der,
        targets.private_key_pem: svid.key_pem(),
        targets.public_key: public_key_to_der(svid.leaf.public_key()),
        targets.tools: targets.TOOLS.to_json(),
        targets.invocation: json.dumps({"amount": 1.5, "to": "/srv/a", "tags": ["a"]}).encode(),
        targets.engine: json.dumps(CONTAINER).encode(),
        targets.note: LOG_NOTE,
        targets.verifier_key: str(LOG.key).encode(),
        targets.log_proof: Proof(1, (b"h" * 32,), LOG_NOTE, b"entry").encode(),
        targets.add_checkpoint: AddCheckpoint(1, (b"h" * 32,), LOG_NOTE).encode(),
        targets.log_entries: encode_entries([b"one", b"", b"three"]),
        targets.cgroup: b"2:cpu,cpuacct:/docker/%b\n0::/docker/%b/init.scope\n" % (b"ab" * 32, b"ab" * 32),
    }


SEEDS = seeds() | wire_targets.SEEDS | tpm_targets.SEEDS | cloud_targets.SEEDS
# cryptography warns of certificates that it still reads, such as those with a negative serial number.
pytestmark = pytest.mark.filterwarnings("ignore::UserWarning")
ALL = pytest.mark.parametrize("target", SEEDS, ids=lambda target: target.__name__)


@ALL
@SHORT
@given(data=st.binary(max_size=400))
def test_noise_is_refused_in_our_own_words(target, data):
    survives(target, data)


@ALL
@SHORT
@given(data=st.data())
def test_damaged_input_is_refused_in_our_own_words(target, data):
    """Bytes are changed, left out, doubled or put in."""
    damaged = bytearray(SEEDS[target])
    for _ in range(data.draw(st.integers(1, 4))):
        at = data.draw(st.integers(0, max(len(damaged) - 1, 0)))
        match data.draw(st.sampled_from(["change", "leave out", "double", "put in"])):
            case "change":
                damaged[at : at + 1] = data.draw(st.binary(min_size=1, max_size=1))
            case "leave out":
                del damaged[at : at + data.draw(st.integers(1, 16))]
            case "double":
                damaged[at:at] = damaged[at : at + data.draw(st.integers(1, 64))]
            case _:
                damaged[at:at] = data.draw(st.binary(max_size=8))
    if bytes(damaged) != SEEDS[target]:
        survives(target, bytes(damaged))


scalars = st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=12)
MEMBERS = """keys use kid kty crv x y n e x5c alg typ crit sub aud exp nbf iat spiffe_sequence
spiffe_refresh_hint Id Name Image State Pid Config Labels Env RepoDigests certificates Certificate chain
cnf jwk jti wth ath tth oth d
iss seq suspended retired serial_revoked jti_revoked root_revoked min_iat
bundle reattestable ek_public ak_public ek_certificate
constraint_type min max value values allowed constraints root prefix amount to tags
DevIDCert DevIDPub EKCert EKPub AKPub CertifiedDevID CertificationSignature"""
WORDS = """exact range one_of all any path_containment url_prefix
x509-svid jwt-svid EC RSA OKP P-256 Ed25519 AQAB ES256 none JWT test-key test
spiffe://example.org/web"""
names, words = st.sampled_from(MEMBERS.split()), st.sampled_from(WORDS.split())
documents = st.recursive(
    scalars | words,
    lambda inner: (
        st.lists(inner, max_size=4) | st.dictionaries(names | st.text(max_size=4), inner, max_size=6)
    ),
    max_leaves=20,
)
JSON_TARGETS = [
    targets.bundle, targets.jwks, targets.jwt_header, targets.jwt_payload, targets.engine,
    targets.tools, targets.invocation,
    targets.wit_payload, targets.wit_proof_payload, targets.private_jwk, targets.status_claims,
    wire_targets.x509pop, wire_targets.sshpop, wire_targets.state, tpm_targets.tpm_ek, tpm_targets.tpm_devid,
    *(target for target in cloud_targets.SEEDS if target is not cloud_targets.gcp_token),
]  # fmt: skip


@pytest.mark.parametrize("target", JSON_TARGETS, ids=lambda target: target.__name__)
@SHORT
@given(data=st.data())
def test_json_of_any_shape_is_refused_in_our_own_words(target, data):
    """Members of the good input get values of every type, and others come beside them."""
    document = json.loads(SEEDS[target])
    document |= data.draw(st.dictionaries(names, documents, max_size=3))
    elements = document.get("keys")
    for element in elements if isinstance(elements, list) else ():
        if isinstance(element, dict):
            element.update(data.draw(st.dictionaries(names, documents, max_size=2)))
    survives(target, json.dumps(document).encode())


TEXTS = [
    *(v["id"].encode("utf-8", "surrogatepass") for kind in ("good", "bad") for v in load("spiffe_ids")[kind]),
    *(v["document"].encode() for kind in ("good", "bad") for v in load("bundles")[kind]),
    *(v["token"].encode() for v in load("jwt_svids")["bad"]),
]


@ALL
def test_input_of_another_parser_is_refused_in_our_own_words(target):
    for data in (*TEXTS, *SEEDS.values(), b"", b"\x00", b"\xff" * 10, b"[" * 50_000, b'{"keys":[' * 2_000):
        if data != SEEDS[target]:
            survives(target, data)


GOOD = [
    targets.spiffe_id, targets.selector, targets.bundle, targets.jwks, targets.x509_bundle,
    targets.certificate, targets.svid, targets.svid_key, targets.pem, targets.der_sequence,
    targets.private_key, targets.private_key_pem, targets.public_key, targets.cgroup, targets.engine,
    *wire_targets.SEEDS, *tpm_targets.SEEDS, *cloud_targets.SEEDS,
    targets.tools, targets.invocation,
    targets.private_jwk, targets.status_claims, targets.revocation_list,
    targets.note, targets.verifier_key, targets.log_proof, targets.add_checkpoint, targets.log_entries,
]  # fmt: skip


@pytest.mark.parametrize("target", GOOD, ids=lambda target: target.__name__)
def test_the_seed_of_a_target_is_good_input(target):
    """A seed that a parser refused at once would let nothing behind it be reached."""
    target(SEEDS[target])

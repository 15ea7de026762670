# SPDX-License-Identifier: Apache-2.0
"""More targets: what comes over a connection or out of a file of ours, each with good input.

Bytes that protobuf itself refuses never reach a parser of ours.
"""

import asyncio
import base64
import json
import tempfile
from pathlib import Path

from cryptography.hazmat.primitives.asymmetric import rsa
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    PublicFormat,
    SSHCertificateBuilder,
    SSHCertificateType,
)
from google.protobuf.message import DecodeError

from attestor.state import FILE, NodeState, StateFile
from attestor.updates import update_from_proto
from issuer.api.convert import entry_from_proto, entry_to_proto
from issuer.ca.requests import check_dns_names, parse_csr
from issuer.node.cms import SignedData
from issuer.node.join_token import JoinTokenVerifier
from issuer.node.sshpop import SshPopVerifier
from issuer.node.x509pop import X509PopVerifier
from spiffekit.daemon.frames import PREFACE, FrameGuard
from spiffekit.errors import SpiffeError
from spiffekit.evidence import Evidence, ProcessFacts
from spiffekit.keys import private_key_from_der
from spiffekit.selector import Selector
from spiffekit.template import Template
from spiffekit.testing import TestCA
from spiffekit.wire.convert import bundle_from_proto, bundle_to_proto
from spiffekit.wire.evidence import evidence_from_proto, evidence_to_proto
from spiffekit.wire.pb.issuer.v1 import evidence_pb2, updates_pb2
from spiffekit.wire.pb.spire.api import types_pb2
from spiffekit.wire.workload_api import messages
from spiffekit.workload.address import EndpointAddress
from spiffekit.workload.updates import jwt_bundles, jwt_svids, x509_bundles, x509_update
from tests.attacks.hostile import DATA, END_HEADERS, HEADERS, SETTINGS, block, frame
from tests.fuzz.targets import CA, ORG, SVID
from tests.issuer.node.cms import Message, indefinite
from tests.issuer.node.x509pop_node import Context as NodeContext
from tests.issuer.strategies import an_entry
from tests.issuer_api.world import csr as made_csr

WORKLOAD_API = messages()
MACHINES = TestCA()  # of this very time, by which nodes' proofs are judged
CLOUD_KEY = rsa.generate_private_key(public_exponent=65537, key_size=2048)
CLOUD = MACHINES.certify(CLOUD_KEY.public_key(), uris=[])
ED25519 = Ed25519PrivateKey.from_private_bytes(b"\1" * 32)


def parsed(kind, data):
    """The message of some bytes; an empty one if there is none, because protobuf has refused them."""
    try:
        return kind.FromString(data)
    except DecodeError:
        return kind()


def template(data):
    text = data.decode("utf-8", "surrogateescape")
    assert Template.parse(text).text == text


def address(data):
    EndpointAddress.parse(data.decode("utf-8", "surrogateescape"))


def request(data):
    found = parse_csr(data)
    found.uris()
    check_dns_names(found.dns_names())


def bundle_message(data):
    found = bundle_from_proto(parsed(types_pb2.Bundle, data))
    assert bundle_from_proto(bundle_to_proto(found)) == found


def entry_message(data):
    """What an operator registers is what is told of it."""
    made = entry_from_proto(parsed(types_pb2.Entry, data), ORG, entry_id="e", now=CA.now)
    assert entry_from_proto(entry_to_proto(made), ORG, entry_id="e", now=CA.now) == made


def update_message(data):
    """What the issuer pushes to an attestor: what is malformed in it is withheld, and ends nothing."""
    message = parsed(updates_pb2.WatchResponse, data)
    try:
        update_from_proto(message)
    except SpiffeError as error:
        raise AssertionError("an update is refused whole") from error


def evidence_message(data):
    found = evidence_from_proto(parsed(evidence_pb2.Evidence, data))
    assert evidence_from_proto(evidence_to_proto(found)) == found


def x509_response(data):
    assert x509_update(parsed(WORKLOAD_API["X509SVIDResponse"], data), CA.now).svids


def x509_bundles_response(data):
    x509_bundles(parsed(WORKLOAD_API["X509BundlesResponse"], data))


def jwt_response(data):
    jwt_svids(parsed(WORKLOAD_API["JWTSVIDResponse"], data), ["test"])


def jwt_bundles_response(data):
    jwt_bundles(parsed(WORKLOAD_API["JWTBundlesResponse"], data))


def http2(data):
    """However the bytes are cut, the verdict is the same: test_frames.py. Here it is only given."""
    guard = FrameGuard(lambda: 0.0)
    guard.feed(data)
    assert 0 <= guard.unjudged <= len(data)


class Asked(Exception):
    """The payload is good, and possession of its key is asked for."""


async def ask(_):
    raise Asked


def prove(verifier, data):
    try:
        return asyncio.run(verifier.verify(data, ask, Context()))
    except Asked:
        return None


class Context(NodeContext):
    async def redeem_join_token(self, value):
        assert value.isascii()

    def cluster(self, name):
        raise Asked


def x509pop(data):
    prove(X509PopVerifier([MACHINES.certificate]), data)


def sshpop(data):
    public = ED25519.public_key().public_bytes(Encoding.OpenSSH, PublicFormat.OpenSSH)
    prove(SshPopVerifier(frozenset({base64.b64decode(public.split()[1])})), data)


def signed_document(data):
    """Whatever is made of a signed message, its document stays what was signed."""
    assert SignedData.parse_unverified(data).verify(CLOUD) == b"{}"


def _signed_document():
    message = Message(b"{}", CLOUD, CLOUD_KEY).with_certificates(CLOUD)
    message.wrap = indefinite
    return message.build()


def join_token(data):
    prove(JoinTokenVerifier(), data)


def state(data):
    """Nothing that stands in the file of the state stops the start."""
    with tempfile.TemporaryDirectory() as folder:
        Path(folder, FILE).write_bytes(data)
        file = StateFile(Path(folder), ORG)
        found = file.load([private_key_from_der(SVID.private_key_der)])
        assert found is None or found.svid.spiffe_id.is_member_of(ORG)
        file.bundle()


def _state():
    with tempfile.TemporaryDirectory() as folder:
        StateFile(Path(folder), ORG).save(NodeState(SVID, CA.bundle, reattestable=True))
        return Path(folder, FILE).read_bytes()


def _evidence():
    process = ProcessFacts(pid=7, start_ticks=1, uid=1, gid=1)
    found = Evidence(
        id=b"i" * 16,
        instance_uid="a" * 26,
        collected_at=CA.now,
        selectors=frozenset({Selector("unix", "uid:1")}),
        process=process,
    )
    return evidence_to_proto(found).SerializeToString()


def _ssh():
    certificate = (
        SSHCertificateBuilder()
        .public_key(ED25519.public_key())
        .serial(1)
        .type(SSHCertificateType.HOST)
        .key_id(b"web")
        .valid_principals([b"web.example.org"])
        .valid_after(0)
        .valid_before(2**40)
        .sign(ED25519)
        .public_bytes()
    )
    return json.dumps({"Certificate": certificate.split()[1].decode()}).encode()


def _x509pop():
    key = MACHINES.new_key().public_key()
    leaf = base64.b64encode(MACHINES.certify(key, uris=[]).public_bytes(Encoding.DER)).decode()
    return json.dumps({"certificates": [leaf]}).encode()


def _responses():
    td, document = "spiffe://example.org", CA.bundle.to_jwt_jwks()
    root = CA.certificate.public_bytes(Encoding.DER)
    kinds = WORKLOAD_API
    svid = kinds["X509SVID"](
        spiffe_id=str(SVID.spiffe_id), x509_svid=SVID.chain_der[0],
        x509_svid_key=SVID.private_key_der, bundle=root,
    )  # fmt: skip
    token = kinds["JWTSVID"](spiffe_id=f"{td}/web", svid=CA.jwt(f"{td}/web"))
    return {
        x509_response: kinds["X509SVIDResponse"](svids=[svid], federated_bundles={"spiffe://b.org": root}),
        x509_bundles_response: kinds["X509BundlesResponse"](bundles={td: root}),
        jwt_response: kinds["JWTSVIDResponse"](svids=[token]),
        jwt_bundles_response: kinds["JWTBundlesResponse"](bundles={td: document}),
    }


ENTRY = entry_to_proto(an_entry())
ENTRY.ClearField("id")
SEEDS = {
    template: b"spiffe://example.org/ns/{k8s:ns}/agent",
    address: b"unix:///run/spire/api.sock",
    request: made_csr(),
    bundle_message: bundle_to_proto(CA.bundle).SerializeToString(),
    entry_message: ENTRY.SerializeToString(),
    update_message: updates_pb2.WatchResponse(
        revision=7, epoch="e", snapshot=True, entries=[entry_to_proto(an_entry())],
        bundles=[bundle_to_proto(CA.bundle)], removed_bundles=["b.org"],
    ).SerializeToString(),
    evidence_message: _evidence(),
    http2: PREFACE + frame(SETTINGS) + frame(HEADERS, block("Echo"), END_HEADERS, 1) + frame(DATA, b"x"),
    x509pop: _x509pop(),
    sshpop: _ssh(),
    signed_document: _signed_document(),
    join_token: b"a-token",
    state: _state(),
    **{target: message.SerializeToString() for target, message in _responses().items()},
}  # fmt: skip

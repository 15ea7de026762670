# SPDX-License-Identifier: Apache-2.0
"""Targets for what platforms and builders say: of machines, pods and images."""

import base64
import json

import msgspec

from attestor.workload.image_signers import Envelope, KeyHolders, pae
from attestor.workload.image_statements import parse
from issuer.node import aws_iid as aws
from issuer.node import gcp_iit as gcp
from issuer.node import http_challenge as http
from issuer.node import k8s_psat as psat
from spiffekit.daemon.kubernetes import facts
from spiffekit.daemon.kubernetes.client import UNREADABLE
from spiffekit.daemon.kubernetes.objects import PodList
from spiffekit.jwk import parse_json_object
from tests.fakes.clock import FakeClock
from tests.fakes.kubernetes import pod
from tests.fakes.sigstore import keyed, provenance
from tests.fuzz.targets import CA
from tests.fuzz.wire_targets import CLOUD, CLOUD_KEY, Asked, prove
from tests.issuer.node.cms import Message
from tests.issuer.node.google import INSTANCE, Google
from tests.issuer.node.test_aws_iid import ACCOUNT, sent, text_of

CLOCK = FakeClock(CA.now)
DIGEST = "sha256:" + "cd" * 32


def statement(data):
    parse(data, DIGEST, 10_000)


def envelope(data):
    """What is read of a file of bundles; in it nobody has signed."""
    try:
        found = msgspec.json.decode(data, type=Envelope)
    except UNREADABLE:
        return
    assert pae(found).startswith(b"DSSEv1 ")
    KeyHolders({"release": CA.key.public_key()}).verify(found)


def pods(data):
    """A kubelet's list, and what is stated of each container in it."""
    try:
        found = msgspec.json.decode(data, type=PodList)
    except UNREADABLE:
        return
    for one in found.items or ():
        for status in (*one.status.container_statuses, *one.status.init_container_statuses):
            facts.selectors(one, status, one.metadata.labels)
            facts.pod_facts(one, status)
            assert facts.container_facts(one, status).id in status.container_id


AWS = aws.create_with(aws.Config((ACCOUNT,)), {"us-west-2": CLOUD}, CLOCK)


def aws_payload(data):
    prove(AWS, data)


def aws_document(data):
    """Whatever it is that AWS has signed, it proves one machine or nothing."""
    proof = prove(AWS, signed(data.decode("latin-1")))
    assert proof.node_id.path.startswith(f"/spire/agent/aws_iid/{ACCOUNT}/us-west-2/i-")
    assert proof.node_id.path.count("/") == 6


def signed(text):
    return sent(text, base64.b64encode(Message(text.encode(), CLOUD, CLOUD_KEY).build()).decode())


class Keys:
    """Those of Google; every token has been signed by it."""

    async def key(self, _id, _now):
        raise Asked


GCP = gcp.GcpIitVerifier(gcp.Config(("project-1",)), Keys(), CLOCK)


def gcp_token(data):
    prove(GCP, data)


def gcp_claims(data):
    try:
        claims = msgspec.convert(parse_json_object(data), gcp._Claims)
    except ValueError:  # is told in words of ours where the token is verified
        return
    assert all(selector.type == "gcp_iit" for selector in gcp._selectors(claims))


HTTP = http.create_with(http.Config((r"[a-z]+\.example\.org",)), None)


def http_payload(data):
    prove(HTTP, data)


PSAT = psat.K8sPsatVerifier(psat.Config({"c1": psat.Cluster(("spiffe:attestor",))}))


def psat_payload(data):
    prove(PSAT, data)


BUILT = provenance(DIGEST)
CLAIMS = {"iss": gcp.ISSUER, "google": {"compute_engine": INSTANCE}, "email": "a@b", "email_verified": True}
SEEDS = {
    statement: json.dumps(BUILT).encode(),
    envelope: json.dumps(keyed(CA.key, BUILT)["dsseEnvelope"]).encode(),
    pods: json.dumps({"metadata": {}, "items": [pod("one", app="a"), pod("two")]}).encode(),
    aws_payload: signed(text_of()),
    aws_document: text_of().encode(),
    gcp_token: Google(CLOCK).token(),
    gcp_claims: json.dumps(CLAIMS).encode(),
    http_payload: json.dumps({"hostname": "web.example.org", "agentname": "default", "port": 80}).encode(),
    psat_payload: json.dumps({"cluster": "c1", "token": "t"}).encode(),
}

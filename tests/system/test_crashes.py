# SPDX-License-Identifier: Apache-2.0
"""kill -9 at random moments under load: what was acknowledged stays, and nothing is left half done."""

import json
import random
import sqlite3
import threading
import time

import grpc
import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec

from issuer.client import connect, listed
from issuer.governance.audit_log import load_signer
from issuer.governance.log_files import LogFiles
from spiffekit.id import SpiffeId
from spiffekit.jwtsvid import JwtSvid
from spiffekit.transparency.check import check_log
from spiffekit.transparency.notes import open_checkpoint
from spiffekit.wire.convert import spiffe_id_to_proto
from spiffekit.wire.pb.issuer.v1 import agents_pb2, revocation_pb2
from spiffekit.wire.pb.spire.api import types_pb2
from spiffekit.wire.pb.spire.api.server.entry.v1 import entry_pb2
from spiffekit.wire.pb.spire.api.server.svid.v1 import svid_pb2
from tests.system.conftest import UID, eventually, ids_of

PARENT = SpiffeId.parse("spiffe://example.org/fleet")
ROUNDS, SOAK_ROUNDS = 20, 200


def entry(number):
    return types_pb2.Entry(
        spiffe_id=spiffe_id_to_proto(PARENT.with_path(f"/agents/{number}")),
        parent_id=spiffe_id_to_proto(PARENT),
        selectors=[types_pb2.Selector(type="unix", value=f"uid:{number}")],
    )


class Operator:
    """Works without a pause, a step after the other, until the block ends."""

    def __init__(self, socket):
        self._socket = socket
        self._number = 0
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._run)
        self.steps = 0  # that were acknowledged to their end

    def __enter__(self):
        self._thread.start()
        return self

    def __exit__(self, *_):
        self._stopping.set()
        self._thread.join(30)

    def _run(self):
        while not self._stopping.is_set():
            try:
                with connect(self._socket) as api:
                    while not self._stopping.is_set():
                        self.step(api)
                        self.steps += 1
            except (grpc.RpcError, ConnectionRefusedError):
                time.sleep(0.02)  # the issuer is dead or not back yet


class Registrar(Operator):
    """Creates and deletes entries; remembers what was acknowledged."""

    def __init__(self, socket):
        super().__init__(socket)
        self.kept = {}  # ID: number, of entries whose creation was acknowledged
        self.gone = set()  # IDs of entries whose deletion was acknowledged
        self.unsure = set()  # IDs of entries whose deletion was asked for and not acknowledged

    def step(self, api):
        numbers = range(self._number, self._number + 3)
        self._number += 3
        request = entry_pb2.BatchCreateEntryRequest(entries=map(entry, numbers))
        for number, result in zip(
            numbers, api.entries.BatchCreateEntry(request, timeout=5).results, strict=True
        ):
            if result.status.code == 0:
                self.kept[result.entry.id] = number
        oldest = next(iter(self.kept))
        number = self.kept.pop(oldest)
        self.unsure.add(oldest)
        answer = api.entries.BatchDeleteEntry(entry_pb2.BatchDeleteEntryRequest(ids=[oldest]), timeout=5)
        if answer.results[0].status.code == 0:
            self.unsure.discard(oldest)
            self.gone.add(oldest)
        else:
            self.kept[oldest] = number


class Owner(Operator):
    """Leads agents through their lives; remembers how far each was acknowledged."""

    def __init__(self, socket):
        super().__init__(socket)
        self.reached = {}  # SPIFFE ID: the steps that were acknowledged
        self.serials = {}  # SPIFFE ID: the serial number of what the agent was given
        self.tokens = set()  # of which the revocation was acknowledged

    def step(self, api):
        self._number += 1
        agent = f"spiffe://example.org/agent/{self._number}"
        spec = agents_pb2.AgentSpec(
            spiffe_id=agent,
            owner=agents_pb2.Owner(issuer="https://idp.example.org", subject="alice"),
            purpose="is there while its issuer crashes",
            limits=agents_pb2.Limits(x509_ttl=LONG, jwt_ttl=LONG),
        )
        api.agents.RegisterAgent(agents_pb2.RegisterAgentRequest(spec=spec), timeout=5)
        self.reached[agent] = 0
        for number, verb in enumerate(LIFE[: self._number % len(LIFE) + 1], 1):
            if verb == "SuspendAgent":
                self._give_and_take(api, agent)
            request = CHANGES.get(verb, agents_pb2.ChangeStateRequest)(spiffe_id=agent, reason="a crash")
            getattr(api.agents, verb)(request, timeout=5)
            self.reached[agent] = number

    def _give_and_take(self, api, agent):
        """Give it a certificate, which its next steps take back, and a token that is taken back alone."""
        minted = api.svids.MintX509SVID(svid_pb2.MintX509SVIDRequest(csr=csr_of(agent), ttl=LONG), timeout=5)
        leaf = x509.load_der_x509_certificate(minted.svid.cert_chain[0])
        self.serials[agent] = str(leaf.serial_number)
        asked = svid_pb2.MintJWTSVIDRequest(
            id=spiffe_id_to_proto(SpiffeId.parse(agent)), audience=["db"], ttl=LONG
        )
        token = api.svids.MintJWTSVID(asked, timeout=5).svid.token
        jti = JwtSvid.parse_unverified(token).claims["jti"]
        api.revocation.Revoke(revocation_pb2.RevokeRequest(jti=jti, reason="a crash"), timeout=5)
        self.tokens.add(jti)


LIFE = ["ActivateAgent", "SuspendAgent", "ResumeAgent", "RetireAgent"]
STATES = ["REGISTERED", "ACTIVE", "SUSPENDED", "ACTIVE", "RETIRED"]
CHANGES = {"RetireAgent": agents_pb2.RetireAgentRequest}
LONG = 6 * 3600  # seconds: what is taken back is listed until the end of the test
KEY = ec.generate_private_key(ec.SECP256R1())


def csr_of(agent):
    name = x509.SubjectAlternativeName([x509.UniformResourceIdentifier(agent)])
    builder = x509.CertificateSigningRequestBuilder().subject_name(x509.Name([]))
    signed = builder.add_extension(name, critical=False).sign(KEY, hashes.SHA256())
    return signed.public_bytes(serialization.Encoding.DER)


def crash_the_issuer(local, rounds):
    draw = random.Random(rounds)
    with Registrar(local.admin_socket) as registrar, Owner(local.admin_socket) as owner:
        for _ in range(rounds):
            seen = registrar.steps, owner.steps
            eventually(lambda seen=seen: registrar.steps > seen[0] and owner.steps > seen[1], True)
            time.sleep(draw.uniform(0, 0.1))
            local.issuer.kill()
            local.start_issuer()
    the_registry_has(local, registrar)
    the_agents_are(local, owner)
    the_trail_has(local, registrar, owner)


def the_registry_has(local, operator):
    """What was acknowledged of entries is there, and whole."""
    with connect(local.admin_socket) as api:
        found = listed(api.entries.ListEntries, entry_pb2.ListEntriesRequest(), "entries")
    known = {entry.id: entry for entry in found}
    assert operator.gone
    assert operator.kept.keys() - known.keys() == set(), "an acknowledged registration was lost"
    assert operator.gone & known.keys() == set(), "an acknowledged deletion was lost"
    for entry_id, number in operator.kept.items():
        assert known[entry_id].spiffe_id.path == f"/agents/{number}", "a half state"
        assert [s.value for s in known[entry_id].selectors] == [f"uid:{number}"]


def the_agents_are(local, owner):
    """Each is where it was led or one step further, and what it was given is taken back by that state."""
    with connect(local.admin_socket) as api:
        found = listed(api.agents.ListAgents, agents_pb2.ListAgentsRequest(), "agents")
        taken = listed(api.revocation.ListRevoked, revocation_pb2.ListRevokedRequest(), "revoked")
    agents = {agent.spec.spiffe_id: agent for agent in found}
    revoked = {(one.kind, one.key): one.reason for one in taken}
    assert len({agent.version for agent in agents.values()}) == len(agents)
    for spiffe_id, reached in owner.reached.items():
        state = agents_pb2.AgentState.Name(agents[spiffe_id].state)
        assert state in STATES[reached : reached + 2], "an acknowledged step was lost"
        taken_back = revoked.get(("certificate", owner.serials.get(spiffe_id, "")))
        if spiffe_id in owner.serials:
            reasons = {"SUSPENDED": "certificate_hold", "RETIRED": "cessation_of_operation"}
            assert taken_back == reasons.get(state), "a half state"
        assert (("retired", spiffe_id) in revoked) is (state == "RETIRED"), "a half state"
    assert owner.tokens
    assert owner.tokens - {key for kind, key in revoked if kind == "token"} == set(), "a revocation was lost"


def the_trail_has(local, registrar, owner):
    """The audit log is whole, and has what was acknowledged."""
    data = local.folder / "issuer"
    files, key = LogFiles(data / "audit"), load_signer("example.org/audit", data / "audit-key").key
    with sqlite3.connect(f"file:{data / 'issuer.db'}?mode=ro", uri=True) as database:
        recorded = database.execute("SELECT count(*) FROM audit").fetchone()[0]
    eventually(lambda: open_checkpoint(files.checkpoint(), key).size >= recorded, True)
    events = []
    check_log(
        files.read,
        open_checkpoint(files.checkpoint(), key),
        check_entry=lambda _, leaf: events.append(json.loads(leaf)),
    )
    assert [event["seq"] for event in events] == list(range(1, len(events) + 1))
    created = {*registrar.kept, *registrar.gone}
    for kind, ids in (("entry.created", created), ("entry.deleted", registrar.gone)):
        assert ids - {event["detail"]["entry"] for event in events if event["type"] == kind} == set()
    for spiffe_id, reached in owner.reached.items():
        told = [
            e["detail"]["state"].upper()
            for e in events
            if e.get("agent", {}).get("spiffe_id") == spiffe_id and e["type"].startswith("agent.")
        ]
        assert told in (STATES[: reached + 1], STATES[: reached + 2])
    recorded = {event["detail"].get("key") for event in events if event["type"] == "svid.revoked"}
    assert owner.tokens - recorded == set()
    assert "audit log cannot be sealed" not in local.issuer.log.read_text()


def crash_the_attestor(local, attestor, rounds):
    draw = random.Random(rounds)
    kept = local.register("/crashing", attestor.node_id, UID)
    for _ in range(rounds):
        time.sleep(draw.uniform(0, 0.3))
        attestor.daemon.kill()
        attestor.start()
        assert ids_of(attestor) == ["spiffe://example.org/crashing"]
    local.operator("entry", "delete", "--entryID", kept)
    assert "node attested" in attestor.daemon.log.read_text()
    assert attestor.daemon.log.read_text().count("node attested") == 1, "its state was never lost"


@pytest.fixture(scope="module")
def settings():
    # The node's SVID is renewed every few seconds: crashes meet the replacement of its key. A busy machine
    # takes some for a new start, and meanwhile it must not end.
    return {"issuer": {"node_svid_ttl": "10s"}}


def test_nothing_acknowledged_is_lost(local):
    crash_the_issuer(local, ROUNDS)


def test_a_node_comes_back_from_every_crash(local, attestor):
    crash_the_attestor(local, attestor, ROUNDS // 2)


@pytest.mark.soak
@pytest.mark.timeout(3600)
def test_soak_nothing_acknowledged_is_lost(local):
    crash_the_issuer(local, SOAK_ROUNDS)


@pytest.mark.soak
@pytest.mark.timeout(3600)
def test_soak_a_node_comes_back_from_every_crash(local):
    # A node of its own: one that was there before may have expired while the issuer was down.
    crash_the_attestor(local, local.start_attestor("soaked"), SOAK_ROUNDS)

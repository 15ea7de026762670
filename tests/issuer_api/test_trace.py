# SPDX-License-Identifier: Apache-2.0
"""`issuer trace`: who acted, for whom, on whose node, and who is accountable."""

import asyncio
import json
import os
from datetime import UTC, datetime, timedelta
from functools import partial

import grpc
import pytest
from click.testing import CliRunner
from cryptography import x509
from msgspec import structs

from issuer.cli import main
from issuer.cli.trace_findings import Findings, find
from issuer.client import connect
from issuer.model import (
    AgentFacts,
    AttestFacts,
    AuditRecord,
    CredentialFacts,
    Outcome,
    PeerFacts,
    PolicyFacts,
)
from spiffekit.jwtsvid import JwtSvid
from spiffekit.wire.pb.spire.api import types_pb2
from spiffekit.wire.pb.spire.api.server.entry.v1 import entry_pb2, entry_pb2_grpc
from spiffekit.wire.pb.spire.api.server.svid.v1 import svid_pb2, svid_pb2_grpc
from tests.issuer.governance.people import IDP, listed, user, write
from tests.issuer_api.entries import create_one
from tests.issuer_api.test_evidence import evidence, sign
from tests.issuer_api.world import World

Code = grpc.StatusCode
ME = f"local:uid={os.geteuid()}"
PAYER = "spiffe://example.org/agent/payer"
ID = ("--spiffeID", PAYER)
OWNER = ("--ownerIssuer", IDP, "--owner", "alice")
PURPOSE = ("--purpose", "pays the invoices that people approved")
NODE = "spiffe://example.org/spire/agent/test/n1"
ALICE, BOB = f"{IDP}|alice", f"{IDP}|bob"


async def invoke(world, *arguments, code=0):
    """Run a command; return what it printed. It has to end with `code`."""
    line = [*arguments, "--socketPath", str(world.socket)]
    ended = await asyncio.to_thread(CliRunner(env={"COLUMNS": "300"}).invoke, main, line)
    assert ended.exit_code == code, ended.output
    return ended.output


@pytest.fixture
def said(world):
    return partial(invoke, world)


@pytest.fixture
def traced(said):
    async def run(what):
        return json.loads(await said("trace", what, "--output", "json"))

    return run


@pytest.fixture
async def payer(said):
    """An agent that is registered and approved; commands and tests are the same user."""
    await said("agent", "register", *ID, *OWNER, *PURPOSE)
    await said("agent", "activate", *ID, "--reason", "approved in CHG-4711")


@pytest.fixture
async def entry(local):
    operator = entry_pb2_grpc.EntryStub(local)
    return await create_one(operator, "/agent/payer", svid_per_process=True)


@pytest.fixture
async def given(world, clock, payer, entry, channel):
    """The serial number of what a process of the agent was given."""
    proved = AuditRecord(
        at=clock.now(), actor="anonymous:127.0.0.1", act="", subject=NODE,
        outcome=Outcome.OK, type="attest.node",
    )  # fmt: skip
    await world.database.record(proved)
    result = await sign(svid_pb2_grpc.SVIDStub(channel), entry.id, evidence(clock))
    return str(x509.load_der_x509_certificate(result.svid.cert_chain[0]).serial_number)


def roles(found):
    return [(one["who"], one["role"]) for one in found["accountable"]]


async def test_a_certificate_is_traced_to_the_people_who_answer_for_it(traced, given, entry):
    found = await traced(given)
    assert (found["spiffe_id"], found["issued"]["credential"]["serial"]) == (PAYER, given)
    assert found["state"].startswith("valid until ")
    assert found["issued"]["attest"]["node"] == found["node"]["resource"] == NODE
    assert found["issued"]["detail"]["evidence"]["process"]["uid"] == 1000
    assert [event["type"] for event in found["entry"]] == ["entry.created"]
    assert found["entry"][0]["detail"]["entry"] == entry.id
    assert found["agent"]["spec"]["owner"] == {"issuer": IDP, "subject": "alice"}
    assert [event["type"] for event in found["life"]] == ["agent.registered", "agent.activated"]
    assert roles(found) == [(ALICE, "owner"), (ME, "registered the agent"), (ME, "approved the agent")]
    assert found["revoked"] == []


async def test_it_is_told_to_people(said, given):
    told = await said("trace", given)
    for line in (
        f"Credential : x509-svid {given}",
        "To process : 1 of user 1000\n",
        "Instance   : aaaaaaaaaaaaaaaaaaaaaaaaaa",
        f"On node    : {NODE} (unknown, proved 2",
        "By policy  : none was asked",
        f"Owner      : {ALICE}",
        "State      : active since 2",
        "pays the invoices that people approved",
        "approved in CHG-4711",
        "Accountable:",
    ):
        assert line in told
    assert "Asked by" not in told


async def test_who_owned_it_then_answers_and_not_who_owns_it_now(traced, said, given):
    moved = ("--reason", "Alice left", "--ownerIssuer", IDP, "--owner", "bob")
    await said("agent", "transfer", *ID, *moved)
    await said("agent", "suspend", *ID, "--reason", "pays twice")
    await said("agent", "resume", *ID, "--reason", "mended")
    found = await traced(given)
    assert (ALICE, "owner") in roles(found)
    assert BOB not in dict(roles(found))
    assert "resumed the agent" not in dict(map(reversed, roles(found)))
    told = await said("trace", given)
    assert f"Owner      : {BOB}" in told
    assert f"Owner then : {ALICE}" in told
    assert "Alice left" in told
    whole = await traced(PAYER)  # of the agent as a whole, both answer
    assert [who for who, role in roles(whole) if role == "owner"] == [ALICE, BOB]
    assert "resumed the agent" in dict(map(reversed, roles(whole)))


async def test_what_was_taken_back_says_so(traced, said, given, clock):
    await said("agent", "suspend", *ID, "--reason", "pays twice")
    assert (await traced(given))["state"].endswith("(certificate_hold)")
    await said("agent", "resume", *ID, "--reason", "mended")
    assert (await traced(given))["state"].startswith("valid until ")
    await said("revocation", "add", "--serial", given, "--reason", "left on a laptop")
    found = await traced(given)
    assert found["state"].endswith("(key_compromise)")
    assert found["life"][-1]["outcome"]["reason"] == "left on a laptop"


async def test_a_token_is_taken_back_with_its_agent(traced, said, given, entry, channel, clock):
    asked = svid_pb2.NewJWTSVIDRequest(entry_id=entry.id, audience=["db"], evidence=evidence(clock))
    token = (await svid_pb2_grpc.SVIDStub(channel).NewJWTSVID(asked)).svid.token
    jti = JwtSvid.parse_unverified(token).claims["jti"]
    assert (await traced(jti))["issued"]["detail"]["audience"] == ["db"]
    assert "For        : db" in await said("trace", jti)
    await said("agent", "suspend", *ID, "--reason", "pays twice")
    assert (await traced(jti))["state"] == "withheld: its agent is suspended"
    await clock.advance(timedelta(seconds=1))
    await said("revocation", "add", *ID, "--reason", "key stolen")
    assert "with all from before" in (await traced(jti))["state"]
    await said("agent", "retire", *ID, "--reason", "done")
    found = await traced(jti)
    assert {one["kind"] for one in found["revoked"]} == {"before", "retired"}


async def test_what_ended_by_itself_says_so():
    ends = datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)
    found = Findings(spiffe_id=PAYER, issued={"credential": {"exp": "2026-01-02T03:04:05Z"}})
    assert found.state(ends) == "ended 2026-01-02T03:04:05Z"
    assert found.state(ends - timedelta(seconds=1)) == "valid until 2026-01-02T03:04:05Z"


async def test_who_wrote_the_policy_that_decided_answers_too(
    traced, said, payer, entry, channel, clock, tmp_path
):
    async def put(name, text):
        (tmp_path / "policy").write_text(text)
        await said("policy", "put", "--name", name, "--file", str(tmp_path / "policy"), "--reason", "CHG-1")

    await put("all", '@id("ok") permit(principal, action, resource);')
    await put("weak", '@id("tpm") @mode("shadow") forbid(principal, action, resource);')
    node = svid_pb2_grpc.SVIDStub(channel)
    result = await sign(node, entry.id, evidence(clock))
    serial = str(x509.load_der_x509_certificate(result.svid.cert_chain[0]).serial_number)
    assert roles(await traced(serial))[-1] == (ME, "wrote policy all")
    told = await said("trace", serial)
    assert "By policy  : all#ok, of " in told
    assert "In shadow  : would be denied by weak#tpm" in told

    await put("weak", '@id("tpm") forbid(principal, action, resource);')
    assert (await sign(node, entry.id, evidence(clock))).status.code == Code.PERMISSION_DENIED.value[0]
    whole = await traced(PAYER)
    assert [event["policy"]["ids"] for event in whole["refused"]] == [["weak#tpm"]]
    told = await said("trace", PAYER)
    assert "What it was refused, the latest 1:" in told
    assert "policy weak#tpm forbids it" in told


async def test_an_agent_is_traced_to_what_it_was_given(traced, said, given):
    found = await traced(PAYER)
    assert [event["credential"]["serial"] for event in found["given"]] == [given]
    assert (found["state"], found["issued"]) == (None, None)
    told = await said("trace", PAYER)
    assert given in told
    assert "the latest 1" in told


async def test_who_is_behind_an_account_is_recorded_when_it_acts(place, clock):
    write(place / "people.json", user("alice", f"local:uid={os.geteuid()}"))
    people = listed(place / "people.json")
    await people.reload()
    async with World.open(place, clock, people=people) as world:
        run = partial(invoke, world)
        await run("agent", "register", *ID, *OWNER, *PURPOSE)
        await run("agent", "activate", *ID, "--reason", "approved")
        write(place / "people.json")  # what was recorded stays, whoever leaves
        await people.reload()
        found = json.loads(await run("trace", PAYER, "--output", "json"))
        assert {(one["who"], one["account"]) for one in found["accountable"][1:]} == {(ALICE, ME)}
        assert ALICE in await run("trace", PAYER)


async def test_an_identity_without_an_owner_is_whose_entry_it_is(traced, said, local, channel):
    operator = entry_pb2_grpc.EntryStub(local)
    made = await create_one(operator, "/plain")
    await create_one(operator, "/plain", selectors=[types_pb2.Selector(type="unix", value="uid:1001")])
    result = await sign(svid_pb2_grpc.SVIDStub(channel), made.id)
    serial = str(x509.load_der_x509_certificate(result.svid.cert_chain[0]).serial_number)
    found = await traced(serial)
    assert roles(found) == [(ME, "created the entry")]
    assert (found["agent"], found["node"]) == (None, None)  # its proof is older than this trail
    assert "Owner     : none: it is no agent's" in await said("trace", serial)
    assert roles(await traced("spiffe://example.org/plain")) == [(ME, "created the entry")] * 2


async def minted(said, spiffe_id, folder):
    """The serial number of what an operator has signed."""
    await said("x509", "mint", "--spiffeID", spiffe_id, "--write", str(folder))
    return str(x509.load_pem_x509_certificate((folder / "svid.pem").read_bytes()).serial_number)


async def test_what_an_operator_had_signed_is_the_operators(traced, said, tmp_path):
    name = await minted(said, PAYER, tmp_path)
    assert roles(await traced(name)) == [(ME, "had it signed")]
    assert "Asked by   : local:uid=" in await said("trace", name)


async def test_an_identity_of_before_it_was_an_agents_had_no_owner(traced, said, tmp_path):
    name = await minted(said, f"{PAYER}2", tmp_path)
    await said("agent", "register", "--spiffeID", f"{PAYER}2", *OWNER, *PURPOSE)
    assert roles(await traced(name)) == [(ME, "had it signed")]
    assert "Owner then : none: it was no agent's" in await said("trace", name)


@pytest.mark.parametrize("deleted", [False, True])
async def test_an_identity_of_a_template_is_traced_to_it_as_long_as_it_is_there(
    traced, local, channel, clock, deleted
):
    operator = entry_pb2_grpc.EntryStub(local)
    made = await create_one(
        operator, spiffe_id=None, spiffe_id_template="spiffe://example.org/users/{unix:user}"
    )
    saw = evidence(clock, "unix:uid:1000", "unix:user:ada")
    result = await sign(svid_pb2_grpc.SVIDStub(channel), made.id, saw)
    if deleted:
        await operator.BatchDeleteEntry(entry_pb2.BatchDeleteEntryRequest(ids=[made.id]))
    found = await traced(str(x509.load_der_x509_certificate(result.svid.cert_chain[0]).serial_number))
    assert found["spiffe_id"] == "spiffe://example.org/users/ada"
    assert roles(found) == ([] if deleted else [(ME, "created the entry")])


async def test_a_node_is_traced_to_itself(world, said):
    proved = AuditRecord(
        at=world.clock.now(), actor="anonymous:192.0.2.1", act="", subject=NODE, outcome=Outcome.OK,
        type="attest.node", peer=PeerFacts(ip="192.0.2.1"), attest=AttestFacts(node=NODE, level="tpm"),
        credential=CredentialFacts(kind="x509-svid", serial="4711", exp="2100-01-01T00:00:00Z"),
    )  # fmt: skip
    await world.database.record(proved)
    told = await said("trace", "0x1267")
    assert f"On node    : {NODE} (tpm) from 192.0.2.1" in told
    assert "Accountable: nobody is recorded" in told


@pytest.mark.parametrize(
    ("what", "message"),
    [
        ("4711", "nothing with the serial number or ID '4711' was ever issued here"),
        ("01JBX3", "nothing with the serial number or ID '01JBX3' was ever issued here"),
        (PAYER, f"nothing is known of {PAYER}"),
        ("spiffe://other.org/a", "nothing is known of spiffe://other.org/a"),
    ],
)
async def test_what_nobody_knows_is_not_found(said, what, message):
    assert await said("trace", what, code=1) == f"error: {message}\n"


async def test_what_a_node_alone_says_was_never_issued(world, said):
    told = AuditRecord(
        at=world.clock.now(), actor=NODE, act="", subject=PAYER, outcome=Outcome.OK, type="node.svid_fetched",
        credential=CredentialFacts(kind="x509-svid", serial="4711", exp="2100-01-01T00:00:00Z"),
    )  # fmt: skip
    await world.database.record(told)
    assert "'4711' was ever issued here" in await said("trace", "4711", code=1)


async def test_an_issuer_that_cannot_answer_is_no_answer(world, given):
    class Away(grpc.RpcError):
        def code(self):
            return Code.UNAVAILABLE

    def fail(*_, **__):
        raise Away

    with connect(world.socket) as api:
        for stub, method in ((api.agents, "GetAgent"), (api.entries, "GetEntry")):
            kept = getattr(stub, method)
            setattr(stub, method, fail)
            with pytest.raises(Away):
                await asyncio.to_thread(find, api, given)
            setattr(stub, method, kept)


def told_by_node(world, serial, **fields):
    """What a node says of a certificate of the agent."""
    process = {"pid": 4711, "uid": 1000, "path": "/opt/tool", "sha256": ""}
    return AuditRecord(
        at=world.clock.now(), actor=NODE, act="", subject=PAYER,
        credential=CredentialFacts(kind="x509-svid", serial=serial),
        **{"outcome": Outcome.OK, **fields, "detail": {"process": process, **fields["detail"]}},
    )  # fmt: skip


async def test_who_fetched_it_and_what_verifiers_made_of_it_is_told_as_the_nodes_word(
    world, traced, said, given
):
    verifier = {"verifier": "spiffe://example.org/tool", "verified": "mtls"}
    asked = {"verifier": "spiffe://example.org/tool", "verified": "policy", "action": "refund"}
    for record in (
        told_by_node(world, given, type="node.svid_fetched", detail={}),
        told_by_node(world, given, type="node.verified", detail=verifier),
        told_by_node(
            world, given, type="node.verified", outcome=Outcome.DENIED, reason="over limit", detail=asked
        ),
    ):
        await world.database.record(record)
    types = ["node.svid_fetched", "node.verified", "node.verified"]
    for what in (given, PAYER):
        assert [event["type"] for event in (await traced(what))["told"]] == types
        told = await said("trace", what)
        assert "What nodes say of it, the latest 3:" in told
        for line in (
            "svid fetched",
            "let in by spiffe://example.org/tool (mtls)",
            "refused to refund by spiffe://example.org/tool (policy): over limit",
            "4711, /opt/tool",
        ):
            assert line in told


async def test_a_transaction_is_traced_to_whoever_acted_in_it(world, traced, said, payer, clock, tmp_path):
    (tmp_path / "policy").write_text('@id("ok") permit(principal, action, resource);')
    await said("policy", "put", "--name", "all", "--file", str(tmp_path / "policy"), "--reason", "CHG-1")
    await clock.advance(timedelta(seconds=1))
    stranger = "spiffe://other.org/a"
    detail = {"verifier": "spiffe://example.org/tool", "verified": "policy", "action": "refund"}
    acted = {
        "type": "node.verified",
        "detail": detail | {"txn": "t-1"},
        "agent": AgentFacts(spiffe_id=PAYER, owner=ALICE),
        "policy": PolicyFacts(bundle="ab" * 32, ids=("all#ok",)),
    }  # fmt: skip
    foreign = {"subject": stranger, "agent": None, "policy": None, "outcome": Outcome.DENIED, "reason": "no"}
    other = acted | {"detail": detail | {"txn": "t-2"}}
    steps = [told_by_node(world, serial, **acted) for serial in ("1", "2")]
    steps += [structs.replace(steps[0], **foreign), told_by_node(world, "3", **other)]
    await world.database.record(*steps)
    found = await traced("t-1")
    assert (found["txn"], found["spiffe_id"], found["issued"]) == ("t-1", "", None)
    assert [event["resource"] for event in found["told"]] == [PAYER, PAYER, stranger]
    assert roles(found) == [
        (ALICE, f"owner ({PAYER})"),
        (ME, f"registered the agent ({PAYER})"),
        (ME, f"approved the agent ({PAYER})"),
        (ME, f"wrote policy all ({PAYER})"),
    ]
    told = await said("trace", "t-1")
    for line in (
        "Transaction : t-1",
        "What nodes say of it, the first 3:",
        "let in to refund by spiffe://example.org/tool (policy)",
        "all#ok",
        "refused to refund by spiffe://example.org/tool (policy): no",
        NODE,
    ):
        assert line in told
    assert len(json.loads(await said("audit", "search", "--txn", "t-1", "--output", "json"))["events"]) == 3
    assert "Owner" not in told

# SPDX-License-Identifier: Apache-2.0
"""issuer.v1.AuditReports: a node adds to the trail what it saw, under its own name and within bounds."""

import os
from datetime import timedelta

import grpc
import pytest

from issuer.api.reported import MAX_AUDIENCE, MAX_EVENT_BYTES, MAX_EVENTS, MAX_NUMBER
from issuer.model import AgentFacts, AgentState, AttestFacts, CredentialFacts, Outcome, Severity
from issuer.store.attestor_runs import KEPT
from spiffekit.wire.pb.issuer.v1 import audit_reports_pb2, audit_reports_pb2_grpc
from spiffekit.wire.pb.spire.api.server.svid.v1 import svid_pb2, svid_pb2_grpc
from tests.issuer.strategies import an_agent
from tests.issuer_api.calls import refused
from tests.issuer_api.world import World, csr

Code = grpc.StatusCode
BOOT = bytes(range(16))
NEXT = bytes(range(16, 32))
NODE = "spiffe://example.org/spire/agent/test/n1"
WEB = "spiffe://example.org/web"
PROCESS = {"pid": 4711, "uid": 1000, "path": "/usr/bin/agent", "sha256": "ab" * 32}
FETCHED = {
    "spiffe_id": WEB,
    "kind": "jwt-svid",
    "token_sha256": "cd" * 32,
    "expires_at": 1_800_000_000,
    "entry_id": "web",
}
HOUR = timedelta(hours=1)


@pytest.fixture
def at(clock):
    """Now, in microseconds since 1970."""
    return int(clock.now().timestamp()) * 1_000_000


@pytest.fixture
def tell(channel, at):
    """Report events of a run by their numbers, or whole; return the number that is recorded last."""
    stub = audit_reports_pb2_grpc.AuditReportsStub(channel)
    return telling(stub, at)


def telling(stub, at):
    async def report(*events, boot=BOOT, ended=0):
        made = [event(one, at) if isinstance(one, int) else one for one in events]
        request = audit_reports_pb2.ReportRequest(boot=boot, events=made, ended=ended)
        return (await stub.Report(request)).recorded

    return report


def event(number, at=0, **what):
    return audit_reports_pb2.ReportedEvent(number=number, at=at, **(what or {"started": {"version": "1.0"}}))


def fetch(number, at, **changes):
    fields = {name: value for name, value in (FETCHED | changes).items() if value is not None}
    return event(number, at, process=PROCESS, fetched=fields)


async def types(world):
    """What was recorded: types, and of gaps what is missing."""
    return [
        record.type
        if record.type != "log.gap"
        else (record.severity.value, record.detail.get("from"), record.detail.get("to"))
        for record in await world.trail()
    ]


async def test_what_a_process_fetched_is_recorded_under_the_nodes_name(world, tell, at):
    assert await tell(fetch(1, at, audience=["db", "cache"])) == 1
    (record,) = await world.trail()
    assert (record.actor, record.subject, record.type) == (NODE, WEB, "node.svid_fetched")
    assert (record.outcome, record.severity) == (Outcome.OK, Severity.INFO)
    assert record.attest == AttestFacts(node=NODE, level="unknown")
    assert record.credential == CredentialFacts(kind="jwt-svid", sha256="cd" * 32, exp="2027-01-15T08:00:00Z")
    assert record.agent is None
    detail = dict(record.detail)
    assert len(detail.pop("call")) == 16
    assert detail == {
        "boot": BOOT.hex(),
        "number": 1,
        "at": world.clock.now().isoformat(),
        "process": PROCESS,
        "entry": "web",
        "audience": ["db", "cache"],
    }


async def test_refusals_changes_starts_and_ends_are_recorded(world, tell, at):
    refusal = event(2, at, process=PROCESS, refused={"reason": "no_identity", "call": "abcdef"})
    change = event(
        3, at, posture_changed={"entry_ids": ["web"], "gone": ["unix:path"], "new": ["unix:sha256"]}
    )
    assert await tell(1, refusal, change, ended=3) == 3
    started, refused_, changed, stopped = await world.trail()
    assert {record.subject for record in (started, refused_, changed, stopped)} == {NODE}
    assert (started.type, started.detail["version"]) == ("node.started", "1.0")
    assert (refused_.type, refused_.outcome, refused_.reason) == (
        "node.svid_refused",
        Outcome.DENIED,
        "no_identity",
    )
    assert (refused_.detail["process"], refused_.detail["refusal"]) == (PROCESS, "abcdef")
    assert (changed.type, changed.severity) == ("node.posture_changed", Severity.WARNING)
    assert [changed.detail[name] for name in ("entries", "gone", "new")] == [
        ["web"],
        ["unix:path"],
        ["unix:sha256"],
    ]
    assert (stopped.type, stopped.detail["last"], stopped.severity) == ("node.stopped", 3, Severity.INFO)


@pytest.mark.parametrize(("lost", "severity"), [(0, Severity.INFO), (7, Severity.WARNING)])
async def test_what_a_node_did_not_tell_one_by_one_is_recorded_in_numbers(world, tell, at, lost, severity):
    assert await tell(event(1, at, omitted={"lost": lost, "refusals": 30})) == 1
    (record,) = await world.trail()
    assert (record.type, record.subject, record.severity) == ("node.events_omitted", NODE, severity)
    assert (record.detail["lost"], record.detail["refusals"]) == (lost, 30)


async def test_of_an_agent_the_owner_is_named_as_the_registry_knows_it(world, tell, at):
    agent = an_agent("/agent/payer", state=AgentState.ACTIVE)
    await world.database.write(lambda tx: tx.agents.create(agent))
    await tell(fetch(1, at, spiffe_id=str(agent.spiffe_id), instance_uid="a" * 26))
    (record,) = await world.trail()
    assert record.agent == AgentFacts(
        spiffe_id=str(agent.spiffe_id), instance_uid="a" * 26, owner=str(agent.owner)
    )


async def test_a_newer_attestor_may_tell_what_is_not_known_here(world, tell):
    assert await tell(audit_reports_pb2.ReportedEvent(number=1, process=PROCESS), 2) == 2
    assert await types(world) == ["node.observed", "node.started"]


# What was issued.


async def issued(world, channel, **kind):
    """Let a node have an SVID; return what it is known by."""
    stub = svid_pb2_grpc.SVIDStub(channel)
    if kind:
        await stub.NewJWTSVID(svid_pb2.NewJWTSVIDRequest(entry_id="web", audience=["db"]))
    else:
        params = svid_pb2.NewX509SVIDParams(entry_id="web", csr=csr())
        await stub.BatchNewX509SVID(svid_pb2.BatchNewX509SVIDRequest(params=[params]))
    credential = (await world.trail())[-1].credential
    known = {"serial": credential.serial or None, "jti": credential.jti or None}
    return {"kind": credential.kind, "token_sha256": None, **known}


@pytest.mark.parametrize("kind", [{}, {"jti": True}])
async def test_an_svid_that_was_issued_to_the_node_is_nothing_strange(world, channel, tell, at, kind):
    await world.entry("/web", jwt_svid_include_jti=True)
    told = await issued(world, channel, **kind)
    await tell(fetch(1, at, **told))
    (record,) = (await world.trail())[1:]
    assert (record.severity, record.reason) == (Severity.INFO, "")
    assert (record.credential.serial or record.credential.jti) in told.values()


async def test_an_svid_that_another_node_has_or_nobody_or_of_another_id_is_an_alarm(world, tell, at, clock):
    await world.entry("/web", parent="/spire/agent/test/n2")
    other = await world.dial(await world.node("n2"))
    told = await issued(world, other)
    await tell(
        fetch(1, at, **told),
        fetch(2, at, kind="x509-svid", token_sha256=None, serial="4711"),
        fetch(3, at, token_sha256=None, jti=told["serial"]),
    )
    await telling(audit_reports_pb2_grpc.AuditReportsStub(other), at)(
        fetch(1, at, **told, spiffe_id="spiffe://example.org/elsewhere")
    )
    for record in (await world.trail())[1:]:
        assert (record.type, record.severity) == ("node.svid_fetched", Severity.ERROR)
        assert record.reason == "no such SVID was issued to this node"


async def test_what_a_node_says_is_no_proof_that_anything_was_issued(world, tell, at):
    """Else a node could have revocations and certificates of retirement name what never was."""
    await tell(fetch(1, at, kind="x509-svid", token_sha256=None, serial="4711"))
    since = world.clock.now() - HOUR

    def read(tx):
        return tx.audit.by_credential("4711"), tx.audit.credentials(WEB, since, valid_at=since)

    assert await world.database.read(read) == (None, [])


# Whose word it is.


async def test_nobody_but_a_node_reports(world, local, clock):
    admin_id = await world.sign("/admin")
    for channel in (local, await world.dial(), await world.dial(admin_id)):
        stub = audit_reports_pb2_grpc.AuditReportsStub(channel)
        with refused(Code.PERMISSION_DENIED):
            await stub.Report(audit_reports_pb2.ReportRequest(boot=BOOT, events=[event(1)]))
    assert [(r.type, r.outcome) for r in await world.trail()] == [("node.refused", Outcome.DENIED)]


async def test_each_node_has_runs_of_its_own(world, tell, at):
    """A node that names another's run cannot fill in for it, nor end it."""
    other = telling(audit_reports_pb2_grpc.AuditReportsStub(await world.dial(await world.node("n2"))), at)
    assert await tell(1, 2) == 2
    assert await other(1, ended=5) == 5
    assert await tell(3) == 3
    trail = [(record.actor.rpartition("/")[2], record.type) for record in await world.trail()]
    assert trail == [
        ("n1", "node.started"),
        ("n1", "node.started"),
        ("n2", "node.started"),
        ("n2", "log.gap"),
        ("n2", "node.stopped"),
        ("n1", "node.started"),
    ]


# The numbers.


async def test_what_is_told_again_is_recorded_once(world, tell):
    assert await tell(1, 2) == 2
    assert await tell(1, 2) == 2
    assert await tell(2, 3, ended=3) == 3
    assert await tell(2, 3, ended=3) == 3
    assert await tell(1) == 3
    assert await types(world) == ["node.started"] * 3 + ["node.stopped"]


async def test_what_is_missing_is_an_alarm(world, tell):
    assert await tell(3, 4) == 4
    assert await tell(8, 10, ended=12) == 12
    started, missing = "node.started", "error"
    assert await types(world) == [
        (missing, 1, 2),
        started,
        started,
        (missing, 5, 7),
        started,
        (missing, 9, 9),
        started,
        (missing, 11, 12),
        "node.stopped",
    ]
    gap = (await world.trail())[0]
    assert (gap.actor, gap.subject, gap.outcome) == (NODE, NODE, Outcome.FAILED)
    assert gap.reason == "events of the attestor are missing"


async def test_what_comes_late_does_not_undo_a_gap(world, tell):
    assert await tell(5) == 5
    assert await tell(2, 3) == 5
    assert await types(world) == [("error", 1, 4), "node.started"]


async def test_an_attestor_that_ends_without_a_word_is_noticed_at_its_next_start(world, tell):
    await tell(1, 2)
    await tell(1, boot=NEXT)
    assert await types(world) == ["node.started", "node.started", ("warning", 3, None), "node.started"]
    gap = (await world.trail())[2]
    assert (gap.detail["boot"], gap.reason.partition(":")[0]) == (
        BOOT.hex(),
        "the attestor ended without a word",
    )


async def test_an_attestor_that_says_its_end_leaves_no_gap(world, tell):
    await tell(1, ended=1)
    await tell(1, boot=NEXT)
    assert await types(world) == ["node.started", "node.stopped", "node.started"]


async def test_two_attestors_under_one_name_are_an_alarm(world, tell):
    await tell(1)
    await tell(1, boot=NEXT, ended=1)
    await tell(2)
    assert await types(world) == [
        "node.started",
        ("warning", 2, None),
        "node.started",
        "node.stopped",
        ("error", None, None),
        "node.started",
    ]
    both = (await world.trail())[4]
    assert (both.detail["boot"], both.detail["other"]) == (BOOT.hex(), NEXT.hex())
    assert both.reason.endswith("two may use the node's key")


async def test_nothing_follows_the_end(world, tell):
    await tell(1, ended=1)
    with refused(Code.INVALID_ARGUMENT, "boot: that run of the attestor has ended"):
        await tell(2)
    await tell(1, 2, boot=NEXT)
    with refused(Code.INVALID_ARGUMENT, "ended: is below the number of an event"):
        await tell(boot=NEXT, ended=1)


async def test_a_report_of_nothing_is_answered_and_not_recorded(world, tell):
    assert await tell() == 0
    await tell(1)
    assert await tell() == 1
    assert await types(world) == ["node.started"]


async def test_numbers_are_known_after_a_restart(place, clock, at):
    async with World.open(place, clock) as world:
        svid = await world.node("n1")
        tell = telling(audit_reports_pb2_grpc.AuditReportsStub(await world.dial(svid)), at)
        await tell(1, 2)
        runs = await world.database.read(lambda tx: tx.attestor_runs.of(svid.spiffe_id))
    async with World.open(place, clock) as world:
        assert await world.database.read(lambda tx: tx.attestor_runs.of(svid.spiffe_id)) == runs
        tell = telling(audit_reports_pb2_grpc.AuditReportsStub(await world.dial(await world.node("n1"))), at)
        assert await tell(1, 2, 3) == 3
        assert await types(world) == ["node.started"] * 3


async def test_who_starts_anew_in_a_loop_fills_no_table(world, tell):
    for _ in range(KEPT + 5):
        await tell(1, boot=os.urandom(16))
    (node,) = [node.id for node in await world.database.read(lambda tx: list(tx.nodes.all()))]
    runs = await world.database.read(lambda tx: tx.attestor_runs.of(node))
    assert len(runs) == KEPT


# The clock.


@pytest.mark.parametrize(
    ("off", "said"),
    [
        (timedelta(seconds=30), None),
        (timedelta(seconds=31), "ahead"),
        (-timedelta(days=1), None),
        (-timedelta(days=1, seconds=1), "old"),
    ],
)
async def test_a_time_that_is_strange_is_marked(world, tell, at, off, said):
    await tell(event(1, at + int(off.total_seconds()) * 1_000_000))
    (record,) = await world.trail()
    assert record.detail.get("clock") == said
    assert record.severity is (Severity.WARNING if said else Severity.INFO)
    assert record.at == world.clock.now()


# Bounds.


async def test_a_node_that_floods_is_held_back_and_others_are_not(place, clock, at):
    async with World.open(place, clock, report_limit=(1, 3)) as world:
        stubs = [
            audit_reports_pb2_grpc.AuditReportsStub(await world.dial(await world.node(name)))
            for name in ("n1", "n2")
        ]
        first, second = (telling(stub, at) for stub in stubs)
        await first(1, 2, 3)
        for again in ((4,), (), (1, 2, 3)):
            with refused(Code.RESOURCE_EXHAUSTED):
                await first(*again)
        assert await second(1) == 1
        await clock.advance(timedelta(seconds=1))
        assert await first(4) == 4


@pytest.mark.parametrize("boot", [b"", bytes(15), bytes(17)])
async def test_a_run_is_named_by_16_bytes(tell, boot):
    with refused(Code.INVALID_ARGUMENT, "boot: needs 16 bytes"):
        await tell(1, boot=boot)


BAD = {
    "events[0].number: is not between": [event(0)],
    f"events[0].number: is not between 1 and {MAX_NUMBER}": [event(MAX_NUMBER + 1)],
    "events[1].number: is not above the one before": [event(2), event(2)],
    f"events: more than {MAX_EVENTS}": [event(n) for n in range(1, MAX_EVENTS + 2)],
    f"has more than {MAX_EVENT_BYTES} bytes": [event(1, started={"version": "v" * MAX_EVENT_BYTES})],
    "at: is before 1970": [event(1, -1)],
    "at: is before 1970 or": [event(1, 2**62)],
    "started.version: ": [event(1, started={"version": "1\n"})],
    "process.path: more than": [event(1, process={"path": "/" * 4097}, refused={"reason": "x"})],
    "process.sha256: ": [event(1, process={"sha256": "AB"}, refused={"reason": "x"})],
    "refused.reason: ": [event(1, refused={"reason": "No!"})],
    "refused.call: ": [event(1, refused={"reason": "x", "call": "'; --"})],
    "omitted: a count is above": [event(1, omitted={"lost": 2**64 - 1})],
    "posture_changed.entry_ids: ": [event(1, posture_changed={"entry_ids": [""]})],
    "posture_changed.gone: more than": [event(1, posture_changed={"gone": ["x"] * 101})],
    "posture_changed.new: ": [event(1, posture_changed={"new": ["a b"]})],
    "fetched.spiffe_id: ": [fetch(1, 0, spiffe_id="web")],
    "fetched.spiffe_id: is not of trust domain": [fetch(1, 0, spiffe_id="spiffe://other.org/web")],
    "fetched.credential: is missing": [fetch(1, 0, token_sha256=None)],
    "fetched.kind: 'jwt-svid' is none that has a serial": [fetch(1, 0, token_sha256=None, serial="7")],
    "fetched.kind: 'x509-svid' is none that has a token": [fetch(1, 0, kind="x509-svid")],
    "fetched.serial: ": [fetch(1, 0, kind="x509-svid", token_sha256=None, serial="007")],
    "fetched.jti: ": [fetch(1, 0, token_sha256=None, jti="a\nb")],
    "fetched.token_sha256: ": [fetch(1, 0, token_sha256="CD" * 32)],
    "fetched.expires_at: ": [fetch(1, 0, expires_at=-1)],
    "fetched.entry_id: ": [fetch(1, 0, entry_id="")],
    "fetched.instance_uid: ": [fetch(1, 0, instance_uid="short")],
    "fetched.audience: more than": [fetch(1, 0, audience=["a" * MAX_AUDIENCE, "b"])],
    "what is to be recorded is longer": [fetch(1, 0, audience=["\1" * 4000])],
}


@pytest.mark.parametrize("message", BAD)
async def test_what_breaks_a_rule_is_refused_with_all_that_comes_with_it(world, tell, message):
    with refused(Code.INVALID_ARGUMENT) as caught:
        await tell(*BAD[message])
    assert message in caught.value.details()
    assert await world.trail() == []
    assert await tell(1) == 1


@pytest.mark.parametrize(
    ("ended", "rule"), [(1, "is below the number of an event"), (MAX_NUMBER + 1, f"is above {MAX_NUMBER}")]
)
async def test_the_end_is_not_before_an_event_nor_beyond_all_numbers(world, tell, ended, rule):
    with refused(Code.INVALID_ARGUMENT, f"ended: {rule}"):
        await tell(1, 2, ended=ended)
    assert await world.trail() == []

# SPDX-License-Identifier: Apache-2.0
"""What verifiers made of their peers, as nodes report it: their word, by peer and what it showed."""

import pytest

from issuer.model import AgentFacts, AgentState, CredentialFacts, Outcome, PolicyFacts, Severity
from issuer.store.audit import AuditFilter
from spiffekit.wire.convert import microseconds
from spiffekit.wire.pb.issuer.v1 import audit_reports_pb2_grpc
from tests.issuer.strategies import an_agent
from tests.issuer_api.calls import refused
from tests.issuer_api.test_audit_reports import BOOT, NODE, PROCESS, Code, event, telling

TOOL, PEER = "spiffe://example.org/tool", "spiffe://other.org/agent/payer"
DECIDED = {"bundle": "ab" * 32, "policies": ["limits#0"]}
RUN = bytes(range(32, 48))


@pytest.fixture
def at(clock):
    """Now, in microseconds since 1970."""
    return microseconds(clock.now())


@pytest.fixture
def tell(channel, at):
    """Report events of a run, whole; return the number that is recorded last."""
    return telling(audit_reports_pb2_grpc.AuditReportsStub(channel), at)


def verified(number, at, verification=None, **changes):
    fields = {"verifier": TOOL, "entry_id": "tool", "run": RUN} | changes
    said = {"number": 1, "kind": "mtls", "allowed": True, "peer": PEER, "serial": "4711", "count": 1}
    said |= verification or {}
    said = {name: value for name, value in said.items() if value is not None}
    return event(number, at, process=PROCESS, verified={**fields, "verification": said})


async def test_a_peer_that_was_let_in_is_recorded_with_whoever_says_so(world, tell, at):
    assert await tell(verified(1, at)) == 1
    (record,) = await world.trail()
    assert (record.actor, record.subject, record.type) == (NODE, PEER, "node.verified")
    assert (record.outcome, record.severity) == (Outcome.OK, Severity.INFO)
    assert record.credential == CredentialFacts(kind="x509-svid", serial="4711")
    detail = dict(record.detail)
    del detail["call"], detail["at"], detail["boot"]
    assert detail == {
        "number": 1,
        "process": PROCESS,
        "verifier": TOOL,
        "entry": "tool",
        "run": RUN.hex(),
        "verified": "mtls",
        "verification": 1,
        "count": 1,
    }


async def test_a_denial_is_recorded_with_the_reason_and_what_the_peer_wanted(world, tell, at):
    denial = {"kind": "delegation", "allowed": False, "reason": "widened", "serial": None, **DECIDED}
    await tell(
        verified(1, at, denial | {"jti": "d1", "txn": "t-1", "action": "refund", "count": 7} | DECIDED)
    )
    (record,) = await world.trail()
    assert (record.outcome, record.reason, record.severity) == (Outcome.DENIED, "widened", Severity.WARNING)
    assert record.credential == CredentialFacts(kind="delegation", jti="d1")
    assert record.policy == PolicyFacts(bundle="ab" * 32, ids=("limits#0",))
    assert [record.detail[name] for name in ("txn", "action", "count")] == ["t-1", "refund", 7]
    found = await world.database.read(lambda tx: tx.audit.leaves(0, 10, AuditFilter(txn="t-1")))
    assert len(found) == 1


@pytest.mark.parametrize(("kind", "credential"), [("wit-svid", "wit-svid"), ("policy", "token")])
async def test_tokens_are_what_they_are(world, tell, at, kind, credential):
    await tell(verified(1, at, {"kind": kind, "serial": None, "jti": "j"}))
    assert (await world.trail())[0].credential == CredentialFacts(kind=credential, jti="j")


async def test_a_peer_that_showed_nothing_is_nobody(world, tell, at):
    await tell(verified(1, at, {"allowed": False, "peer": None, "serial": None, "reason": "no certificate"}))
    (record,) = await world.trail()
    assert (record.subject, record.credential) == (NODE, None)


async def test_of_a_peer_that_is_an_agent_the_owner_is_named(world, tell, at):
    agent = an_agent("/agent/payer", state=AgentState.ACTIVE)
    await world.database.write(lambda tx: tx.agents.create(agent))
    await tell(verified(1, at, {"peer": str(agent.spiffe_id)}))
    (record,) = await world.trail()
    assert record.agent == AgentFacts(spiffe_id=str(agent.spiffe_id), owner=str(agent.owner))


async def test_what_a_verifier_did_not_tell_is_an_alarm(world, tell, at):
    await tell(verified(1, at, {"number": 1}), verified(2, at, {"number": 5}, missing=3))
    first, gap, second = await world.trail()
    assert [record.type for record in (first, gap, second)] == ["node.verified", "log.gap", "node.verified"]
    assert (gap.severity, gap.outcome) == (Severity.ERROR, Outcome.FAILED)
    assert gap.reason == "a process did not tell of all that it verified"
    told = {name: gap.detail[name] for name in ("from", "to", "verifier", "entry", "run", "boot")}
    assert told == {
        "from": 2, "to": 4, "verifier": TOOL, "entry": "tool", "run": RUN.hex(), "boot": BOOT.hex(),
    }  # fmt: skip


async def test_a_verifiers_word_is_no_proof_that_anything_was_issued(world, tell, at):
    """Nor is a credential of somebody else, on another node, anything strange where it is verified."""
    await tell(verified(1, at))
    assert await world.database.read(lambda tx: tx.audit.by_credential("4711")) is None
    assert (await world.trail())[0].severity is Severity.INFO


BAD = {
    "verified.verifier: ": verified(1, 0, verifier="tool"),
    "verified.verifier: is not of trust domain": verified(1, 0, verifier="spiffe://other.org/tool"),
    "verified.entry_id: ": verified(1, 0, entry_id=""),
    "verified.run: needs 16 bytes": verified(1, 0, run=b"x"),
    "verified.verification.number: is not above missing": verified(1, 0, missing=1),
    "verified.verification.number: ": verified(1, 0, {"number": 2**53}),
    "verified.verification.kind: 'magic'": verified(1, 0, {"kind": "magic"}),
    "verified.verification.count: is 0": verified(1, 0, {"count": 0}),
    "verified.verification.peer: ": verified(1, 0, {"peer": "payer"}),
    "verified.verification.reason: ": verified(1, 0, {"reason": "a\nb"}),
    "verified.verification.action: ": verified(1, 0, {"action": "x" * 257}),
    "verified.verification.txn: ": verified(1, 0, {"txn": "a b"}),
    "verified.verification.bundle: ": verified(1, 0, {"bundle": "AB" * 32}),
    "verified.verification.policies: ": verified(1, 0, DECIDED | {"policies": ["a b"]}),
    "verified.verification.serial: ": verified(1, 0, {"serial": "0x7"}),
    "verified.verification.serial: no jwt-svid has one": verified(1, 0, {"kind": "jwt-svid"}),
    "verified.verification.jti: ": verified(1, 0, {"serial": None, "jti": "a b"}),
}


@pytest.mark.parametrize("message", BAD)
async def test_what_breaks_a_rule_is_refused(world, tell, message):
    with refused(Code.INVALID_ARGUMENT) as caught:
        await tell(BAD[message])
    assert message in caught.value.details()
    assert await world.trail() == []

# SPDX-License-Identifier: Apache-2.0
"""The judge: opt-in by the first policy that counts, closed from then on, and quick by memory."""

import logging
import sys
from dataclasses import replace
from datetime import timedelta

import pytest

from issuer.governance.policy import PolicyJudge, attest_of, principal_of
from issuer.model import AttestationLevel, Change, ChangeKind
from spiffekit.evidence import ContainerFacts, Evidence, ProcessFacts
from spiffekit.policy.request import TOOL
from tests.issuer.governance.policies import a_stored
from tests.issuer.strategies import NOW, a_node, an_agent, selectors
from tests.spiffekit.policy.asked import ALL, NONE, a_request


def judge(*stored, **options):
    made = PolicyJudge(**options)
    made.load(stored, enforced=any(policy.enforced for policy in stored))
    return made


def changed(policy):
    return Change(revision=1, kind=ChangeKind.POLICY, key=policy.name, value=policy)


def test_without_any_policy_nothing_is_said():
    assert judge().judge(a_request()) is None


def test_the_newest_versions_count():
    made = judge(a_stored(ALL))
    assert made.judge(a_request()).decision.allowed
    made.apply([changed(a_stored(NONE, version=2))])
    assert not made.judge(a_request()).decision.allowed
    made.apply([changed(a_stored(ALL, version=3)), changed(a_stored(NONE, "q", sequence=4))])
    assert made.judge(a_request()).decision.reason == "policy q#1 forbids it"
    assert made.version == 4


def test_changes_of_other_things_are_nothing_to_it():
    made = judge(a_stored(ALL))
    before = made.judge(a_request())
    made.apply([Change(revision=1, kind=ChangeKind.AGENT, key="x", value=an_agent())])
    assert made.judge(a_request()) is before


def test_with_the_last_policy_gone_everything_is_denied():
    made = judge(a_stored(ALL))
    made.apply([changed(a_stored(None, version=2, enforced=False))])
    assert made.stored() == []
    assert made.judge(a_request()).decision.reason == "no policy permits it"
    # And so it is for whoever starts now.
    again = PolicyJudge()
    again.load([a_stored(None, version=2, enforced=False)], enforced=True)
    assert not again.judge(a_request()).decision.allowed


def test_a_decision_is_remembered_until_policies_change():
    made = judge(a_stored(ALL))
    first = made.judge(a_request())
    assert made.judge(a_request()) is first
    assert made.judge(a_request(at=a_request().at + timedelta(hours=1))) is not first
    made.apply([changed(a_stored(ALL, version=2))])
    assert made.judge(a_request()).eval_id != first.eval_id


def test_what_is_remembered_is_bounded():
    made = judge(a_stored(ALL), remembered=2)
    first = made.judge(a_request(name="1"))
    for name in ("2", "3"):
        made.judge(a_request(name=name))
    assert made.judge(a_request(name="1")) is not first
    assert len(made._issuing) == 2


def test_a_call_is_denied_unless_a_policy_permits_it_from_the_very_beginning():
    made, asked = judge(), a_request(action=TOOL, kind="Tool")
    assert made.judge_call(asked).decision.reason == "no policy permits it"
    made.apply([changed(a_stored('@mode("shadow") ' + ALL, enforced=False))])
    shadowed = made.judge_call(asked).decision
    assert (shadowed.allowed, shadowed.shadow.allowed, made.enforced) == (False, True, False)
    made.apply([changed(a_stored(ALL, version=2))])
    assert made.judge_call(asked).decision.allowed


def test_without_the_engine_a_call_is_denied(monkeypatch):
    monkeypatch.setitem(sys.modules, "cedarpy", None)
    decision = judge().judge_call(a_request(action=TOOL, kind="Tool")).decision
    assert (decision.allowed, decision.reason) == (False, "policies cannot be evaluated")


def test_whoever_calls_much_crowds_out_no_decision_about_an_svid():
    made = judge(a_stored(ALL), remembered=2)
    first = made.judge(a_request())
    for name in "abcde":
        made.judge_call(a_request(action=TOOL, kind="Tool", name=name))
    assert made.judge(a_request()) is first
    assert len(made._calls) <= 2


@pytest.mark.parametrize("enforced", [True, False])
def test_policies_that_cannot_be_compiled_deny(caplog, enforced):
    made = judge(a_stored(ALL))
    caplog.set_level(logging.ERROR)
    made.apply([changed(a_stored("nonsense", version=2, enforced=enforced))])
    decision = made.judge(a_request()).decision
    assert (decision.allowed, decision.reason) == (False, "policies cannot be evaluated")
    assert made.hash == ""
    (said,) = caplog.records
    assert said.message == "policies cannot be evaluated, agents are denied"
    assert said.reason.startswith("policy 'p': ")


def test_without_the_engine_agents_are_denied_where_there_are_policies(monkeypatch, caplog):
    monkeypatch.setitem(sys.modules, "cedarpy", None)
    assert judge().judge(a_request()) is None
    assert not caplog.records
    decision = judge(a_stored(ALL)).judge(a_request()).decision
    assert (decision.allowed, decision.reason) == (False, "policies cannot be evaluated")


def test_an_agent_as_policy_sees_it():
    agent = an_agent(agent_class="bots", team="treasury", review_by=NOW)
    who = principal_of(agent, NOW)
    assert (who.spiffe_id, who.owner) == (agent.spiffe_id, "https://idp.example.org|alice")
    assert (who.agent_class, who.team) == ("bots", "treasury")
    assert who.review_overdue
    assert not principal_of(agent, NOW - timedelta(seconds=1)).review_overdue
    assert not principal_of(replace(agent, review_by=None), NOW).review_overdue


def test_evidence_as_policy_sees_it():
    node = a_node(level=AttestationLevel.TPM)
    assert attest_of(None, None) is None
    plain = attest_of(node, None)
    assert (plain.node, plain.level, plain.selectors, plain.image_digest) == (str(node.id), 3, None, "")
    evidence = Evidence(
        id=b"1" * 16,
        instance_uid="a" * 26,
        collected_at=NOW,
        selectors=selectors("unix:uid:0"),
        process=ProcessFacts(pid=1, start_ticks=1, uid=0, gid=0),
    )
    seen = attest_of(node, evidence)
    assert (seen.selectors, seen.image_digest) == (frozenset({"unix:uid:0"}), "")
    container = ContainerFacts(engine="docker", id="a" * 64, image_digest="sha256:b")
    assert attest_of(node, replace(evidence, container=container)).image_digest == "sha256:b"

# SPDX-License-Identifier: Apache-2.0
"""One answer to all that a tool server has to ask: every way in is closed by itself, with a word."""

import asyncio
from dataclasses import replace
from datetime import timedelta

import pytest

from spiffekit.delegation.tools import Tools
from spiffekit.id import SpiffeId
from spiffekit.jws import DEFAULT_LEEWAY
from spiffekit.jwtsvid import JwtSvid
from spiffekit.policy import Denial, PolicyBook
from spiffekit.policy.bundle import LIFETIME as POLICY_LIFETIME
from spiffekit.status import BACKDATE, AgentStatus
from spiffekit.status import LIFETIME as STATUS_LIFETIME
from spiffekit.testing import TestCA
from spiffekit.witsvid import WitSvid
from spiffekit.workload import Peer, PeerWatch, ToolGate
from tests.fakes.clock import FakeClock
from tests.spiffekit.policy.asked import ALL, NONE, NOW, PAYER, a_policy, a_principal
from tests.spiffekit.policy.test_bundle import a_bundle

SECOND = timedelta(seconds=1)
DAY = timedelta(days=1)
READER = SpiffeId.parse("spiffe://example.org/agent/reader")
ONLY_PAY = a_policy('permit(principal, action == Action::"tool.call", resource == Tool::"pay");')


class Server:
    """A tool server at a time, which the payer calls over mTLS."""

    def __init__(self):
        self.clock = FakeClock(NOW)
        self.ca = TestCA("example.org", now=NOW)
        self.status = PeerWatch(clock=self.clock)
        self.policies = PolicyBook(self.ca.trust_domain)
        self.gate = ToolGate(status=self.status, policies=self.policies, clock=self.clock)
        svid = self.ca.issue(str(PAYER))
        self.peer = Peer(PAYER, svid.serial_number, svid.not_before, svid.expires_at)
        self.jwt = JwtSvid.parse_unverified(self.ca.jwt(str(PAYER), claims={"jti": "j"}))
        key = self.ca.new_key().public_key()
        self.wit = WitSvid.parse_unverified(self.ca.wit(str(PAYER), key, claims={"jti": "w"}))
        self.told = 0

    def know(self, **fields):
        """What is taken back, as of now."""
        self.told += 1
        issued = {"issued_at": self.clock.now(), "expires_at": self.clock.now() + STATUS_LIFETIME}
        self.status.put(self.status_of(**{"sequence": self.told, **issued, **fields}))

    def status_of(self, **fields):
        return AgentStatus(trust_domain=self.ca.trust_domain, **fields)

    def lay_down(self, *policies, **fields):
        """Which policies hold, as of now."""
        self.told += 1
        issued = {"issued_at": self.clock.now(), "expires_at": self.clock.now() + POLICY_LIFETIME}
        bundle = a_bundle(sequence=self.told, policies=policies, **issued)
        self.policies.put(replace(bundle, **fields))

    def pass_(self, time):
        """Time goes by, and the caller has fresh credentials."""
        self.clock.step(time)
        end = self.clock.now() + DAY
        self.peer = replace(self.peer, expires_at=end)

    def callers(self):
        return [self.peer, self.jwt, self.wit]

    def denied(self, caller=None, tool="pay", **how):
        """The word and the reason of a denial."""
        decision = self.gate.decide(caller or self.peer, tool, **how)
        assert not decision.allowed
        return decision.denial, decision.reason


@pytest.fixture
def server():
    made = Server()
    made.know()
    made.lay_down(ONLY_PAY)
    return made


def test_who_may_is_let_in_however_it_shows_who_it_is(server):
    for caller in server.callers():
        decision = server.gate.decide(caller, "pay")
        assert (decision.allowed, decision.denial, decision.ids) == (True, None, ("p#1",))
        assert len(decision.bundle) == 64


def test_what_no_policy_permits_or_one_forbids_is_denied(server):
    assert server.denied(tool="drop tables") == (Denial.NOT_PERMITTED, "no policy permits it")
    server.lay_down(a_policy(ALL), a_policy(NONE, "q"))
    decision = server.gate.decide(server.peer, "pay")
    assert (decision.allowed, decision.denial, decision.ids) == (False, Denial.FORBIDDEN, ("q#1",))
    assert decision.bundle


def test_what_is_in_shadow_mode_is_told_and_does_not_count(server):
    server.lay_down(ONLY_PAY, a_policy('@mode("shadow") ' + NONE, "q"))
    decision = server.gate.decide(server.peer, "pay")
    assert decision.allowed
    assert (decision.shadow.allowed, decision.shadow.denial, decision.shadow.ids) == (
        False, Denial.FORBIDDEN, ("q#1",)
    )  # fmt: skip


@pytest.mark.parametrize(
    ("listed", "reason"),
    [
        ({"suspended": frozenset([PAYER])}, f"{PAYER} is suspended"),
        ({"retired": frozenset([PAYER])}, f"{PAYER} is retired"),
        ({"not_before": {PAYER: NOW + SECOND}}, f"what {PAYER} got so early is void"),
    ],
)
def test_an_agent_that_is_taken_back_is_denied_though_policies_permit_it(server, listed, reason):
    server.know(**listed)
    for caller in server.callers():
        assert server.denied(caller) == (Denial.REVOKED, reason)


def test_one_certificate_or_token_may_be_taken_back(server):
    server.know(serials=frozenset([server.peer.serial_number]))
    assert server.denied() == (
        Denial.REVOKED,
        f"certificate {server.peer.serial_number:x} of {PAYER} is revoked",
    )
    assert server.gate.decide(server.jwt, "pay").allowed
    server.know(jtis=frozenset(["j", "w"]))
    assert server.gate.decide(server.peer, "pay").allowed
    assert server.denied(server.jwt) == (Denial.REVOKED, f"token 'j' of {PAYER} is revoked")
    assert server.denied(server.wit) == (Denial.REVOKED, f"token 'w' of {PAYER} is revoked")


def test_what_was_issued_after_everything_became_void_counts(server):
    server.know(not_before={PAYER: server.peer.not_before + BACKDATE})
    assert server.gate.decide(server.peer, "pay").allowed


def test_a_connection_that_outlives_its_certificate_is_denied(server):
    server.clock.step(timedelta(hours=1) - 10 * SECOND - SECOND)
    server.know()
    server.lay_down(ONLY_PAY)
    assert server.gate.decide(server.peer, "pay").allowed
    server.clock.step(SECOND)
    assert server.denied() == (Denial.EXPIRED, f"what {PAYER} showed has expired")


def test_a_token_that_is_kept_beyond_its_end_is_denied(server):
    left = server.jwt.expires_at - NOW
    server.clock.step(left + DEFAULT_LEEWAY - SECOND)
    server.know()
    server.lay_down(ONLY_PAY)
    assert server.gate.decide(server.jwt, "pay").allowed
    server.clock.step(SECOND)
    for token in (server.jwt, server.wit):
        assert server.denied(token)[0] is Denial.EXPIRED


# An attestor that is away, or plays one against the other.


def test_who_knows_nothing_denies():
    server = Server()
    assert server.denied() == (Denial.STATUS_UNKNOWN, "status of example.org is not known")
    server.know()
    assert server.denied() == (Denial.POLICY_UNKNOWN, "policies of example.org are not known")


def test_a_stale_status_denies_however_fresh_the_policies(server):
    server.pass_(STATUS_LIFETIME - SECOND)
    server.lay_down(ONLY_PAY)
    assert server.gate.decide(server.peer, "pay").allowed
    server.pass_(SECOND)
    server.lay_down(ONLY_PAY)
    assert server.denied() == (Denial.STATUS_UNKNOWN, "status of example.org has expired")
    server.know()
    assert server.gate.decide(server.peer, "pay").allowed


def test_stale_policies_deny_however_fresh_the_status(server):
    server.pass_(POLICY_LIFETIME)
    server.know()
    assert server.denied() == (Denial.POLICY_UNKNOWN, "policies of example.org have expired")


def test_policies_that_cannot_be_evaluated_deny(server):
    with pytest.raises(Exception, match="attribute `new`"):
        server.lay_down(a_policy("permit(principal, action, resource) when { context.new };"))
    assert server.denied() == (Denial.NOT_EVALUATED, "policies of example.org cannot be evaluated")


# Callers that nobody here answers for.


def test_who_is_no_active_agent_of_ours_is_denied(server):
    reader = replace(server.peer, spiffe_id=READER)
    assert server.denied(reader) == (
        Denial.NO_ACTIVE_AGENT,
        f"{READER} is no active agent of example.org",
    )


def test_an_agent_of_another_trust_domain_is_denied_whatever_that_one_says_of_it(server):
    theirs = SpiffeId.parse("spiffe://other.org/agent/payer")
    stranger = replace(server.peer, spiffe_id=theirs)
    assert server.denied(stranger) == (Denial.STATUS_UNKNOWN, "status of other.org is not known")
    other = replace(server.status_of(sequence=1, issued_at=NOW, expires_at=NOW + STATUS_LIFETIME),
                    trust_domain=theirs.trust_domain)  # fmt: skip
    server.status.put(other)
    assert server.denied(stranger)[0] is Denial.NO_ACTIVE_AGENT


# What was delegated.

DELEGATED = Tools.from_json(b'{"pay":{"amount":{"constraint_type":"range","max":100}}}')


def test_what_was_delegated_narrows_what_policies_permit(server):
    assert server.gate.decide(server.peer, "pay", delegated=DELEGATED, arguments={"amount": 5}).allowed
    assert server.denied(delegated=DELEGATED, arguments={"amount": 101}) == (
        Denial.NOT_DELEGATED,
        "tool 'pay', argument 'amount' is not what range permits",
    )
    assert server.denied(delegated=DELEGATED)[0] is Denial.NOT_DELEGATED
    assert server.denied(delegated=Tools({}))[0] is Denial.NOT_DELEGATED


def test_what_was_delegated_permits_nothing_that_policies_do_not(server):
    server.lay_down(a_policy(NONE))
    assert server.denied(delegated=DELEGATED, arguments={"amount": 5})[0] is Denial.FORBIDDEN
    server.lay_down(ONLY_PAY, agents={READER: a_principal(READER)})
    assert server.denied(delegated=DELEGATED, arguments={"amount": 5})[0] is Denial.NO_ACTIVE_AGENT


def test_what_an_agent_is_limited_to_counts_with_and_without_a_delegation(server):
    server.lay_down(a_policy(ALL), ceilings={PAYER: DELEGATED})
    wider = Tools.from_json(b'{"pay":{"amount":{"constraint_type":"range","max":900}}}')
    for how in ({}, {"delegated": wider}):
        assert server.gate.decide(server.peer, "pay", arguments={"amount": 5}, **how).allowed
        assert server.denied(arguments={"amount": 101}, **how) == (
            Denial.BEYOND_LIMITS,
            "tool 'pay', argument 'amount' is not what range permits",
        )


async def test_threads_that_ask_while_everything_changes_get_one_of_the_true_answers(server):
    """Whatever a thread sees, it is never let in by policies and a status that did not hold together."""
    stop = False
    seen = set()

    def ask():
        while not stop:
            decision = server.gate.decide(server.peer, "pay")
            seen.add((decision.allowed, decision.denial))

    askers = [asyncio.create_task(asyncio.to_thread(ask)) for _ in range(2)]
    for _ in range(50):
        server.lay_down(a_policy(NONE))
        server.lay_down(ONLY_PAY)
        await asyncio.sleep(0)
    stop = True
    await asyncio.gather(*askers)
    assert seen <= {(True, None), (False, Denial.FORBIDDEN)}


def test_a_reporter_is_told_of_each_decision_and_by_which_policies_it_was_made():
    class Told(list):
        report = list.append

    server, told = Server(), Told()
    server.know()
    server.lay_down(ONLY_PAY)
    gate = ToolGate(status=server.status, policies=server.policies, reporter=told, clock=server.clock)
    decisions = [
        gate.decide(server.peer, "pay"),
        gate.decide(server.jwt, "refund"),
        gate.decide(server.wit, "pay", delegated=Tools({})),
    ]
    allowed, denied, beyond = told
    assert [one.allowed for one in told] == [one.allowed for one in decisions] == [True, False, False]
    assert (allowed.kind, allowed.peer, allowed.action) == ("policy", PAYER, "pay")
    assert (allowed.serial, allowed.jti) == (server.peer.serial_number, "")
    assert (allowed.bundle, allowed.policies) == (decisions[0].bundle, decisions[0].ids)
    assert allowed.policies
    assert (denied.kind, denied.jti, denied.serial) == ("policy", "j", 0)
    assert denied.reason == f"not_permitted {decisions[1].reason}"
    assert (beyond.kind, beyond.jti, beyond.bundle) == ("delegation", "w", "")

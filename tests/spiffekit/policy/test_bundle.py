# SPDX-License-Identifier: Apache-2.0
"""Bundles of policies: signed, of now, never older than before; without a good one everything is denied."""

import re
import sys
from datetime import timedelta

import pytest

from spiffekit.bundle import BundleSet
from spiffekit.delegation.tools import Tools
from spiffekit.errors import (
    PolicyEngineError,
    PolicyError,
    PolicyUnknownError,
    UnknownTrustDomainError,
    UntrustedError,
)
from spiffekit.id import SpiffeId
from spiffekit.policy import Policies, PolicyBook, PolicyBundle
from spiffekit.policy import bundle as bundle_module
from spiffekit.policy.bundle import LIFETIME, MAX_BYTES, MAX_SKEW, TYP
from spiffekit.testing import TestCA
from tests.spiffekit.policy.asked import ALL, NONE, NOW, PAYER, a_policy, a_principal

CA, OTHER = TestCA(now=NOW), TestCA("other.org", now=NOW)
FAILS = "forbid(principal, action, resource) when { context.time.hour + 9223372036854775807 > 0 };"
BUNDLES = BundleSet([CA.bundle])
SECOND = timedelta(seconds=1)
READER = SpiffeId.parse("spiffe://example.org/agent/reader")


def a_bundle(**changes):
    fixed = {
        "trust_domain": CA.trust_domain,
        "sequence": 70,
        "version": 7,
        "issued_at": NOW,
        "expires_at": NOW + LIFETIME,
        "policies": (a_policy(ALL),),
        "agents": {PAYER: a_principal()},
    }
    return PolicyBundle(**fixed | changes)


def token(bundle=None, *, ca=CA, typ=TYP, header=None, **changes):
    """A bundle's token; `changes` replace claims, None leaves one out."""
    said = (bundle or a_bundle()).claims() | changes
    return ca.jwt("", header={"typ": typ, **(header or {})}, claims={"sub": None, "aud": None, **said})


def verify(text, now=NOW):
    return PolicyBundle.verify(text, BUNDLES, now=now)


def refused(kind, message):
    return pytest.raises(kind, match=f"^{re.escape(message)}$")


def test_a_signed_bundle_says_what_was_signed():
    assert verify(token()) == a_bundle()


def test_what_is_not_a_token_of_ours_is_refused():
    with refused(PolicyError, f"policy bundle: typ 'JWT' is not {TYP}"):
        verify(token(typ="JWT"))
    with refused(PolicyError, f"policy bundle: token is longer than {MAX_BYTES} bytes"):
        verify("a" * (MAX_BYTES + 1))
    header, payload, _ = token().split(".")
    with refused(PolicyError, "policy bundle: alg 'none' is not allowed"):
        verify(f"eyJhbGciOiJub25lIn0.{payload}.")
    with refused(UntrustedError, "signature is not of the kind that ES256 uses"):
        verify(f"{header}.{payload}.AAAA")


def test_only_a_key_of_its_own_trust_domain_signs_it():
    with pytest.raises(UntrustedError):
        verify(token(ca=TestCA(now=NOW)))
    with pytest.raises(UnknownTrustDomainError):
        verify(token(ca=OTHER, iss="spiffe://other.org"))
    both = BundleSet([CA.bundle, OTHER.bundle])
    with refused(UntrustedError, "signature is not good"):
        PolicyBundle.verify(token(ca=OTHER), both, now=NOW)
    with refused(UntrustedError, "no key of example.org signed the policy bundle"):
        verify(token(header={"kid": "other"}))


def test_a_bundle_that_was_changed_is_refused():
    good, other = token().split("."), token(version=8).split(".")
    with refused(UntrustedError, "signature is not good"):
        verify(f"{good[0]}.{other[1]}.{good[2]}")


def test_it_holds_from_its_issue_to_its_end():
    assert verify(token(), NOW + LIFETIME - SECOND)
    with refused(PolicyUnknownError, "policies of example.org have expired"):
        verify(token(), NOW + LIFETIME)
    assert verify(token(), NOW - MAX_SKEW)
    with refused(PolicyUnknownError, "policies of example.org are of the future: clocks disagree"):
        verify(token(), NOW - MAX_SKEW - SECOND)
    with refused(PolicyError, "policy bundle: is valid for too long"):
        verify(token(exp=int((NOW + LIFETIME + SECOND).timestamp())))


AGENT = ["https://idp.example.org|alice", "payments", "treasury", False, -1]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"iss": None}, "iss is missing or no text"),
        ({"iss": "spiffe://example.org/x"}, "iss is no trust domain"),
        ({"iat": None}, "iat is missing"),
        ({"exp": None}, "exp is missing"),
        ({"iat": "now"}, "iat is not a point in time"),
        ({"seq": None}, "seq is missing or malformed"),
        ({"seq": 1.0}, "seq is missing or malformed"),
        ({"version": None}, "version is missing or malformed"),
        ({"version": True}, "version is missing or malformed"),
        ({"policies": None}, "policies is missing or malformed"),
        ({"policies": [["a", 1]]}, "policies has a malformed member"),
        ({"policies": [["a", "1", ALL]]}, "policies is missing or malformed"),
        ({"policies": ["abc"]}, "policies is missing or malformed"),
        ({"agents": []}, "agents is missing or malformed"),
        ({"agents": {str(PAYER): AGENT[:4]}}, "agents has a malformed member"),
        ({"agents": {str(PAYER): [*AGENT[:4], 0]}}, f"agent {PAYER} has tools that are not there"),
        ({"agents": {str(PAYER): [*AGENT[:4], -2]}}, f"agent {PAYER} has tools that are not there"),
        ({"agents": {str(PAYER): [*AGENT[:4], True]}}, "agents is missing or malformed"),
        ({"tools": None}, "tools is missing or malformed"),
        (
            {"tools": [{"pay": {"amount": {"constraint_type": "new"}}}]},
            "tools: tool 'pay': argument 'amount': constraint_type is none that is known",
        ),
        ({"agents": {str(PAYER): [*AGENT[:3], 0, -1]}}, "agents is missing or malformed"),
        ({"agents": {"spiffe://other.org/x": AGENT}}, "agent spiffe://other.org/x is not of example.org"),
        ({"agents": {"payer": AGENT}}, "scheme of 'payer' is not 'spiffe'"),
    ],
)
def test_a_malformed_claim_is_refused(changes, message):
    with pytest.raises(PolicyError) as caught:
        verify(token(**changes))
    assert str(caught.value).startswith(f"policy bundle: {message}")


@pytest.fixture
def book():
    return PolicyBook(CA.trust_domain)


def reason(book, who=PAYER, now=NOW):
    decision = book.decide_tool(who, "pay", now)
    assert not decision.allowed
    assert decision.denial == DENIALS[decision.reason.replace(str(who), "WHO")]
    return decision.reason


DENIALS = {
    "policy p#1 forbids it": "forbidden",
    "policies of example.org are not known": "policy_unknown",
    "policies of example.org have expired": "policy_unknown",
    "policies of example.org are of the future: clocks disagree": "policy_unknown",
    "policies of example.org cannot be evaluated": "not_evaluated",
    "WHO is no active agent of example.org": "no_active_agent",
}


def test_a_tool_server_asks_the_newest_policies(book):
    assert book.put(a_bundle())
    decision = book.decide_tool(PAYER, "pay", NOW)
    assert decision.allowed
    assert decision.ids == ("p#1",)
    assert not book.put(a_bundle())
    assert book.put(a_bundle(sequence=71, policies=(a_policy(NONE, version=2),)))
    assert reason(book) == "policy p#1 forbids it"


def test_who_knows_no_policies_denies(book):
    assert reason(book) == "policies of example.org are not known"


def test_who_knows_only_old_policies_denies(book):
    book.put(a_bundle())
    assert book.decide_tool(PAYER, "pay", NOW + LIFETIME - SECOND).allowed
    assert reason(book, now=NOW + LIFETIME) == "policies of example.org have expired"
    assert (
        reason(book, now=NOW - MAX_SKEW - SECOND)
        == "policies of example.org are of the future: clocks disagree"
    )


@pytest.mark.parametrize("who", ["spiffe://example.org/web", "spiffe://other.org/agent/payer"])
def test_who_is_no_active_agent_of_the_trust_domain_is_denied(book, who):
    book.put(a_bundle())
    assert reason(book, SpiffeId.parse(who)) == f"{who} is no active agent of example.org"


def test_policies_of_another_trust_domain_are_refused(book):
    with refused(UntrustedError, "policies of other.org are not those of example.org"):
        book.put(a_bundle(trust_domain=OTHER.trust_domain))
    assert reason(book) == "policies of example.org are not known"


@pytest.mark.parametrize(
    "older", [{"sequence": 69}, {"issued_at": NOW - SECOND}, {"sequence": 69, "issued_at": NOW + SECOND}]
)
def test_nobody_plays_back_older_policies(book, older):
    book.put(a_bundle(policies=(a_policy(NONE),)))
    older = a_bundle(**older)
    with refused(PolicyUnknownError, f"policies {older.sequence} of example.org are older than 70"):
        book.put(older)
    assert reason(book) == "policy p#1 forbids it"


def test_policies_that_do_not_compile_deny_instead_of_those_before(book):
    book.put(a_bundle())
    with pytest.raises(PolicyError, match="statement 1: attribute `new`"):
        book.put(
            a_bundle(
                sequence=71, policies=(a_policy("permit(principal, action, resource) when { context.new };"),)
            )
        )
    assert reason(book) == "policies of example.org cannot be evaluated"
    with pytest.raises(PolicyUnknownError):
        book.put(a_bundle())
    assert book.put(a_bundle(sequence=72))
    assert book.decide_tool(PAYER, "pay", NOW).allowed


def test_without_the_engine_everything_is_denied(book, monkeypatch):
    monkeypatch.setitem(sys.modules, "cedarpy", None)
    with pytest.raises(PolicyEngineError):
        book.put(a_bundle())
    assert reason(book) == "policies of example.org cannot be evaluated"


def test_who_asks_while_policies_change_is_answered_by_those_before_or_after(book, monkeypatch):
    """Tool servers ask from any thread, and a thousand statements take a while to compile."""
    book.put(a_bundle())
    compile_ = Policies.compile
    seen = []

    def slowly(policies):
        seen.append(book.decide_tool(PAYER, "pay", NOW).allowed)
        return compile_(policies)

    monkeypatch.setattr(Policies, "compile", slowly)
    book.put(a_bundle(sequence=71, policies=(a_policy(NONE),)))
    assert seen == [True]
    assert reason(book) == "policy p#1 forbids it"


def test_policies_that_stay_the_same_are_not_compiled_again(book, monkeypatch):
    book.put(a_bundle())
    monkeypatch.setattr(Policies, "compile", None)
    assert book.put(a_bundle(sequence=71, agents={}))
    assert reason(book).endswith("is no active agent of example.org")


@pytest.fixture
def evaluated(monkeypatch):
    """The requests that the engine was asked."""
    asked, decide = [], Policies.decide

    def decide_and_tell(policies, request):
        asked.append(request)
        return decide(policies, request)

    monkeypatch.setattr(Policies, "decide", decide_and_tell)
    return asked


def test_the_same_question_is_evaluated_once_until_anything_that_policy_sees_is_otherwise(book, evaluated):
    book.put(a_bundle())
    for _ in range(3):
        assert book.decide_tool(PAYER, "pay", NOW).allowed
    assert len(evaluated) == 1
    assert book.decide_tool(PAYER, "other", NOW).allowed
    assert book.decide_tool(PAYER, "pay", NOW + timedelta(minutes=40)).allowed  # another hour
    book.put(a_bundle(sequence=71, agents={PAYER: a_principal(team="other")}))
    assert book.decide_tool(PAYER, "pay", NOW).allowed
    assert len(evaluated) == 4
    book.put(a_bundle(sequence=72, policies=(a_policy(NONE),)))
    assert reason(book) == "policy p#1 forbids it"


def test_what_could_not_be_evaluated_is_not_remembered(book, evaluated):
    book.put(a_bundle(policies=(a_policy(FAILS),)))
    for _ in range(2):
        assert book.decide_tool(PAYER, "pay", NOW).denial == "not_evaluated"
    assert len(evaluated) == 2


def test_callers_that_invent_tools_fill_no_memory(book, evaluated, monkeypatch):
    monkeypatch.setattr(bundle_module, "MAX_REMEMBERED", 3)
    book.put(a_bundle())
    for number in range(10):
        book.decide_tool(PAYER, f"tool {number}", NOW)
        assert len(book._held[1]._decisions) <= 3
    assert len(evaluated) == 10


LIMITED = Tools.from_json(b'{"pay":{"amount":{"constraint_type":"range","max":100}},"list":{}}')
CEILINGS = {PAYER: LIMITED, READER: Tools.from_json(LIMITED.to_json())}


def test_ceilings_come_with_the_agents_and_once_for_all_that_share_one():
    bundle = a_bundle(agents={who: a_principal(who) for who in (PAYER, READER)}, ceilings=CEILINGS)
    assert len(bundle.claims()["tools"]) == 1
    assert verify(token(bundle)) == bundle


def test_what_an_agent_is_limited_to_counts_whatever_policies_permit(book):
    book.put(a_bundle(ceilings=CEILINGS))
    assert book.decide_tool(PAYER, "list", NOW).allowed
    assert book.decide_tool(PAYER, "pay", NOW, {"amount": 100}).allowed
    for tool, arguments in (
        ("drop", {}),
        ("pay", {}),
        ("pay", {"amount": 101}),
        ("pay", {"amount": 1, "to": 2}),
    ):
        decision = book.decide_tool(PAYER, tool, NOW, arguments)
        assert (decision.allowed, decision.denial) == (False, "beyond_limits")
    book.put(a_bundle(sequence=71, ceilings=CEILINGS, policies=(a_policy(NONE),)))
    assert book.decide_tool(PAYER, "list", NOW).denial == "forbidden"

# SPDX-License-Identifier: Apache-2.0
"""Policies: checked against a closed schema, default deny, prohibitions win, and whatever fails denies."""

import json
import re
import subprocess
import sys
from datetime import timedelta
from types import SimpleNamespace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from spiffekit.errors import PolicyEngineError, PolicyError
from spiffekit.policy import Decision, Denial, Policies
from spiffekit.policy.engine import MAX_BRACKETS, MAX_IDS, MAX_STATEMENTS, MAX_TEXT
from spiffekit.policy.request import TOOL
from tests.spiffekit.policy.asked import ALL, NONE, NOW, a_policy, a_request, an_attest, decide, policies


def refused(message):
    return pytest.raises(PolicyError, match=f"^{re.escape(message)}$")


def test_what_no_policy_permits_is_denied():
    assert decide() == Decision.denied(Denial.NOT_PERMITTED, "no policy permits it", bundle=policies().hash)
    assert not decide('permit(principal, action, resource == Audience::"other");').allowed


def test_a_decision_names_the_statements_that_made_it():
    decision = decide('permit(principal, action, resource is Audience); @id("all") ' + ALL, ALL)
    assert decision.allowed
    assert decision.ids == ("p1#1", "p1#all", "p2#1")
    assert (
        decision.bundle
        == policies('permit(principal, action, resource is Audience); @id("all") ' + ALL, ALL).hash
    )


def test_what_is_forbidden_is_denied_whatever_permits_it():
    decision = decide(ALL, NONE, ALL)
    assert (decision.allowed, decision.ids, decision.reason) == (False, ("p2#1",), "policy p2#1 forbids it")


PERMISSIONS = [
    ALL,
    'permit(principal in AgentClass::"payments", action, resource);',
    'permit(principal in Team::"other", action, resource);',
    "permit(principal, action, resource) when { context has attest && context.attest.level > 1 };",
]
PROHIBITIONS = [
    NONE,
    'forbid(principal in AgentClass::"other", action, resource);',
    'forbid(principal, action, resource == Audience::"bank");',
    "forbid(principal, action, resource) unless { context has attest };",
    "forbid(principal, action, resource) when { context.time.hour + 9223372036854775807 > 0 };",
]
REQUESTS = [
    a_request(),
    a_request(name="other"),
    a_request(attest=an_attest()),
    a_request(agent_class="other"),
]


@settings(max_examples=60, deadline=None)
@given(
    st.lists(st.sampled_from(PERMISSIONS + PROHIBITIONS), max_size=4),
    st.sampled_from(PROHIBITIONS),
    st.sampled_from(REQUESTS),
)
def test_one_more_prohibition_never_allows_more(some, more, request):
    before, after = policies(*some).decide(request), policies(*some, more).decide(request)
    assert before.allowed or not after.allowed


@pytest.mark.parametrize(
    ("condition", "asked"),
    [
        ('principal == Agent::"spiffe://example.org/agent/payer"', {}),
        ('principal in AgentClass::"payments"', {}),
        ('principal in Team::"treasury"', {}),
        ('principal in TrustDomain::"example.org"', {}),
        ('principal.owner == User::"https://idp.example.org|alice"', {}),
        ("principal.review_overdue", {"review_overdue": True}),
        ('resource == Audience::"bank"', {}),
        ('resource == TrustDomain::"example.org"', {"kind": "TrustDomain", "name": "example.org"}),
        (
            'action == Action::"tool.call" && resource == Tool::"pay"',
            {"action": TOOL, "kind": "Tool", "name": "pay"},
        ),
        ("context.time.hour == 9 && context.time.weekday == 4", {}),
        ("context.time.weekday == 5", {"at": NOW + timedelta(days=1)}),
        ("context has attest && context.attest.level >= 2", {"attest": an_attest()}),
        (
            (
                "context has attest && context.attest has selectors"
                ' && context.attest.selectors.contains("unix:uid:1")'
            ),
            {"attest": an_attest(selectors=frozenset({"unix:uid:1", "unix:gid:1"}))},
        ),
        (
            (
                "context has attest && context.attest has image_digest"
                ' && context.attest.image_digest like "sha256:a*"'
            ),
            {"attest": an_attest(image_digest="sha256:abc")},
        ),
        (
            'context has attest && context.attest.node == "spiffe://example.org/spire/agent/n1"',
            {"attest": an_attest()},
        ),
    ],
)
def test_policy_sees_what_is_known(condition, asked):
    permission = f"permit(principal, action, resource) when {{ {condition} }};"
    assert decide(permission, **asked).allowed
    other = {
        "owner": "https://idp.example.org|bob",
        "agent_class": "",
        "team": "",
        "review_overdue": False,
        "kind": "Audience",
        "name": "other",
        "at": NOW + timedelta(hours=1),
        "attest": an_attest(level=1, node="n2", selectors=frozenset(), image_digest="sha256:b"),
        "spiffe_id": type(a_request().principal.spiffe_id).parse("spiffe://other.org/x"),
    }
    assert not decide(permission, **other).allowed


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "policy 'p': has no statement"),
        ("permit(principal, action, resource)", "policy 'p': unexpected end of input"),
        ("permit(principal, action, resource) when { context.nope };",
         "policy 'p', statement 1: attribute `nope` in context for Action::"),
        (ALL + "permit(principal, action, resource) when { principal.name == 1 };",
         "policy 'p', statement 2: attribute `name` on entity type `Agent` not found"),
        ('permit(principal == Person::"x", action, resource);',
         "policy 'p', statement 1: un"),
        ('permit(principal, action == Action::"svid.isue", resource);',
         "policy 'p', statement 1: un"),
        ('permit(principal, action == Action::"svid.issue", resource) when { context.attest.level > 1 };',
         "policy 'p', statement 1: unable to guarantee safety of access to optional attribute `attest`"),
        ("permit(principal == ?principal, action, resource);",
         "policy 'p': templates (?principal, ?resource) are not supported"),
        ('@Mode("shadow") ' + NONE, "policy 'p', statement 1: annotation @Mode is none of "),
        ('@mode("Shadow") ' + NONE, "policy 'p', statement 1: @mode is neither enforce nor shadow"),
        ("@mode " + NONE, "policy 'p', statement 1: @mode is neither enforce nor shadow"),
        ('@id("1") ' + ALL, "policy 'p', statement 1: @id is 1 to 64 of "),
        ('@id("a#b") ' + ALL, "policy 'p', statement 1: @id is 1 to 64 of "),
        ("@id " + ALL, "policy 'p', statement 1: @id is 1 to 64 of "),
        (f'@id("a") {ALL} @id("a") {ALL}', "policy 'p': two statements are called 'p#a'"),
        (f"// \u202e\n{ALL}", "policy 'p': has the invisible character U+202E"),
        (f"{ALL}\0", "policy 'p': has the invisible character U+0000"),
        (f"{ALL}//\ud800", "policy 'p': has the invisible character U+D800"),
        (ALL + " " * MAX_TEXT, f"policy 'p': is longer than {MAX_TEXT} bytes"),
        ("permit(principal, action, resource) when { " + "true && " * 300 + "true };",
         "policy 'p': is nested too deep"),
    ],
)  # fmt: skip
def test_a_policy_that_breaks_a_rule_is_refused(text, message):
    with pytest.raises(PolicyError) as caught:
        a_policy(text).statements()
    assert str(caught.value).startswith(message)


@pytest.mark.parametrize("name", ["", "A", "a b", "a#1", "-a", "a\n", "a" * 65])
def test_names_are_short_and_plain(name):
    with refused(f"policy {name[:80]!r}: a name is 1 to 64 of a-z, 0-9, '.', '_' and '-'"):
        a_policy(ALL, name).statements()


@pytest.mark.parametrize("opening", ["(", "[", "{a:", "!(", "if ("])
def test_nesting_that_would_overflow_the_parsers_stack_never_reaches_it(opening):
    text = f"permit(principal, action, resource) when {{ {opening * 5000}"
    with refused(f"policy 'p': has more than {MAX_BRACKETS} opening brackets; split it"):
        a_policy(text).statements()


@pytest.mark.parametrize("bracket", ["(", "[", "{a:"])
def test_the_deepest_nesting_that_is_let_through_is_survived(bracket):
    """In a process of its own: what goes wrong here cannot be caught."""
    depth = MAX_BRACKETS - 2
    closing = {"(": ")", "[": "]", "{a:": "}"}[bracket]
    text = f"permit(principal, action, resource) when {{ {bracket * depth}1{closing * depth} == 1 }};"
    program = (
        "import sys, threading\n"
        "from spiffekit.errors import PolicyError\n"
        "from spiffekit.policy import Policies, Policy\n"
        "def run():\n"
        "    try: Policies.compile([Policy(name='p', version=1, text=sys.argv[1])])\n"
        "    except PolicyError: pass\n"
        "    print('alive')\n"
        "run()\n"
        "thread = threading.Thread(target=run); thread.start(); thread.join()\n"
    )
    ended = subprocess.run([sys.executable, "-c", program, text], capture_output=True, text=True, check=False)
    assert (ended.returncode, ended.stdout) == (0, "alive\nalive\n")


def test_as_many_statements_as_there_may_be_and_no_more():
    full = [a_policy(ALL * 50, f"p{number:04}") for number in range(MAX_STATEMENTS // 50)]
    decision = Policies.compile(full).decide(a_request())
    assert (decision.allowed, len(decision.ids)) == (True, MAX_IDS)
    with refused(f"policy 'q': there are more than {MAX_STATEMENTS} statements"):
        Policies.compile([*full, a_policy(ALL, "q")])


def test_a_name_is_given_once():
    with refused("policy 'p': is there twice"):
        Policies.compile([a_policy(ALL), a_policy(NONE, version=2)])


def test_the_hash_is_of_every_policy_its_version_and_its_text():
    hashes = {
        Policies.compile(some).hash
        for some in (
            [],
            [a_policy(ALL)],
            [a_policy(ALL, version=2)],
            [a_policy(NONE)],
            [a_policy(ALL, "q")],
            [a_policy(ALL), a_policy(ALL, "q")],
        )
    }
    assert len(hashes) == 6
    one, other = a_policy(ALL), a_policy(NONE, "q")
    assert Policies.compile([one, other]).hash == Policies.compile([other, one]).hash


def test_a_policy_in_shadow_mode_does_not_count_and_says_what_would_come_of_it():
    decision = decide(ALL, '@mode("shadow") ' + NONE)
    assert (decision.allowed, decision.ids) == (True, ("p1#1",))
    assert (decision.shadow.allowed, decision.shadow.ids) == (False, ("p2#1",))
    decision = decide('@mode("shadow") ' + ALL)
    assert (decision.allowed, decision.shadow.allowed) == (False, True)
    assert decide('@mode("enforce") ' + ALL).shadow is None


FAILS = "forbid(principal, action, resource) when { context.time.hour + 9223372036854775807 > 0 };"


def test_a_prohibition_that_cannot_be_evaluated_denies():
    decision = decide(ALL, FAILS)
    assert (decision.allowed, decision.ids) == (False, ())
    assert (decision.denial, decision.reason) == (Denial.NOT_EVALUATED, "a policy could not be evaluated")


def test_a_shadow_that_fails_changes_nothing():
    decision = decide(ALL, '@mode("shadow") ' + FAILS)
    assert (decision.allowed, decision.shadow.allowed) == (True, False)


@pytest.mark.parametrize(
    "asked",
    [
        {"kind": "Server"},
        {"action": "svid.mint"},
        {"action": TOOL},
        {"kind": "Tool"},
        {"attest": an_attest(level="2")},
        {"attest": an_attest(node=None)},
        {"owner": None},
        {"name": None},
    ],
    ids=str,
)
def test_a_request_that_does_not_fit_the_schema_is_denied(asked):
    decision = decide(ALL, **asked)
    assert not decision.allowed
    assert decision.reason in ("the policy engine failed", "a policy could not be evaluated")


def test_names_are_data_and_never_program_text():
    hostile = 'x"; permit(principal, action, resource); //'
    assert not decide('permit(principal in Team::"x", action, resource);', team=hostile, name=hostile).allowed
    quoted = json.dumps(hostile)
    assert decide(f"permit(principal in Team::{quoted}, action, resource == Audience::{quoted});",
                  team=hostile, name=hostile).allowed  # fmt: skip


@pytest.fixture
def no_engine(monkeypatch):
    monkeypatch.setitem(sys.modules, "cedarpy", None)


def test_without_the_engine_nothing_is_compiled(no_engine):
    with pytest.raises(PolicyEngineError, match="policies need cedarpy"):
        policies(ALL)


def test_an_engine_that_fails_denies(monkeypatch):
    compiled = policies(ALL)

    def is_authorized(*_):
        raise RuntimeError("broken")

    broken = SimpleNamespace(is_authorized=is_authorized, Schema=SimpleNamespace(from_json_str=str))
    monkeypatch.setitem(
        sys.modules, "cedarpy", type("M", (), {"__hash__": object.__hash__, **vars(broken)})()
    )
    decision = compiled.decide(a_request())
    assert (decision.allowed, decision.reason) == (False, "the policy engine failed")
    assert decision.denial is Denial.NOT_EVALUATED


SELECTED = (
    'when { context has attest && context.attest has selectors && context.attest.selectors.contains("a:b") }'
)


@pytest.mark.parametrize(
    ("texts", "outcome"),
    [
        ([ALL], True),
        ([NONE], False),
        ([], False),
        ([f"permit(principal, action, resource) {SELECTED};"], None),
        ([ALL, f"permit(principal, action, resource) {SELECTED};"], True),
        ([ALL, f"forbid(principal, action, resource) {SELECTED};"], None),
        ([f'permit(principal, action, resource == Audience::"other") {SELECTED};'], False),
        ([ALL, f'forbid(principal, action, resource == Audience::"other") {SELECTED};'], True),
        ([NONE, f"permit(principal, action, resource) {SELECTED};"], False),
        ([ALL, f'@mode("shadow") forbid(principal, action, resource) {SELECTED};'], True),
    ],
)
def test_a_request_whose_selectors_are_not_known_is_decided_where_they_do_not_matter(texts, outcome):
    compiled = policies(*texts)
    decision = compiled.decide_without_selectors(a_request(attest=an_attest()))
    assert outcome == (None if decision is None else decision.allowed)
    if outcome is not None:  # and then any selectors give the same
        for some in (frozenset(), frozenset({"a:b"})):
            assert compiled.decide(a_request(attest=an_attest(selectors=some))).allowed is outcome


def test_importing_the_library_does_not_load_the_engine():
    program = "import sys, spiffekit.policy; print('cedarpy' in sys.modules)"
    found = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert found.stdout == "False\n"

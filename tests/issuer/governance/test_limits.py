# SPDX-License-Identifier: Apache-2.0
"""An agent has no more than its class allows, whenever the class was narrowed."""

from dataclasses import fields, replace
from datetime import timedelta

import pytest
from hypothesis import given

from issuer.errors import InvalidRequestError
from issuer.governance.limits import DEFAULTS, LIFETIMES, MAX_DELEGATION_TTL, check_narrower, effective
from issuer.governance.revocation import LINGER
from issuer.model import AgentClass, Limits
from spiffekit.delegation.tools import Tools
from tests.issuer.strategies import an_agent, any_limits
from tests.vectors.narrowing import exact, one_of, pay, within

MINUTE = timedelta(minutes=1)
CLASS = AgentClass(
    name="bots",
    limits=Limits(
        tools=Tools.from_value({"mail": {}} | pay(amount=within(0, 5), to=one_of("acme", "globex"))),
        audiences=("a", "b"),
        max_depth=2,
        x509_ttl=5 * MINUTE,
    ),
)


def limits_of(given):
    tools = {"tools": Tools.from_value(given["tools"])} if "tools" in given else {}
    return Limits(**given | tools)


@pytest.mark.parametrize(
    ("limits", "why"),
    [
        (
            {"x509_ttl": 6 * MINUTE},
            "limits.x509_ttl: 0:06:00 is more than the 0:05:00 of class 'bots'",
        ),
        ({"max_depth": 3}, "limits.max_depth: 3 is more than the 2 of class 'bots'"),
        ({"audiences": ("a", "c")}, "limits.audiences: 'c' is not among those of class 'bots'"),
        (
            {"tools": {"shell": {}}},
            "limits.tools: wider than class 'bots': tool 'shell' is none of the parent's",
        ),
        (
            {"tools": pay(amount=within(0, 5))},
            "limits.tools: wider than class 'bots': tool 'pay', argument 'to' is limited on one side only",
        ),
        (
            {"tools": pay(amount=within(0, 6), to=exact("acme"))},
            "limits.tools: wider than class 'bots': tool 'pay', argument 'amount': max is higher",
        ),
    ],
    ids=["lifetime", "depth", "audience", "another tool", "any arguments", "other arguments"],
)
def test_an_agent_cannot_have_more_than_its_class(limits, why):
    with pytest.raises(InvalidRequestError) as caught:
        check_narrower(limits_of(limits), CLASS)
    assert str(caught.value) == why


@pytest.mark.parametrize(
    "limits",
    [
        {},
        {"x509_ttl": 5 * MINUTE, "jwt_ttl": timedelta(days=1), "max_depth": 0},
        {"audiences": ()},
        {"audiences": ("b",), "tools": {}},
        {"tools": {"mail": {"to": exact("x")}}},
        {"tools": pay(amount=exact(3), to=one_of("globex"))},
        {"tools": CLASS.limits.tools.to_value()},
    ],
)
def test_an_agent_can_have_less(limits):
    check_narrower(limits_of(limits), CLASS)
    check_narrower(limits_of(limits), None)


def test_what_nobody_limits_has_the_defaults():
    assert effective(an_agent(), None) == DEFAULTS
    tools = Tools.from_value({"x": {}})
    own = Limits(x509_ttl=timedelta(hours=2), tools=tools, audiences=("z",))
    most = effective(an_agent(limits=own), None)
    assert (most.x509_ttl, most.tools, most.audiences) == (timedelta(hours=2), tools, ("z",))


def test_a_class_that_was_narrowed_afterwards_counts():
    own = limits_of({
        "tools": {"mail": {}, "shell": {}} | pay(amount=within(1, 9), to=exact("acme")),
        "audiences": ("b", "c"), "max_depth": 5, "x509_ttl": 9 * MINUTE,
    })  # fmt: skip
    most = effective(an_agent(limits=own), CLASS)
    mail = Tools.from_value({"mail": {}})
    assert most == replace(DEFAULTS, tools=mail, audiences=("b",), max_depth=2, x509_ttl=5 * MINUTE)
    assert effective(an_agent(limits=replace(own, tools=Tools.from_value(pay()))), CLASS).tools == (
        Tools.from_value(pay(amount=within(0, 5), to=one_of("acme", "globex")))
    )
    of_class = effective(an_agent(), CLASS)
    assert (of_class.tools, of_class.audiences) == (CLASS.limits.tools, ("a", "b"))


def test_no_delegation_outlives_what_is_told_of_those_who_were_taken_back():
    """It is made offline: that its agent was retired is told for `LINGER` after that, and no longer."""
    day = Limits(delegation_ttl=timedelta(days=1))  # as an older version has stored it
    assert effective(an_agent(limits=day), None).delegation_ttl == MAX_DELEGATION_TTL < LINGER
    assert effective(an_agent(), AgentClass(name="a", limits=day)).delegation_ttl == MAX_DELEGATION_TTL
    short = Limits(delegation_ttl=MINUTE)
    assert effective(an_agent(limits=short), None).delegation_ttl == MINUTE


@given(own=any_limits, of_class=any_limits)
def test_what_holds_is_never_wider_than_the_class_or_the_agent(own, of_class):
    agent_class = AgentClass(name="any", limits=of_class)
    most = effective(an_agent(limits=own), agent_class)
    check_narrower(most, agent_class)
    check_narrower(most, AgentClass(name="own", limits=own))
    assert all(getattr(most, name) is not None for name in (*LIFETIMES, "max_depth"))
    assert {field.name for field in fields(Limits)} == {*LIFETIMES, "max_depth", "tools", "audiences"}

# SPDX-License-Identifier: Apache-2.0
"""An agent has no more than its class allows, whenever the class was narrowed."""

from dataclasses import fields, replace
from datetime import timedelta

import pytest
from hypothesis import given

from issuer.errors import InvalidRequestError
from issuer.governance.limits import DEFAULTS, LIFETIMES, check_narrower, effective
from issuer.model import AgentClass, Limits
from tests.issuer.strategies import an_agent, any_limits

MINUTE = timedelta(minutes=1)
CLASS = AgentClass(
    name="bots",
    limits=Limits(
        tools={"mail": {}, "pay": {"amount": {"constraint_type": "range", "max": 5}}},
        audiences=("a", "b"),
        max_depth=2,
        x509_ttl=5 * MINUTE,
    ),
)


@pytest.mark.parametrize(
    ("limits", "why"),
    [
        (
            {"x509_ttl": 6 * MINUTE},
            "limits.x509_ttl: 0:06:00 is more than the 0:05:00 of class 'bots'",
        ),
        ({"max_depth": 3}, "limits.max_depth: 3 is more than the 2 of class 'bots'"),
        ({"audiences": ("a", "c")}, "limits.audiences: 'c' is not among those of class 'bots'"),
        ({"tools": {"shell": {}}}, "limits.tools: 'shell' allows more than class 'bots' does"),
        ({"tools": {"pay": {}}}, "limits.tools: 'pay' allows more than class 'bots' does"),
        (
            {"tools": {"pay": {"amount": {"constraint_type": "range", "max": 6}}}},
            "limits.tools: 'pay' allows more than class 'bots' does",
        ),
    ],
    ids=["lifetime", "depth", "audience", "another tool", "any arguments", "other arguments"],
)
def test_an_agent_cannot_have_more_than_its_class(limits, why):
    with pytest.raises(InvalidRequestError) as caught:
        check_narrower(Limits(**limits), CLASS)
    assert str(caught.value) == why


@pytest.mark.parametrize(
    "limits",
    [
        {},
        {"x509_ttl": 5 * MINUTE, "jwt_ttl": timedelta(days=1), "max_depth": 0},
        {"audiences": ()},
        {"audiences": ("b",), "tools": {}},
        {"tools": {"mail": {"to": {"constraint_type": "exact", "value": "x"}}}},
        {"tools": dict(CLASS.limits.tools)},
    ],
)
def test_an_agent_can_have_less(limits):
    check_narrower(Limits(**limits), CLASS)
    check_narrower(Limits(**limits), None)


def test_what_nobody_limits_has_the_defaults():
    assert effective(an_agent(), None) == DEFAULTS
    own = Limits(x509_ttl=timedelta(hours=2), tools={"x": {}}, audiences=("z",))
    most = effective(an_agent(limits=own), None)
    assert (most.x509_ttl, most.tools, most.audiences) == (timedelta(hours=2), {"x": {}}, ("z",))


def test_a_class_that_was_narrowed_afterwards_counts():
    own = Limits(
        tools={"mail": {}, "pay": {}, "shell": {}}, audiences=("b", "c"), max_depth=5, x509_ttl=9 * MINUTE
    )
    most = effective(an_agent(limits=own), CLASS)
    assert most == replace(DEFAULTS, tools={"mail": {}}, audiences=("b",), max_depth=2, x509_ttl=5 * MINUTE)
    of_class = effective(an_agent(), CLASS)
    assert (of_class.tools, of_class.audiences) == (CLASS.limits.tools, ("a", "b"))


@given(own=any_limits, of_class=any_limits)
def test_what_holds_is_never_wider_than_the_class_or_the_agent(own, of_class):
    agent_class = AgentClass(name="any", limits=of_class)
    most = effective(an_agent(limits=own), agent_class)
    check_narrower(most, agent_class)
    check_narrower(most, AgentClass(name="own", limits=own))
    assert all(getattr(most, name) is not None for name in (*LIFETIMES, "max_depth"))
    assert {field.name for field in fields(Limits)} == {*LIFETIMES, "max_depth", "tools", "audiences"}

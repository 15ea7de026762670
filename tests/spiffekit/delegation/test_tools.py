# SPDX-License-Identifier: Apache-2.0
"""Tools that narrow others permit nothing that the others do not, whatever they are called with."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from spiffekit.delegation.constraints import MAX_ARGUMENT_BYTES
from spiffekit.delegation.tools import MAX_ARGUMENTS, MAX_BYTES, MAX_NAME_BYTES, MAX_TOOLS, Tools
from spiffekit.errors import ConstraintError, NotNarrowerError, NotPermittedError
from tests.spiffekit.delegation.strategies import derived_tools, invocations, tools
from tests.spiffekit.delegation.test_constraints import THOROUGH
from tests.vectors import load
from tests.vectors.narrowing import WILDCARD, at_most, exact, one_of, pay, within

VECTORS = load("narrowing")["tools"]


def narrower(child, parent):
    try:
        child.check_narrows(parent)
    except NotNarrowerError:
        return False
    return True


def permits(found, tool, arguments, spent):
    try:
        found.check_permits(tool, arguments, spent=spent)
    except NotPermittedError:
        return False
    return True


@THOROUGH
@given(data=st.data(), parent=tools)
def test_whatever_narrower_tools_permit_their_parent_permits(data, parent):
    own = data.draw(derived_tools(parent))
    child, parent = Tools.from_value(own), Tools.from_value(parent)
    if narrower(child, parent):
        for tool, arguments, spent in data.draw(st.lists(invocations(own), max_size=8)):
            if permits(child, tool, arguments, spent):
                parent.check_permits(tool, arguments, spent=spent)


@THOROUGH
@given(value=tools)
def test_tools_narrow_themselves_and_survive_json(value):
    found = Tools.from_value(value)
    found.check_narrows(found)
    assert Tools.from_json(found.to_json()) == found
    assert Tools.from_value(found.to_value()).to_json() == found.to_json()


@THOROUGH
@given(data=st.data(), first=tools)
def test_what_narrows_what_narrows_others_narrows_the_others(data, first):
    second = data.draw(derived_tools(first))
    third = Tools.from_value(data.draw(derived_tools(second)))
    first, second = Tools.from_value(first), Tools.from_value(second)
    if narrower(third, second) and narrower(second, first):
        third.check_narrows(first)


@THOROUGH
@given(data=st.data(), one=tools)
def test_what_is_within_both_narrows_both(data, one):
    other = Tools.from_value(data.draw(st.one_of(tools, derived_tools(one))))
    one = Tools.from_value(one)
    both = one.within(other)
    both.check_narrows(one)
    both.check_narrows(other)
    if narrower(other, one):
        assert other.within(one) == other


def test_within_takes_the_narrower_of_each_argument():
    ours = Tools.from_value({
        "pay": {"amount": within(0, 9), "to": exact("a")}, "mail": {}, "shell": {}, "read": {"x": exact(1)},
        "call": {"n": within(0, 5)}, "list": {"n": WILDCARD},
    })  # fmt: skip
    theirs = Tools.from_value({
        "pay": {"amount": within(0, 5), "to": one_of("a", "b")}, "mail": {"to": exact("b")},
        "read": {"x": exact(2)}, "call": {"n": within(0, 5), "m": WILDCARD}, "list": {},
    })  # fmt: skip
    found = {
        "pay": {"amount": within(0, 5), "to": exact("a")},
        "mail": {"to": exact("b")},
        "list": {"n": WILDCARD},
    }  # fmt: skip
    assert ours.within(theirs) == Tools.from_value(found) == theirs.within(ours)


@pytest.mark.parametrize("vector", VECTORS, ids=lambda v: v["rule"])
def test_tools_are_compared_by_their_names_and_arguments(vector):
    derived, parent = Tools.from_value(vector["derived"]), Tools.from_value(vector["parent"])
    if vector["message"] is None:
        derived.check_narrows(parent)
        return
    with pytest.raises(NotNarrowerError) as caught:
        derived.check_narrows(parent)
    assert str(caught.value) == vector["message"]


PAYER = Tools.from_value(
    pay(amount=within(0, 5), to=one_of("acme")) | {"mail": {}, "fund": {"sum": at_most(5)}}
)


def test_what_is_permitted_passes():
    PAYER.check_permits("pay", {"amount": 5, "to": "acme"})
    PAYER.check_permits("mail", {})
    PAYER.check_permits("mail", {"anything": ["at", {"all": None}]})
    PAYER.check_permits("fund", {"sum": 2}, spent={"sum": 3})


@pytest.mark.parametrize(
    ("tool", "arguments", "message"),
    [
        ("shell", {}, "tool 'shell' is none of those that may be used"),
        ("x" * 9999, {}, f"tool {'x' * MAX_NAME_BYTES!r} is none of those that may be used"),
        ("pay", {"amount": 5}, "tool 'pay', argument 'to' has to be there, and no other"),
        (
            "pay",
            {"amount": 5, "to": "acme", "cc": ""},
            "tool 'pay', argument 'cc' has to be there, and no other",
        ),
        ("pay", {}, "tool 'pay', argument 'amount' has to be there, and no other"),
        ("pay", {"amount": 6, "to": "acme"}, "tool 'pay', argument 'amount' is not what range permits"),
        ("pay", {"amount": 5, "to": "s3cret"}, "tool 'pay', argument 'to' is not what one_of permits"),
        (
            "pay",
            {"amount": float("nan"), "to": "acme"},
            "tool 'pay', argument 'amount' is a number beyond 2**53 - 1",
        ),
        ("mail", {"to": b"bytes"}, "tool 'mail', argument 'to' is a bytes, which JSON does not have"),
        (
            "mail",
            {"to": "x" * MAX_ARGUMENT_BYTES},
            f"tool 'mail', argument 'to' is longer than {MAX_ARGUMENT_BYTES} bytes",
        ),
        ("fund", {"sum": 2}, "tool 'fund', argument 'sum' is not what max_lifetime permits"),
    ],
)
def test_what_is_not_permitted_is_refused_without_telling_values(tool, arguments, message):
    with pytest.raises(NotPermittedError) as caught:
        PAYER.check_permits(tool, arguments)
    assert str(caught.value).replace("other is", "other") == message


@pytest.mark.parametrize(
    ("document", "message"),
    [
        (b"", "Expecting value: line 1 column 1 (char 0)"),
        (b"[]", "not a JSON object"),
        (b'{"a": {}, "a": {}}', "a name stands twice"),
        (b'{"a": {"b": {"constraint_type": "exact", "value": 1, "value": 2}}}', "a name stands twice"),
        (b'{"a": {"b": {"constraint_type": "exact", "value": NaN}}}', "NaN is not JSON"),
        (
            b'{"a": {"b": {"constraint_type": "exact", "value": 1e999}}}',
            "tool 'a': argument 'b': exact: value is a number beyond 2**53 - 1",
        ),
        (b"[" * 60_000, "nested too deeply"),
        (b'{"a": 1}', "tool 'a': is not an object"),
        (b'{"a": {"b": 1}}', "tool 'a': argument 'b': is not an object"),
        (b'{"a": {"b": {}}}', "tool 'a': argument 'b': constraint_type is none that is known"),
        (b'{"": {}}', "tool '' has a name that cannot be printed"),
        (b'{" ": {}}', "tool ' ' has a name that cannot be printed"),
        (b'{"a\\n": {}}', "tool 'a\\n' has a name that cannot be printed"),
        (b'{"a": {"": {}}}', "tool 'a': argument '' has a name that cannot be printed"),
        (json.dumps({"x" * 257: {}}).encode(), "the name of a tool is longer than 256 bytes"),
        (json.dumps({str(n): {} for n in range(MAX_TOOLS + 1)}).encode(), "has more than 256 tools"),
        (
            json.dumps({"a": {str(n): WILDCARD for n in range(MAX_ARGUMENTS + 1)}}).encode(),
            "tool 'a': has more than 64 arguments",
        ),
        (b" " * (MAX_BYTES + 1), f"larger than {MAX_BYTES} bytes"),
    ],
)
def test_json_that_breaks_a_rule_is_refused_by_tool_argument_and_rule(document, message):
    with pytest.raises(ConstraintError) as caught:
        Tools.from_json(document)
    assert str(caught.value) == message


def test_tools_cannot_be_changed_by_whoever_has_them():
    given = pay(amount=within(0, 5))
    found = Tools.from_value(given)
    given["pay"]["to"] = WILDCARD
    given["shell"] = {}
    assert found == Tools.from_value(pay(amount=within(0, 5)))
    with pytest.raises(TypeError):
        found.tools["shell"] = {}
    with pytest.raises(TypeError):
        found.tools["pay"]["to"] = WILDCARD

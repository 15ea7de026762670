# SPDX-License-Identifier: Apache-2.0
"""What a constraint permits, and that what counts as narrower permits nothing more."""

import os

import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from spiffekit.delegation.clauses import TYPES, parse_constraint
from spiffekit.delegation.constraints import MAX_VALUE_BYTES, MAX_VALUES, Argument, Constraint
from spiffekit.errors import ConstraintError
from tests.spiffekit.delegation.strategies import constraints, derived, permitted
from tests.vectors import load
from tests.vectors.narrowing import (
    WILDCARD,
    at_most,
    below,
    contains,
    exact,
    not_one_of,
    one_of,
    subset,
    under,
    within,
)

EXAMPLES = int(os.environ.get("HYPOTHESIS_MAX_EXAMPLES", "200"))
THOROUGH = settings(max_examples=EXAMPLES, deadline=None, suppress_health_check=list(HealthCheck))
VECTORS = load("narrowing")
DECLARED = (  # §4.5, the example of §3.5.3, and our own
    {(kind, kind) for kind in TYPES}
    | {(kind, "wildcard") for kind in TYPES}
    | {("exact", kind) for kind in ("range", "one_of", "path_containment", "url_prefix")}
)


def narrower(child, parent):
    return child.widening(parent) is None


def permits(value, argument, spent=None):
    return parse_constraint(value).permits(Argument.of(argument, spent))


@THOROUGH
@given(data=st.data(), parent=constraints)
def test_whatever_a_narrower_constraint_permits_its_parent_permits(data, parent):
    """The law that everything else stands on (§3.5.1): what is derived gives nothing that was not there."""
    child = parse_constraint(data.draw(derived(parent)))
    parent = parse_constraint(parent)
    if narrower(child, parent):
        assert permitted(child) <= permitted(parent)


@THOROUGH
@given(child=constraints, parent=constraints)
def test_whatever_any_narrower_constraint_permits_any_parent_permits(child, parent):
    child, parent = parse_constraint(child), parse_constraint(parent)
    if narrower(child, parent):
        assert permitted(child) <= permitted(parent)


@THOROUGH
@given(value=constraints)
def test_every_constraint_narrows_itself(value):
    assert narrower(parse_constraint(value), parse_constraint(value))


@THOROUGH
@given(data=st.data(), first=constraints)
def test_what_narrows_what_narrows_a_third_narrows_the_third(data, first):
    second = data.draw(derived(first))
    third = data.draw(derived(second))
    first, second, third = map(parse_constraint, (first, second, third))
    if narrower(third, second) and narrower(second, first):
        assert narrower(third, first)


@THOROUGH
@given(value=constraints)
def test_a_constraint_survives_json(value):
    constraint = parse_constraint(value)
    again = parse_constraint(constraint.to_value())
    assert again == constraint
    assert hash(again) == hash(constraint)
    assert permitted(again) == permitted(constraint)


def test_the_laws_are_not_about_nothing():
    """The strategies make narrower pairs that permit something, of all types but what any may narrow."""
    shown = set()

    @settings(THOROUGH, max_examples=1500, phases=[Phase.generate], derandomize=True, database=None)
    @given(data=st.data(), parent=constraints)
    def show(data, parent):
        child, parent = parse_constraint(data.draw(derived(parent))), parse_constraint(parent)
        if (child.kind, parent.kind) not in shown and narrower(child, parent) and permitted(child):
            shown.add((child.kind, parent.kind))

    show()
    assert shown >= {(child, parent) for child, parent in DECLARED if parent != "wildcard"}


def test_a_pair_of_types_that_is_not_declared_is_never_narrower():
    """Over every constraint of the vectors, the ones that permit nothing included."""
    found = {
        str(value): parse_constraint(value)
        for kind in ("narrower", "wider")
        for vector in VECTORS[kind]
        for value in (vector["derived"], vector["parent"])
    }
    seen = set()
    for child in found.values():
        for parent in found.values():
            seen.add((child.kind, parent.kind))
            if (child.kind, parent.kind) not in DECLARED:
                assert child.widening(parent) == f"{child.kind} cannot narrow {parent.kind}"
    assert len(seen) == len(TYPES) ** 2


@pytest.mark.parametrize("vector", VECTORS["narrower"], ids=lambda v: v["rule"])
def test_what_is_narrower_counts_as_narrower(vector):
    child, parent = parse_constraint(vector["derived"]), parse_constraint(vector["parent"])
    assert child.widening(parent) is None
    assert permitted(child) <= permitted(parent)


@pytest.mark.parametrize("vector", VECTORS["wider"], ids=lambda v: v["rule"])
def test_what_is_wider_is_found_out(vector):
    assert parse_constraint(vector["derived"]).widening(parse_constraint(vector["parent"]))


@pytest.mark.parametrize("vector", VECTORS["malformed"], ids=lambda v: v["rule"])
def test_what_is_malformed_is_refused(vector):
    with pytest.raises(ConstraintError):
        parse_constraint(vector["constraint"])


@pytest.mark.parametrize(
    ("constraint", "good", "bad"),
    [
        (exact("a"), ["a"], ["A", "", ["a"], None]),
        (exact(1), [1, 1.0], [True, "1", 1.5]),
        (exact(None), [None], [False, 0, "", "null"]),
        (within(0, 5), [0, 0.0, 5, 2.5], [-1, 5.1, "3", True, None, [3]]),
        (within(0, 5, min_inclusive=False, max_inclusive=False), [1, 4.9], [0, -0.0, 5]),
        (within(), [0, -1.5], ["0", False]),
        (within(5, 1), [], [1, 3, 5]),
        (one_of("a", [1]), ["a", [1.0]], ["b", [1, 1], [True]]),
        (one_of(), [], ["a", None, []]),
        (not_one_of("a", 1), ["b", True, "1", None], ["a", 1.0]),
        (contains("a", 1), [["a", 1, "b"], [1.0, "a"]], [["a"], ["a", True], "a1", {"a": 1}]),
        (subset("a", 1), [[], ["a"], [1.0, "a", "a"]], [["b"], [True], "a", {}, None]),
        (WILDCARD, [None, {}, "a", [[]]], []),
        (below("/srv"), ["/srv", "/srv/a.b/..c"], ["/", "/srvx", "/srv/", "/srv/../etc", 1]),
        (below("/"), ["/", "/etc"], ["etc", "//", "/a/"]),
        (under("https://a.b/v1"), ["https://a.b/v1", "https://a.b/v1/", "https://a.b/v1/x?y=/../", "https://a.b/v1?"],
         ["https://a.b/v1x", "https://a.b/", "https://a.b/v1/..", "https://a.b/v1#f", 1]),
        (under("https://a.b/v1/"), ["https://a.b/v1/", "https://a.b/v1/%C3%A9"], ["https://a.b/v1", "https://a.b/v1/é"]),
        (under("http://a.b:8080/"), ["http://a.b:8080/"], ["http://a.b/", "http://a.b:80801/", "http://a.b:8080"]),
    ],
)  # fmt: skip
def test_what_a_constraint_permits(constraint, good, bad):
    assert [value for value in good if not permits(constraint, value)] == []
    assert [value for value in bad if permits(constraint, value)] == []


def test_a_total_is_judged_only_by_who_counts():
    assert permits(at_most(5), 2, spent=3)
    assert permits(at_most(5), 5, spent=0)
    assert not permits(at_most(5), 3, spent=3)
    assert not permits(at_most(5), 0)


def test_nobody_gets_back_what_was_spent():
    assert not permits(at_most(5), -1, spent=5)
    assert not permits(at_most(5), 9, spent=-9)


@pytest.mark.parametrize(
    ("value", "message"),
    [
        ({}, "constraint_type is none that is known"),
        (exact([]), "exact: value is not a scalar"),
        ({"constraint_type": "exact"}, "exact: value is missing"),
        (exact(2**53), "exact: value is a number beyond 2**53 - 1"),
        (exact("x" * MAX_VALUE_BYTES), "exact: value is longer than 4096 bytes"),
        (within("a"), "range: min is not a number"),
        (within(min_inclusive=1), "range: min_inclusive is neither true nor false"),
        (one_of(*range(MAX_VALUES + 1)), "one_of: values has more than 1000 elements"),
        (under("https://a/?q"), "url_prefix: prefix has a query"),
        (WILDCARD | {"x": 1}, "wildcard: has members that it does not know"),
    ],
)
def test_a_refusal_says_type_and_rule(value, message):
    with pytest.raises(ConstraintError) as caught:
        parse_constraint(value)
    assert str(caught.value) == message


def test_a_constraint_is_no_other_that_python_takes_for_equal():
    assert parse_constraint(exact(True)) != parse_constraint(exact(1))
    assert parse_constraint(one_of("a")) != parse_constraint(subset("a"))
    assert parse_constraint(exact(1)) == parse_constraint(exact(1.0))
    assert {Constraint} == {kind.__mro__[-3] for kind in TYPES.values()}

# SPDX-License-Identifier: Apache-2.0
"""`all` and `any`: they are matched clause by clause, and take a bounded time."""

import itertools

import pytest

from spiffekit.delegation import clauses
from spiffekit.delegation.clauses import MAX_CLAUSES, MAX_NESTING, parse_constraint
from spiffekit.delegation.constraints import Argument, Range
from spiffekit.errors import ConstraintError
from tests.vectors.narrowing import WILDCARD, all_of, any_of, exact, one_of, under, within


def permits(value, argument):
    return parse_constraint(value).permits(Argument.of(argument))


def test_all_permits_what_each_permits_and_any_what_one_permits():
    both = (within(0, 5), one_of(4, 5, 6))
    assert [n for n in range(8) if permits(all_of(*both), n)] == [4, 5]
    assert [n for n in range(8) if permits(any_of(*both), n)] == [0, 1, 2, 3, 4, 5, 6]


def test_a_clause_that_cannot_judge_a_value_says_no_for_itself_only():
    assert permits(any_of(under("https://a/"), exact(5)), 5)
    assert not permits(all_of(under("https://a/"), exact(5)), 5)


def test_clauses_are_assigned_wherever_trying_all_assignments_would():
    """Against every permutation, over all pairs of three clauses out of four nested ranges."""
    kinds = [within(0, most) for most in (1, 3, 5, 9)]
    for ours in itertools.product(kinds, repeat=3):
        for theirs in itertools.product(kinds, repeat=3):
            tried = any(
                all(own["max"] <= other["max"] for own, other in zip(order, theirs, strict=True))
                for order in itertools.permutations(ours)
            )
            found = parse_constraint(all_of(*ours)).widening(parse_constraint(all_of(*theirs))) is None
            assert found is tried, (ours, theirs)


def nested(kind, levels):
    value = exact(1)
    for _ in range(levels):
        value = kind(value)
    return value


@pytest.mark.parametrize("kind", [all_of, any_of])
def test_nesting_is_bounded(kind):
    assert permits(nested(kind, MAX_NESTING), 1)
    with pytest.raises(ConstraintError, match="is nested deeper than 8"):
        parse_constraint(nested(kind, MAX_NESTING + 1))
    with pytest.raises(ConstraintError, match="is nested deeper than 8"):
        parse_constraint(nested(kind, 100_000))


def test_the_number_of_clauses_is_bounded():
    assert parse_constraint(all_of(*[WILDCARD] * (MAX_CLAUSES - 1)))
    for many in (
        all_of(*[WILDCARD] * MAX_CLAUSES),
        all_of(*[any_of(WILDCARD)] * 32),
        any_of(*[{"constraint_type": "exact", "constraints": [1] * 8}] * 8),
    ):
        with pytest.raises(ConstraintError, match="has more than 64 constraints in each other"):
            parse_constraint(many)


def test_the_worst_case_takes_few_comparisons(monkeypatch):
    """Clauses that fit all but one of the parent's: trying every assignment would outlive us."""
    most = MAX_CLAUSES - 1
    ours = parse_constraint(all_of(*[within(0, 5)] * most))
    theirs = parse_constraint(all_of(*[within(0, 9)] * (most - 1), within(0, 1)))
    asked = 0
    widening = Range._widening

    def counting(self, parent):
        nonlocal asked
        asked += 1
        return widening(self, parent)

    monkeypatch.setattr(Range, "_widening", counting)
    assert ours.widening(theirs)
    assert asked == most * most


def test_a_type_of_ours_cannot_shadow_one_of_the_draft():
    assert len(clauses.TYPES) == len(clauses._KINDS) == 12

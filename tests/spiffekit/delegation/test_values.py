# SPDX-License-Identifier: Apache-2.0
"""Two JSON values have one text if and only if they are equal."""

import enum
import json
from decimal import Decimal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from spiffekit.delegation.values import MAX_DEPTH, MAX_NUMBER, array, canonical, named, number, text
from spiffekit.errors import ConstraintError

numbers = st.integers(-MAX_NUMBER, MAX_NUMBER) | st.floats(-MAX_NUMBER, MAX_NUMBER)
scalars = st.none() | st.booleans() | numbers | st.text(max_size=5)
documents = st.recursive(
    scalars,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=3),
)
LIMIT = 100_000


def equal(one, other):
    if isinstance(one, bool) or isinstance(other, bool):
        return one is other
    match one, other:
        case list(), list():
            return len(one) == len(other) and all(map(equal, one, other))
        case dict(), dict():
            return one.keys() == other.keys() and all(equal(one[name], other[name]) for name in one)
    return one == other


@given(one=documents, other=documents)
def test_equal_values_and_no_others_have_the_same_text(one, other):
    assert (canonical(one, LIMIT) == canonical(other, LIMIT)) is equal(one, other)


@given(value=documents)
def test_a_value_is_what_its_text_says(value):
    assert equal(json.loads(canonical(value, LIMIT)), value)
    assert canonical(json.loads(json.dumps(value)), LIMIT) == canonical(value, LIMIT)


@pytest.mark.parametrize(
    ("one", "other"),
    [
        (1, 1.0),
        (0, -0.0),
        ({"a": 1, "b": 2}, {"b": 2.0, "a": 1}),
        ([1], (1,)),
        (MAX_NUMBER, float(MAX_NUMBER)),
    ],
)
def test_these_are_the_same(one, other):
    assert canonical(one, LIMIT) == canonical(other, LIMIT)


def deep(levels):
    value = 0
    for level in range(levels):
        value = [value] if level % 2 else {"a": value}
    return value


class Colour(enum.Enum):
    RED = 1


@pytest.mark.parametrize(
    ("value", "rule"),
    [
        (2**53, "is a number beyond 2**53 - 1"),
        (-(2.0**53), "is a number beyond 2**53 - 1"),
        ([10**5000], "is a number beyond 2**53 - 1"),
        (float("inf"), "is a number beyond 2**53 - 1"),
        ([{"a": float("nan")}], "is a number beyond 2**53 - 1"),
        ("\ud800", "has half a character"),
        ({"\udfff": 1}, "has half a character"),
        ({1: 2}, "is not a string"),
        (b"a", "is a bytes, which JSON does not have"),
        (Decimal(1), "is a Decimal, which JSON does not have"),
        (Colour.RED, "is a Colour, which JSON does not have"),
        ({"a"}, "is a set, which JSON does not have"),
        (deep(MAX_DEPTH + 1), "is nested deeper than 32"),
        ("x" * LIMIT, "is longer than 100000 bytes"),
        ("x" * (LIMIT + 1), "is longer than 100000 bytes"),
    ],
)
def test_what_readers_of_json_disagree_about_is_no_value(value, rule):
    with pytest.raises(ConstraintError) as caught:
        canonical(value, LIMIT)
    assert str(caught.value) == rule


def test_bounds_are_exact():
    assert canonical(deep(MAX_DEPTH), LIMIT)
    assert canonical("x" * (LIMIT - 2), LIMIT)
    assert text("\u00e9", 2) == "\u00e9"
    with pytest.raises(ConstraintError, match="is longer than 1 bytes"):
        text("\u00e9", 1)
    assert list(array("x", (1, 2), 2)) == [1, 2]
    with pytest.raises(ConstraintError, match="x has more than 2 elements"):
        array("x", (1, 2, 3), 2)
    with pytest.raises(ConstraintError, match="x is not an array"):
        array("x", "ab", 2)


def test_a_number_that_is_whole_is_an_integer():
    assert [type(number(given)) for given in (1.0, 1, 1.5, -0.0)] == [int, int, float, int]
    for bad in (True, "1", None):
        with pytest.raises(ConstraintError, match="is not a number"):
            number(bad)


def test_a_refusal_names_what_was_refused():
    with pytest.raises(ConstraintError, match=r"\Amax is not a number\Z"):
        named("max", number, "1")
    assert named("max", number, 1) == 1

# SPDX-License-Identifier: Apache-2.0
"""The four ways to compare a set with a given one; their numbers are those of SPIRE's API."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from issuer.selection import Comparison, compares
from spiffekit.wire.pb.spire.api import types_pb2

EXACT, SUBSET, SUPERSET, ANY = Comparison
SETS = {
    "": frozenset(),
    "a": frozenset("a"),
    "b": frozenset("b"),
    "ab": frozenset("ab"),
    "abc": frozenset("abc"),
}


@pytest.mark.parametrize(
    ("own", "given_set", "true"),
    [
        ("", "", {EXACT, SUPERSET}),
        ("", "a", set()),
        ("a", "", {SUPERSET}),
        ("a", "a", {EXACT, SUBSET, SUPERSET, ANY}),
        ("a", "b", set()),
        ("a", "ab", {SUBSET, ANY}),
        ("ab", "a", {SUPERSET, ANY}),
        ("ab", "abc", {SUBSET, ANY}),
        ("abc", "ab", {SUPERSET, ANY}),
    ],
)
def test_comparisons(own, given_set, true):
    assert {way for way in Comparison if compares(frozenset(own), frozenset(given_set), way)} == true


def test_the_numbers_are_those_on_the_wire():
    for message in (types_pb2.SelectorMatch, types_pb2.FederatesWithMatch):
        assert {
            value.name.removeprefix("MATCH_"): value.number
            for value in message.MatchBehavior.DESCRIPTOR.values
        } == {way.name: way.value for way in Comparison}


small = st.frozensets(st.sampled_from("abcd"))


@given(small, small)
def test_exact_is_subset_and_superset(own, given_set):
    both = compares(own, given_set, SUBSET) and compares(own, given_set, SUPERSET)
    assert compares(own, given_set, EXACT) is (both or not (own or given_set))

# SPDX-License-Identifier: Apache-2.0
"""Waits grow, are jittered and bounded, and start over on success."""

from datetime import timedelta
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from spiffekit.daemon.backoff import Backoff


def seconds(n):
    return timedelta(seconds=n)


def test_waits_grow_to_the_ceiling_and_stay_there():
    backoff = Backoff(seconds(1), seconds(10), factor=2, draw=lambda: 0.5)
    assert [backoff.next() for _ in range(6)] == [seconds(n) for n in (1, 2, 4, 8, 10, 10)]


def test_a_success_starts_over():
    backoff = Backoff(seconds(1), seconds(10), factor=2, draw=lambda: 0.5)
    for _ in range(5):
        backoff.next()
    backoff.reset()
    assert [backoff.next(), backoff.next()] == [seconds(1), seconds(2)]


@pytest.mark.parametrize(("drawn", "factor"), [(0.0, 0.9), (0.5, 1.0), (1.0, 1.1)])
def test_jitter_moves_a_wait_by_a_tenth_at_most(drawn, factor):
    backoff = Backoff(seconds(10), seconds(10), draw=lambda: drawn)
    assert backoff.next() == seconds(10) * factor


@given(st.lists(st.floats(0, 1), min_size=2, max_size=40))
def test_no_wait_leaves_its_bounds_whatever_is_drawn(draws):
    drawn = iter(draws)
    backoff = Backoff(seconds(1), seconds(30), jitter=0.1, draw=lambda: next(drawn))
    waits = [backoff.next() for _ in draws]
    assert all(seconds(0.9) <= wait <= seconds(33) for wait in waits)
    assert all(later >= earlier * (0.9 / 1.1) for earlier, later in pairwise(waits))


def test_two_daemons_do_not_wait_alike():
    waits = {Backoff(seconds(10), seconds(10)).next() for _ in range(50)}
    assert len(waits) > 40

# SPDX-License-Identifier: Apache-2.0
"""One source may act in a burst and then at its rate; it harms nobody else, and memory is bounded."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from spiffekit.daemon.limits import MAX_SOURCES, RateLimit, RateLimitedError


class Time:
    now = 0.0

    def __call__(self):
        return self.now


@pytest.fixture
def time():
    return Time()


def spent(limit, source, times, amount=1):
    """Return how many of so many attempts were allowed."""
    allowed = 0
    for _ in range(times):
        try:
            limit.spend(source, amount)
        except RateLimitedError:
            continue
        allowed += 1
    return allowed


def test_a_burst_and_then_no_more(time):
    limit = RateLimit(10, 5, monotonic=time)
    assert spent(limit, "a", 20) == 5
    with pytest.raises(RateLimitedError, match=r"^too many requests from this source; try again later$"):
        limit.spend("a")


def test_the_bucket_fills_at_its_rate_and_not_beyond(time):
    limit = RateLimit(10, 5, monotonic=time)
    spent(limit, "a", 20)
    time.now += 0.25
    assert spent(limit, "a", 20) == 2
    time.now += 3600
    assert spent(limit, "a", 20) == 5


def test_one_source_does_not_spend_for_another(time):
    limit = RateLimit(1, 1, monotonic=time)
    assert [spent(limit, source, 3) for source in ("a", "b", ("a", 1))] == [1, 1, 1]


def test_attempts_that_were_refused_cost_nothing(time):
    """Who keeps asking is served again as soon as who waits quietly."""
    limit = RateLimit(1, 1, monotonic=time)
    limit.spend("a")
    for _ in range(9):
        time.now += 0.1
        assert spent(limit, "a", 1) == 0
    time.now += 0.2
    assert spent(limit, "a", 1) == 1


def test_more_than_a_burst_at_once_is_allowed_from_a_full_bucket_and_paid_for_later(time):
    """A batch of 500 must not be impossible for a limit of 100."""
    limit = RateLimit(100, 100, monotonic=time)
    limit.spend("a", 500)
    time.now += 4
    assert spent(limit, "a", 1) == 0, "the debt is paid, the bucket is empty"
    time.now += 0.9
    assert spent(limit, "a", 1, amount=500) == 0
    time.now += 0.1
    assert spent(limit, "a", 1, amount=500) == 1


def test_memory_is_bounded_and_the_quietest_source_is_forgotten(time):
    limit = RateLimit(0.001, 1, monotonic=time)
    limit.spend("loud")
    limit.spend("quiet")
    for number in range(MAX_SOURCES - 1):
        if number % 100 == 0:
            assert spent(limit, "loud", 1) == 0
        limit.spend(number)
    assert len(limit._buckets) == MAX_SOURCES
    assert spent(limit, "loud", 1) == 0, "not forgotten for all its asking"
    assert spent(limit, "quiet", 1) == 1


@given(
    rate=st.floats(0.1, 1000),
    burst=st.integers(1, 100),
    steps=st.lists(st.tuples(st.floats(0, 10), st.integers(1, 10)), max_size=50),
)
def test_nobody_gets_more_than_burst_and_rate_allow(rate, burst, steps):
    time = Time()
    limit, allowed = RateLimit(rate, burst, monotonic=time), 0
    for passed, attempts in steps:
        time.now += passed
        allowed += spent(limit, "a", attempts)
        assert allowed <= math.floor(burst + rate * time.now + 1e-6)

# SPDX-License-Identifier: Apache-2.0
"""The machine's clock, and that the fake one behaves like it where tests rely on it."""

import asyncio
from datetime import UTC, datetime, timedelta

import pytest

from spiffekit.daemon.clock import SystemClock, first_of
from tests.fakes.clock import FakeClock


@pytest.mark.parametrize("kind", [SystemClock, FakeClock])
def test_now_is_aware_and_in_utc(kind):
    now = kind().now()
    assert now.tzinfo is UTC
    assert now.utcoffset() == timedelta(0)


def test_the_machine_says_what_it_is():
    before = datetime.now(UTC)
    assert before <= SystemClock().now() <= datetime.now(UTC)


@pytest.mark.parametrize("kind", [SystemClock, FakeClock])
def test_monotonic_time_never_goes_back(kind):
    clock = kind()
    assert clock.monotonic() <= clock.monotonic()


@pytest.mark.parametrize("span", [timedelta(0), timedelta(seconds=-5), timedelta(milliseconds=5)])
async def test_sleeping_ends(span):
    clock = SystemClock()
    start = clock.monotonic()
    async with asyncio.timeout(5):
        await clock.sleep(span)
    # The loop's own clock is a little coarser than ours.
    assert clock.monotonic() - start >= max(span.total_seconds(), 0) - 0.002


async def test_a_step_of_the_wall_clock_wakes_nobody_and_moves_no_monotonic_time():
    clock = FakeClock()
    sleeper = asyncio.create_task(clock.sleep(timedelta(seconds=10)))
    clock.step(timedelta(hours=1))
    await clock.advance(timedelta(seconds=9))
    assert not sleeper.done()
    assert clock.monotonic() == 9
    await clock.advance(timedelta(seconds=1))
    assert sleeper.done()


async def test_the_first_of_several_waits_ends_all():
    clock = FakeClock()
    ended = []

    async def waiting(seconds):
        try:
            await clock.sleep(timedelta(seconds=seconds))
        finally:
            ended.append(seconds)

    both = asyncio.create_task(first_of(waiting(5), waiting(10)))
    await clock.advance(timedelta(seconds=4))
    assert (both.done(), ended) == (False, [])
    await clock.advance(timedelta(seconds=1))
    assert (both.done(), ended) == (True, [5, 10])

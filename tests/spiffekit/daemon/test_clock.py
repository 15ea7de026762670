# SPDX-License-Identifier: Apache-2.0
"""The machine's clock, waits for one of several things, and what the fake one can do beyond."""

import asyncio
from datetime import UTC, datetime, timedelta

from spiffekit.daemon.clock import SystemClock, first_of
from tests.fakes.clock import FakeClock


def test_the_machine_says_what_it_is():
    before = datetime.now(UTC)
    assert before <= SystemClock().now() <= datetime.now(UTC)


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

# SPDX-License-Identifier: Apache-2.0
"""What every clock does: the machine's, and the one that stands still until a test moves it."""

import asyncio
from datetime import UTC, timedelta

import pytest

from spiffekit.daemon.clock import Clock, SystemClock
from tests.fakes.clock import FakeClock

TICK = timedelta(milliseconds=10)
COARSE = timedelta(milliseconds=2)  # what the loop's own clock may be off


class Machine:
    """Time passes by itself."""

    def __init__(self):
        self.clock = SystemClock()

    async def advance(self, duration):
        await asyncio.sleep(duration.total_seconds())


class Fake:
    """Time passes when it is told to."""

    def __init__(self):
        self.clock = FakeClock()
        self.advance = self.clock.advance


@pytest.fixture(params=[Machine, Fake], ids=["machine", "fake"])
def passing(request):
    return request.param()


@pytest.fixture
def clock(passing) -> Clock:
    return passing.clock


def test_now_is_aware_and_in_utc(clock):
    assert clock.now().tzinfo is UTC
    assert clock.now().utcoffset() == timedelta(0)


async def test_both_times_go_on_together_and_never_back(passing, clock):
    now, monotonic = clock.now(), clock.monotonic()
    assert clock.monotonic() >= monotonic
    await passing.advance(TICK)
    passed = timedelta(seconds=clock.monotonic() - monotonic)
    assert passed >= TICK - COARSE
    assert abs((clock.now() - now) - passed) < timedelta(seconds=1)


@pytest.mark.parametrize("duration", [timedelta(0), timedelta(seconds=-5)], ids=["none", "negative"])
async def test_who_need_not_sleep_goes_on_once_others_have_had_their_turn(clock, duration):
    turns = []
    asyncio.get_running_loop().call_soon(turns.append, "another")
    async with asyncio.timeout(5):
        await clock.sleep(duration)
    assert turns == ["another"]


async def test_sleepers_wake_when_it_is_time_and_in_that_order(passing, clock):
    began, woken = clock.monotonic(), []

    async def sleep(ticks):
        await clock.sleep(ticks * TICK)
        woken.append(ticks)
        assert timedelta(seconds=clock.monotonic() - began) >= ticks * TICK - COARSE

    sleepers = [asyncio.create_task(sleep(ticks)) for ticks in (3, 1, 2)]
    await asyncio.sleep(0)
    assert woken == []
    async with asyncio.timeout(5):
        while not all(sleeper.done() for sleeper in sleepers):
            await passing.advance(TICK)
    assert woken == [1, 2, 3]
    for sleeper in sleepers:
        sleeper.result()


async def test_who_is_cancelled_sleeps_no_more_and_wakes_nobody(passing, clock):
    one, other = (asyncio.create_task(clock.sleep(duration)) for duration in (TICK, timedelta(hours=1)))
    await asyncio.sleep(0)
    one.cancel()
    with pytest.raises(asyncio.CancelledError):
        await one
    await passing.advance(2 * TICK)
    assert not other.done()
    other.cancel()

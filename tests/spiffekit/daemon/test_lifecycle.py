# SPDX-License-Identifier: Apache-2.0
"""Services start in order, run until a signal or a failure, and end together."""

import asyncio
import gc
import os
import signal

import pytest

from spiffekit.daemon.lifecycle import run_until_signalled

TERMINATE = (signal.SIGTERM, signal.SIGINT)


class Diary(list):
    """Makes services that write down what becomes of them."""

    def service(self, name, *, before=None, after=None):
        async def run(ready):
            self.append(f"{name} starts")
            try:
                if before is not None:
                    await before()
                self.append(f"{name} is ready")
                ready()
                if after is not None:
                    return await after()
                await asyncio.Event().wait()
            finally:
                self.append(f"{name} ends")

        return run


@pytest.fixture
def diary():
    return Diary()


async def raise_signal(number=signal.SIGTERM):
    os.kill(os.getpid(), number)
    await asyncio.Event().wait()


async def fail(error):
    raise error


async def test_what_services_need_to_start_is_never_looked_through_for_garbage(diary):
    async def garbage_is_still_collected():
        while not gc.get_freeze_count():  # when all are ready
            await asyncio.sleep(0)
        Link()
        assert gc.collect() >= 1
        await raise_signal()

    class Link:
        def __init__(self):
            self.itself = self

    Link()
    async with asyncio.timeout(5):
        await run_until_signalled(only=diary.service("only", after=garbage_is_still_collected))
    assert gc.get_freeze_count() == 0
    assert not [found for found in gc.get_objects() if isinstance(found, Link)]


async def test_each_service_starts_when_the_one_before_it_is_ready(diary):
    async def slowly():
        for _ in range(5):
            await asyncio.sleep(0)

    async with asyncio.timeout(5):
        await run_until_signalled(
            first=diary.service("first", before=slowly),
            second=diary.service("second", before=slowly),
            third=diary.service("third", after=raise_signal),
        )
    steps = [f"{name} {step}" for name in ("first", "second", "third") for step in ("starts", "is ready")]
    assert diary[:6] == steps
    assert sorted(diary[6:]) == ["first ends", "second ends", "third ends"]


@pytest.mark.parametrize("number", TERMINATE)
async def test_a_signal_ends_them_all_without_an_error(diary, number):
    async with asyncio.timeout(5):
        await run_until_signalled(
            first=diary.service("first"),
            second=diary.service("second", after=lambda: raise_signal(number)),
        )
    assert sorted(diary[-2:]) == ["first ends", "second ends"]


async def test_a_signal_before_all_are_ready_starts_no_more(diary):
    async with asyncio.timeout(5):
        await run_until_signalled(
            first=diary.service("first", before=raise_signal), second=diary.service("second")
        )
    assert diary == ["first starts", "first ends"]


async def test_when_it_is_over_signals_end_the_process_as_usual(diary):
    await run_until_signalled(only=diary.service("only", after=raise_signal))
    assert signal.getsignal(signal.SIGTERM) == signal.SIG_DFL
    assert signal.getsignal(signal.SIGINT) == signal.default_int_handler


async def test_a_service_that_fails_early_ends_the_others_and_is_reported(diary):
    with pytest.raises(ExceptionGroup) as caught:
        async with asyncio.timeout(5):
            await run_until_signalled(
                first=diary.service("first"),
                second=diary.service("second", before=lambda: fail(OSError("port is taken"))),
                third=diary.service("third"),
            )
    assert [str(error) for error in caught.value.exceptions] == ["port is taken"]
    assert diary == ["first starts", "first is ready", "second starts", "second ends", "first ends"]


async def test_a_service_that_fails_late_ends_the_others_and_is_reported(diary):
    with pytest.raises(ExceptionGroup) as caught:
        async with asyncio.timeout(5):
            await run_until_signalled(
                first=diary.service("first", after=lambda: fail(ValueError("late"))),
                second=diary.service("second"),
            )
    assert [str(error) for error in caught.value.exceptions] == ["late"]
    assert "second ends" in diary or "second starts" not in diary


async def test_a_service_that_returns_is_a_failure_that_names_it(diary):
    with pytest.raises(ExceptionGroup) as caught:
        async with asyncio.timeout(5):
            await run_until_signalled(
                first=diary.service("first"), second=diary.service("second", after=lambda: asyncio.sleep(0))
            )
    assert [str(error) for error in caught.value.exceptions] == [
        "service 'second' returned; services run until they are cancelled"
    ]


async def test_a_service_that_fails_while_it_ends_is_reported_although_a_signal_came(diary):
    async def clumsy(ready):
        ready()
        try:
            await asyncio.Event().wait()
        finally:
            raise OSError("cannot remove the socket")

    with pytest.raises(ExceptionGroup) as caught:
        async with asyncio.timeout(5):
            await run_until_signalled(first=clumsy, second=diary.service("second", after=raise_signal))
    assert [str(error) for error in caught.value.exceptions] == ["cannot remove the socket"]


async def test_a_service_ends_its_work_before_the_run_is_over(diary):
    async def careful(ready):
        ready()
        try:
            await asyncio.Event().wait()
        finally:
            await asyncio.sleep(0.01)
            diary.append("drained")

    await run_until_signalled(first=careful, second=diary.service("second", after=raise_signal))
    assert diary[-1] == "drained"


async def test_services_carry_their_name_as_tasks(diary):
    names = []

    async def named(ready):
        names.append(asyncio.current_task().get_name())
        ready()
        await raise_signal()

    await run_until_signalled(workload_api=named)
    assert names == ["workload_api"]

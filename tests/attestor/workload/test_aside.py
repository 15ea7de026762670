# SPDX-License-Identifier: Apache-2.0
"""Reads that hang harm neither others nor the end of the daemon."""

import asyncio
import subprocess
import sys
import threading
from datetime import timedelta

import pytest

from attestor.errors import WorkloadAttestationError
from attestor.workload.aside import MAX_PER_USER, MAX_THREADS, Aside


async def test_what_a_function_returns_or_raises_comes_back():
    assert await Aside().run(0, divmod, 7, 2) == (3, 1)
    with pytest.raises(ZeroDivisionError):
        await Aside().run(0, divmod, 7, 0)


async def test_a_user_whose_reads_hang_is_refused_and_others_are_not():
    aside, go_on = Aside(timedelta(0)), threading.Event()
    hanging = [asyncio.create_task(aside.run(1, go_on.wait, 30)) for _ in range(MAX_PER_USER)]
    await asyncio.sleep(0)
    with pytest.raises(WorkloadAttestationError, match="too many reads for uid 1"):
        await aside.run(1, int)
    assert await aside.run(2, int) == 0
    for task in hanging:
        task.cancel()
    await asyncio.gather(*hanging, return_exceptions=True)
    with pytest.raises(WorkloadAttestationError, match="too many"):  # the threads hang still
        await aside.run(1, int)
    go_on.set()
    while aside._running:
        await asyncio.sleep(0)
    assert await aside.run(1, int) == 0


async def test_many_processes_of_one_user_take_turns():
    aside = Aside()
    answers = await asyncio.gather(*(aside.run(1, divmod, number, 2) for number in range(10 * MAX_PER_USER)))
    assert answers == [divmod(number, 2) for number in range(10 * MAX_PER_USER)]
    assert not aside._running


async def test_many_users_together_are_refused_at_last():
    aside, go_on = Aside(timedelta(0)), threading.Event()
    hanging = [asyncio.create_task(aside.run(uid, go_on.wait, 30)) for uid in range(MAX_THREADS)]
    await asyncio.sleep(0)
    with pytest.raises(WorkloadAttestationError, match="too many"):
        await aside.run(MAX_THREADS, int)
    go_on.set()
    await asyncio.gather(*hanging)


def test_a_thread_that_hangs_does_not_keep_the_daemon():
    program = """
import asyncio, threading
from attestor.workload.aside import Aside
async def main():
    try:
        await asyncio.wait_for(Aside().run(0, threading.Event().wait), 0.01)
    except TimeoutError:
        print("ended")
asyncio.run(main())
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=20)
    assert (done.stdout, done.returncode) == ("ended\n", 0), done.stderr


def test_an_answer_that_comes_after_the_end_of_the_loop_is_dropped():
    go_on = threading.Event()

    def late():
        go_on.wait(30)
        return 1

    async def main():
        task = asyncio.create_task(Aside().run(0, late))
        await asyncio.sleep(0)
        task.cancel()

    asyncio.run(main())
    (thread,) = [t for t in threading.enumerate() if t.name == "aside-0"]
    go_on.set()
    thread.join(5)
    assert not thread.is_alive()

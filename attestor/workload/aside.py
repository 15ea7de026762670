# SPDX-License-Identifier: Apache-2.0
"""Reading what may hang, aside from everything else.

Memory and files of a process may lie on a FUSE mount whose server never answers, and names of users in a
directory that is down. Then the thread that reads is lost until that server ends; nothing can take it back.
So it is none of the shared ones, a user can lose few of them, and none of them keeps the daemon from ending.
"""

import asyncio
import threading
from collections import Counter
from collections.abc import Callable
from datetime import timedelta
from functools import partial
from typing import Final, ParamSpec, TypeVar

from attestor.errors import WorkloadAttestationError

P = ParamSpec("P")
R = TypeVar("R")

MAX_THREADS: Final = 64
MAX_PER_USER: Final = 8  # threads; a user whose reads hang is refused before it harms others
PATIENCE: Final = timedelta(seconds=2)  # for a thread: many processes that start together take turns


class Aside:
    """Runs functions in threads of its own, few for each user."""

    def __init__(self, patience: timedelta = PATIENCE) -> None:
        self._patience = patience
        self._running: Counter[int] = Counter()
        self._ended = asyncio.Event()  # set, and replaced, whenever a thread has ended

    async def run(self, uid: int, function: Callable[P, R], *args: P.args, **kwargs: P.kwargs) -> R:
        """Return what `function` returns, once there is a thread for it.

        If cancelled, its thread goes on, and counts until it ends.

        Args:
            uid: Whose files, memory or names are read.
            function: What reads them.
            *args: Its arguments.
            **kwargs: Its arguments.

        Raises:
            WorkloadAttestationError: Too many read for that user, or at all, for too long.
        """
        try:
            async with asyncio.timeout(self._patience.total_seconds()):
                while self._running[uid] >= MAX_PER_USER or self._running.total() >= MAX_THREADS:
                    await self._ended.wait()
        except TimeoutError as error:
            raise WorkloadAttestationError(f"too many reads for uid {uid} have not ended") from error
        loop = asyncio.get_running_loop()
        future: asyncio.Future[R] = loop.create_future()

        def deliver(give: Callable[[], None]) -> None:
            self._running -= Counter([uid])
            self._ended.set()
            self._ended = asyncio.Event()
            if not future.cancelled():
                give()

        def work() -> None:
            try:
                give = partial(future.set_result, function(*args, **kwargs))
            except BaseException as error:  # noqa: BLE001 - raised again where it is awaited
                give = partial(future.set_exception, error)
            if not loop.is_closed():
                loop.call_soon_threadsafe(deliver, give)

        threading.Thread(target=work, name=f"aside-{uid}", daemon=True).start()
        self._running[uid] += 1  # before `deliver`, which waits for its turn on this loop
        return await future

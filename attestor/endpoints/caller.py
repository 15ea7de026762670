# SPDX-License-Identifier: Apache-2.0
"""A process that calls the Workload API: what is true of it, and what it executed when that was found."""

import asyncio
import contextlib
import logging
import os
from collections.abc import Callable, Iterator

from attestor.cache import Cache, Entry
from attestor.peer import Executable, Process
from attestor.workload.examination import Examination, Examiner
from spiffekit.selector import Selector

logger = logging.getLogger(__name__)


class Caller:
    """See the module. It is examined anew before each thing that it is handed."""

    def __init__(self, process: Process, examiner: Examiner, cache: Cache) -> None:
        self.process = process
        self._examiner = examiner
        self._cache = cache
        self._examination: Examination | None = None
        self._executable: Executable | None = None

    @property
    def examination(self) -> Examination:
        """What was found last."""
        assert self._examination is not None  # noqa: S101 - `examine` comes first
        return self._examination

    @property
    def selectors(self) -> frozenset[Selector]:
        """What holds for it."""
        return self.examination.selectors

    @property
    def entries(self) -> tuple[Entry, ...]:
        """The entries that it matches now."""
        return self._cache.matching(self.selectors)

    async def examine(self) -> None:
        """Find out what is true of the process now.

        Raises:
            WorkloadAttestationError: It cannot be told.
            PeerGoneError: It has exited.
        """
        before = self._examination
        # What it executes is taken first: an exec meanwhile shows as another executable afterwards.
        executable = self.process.executable()
        self._examination = await self._examiner.examine(self.process, self._cache.awaits)
        self._executable = executable
        if before is not None and (lost := self._lost(before)):
            logger.warning(
                "posture changed",
                extra={"pid": self.process.pid, "uid": self.process.peer.uid, "entries": lost},
            )

    def _lost(self, before: Examination) -> list[str]:
        """Return the IDs of the entries that matched before and do no longer."""
        now = {entry.id for entry in self.entries}
        return [entry.id for entry in self._cache.matching(before.selectors) if entry.id not in now]

    def executes_another(self) -> bool:
        """Tell whether it executes something else than when it was examined."""
        return self.process.executable() != self._executable

    @contextlib.contextmanager
    def on_death(self, wake: Callable[[], None]) -> Iterator[None]:
        """Call `wake` when the process exits."""
        loop = asyncio.get_running_loop()
        # A copy: streams of one connection share the pidfd, and the loop watches a descriptor once.
        pidfd = os.dup(self.process.peer.pidfd)

        def exited() -> None:
            loop.remove_reader(pidfd)  # it stays readable for ever
            wake()

        loop.add_reader(pidfd, exited)
        try:
            yield
        finally:
            loop.remove_reader(pidfd)
            os.close(pidfd)

# SPDX-License-Identifier: Apache-2.0
"""A process that calls the Workload API: what is true of it, and what it executed when that was found."""

import asyncio
import contextlib
import os
from collections.abc import Callable, Iterator

from attestor.cache import Cache, Entry
from attestor.errors import WorkloadAttestationError
from attestor.peer import Executable, Process
from attestor.workload.examination import Examination, Examiner
from spiffekit.selector import Selector


class Caller:
    """See the module. It is examined anew before each thing that it is handed."""

    def __init__(self, process: Process, examiner: Examiner, cache: Cache) -> None:
        self.process = process
        self._examiner = examiner
        self._cache = cache
        self._examination: Examination | None = None
        self._executable: Executable | None = None

    @property
    def last_examination(self) -> Examination | None:
        """What was found last, None before the first time."""
        return self._examination

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
        executable = self.process.executable()
        examination = await self._examiner.examine(self.process, self._cache.awaits)
        if self.process.executable() != executable:  # some attestors saw the old one, and some the new one
            raise WorkloadAttestationError("executable changed during attestation")
        now = {entry.id for entry in self._cache.matching(examination.selectors)}
        lost = [entry.id for entry in self.entries if entry.id not in now] if self._examination else []
        # Who cannot be heard may not take an identity away: a caller that is denied drops what it has.
        if (
            (lost or not now)
            and examination.failed
            and self._cache.awaits(examination.selectors, examination.failed)
        ):
            raise WorkloadAttestationError("an attestor failed that may matter")
        if lost:
            self._examiner.postures.add(
                self.process, lost, before=self.selectors, after=examination.selectors
            )
        self._examination, self._executable = examination, executable

    def executes_another(self) -> bool:
        """Tell whether it executes something else than when it was examined."""
        return self.process.executable() != self._executable

    def awaits_more(self) -> bool:
        """Tell whether an attestor that was not waited for may matter by now."""
        unheard = self.examination.unheard
        return bool(unheard) and self._cache.awaits(self.selectors, unheard)

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

# SPDX-License-Identifier: Apache-2.0
"""Workload attestors: each states what is true of a process, and all are asked at once."""

import asyncio
import logging
from collections.abc import Sequence
from datetime import timedelta
from typing import Final, Protocol

from attestor.errors import WorkloadAttestationError
from attestor.peer import Process
from spiffekit.selector import Selector

logger = logging.getLogger(__name__)

DEADLINE: Final = timedelta(seconds=5)


class WorkloadAttestor(Protocol):
    """Examines one local process. Built once from its config table, then called concurrently."""

    @property
    def type(self) -> str:
        """The selector type it owns, and its config key: "unix" yields "unix:uid:1000"."""

    async def attest(self, process: Process) -> frozenset[Selector]:
        """Return every selector that holds for `process`; empty if it is not this attestor's kind.

        A selector states a fact and never an absence: entries match by subset, so leaving
        one out can only withhold an identity. Ask only the kernel or the orchestrator,
        never the workload (Workload_Endpoint §5). Cancellation is the only deadline.

        Raises:
            WorkloadAttestationError: It is ours, but could not be examined.
        """


async def attest_all(
    attestors: Sequence[WorkloadAttestor], process: Process, *, deadline: timedelta = DEADLINE
) -> frozenset[Selector]:
    """Ask all attestors at once; one that fails adds nothing.

    Raises:
        WorkloadAttestationError: All of them failed.
        PeerGoneError: The process exited while it was examined.
    """

    async def ask(attestor: WorkloadAttestor) -> frozenset[Selector] | None:
        try:
            async with asyncio.timeout(deadline.total_seconds()):
                return await attestor.attest(process)
        except Exception:  # the plug-in boundary: one attestor's bug must not deny the others
            logger.exception(
                "workload attestor failed", extra={"attestor": attestor.type, "pid": process.pid}
            )
            return None

    async with asyncio.TaskGroup() as group:
        tasks = [group.create_task(ask(a), name=f"attest-{a.type}") for a in attestors]
    found = [selectors for task in tasks if (selectors := task.result()) is not None]
    process.require_alive()
    if attestors and not found:
        raise WorkloadAttestationError(
            f"all {len(attestors)} workload attestors failed for pid {process.pid}"
        )
    return frozenset().union(*found)

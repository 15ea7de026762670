# SPDX-License-Identifier: Apache-2.0
"""Workload attestors: each states what is true of a process, and all are asked at once."""

import asyncio
import logging
from collections.abc import Sequence
from dataclasses import dataclass
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


@dataclass(frozen=True, slots=True)
class Finding:
    """What one attestor found; `error` says why it failed, and is empty if it did not."""

    type: str
    selectors: frozenset[Selector]
    error: str = ""


async def ask_all(
    attestors: Sequence[WorkloadAttestor], process: Process, *, deadline: timedelta = DEADLINE
) -> list[Finding]:
    """Ask all attestors at once; one that fails adds nothing. The caller asks whether the process lives."""

    async def ask(attestor: WorkloadAttestor) -> Finding:
        try:
            async with asyncio.timeout(deadline.total_seconds()):
                return Finding(attestor.type, await attestor.attest(process))
        except TimeoutError:
            reason = f"no answer within {deadline.total_seconds():g} s"
        except WorkloadAttestationError as error:
            reason = str(error)
        except Exception as error:  # the plug-in boundary: one attestor's bug must not deny the others
            logger.exception("workload attestor has a bug", extra={"attestor": attestor.type})
            reason = f"{type(error).__name__} (see the log)"
        logger.warning(
            "workload attestor failed",
            extra={"attestor": attestor.type, "pid": process.pid, "reason": reason},
        )
        return Finding(attestor.type, frozenset(), reason)

    async with asyncio.TaskGroup() as group:
        tasks = [group.create_task(ask(a), name=f"attest-{a.type}") for a in attestors]
    return [task.result() for task in tasks]


async def attest_all(
    attestors: Sequence[WorkloadAttestor], process: Process, *, deadline: timedelta = DEADLINE
) -> frozenset[Selector]:
    """Return all that holds for a process.

    Raises:
        WorkloadAttestationError: All attestors failed.
        PeerGoneError: The process exited while it was examined.
    """
    findings = await ask_all(attestors, process, deadline=deadline)
    process.require_alive()
    if findings and all(finding.error for finding in findings):
        raise WorkloadAttestationError(f"all {len(findings)} workload attestors failed for pid {process.pid}")
    return frozenset().union(*(finding.selectors for finding in findings))

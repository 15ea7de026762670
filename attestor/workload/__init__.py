# SPDX-License-Identifier: Apache-2.0
"""Workload attestors: each states what is true of a process; `examination` asks all of them at once."""

from collections.abc import Callable
from dataclasses import dataclass
from datetime import timedelta
from typing import Final, NoReturn, Protocol, runtime_checkable

from attestor.peer import Process
from spiffekit.evidence import ContainerFacts, PodFacts
from spiffekit.selector import Selector

DEADLINE: Final = timedelta(seconds=5)


@dataclass(frozen=True, slots=True)
class Facts:
    """What one attestor states: selectors, and the container and pod behind them, if it knows them."""

    selectors: frozenset[Selector] = frozenset()
    container: ContainerFacts | None = None
    pod: PodFacts | None = None


class WorkloadAttestor(Protocol):
    """Examines one local process. Built once from its config table, then called concurrently."""

    @property
    def type(self) -> str:
        """The selector type it owns, and its config key: "unix" yields "unix:uid:1000"."""

    async def attest(self, process: Process) -> Facts:
        """Return everything that holds for `process`; `Facts()` if it is not this attestor's kind.

        A selector states a fact and never an absence: entries match by subset, so leaving
        one out can only withhold an identity. Ask only the kernel or the orchestrator,
        never the workload (Workload_Endpoint §5). Cancellation is the only deadline.

        Raises:
            WorkloadAttestationError: It is ours, but could not be examined.
        """


@runtime_checkable
class Following(Protocol):
    """A workload attestor that follows something all the time, besides answering."""

    async def run(self, ready: Callable[[], None]) -> NoReturn:
        """Follow it until cancelled; call `ready` when processes may be asked about."""


@dataclass(frozen=True, slots=True)
class Configured:
    """An attestor as it is configured: whether identities depend on its word, and how long it may take."""

    attestor: WorkloadAttestor
    required: bool = False
    timeout: timedelta = DEADLINE

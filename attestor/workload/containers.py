# SPDX-License-Identifier: Apache-2.0
"""What every attestor of containers does: find the container, have an engine describe it, and confirm it.

1. The process's cgroup names a container (`attestor.workload.cgroups`). That is a claim: a user can make
   cgroups of any name below one that was delegated.
2. The engine is asked for the container by its ID, and names its first process.
3. That process's cgroup must place it into the same container: the same ID below the same path in each
   hierarchy. Only the engine put it there, so only then is the claim true.
4. Of a user's own engine it counts only for processes in a user namespace that the user made: others may be
   in the user's cgroups, put there by root or moved by the user.
5. What the engine said is remembered for a moment, while that first process lives; steps 3 and 4 are not.
"""

import logging
import re
from collections import OrderedDict
from collections.abc import Awaitable, Callable, Iterable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final

from attestor import peer
from attestor.errors import PeerGoneError, WorkloadAttestationError
from attestor.peer import Process
from attestor.workload import Facts, cgroups, user_namespaces
from attestor.workload.cgroups import Container
from spiffekit.daemon.clock import Clock
from spiffekit.errors import SelectorError
from spiffekit.evidence import ContainerFacts
from spiffekit.selector import Selector

logger = logging.getLogger(__name__)

REMEMBERED_FOR: Final = 30.0  # seconds; of a living container only name and image digests can change
MAX_REMEMBERED: Final = 4096  # containers: a node runs some hundreds
MAX_SELECTORS: Final = 256  # labels, and as many environment variables: a container that floods our memory
MAX_ANCESTORS: Final = 256  # processes; deeper is taken for entered


@dataclass(frozen=True, slots=True)
class Inspected:
    """A container by its engine's word."""

    pid: int  # of its first process, in our PID namespace
    facts: ContainerFacts
    selectors: frozenset[Selector]
    owner: int | None = None  # the user whose own engine it is; None for the machine's


Inspect = Callable[[Container], Awaitable[Inspected | None]]
"""Asks the engine for a container that a process claims; None if it has no such. Raises a
`WorkloadAttestationError` if the engine cannot be asked, or answers with nonsense."""


@dataclass(frozen=True, slots=True)
class _Remembered:
    inspected: Inspected
    started: int  # clock ticks from boot to the start of its first process
    until: float


class ContainerAttestor:
    """See the module."""

    def __init__(self, kind: str, segment: re.Pattern[str], inspect: Inspect, clock: Clock) -> None:
        """Put it together.

        Args:
            kind: Its name, which is the type of its selectors.
            segment: The names of cgroups that the engine makes; see `cgroups.container`.
            inspect: Asks the engine.
            clock: Tells how long something was remembered.
        """
        self.type = kind
        self._segment = segment
        self._inspect = inspect
        self._clock = clock
        self._remembered: OrderedDict[Container, _Remembered] = OrderedDict()

    async def attest(self, process: Process) -> Facts:
        """Return what the engine says of the process's container; nothing if it is in none of the engine's.

        Raises:
            WorkloadAttestationError: The engine cannot be asked, or contradicts the process's cgroup.
        """
        container = cgroups.container(cgroups.read(process.proc), self._segment)
        if container is None:
            return Facts()
        known = self._recall(container)
        inspected = known or await self._inspect(container)
        if inspected is None:
            return Facts()
        started = _started(inspected.pid)
        self._confirm(process, container, inspected)
        if known is None:
            self._remember(container, inspected, started)
        entered = not _descends(process, inspected.pid)
        return Facts(inspected.selectors, replace(inspected.facts, entered=entered))

    def _confirm(self, process: Process, container: Container, inspected: Inspected) -> None:
        first, owner = Path("/proc", str(inspected.pid)), inspected.owner
        if cgroups.container(cgroups.read(first), self._segment) != container:
            raise WorkloadAttestationError(
                f"process is not where {self.type} runs the container that its cgroup names"
            )
        if owner is not None and not user_namespaces.made_by(process, owner):
            raise WorkloadAttestationError(
                f"process in user {owner}'s container is in none of its namespaces"
            )

    def _recall(self, container: Container) -> Inspected | None:
        known = self._remembered.get(container)
        if known is None:
            return None
        try:
            if self._clock.monotonic() < known.until and _started(known.inspected.pid) == known.started:
                return known.inspected
        except WorkloadAttestationError:
            pass  # its first process has exited: it ends, or starts anew
        del self._remembered[container]
        return None

    def _remember(self, container: Container, inspected: Inspected, started: int) -> None:
        until = self._clock.monotonic() + REMEMBERED_FOR
        self._remembered[container] = _Remembered(inspected, started, until)
        if len(self._remembered) > MAX_REMEMBERED:
            self._remembered.popitem(last=False)


def selectors(kind: str, stated: Iterable[tuple[str, str]]) -> frozenset[Selector]:
    """Return a selector for each name and value that fits one.

    Args:
        kind: Their type.
        stated: What precedes the value, e.g. "label:team:" or "env:A=", and the value.
    """
    found: set[Selector] = set()
    for name, value in stated:
        try:
            found.add(Selector(kind, name + value))
        except SelectorError:
            # Never the value, which may be a secret, nor the name, which may hold anything.
            logger.debug("a fact fits no selector", extra={"type": kind, "fact": name.partition(":")[0]})
    return frozenset(found)


def bounded(pairs: Iterable[tuple[str, str]], kind: str) -> list[tuple[str, str]]:
    """Return as many pairs as we state of one container, the same ones each time."""
    found = sorted(pairs)
    if len(found) > MAX_SELECTORS:
        logger.debug("more facts than are stated", extra={"fact": kind, "count": len(found)})
    return found[:MAX_SELECTORS]


def _started(pid: int) -> int:
    try:
        return peer.birth(Path("/proc", str(pid)))[1]
    except PeerGoneError as error:
        raise WorkloadAttestationError("first process of the container has exited") from error


def _descends(process: Process, first: int) -> bool:
    """Tell whether `process` is, or descends from, the process `first`."""
    pid = process.pid
    for _ in range(MAX_ANCESTORS):
        if pid == first:
            return True
        if pid <= 1:
            return False
        try:
            pid = peer.birth(Path("/proc", str(pid)))[0]
        except PeerGoneError:
            return False  # an ancestor exited meanwhile
    return False

# SPDX-License-Identifier: Apache-2.0
"""Ask all workload attestors about a process at once, and wait for no more of them than the answer needs.

A required attestor is always waited for, and without its word there is no answer. Of the others, one that
fails adds nothing; entries match by subset, so that can only withhold an identity.
"""

import asyncio
import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta

from attestor.errors import WorkloadAttestationError
from attestor.peer import Process
from attestor.workload import Configured, Facts
from attestor.workload.postures import PostureChange, Postures
from spiffekit.daemon.clock import Clock
from spiffekit.evidence import ContainerFacts, PodFacts
from spiffekit.selector import Selector

logger = logging.getLogger(__name__)

Awaits = Callable[[frozenset[Selector], frozenset[str]], bool]
"""Tells, of selectors found and types that have not answered, whether those may matter still."""


@dataclass(frozen=True, slots=True)
class Finding:
    """What one attestor found, when, and how long it took; `error` says why it failed, if it did."""

    type: str
    facts: Facts
    collected_at: datetime
    took: timedelta
    error: str = ""


@dataclass(frozen=True, slots=True)
class Examination:
    """What is true of a process at one moment, by everybody who was waited for."""

    findings: tuple[Finding, ...]
    selectors: frozenset[Selector]
    container: ContainerFacts | None
    pod: PodFacts | None
    collected_at: datetime  # when the first attestor answered
    unheard: frozenset[str] = frozenset()  # types of attestors that were not waited for

    @property
    def failed(self) -> frozenset[str]:
        """Types of attestors that could not examine it."""
        return frozenset(finding.type for finding in self.findings if finding.error)

    def stated(self, type_: str, kind: str) -> str:
        """Return the value of a kind of fact of which there is one at most, or ""."""
        prefix = f"{kind}:"
        values = (s.value for s in self.selectors if s.type == type_ and s.value.startswith(prefix))
        return next(values, "").removeprefix(prefix)


def _unobserved(_finding: Finding) -> None:
    pass


def _untold(_process: Process, _change: PostureChange) -> None:
    pass


class Examiner:
    """Asks the attestors of the configuration.

    Args:
        attestors: Whom to ask.
        clock: The clock.
        observe: Is told of each finding.
        changed: Is told of each process that lost identities.

    Attributes:
        postures: What came to be otherwise from one examination to the next, as those say who compare them.
    """

    def __init__(
        self,
        attestors: Sequence[Configured],
        clock: Clock,
        *,
        observe: Callable[[Finding], None] = _unobserved,
        changed: Callable[[Process, PostureChange], None] = _untold,
    ) -> None:
        self._attestors = attestors
        self._clock = clock
        self._observe = observe
        self.postures = Postures(clock, changed)

    async def findings(self, process: Process) -> tuple[Finding, ...]:
        """Return what every attestor says. The caller asks whether the process still lives."""
        return tuple(await asyncio.gather(*(self._ask(one, process) for one in self._attestors)))

    async def examine(self, process: Process, awaits: Awaits) -> Examination:
        """Return what is true of a process.

        Args:
            process: The process; it is alive when this returns.
            awaits: See `Awaits`; whoever only could matter is not waited for when it does not.

        Raises:
            WorkloadAttestationError: A required attestor failed, or all failed.
            PeerGoneError: The process exited while it was examined.
        """
        asked = {
            asyncio.create_task(self._ask(one, process), name=f"attest-{one.attestor.type}"): one
            for one in self._attestors
        }
        pending = set(asked)
        found: list[Finding] = []
        try:
            while pending:
                waited_for = frozenset(asked[task].attestor.type for task in pending)
                if not any(asked[task].required for task in pending) and not awaits(
                    _selectors(found), waited_for
                ):
                    break
                done, pending = await asyncio.wait(pending, return_when=asyncio.FIRST_COMPLETED)
                found += (task.result() for task in done)
        finally:
            for task in pending:
                task.cancel()
            await asyncio.gather(*pending, return_exceptions=True)
        process.require_alive()
        self._judge(found, process)
        return self._examination(found, frozenset(asked[task].attestor.type for task in pending))

    def _examination(self, found: Sequence[Finding], unheard: frozenset[str]) -> Examination:
        facts = [finding.facts for finding in found]
        return Examination(
            tuple(found),
            _selectors(found),
            next((f.container for f in facts if f.container is not None), None),
            next((f.pod for f in facts if f.pod is not None), None),
            min((finding.collected_at for finding in found), default=self._clock.now()),
            unheard,
        )

    def _judge(self, found: Sequence[Finding], process: Process) -> None:
        failed = {finding.type for finding in found if finding.error}
        for one in self._attestors:
            if one.required and one.attestor.type in failed:
                raise WorkloadAttestationError(
                    f"required workload attestor {one.attestor.type!r} failed for pid {process.pid}"
                )
        if found and len(failed) == len(found):
            raise WorkloadAttestationError(
                f"all {len(found)} workload attestors failed for pid {process.pid}"
            )

    async def _ask(self, one: Configured, process: Process) -> Finding:
        began = self._clock.monotonic()
        facts, reason = Facts(), ""
        try:
            async with asyncio.timeout(one.timeout.total_seconds()):
                facts = _own(await one.attestor.attest(process), one.attestor.type)
        except TimeoutError:
            reason = f"no answer within {one.timeout.total_seconds():g} s"
        except WorkloadAttestationError as error:
            reason = str(error)
        except asyncio.CancelledError:
            if (task := asyncio.current_task()) is None or task.cancelling():
                raise
            reason = "it was cancelled by something of its own"  # which is not the caller's hanging up
        except Exception as error:  # the plug-in boundary: one attestor's bug must not deny the others
            logger.exception("workload attestor has a bug", extra={"attestor": one.attestor.type})
            reason = f"{type(error).__name__} (see the log)"
        if reason:
            logger.warning(
                "workload attestor failed",
                extra={"attestor": one.attestor.type, "pid": process.pid, "reason": reason},
            )
        took = timedelta(seconds=self._clock.monotonic() - began)
        finding = Finding(one.attestor.type, facts, self._clock.now(), took, reason)
        self._observe(finding)
        return finding


def _own(facts: object, type_: str) -> Facts:
    """Return facts as they are, if an attestor of this type may state them."""
    if not isinstance(facts, Facts) or any(selector.type != type_ for selector in facts.selectors):
        raise TypeError(f"attestor states what is not of type {type_!r}")
    return facts


def _selectors(found: Sequence[Finding]) -> frozenset[Selector]:
    return frozenset().union(*(finding.facts.selectors for finding in found))

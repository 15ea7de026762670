# SPDX-License-Identifier: Apache-2.0
"""The policies of the trust domain, asked before anything is signed for an agent.

Until the first statement that is not in shadow mode is stored, nothing is denied; from then on, and for good,
an agent is denied whatever no policy permits. Identities that are no agent's are not asked about.
"""

import logging
import secrets
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Final

from issuer.model import Agent, Change, Node, StoredPolicy
from spiffekit.errors import PolicyEngineError, PolicyError
from spiffekit.evidence import Evidence
from spiffekit.policy import Attest, Decision, Denial, Policies, Policy, Principal, Request

logger = logging.getLogger(__name__)

MAX_REMEMBERED: Final = 10_000  # decisions


@dataclass(frozen=True, slots=True)
class Judgement:
    """A decision, and what its evaluation is called; that of one that was remembered is the first one's."""

    decision: Decision
    eval_id: str


class PolicyJudge:
    """Every policy in force, compiled once for each change. Used from one event loop."""

    def __init__(self, *, remembered: int = MAX_REMEMBERED) -> None:
        self._max_remembered = remembered
        self._remembered: dict[bytes, Judgement] = {}
        self._stored: dict[str, StoredPolicy] = {}
        self._policies: Policies | None = None
        self.version = 0  # of all policies together; 0: none was ever stored
        self.enforced = False

    def load(self, newest: Iterable[StoredPolicy], *, enforced: bool) -> None:
        """Take up what is stored.

        Args:
            newest: The newest version of each policy, of those that have ended as well.
            enforced: Whether any statement ever counted.
        """
        self._take(newest)
        self.enforced = enforced
        self._compile()

    def apply(self, changes: Sequence[Change]) -> None:
        """Follow what was committed."""
        some = [change.value for change in changes if isinstance(change.value, StoredPolicy)]
        if some:
            self._take(some)
            self._compile()

    def _take(self, some: Iterable[StoredPolicy]) -> None:
        for policy in some:
            self._stored[policy.name] = policy
            self.version = max(self.version, policy.sequence)
            self.enforced = self.enforced or policy.enforced

    def _compile(self) -> None:
        self._remembered.clear()
        self._policies = None
        try:
            self._policies = Policies.compile(self.policies())
        except (PolicyError, PolicyEngineError) as error:
            if self.version:
                logger.error("policies cannot be evaluated, agents are denied", extra={"reason": str(error)})  # noqa: TRY400 - the reason says it all

    def stored(self) -> list[StoredPolicy]:
        """Return the policies that hold, by name."""
        return [self._stored[name] for name in sorted(self._stored) if self._stored[name].text is not None]

    def policies(self) -> tuple[Policy, ...]:
        """Return the policies that hold, as they are asked."""
        return tuple(in_force(self.stored()))

    @property
    def hash(self) -> str:
        """Return the hash of the policies that hold; "" if they cannot be asked."""
        return "" if self._policies is None else self._policies.hash

    def judge(self, request: Request) -> Judgement | None:
        """Return what policy says; None if no policy was ever stored."""
        if not self.version:
            return None
        key = request.key()
        known = self._remembered.get(key)
        if known is None:
            known = Judgement(self._decide(request), secrets.token_hex(8))
            if len(self._remembered) >= self._max_remembered:
                self._remembered.clear()
            self._remembered[key] = known
        return known

    def _decide(self, request: Request) -> Decision:
        if self._policies is None:
            decision = Decision.denied(Denial.NOT_EVALUATED, "policies cannot be evaluated")
        else:
            decision = self._policies.decide(request)
        if self.enforced:
            return decision
        return replace(decision, allowed=True, ids=(), reason="", denial=None)


def in_force(stored: Iterable[StoredPolicy]) -> Iterable[Policy]:
    """Yield the policies of those that have not ended."""
    for policy in stored:
        if policy.text is not None:
            yield Policy(name=policy.name, version=policy.version, text=policy.text)


def principal_of(agent: Agent, now: datetime) -> Principal:
    """Return what policy sees of an agent."""
    return Principal(
        spiffe_id=agent.spiffe_id,
        owner=str(agent.owner),
        agent_class=agent.agent_class,
        team=agent.team,
        review_overdue=agent.review_by is not None and agent.review_by <= now,
    )


def attest_of(node: Node | None, evidence: Evidence | None) -> Attest | None:
    """Return what policy sees of a node, and of the evidence that it sent; None where there is no node."""
    if node is None:
        return None
    selectors = None if evidence is None else frozenset(map(str, evidence.selectors))
    container = None if evidence is None else evidence.container
    return Attest(
        node=str(node.id),
        level=int(node.level),
        selectors=selectors,
        image_digest="" if container is None else container.image_digest,
    )

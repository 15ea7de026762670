# SPDX-License-Identifier: Apache-2.0
"""The policies of the trust domain, asked before anything is signed for an agent, and by gateways.

Until the first statement that is not in shadow mode is stored, no SVID is denied; from then on, and for good,
an agent is denied whatever no policy permits. Identities that are no agent's are not asked about.
What a gateway asks about is denied from the beginning unless a policy permits it.
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
from spiffekit.policy.request import SVID

logger = logging.getLogger(__name__)

MAX_REMEMBERED: Final = 10_000  # decisions about SVIDs, and as many of gateways


@dataclass(frozen=True, slots=True)
class Judgement:
    """A decision, and what its evaluation is called; that of one that was remembered is the first one's."""

    decision: Decision
    eval_id: str


class PolicyJudge:
    """Every policy in force, compiled once for each change. Used from one event loop."""

    def __init__(self, *, remembered: int = MAX_REMEMBERED) -> None:
        self._max_remembered = remembered
        self._issuing: dict[bytes, Judgement] = {}
        self._calls: dict[bytes, Judgement] = {}  # apart: whoever calls much crowds out no SVID's decision
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
        self._issuing.clear()
        self._calls.clear()
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
        """Return what policy says of an SVID; None if no policy was ever stored."""
        if not self.version:
            return None
        return self._recall(self._issuing, request)

    def judge_call(self, request: Request) -> Judgement:
        """Return what policy says of a call: no unless one permits it, also where none was ever stored."""
        return self._recall(self._calls, request)

    def _recall(self, remembered: dict[bytes, Judgement], request: Request) -> Judgement:
        key = request.key()
        known = remembered.get(key)
        if known is None:
            known = Judgement(self._decide(request), secrets.token_hex(8))
            if len(remembered) >= self._max_remembered:
                remembered.clear()
            remembered[key] = known
        return known

    def _decide(self, request: Request) -> Decision:
        if self._policies is None:
            decision = Decision.denied(Denial.NOT_EVALUATED, "policies cannot be evaluated")
        else:
            decision = self._policies.decide(request)
        if self.enforced or request.action != SVID:
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

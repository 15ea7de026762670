# SPDX-License-Identifier: Apache-2.0
"""The policies that hold and the agents that they are about, signed for those who decide elsewhere.

What an operator lays down is published at once. Agents come and go, and the whole bundle goes to every node
each time: so what changes of them waits until the traffic of the bundle before is paid off.
"""

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Final

from issuer.ca.authorities import Authorities
from issuer.changes import ChangeLog
from issuer.errors import FailedPreconditionError
from issuer.governance.limits import tools
from issuer.governance.policy import PolicyJudge, principal_of
from issuer.governance.publishing import Publishing
from issuer.model import AgentState, Change, ChangeKind
from issuer.registration import Registrations
from spiffekit.daemon.clock import Clock, first_of
from spiffekit.id import TrustDomain
from spiffekit.policy import PolicyBundle
from spiffekit.policy.bundle import MAX_BYTES, TYP

PUSHED_LIFETIME: Final = timedelta(minutes=5)  # who is cut off for longer denies everything
REFRESH: Final = PUSHED_LIFETIME / 3  # a bundle is replaced while it is still good for as long as two more
BYTES_PER_SECOND: Final = 256 * 1024  # to each node, because agents come and go: some 1,700 of them a second


@dataclass(frozen=True, slots=True)
class PublishedPolicies:
    """What everybody is told. `number` counts them."""

    number: int
    token: str = field(repr=False)  # a JWS


class PolicyPublisher(Publishing[PublishedPolicies]):
    """The service that signs bundles of policies."""

    FAILED = "policies cannot be signed, trying again"
    REFRESH = REFRESH

    def __init__(
        self,
        trust_domain: TrustDomain,
        *,
        judge: PolicyJudge,
        registrations: Registrations,
        authorities: Authorities,
        log: ChangeLog,
        clock: Clock,
    ) -> None:
        super().__init__(PublishedPolicies(0, ""), clock)
        self._trust_domain = trust_domain
        self._judge = judge
        self._registrations = registrations
        self._authorities = authorities
        self._log = log
        self._urgent = asyncio.Event()
        self._agents = asyncio.Event()

    def apply(self, changes: Sequence[Change]) -> None:
        """Follow what was committed; call it after the registry and the judge have."""
        for change in changes:
            if change.kind in (ChangeKind.POLICY, ChangeKind.AUTHORITY):
                self._urgent.set()
            elif change.kind in (ChangeKind.AGENT, ChangeKind.AGENT_CLASS):
                self._agents.set()

    async def _changed(self) -> None:
        await first_of(self._urgent_change(), self._agents_change())

    async def _urgent_change(self) -> None:
        await self._urgent.wait()

    async def _agents_change(self) -> None:
        await self._clock.sleep(timedelta(seconds=len(self.current.token) / BYTES_PER_SECOND))
        await self._agents.wait()

    async def _make(self, number: int) -> PublishedPolicies:
        self._urgent.clear()
        self._agents.clear()
        return PublishedPolicies(number, await self.token(self._clock.now(), PUSHED_LIFETIME))

    async def token(self, now: datetime, lifetime: timedelta) -> str:
        """Return everything that holds, as a JWS.

        Args:
            now: The instant of its issue.
            lifetime: How long it is good for; at most `spiffekit.policy.bundle.LIFETIME`.

        Raises:
            FailedPreconditionError: It is too large.
            AuthorityNotReadyError: No key can sign it.
        """
        issued = now.replace(microsecond=0)
        active = [a for a in self._registrations.agents() if a.state is AgentState.ACTIVE]
        limited = ((a.spiffe_id, tools(a, self._registrations.agent_class(a.agent_class))) for a in active)
        bundle = PolicyBundle(
            trust_domain=self._trust_domain,
            sequence=self._log.revision,
            version=self._judge.version,
            issued_at=issued,
            expires_at=issued + lifetime,
            policies=self._judge.policies(),
            agents={agent.spiffe_id: principal_of(agent, now) for agent in active},
            ceilings={spiffe_id: ceiling for spiffe_id, ceiling in limited if ceiling is not None},
        )
        token = await self._authorities.jwt.token(TYP, bundle.claims())
        if len(token) > MAX_BYTES:
            raise FailedPreconditionError(
                f"policies and agents are more than the {MAX_BYTES} bytes of a bundle"
            )
        return token

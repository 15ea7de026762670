# SPDX-License-Identifier: Apache-2.0
"""What may be signed for an identity, and for how long: the word of whoever owns it."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Final

from issuer.errors import NotAuthorizedError, PolicyDeniedError
from issuer.governance.limits import audiences, least
from issuer.governance.policy import Judgement, PolicyJudge, principal_of
from issuer.model import Agent, AgentState, Owner, PolicyFacts
from issuer.registration import Registrations
from spiffekit.id import SpiffeId
from spiffekit.policy import Attest, Request, Resource
from spiffekit.policy.engine import MAX_IDS
from spiffekit.policy.request import SVID

MAX_AUDIENCES: Final = 16  # of an agent's JWT-SVID: policy is asked about each
_NOTHING: Final[Mapping[str, object]] = {}


@dataclass(frozen=True, slots=True)
class Allowance:
    """What is allowed. `recorded` goes into the audit trail with the SVID."""

    ttl: timedelta
    owner: Owner | None = None  # None: the identity is no agent's
    recorded: Mapping[str, object] = field(default_factory=lambda: _NOTHING)


class Governor:
    """Judges each SVID before it is signed. Identities that are no agent's pass as they are."""

    def __init__(self, registrations: Registrations, policy: PolicyJudge) -> None:
        self._registrations = registrations
        self._policy = policy

    def allow_x509(
        self, spiffe_id: SpiffeId, ttl: timedelta, now: datetime, attest: Attest | None = None
    ) -> Allowance:
        """Return what an X.509-SVID may be.

        Args:
            spiffe_id: Of its subject.
            ttl: That it would have if nobody owned it.
            now: The instant to judge by.
            attest: What the identity is earned by; None for what an operator mints by hand.

        Raises:
            NotAuthorizedError: The agent is not active.
            PolicyDeniedError: Policy denies it.
        """
        return self._allow(spiffe_id, ttl, "x509_ttl", [_everywhere(spiffe_id)], now, attest)

    def allow_jwt(
        self,
        spiffe_id: SpiffeId,
        ttl: timedelta,
        now: datetime,
        attest: Attest | None = None,
        *,
        audience: Sequence[str],
    ) -> Allowance:
        """Return what a JWT-SVID for an audience may be; the rest as for an X.509-SVID.

        Raises:
            NotAuthorizedError: The agent is not active, or the audience is too long or none of its own.
            PolicyDeniedError: Policy denies one of the audience.
        """
        resources = [Resource(kind="Audience", id=name) for name in audience]
        return self._allow(spiffe_id, ttl, "jwt_ttl", resources, now, attest)

    def check_active(self, spiffe_id: SpiffeId) -> None:
        """Check that an identity is no agent's, or an active one's.

        Raises:
            NotAuthorizedError: It is that of another one.
        """
        agent = self._registrations.agent(spiffe_id)
        if agent is not None and agent.state is not AgentState.ACTIVE:
            raise NotAuthorizedError(f"agent {spiffe_id} is {agent.state}")

    def allow_wit(
        self, spiffe_id: SpiffeId, ttl: timedelta, now: datetime, attest: Attest | None = None
    ) -> Allowance:
        """Return what a WIT-SVID may be; all as for an X.509-SVID.

        Raises:
            NotAuthorizedError: The agent is not active.
            PolicyDeniedError: Policy denies it.
        """
        return self._allow(spiffe_id, ttl, "wit_ttl", [_everywhere(spiffe_id)], now, attest)

    def _allow(
        self,
        spiffe_id: SpiffeId,
        ttl: timedelta,
        lifetime: str,
        resources: Sequence[Resource],
        now: datetime,
        attest: Attest | None,
    ) -> Allowance:
        agent = self._registrations.agent(spiffe_id)
        if agent is None:
            return Allowance(ttl)
        self.check_active(spiffe_id)
        agent_class = self._registrations.agent_class(agent.agent_class)
        own = audiences(agent, agent_class)
        for name in (resource.id for resource in resources if resource.kind == "Audience"):
            if own is not None and name not in own:
                raise NotAuthorizedError(f"audience: {name!r} is not among those of agent {spiffe_id}")
        if len(resources) > MAX_AUDIENCES:
            raise NotAuthorizedError(f"audience: agent {spiffe_id} may name {MAX_AUDIENCES} at once")
        recorded = self._judged(agent, resources, now, attest)
        return Allowance(min(ttl, least(agent, agent_class, lifetime)), agent.owner, recorded)

    def _judged(
        self, agent: Agent, resources: Sequence[Resource], now: datetime, attest: Attest | None
    ) -> dict[str, object]:
        """Ask policy about each resource; return what is recorded of it.

        What was asked is recorded even if there is no policy, so that a first one can be tried on it.
        """
        who = principal_of(agent, now)
        requests = [
            Request(action=SVID, principal=who, resource=resource, at=now, attest=attest)
            for resource in resources
        ]
        asked = requests[0].recorded() | {"resources": [[one.kind, one.id] for one in resources]}
        owner = {"owner": who.owner} | ({"class": who.agent_class} if who.agent_class else {})
        recorded: dict[str, object] = {"agent": owner, "judged": asked}
        judged = [judgement for one in requests if (judgement := self._policy.judge(one)) is not None]
        for judgement in judged:
            if not judgement.decision.allowed:
                said = {"id": str(agent.spiffe_id), **recorded, **_said([judgement])}
                raise PolicyDeniedError(f"agent {agent.spiffe_id}: {judgement.decision.reason}", said)
        return recorded | _said(judged)


def _everywhere(spiffe_id: SpiffeId) -> Resource:
    """Return what is asked about for a credential that counts wherever the trust domain does."""
    return Resource(kind="TrustDomain", id=spiffe_id.trust_domain.name)


def _said(judged: Sequence[Judgement]) -> dict[str, object]:
    """Return what is recorded of judgements of one outcome."""
    if not judged:
        return {}
    first = judged[0]
    ids = sorted({key for judgement in judged for key in judgement.decision.ids})[:MAX_IDS]
    facts = PolicyFacts(bundle=first.decision.bundle, ids=tuple(ids), eval_id=first.eval_id)
    for judgement in judged:
        shadow = judgement.decision.shadow
        if shadow is not None and shadow.allowed != judgement.decision.allowed:
            return {"policy": facts, "shadow": {"allowed": shadow.allowed, "ids": list(shadow.ids)}}
    return {"policy": facts}

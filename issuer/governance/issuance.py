# SPDX-License-Identifier: Apache-2.0
"""What may be signed for an identity, and for how long: the word of whoever owns it."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Final

from issuer.errors import NotAuthorizedError
from issuer.governance.limits import audiences, least
from issuer.model import AgentState, Owner
from issuer.registration import Registrations
from spiffekit.id import SpiffeId

_NOTHING: Final[Mapping[str, object]] = {}


@dataclass(frozen=True, slots=True)
class Allowance:
    """What is allowed. `recorded` goes into the audit trail with the SVID."""

    ttl: timedelta
    owner: Owner | None = None  # None: the identity is no agent's
    recorded: Mapping[str, object] = field(default_factory=lambda: _NOTHING)


class Governor:
    """Judges each SVID before it is signed. Identities that are no agent's pass as they are."""

    def __init__(self, registrations: Registrations) -> None:
        self._registrations = registrations

    def allow_x509(self, spiffe_id: SpiffeId, ttl: timedelta) -> Allowance:
        """Return what an X.509-SVID may be.

        Raises:
            NotAuthorizedError: The agent is not active.
        """
        return self._allow(spiffe_id, ttl, "x509_ttl")

    def allow_jwt(self, spiffe_id: SpiffeId, ttl: timedelta, audience: Sequence[str]) -> Allowance:
        """Return what a JWT-SVID for an audience may be.

        Raises:
            NotAuthorizedError: The agent is not active, or the audience is none of its own.
        """
        return self._allow(spiffe_id, ttl, "jwt_ttl", audience)

    def check_active(self, spiffe_id: SpiffeId) -> None:
        """Check that an identity is no agent's, or an active one's.

        Raises:
            NotAuthorizedError: It is that of another one.
        """
        agent = self._registrations.agent(spiffe_id)
        if agent is not None and agent.state is not AgentState.ACTIVE:
            raise NotAuthorizedError(f"agent {spiffe_id} is {agent.state}")

    def allow_wit(self, spiffe_id: SpiffeId, ttl: timedelta) -> Allowance:
        """Return what a WIT-SVID may be.

        Raises:
            NotAuthorizedError: The agent is not active.
        """
        return self._allow(spiffe_id, ttl, "wit_ttl")

    def _allow(
        self, spiffe_id: SpiffeId, ttl: timedelta, lifetime: str, audience: Sequence[str] = ()
    ) -> Allowance:
        agent = self._registrations.agent(spiffe_id)
        if agent is None:
            return Allowance(ttl)
        self.check_active(spiffe_id)
        agent_class = self._registrations.agent_class(agent.agent_class)
        if (allowed := audiences(agent, agent_class)) is not None:
            for name in audience:
                if name not in allowed:
                    raise NotAuthorizedError(f"audience: {name!r} is not among those of agent {spiffe_id}")
        recorded = {"owner": str(agent.owner)} | ({"class": agent.agent_class} if agent.agent_class else {})
        return Allowance(min(ttl, least(agent, agent_class, lifetime)), agent.owner, {"agent": recorded})

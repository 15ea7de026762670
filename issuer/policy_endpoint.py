# SPDX-License-Identifier: Apache-2.0
"""Where gateways ask for decisions: one maker of decisions behind every protocol that they may ask in."""

import ssl
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from prometheus_client import CollectorRegistry

from issuer.api.authzen import AuthZen
from issuer.api.caller import Callers
from issuer.api.decisions import Decisions
from issuer.config import PolicyEndpointTable
from issuer.governance.policy import PolicyJudge
from issuer.governance.revocation import Revocations
from issuer.registration import Registrations
from issuer.store import Database
from spiffekit.daemon.clock import Clock
from spiffekit.daemon.lifecycle import Service
from spiffekit.daemon.limits import RateLimit


@dataclass(frozen=True, kw_only=True)
class PolicyEndpoint:
    """What the services are made of. `context` gives the TLS context of a connection, of some protocols."""

    table: PolicyEndpointTable
    callers: Callers
    registrations: Registrations
    revocations: Revocations
    judge: PolicyJudge
    database: Database
    clock: Clock
    registry: CollectorRegistry
    context: Callable[[Sequence[str]], ssl.SSLContext]

    def services(self) -> dict[str, Service]:
        """Return the services by name."""
        table = self.table
        decisions = Decisions(
            registrations=self.registrations,
            revocations=self.revocations,
            judge=self.judge,
            database=self.database,
            gateway_limit=self._limit(table.decisions_per_second),
            agent_limit=self._limit(table.agent_decisions_per_second),
            registry=self.registry,
        )
        authzen = AuthZen(
            decisions,
            callers=self.callers,
            registrations=self.registrations,
            clock=self.clock,
            url=table.url,
        )
        return {"authzen": authzen.serve(table, lambda: _demanding(self.context(("http/1.1",))))}

    def _limit(self, per_second: float) -> RateLimit:
        return RateLimit(per_second, per_second * 2, monotonic=self.clock.monotonic)


def _demanding(context: ssl.SSLContext) -> ssl.SSLContext:
    """Let nobody in who shows no certificate."""
    context.verify_mode = ssl.CERT_REQUIRED
    # Before 1.3 sessions can be resumed, and those are refused: they do not say anew who calls.
    context.minimum_version = ssl.TLSVersion.TLSv1_3
    return context

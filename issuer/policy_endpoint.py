# SPDX-License-Identifier: Apache-2.0
"""Where gateways ask for decisions: one maker of decisions behind every protocol that they may ask in."""

import ssl
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial

from prometheus_client import CollectorRegistry

from issuer import server
from issuer.api.authzen import AuthZen
from issuer.api.caller import Callers, Connection
from issuer.api.decisions import Decisions
from issuer.api.dispatch import Metrics
from issuer.api.ext_authz import ExtAuthzService
from issuer.config import PolicyEndpointTable
from issuer.governance.policy import PolicyJudge
from issuer.governance.revocation import Revocations
from issuer.registration import Registrations
from issuer.store import Database
from spiffekit.daemon.clock import Clock
from spiffekit.daemon.lifecycle import Service
from spiffekit.daemon.limits import RateLimit
from spiffekit.daemon.listener import TlsFront
from spiffekit.wire.pb.envoy.service.auth.v3 import external_auth_pb2


@dataclass(frozen=True, kw_only=True)
class PolicyEndpoint:
    """What the services are made of.

    Attributes:
        context: Gives the TLS context of a connection that speaks these protocols.
    """

    table: PolicyEndpointTable
    callers: Callers
    registrations: Registrations
    revocations: Revocations
    judge: PolicyJudge
    database: Database
    clock: Clock
    registry: CollectorRegistry
    metrics: Metrics
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
        found: dict[str, Service] = {}
        if table.authzen_port is not None:
            authzen = AuthZen(decisions, callers=self.callers, clock=self.clock, url=table.url)
            found["authzen"] = authzen.serve(table.address, table.authzen_port, self._web_context)
        if table.ext_authz_port is not None:
            front: TlsFront[Connection] = TlsFront(
                table.address,
                table.ext_authz_port,
                context=self._grpc_context,
                identify=self.callers.identify,
            )
            found["ext_authz"] = partial(
                server.serve,
                [front],
                [
                    (
                        external_auth_pb2.DESCRIPTOR.services_by_name["Authorization"],
                        ExtAuthzService(decisions),
                    )
                ],
                callers=self.callers,
                database=self.database,
                clock=self.clock,
                metrics=self.metrics,
            )
        return found

    def _grpc_context(self) -> ssl.SSLContext:
        context = self.context(("h2",))
        context.verify_mode = ssl.CERT_REQUIRED
        return context

    def _web_context(self) -> ssl.SSLContext:
        context = self.context(("http/1.1",))
        context.verify_mode = ssl.CERT_REQUIRED
        # Before 1.3 sessions can be resumed, and those are refused: they do not say anew who calls.
        context.minimum_version = ssl.TLSVersion.TLSv1_3
        return context

    def _limit(self, per_second: float) -> RateLimit:
        return RateLimit(per_second, per_second * 2, monotonic=self.clock.monotonic)

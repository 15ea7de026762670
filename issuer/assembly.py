# SPDX-License-Identifier: Apache-2.0
"""Where the issuer is put together: the only place that names concrete classes."""

import asyncio
import logging
import ssl
from collections.abc import Callable, Sequence
from typing import Any, NoReturn

from prometheus_client import CollectorRegistry, Gauge

from issuer import server
from issuer.api import status_endpoint
from issuer.api.agents import AgentsService
from issuer.api.audit import AuditService
from issuer.api.audit_reports import AuditReportsService
from issuer.api.bundle import PUBLISHED_AT_ONCE, PUBLISHED_PER_SECOND, BundleService, WitBundleService
from issuer.api.caller import Callers, Connection
from issuer.api.debug import DebugService
from issuer.api.dispatch import Metrics
from issuer.api.entry import EntryService
from issuer.api.explain import ExplainService
from issuer.api.node import NodeService
from issuer.api.policy import PolicyService
from issuer.api.revocation import RevocationService
from issuer.api.svid import SvidService
from issuer.api.updates import UpdatesService
from issuer.api.wit import WitSvidService
from issuer.ca.authorities import Authorities, AuthorityPolicy
from issuer.ca.rotation import Rotation, ServerIdentity
from issuer.changes import ChangeLog
from issuer.config import Config
from issuer.evidence import EvidenceJudge
from issuer.governance.audit_log import AuditLog, load_signer
from issuer.governance.cosigning import RemoteWitness, Witnesses
from issuer.governance.issuance import Governor
from issuer.governance.lifecycle import Caretaker, Lifecycle
from issuer.governance.log_files import LogFiles
from issuer.governance.people import People
from issuer.governance.policy import PolicyJudge
from issuer.governance.policy_bundles import PolicyPublisher
from issuer.governance.revocation import Publisher, Revocations
from issuer.kubernetes import Clusters
from issuer.policy_endpoint import PolicyEndpoint
from issuer.pruning import Pruning
from issuer.registration import Registrations
from issuer.store import Database
from spiffekit.daemon import health as health_server
from spiffekit.daemon import health_service, plugins, systemd
from spiffekit.daemon import logging as logs
from spiffekit.daemon.clock import SystemClock
from spiffekit.daemon.health import Health
from spiffekit.daemon.health_service import HealthService
from spiffekit.daemon.key_files import alone, private_folder
from spiffekit.daemon.kubernetes.client import KubernetesClient
from spiffekit.daemon.lifecycle import run_until_signalled
from spiffekit.daemon.limits import RateLimit
from spiffekit.daemon.listener import TlsFront
from spiffekit.id import SpiffeId, TrustDomain
from spiffekit.transparency.notes import VerifierKey
from spiffekit.wire import tls
from spiffekit.wire.pb.issuer.v1 import (
    agents_pb2,
    audit_pb2,
    audit_reports_pb2,
    explain_pb2,
    policy_pb2,
    revocation_pb2,
    updates_pb2,
)
from spiffekit.wire.pb.spire.api.server.agent.v1 import agent_pb2
from spiffekit.wire.pb.spire.api.server.bundle.v1 import bundle_pb2
from spiffekit.wire.pb.spire.api.server.debug.v1 import debug_pb2
from spiffekit.wire.pb.spire.api.server.entry.v1 import entry_pb2
from spiffekit.wire.pb.spire.api.server.svid.v1 import svid_pb2

logger = logging.getLogger(__name__)


async def run(config: Config) -> None:
    """Run the issuer until a signal comes.

    Raises:
        ConfigError: A plug-in cannot be used as configured.
        StoreError: The database cannot be opened.
    """
    logs.configure(config.issuer.log_level, config.issuer.log_format)
    with alone(private_folder(config.issuer.data_dir), "issuer"):
        issuer = await Issuer.create(config)
        try:
            await run_until_signalled(**issuer.services())
            # What was recorded last: else a copy of the database from before it would pass for all there was.
            await issuer.audit_log.seal()
        finally:
            issuer.database.close()


class Issuer:
    """All parts of one issuer. You get one by `create`."""

    def __init__(self, config: Config, database: Database) -> None:
        table = config.issuer
        self.config = config
        self.clock = SystemClock()
        self.database = database
        self.trust_domain = TrustDomain(table.trust_domain)
        self.registry = CollectorRegistry()
        self.metrics = Metrics(self.registry)
        self.health = Health()
        self.registrations = Registrations(self.trust_domain)
        (keys,) = plugins.load("issuer.keys", config.key_manager, prefix="key_manager.").values()
        self.kubernetes = {n: KubernetesClient(t.access()) for n, t in config.kubernetes.items()}
        self.clusters = Clusters.of(config.kubernetes, self.kubernetes, self.clock)
        self.people = People(config.agents.people, config.agents.people_issuer)
        self.policy = PolicyJudge()
        self.verifiers = plugins.load("issuer.node", config.node_attestor, prefix="node_attestor.")
        policy = AuthorityPolicy(
            ca_ttl=table.ca_ttl,
            ca_key_type=table.ca_key_type,
            jwt_key_type=table.jwt_key_type or table.ca_key_type,
            jwt_issuer=table.jwt_issuer,
            wit=table.wit,
        )
        origin = config.audit.origin or f"{table.trust_domain}/audit"
        signer = load_signer(origin, table.data_dir / "audit-key", config.audit.passphrase_file)
        files = LogFiles(table.data_dir / "audit")
        self.witnesses = Witnesses(
            [
                RemoteWitness(w.url, VerifierKey.parse(w.key), signer.key)
                for w in config.audit.witness.values()
            ],
            self.clock,
        )
        self.audit_log = AuditLog(
            database, files, signer, self.clock, required=config.audit.required, witnesses=self.witnesses
        )
        self.audit = AuditService(database=database, files=files, key=signer.key)
        self.authorities = Authorities(
            self.trust_domain, policy, keys=keys, database=database, clock=self.clock
        )
        self.identity = ServerIdentity(
            self.trust_domain, self.authorities, ttl=table.default_x509_svid_ttl, clock=self.clock
        )

    @classmethod
    async def create(cls, config: Config) -> "Issuer":
        """Open the database, load the registry, and take up the authorities."""
        path = private_folder(config.issuer.data_dir) / "issuer.db"
        database = Database.open(path, clock=SystemClock())
        issuer = cls(config, database)
        registrations = issuer.registrations
        await database.read(
            lambda tx: registrations.load(
                tx.entries.all(),
                tx.nodes.all(),
                tx.bundles.all(),
                agents=tx.agents.all(),
                classes=tx.agents.classes(),
            )
        )
        issuer.log = ChangeLog(await database.read(lambda tx: tx.changes.last()))
        issuer.revocations = Revocations(issuer.trust_domain, registrations)
        issuer.revocations.load(await database.read(lambda tx: tx.revocations.all()))
        endpoint = config.policy_endpoint
        issuer.callers = Callers(
            issuer.trust_domain,
            registrations,
            database=database,
            clock=issuer.clock,
            revocations=issuer.revocations,
            people=issuer.people,
            admin_ids=frozenset(map(SpiffeId.parse, config.issuer.admin_ids)),
            gateway_ids=frozenset() if endpoint is None else endpoint.gateway_ids,
        )
        issuer.publisher = Publisher(issuer.authorities, issuer.revocations, issuer.log, issuer.clock)
        policy = issuer.policy
        await database.read(lambda tx: policy.load(tx.policies.newest(), enforced=tx.policies.enforced()))
        issuer.policy_publisher = PolicyPublisher(
            issuer.trust_domain,
            judge=policy,
            registrations=registrations,
            authorities=issuer.authorities,
            log=issuer.log,
            clock=issuer.clock,
        )
        database.on_commit += [
            registrations.apply,
            issuer.revocations.apply,
            policy.apply,
            issuer.policy_publisher.apply,
            issuer.log.publish,
        ]
        await issuer.authorities.load()
        await issuer.identity.refresh()
        for name, text, read in (
            ("issuer_entries", "Registration entries.", lambda: registrations.count()[0]),
            ("issuer_nodes", "Attested nodes.", lambda: registrations.count()[1]),
            ("issuer_audit_sealed", "Events in the audit log.", lambda: issuer.audit_log.sealed),
            ("issuer_audit_failing", "1 while the log cannot be sealed.", lambda: issuer.audit_log.failing),
            ("issuer_audit_witnesses", "Witnesses of the log's head.", lambda: issuer.witnesses.cosigned),
        ):
            Gauge(name, text, registry=issuer.registry).set_function(read)
        return issuer

    log: ChangeLog
    callers: Callers
    revocations: Revocations
    publisher: Publisher
    policy_publisher: PolicyPublisher

    def services(self) -> dict[str, Any]:
        """Return the services in the order in which they start."""
        table = self.config.issuer
        rotation = Rotation(self.authorities, self.identity, ca_ttl=table.ca_ttl, clock=self.clock)
        pruning = Pruning(
            self.database,
            self.clock,
            nodes_expired_for=table.prune_nodes_expired_for,
            tofu_nodes=table.prune_tofu_nodes,
        )
        agents = self.config.agents
        caretaker = Caretaker(
            self.database,
            self.people,
            self.clock,
            orphan_grace=agents.orphan_grace,
            review_grace=agents.review_grace,
        )
        services: dict[str, Any] = {
            "audit": self.audit_log.run,  # first: what is contradicted here, nothing may be added to
            "rotation": rotation.run,
            "pruning": pruning.run,
            "caretaker": caretaker.run,
            "publisher": self.publisher.run,
            "policies": self.policy_publisher.run,
        }
        if self.kubernetes:
            services["kubernetes"] = self.clusters.run
        services["api"] = self._serve
        if self.config.status_endpoint is not None:
            services["status"] = status_endpoint.serve(
                self.config.status_endpoint, self.publisher, self._web_context
            )
        if (endpoint := self.config.policy_endpoint) is not None:
            services |= PolicyEndpoint(
                table=endpoint,
                callers=self.callers,
                registrations=self.registrations,
                revocations=self.revocations,
                judge=self.policy,
                database=self.database,
                clock=self.clock,
                registry=self.registry,
                metrics=self.metrics,
                context=self._tls_context,
            ).services()
        if table.health_address is not None:
            services["health"] = health_server.serve(
                table.health_address, table.health_port, self.health, self.registry
            )
        services["announce"] = self._announce
        return services

    async def _announce(self, ready: Callable[[], None]) -> NoReturn:
        table = self.config.issuer
        self.health.ready = True
        systemd.notify("READY=1")
        logger.info(
            "issuer is ready",
            extra={
                "trust_domain": table.trust_domain,
                "address": f"{table.bind_address}:{table.bind_port}",
                "admin_socket": str(table.admin_socket),
            },
        )
        ready()
        try:
            await asyncio.Event().wait()
        finally:
            self.health.ready = False
            systemd.notify("STOPPING=1")
        raise AssertionError("waits for ever")

    async def _serve(self, ready: Callable[[], None]) -> NoReturn:
        """Serve the TCP port and the admin socket."""
        table = self.config.issuer
        remote: TlsFront[Connection] = TlsFront(
            table.bind_address,
            table.bind_port,
            context=self._tls_context,
            identify=self.callers.identify,
        )
        await server.serve(
            [remote, server.admin_front(table.admin_socket)],
            self._spires() + self._ours(self.callers),
            ready,
            callers=self.callers,
            database=self.database,
            clock=self.clock,
            metrics=self.metrics,
        )

    def _web_context(self) -> ssl.SSLContext:
        """Return the context of one connection of the status endpoint, where nobody shows a certificate."""
        context = tls.server_context(self.identity.x509_svid(), (), alpn=("http/1.1",))
        context.verify_mode = ssl.CERT_NONE
        return context

    def _tls_context(self, alpn: Sequence[str] = ("h2",)) -> ssl.SSLContext:
        """Return the context of one connection: our SVID now, and the roots of whoever has one."""
        roots = [a.certificate_der for b in self.registrations.bundles() for a in b.x509_authorities]
        return tls.server_context(self.identity.x509_svid(), roots, alpn=alpn)

    def _limit(self, per_second: float, at_once: float) -> RateLimit:
        return RateLimit(per_second, at_once, monotonic=self.clock.monotonic)

    def _spires(self) -> list[tuple[Any, object]]:
        """Return the services of SPIRE's API and of gRPC, each with its descriptor."""
        table = self.config.issuer
        common: dict[str, Any] = {"database": self.database, "registrations": self.registrations}
        attest = self._limit(table.attestations_per_second, max(table.attestations_per_second * 10, 10))
        sign = self._limit(table.signatures_per_second, max(table.signatures_per_second * 2, 1000))
        node = NodeService(
            self.trust_domain,
            **common,
            authorities=self.authorities,
            verifiers=self.verifiers,
            node_svid_ttl=table.node_svid_ttl or table.default_x509_svid_ttl,
            attest_limit=attest,
            clusters=self.kubernetes,
        )
        signing: dict[str, Any] = {
            **common,
            "authorities": self.authorities,
            "x509_svid_ttl": table.default_x509_svid_ttl,
            "jwt_svid_ttl": table.default_jwt_svid_ttl,
            "sign_limit": sign,
            "judge": EvidenceJudge(self.clusters if self.kubernetes else None),
            "governor": Governor(self.registrations, self.policy),
        }
        svid = (
            WitSvidService(self.trust_domain, wit_svid_ttl=table.default_wit_svid_ttl, **signing)
            if table.wit
            else SvidService(self.trust_domain, **signing)
        )
        bundle = (WitBundleService if table.wit else BundleService)(
            self.trust_domain,
            **common,
            publish_limit=self._limit(PUBLISHED_PER_SECOND, PUBLISHED_AT_ONCE),
        )
        debug = DebugService(registrations=self.registrations, identity=self.identity, clock=self.clock)
        return [
            (agent_pb2.DESCRIPTOR.services_by_name["Agent"], node),
            (bundle_pb2.DESCRIPTOR.services_by_name["Bundle"], bundle),
            (entry_pb2.DESCRIPTOR.services_by_name["Entry"], EntryService(self.trust_domain, **common)),
            (svid_pb2.DESCRIPTOR.services_by_name["SVID"], svid),
            (debug_pb2.DESCRIPTOR.services_by_name["Debug"], debug),
            (health_service.SERVICE, HealthService(self.health)),
        ]

    def _ours(self, callers: Callers) -> list[tuple[Any, object]]:
        """Return the services that SPIRE has not, each with its descriptor."""
        common: dict[str, Any] = {"database": self.database, "registrations": self.registrations}
        updates = UpdatesService(
            self.trust_domain,
            registrations=self.registrations,
            log=self.log,
            callers=callers,
            publisher=self.publisher,
            policies=self.policy_publisher,
            clock=self.clock,
            epoch=self.database.epoch,
        )
        agents = AgentsService(self.trust_domain, **common, lifecycle=Lifecycle(self.people))
        revocation = RevocationService(
            self.trust_domain,
            database=self.database,
            revocations=self.revocations,
            publisher=self.publisher,
            authorities=self.authorities,
        )
        policy = PolicyService(
            self.trust_domain, **common, judge=self.policy, publisher=self.policy_publisher
        )
        explain = ExplainService(self.trust_domain, registrations=self.registrations)
        per_second = self.config.audit.reports_per_second
        limit = self._limit(per_second, per_second * 100)
        reports = AuditReportsService(self.trust_domain, **common, limit=limit)
        return [
            (updates_pb2.DESCRIPTOR.services_by_name["Updates"], updates),
            (explain_pb2.DESCRIPTOR.services_by_name["Explain"], explain),
            (agents_pb2.DESCRIPTOR.services_by_name["Agents"], agents),
            (policy_pb2.DESCRIPTOR.services_by_name["Policy"], policy),
            (revocation_pb2.DESCRIPTOR.services_by_name["Revocation"], revocation),
            (audit_pb2.DESCRIPTOR.services_by_name["Audit"], self.audit),
            (audit_reports_pb2.DESCRIPTOR.services_by_name["AuditReports"], reports),
        ]

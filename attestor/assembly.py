# SPDX-License-Identifier: Apache-2.0
"""Where the attestor is put together: the only place that names concrete classes."""

import asyncio
import contextlib
import logging
from collections.abc import AsyncIterator, Callable
from importlib.metadata import version
from pathlib import Path
from typing import Any, Final, NoReturn

import grpc
from prometheus_client import CollectorRegistry

from attestor import metrics
from attestor.cache import Cache
from attestor.config import Config
from attestor.connection import Credentials
from attestor.endpoints import health as health_endpoint
from attestor.endpoints.admin import Admin
from attestor.endpoints.admission import Admission
from attestor.endpoints.reflection import Reflection
from attestor.endpoints.refusals import Refusals
from attestor.endpoints.signer import Signer
from attestor.endpoints.verifications import Verifications
from attestor.endpoints.watch import Policies, Status
from attestor.endpoints.wit import WitProfile
from attestor.endpoints.workload_api import WorkloadApi
from attestor.instances import Instances
from attestor.issuer_client import IssuerClient
from attestor.jwt import JwtCache
from attestor.peer import Process
from attestor.policies import PolicyShelf
from attestor.reporting import Reporting
from attestor.reports import Reports
from attestor.rotation import Rotation
from attestor.session import NodeSession
from attestor.spool import Spool
from attestor.state import StateFile
from attestor.sync import Sync
from attestor.wit import WitSvids
from attestor.workload import Configured, Following
from attestor.workload.examination import Examiner
from attestor.workload.external import ExternalAttestor
from spiffekit.bundle import Bundle
from spiffekit.daemon import health as health_server
from spiffekit.daemon import logging as logs
from spiffekit.daemon import plugins, systemd
from spiffekit.daemon.clock import SystemClock
from spiffekit.daemon.config import ConfigError
from spiffekit.daemon.health import Health
from spiffekit.daemon.health_service import HealthService
from spiffekit.daemon.lifecycle import run_until_signalled
from spiffekit.daemon.listener import UnixFront, inner_socket, server_options
from spiffekit.daemon.peer import PeerProcess
from spiffekit.errors import SpiffeError
from spiffekit.id import SpiffeId, TrustDomain

logger = logging.getLogger(__name__)

MAX_REQUEST: Final = 128 * 1024  # bytes: a token to validate is the largest
DRAIN: Final = 1.0  # seconds; streams are ended, and clients come back
ADMIN_MODE: Final = 0o770
ADMIN_FOLDER_MODE: Final = 0o750
SOCKET_MODE: Final = 0o777  # open to all on purpose: the caller is known by the kernel's word


async def run(config: Config) -> None:
    """Run the attestor until a signal comes.

    Raises:
        ConfigError: A plug-in or the trust bundle cannot be used as configured.
        NodeAttestationError: The issuer refused this node.
    """
    table = config.attestor
    logs.configure(table.log_level, table.log_format)
    attestor = Attestor(config)
    async with IssuerClient.open(
        table.issuer_address, table.issuer_port, attestor.trust_domain, Credentials(), attestor.clock
    ) as client:
        reporting = Reporting(client, attestor.spool, attestor.clock)
        try:
            await run_until_signalled(**attestor.services(client), reporting=reporting.run)
        finally:
            await reporting.close()


class Attestor:
    """All parts of one attestor."""

    def __init__(self, config: Config) -> None:
        self.config = config
        self.clock = SystemClock()
        self.trust_domain = TrustDomain(config.attestor.trust_domain)
        self.registry = CollectorRegistry()
        self.health = Health()
        self.cache = Cache(self.trust_domain)
        self.spool = Spool(self.clock, enabled=config.attestor.report)
        self.reports = Reports(self.spool, self.clock)
        self.refusals = Refusals(self.clock, self.reports)
        (self.node_attestor,) = plugins.load(
            "attestor.node", config.node_attestor, prefix="node_attestor."
        ).values()
        (self.keys,) = plugins.load("attestor.keys", config.key_manager, prefix="key_manager.").values()
        self.attestors = self._workload_attestors(config)
        observe = metrics.times_of_attestation(self.registry)
        self.examiner = Examiner(
            self.attestors, self.clock, observe=observe, changed=self.reports.posture_changed
        )
        self.bootstrap()  # a mistake in it is told at once

    def _workload_attestors(self, config: Config) -> list[Configured]:
        attestors = plugins.load("attestor.workload", config.own_options(), prefix="workload_attestor.")
        for name, table in config.external().items():
            attestors[name] = ExternalAttestor(name, table, self.trust_domain, self.clock)
        options = {name: config.common_options(name) for name in attestors}
        return [
            Configured(attestor, options[name].required, options[name].timeout)
            for name, attestor in attestors.items()
        ]

    def bootstrap(self) -> Bundle | None:
        """Read what the first contact with the issuer trusts; None: whoever names the issuer's ID.

        Raises:
            ConfigError: It cannot be read.
        """
        table = self.config.attestor
        if table.trust_bundle_path is None:
            return None
        try:
            document = table.trust_bundle_path.read_bytes()
            if table.trust_bundle_format == "pem":
                return Bundle.from_pem(self.trust_domain, document)
            return Bundle.parse(self.trust_domain, document)
        except OSError as error:
            raise ConfigError(
                f"attestor.trust_bundle_path: {table.trust_bundle_path}: {error.strerror}"
            ) from error
        except SpiffeError as error:
            raise ConfigError(f"attestor.trust_bundle_path: {table.trust_bundle_path}: {error}") from error

    def services(self, client: IssuerClient) -> dict[str, Any]:
        """Return the services in the order in which they start."""
        table = self.config.attestor
        self.reports.started(version("spiffe-attestor"))
        session = NodeSession(
            client,
            self.node_attestor,
            keys=self.keys,
            state=StateFile(table.data_dir, self.trust_domain),
            bootstrap=self.bootstrap,
            rebootstrap=table.rebootstrap == "auto",
            clock=self.clock,
        )

        async def node(ready: Callable[[], None]) -> NoReturn:
            await session.start()
            await session.run(ready)

        instances = Instances(client, self.cache, self.clock)
        sync = Sync(
            client,
            session,
            self.cache,
            instances=instances,
            clock=self.clock,
            poll_every=table.sync_interval,
        )
        rotation = Rotation(client, self.cache, clock=self.clock)
        services: dict[str, Any] = {}
        if table.health_address is not None:
            services["health"] = health_server.serve(
                table.health_address, table.health_port, self.health, self.registry
            )
        services |= {"node": node, "sync": sync.run, "rotation": rotation.run}
        for one in self.attestors:
            if isinstance(one.attestor, Following):
                services[f"workload_attestor.{one.attestor.type}"] = one.attestor.run
        if table.admin_socket is not None:
            services["admin"] = self._admin(table.admin_socket, session)
        jwt = JwtCache(client, self.cache, self.clock)
        front: UnixFront[Process] = UnixFront(table.socket_path, mode=SOCKET_MODE, identify=Process.of)
        admission = Admission(front.peer_of, self.clock)
        wit = WitSvids(client, self.cache, self.clock)
        services["workload_api"] = self._workload_api(front, admission, jwt, instances, wit, sync.policies)
        parts = metrics.Parts(
            clock=self.clock,
            cache=self.cache,
            session=session,
            sync=sync,
            rotation=rotation,
            instances=instances,
            jwt=jwt,
            wit=wit,
            admission=admission,
            examiner=self.examiner,
            spool=self.spool,
        )
        self.registry.register(parts)
        return services

    def _admin(self, path: Path, session: NodeSession) -> Any:
        def node_id() -> SpiffeId | None:
            return session.svid.spiffe_id if session.svid is not None else None

        admin = Admin(self.cache, self.examiner, self.refusals, node_id)

        async def service(ready: Callable[[], None]) -> NoReturn:
            if not path.parent.exists():
                path.parent.mkdir(mode=ADMIN_FOLDER_MODE, parents=True)
                path.parent.chmod(ADMIN_FOLDER_MODE)  # whatever the umask says
            front: UnixFront[PeerProcess] = UnixFront(path, mode=ADMIN_MODE, identify=lambda peer: peer)
            health = health_endpoint.handler(HealthService(self.health))
            async with serving(front, admin.handler(), health):
                ready()
                await asyncio.Event().wait()
            raise AssertionError("waits for ever")

        return service

    def _workload_api(
        self,
        front: UnixFront[Process],
        admission: Admission,
        jwt: JwtCache,
        instances: Instances,
        wit: WitSvids,
        policies: PolicyShelf,
    ) -> Any:
        table = self.config.attestor
        common: dict[str, Any] = {
            "admission": admission,
            "refusals": self.refusals,
            "reports": self.reports,
            "clock": self.clock,
        }

        async def service(ready: Callable[[], None]) -> NoReturn:
            table.socket_path.parent.mkdir(mode=0o755, parents=True, exist_ok=True)
            api = WorkloadApi(
                self.cache,
                self.examiner,
                jwt,
                instances,
                **common,
                foreign_claims=table.allowed_foreign_jwt_claims,
                unauthenticated_verifiers=table.allow_unauthenticated_verifiers,
                wit=WitProfile(instances, wit, export=table.wit_export) if table.wit else None,
            )
            others: list[Any] = [
                Status(self.cache, admission),
                Policies(policies, admission),
                Verifications(self.cache, self.examiner, **common),
                Reflection(admission),
            ]
            if table.wit:
                others.append(Signer(self.cache, self.examiner, instances, wit, **common))
            handlers = [api.handler(), *(other.handler() for other in others)]
            async with serving(front, *handlers):
                self._announce()
                ready()
                try:
                    await asyncio.Event().wait()
                finally:
                    self.health.ready = False
                    systemd.notify("STOPPING=1")
                    instances.close()
            raise AssertionError("waits for ever")

        return service

    def _announce(self) -> None:
        self.health.ready = True
        systemd.notify("READY=1")
        logger.info(
            "attestor is ready",
            extra={"socket": str(self.config.attestor.socket_path), "entries": len(self.cache.entries)},
        )


@contextlib.asynccontextmanager
async def serving(front: UnixFront[Any], *handlers: grpc.GenericRpcHandler) -> AsyncIterator[None]:
    """Serve handlers behind a listener."""
    async with contextlib.AsyncExitStack() as stack:
        inner = stack.enter_context(inner_socket())
        server = grpc.aio.server(options=server_options(MAX_REQUEST))
        server.add_generic_rpc_handlers(handlers)
        server.add_insecure_port(f"unix:{inner}")
        await server.start()
        stack.push_async_callback(server.stop, DRAIN)
        await stack.enter_async_context(front.open(inner))
        yield

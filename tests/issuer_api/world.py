# SPDX-License-Identifier: Apache-2.0
"""An issuer put together as its assembly does it, on a clock that tests move."""

import asyncio
import contextlib
from dataclasses import replace
from datetime import timedelta
from functools import partial

import grpc
import sqlalchemy as sa
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from prometheus_client import CollectorRegistry

from issuer.api.agents import AgentsService
from issuer.api.audit import AuditService
from issuer.api.audit_reports import AuditReportsService
from issuer.api.bundle import BundleService, WitBundleService
from issuer.api.caller import Callers, local_connection
from issuer.api.debug import DebugService
from issuer.api.decisions import Decisions
from issuer.api.dispatch import Dispatcher, Metrics
from issuer.api.entry import EntryService
from issuer.api.explain import ExplainService
from issuer.api.ext_authz import ExtAuthzService
from issuer.api.node import NodeService
from issuer.api.policy import PolicyService
from issuer.api.revocation import RevocationService
from issuer.api.svid import SvidService
from issuer.api.updates import UpdatesService
from issuer.api.wit import WitSvidService
from issuer.ca.authorities import Authorities, AuthorityPolicy
from issuer.ca.rotation import ServerIdentity
from issuer.changes import ChangeLog
from issuer.evidence import EvidenceJudge
from issuer.governance.audit_log import AuditLog, load_signer
from issuer.governance.issuance import Governor
from issuer.governance.lifecycle import Lifecycle
from issuer.governance.log_files import LogFiles
from issuer.governance.people import People
from issuer.governance.policy import PolicyJudge
from issuer.governance.policy_bundles import PolicyPublisher
from issuer.governance.revocation import Publisher, Revocations
from issuer.keys.memory import MemoryKeyManager
from issuer.model import Node, RegistrationEntry
from issuer.node.join_token import JoinTokenVerifier
from issuer.registration import Registrations
from issuer.store import Database
from issuer.store.schema import join_tokens
from spiffekit.daemon import health_service
from spiffekit.daemon.health import Health
from spiffekit.daemon.health_service import HealthService
from spiffekit.daemon.limits import RateLimit
from spiffekit.daemon.listener import TlsFront, UnixFront, inner_socket, server_options
from spiffekit.id import SpiffeId, TrustDomain
from spiffekit.keys import private_key_to_der, public_key_to_der
from spiffekit.selector import Selector
from spiffekit.wire import tls
from spiffekit.wire.pb.envoy.service.auth.v3 import external_auth_pb2
from spiffekit.wire.pb.issuer.v1 import (
    agents_pb2,
    audit_pb2,
    audit_reports_pb2,
    explain_pb2,
    policy_pb2,
    revocation_pb2,
    updates_pb2,
)
from spiffekit.wire.pb.spire.api import types_pb2
from spiffekit.wire.pb.spire.api.server.agent.v1 import agent_pb2
from spiffekit.wire.pb.spire.api.server.bundle.v1 import bundle_pb2
from spiffekit.wire.pb.spire.api.server.debug.v1 import debug_pb2
from spiffekit.wire.pb.spire.api.server.entry.v1 import entry_pb2
from spiffekit.wire.pb.spire.api.server.svid.v1 import svid_pb2
from spiffekit.x509svid import X509Svid

TRUST_DOMAIN = TrustDomain("example.org")
SERVICES = {
    "agent": agent_pb2.DESCRIPTOR.services_by_name["Agent"],
    "bundle": bundle_pb2.DESCRIPTOR.services_by_name["Bundle"],
    "entry": entry_pb2.DESCRIPTOR.services_by_name["Entry"],
    "svid": svid_pb2.DESCRIPTOR.services_by_name["SVID"],
    "debug": debug_pb2.DESCRIPTOR.services_by_name["Debug"],
    "health": health_service.SERVICE,
    "authorization": external_auth_pb2.DESCRIPTOR.services_by_name["Authorization"],
    "audit": audit_pb2.DESCRIPTOR.services_by_name["Audit"],
    "audit_reports": audit_reports_pb2.DESCRIPTOR.services_by_name["AuditReports"],
    "agents": agents_pb2.DESCRIPTOR.services_by_name["Agents"],
    "policy": policy_pb2.DESCRIPTOR.services_by_name["Policy"],
    "revocation": revocation_pb2.DESCRIPTOR.services_by_name["Revocation"],
    "explain": explain_pb2.DESCRIPTOR.services_by_name["Explain"],
    "updates": updates_pb2.DESCRIPTOR.services_by_name["Updates"],
}
MAX_REQUEST = 4 * 1024 * 1024
MANY = 1e9
HOUR = timedelta(hours=1)


def spiffe_id(path):
    return SpiffeId(TRUST_DOMAIN, path)


def id_message(path, trust_domain="example.org"):
    return types_pb2.SPIFFEID(trust_domain=trust_domain, path=path)


def csr(key=None, builder=None):
    """A PKCS#10 request, DER: nothing but a key, as attestors send it."""
    builder = builder or x509.CertificateSigningRequestBuilder().subject_name(x509.Name([]))
    signed = builder.sign(key or ec.generate_private_key(ec.SECP256R1()), hashes.SHA256())
    return signed.public_bytes(serialization.Encoding.DER)


class World:
    """You get one by `open`. `options` are those of the services."""

    def __init__(self, clock, database, **options):
        self.clock = clock
        self.database = database
        self.options = options
        self.registrations = Registrations(TRUST_DOMAIN)
        self.people = options.get("people", People(None))
        self.health = Health()
        self.registry = CollectorRegistry()
        self.authorities = Authorities(
            TRUST_DOMAIN,
            AuthorityPolicy(ca_ttl=options.get("ca_ttl", timedelta(hours=24)), wit=options.get("wit", False)),
            keys=MemoryKeyManager(),
            database=database,
            clock=clock,
        )
        self.identity = ServerIdentity(TRUST_DOMAIN, self.authorities, ttl=timedelta(hours=1), clock=clock)
        self.verifiers = {"join_token": JoinTokenVerifier(), **options.get("verifiers", {})}

    @classmethod
    @contextlib.asynccontextmanager
    async def open(cls, folder, clock, **options):
        database = Database.open(folder / "issuer.db", clock=clock)
        try:
            world = cls(clock, database, **options)
            known = world.registrations
            await database.read(
                lambda tx: known.load(
                    tx.entries.all(),
                    tx.nodes.all(),
                    tx.bundles.all(),
                    agents=tx.agents.all(),
                    classes=tx.agents.classes(),
                )
            )
            last = await database.read(lambda tx: tx.changes.last())
            world.log = ChangeLog(last, kept=options.get("kept", 10_000))
            world.revocations = Revocations(TRUST_DOMAIN, known)
            world.publisher = Publisher(world.authorities, world.revocations, world.log, clock)
            world.policy = policy = PolicyJudge()
            await database.read(lambda tx: policy.load(tx.policies.newest(), enforced=tx.policies.enforced()))
            world.policies = PolicyPublisher(
                TRUST_DOMAIN, judge=policy, registrations=known, authorities=world.authorities, log=world.log,
                clock=clock,
            )  # fmt: skip
            database.on_commit += [
                known.apply, world.revocations.apply, policy.apply, world.policies.apply, world.log.publish,
            ]  # fmt: skip
            await world.authorities.load()
            await world.identity.refresh()
            async with contextlib.AsyncExitStack() as stack:
                world.stack = stack
                await world._serve(folder)
                yield world
        finally:
            database.close()

    async def _serve(self, folder):
        self.socket = folder / "api.sock"
        self.audit_files = LogFiles(folder / "audit")
        self.audit_signer = load_signer("example.org/audit", folder / "audit-key")
        self.callers = Callers(
            TRUST_DOMAIN,
            self.registrations,
            database=self.database,
            clock=self.clock,
            revocations=self.revocations,
            people=self.people,
            admin_ids=self.options.get("admin_ids", frozenset()),
            gateway_ids=self.options.get("gateway_ids", frozenset()),
        )
        self.remote = TlsFront(
            "127.0.0.1",
            0,
            context=self.tls_context,
            identify=self.callers.identify,
        )
        self.services = self._services()
        metrics = Metrics(self.registry)
        for front in (self.remote, UnixFront(self.socket, mode=0o770, identify=local_connection)):
            dispatcher = Dispatcher(
                self.callers,
                connection_of=front.peer_of,
                database=self.database,
                clock=self.clock,
                metrics=metrics,
            )
            handlers = [dispatcher.handler(SERVICES[name], made) for name, made in self.services.items()]
            inner = self.inner = self.stack.enter_context(inner_socket())
            server = grpc.aio.server(options=server_options(MAX_REQUEST))
            server.add_generic_rpc_handlers(tuple(handlers))
            server.add_insecure_port(f"unix:{inner}")
            await server.start()
            self.stack.push_async_callback(server.stop, 0)
            await self.stack.enter_async_context(front.open(inner))

    def tls_context(self, alpn=("h2",)):
        roots = [a.certificate_der for b in self.registrations.bundles() for a in b.x509_authorities]
        return tls.server_context(self.identity.x509_svid(), roots, alpn=alpn)

    def _services(self):
        common = {"database": self.database, "registrations": self.registrations}
        limits = {
            name: RateLimit(*self.options.get(name, (MANY, MANY)), monotonic=self.clock.monotonic)
            for name in (
                "attest_limit",
                "sign_limit",
                "report_limit",
                "publish_limit",
                "gateway_limit",
                "agent_limit",
            )
        }
        return {
            "agent": NodeService(
                TRUST_DOMAIN,
                **common,
                authorities=self.authorities,
                verifiers=self.verifiers,
                node_svid_ttl=timedelta(hours=1),
                attest_limit=limits["attest_limit"],
                **{k: self.options[k] for k in ("attest_within",) if k in self.options},
            ),
            "bundle": (WitBundleService if self.options.get("wit") else BundleService)(
                TRUST_DOMAIN, **common, publish_limit=limits["publish_limit"]
            ),
            "entry": EntryService(TRUST_DOMAIN, **common),
            "svid": (partial(WitSvidService, wit_svid_ttl=HOUR) if self.options.get("wit") else SvidService)(
                TRUST_DOMAIN,
                **common,
                authorities=self.authorities,
                x509_svid_ttl=timedelta(hours=1),
                jwt_svid_ttl=timedelta(minutes=5),
                sign_limit=limits["sign_limit"],
                judge=EvidenceJudge(self.options.get("pods")),
                governor=Governor(self.registrations, self.policy),
            ),
            "policy": PolicyService(TRUST_DOMAIN, **common, judge=self.policy, publisher=self.policies),
            "revocation": RevocationService(
                TRUST_DOMAIN,
                database=self.database,
                revocations=self.revocations,
                publisher=self.publisher,
                authorities=self.authorities,
            ),
            "agents": AgentsService(TRUST_DOMAIN, **common, lifecycle=Lifecycle(self.people)),
            "audit": AuditService(database=self.database, files=self.audit_files, key=self.audit_signer.key),
            "audit_reports": AuditReportsService(TRUST_DOMAIN, **common, limit=limits["report_limit"]),
            "debug": DebugService(registrations=self.registrations, identity=self.identity, clock=self.clock),
            "health": HealthService(self.health),
            "authorization": ExtAuthzService(
                Decisions(
                    **common,
                    revocations=self.revocations,
                    judge=self.policy,
                    gateway_limit=limits["gateway_limit"],
                    agent_limit=limits["agent_limit"],
                    registry=self.registry,
                )
            ),
            "explain": ExplainService(TRUST_DOMAIN, registrations=self.registrations),
            "updates": UpdatesService(
                TRUST_DOMAIN,
                registrations=self.registrations,
                log=self.log,
                callers=self.callers,
                publisher=self.publisher,
                policies=self.policies,
                clock=self.clock,
                epoch=self.database.epoch,
                **{k: self.options[k] for k in ("heartbeat", "remembered") if k in self.options},
            ),
        }

    # Callers of every kind.

    async def local(self):
        """A channel to the admin socket."""
        options = [("grpc.default_authority", "localhost"), ("grpc.use_local_subchannel_pool", 1)]
        channel = grpc.aio.insecure_channel(f"unix:{self.socket}", options=options)
        return await self.stack.enter_async_context(channel)

    async def dial(self, svid=None, source="127.0.0.1"):
        """A channel to the TCP port, with the certificate of `svid` or with none."""
        tunnel = tls.Tunnel(lambda: self.open_tls(svid, source))
        target = await self.stack.enter_async_context(tunnel.open())
        options = [("grpc.default_authority", "localhost"), ("grpc.use_local_subchannel_pool", 1)]
        return await self.stack.enter_async_context(grpc.aio.insecure_channel(target, options=options))

    async def open_tls(self, svid=None, source="127.0.0.1"):
        """A TLS connection to the TCP port."""
        roots = [a.certificate_der for a in self.registrations.bundle(TRUST_DOMAIN).x509_authorities]
        return await asyncio.open_connection(
            "127.0.0.1",
            self.remote.port,
            ssl=tls.client_context(svid, roots),
            server_hostname="issuer",
            local_addr=(source, 0),
        )

    async def sign(self, path, **changes):
        """An SVID of ours."""
        key = ec.generate_private_key(ec.SECP256R1())
        wanted = {"ttl": timedelta(hours=1), "now": self.clock.now(), **changes}
        issued = await self.authorities.x509.sign(
            spiffe_id(path), public_key_to_der(key.public_key()), **wanted
        )
        return X509Svid(spiffe_id(path), issued.chain_der, private_key_to_der(key))

    def node_of(self, svid, *, selectors=(), **changes):
        """The node that has this SVID."""
        fields = {
            "id": svid.spiffe_id,
            "attestation_type": "test",
            "serial": str(svid.serial_number),
            "expires_at": svid.expires_at,
            "selectors": frozenset(map(Selector.parse, selectors)),
        }
        return Node(**fields | changes)

    async def node(self, name="n1", **changes):
        """The SVID of an attested node."""
        svid = await self.sign(f"/spire/agent/test/{name}")
        node = self.node_of(svid, **changes)
        await self.database.write(lambda tx: tx.nodes.put(node))
        return svid

    async def renewed(self, svid):
        """A renewed SVID of a node, not used yet."""
        fresh = await self.sign(svid.spiffe_id.path)
        node = self.registrations.node(svid.spiffe_id)
        node = replace(node, new_serial=str(fresh.serial_number), new_expires_at=fresh.expires_at)
        await self.database.write(lambda tx: tx.nodes.put(node))
        return fresh

    def made(self, path, *, parent="/spire/agent/test/n1", selectors=("unix:uid:1000",), **changes):
        """An entry that is not in the registry yet; its ID is made of its path."""
        fixed = {
            "id": path.strip("/").replace("/", "-"),
            "created_at": self.clock.now(),
            "spiffe_id": spiffe_id(path),
        }
        return RegistrationEntry(
            parent_id=spiffe_id(parent),
            selectors=frozenset(map(Selector.parse, selectors)),
            **(fixed | changes),
        )

    async def entry(self, path, **fields):
        """An entry in the registry."""
        entry = self.made(path, **fields)
        return await self.database.write(lambda tx: tx.entries.create(entry))

    async def large_entries(self, count):
        """The IDs of entries of 800 kB, which is about as large as one can be."""
        names = [f"l{number:03}" for number in range(count)]

        def act(tx):
            for name in names:
                tx.entries.create(
                    self.made(f"/{name}", selectors=[f"t:{i:02}{'x' * 8000}" for i in range(100)])
                )

        await self.database.write(act)
        return names

    async def trail(self):
        """The audit trail, without what the making of this world left in it."""
        return [record for _, record in await self.database.read(lambda tx: tx.audit.since(0, 10_000))]

    async def tokens(self):
        """The values of all join tokens."""
        query = sa.select(join_tokens.c.value)
        return await self.database.read(lambda tx: list(tx._connection.execute(query).scalars()))

    async def seal(self):
        """Seal what was recorded in the audit log."""
        log = AuditLog(self.database, self.audit_files, self.audit_signer, self.clock, required=True)
        await log.seal()

    async def lose_the_trail(self):
        """Break the database in such a way that nothing can be recorded any longer."""
        rename = "ALTER TABLE audit RENAME TO lost"
        await self.database.write(lambda tx: tx._connection.exec_driver_sql(rename))

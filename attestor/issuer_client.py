# SPDX-License-Identifier: Apache-2.0
"""The only caller of the issuer's API. It knows the issuer by SPIFFE ID, never by name."""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable, Iterator, Mapping, Sequence
from contextlib import AbstractAsyncContextManager
from datetime import timedelta
from typing import Any, Final

import grpc
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from attestor.cache import Entry
from attestor.connection import Credentials, dial
from attestor.denials import denial_reason
from attestor.errors import (
    AttestorError,
    IssuerUnavailableError,
    IssuerUntrustedError,
    MustReattestError,
    NodeAttestationError,
    NodeBannedError,
    ReportRejectedError,
    WitUnsupportedError,
)
from attestor.listing import send, sync
from attestor.node import NodeAttestor, Releasing
from attestor.updates import Update, bundles_from_proto, update_from_proto
from spiffekit.bundle import Bundle
from spiffekit.daemon.clock import Clock
from spiffekit.daemon.listener import FIXED_WINDOW
from spiffekit.errors import SpiffeError
from spiffekit.evidence import Evidence
from spiffekit.id import TrustDomain
from spiffekit.wire import tls
from spiffekit.wire.convert import bundle_from_proto
from spiffekit.wire.evidence import evidence_to_proto
from spiffekit.wire.pb.issuer.v1 import (
    audit_reports_pb2,
    audit_reports_pb2_grpc,
    updates_pb2,
    updates_pb2_grpc,
)
from spiffekit.wire.pb.spire.api import types_pb2
from spiffekit.wire.pb.spire.api.server.agent.v1 import agent_pb2, agent_pb2_grpc
from spiffekit.wire.pb.spire.api.server.bundle.v1 import bundle_pb2, bundle_pb2_grpc
from spiffekit.wire.pb.spire.api.server.entry.v1 import entry_pb2_grpc
from spiffekit.wire.pb.spire.api.server.svid.v1 import svid_pb2, svid_pb2_grpc

DEADLINE: Final = 30.0  # seconds of a call
CLOSE_AFTER: Final = 5.0  # seconds
MAX_MESSAGE: Final = 64 * 1024 * 1024  # bytes; what the issuer pushes is bounded by its chunks
_REATTEST: Final = frozenset((1, 2, 3, 5))  # EXPIRED, NOT_ATTESTED, NOT_ACTIVE, MUST_REATTEST
_BANNED: Final = 4
_REQUEST: Final = x509.CertificateSigningRequestBuilder().subject_name(
    x509.Name(
        [
            x509.NameAttribute(NameOID.COUNTRY_NAME, "US"),
            x509.NameAttribute(NameOID.ORGANIZATION_NAME, "SPIRE"),
        ]
    )
)


Another = Callable[[Credentials], AbstractAsyncContextManager["IssuerClient"]]


class IssuerClient:
    """Calls the issuer. You get one by `open`; `credentials` may be changed while it is open."""

    def __init__(self, target: str, tunnel: tls.Tunnel, credentials: Credentials, another: Another) -> None:
        self._target = target
        self._tunnel = tunnel
        self._another = another
        self._closing: set[asyncio.Task[None]] = set()
        self.credentials = credentials
        self._connect()

    def _connect(self) -> None:
        options = [
            ("grpc.max_receive_message_length", MAX_MESSAGE),
            ("grpc.use_local_subchannel_pool", 1),
            *FIXED_WINDOW,
            ("grpc.initial_reconnect_backoff_ms", 100),
            # In truth how long an attempt may take: TCP and TLS to the issuer lie behind the tunnel.
            ("grpc.min_reconnect_backoff_ms", int(tls.CONNECT_WITHIN.total_seconds() * 1000)),
            ("grpc.max_reconnect_backoff_ms", 2000),
            ("grpc.default_authority", "issuer"),
        ]
        self._channel = channel = grpc.aio.insecure_channel(self._target, options=options)
        self._nodes = agent_pb2_grpc.AgentStub(channel)
        self._bundles = bundle_pb2_grpc.BundleStub(channel)
        self._entries = entry_pb2_grpc.EntryStub(channel)
        self._svids = svid_pb2_grpc.SVIDStub(channel)
        self._reports = audit_reports_pb2_grpc.AuditReportsStub(channel)
        self._updates = updates_pb2_grpc.UpdatesStub(channel)

    def drop_connections(self) -> None:
        """Let the next call connect with the credentials of now; calls that are under way are cut."""
        old = self._channel
        self._connect()  # another channel: this one may not have noticed yet when the next call is made
        self._tunnel.drop()
        closing = asyncio.get_running_loop().create_task(_close_later(old))
        self._closing.add(closing)
        closing.add_done_callback(self._closing.discard)

    async def _close(self) -> None:
        for closing in self._closing:
            closing.cancel()
        await asyncio.gather(*self._closing, return_exceptions=True)
        await self._channel.close()

    @classmethod
    @contextlib.asynccontextmanager
    async def open(
        cls, host: str, port: int, trust_domain: TrustDomain, credentials: Credentials, clock: Clock
    ) -> AsyncIterator["IssuerClient"]:
        """Open a client; connections are made when they are needed."""

        async def connect() -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
            return await dial(host, port, trust_domain, credentials, clock)

        def another(credentials: Credentials) -> AbstractAsyncContextManager["IssuerClient"]:
            return cls.open(host, port, trust_domain, credentials, clock)

        tunnel = tls.Tunnel(connect)
        async with tunnel.open() as target:
            client = cls(target, tunnel, credentials, another)
            try:
                yield client
            finally:
                await client._close()

    def anonymous(self, bundle: Bundle | None) -> AbstractAsyncContextManager["IssuerClient"]:
        """Open a client of the same issuer that trusts `bundle` and shows no certificate.

        Nodes prove themselves with it: a certificate that no longer counts would be refused.
        """
        return self._another(Credentials(bundle))

    @contextlib.contextmanager
    def _errors(self) -> Iterator[None]:
        try:
            yield
        except grpc.aio.AioRpcError as error:
            raise self._explained(error) from error
        except (SpiffeError, ValueError) as error:
            raise IssuerUnavailableError(f"issuer's answer is malformed: {error}") from error
        except asyncio.CancelledError as error:
            task = asyncio.current_task()
            if task is not None and task.cancelling():
                raise
            # A channel that is closed cancels its calls: nobody has asked us to stop.
            raise IssuerUnavailableError("connection was closed") from error

    def _explained(self, error: grpc.aio.AioRpcError) -> AttestorError:
        code, details = error.code(), error.details() or ""
        if code is grpc.StatusCode.PERMISSION_DENIED:
            match denial_reason(error):
                case reason if reason in _REATTEST:
                    return MustReattestError(details)
                case reason if reason == _BANNED:
                    return NodeBannedError(details)
                case _:
                    return NodeAttestationError(details)
        if code is grpc.StatusCode.UNAVAILABLE and (verdict := self._tunnel.last_error) is not None:
            if isinstance(verdict, SpiffeError):
                return IssuerUntrustedError(str(verdict))
            details = str(verdict) or type(verdict).__name__  # gRPC knows only that the tunnel was closed
        return IssuerUnavailableError(f"{details} ({code.name})")

    async def attest(self, attestor: NodeAttestor, csr_der: bytes) -> tuple[tuple[bytes, ...], bool]:
        """Prove this node; returns the chain of its SVID, and whether it can prove itself again."""
        try:
            return await self._attest(attestor, csr_der)
        finally:
            if isinstance(attestor, Releasing):
                await attestor.release()

    async def _attest(self, attestor: NodeAttestor, csr_der: bytes) -> tuple[tuple[bytes, ...], bool]:
        opening = agent_pb2.AttestAgentRequest(
            params=agent_pb2.AttestAgentRequest.Params(
                data=types_pb2.AttestationData(type=attestor.type, payload=await attestor.payload()),
                params=agent_pb2.AgentX509SVIDParams(csr=csr_der),
            )
        )
        with self._errors():
            stream = self._nodes.AttestAgent(timeout=DEADLINE)
            await send(stream, opening)
            while True:
                answer = await stream.read()
                if not isinstance(answer, agent_pb2.AttestAgentResponse):
                    raise IssuerUnavailableError("issuer ended attestation without a result")
                if answer.HasField("result"):
                    await stream.done_writing()
                    return tuple(answer.result.svid.cert_chain), answer.result.reattestable
                response = await attestor.respond(answer.challenge)
                await send(stream, agent_pb2.AttestAgentRequest(challenge_response=response))

    async def renew(self, csr_der: bytes) -> tuple[bytes, ...]:
        """Return the chain of another SVID for this node."""
        with self._errors():
            params = agent_pb2.AgentX509SVIDParams(csr=csr_der)
            answer = await self._nodes.RenewAgent(
                agent_pb2.RenewAgentRequest(params=params), timeout=DEADLINE
            )
            return tuple(answer.svid.cert_chain)

    async def post_status(self, version: str, bundle_serial: int) -> None:
        """Say which version this is, and which bundle it has; an older server does not want to know."""
        with self._errors(), _tolerated(grpc.StatusCode.UNIMPLEMENTED):
            await self._nodes.PostStatus(
                agent_pb2.PostStatusRequest(agent_version=version, current_bundle_serial=bundle_serial),
                timeout=DEADLINE,
            )

    async def bundle(self) -> Bundle:
        """Return the issuer's own bundle."""
        with self._errors():
            return bundle_from_proto(
                await self._bundles.GetBundle(bundle_pb2.GetBundleRequest(), timeout=DEADLINE)
            )

    async def federated_bundle(self, trust_domain: TrustDomain) -> Bundle | None:
        """Return the bundle of a federated trust domain, or None if the issuer has none that can be used."""
        with self._errors(), _tolerated(grpc.StatusCode.NOT_FOUND):
            request = bundle_pb2.GetFederatedBundleRequest(trust_domain=trust_domain.name)
            answer = await self._bundles.GetFederatedBundle(request, timeout=DEADLINE)
            return next(iter(bundles_from_proto([answer])[0]), None)
        return None

    async def new_x509_svids(
        self, requests: Sequence[tuple[str, bytes]], evidence: Evidence | None = None
    ) -> dict[str, tuple[bytes, ...]]:
        """Return chains by entry ID for pairs of entry ID and request; a refused entry is left out.

        With evidence they are for one process.
        """
        saw = None if evidence is None else evidence_to_proto(evidence)
        params = [
            svid_pb2.NewX509SVIDParams(entry_id=entry_id, csr=csr, evidence=saw) for entry_id, csr in requests
        ]
        with self._errors():
            answer = await self._svids.BatchNewX509SVID(
                svid_pb2.BatchNewX509SVIDRequest(params=params), timeout=DEADLINE
            )
            return {
                entry_id: tuple(result.svid.cert_chain)
                for (entry_id, _), result in zip(requests, answer.results, strict=True)
                if result.status.code == 0
            }

    async def new_jwt_svid(
        self, entry_id: str, audience: Sequence[str], evidence: Evidence | None = None
    ) -> str:
        """Return a JWT-SVID for an entry; with evidence it is for one process."""
        saw = None if evidence is None else evidence_to_proto(evidence)
        request = svid_pb2.NewJWTSVIDRequest(entry_id=entry_id, audience=audience, evidence=saw)
        with self._errors():
            answer = await self._svids.NewJWTSVID(request, timeout=DEADLINE)
            return answer.svid.token

    async def new_wit_svids(
        self, entry_ids: Sequence[str], public_key_der: bytes, evidence: Evidence
    ) -> dict[str, str]:
        """Return WIT-SVIDs of one process by entry ID, all for one key; a refused entry is left out.

        The key is a SubjectPublicKeyInfo, on P-256.

        Raises:
            WitUnsupportedError: The issuer signs none.
        """
        saw = evidence_to_proto(evidence)
        params = [
            svid_pb2.NewWITSVIDParams(
                entry_id=entry_id, public_key=public_key_der, signing_algorithm="ES256", evidence=saw
            )
            for entry_id in entry_ids
        ]
        with self._errors(), _tolerated(grpc.StatusCode.UNIMPLEMENTED):
            answer = await self._svids.BatchNewWITSVID(
                svid_pb2.BatchNewWITSVIDRequest(params=params), timeout=DEADLINE
            )
            return {
                entry_id: result.svid.token
                for entry_id, result in zip(entry_ids, answer.results, strict=True)
                if result.status.code == 0
            }
        raise WitUnsupportedError("the issuer signs no WIT-SVIDs")

    async def report(
        self, boot: bytes, events: Sequence[audit_reports_pb2.ReportedEvent], *, ended: int = 0
    ) -> None:
        """Tell what happened in a run of this attestor, for the audit trail.

        Args:
            boot: Names the run.
            events: By growing number. What was told before may be told again.
            ended: Not 0: the last number of the run, from which nothing follows any more.

        Raises:
            NotImplementedError: The issuer is a stock server without an audit trail.
            ReportRejectedError: An event breaks a rule, and none of them is recorded.
        """
        request = audit_reports_pb2.ReportRequest(boot=boot, events=events, ended=ended)
        with self._errors(), _tolerated(grpc.StatusCode.UNIMPLEMENTED):
            try:
                await self._reports.Report(request, timeout=DEADLINE)
            except grpc.aio.AioRpcError as error:
                if error.code() is grpc.StatusCode.INVALID_ARGUMENT:
                    raise ReportRejectedError(error.details()) from error
                raise
            return
        raise NotImplementedError("issuer takes no reports")

    async def sync_entries(self, known: Mapping[str, Entry]) -> tuple[Entry, ...]:
        """Return all entries of this node: what a stock server offers instead of the push stream.

        Once there are many, only those that `known` lacks or has with another revision cross the wire.
        """
        with self._errors():
            stream = self._entries.SyncAuthorizedEntries(timeout=DEADLINE)
            try:
                return await sync(stream, known)
            finally:
                stream.cancel()

    async def watch(
        self, quiet: timedelta, *, revision: int = 0, epoch: str = "", policies: int = 0
    ) -> AsyncIterator[Update]:
        """Yield what the issuer pushes; ends with an error when nothing came for `quiet`.

        With the last `revision` and `epoch` that were applied, and the number of the `policies` that are
        held, the issuer may leave out what was before.
        After `drop_connections` it just ends: watch again.

        Raises:
            NotImplementedError: The issuer is a stock server without the push stream.
        """
        channel, stream = self._channel, self._updates.Watch()
        try:
            with self._errors(), _tolerated(grpc.StatusCode.UNIMPLEMENTED):
                opening = updates_pb2.WatchRequest(revision=revision, epoch=epoch, policies=policies)
                await send(stream, opening)
                while True:
                    yield update_from_proto(await _pushed(stream, quiet))
            raise NotImplementedError("issuer has no push stream")
        except AttestorError:
            if self._channel is channel:
                raise
        finally:
            stream.cancel()


@contextlib.contextmanager
def _tolerated(code: grpc.StatusCode) -> Iterator[None]:
    """Leave the block when a call in it is answered by this status."""
    try:
        yield
    except grpc.aio.AioRpcError as error:
        if error.code() is not code:
            raise


async def _pushed(stream: Any, quiet: timedelta) -> updates_pb2.WatchResponse:
    try:
        async with asyncio.timeout(quiet.total_seconds()):  # wait_for may swallow that we are cancelled
            message = await stream.read()
    except TimeoutError as error:
        raise IssuerUnavailableError("push stream is silent") from error
    if not isinstance(message, updates_pb2.WatchResponse):
        raise IssuerUnavailableError("issuer ended the push stream")
    return message


async def _close_later(channel: grpc.aio.Channel) -> None:
    """Close a channel once its calls have failed: closing at once would cancel the tasks that await them."""
    try:
        await asyncio.sleep(CLOSE_AFTER)
    finally:
        await channel.close()


def make_csr(key: Any) -> bytes:
    """Return a PKCS#10 request, DER, that says nothing but the public key (names come from the issuer)."""
    return _REQUEST.sign(key, hashes.SHA256()).public_bytes(serialization.Encoding.DER)


def new_key() -> ec.EllipticCurvePrivateKey:
    """Return a new P-256 key."""
    return ec.generate_private_key(ec.SECP256R1())

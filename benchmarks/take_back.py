# SPDX-License-Identifier: Apache-2.0
"""An agent is suspended: when the issuer refuses, and when many attestors have acted and told verifiers."""

import asyncio
import contextlib
import os
import subprocess
import sys
import time
from dataclasses import dataclass, field
from datetime import UTC, datetime

import grpc
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization

from attestor.errors import AttestorError
from attestor.issuer_client import make_csr, new_key
from benchmarks.measure import evidence, quantiles
from deploy.local import Attestor, Local
from deploy.node import attested
from issuer.client import connect
from spiffekit.bundle import Bundle, BundleSet
from spiffekit.id import SpiffeId
from spiffekit.jws import Jws
from spiffekit.keys import private_key_to_der
from spiffekit.status import MAX_BYTES, TYP
from spiffekit.wire.convert import spiffe_id_to_proto
from spiffekit.wire.pb.attestor.v1 import status_pb2, status_pb2_grpc
from spiffekit.wire.pb.issuer.v1 import agents_pb2
from spiffekit.wire.pb.spire.api.server.agent.v1 import agent_pb2
from spiffekit.wire.pb.spire.api.server.svid.v1 import svid_pb2
from spiffekit.wire.workload_api import SECURITY_HEADER, method
from spiffekit.workload import StatusSource, X509Update, exact, mtls_client_context, mtls_server_context
from spiffekit.workload.updates import x509_update
from spiffekit.x509svid import X509Svid

ATTESTORS = 50
ROUNDS, FULL_ROUNDS = 20, 100
AGENT = SpiffeId.parse("spiffe://example.org/agent/bench")
TOOL = SpiffeId.parse("spiffe://example.org/tool")
FLEET = SpiffeId.parse("spiffe://example.org/fleet")
UID = f"unix:uid:{os.getuid()}"
SPEC, BUNDLES = method("FetchX509SVID"), method("FetchX509Bundles")
AGAIN = 0.05  # seconds between two questions of a workload that is refused


async def run(folder, *, full):
    rounds = FULL_ROUNDS if full else ROUNDS
    settings = {"issuer": {"attestations_per_second": 1e4, "signatures_per_second": 1e6}}
    with Local(folder, issuer=settings) as local:
        local.start_issuer()
        with connect(local.admin_socket) as api:
            entry_id = register(local)
            rows = await refused_by_the_issuer(local, api, entry_id, rounds)
            return rows + await told_by_attestors(local, api, rounds)


def register(local):
    agent = ("--spiffeID", str(AGENT))
    owner = ("--ownerIssuer", "https://idp.example.org", "--owner", "alice")
    purpose = ("--purpose", "is suspended again and again")
    # Short-lived, so that what earlier rounds were given has ended and need not be revoked with the rest.
    local.operator("agent", "register", *agent, *owner, *purpose, "--x509TTL", "20s", "--jwtTTL", "1m")
    local.operator("agent", "activate", *agent, "--reason", "measured")
    return local.register(AGENT.path, str(FLEET), UID)


def token(api):
    request = agent_pb2.CreateJoinTokenRequest(ttl=600, agent_id=spiffe_id_to_proto(FLEET))
    return api.nodes.CreateJoinToken(request, timeout=30).value


async def step(api, verb):
    request = agents_pb2.ChangeStateRequest(spiffe_id=str(AGENT), reason="measured")
    await asyncio.to_thread(getattr(api.agents, verb), request, timeout=60)


async def refused_by_the_issuer(local, api, entry_id, rounds):
    """A node asks for either kind without a pause; from the operator's command to the first refusal."""
    bundle = (await asyncio.to_thread(local.operator, "bundle", "show")).stdout
    csr, took = make_csr(new_key()), {"X.509-SVIDs": [], "JWT-SVIDs": []}
    async with attested(local, await asyncio.to_thread(token, api), bundle) as client:

        async def granted(kind):
            try:
                if kind == "JWT-SVIDs":
                    return bool(await client.new_jwt_svid(entry_id, ["db"], evidence(UID)))
                return bool(await client.new_x509_svids([(entry_id, csr)], evidence(UID)))
            except AttestorError:
                return False

        async def until_refused(kind, began):
            while await granted(kind):
                pass
            took[kind].append(time.perf_counter() - began)

        for _ in range(rounds):
            began = time.perf_counter()
            await asyncio.gather(step(api, "SuspendAgent"), *(until_refused(kind, began) for kind in took))
            await step(api, "ResumeAgent")
            assert await granted("X.509-SVIDs")
    return [
        row
        for kind, seconds in took.items()
        for row in quantiles(seconds, f"suspended to {kind} refused by the issuer", ("", "< 1 s"))
    ]


async def told_by_attestors(local, api, rounds, attestors=ATTESTORS):
    """Real attestors in one process group; at each a workload, a verifier, and a tool that it talks to."""
    bundle = (await asyncio.to_thread(local.operator, "bundle", "show")).stdout
    nodes = []
    for number in range(attestors):
        node = Attestor(local, f"node-{number}")
        value = await asyncio.to_thread(token, api)
        settings = {
            "node_attestor.join_token": {"token": value},
            "attestor": {"allow_unauthenticated_verifiers": True},
        }
        node.configure(settings, trusted=bundle)
        nodes.append(node)
    tool = await asyncio.to_thread(mint, api, bundle)
    took = Taken()
    with fleet(nodes):
        async with contextlib.AsyncExitStack() as stack:
            sites = [await stack.enter_async_context(Site.open(node, tool)) for node in nodes]
            await together(site.starts() for site in sites)
            for _ in range(rounds):
                began = time.perf_counter()
                waits = [together(site.ends(began, took) for site in sites)]
                await asyncio.gather(step(api, "SuspendAgent"), *waits)
                began = time.perf_counter()
                waits = [together(site.starts(began, took) for site in sites)]
                await asyncio.gather(step(api, "ResumeAgent"), *waits)
    where = f"each of {attestors} attestors"
    return [
        *quantiles(took.ended, f"suspended to the agent's stream ended, {where}", ("", "< 3 s")),
        *quantiles(took.told, f"suspended to verifiers told, {where}", ("", "< 3 s")),
        *quantiles(took.listed, f"suspended to its certificate on the CRL of others, {where}", ("", "< 3 s")),
        *quantiles(took.cut, f"suspended to its live mTLS connection closed, {where}", ("", "< 5 s")),
        *quantiles(took.granted, f"resumed to a new SVID, {where}"),
    ]


async def together(awaitables):
    await asyncio.gather(*awaitables)


@dataclass
class Taken:
    """Seconds, of every attestor and round."""

    ended: list[float] = field(default_factory=list)
    told: list[float] = field(default_factory=list)
    listed: list[float] = field(default_factory=list)
    cut: list[float] = field(default_factory=list)
    granted: list[float] = field(default_factory=list)


def mint(api, bundle):
    """Return the identity of the tools; they have nothing from their attestors but what anybody has."""
    key = new_key()
    name = x509.SubjectAlternativeName([x509.UniformResourceIdentifier(str(TOOL))])
    request = x509.CertificateSigningRequestBuilder().subject_name(x509.Name([])).add_extension(name, False)
    csr = request.sign(key, hashes.SHA256()).public_bytes(serialization.Encoding.DER)
    minted = api.svids.MintX509SVID(svid_pb2.MintX509SVIDRequest(csr=csr, ttl=3600), timeout=30).svid
    svid = X509Svid.parse(b"".join(minted.cert_chain), private_key_to_der(key))
    roots = Bundle.from_pem(TOOL.trust_domain, bundle.encode())
    return X509Update((svid,), BundleSet([roots]), (), datetime.now(UTC))


class Site:
    """One attestor, and whoever is there."""

    def __init__(self, channel, verifier, tool):
        self._workload, self._verifier, self._tool = Workload(channel), verifier, tool
        self._lists = Lists(channel)

    @classmethod
    @contextlib.asynccontextmanager
    async def open(cls, node, identity):
        options = [("grpc.use_local_subchannel_pool", 1)]
        async with (
            grpc.aio.insecure_channel(f"unix:{node.socket}", options=options) as channel,
            Verifier.open(channel) as verifier,
            Tool.open(node.endpoint, identity) as tool,
        ):
            yield cls(channel, verifier, tool)

    async def ends(self, began, took):
        """Wait until the agent is taken back here, for everybody."""
        took_of = (took.ended, took.told, took.listed, took.cut)
        waits = (
            self._workload.ended(),
            self._verifier.told(suspended=True),
            self._lists.told(revoked=True),
            self._tool.cut(),
        )
        for seconds, at in zip(took_of, await asyncio.gather(*waits), strict=True):
            seconds.append(at - began)

    async def starts(self, began=0.0, took=None):
        """Wait until the agent is back here, for everybody."""
        at, *_ = await asyncio.gather(
            self._workload.granted(), self._verifier.told(suspended=False), self._lists.told(revoked=False)
        )
        if took is not None:
            took.granted.append(at - began)
        await self._tool.connected(x509_update(self._workload.message, datetime.now(UTC)))


@contextlib.contextmanager
def fleet(nodes):
    """Run attestors as one process group, and wait until each serves."""
    process = subprocess.Popen(
        [sys.executable, "-m", "benchmarks.fleet", *(str(node.config) for node in nodes)],
        stdin=subprocess.PIPE,
    )
    try:
        for node in nodes:
            wait_for(node.socket, process)
        yield
    finally:
        process.stdin.close()
        process.wait(60)


def wait_for(path, process, within=120.0):
    deadline = time.monotonic() + within
    while not path.exists():
        assert process.poll() is None, "the fleet has ended"
        assert time.monotonic() < deadline, f"nobody listens at {path}"
        time.sleep(0.05)


class Workload:
    """Follows its identity, and asks again when it is refused."""

    def __init__(self, channel):
        self._call = channel.unary_stream(SPEC.path, SPEC.request.SerializeToString, SPEC.response.FromString)
        self._stream = None
        self.message = None  # the newest that it was granted

    async def granted(self):
        """Ask until there is an SVID; return when it came."""
        while True:
            self._stream = self._call(SPEC.request(), metadata=(SECURITY_HEADER,))
            try:
                self.message = await self._stream.read()
                assert self.message is not grpc.aio.EOF
            except grpc.aio.AioRpcError as error:
                assert error.code() is grpc.StatusCode.PERMISSION_DENIED, error  # noqa: PT017
                await asyncio.sleep(AGAIN)
            else:
                return time.perf_counter()

    async def ended(self):
        """Return when the stream ended, which has to be for the right reason."""
        try:
            while await self._stream.read() is not grpc.aio.EOF:
                pass
        except grpc.aio.AioRpcError:
            pass
        assert await self._stream.code() is grpc.StatusCode.PERMISSION_DENIED
        return time.perf_counter()


class Lists:
    """Follows bundles and revocation lists, as everybody else on that node."""

    def __init__(self, channel):
        call = channel.unary_stream(
            BUNDLES.path, BUNDLES.request.SerializeToString, BUNDLES.response.FromString
        )
        self._stream = call(BUNDLES.request(), metadata=(SECURITY_HEADER,))

    async def told(self, *, revoked):
        """Return when an answer came that has revocation lists, or none: nothing else is revoked here."""
        while True:
            message = await self._stream.read()
            if bool(message.crl) is revoked:
                return time.perf_counter()


class Tool:
    """Serves the agent over mTLS, and cuts it off by what its attestor says is taken back."""

    def __init__(self):
        self._port, self._reader, self._writer = 0, None, None

    @classmethod
    @contextlib.asynccontextmanager
    async def open(cls, endpoint, identity):
        tool = cls()
        async with StatusSource.open(endpoint) as status:
            context = mtls_server_context(identity, exact(AGENT), status=status)
            server = await asyncio.start_server(tool._serve, "127.0.0.1", 0, ssl=context)
            tool._port = server.sockets[0].getsockname()[1]
            yield tool
            server.close()
            tool._writer.transport.abort()

    async def _serve(self, reader, writer):
        with contextlib.suppress(OSError):
            writer.write(b"welcome")
            await reader.read()  # the agent never hangs up by itself
        writer.transport.abort()

    async def connected(self, identity):
        """Connect as the agent, again until it is served."""
        context = mtls_client_context(identity, exact(TOOL))
        while True:
            with contextlib.suppress(OSError):
                self._reader, self._writer = await asyncio.open_connection(
                    "127.0.0.1", self._port, ssl=context
                )
                if await self._reader.read(7):
                    return
            await asyncio.sleep(AGAIN)

    async def cut(self):
        """Return when the agent's connection has ended."""
        with contextlib.suppress(OSError):
            await self._reader.read()
        self._writer.transport.abort()
        return time.perf_counter()


class Verifier:
    """Hears what was taken back, as whoever verifies peers on that node."""

    def __init__(self, stream):
        self._stream = stream

    @classmethod
    @contextlib.asynccontextmanager
    async def open(cls, channel):
        stream = status_pb2_grpc.StatusStub(channel).Watch(
            status_pb2.WatchRequest(), metadata=(SECURITY_HEADER,)
        )
        yield cls(stream)
        stream.cancel()

    async def told(self, *, suspended):
        """Return when a status came that says whether the agent is suspended."""
        while True:
            message = await self._stream.read()
            payload = (
                Jws.parse_unverified(message.status, typ=TYP, longest=MAX_BYTES).payload
                if message.status
                else {}
            )
            if (str(AGENT) in payload.get("suspended", [])) is suspended:
                return time.perf_counter()

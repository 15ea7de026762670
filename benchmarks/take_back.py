# SPDX-License-Identifier: Apache-2.0
"""An agent is suspended: when the issuer refuses, and when many attestors have acted and told verifiers."""

import asyncio
import contextlib
import os
import subprocess
import sys
import time

import grpc

from attestor.errors import AttestorError
from attestor.issuer_client import make_csr, new_key
from benchmarks.measure import evidence, quantiles
from deploy.local import Attestor, Local
from deploy.node import attested
from issuer.client import connect
from spiffekit.id import SpiffeId
from spiffekit.jws import Jws
from spiffekit.status import MAX_BYTES, TYP
from spiffekit.wire.convert import spiffe_id_to_proto
from spiffekit.wire.pb.attestor.v1 import status_pb2, status_pb2_grpc
from spiffekit.wire.pb.issuer.v1 import agents_pb2
from spiffekit.wire.pb.spire.api.server.agent.v1 import agent_pb2
from spiffekit.wire.workload_api import SECURITY_HEADER, method

ATTESTORS = 50
ROUNDS, FULL_ROUNDS = 20, 100
AGENT = SpiffeId.parse("spiffe://example.org/agent/bench")
FLEET = SpiffeId.parse("spiffe://example.org/fleet")
UID = f"unix:uid:{os.getuid()}"
SPEC = method("FetchX509SVID")
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


async def told_by_attestors(local, api, rounds):
    """Real attestors in one process group, a workload and a verifier at each."""
    bundle = (await asyncio.to_thread(local.operator, "bundle", "show")).stdout
    nodes = []
    for number in range(ATTESTORS):
        node = Attestor(local, f"node-{number}")
        value = await asyncio.to_thread(token, api)
        node.configure({"node_attestor.join_token": {"token": value}}, trusted=bundle)
        nodes.append(node)
    ended, told, back = [], [], []
    with fleet(nodes):
        async with contextlib.AsyncExitStack() as stack:
            channels = [
                await stack.enter_async_context(
                    grpc.aio.insecure_channel(
                        f"unix:{node.socket}", options=[("grpc.use_local_subchannel_pool", 1)]
                    )
                )
                for node in nodes
            ]
            verifiers = [await stack.enter_async_context(Verifier.open(channel)) for channel in channels]
            workloads = await asyncio.gather(*(Workload.open(channel) for channel in channels))
            for _ in range(rounds):
                began = time.perf_counter()
                _, gone, heard = await asyncio.gather(
                    step(api, "SuspendAgent"),
                    asyncio.gather(*(workload.ended() for workload in workloads)),
                    asyncio.gather(*(verifier.told(suspended=True) for verifier in verifiers)),
                )
                ended += [at - began for at in gone]
                told += [at - began for at in heard]
                began = time.perf_counter()
                _, again, _ = await asyncio.gather(
                    step(api, "ResumeAgent"),
                    asyncio.gather(*(workload.granted() for workload in workloads)),
                    asyncio.gather(*(verifier.told(suspended=False) for verifier in verifiers)),
                )
                back += [at - began for at in again]
    where = f"each of {ATTESTORS} attestors"
    return [
        *quantiles(ended, f"suspended to the agent's stream ended, {where}", ("", "< 3 s")),
        *quantiles(told, f"suspended to verifiers told by {where}", ("", "< 3 s")),
        *quantiles(back, f"resumed to a new SVID, {where}"),
    ]


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
        self._call = channel.unary_stream(SPEC.path, SPEC.request.SerializeToString, lambda data: data)
        self._stream = None

    @classmethod
    async def open(cls, channel):
        workload = cls(channel)
        await workload.granted()
        return workload

    async def granted(self):
        """Ask until there is an SVID; return when it came."""
        while True:
            self._stream = self._call(SPEC.request(), metadata=(SECURITY_HEADER,))
            try:
                assert await self._stream.read() is not grpc.aio.EOF
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

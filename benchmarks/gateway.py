# SPDX-License-Identifier: Apache-2.0
"""Decisions for gateways, each recorded before it is answered: by AuthZEN and by `ext_authz`."""

import asyncio
import contextlib
import json
import ssl
import time

import grpc
import psutil

from benchmarks.measure import Row, quantiles
from benchmarks.policy import OWNER, PURPOSE
from benchmarks.tools import statements_of
from deploy.local import Local, free_port
from issuer.client import connect
from spiffekit.bundle import Bundle
from spiffekit.id import TrustDomain
from spiffekit.wire import tls
from spiffekit.wire.pb.envoy.service.auth.v3 import external_auth_pb2 as pb
from spiffekit.wire.pb.envoy.service.auth.v3.external_auth_pb2_grpc import AuthorizationStub
from spiffekit.wire.pb.issuer.v1 import agents_pb2, policy_pb2
from spiffekit.x509svid import X509Svid

PAYER, GATEWAY = "spiffe://example.org/agent/payer", "spiffe://example.org/gateway"
TOGETHER = 50  # questions at once
MANY = 1e6  # a second: the limits are not what is measured


async def run(folder, *, full):
    rounds = 2000 if full else 500
    ports = {name: free_port() for name in ("authzen_port", "ext_authz_port")}
    limits = {"decisions_per_second": MANY, "agent_decisions_per_second": MANY}
    table = {"address": "127.0.0.1", "gateways": [GATEWAY], **ports, **limits}
    with Local(folder, issuer={"policy_endpoint": table}) as local:
        local.start_issuer()
        lay_down(local)
        minted = local.operator_json("x509", "mint", "--spiffeID", GATEWAY)
        svid = X509Svid.parse_pem(minted["svid"].encode(), minted["key"].encode())
        bundle = Bundle.from_pem(TrustDomain("example.org"), minted["bundle"].encode())
        roots = [authority.certificate_der for authority in bundle.x509_authorities]
        issuer = psutil.Process(local.issuer.pid)
        rows = []
        web = [WebGateway() for _ in range(TOGETHER)]
        for gateway in web:
            await gateway.open(ports["authzen_port"], tls.client_context(svid, roots, alpn=("http/1.1",)))
        rows += await measured("AuthZEN", [gateway.ask for gateway in web], rounds, issuer)
        fresh = [await timed(web[0].ask, tool=f"tool-{number}") for number in range(rounds)]
        rows += quantiles(fresh, "AuthZEN: the first about a tool in the hour, one after another")
        several = quantiles(
            [await timed(web[0].ask, 50) for _ in range(rounds // 20)], "AuthZEN: 50 in one request"
        )
        async with dialled(ports["ext_authz_port"], tls.client_context(svid, roots)) as channel:
            envoy = AuthorizationStub(channel)
            rows += await measured("ext_authz", [lambda: check(envoy)] * TOGETHER, rounds, issuer)
        return rows + several


def lay_down(local):
    """An agent, and a thousand statements of which one permits."""
    with connect(local.admin_socket) as api:
        spec = agents_pb2.AgentSpec(
            spiffe_id=PAYER, owner=agents_pb2.Owner(issuer=OWNER, subject="alice"), team="t7", purpose=PURPOSE
        )
        api.agents.RegisterAgent(agents_pb2.RegisterAgentRequest(spec=spec))
        api.agents.ActivateAgent(agents_pb2.ChangeStateRequest(spiffe_id=PAYER, reason="to be measured"))
        for policy in statements_of(1000):
            request = policy_pb2.PutPolicyRequest(name=policy.name, text=policy.text, reason="to be measured")
            api.policies.Put(request)


async def measured(name, asks, rounds, issuer):
    """Return rows of one way to ask: one after another, and many at once."""
    for ask in asks:
        await ask()  # connections are open, and the decision is remembered
    alone = [await timed(asks[0]) for _ in range(rounds)]
    cpu, began = sum(issuer.cpu_times()[:2]), time.perf_counter()
    await asyncio.gather(*(again(ask, rounds // 10) for ask in asks))
    asked = len(asks) * (rounds // 10)
    taken, cpu = time.perf_counter() - began, sum(issuer.cpu_times()[:2]) - cpu
    return [
        *quantiles(alone, f"{name}: a decision that is remembered, one after another"),
        Row(f"{name}: {TOGETHER} at once", asked / taken, "decisions/s"),
        Row(f"{name}: the issuer's CPU for each of those", cpu / asked * 1000, "ms"),
    ]


async def again(ask, rounds):
    for _ in range(rounds):
        await ask()


async def timed(ask, *arguments, **options):
    began = time.perf_counter()
    await ask(*arguments, **options)
    return time.perf_counter() - began


class WebGateway:
    """Asks over one connection that stays open."""

    async def open(self, port, context: ssl.SSLContext):
        self.reader, self.writer = await asyncio.open_connection(
            "127.0.0.1", port, ssl=context, server_hostname="issuer"
        )

    async def ask(self, number=0, *, tool="pay"):
        """Ask once, or several questions in one request."""
        question = {
            "subject": {"type": "agent", "id": PAYER},
            "action": {"name": "tool.call"},
            "resource": {"type": "tool", "id": tool},
        }
        body = json.dumps(question | {"evaluations": [{}] * number}).encode()
        head = (
            "POST /access/v1/evaluations HTTP/1.1\r\nHost: issuer\r\nContent-Type: application/json\r\n"
            f"Content-Length: {len(body)}\r\n\r\n"
        )
        self.writer.write(head.encode() + body)
        answer = await self.reader.readuntil(b"\r\n\r\n")
        (length,) = (int(line[15:]) for line in answer.split(b"\r\n") if line.startswith(b"content-length:"))
        decided = json.loads(await self.reader.readexactly(length))
        assert all(one["decision"] for one in decided.get("evaluations", [decided]))


@contextlib.asynccontextmanager
async def dialled(port, context):
    tunnel = tls.Tunnel(
        lambda: asyncio.open_connection("127.0.0.1", port, ssl=context, server_hostname="issuer")
    )
    options = [("grpc.default_authority", "localhost")]
    async with tunnel.open() as target, grpc.aio.insecure_channel(target, options=options) as channel:
        yield channel


async def check(envoy):
    request = pb.CheckRequest()
    request.attributes.source.principal = PAYER
    request.attributes.context_extensions["tool"] = "pay"
    answer = await envoy.Check(request)
    assert answer.WhichOneof("http_response") == "ok_response"

# SPDX-License-Identifier: Apache-2.0
"""Gateways in tests: the endpoint that they ask at, and clients over their own certificates."""

import asyncio
import contextlib
import json

from prometheus_client import CollectorRegistry

from deploy.local import free_port
from issuer.api.dispatch import Metrics
from issuer.config import PolicyEndpointTable
from issuer.policy_endpoint import PolicyEndpoint
from spiffekit.daemon.http import Peer, request
from spiffekit.id import SpiffeId
from spiffekit.wire import tls
from tests.issuer_api.world import TRUST_DOMAIN

GATEWAY = "spiffe://example.org/gateway"
PAYER = "spiffe://example.org/agent/payer"
URL = "https://policy.example.org:8444"


def a_table(**changes):
    fixed = {"address": "127.0.0.1", "authzen_port": free_port(), "gateways": (GATEWAY,), "url": URL}
    return PolicyEndpointTable(**fixed | changes)


def endpoint(world, table, registry):
    return PolicyEndpoint(
        table=table,
        callers=world.callers,
        registrations=world.registrations,
        revocations=world.revocations,
        judge=world.policy,
        database=world.database,
        clock=world.clock,
        registry=registry,
        metrics=Metrics(registry),
        context=world.tls_context,
    )


@contextlib.asynccontextmanager
async def serving(world, table, registry=None):
    """Run the services of the endpoint."""
    registry = registry or CollectorRegistry()
    running = []
    try:
        for service in endpoint(world, table, registry).services().values():
            ready = asyncio.get_running_loop().create_future()
            running.append(asyncio.create_task(service(lambda ready=ready: ready.set_result(None))))
            await asyncio.wait([ready, running[-1]], return_when=asyncio.FIRST_COMPLETED)
            if running[-1].done():
                running[-1].result()  # why it ended
        yield table
    finally:
        for one in running:
            one.cancel()
        await asyncio.gather(*running, return_exceptions=True)


class Gateway:
    """Asks the AuthZEN API with an SVID, a connection for each question."""

    def __init__(self, world, port, svid):
        roots = [a.certificate_der for a in world.registrations.bundle(TRUST_DOMAIN).x509_authorities]
        self.context = tls.client_context(svid, roots, alpn=("http/1.1",))
        self.peer = Peer("127.0.0.1", port, self.context)

    async def send(self, body, target="/access/v1/evaluation", *, method="POST", **headers):
        """Send a body, bytes or what becomes JSON; return status, answer's header getter, and its body."""
        if not isinstance(body, bytes):
            body = json.dumps(body).encode()
        fields = {"content-type": "application/json"} | {k.replace("_", "-"): v for k, v in headers.items()}
        fields = {name: value for name, value in fields.items() if value is not None}
        async with (
            asyncio.timeout(20),
            request(self.peer, method, target, headers=fields, body=body) as answer,
        ):
            return answer.status, answer.header, await answer.body(1_000_000)

    async def ask(self, body, target="/access/v1/evaluation", **headers):
        """Ask what has a decision; return the parsed answer."""
        status, header, answer = await self.send(body, target, **headers)
        assert (status, header("content-type")) == (200, "application/json"), answer
        return json.loads(answer)


class Keeping:
    """Asks again and again over one connection."""

    def __init__(self, reader, writer):
        self.reader = reader
        self.writer = writer

    @classmethod
    @contextlib.asynccontextmanager
    async def open(cls, world, table, svid):
        peer = Gateway(world, table.authzen_port, svid).peer
        reader, writer = await peer.connect()
        try:
            yield cls(reader, writer)
        finally:
            writer.transport.abort()

    async def ask(self, body):
        """Ask; return the status, or that of an error."""
        body = json.dumps(body).encode()
        head = (
            "POST /access/v1/evaluation HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n"
            f"Content-Length: {len(body)}\r\n\r\n"
        )
        self.writer.write(head.encode() + body)
        async with asyncio.timeout(20):
            answer = await self.reader.readuntil(b"\r\n\r\n")
            length = next(
                int(line.partition(b":")[2])
                for line in answer.split(b"\r\n")
                if line.startswith(b"content-length:")
            )
            await self.reader.readexactly(length)
        return int(answer.split(b" ")[1])

    async def ended(self):
        """Tell that the other side has closed the connection."""
        async with asyncio.timeout(20):
            return await self.reader.read() == b""


def tool(name="pay", *, agent=PAYER, **arguments):
    """The question whether an agent may call a tool."""
    properties = {"properties": {"arguments": arguments}} if arguments else {}
    return {
        "subject": {"type": "agent", "id": agent},
        "action": {"name": "tool.call"} | properties,
        "resource": {"type": "tool", "id": name},
    }


def http(method="GET", path="/", service="invoices", *, agent=PAYER):
    """The question whether an agent may send a request to a service."""
    return {
        "subject": {"type": "agent", "id": agent},
        "action": {"name": "http.request", "properties": {"method": method, "path": path}},
        "resource": {"type": "service", "id": service},
    }


GATEWAY_IDS = frozenset((SpiffeId.parse(GATEWAY),))

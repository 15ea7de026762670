# SPDX-License-Identifier: Apache-2.0
"""A node proves that it answers at its name; the issuer is led nowhere else by it."""

import asyncio
import json
import socket

import pytest

from attestor.errors import NodeAttestationError
from attestor.node import Releasing
from attestor.node import http_challenge as machine
from issuer.errors import NodeRejectedError
from issuer.model import AttestationLevel
from issuer.node.http_challenge import MAX_PAYLOAD, Config, create_with, judge, resolve
from spiffekit.daemon.config import ConfigError
from spiffekit.selector import Selector
from tests.issuer.node.x509pop_node import Context
from tests.issuer.strategies import a_node

HOST = "web-1.example.org"
ANY = (r".*",)


async def here(host):
    return ("127.0.0.1",)


async def nowhere(host):
    raise AssertionError("nothing is resolved")


def verifier(resolver=here, patterns=ANY, **options):
    return create_with(Config(patterns, **options), resolver)


def where(host=HOST, agent="default", port=80):
    return json.dumps({"hostname": host, "agentname": agent, "port": port}).encode()


async def unasked(challenge):
    raise AssertionError("no challenge is sent")


@pytest.fixture
async def node():
    attestor = machine.create(machine.Config(hostname=HOST, listen="127.0.0.1"))
    yield attestor
    await attestor.release()


class Server:
    """A host that answers each request with the bytes that `answer` makes of the nonce."""

    def __init__(self, answer):
        self.answer, self.nonce, self.requests = answer, "", []

    async def __aenter__(self):
        self.server = await asyncio.start_server(self.serve, "127.0.0.1", 0)
        self.port = self.server.sockets[0].getsockname()[1]
        return self

    async def __aexit__(self, *_):
        self.server.close()
        await self.server.wait_closed()

    async def serve(self, reader, writer):
        self.requests.append(await reader.readuntil(b"\r\n\r\n"))
        writer.write(self.answer(self.nonce))
        writer.close()
        await writer.wait_closed()

    async def respond(self, challenge):
        self.nonce = json.loads(challenge)["nonce"]
        return b"\n"

    async def prove(self):
        return await verifier().verify(where(port=self.port), self.respond, Context())


def ok(body, status="200 OK", more=""):
    return f"HTTP/1.1 {status}\r\nContent-Length: {len(body)}\r\n{more}\r\n{body}".encode()


async def test_a_node_proves_itself(node):
    proof = await verifier().verify(await node.payload(), node.respond, Context())
    assert proof.node_id.path == f"/spire/agent/http_challenge/{HOST}"
    assert {str(selector) for selector in proof.selectors} == {f"http_challenge:hostname:{HOST}"}
    assert (proof.can_reattest, proof.first_use) == (False, True)
    assert proof.level is AttestationLevel.PLATFORM


async def test_what_is_sent_is_what_stock_servers_read(node):
    sent = json.loads(await node.payload())
    assert (sent["hostname"], sent["agentname"]) == (HOST, "default")
    assert sent["port"] > 0
    assert await node.respond(b'{"nonce":"abc"}') != b""


async def test_a_stock_agent_that_serves_a_line_is_believed():
    async with Server(lambda nonce: ok(f"{nonce}\n")) as host:
        assert (await host.prove()).first_use
    (asked,) = host.requests
    assert asked.startswith(
        b"GET /.well-known/spiffe/nodeattestor/http_challenge/default/challenge HTTP/1.1\r\n"
    )
    assert f"host: {HOST}:{host.port}".encode() in asked.lower()


@pytest.mark.parametrize(
    ("answer", "why"),
    [
        (lambda nonce: ok("other"), "something else"),
        (lambda nonce: ok(""), "something else"),
        (lambda nonce: ok(nonce + "x" * 30), "did not answer"),
        (lambda nonce: ok(nonce, "404 Not Found"), "status 404"),
        (lambda nonce: ok(nonce, "302 Found", "Location: http://127.0.0.1/\r\n"), "status 302"),
        (lambda nonce: b"", "did not answer"),
        (lambda nonce: b"SSH-2.0-OpenSSH\r\n\r\n", "did not answer"),
    ],
    ids=["other", "empty", "long", "missing", "redirect", "closed", "ssh"],
)
async def test_another_answer_proves_nothing(answer, why):
    """SPIRE 1.13.4: redirects led the server wherever the node liked."""
    async with Server(answer) as host:
        with pytest.raises(NodeRejectedError, match=why):
            await host.prove()
    assert len(host.requests) == 1


@pytest.mark.parametrize(
    "host",
    [
        "",
        "localhost",
        "a.localhost",
        "127.0.0.1",
        "127.1",
        "0x7f.1",
        "0x7f000001",
        "2130706433",
        "[::1]",
        "::1",
        "a..b",
        ".a",
        "a.",
        "a/b",
        "a:80",
        "a@b",
        "a b",
        "a\n",
        "a%2e",
        "A.example.org",
        "-a.org",
        "a-.org",
        "ä.org",
        "../x",
        "a" * 64 + ".org",
        "a." * 126 + "org",
    ],
)
async def test_only_a_dns_name_is_asked(host):
    """SPIRE 1.13.1: the length of a host name was not bounded."""
    with pytest.raises(NodeRejectedError, match="hostname is not"):
        await verifier(nowhere).verify(where(host), unasked, Context())


@pytest.mark.parametrize("host", ["web-1.example.org.evil.com", "xweb-1.example.org", "web-1xexample.org"])
async def test_a_pattern_is_for_the_whole_name(host):
    """SPIRE 1.15.2: patterns without anchors."""
    with pytest.raises(NodeRejectedError, match="is not allowed"):
        await verifier(nowhere, (r"web-1\.example\.org",)).verify(where(host), unasked, Context())


async def test_a_node_renews_while_its_host_is_allowed():
    node = a_node(
        f"http_challenge/{HOST}", selectors=frozenset({Selector("http_challenge", f"hostname:{HOST}")})
    )
    assert await verifier().refresh(node) == node.selectors
    with pytest.raises(NodeRejectedError, match="is not allowed"):
        await verifier(patterns=(r"other\.example",)).refresh(node)


@pytest.mark.parametrize("agent", ["", "1a", "a.b", "a/b", "../a", "a\n", "a" * 33])
async def test_an_agents_name_is_no_path(agent):
    with pytest.raises(NodeRejectedError, match="agentname"):
        await verifier(nowhere).verify(where(agent=agent), unasked, Context())


@pytest.mark.parametrize(
    ("options", "port"),
    [({}, 0), ({}, -1), ({}, 65536), ({"required_port": 80}, 81), ({"allow_non_root_ports": False}, 1024)],
    ids=["zero", "negative", "large", "other", "non-root"],
)
async def test_a_port_has_to_be_allowed(options, port):
    with pytest.raises(NodeRejectedError, match="port"):
        await verifier(nowhere, **options).verify(where(port=port), unasked, Context())


@pytest.mark.parametrize(
    "payload",
    [b"", b"{}", b"[]", b'{"hostname":1}', b"[" * 2000, where(port="80"), bytes(MAX_PAYLOAD + 1)],
    ids=["empty", "object", "array", "number", "deep", "text", "large"],
)
async def test_a_payload_that_is_none_is_refused(payload):
    with pytest.raises(NodeRejectedError, match="payload"):
        await verifier(nowhere).verify(payload, unasked, Context())


@pytest.mark.parametrize(
    "address",
    [
        "127.0.0.1",
        "127.9.9.9",
        "::1",
        "169.254.169.254",
        "fe80::1",
        "fe80::1%eth0",
        "0.0.0.0",
        "::",
        "224.0.0.1",
        "ff02::1",
        "255.255.255.255",
        "::ffff:127.0.0.1",
        "::ffff:169.254.169.254",
    ],
)
def test_an_address_of_our_own_is_not_asked(address):
    with pytest.raises(NodeRejectedError, match="not asked"):
        judge(address)


@pytest.mark.parametrize("address", ["10.0.0.1", "192.168.1.1", "192.0.2.1", "fd00::1", "2001:db8::1"])
def test_an_address_of_a_network_is_asked(address):
    judge(address)


async def test_a_name_of_our_own_machine_is_not_asked():
    with pytest.raises(NodeRejectedError, match="not asked"):
        await resolve("localhost")


async def test_the_next_address_is_asked_if_one_does_not_answer(node):
    async def two(host):
        return ("127.0.0.2", "127.0.0.1")

    assert (await verifier(two).verify(await node.payload(), node.respond, Context())).first_use


async def test_a_privileged_port_is_worth_more_than_first_use(node):
    with pytest.raises(ConfigError, match="tofu"):
        verifier(tofu=False)
    with pytest.raises(ConfigError, match="tofu"):
        verifier(tofu=False, required_port=8080)
    assert verifier(tofu=False, required_port=80)
    assert verifier(tofu=False, allow_non_root_ports=False)


@pytest.mark.parametrize(
    "options",
    [
        {"patterns": ()},
        {"patterns": ("(",)},
        {"required_port": 0},
        {"required_port": 80000},
        {"required_port": 8080, "allow_non_root_ports": False},
    ],
    ids=["none", "pattern", "zero", "large", "contrary"],
)
def test_a_policy_that_cannot_be_meant_is_refused(options):
    with pytest.raises(ConfigError):
        verifier(**options)


async def fetch(port, request):
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.write(request)
    answer = await asyncio.wait_for(reader.read(), 5)
    writer.close()
    await writer.wait_closed()
    return answer


GET = b"GET /.well-known/spiffe/nodeattestor/http_challenge/default/challenge HTTP/1.1\r\nHost: a\r\n\r\n"


async def test_a_node_serves_its_nonce_and_nothing_else(node):
    port = json.loads(await node.payload())["port"]
    assert b" 404 " in await fetch(port, GET)
    await node.respond(b'{"nonce":"abc="}')
    assert (await fetch(port, GET)).endswith(b"\r\n\r\nabc=\n")
    assert b" 404 " in await fetch(port, GET.replace(b"default", b"other"))
    assert b" 404 " in await fetch(port, GET.replace(b"GET", b"PUT"))
    assert await fetch(port, b"nonsense\r\n\r\n") == b""
    assert await fetch(port, b"GET / HTTP/1.1\r\nA: " + b"a" * 10000) == b""


async def test_a_node_listens_only_while_it_proves_itself(node):
    assert isinstance(node, Releasing)
    port = json.loads(await node.payload())["port"]
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    await fetch(port, GET)  # the first is accepted by now
    await node.release()
    with pytest.raises(OSError):
        await asyncio.open_connection("127.0.0.1", port)
    assert await asyncio.wait_for(reader.read(), 5) == b""
    writer.close()
    await writer.wait_closed()


async def test_a_port_that_is_taken_cannot_prove_anything():
    with socket.create_server(("127.0.0.1", 0)) as taken:
        config = machine.Config(port=taken.getsockname()[1], hostname=HOST, listen="127.0.0.1")
        with pytest.raises(NodeAttestationError, match="cannot be listened on"):
            await machine.create(config).payload()


@pytest.mark.parametrize(
    "challenge",
    [
        b"",
        b"[]",
        b"{}",
        b'{"nonce":1}',
        b'{"nonce":""}',
        b'{"nonce":"a\\r\\nb"}',
        b'{"nonce":"%s"}' % (b"a" * 63),
    ],
    ids=["empty", "array", "object", "number", "blank", "lines", "long"],
)
async def test_a_challenge_that_is_none_is_not_served(node, challenge):
    with pytest.raises(NodeAttestationError, match="challenge"):
        await node.respond(challenge)


@pytest.mark.parametrize("options", [{"port": -1}, {"advertised_port": 65536}, {"agentname": "a/b"}], ids=str)
def test_a_table_of_the_attestor_is_checked(options):
    with pytest.raises(ConfigError):
        machine.create(machine.Config(**options))

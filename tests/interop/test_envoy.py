# SPDX-License-Identifier: Apache-2.0
"""A real Envoy asks the issuer about each request of agents that come with SVIDs of our attestor."""

import asyncio
import contextlib
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import pytest

from deploy.local import Local, free_port
from spiffekit.certificates import pem_certificate
from spiffekit.daemon.http import HttpError, Peer, request
from spiffekit.id import TrustDomain
from spiffekit.wire import tls
from spiffekit.workload import WorkloadApi

ENVOY, PAYER, WEB = (f"spiffe://example.org/{name}" for name in ("gateway", "agent/payer", "web"))
POLICY = """
permit(principal, action == Action::"http.request", resource == Service::"invoices")
when { context.http.method == "GET" && context.http.path like "/v1/*" };
permit(principal, action == Action::"tool.call", resource == Tool::"pay");
"""
CONFIG = Path(__file__).parents[2] / "deploy" / "envoy" / "ext_authz.yaml"
WITHIN = 60.0  # seconds for anything


@pytest.fixture(scope="module")
def port():
    return free_port()


@pytest.fixture(scope="module")
def local(folder, port):
    gateways = {"address": "127.0.0.1", "ext_authz_port": port, "gateways": [ENVOY]}
    with Local(folder, issuer={"policy_endpoint": gateways}) as deployment:
        yield deployment.start_issuer()


@pytest.fixture
async def granted(local):
    """What our attestor gives this process: the SVIDs of three identities, and the bundle."""
    attestor = local.start_attestor()
    owner = ("--ownerIssuer", "https://idp.example.org", "--owner", "alice")
    purpose = ("--purpose", "pays the invoices that people approved")
    local.operator("agent", "register", "--spiffeID", PAYER, *owner, *purpose)
    local.operator("agent", "activate", "--spiffeID", PAYER, "--reason", "because")
    for name in (ENVOY, PAYER, WEB):
        path = name.removeprefix("spiffe://example.org")
        local.register(path, attestor.node_id, f"unix:path:{Path(sys.executable).resolve()}")
    async with asyncio.timeout(WITHIN), WorkloadApi.connect(attestor.endpoint) as api:
        async for update in api.watch_x509():
            if len(update.svids) == 3:
                return update
    raise AssertionError("the stream ended")


@pytest.fixture
async def backend():
    """A server behind Envoy that keeps what reaches it."""
    seen = []

    async def serve(reader, writer):
        with contextlib.suppress(asyncio.IncompleteReadError):
            seen.append(await reader.readuntil(b"\r\n\r\n"))
            writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nConnection: close\r\n\r\nhi")
            await writer.drain()
        writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    async with server:
        yield SimpleNamespace(port=server.sockets[0].getsockname()[1], seen=seen)


@pytest.fixture
def envoy(folder, granted, port, backend):
    """Start Envoy with the configuration of the how-to; return its port."""
    binary = shutil.which("envoy", path=f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}")
    if binary is None:
        pytest.skip("no envoy for this platform on the package index")
    own = folder / "envoy"
    own.mkdir(mode=0o700)
    svid = svid_of(granted, ENVOY)
    (own / "svid.pem").write_bytes(svid.chain_pem())
    (own / "svid.key").write_bytes(svid.key_pem())
    (own / "bundle.pem").write_bytes(b"".join(map(pem_certificate, roots(granted))))
    front = free_port()
    settings = CONFIG.read_text()
    for here, there in (
        ("/run/envoy", str(own)),
        ("0.0.0.0, port_value: 8443", f"127.0.0.1, port_value: {front}"),
        ("port_value: 8080", f"port_value: {backend.port}"),
        ("policy.example.org, port_value: 8445", f"127.0.0.1, port_value: {port}"),
    ):
        assert here in settings
        settings = settings.replace(here, there)
    (own / "envoy.yaml").write_text(settings)
    command = [binary, "-c", str(own / "envoy.yaml"), "--disable-hot-restart", "--concurrency", "1"]
    with (own / "envoy.log").open("ab") as log:
        process = subprocess.Popen(command, stdout=log, stderr=log)
    try:
        yield Front(front, granted, process, own / "envoy.log")
    finally:
        process.kill()
        process.wait()


def svid_of(update, name):
    return next(svid for svid in update.svids if str(svid.spiffe_id) == name)


def roots(update):
    bundle = update.bundles.bundle_for(TrustDomain("example.org"))
    return [authority.certificate_der for authority in bundle.x509_authorities]


class Front:
    """Envoy as its clients see it."""

    def __init__(self, port, granted, process, log):
        self.port = port
        self.granted = granted
        self.process = process
        self.log = log

    async def get(self, path, *, who=PAYER, method="GET", **headers):
        """Send a request with the SVID of `who`; return the status and the body."""
        svid = None if who is None else svid_of(self.granted, who)
        context = tls.client_context(svid, roots(self.granted), alpn=("http/1.1",))
        fields = {name.replace("_", "-"): value for name, value in headers.items()}
        peer = Peer("127.0.0.1", self.port, context)
        async with asyncio.timeout(WITHIN), request(peer, method, path, headers=fields) as answer:
            return answer.status, await answer.body(10_000)

    async def listens(self):
        """Return when it takes connections."""
        deadline = time.monotonic() + WITHIN
        while True:
            assert self.process.poll() is None, self.log.read_text()[-3000:]
            assert time.monotonic() < deadline, self.log.read_text()[-3000:]
            try:
                _, writer = await asyncio.open_connection("127.0.0.1", self.port)
            except OSError:
                await asyncio.sleep(0.05)
            else:
                writer.close()
                return


async def test_envoy_lets_pass_what_the_issuer_allows_and_nothing_else(local, folder, backend, envoy):
    await envoy.listens()
    rules = folder / "web.cedar"
    rules.write_text(POLICY)

    async def operator(*arguments):
        return await asyncio.to_thread(local.operator, *arguments, "--reason", "because")

    # 1. Where there is no policy, nobody passes.
    assert (await envoy.get("/v1/7"))[0] == 403, envoy.log.read_text()[-3000:]
    # 2. What a policy permits passes at once, by method and path, or as a tool.
    await operator("policy", "put", "--name", "web", "--file", str(rules))
    assert await envoy.get("/v1/7?full=1") == (200, b"hi")
    assert await envoy.get("/tools/pay", method="POST") == (200, b"hi")
    assert (await envoy.get("/v1/7", method="DELETE"))[0] == 403
    assert (await envoy.get("/v2/7"))[0] == 403
    assert [line.split(b" ")[1] for line in backend.seen] == [b"/v1/7?full=1", b"/tools/pay"]
    # 3. Odd paths lead nowhere else.
    for path in (
        "/v1/../v2/7",
        "/v1/%2e%2e/v2/7",
        "//v2/7",
        "/v1/..%2fv2/7",
        "/v1/..;/v2/7",
        "/v1/%2561",
    ):
        assert (await envoy.get(path))[0] in (400, 403), path
    # 4. Only a certificate says who somebody is.
    claim = {
        "x_forwarded_client_cert": f"URI={PAYER}",
        "x_spiffe_id": PAYER,
        "authorization": f"Bearer {PAYER}",
    }
    assert (await envoy.get("/v1/7", who=WEB, **claim))[0] == 403
    with pytest.raises(HttpError):
        await envoy.get("/v1/7", who=None, **claim)
    # 5. The client hears nothing of policies.
    assert (await envoy.get("/v2/7"))[1] == b""
    # 6. A policy that changes counts for the next request.
    rules.write_text("forbid(principal, action, resource);")
    await operator("policy", "put", "--name", "stop", "--file", str(rules))
    assert (await envoy.get("/v1/7"))[0] == 403
    await operator("policy", "delete", "--name", "stop")
    assert (await envoy.get("/v1/7"))[0] == 200
    # 7. So does the state of the agent.
    await operator("agent", "suspend", "--spiffeID", PAYER)
    assert (await envoy.get("/v1/7"))[0] == 403
    await operator("agent", "resume", "--spiffeID", PAYER)
    assert (await envoy.get("/v1/7"))[0] == 200
    assert len(backend.seen) == 4
    # 8. All of it is in the trail, by the gateway's name.
    events = await asyncio.to_thread(local.operator_json, "audit", "search", "--type", "call.")
    said = [
        (event["actor"], event["type"], event.get("outcome", {}).get("reason", ""))
        for event in events["events"]
    ]
    assert said.count((ENVOY, "call.allowed", "")) == 4
    assert (ENVOY, "call.denied", f"agent {PAYER} is suspended") in said
    # 9. While the issuer cannot be asked, nobody passes.
    local.issuer.stop()
    assert (await envoy.get("/v1/7"))[0] == 403
    assert len(backend.seen) == 4

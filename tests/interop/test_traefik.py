# SPDX-License-Identifier: Apache-2.0
"""Traefik, a go-spiffe client from the package index, takes its certificate from the attestor."""

import asyncio
import os
import shutil
import subprocess
import sys
import time
import urllib.error
import urllib.request
from pathlib import Path

import pytest

from deploy.local import Local, free_port
from spiffekit.id import SpiffeId
from spiffekit.workload import X509Source, exact, mtls_server_context, peer_spiffe_id

PROXY = "spiffe://example.org/proxy"
BACKEND = "spiffe://example.org/backend"
SVID_TTL = "6s"
DURATION = 14.0  # seconds: more than two lives


@pytest.fixture
def traefik(folder):
    """Start Traefik with a file of settings; it ends with the test."""
    binary = shutil.which("traefik", path=f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}")
    if binary is None:
        pytest.skip("no traefik for this platform on the package index")
    started = []

    def start(settings):
        path = folder / "traefik.yml"
        path.write_text(settings)
        with (folder / "traefik.log").open("ab") as log:
            started.append(subprocess.Popen([binary, f"--configFile={path}"], stdout=log, stderr=log))
        return started[-1]

    yield start
    for process in started:
        process.kill()
        process.wait()


@pytest.fixture(scope="module")
def local(folder):
    with Local(folder, issuer={"issuer": {"default_x509_svid_ttl": SVID_TTL}}) as deployment:
        yield deployment.start_issuer()


def get(port):
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/", timeout=20) as answer:
            return answer.status, answer.read().decode()
    except urllib.error.HTTPError as error:
        return error.code, ""
    except OSError:
        return 0, ""


async def test_traefik_keeps_serving_mtls_through_rotations(local, folder, traefik):
    attestor = local.start_attestor()
    front, back = free_port(), free_port()
    dynamic = folder / "dynamic.yml"
    dynamic.write_text(f"""
http:
  routers: {{all: {{rule: "PathPrefix(`/`)", service: backend, entryPoints: [web]}}}}
  services:
    backend: {{loadBalancer: {{serversTransport: mtls, servers: [{{url: "https://127.0.0.1:{back}"}}]}}}}
  serversTransports:
    mtls: {{spiffe: {{ids: ["{BACKEND}"]}}, maxIdleConnsPerHost: -1}}
""")
    # 1. Both are registered by what they execute, then Traefik starts.
    local.register("/backend", attestor.node_id, f"unix:path:{Path(sys.executable).resolve()}")
    process = traefik(f"""
global: {{checkNewVersion: false, sendAnonymousUsage: false}}
entryPoints: {{web: {{address: "127.0.0.1:{front}"}}}}
spiffe: {{workloadAPIAddr: "{attestor.endpoint}"}}
providers: {{file: {{filename: "{dynamic}"}}}}
""")
    executable = Path(f"/proc/{process.pid}/exe").readlink()
    local.register("/proxy", attestor.node_id, f"unix:path:{executable}")
    # 2. The backend talks to the proxy only, and keeps what certificates it saw.
    seen = set()

    async def serve(reader, writer):
        seen.add(writer.get_extra_info("ssl_object").getpeercert(binary_form=True))
        await reader.readuntil(b"\r\n\r\n")
        body = str(peer_spiffe_id(writer)).encode()
        head = f"HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: {len(body)}\r\n\r\n"
        writer.write(head.encode() + body)
        await writer.drain()
        writer.close()

    async with X509Source.open(attestor.endpoint) as source:
        context = mtls_server_context(source, exact(SpiffeId.parse(PROXY)))
        context.set_alpn_protocols(["http/1.1"])
        server = await asyncio.start_server(serve, "127.0.0.1", back, ssl=context)
        async with server:
            # 3. It takes Traefik a moment to have its certificate.
            deadline = time.monotonic() + 20
            while (await asyncio.to_thread(get, front))[0] != 200 and time.monotonic() < deadline:
                await asyncio.sleep(0.2)
            # 4. From then on no request fails, over more than two lives of the certificates.
            answers, ends = [], time.monotonic() + DURATION
            while time.monotonic() < ends:
                answers.append(await asyncio.to_thread(get, front))
                await asyncio.sleep(0.2)
    assert set(answers) == {(200, PROXY)}, (folder / "traefik.log").read_text()[-2000:]
    assert len(seen) >= 3, "Traefik presented renewed certificates"

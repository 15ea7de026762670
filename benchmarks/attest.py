# SPDX-License-Identifier: Apache-2.0
"""Attestations: nodes per second through TLS and gRPC, and what a process is, by attestor."""

import asyncio
import os
import shutil
import time

from attestor.peer import Process
from attestor.workload import docker, podman
from attestor.workload.unix import Config, UnixAttestor
from benchmarks.measure import Row, quantiles
from deploy.local import Local
from deploy.node import attested
from issuer.client import connect
from spiffekit.daemon.peer import PeerProcess
from spiffekit.wire.pb.spire.api.server.agent.v1 import agent_pb2
from tests.engines import docker as real_docker
from tests.engines import podman as real_podman

NODES = 60


async def run(folder, *, full):
    settings = {"issuer": {"attestations_per_second": 1e4}}
    with Local(folder, issuer=settings) as local:
        local.start_issuer()
        bundle = local.operator("bundle", "show").stdout
        with connect(local.admin_socket) as api:
            tokens = [
                api.nodes.CreateJoinToken(agent_pb2.CreateJoinTokenRequest(ttl=600), timeout=30).value
                for _ in range(2 * NODES)
            ]

        async def attest(token):
            began = time.perf_counter()
            async with attested(local, token, bundle):
                return time.perf_counter() - began

        alone = [await attest(token) for token in tokens[:NODES]]
        began = time.perf_counter()
        await asyncio.gather(*map(attest, tokens[NODES:]))
        rate = NODES / (time.perf_counter() - began)
    rows = quantiles(alone, "node attested by join token, new TLS connection")
    rows.append(Row(f"nodes attested, {NODES} at once", rate, "per second"))
    for name, config in (
        ("ids only", Config()),
        ("path and sha256", Config(discover_workload_path=True)),
        ("path, sha256 and ancestors", Config(discover_workload_path=True, discover_ancestors=True)),
    ):
        _, times = await attestations(UnixAttestor(config), os.getpid())
        rows += quantiles(times, f"unix, {name} (remembered hash)")
    for engine, module in ((real_docker, docker), (real_podman, podman)):
        if os.geteuid() == 0 and all(map(shutil.which, engine.PACKAGES)):
            rows += await containers(folder / module.TYPE, engine, module)
    return rows


async def containers(folder, engine, module):
    """How long a container takes that was asked for before, and one that was not."""
    folder.mkdir()
    firsts = []
    with engine.running(folder) as real, real.running(app="a") as (_, process):
        for _ in range(40):
            attestor = module.create(module.Config(real.socket))
            first, times = await attestations(attestor, process.pid)
            firsts.append(first)
    return [
        *quantiles(firsts, f"{module.TYPE}, first time"),
        *quantiles(times, f"{module.TYPE}, remembered", ("< 5 ms", "")),
    ]


async def attestations(attestor, pid):
    """Return the time of the first, and those of 500 more."""
    times = []
    peer = PeerProcess.from_pid(pid)
    try:
        for _ in range(501):
            began = time.perf_counter()
            assert (await attestor.attest(Process.of(peer))).selectors
            times.append(time.perf_counter() - began)
    finally:
        peer.close()
    return times[0], times[1:]

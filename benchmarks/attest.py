# SPDX-License-Identifier: Apache-2.0
"""Attestations: nodes per second through TLS and gRPC, and what a process is, by attestor."""

import asyncio
import os
import time

from attestor.peer import Process
from attestor.workload.unix import Config, UnixAttestor
from benchmarks.measure import Row, quantiles
from deploy.local import Local
from deploy.node import attested
from issuer.client import connect
from spiffekit.daemon.peer import PeerProcess
from spiffekit.wire.pb.spire.api.server.agent.v1 import agent_pb2

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
    for name, config in (("ids only", Config()), ("path and sha256", Config(discover_workload_path=True))):
        rows += quantiles(await unix(config), f"unix, {name} (remembered hash)")
    return rows


async def unix(config):
    attestor, times = UnixAttestor(config), []
    peer = PeerProcess.from_pid(os.getpid())
    try:
        await attestor.attest(Process.of(peer))
        for _ in range(500):
            began = time.perf_counter()
            await attestor.attest(Process.of(peer))
            times.append(time.perf_counter() - began)
    finally:
        peer.close()
    return times

# SPDX-License-Identifier: Apache-2.0
"""A large registry: memory per entry, start, look-ups of a node's entries, creation."""

import asyncio
import statistics
import time
from datetime import UTC, datetime

import psutil

from benchmarks.measure import Row
from deploy.local import Local
from issuer.client import connect
from issuer.registration import Registrations
from issuer.store import Database
from spiffekit.daemon.clock import SystemClock
from spiffekit.id import SpiffeId, TrustDomain
from spiffekit.wire.convert import spiffe_id_to_proto
from spiffekit.wire.pb.spire.api import types_pb2
from spiffekit.wire.pb.spire.api.server.agent.v1 import agent_pb2
from spiffekit.wire.pb.spire.api.server.entry.v1 import entry_pb2

NODES = 1000
BATCH = 500


async def run(folder, *, full):
    rows = []
    with Local(folder) as local:
        local.start_issuer()
        empty = resident(local)
        with connect(local.admin_socket) as api:
            parents = [SpiffeId.parse(f"spiffe://example.org/fleet/{number}") for number in range(NODES)]
            total = 0
            for size in (10_000, 100_000, *((1_000_000,) if full else ())):
                began = time.perf_counter()
                fill(api, parents, total, size)
                rate = (size - total) / (time.perf_counter() - began)
                total = size
                rows.append(Row(f"{size:,} entries: created per second, batches of {BATCH}", rate, "entries"))
                local.issuer.stop()
                began = time.perf_counter()
                local.start_issuer()
                started = time.perf_counter() - began
                each = (resident(local) - empty) / size
                aims = ("< 10 s", "< 2,000") if size == 100_000 else ("", "")
                rows.append(Row(f"{size:,} entries: start until ready", started, "s", aims[0]))
                rows.append(Row(f"{size:,} entries: resident memory per entry", each, "bytes", aims[1]))
    rows += await asyncio.to_thread(look_up, folder, f"{total:,} entries")
    return rows


def resident(local):
    return psutil.Process(local.issuer.pid).memory_info().rss


def fill(api, parents, start, end):
    if start == 0:
        request = agent_pb2.CreateJoinTokenRequest(ttl=600, agent_id=spiffe_id_to_proto(parents[0]))
        api.nodes.CreateJoinToken(request, timeout=30)
    for first in range(start, end, BATCH):
        entries = [
            types_pb2.Entry(
                spiffe_id=types_pb2.SPIFFEID(trust_domain="example.org", path=f"/agents/{number}"),
                parent_id=spiffe_id_to_proto(parents[number % NODES]),
                selectors=[
                    types_pb2.Selector(type="unix", value=f"uid:{number}"),
                    types_pb2.Selector(type="unix", value=f"path:/opt/agents/{number % 100}/run"),
                ],
            )
            for number in range(first, min(first + BATCH, end))
        ]
        answer = api.entries.BatchCreateEntry(entry_pb2.BatchCreateEntryRequest(entries=entries), timeout=60)
        assert all(result.status.code == 0 for result in answer.results)


def look_up(folder, name):
    """Ask the index in this process: what a node may be given, remembered and computed anew."""
    trust_domain = TrustDomain("example.org")
    database = Database.open(folder / "issuer" / "issuer.db", clock=SystemClock())
    registrations = Registrations(trust_domain)

    async def load():
        await database.read(lambda tx: registrations.load(tx.entries.all(), tx.nodes.all(), tx.bundles.all()))

    asyncio.run(load())
    from dataclasses import replace

    from issuer.model import Node

    now = datetime.now(UTC)
    node = Node(
        id=SpiffeId(trust_domain, "/spire/agent/join_token/bench"),
        attestation_type="join_token",
        serial="1",
        expires_at=now,
    )
    (alias,) = [e for e in registrations.entries() if e.parent_id.path == "/spire/server"][:1] or [None]
    if alias is not None:
        node = replace(node, id=SpiffeId.parse(next(iter(alias.selectors)).value))
    registrations._nodes[node.id] = node
    times = []
    for _ in range(200):
        registrations._remembered.clear()
        began = time.perf_counter()
        found = registrations.authorized(node.id, now)
        times.append(time.perf_counter() - began)
    began = time.perf_counter()
    for _ in range(1000):
        registrations.authorized(node.id, now)
    again = (time.perf_counter() - began) / 1000
    database.close()
    what = f"{name}: a node's {len(found.entries)} entries looked up"
    return [
        Row(f"{what}, p50", statistics.median(times) * 1000, "ms", "< 1 ms"),
        Row(f"{what} again", again * 1e6, "µs"),
    ]

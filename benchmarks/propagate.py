# SPDX-License-Identifier: Apache-2.0
"""An operator's act reaches workloads: an entry created, an entry deleted; one attestor, and many nodes."""

import asyncio
import contextlib
import os
import time
from datetime import timedelta

from benchmarks.measure import quantiles
from deploy.local import Local
from deploy.node import attested
from issuer.client import connect
from spiffekit.id import SpiffeId
from spiffekit.wire.convert import spiffe_id_to_proto
from spiffekit.wire.pb.spire.api import types_pb2
from spiffekit.wire.pb.spire.api.server.agent.v1 import agent_pb2
from spiffekit.wire.pb.spire.api.server.entry.v1 import entry_pb2
from spiffekit.workload import WorkloadApi

ROUNDS = 60
NODES = 100
BASE = SpiffeId.parse("spiffe://example.org/bench")


async def run(folder, *, full):
    settings = {"issuer": {"attestations_per_second": 1e4}}
    with Local(folder, issuer=settings) as local:
        local.start_issuer()
        attestor = local.start_attestor()
        with connect(local.admin_socket) as api:
            rows = await to_a_workload(api, attestor)
            rows += await to_nodes(local, api, 1000 if full else NODES)
    return rows


def entry(parent, selectors, path, entry_id=""):
    return types_pb2.Entry(
        id=entry_id,
        spiffe_id=spiffe_id_to_proto(BASE.with_path(path)),
        parent_id=spiffe_id_to_proto(parent),
        selectors=[types_pb2.Selector(type=kind, value=value) for kind, value in selectors],
    )


def create(api, *entries):
    answer = api.entries.BatchCreateEntry(entry_pb2.BatchCreateEntryRequest(entries=entries), timeout=30)
    assert all(result.status.code == 0 for result in answer.results), answer
    return [result.entry.id for result in answer.results]


def delete(api, entry_id):
    api.entries.BatchDeleteEntry(entry_pb2.BatchDeleteEntryRequest(ids=[entry_id]), timeout=30)


async def to_a_workload(api, attestor):
    """A stream waits; time from before the operator's call to the message with, then without, the SVID."""
    parent = SpiffeId.parse(attestor.node_id)
    uid = [("unix", f"uid:{os.getuid()}")]
    await asyncio.to_thread(create, api, entry(parent, uid, "/always"))
    created, deleted = [], []
    async with WorkloadApi.connect(attestor.endpoint) as client:
        updates = client.watch_x509()
        await anext(updates)
        for number in range(ROUNDS):
            path = f"/round/{number}"
            began = time.perf_counter()
            making = asyncio.create_task(asyncio.to_thread(create, api, entry(parent, uid, path)))
            while all(svid.spiffe_id.path != path for svid in (await anext(updates)).svids):
                pass
            created.append(time.perf_counter() - began)
            (entry_id,) = await making
            began = time.perf_counter()
            gone = asyncio.create_task(asyncio.to_thread(delete, api, entry_id))
            while any(svid.spiffe_id.path == path for svid in (await anext(updates)).svids):
                pass
            deleted.append(time.perf_counter() - began)
            await gone
    return [
        *quantiles(created, "entry created to SVID on a waiting stream", ("", "< 100 ms")),
        *quantiles(deleted, "entry deleted to SVID withdrawn", ("", "< 1 s")),
    ]


async def to_nodes(local, api, count):
    """Push streams of many nodes; time until every one has heard of an entry for all of them."""
    bundle = (await asyncio.to_thread(local.operator, "bundle", "show")).stdout
    alias = SpiffeId.parse("spiffe://example.org/fleet")
    times, heard = [], asyncio.Queue()
    async with contextlib.AsyncExitStack() as stack:

        async def listen(client):
            async for update in client.watch(timedelta(seconds=60)):
                for one in update.entries:
                    heard.put_nowait((one.spiffe_id.path, time.perf_counter()))
                if update.snapshot and not update.more:
                    heard.put_nowait(("snapshot", 0.0))

        listeners = []
        for _ in range(count):
            request = agent_pb2.CreateJoinTokenRequest(ttl=600, agent_id=spiffe_id_to_proto(alias))
            token = (await asyncio.to_thread(api.nodes.CreateJoinToken, request, timeout=30)).value
            client = await stack.enter_async_context(attested(local, token, bundle))
            listeners.append(asyncio.create_task(listen(client)))
        for _ in range(count):
            assert (await heard.get())[0] == "snapshot"
        for number in range(10):
            path, began = f"/fleet/{number}", time.perf_counter()
            await asyncio.to_thread(create, api, entry(alias, [("unix", "uid:1")], path))
            arrived = []
            while len(arrived) < count:
                found, at = await heard.get()
                if found == path:
                    arrived.append(at - began)
            times += arrived
        for listener in listeners:
            listener.cancel()
        await asyncio.gather(*listeners, return_exceptions=True)
    return quantiles(times, f"entry created to each of {count} nodes' push streams")

# SPDX-License-Identifier: Apache-2.0
"""Many open streams in one attestor: memory of each, the time until an update has reached all, and rest."""

import asyncio
import contextlib
import os
import time

import grpc
import psutil

from benchmarks.issue import register
from benchmarks.measure import Row
from benchmarks.propagate import create, entry
from deploy.local import Local
from issuer.client import connect
from spiffekit.id import SpiffeId
from spiffekit.wire.workload_api import SECURITY_HEADER, method

SPEC = method("FetchX509SVID")
IDLE = 20  # seconds


async def run(folder, *, full):
    rows = []
    with Local(folder) as local:
        local.start_issuer()
        attestor = local.start_attestor()
        uid = f"unix:uid:{os.getuid()}"
        await asyncio.to_thread(local.register, "/bench", attestor.node_id, uid)
        process = psutil.Process(attestor.daemon.pid)
        await asyncio.sleep(1)
        rest = process.memory_info().rss
        rows.append(Row("attestor at rest, resident", rest / 2**20, "MiB", "< 90 MB"))
        for count in (100, 1000):
            async with streams(str(attestor.socket), count) as heard:
                await everybody(heard, count)
                each = (process.memory_info().rss - rest) / count
                aim = "< 60 KB" if count == 1000 else ""
                rows.append(Row(f"{count} streams: resident memory of each", each / 1000, "KB", aim))
                began = time.perf_counter()
                with connect(local.admin_socket) as api:
                    parent = SpiffeId.parse(attestor.node_id)
                    new = entry(parent, [("unix", f"uid:{os.getuid()}")], f"/more-{count}")
                    await asyncio.to_thread(create, api, new)
                await everybody(heard, count)
                whole = time.perf_counter() - began
                aim = "< 1 s" if count == 1000 else ""
                rows.append(Row(f"{count} streams: an update has reached all", whole, "s", aim))
        parent = SpiffeId.parse(attestor.node_id)
        entries = await asyncio.to_thread(register, local, parent)
        async with streams(str(attestor.socket), len(entries)) as heard:
            await everybody(heard, len(entries))
            await asyncio.sleep(3)  # until the SVIDs of the entries are there
            cpu = sum(process.cpu_times()[:2])
            await asyncio.sleep(IDLE)
            cpu = (sum(process.cpu_times()[:2]) - cpu) / IDLE
        what = f"{len(entries)} streams and entries: CPU while nothing happens"
        rows.append(Row(what, cpu * 100, "% of a core", "< 1"))
    return rows


@contextlib.asynccontextmanager
async def streams(path, count):
    """Open streams, each on a connection of its own; yield the queue of what they hear."""
    heard = asyncio.Queue()

    async def listen():
        options = [("grpc.use_local_subchannel_pool", 1)]
        async with grpc.aio.insecure_channel(f"unix:{path}", options=options) as channel:
            open_stream = channel.unary_stream(SPEC.path, SPEC.request.SerializeToString, len)
            async for size in open_stream(SPEC.request(), metadata=(SECURITY_HEADER,)):
                heard.put_nowait(size)

    tasks = []
    for _ in range(count):
        tasks.append(asyncio.create_task(listen()))
        if len(tasks) % 50 == 0:
            await asyncio.sleep(0.1)
    try:
        yield heard
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


async def everybody(heard, count):
    async with asyncio.timeout(60):
        for _ in range(count):
            await heard.get()

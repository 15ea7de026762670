# SPDX-License-Identifier: Apache-2.0
"""A workload connects and has its SVID: attested there and then, the SVID ready before it asked."""

import asyncio
import contextlib
import os
import subprocess
import sys
import time

import grpc

from benchmarks.measure import Row, quantiles
from deploy.local import Local
from spiffekit.wire.workload_api import SECURITY_HEADER, method

ALONE = 300
AT_ONCE = 200
OWN = 40
SPEC = method("FetchX509SVID")


async def run(folder, *, full):
    alone, own, bare, bare_own = [], [], [], []
    with Local(folder) as local:
        local.start_issuer()
        attestor = local.start_attestor()
        ours = str(attestor.socket)
        local.register("/bench", attestor.node_id, f"unix:uid:{os.getuid()}")
        async with bare_server(folder) as theirs:
            await fetch(ours)
            for _ in range(ALONE):  # side by side, so that a noisy machine hurts both
                alone.append(await fetch(ours))
                bare.append(await fetch(theirs))
            began = time.perf_counter()
            many = await asyncio.gather(*(fetch(ours) for _ in range(AT_ONCE)))
            whole = time.perf_counter() - began
            local.register("/own", attestor.node_id, f"unix:uid:{os.getuid()}", options=["--perProcess"])
            for _ in range(OWN):
                own += await asyncio.to_thread(processes, ours, 1)
                bare_own += await asyncio.to_thread(processes, theirs, 1)
            began = time.perf_counter()
            crowd = await asyncio.to_thread(processes, ours, AT_ONCE)
            last = time.perf_counter() - began
            began = time.perf_counter()
            await asyncio.to_thread(processes, theirs, AT_ONCE)
            bare_last = time.perf_counter() - began
    rows = quantiles(alone, "connect to SVID, one at a time", ("< 5 ms", "< 20 ms"))
    rows += quantiles(bare, "reference: bare grpc.aio server, constant answer")
    rows += quantiles(many, f"connect to SVID, {AT_ONCE} at once, from one client process")
    rows.append(Row(f"{AT_ONCE} at once, until the last has it", whole * 1000, "ms"))
    rows += quantiles(own, "just in time, one new process at a time", ("< 15 ms", ""))
    rows += quantiles(bare_own, "reference: bare server, one new process at a time")
    rows += quantiles(crowd, f"just in time, {AT_ONCE} processes at once")
    rows.append(Row(f"{AT_ONCE} processes, until the last is served and gone", last, "s", "< 3 s"))
    rows.append(Row("reference: bare server, the same", bare_last, "s"))
    return rows


async def fetch(path):
    """Return the seconds from a new connection to the first answer."""
    began = time.perf_counter()
    options = [("grpc.use_local_subchannel_pool", 1)]
    async with grpc.aio.insecure_channel(f"unix:{path}", options=options) as channel:
        stream = channel.unary_stream(SPEC.path, SPEC.request.SerializeToString, lambda data: data)(
            SPEC.request(), metadata=(SECURITY_HEADER,), timeout=30
        )
        async for answer in stream:
            assert answer
            break
        took = time.perf_counter() - began
        stream.cancel()
    return took


def processes(path, count):
    """Return what each of so many new processes measures, from connecting to its first answer.

    They are forks of a small program that has loaded what it needs, and start together.
    """
    answer = subprocess.run(
        [sys.executable, "-m", "benchmarks.crowd", str(path), str(count)],
        check=True,
        capture_output=True,
        text=True,
        timeout=120,
    )
    took = [float(line) for line in answer.stdout.split()]
    assert len(took) == count, answer.stderr
    return took


@contextlib.asynccontextmanager
async def bare_server(folder):
    """Serve a constant answer; yield the path of the socket."""

    async def handle(_request, _context):
        yield b"x" * 1500

    server = grpc.aio.server()
    service, name = SPEC.path[1:].split("/")
    handler = grpc.unary_stream_rpc_method_handler(handle, lambda data: data, lambda data: data)
    server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(service, {name: handler}),))
    server.add_insecure_port(f"unix:{folder}/bare.sock")
    await server.start()
    try:
        yield f"{folder}/bare.sock"
    finally:
        await server.stop(0)

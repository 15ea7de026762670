# SPDX-License-Identifier: Apache-2.0
"""Kubernetes: what a process in a pod is, on a node with 500 pods, and what pods cost while nobody asks."""

import asyncio
import contextlib
import multiprocessing
import time
import tracemalloc
from datetime import timedelta

from attestor.workload.k8s import K8sAttestor
from attestor.workload.pods import KubeletPods, WatchedPods
from benchmarks.measure import Row, quantiles
from issuer.config import KubernetesTable
from issuer.kubernetes import Clusters
from spiffekit.daemon.clock import SystemClock
from spiffekit.daemon.kubernetes import facts
from spiffekit.daemon.kubernetes.access import Access
from spiffekit.daemon.kubernetes.client import KubernetesClient
from tests.attestor.workload.kubernetes import Processes
from tests.fakes.kubernetes import ADMIN, ApiServer, Authority, Kubelet, pod

PODS = 500
IDLE = 20  # seconds
FILLER = [{"manager": "kubelet", "operation": "Update", "fieldsV1": {f"f:{n}": {} for n in range(250)}}]


def one(number, **more):
    """A pod of a common size: 6 KB as JSON."""
    found = pod(f"pod-{number}", containers=("app", "sidecar"), app=f"app-{number % 40}", **more)
    found["metadata"]["managedFields"] = FILLER
    return found


def serve(pipe):
    """Run both servers in a process of their own, so that their work is not counted as ours."""
    authority = Authority()
    pods = [one(number) for number in range(PODS)]
    with Kubelet(pods, authority, names=("node-1",)) as kubelet, ApiServer(authority) as api:
        for number in range(PODS):
            api.store.put("pods", one(number))
        pipe.send((authority.pem, kubelet.port, api.port))
        pipe.recv()


@contextlib.contextmanager
def servers():
    ours, theirs = multiprocessing.Pipe()
    process = multiprocessing.get_context("fork").Process(target=serve, args=(theirs,))
    process.start()
    try:
        yield ours.recv()
    finally:
        ours.send(None)
        process.join(10)


async def run(folder, *, full):
    proc = folder / "proc"
    proc.mkdir()
    process = Processes(proc).of(one(250))
    with servers() as (ca, kubelet, api):
        clock = SystemClock()
        access = Access("127.0.0.1", kubelet, ca=ca, token=b"node-token", server_name="node-1")
        rows = await asked(access, process, clock)
        rows += await followed(Access("127.0.0.1", api, ca=ca, token=ADMIN.encode()), process, clock)
    return rows


async def asked(access, process, clock):
    """The kubelet's list: the first, and while it serves."""
    firsts = []
    for _ in range(20):
        attestor = K8sAttestor(KubeletPods(KubernetesClient(access), clock))
        firsts.append((await times(attestor, process, 1))[0])
    warm = await times(attestor, process, 500)
    began = time.process_time()
    await asyncio.sleep(IDLE)
    idle = (time.process_time() - began) / IDLE
    return [
        *quantiles(firsts, f"k8s, kubelet, {PODS} pods, first"),
        *quantiles(warm, f"k8s, kubelet, {PODS} pods, warm", ("< 1 ms", "< 5 ms")),
        Row("k8s, kubelet, idle", idle * 100, "% of a core", "< 0.1"),
    ]


async def followed(access, process, clock):
    """The API server's watch, in the attestor and in the issuer."""
    client = KubernetesClient(access)
    pods = WatchedPods(client, clock, node_name="node-1")
    attestor = K8sAttestor(pods)
    clusters = Clusters.of({"c1": KubernetesTable()}, {"c1": client}, clock)
    tasks = [asyncio.create_task(f.run(lambda: None)) for f in (attestor, clusters)]
    try:
        watch = clusters._clusters["c1"].pods
        while not watch.begun:  # its first list is the issuer's work, and no attestor waits for it
            await watch.changed()
        await attestor.attest(process)
        warm = await times(attestor, process, 500)
        checks = check_times(clusters, watch.known[process_uid()])
        began = time.process_time()
        await asyncio.sleep(IDLE)
        idle = (time.process_time() - began) / IDLE
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
    tracemalloc.start()
    found, _ = await client.pods()
    kept = tracemalloc.get_traced_memory()[0] / len(found)
    tracemalloc.stop()
    return [
        *quantiles(warm, f"k8s, API server, {PODS} pods, warm", ("< 1 ms", "< 5 ms")),
        Row(f"two watches of {PODS} pods, idle", idle * 100, "% of a core", "< 0.5"),
        *quantiles(checks, "issuer checks a pod and its selectors"),
        Row("a pod in the issuer's memory", kept / 1024, "KiB"),
    ]


def process_uid():
    return one(250)["metadata"]["uid"]


def check_times(clusters, found):
    status = found.status.container_statuses[0]
    said = facts.pod_facts(found, status), facts.container_facts(found, status)
    measured = []
    for _ in range(2000):
        began = time.perf_counter()
        clusters.check("c1", "node-1", *said)
        clusters.selectors("c1", said[0])
        measured.append(time.perf_counter() - began)
    return measured


async def times(attestor, process, count):
    measured = []
    async with asyncio.timeout(timedelta(minutes=1).total_seconds()):
        for _ in range(count):
            began = time.perf_counter()
            assert (await attestor.attest(process)).selectors
            measured.append(time.perf_counter() - began)
    return measured

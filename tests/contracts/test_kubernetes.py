# SPDX-License-Identifier: Apache-2.0
"""What we rely on of an API server: the fake one keeps it, and a real one (`make test-kubernetes`)."""

import asyncio
import json
import os
from dataclasses import replace
from datetime import timedelta
from pathlib import Path

import pytest

from attestor.workload.cgroups import Pod as Place
from attestor.workload.pods import WatchedPods
from issuer.config import KubernetesTable
from issuer.errors import EvidenceRejectedError
from issuer.kubernetes import Clusters
from issuer.node.k8s_psat import Cluster as NodeRules
from issuer.node.k8s_psat import Config as NodeConfig
from issuer.node.k8s_psat import K8sPsatVerifier
from spiffekit.daemon.clock import SystemClock
from spiffekit.daemon.kubernetes import facts
from spiffekit.daemon.kubernetes.access import Access
from spiffekit.daemon.kubernetes.client import KubernetesClient, KubernetesError
from spiffekit.daemon.kubernetes.objects import NAMESPACES, PodList
from spiffekit.daemon.kubernetes.watch import Watch
from spiffekit.selector import Selector
from tests.contracts.kubernetes import Cluster
from tests.fakes.kubernetes import ADMIN, ApiServer, Authority
from tests.issuer.node.x509pop_node import Context

REAL = os.environ.get("TEST_KUBECONFIG", "")


@pytest.fixture
async def cluster():
    if REAL:
        async with Cluster.real(Path(REAL)) as found:
            yield found
        return
    authority = Authority()
    with ApiServer(authority) as server:
        access = Access("127.0.0.1", server.port, ca=authority.pem, token=ADMIN.encode())
        async with Cluster(access, patience=5) as found:
            yield found


def on(cluster):
    return f"spec.nodeName={cluster.node}"


async def watched(cluster, version, seconds):
    """The events of a whole watch."""
    query = {
        "watch": "true",
        "allowWatchBookmarks": "true",
        "fieldSelector": on(cluster),
        "resourceVersion": version,
        "timeoutSeconds": str(seconds),
    }
    async with asyncio.timeout(seconds + 10):
        return [json.loads(line) async for line in cluster.client.lines("/api/v1/pods", query) if line]


async def test_a_pod_is_listed_with_what_we_read(cluster):
    created = await cluster.run("one")
    (pod,), version = await cluster.client.pods(on(cluster))
    assert version
    assert pod.metadata.uid == created["metadata"]["uid"]
    assert (pod.metadata.namespace, pod.metadata.name) == (cluster.namespace, "one")
    assert (pod.spec.node_name, pod.spec.service_account_name) == (cluster.node, "booking")
    assert pod.metadata.labels == {"app": "one"}
    assert (pod.status.phase, pod.status.host_ip) == ("Running", "10.0.0.1")
    assert pod.container("ab" * 32).name == "app"
    assert pod.image("app") == "registry.example.org/app:1"


async def test_only_pods_of_the_node_are_listed(cluster):
    await cluster.create("here")
    await cluster.create("there", node="another-node-of-nobody")
    pods, _ = await cluster.client.pods(on(cluster))
    assert [pod.metadata.name for pod in pods] == ["here"]
    await cluster.remove("there")


async def test_what_both_daemons_make_of_a_cluster(cluster):
    """The node proves itself by its token; then the pods on it are what the cluster says, until they end."""
    await cluster.run("attestor-1", "attestor")
    await cluster.run("one", identifier="cd" * 32)
    rules = NodeRules(service_account_allow_list=(f"{cluster.namespace}:attestor",))
    verifier = K8sPsatVerifier(NodeConfig(clusters={"c1": rules}))
    token = await cluster.token("attestor-1", "attestor")
    payload = json.dumps({"cluster": "c1", "token": token}).encode()
    proof = await verifier.verify(payload, None, Context(c1=cluster.client))
    node = await cluster.client.node(cluster.node)
    assert str(proof.node_id).endswith(f"/k8s_psat/c1/{node.metadata.uid}")
    assert Selector("k8s_psat", f"agent_node_name:{cluster.node}") in proof.selectors

    pods = WatchedPods(cluster.client, SystemClock(), node_name=cluster.node)
    clusters = Clusters.of({"c1": KubernetesTable()}, {"c1": cluster.client}, SystemClock())
    tasks = [asyncio.create_task(one.run(lambda: None)) for one in (pods, clusters)]
    try:
        uid = (await cluster.client.pod(cluster.namespace, "one")).metadata.uid
        async with asyncio.timeout(20):
            pod = await pods.find(Place(uid, "cd" * 32))
        container = pod.container("cd" * 32)
        said = facts.pod_facts(pod, container), facts.container_facts(pod, container)

        async def vouched():
            try:
                clusters.check("c1", cluster.node, *said)
            except EvidenceRejectedError as error:
                raise AssertionError from error

        await cluster.eventually(vouched)
        assert clusters.selectors("c1", said[0]) == facts.selectors(pod, container)
        await cluster.remove("one")

        async def no_longer():
            with pytest.raises(EvidenceRejectedError):
                clusters.check("c1", cluster.node, *said)

        await cluster.eventually(no_longer)
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


async def test_labels_of_a_namespace_are_known(cluster):
    """Every namespace has a label with its name, besides those that it was given."""
    watch = Watch(
        cluster.client, SystemClock(), NAMESPACES, keep=lambda one: one, stale_after=timedelta(minutes=1)
    )
    task = asyncio.create_task(watch.run())
    try:
        async with asyncio.timeout(20):
            found = await watch.find(lambda known: known.get(cluster.namespace))
        assert found.metadata.labels == {"kubernetes.io/metadata.name": cluster.namespace, "team": "travel"}
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


async def test_a_list_comes_in_pages(cluster):
    for name in ("a", "b", "c"):
        await cluster.create(name)
    query = {"limit": "2", "fieldSelector": on(cluster)}
    found = []
    while True:
        page = await cluster.client.get("/api/v1/pods", PodList, query)
        found += [pod.metadata.name for pod in page.items or ()]
        if not page.metadata.continue_token:
            break
        query["continue"] = page.metadata.continue_token
    assert found == ["a", "b", "c"]


async def test_a_watch_tells_what_happens_after_a_version(cluster):
    await cluster.create("before")
    _, version = await cluster.client.pods(on(cluster))
    await cluster.run("after")
    await cluster.remove("before")
    events = await watched(cluster, version, 1)
    told = [(event["type"], event["object"]["metadata"].get("name")) for event in events]
    assert [one for one in told if one[0] != "BOOKMARK"] == [
        ("ADDED", "after"),
        ("MODIFIED", "after"),
        ("MODIFIED", "before"),
        ("DELETED", "before"),
    ]


async def test_a_watch_ends_when_it_should_and_can_be_taken_up(cluster):
    await cluster.create("one")
    _, version = await cluster.client.pods(on(cluster))
    await cluster.remove("one")
    first = await watched(cluster, version, 1)
    latest = first[-1]["object"]["metadata"]["resourceVersion"]
    await cluster.create("two")
    second = [event for event in await watched(cluster, latest, 1) if event["type"] != "BOOKMARK"]
    assert [(event["type"], event["object"]["metadata"]["name"]) for event in second] == [("ADDED", "two")]


async def test_a_quiet_watch_says_nothing_but_where_it_stands(cluster):
    """A real server may not even say that: a version may grow too old, and that is no failure."""
    _, version = await cluster.client.pods(on(cluster))
    await cluster.create("elsewhere", node="another-node-of-nobody")
    for event in await watched(cluster, version, 1):
        assert event["type"] == "BOOKMARK"
        assert int(event["object"]["metadata"]["resourceVersion"]) >= int(version)
        assert event["object"]["spec"] == {"containers": None}
    await cluster.remove("elsewhere")


async def test_a_version_that_is_too_old_is_gone(cluster):
    """A server says so by its status, or in the first event."""
    try:
        events = await watched(cluster, "1", 1)
        if REAL and not events:
            pytest.skip("the cluster is so young that no version is too old")
        code = events[0]["object"]["code"]
    except KubernetesError as error:
        code = error.code
    assert code == 410


async def test_a_deleted_pod_says_until_when_it_may_finish(cluster):
    await cluster.run("one")
    await cluster.remove("one", grace=300)
    (pod,), _ = await cluster.client.pods(on(cluster))
    assert pod.metadata.deletion_timestamp is not None


async def test_what_does_not_exist_is_not_found(cluster):
    for ask in (cluster.client.pod(cluster.namespace, "nobody"), cluster.client.node("nobody-at-all")):
        with pytest.raises(KubernetesError) as caught:
            await ask
        assert caught.value.code == 404


async def test_a_node_has_a_uid_and_labels(cluster):
    node = await cluster.client.node(cluster.node)
    assert node.metadata.uid
    assert node.metadata.labels["zone"] == "a"


async def test_nobody_is_not_let_in(cluster):
    stranger = replace(cluster.access, token=b"nonsense", certificate=None, key=None)
    with pytest.raises(KubernetesError) as caught:
        await KubernetesClient(stranger).pods()
    assert caught.value.code == 401


async def test_a_token_is_vouched_for_with_its_pod(cluster):
    pod = await cluster.create("one")
    token = await cluster.token("one")
    verdict = await cluster.client.review(token, ("spire-server", "another"))
    assert verdict.authenticated
    assert verdict.audiences == ("spire-server",)
    assert verdict.user.username == f"system:serviceaccount:{cluster.namespace}:booking"
    assert verdict.user.extra["authentication.kubernetes.io/pod-name"] == ("one",)
    assert verdict.user.extra["authentication.kubernetes.io/pod-uid"] == (pod["metadata"]["uid"],)


async def test_a_token_of_no_pod_names_none(cluster):
    verdict = await cluster.client.review(await cluster.token(None), ("spire-server",))
    assert verdict.authenticated
    assert "authentication.kubernetes.io/pod-name" not in verdict.user.extra


async def test_a_token_for_another_audience_is_not_vouched_for(cluster):
    await cluster.create("one")
    token = await cluster.token("one", audience="elsewhere")
    verdict = await cluster.client.review(token, ("spire-server",))
    assert not verdict.authenticated
    assert verdict.error


async def test_what_is_no_token_is_not_vouched_for(cluster):
    assert not (await cluster.client.review("nonsense", ("spire-server",))).authenticated


async def test_a_token_ends_with_its_pod(cluster):
    await cluster.create("one")
    token = await cluster.token("one")
    assert (await cluster.client.review(token, ("spire-server",))).authenticated
    await cluster.remove("one")

    async def refused():
        assert not (await cluster.client.review(token, ("spire-server",))).authenticated

    await cluster.eventually(refused)


async def test_a_token_does_not_pass_to_a_new_pod_of_the_same_name(cluster):
    await cluster.create("one")
    token = await cluster.token("one")
    await cluster.remove("one")
    await cluster.create("one")

    async def refused():
        assert not (await cluster.client.review(token, ("spire-server",))).authenticated

    await cluster.eventually(refused)

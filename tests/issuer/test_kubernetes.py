# SPDX-License-Identifier: Apache-2.0
"""What a compromised attestor may say of pods: nothing but what their cluster says, as it is now."""

import asyncio
from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest

from issuer.config import KubernetesTable
from issuer.errors import EvidenceRejectedError
from issuer.kubernetes import Clusters
from spiffekit.daemon.clock import SystemClock
from spiffekit.daemon.config import Span
from spiffekit.daemon.kubernetes.access import Access
from spiffekit.daemon.kubernetes.client import KubernetesClient
from spiffekit.daemon.kubernetes.objects import NAMESPACES
from spiffekit.daemon.kubernetes.watch import Watch
from spiffekit.evidence import ContainerFacts, PodFacts
from spiffekit.selector import Selector
from tests.fakes.clock import SteppedClock
from tests.fakes.kubernetes import ADMIN, ApiServer, Authority, container_id, image_of, pod, status


class World:
    def __init__(self, server, clusters, clock):
        self.server, self.store, self.clusters, self.clock = server, server.store, clusters, clock

    async def reject(self, rule, pod_facts, container, *, cluster="c1", node="node-1"):
        with pytest.raises(EvidenceRejectedError) as caught:
            self.clusters.check(cluster, node, pod_facts, container)
        assert rule in str(caught.value)

    async def until(self, check):
        """Wait for what was done to be seen."""
        async with asyncio.timeout(5):
            while True:
                try:
                    return check()
                except EvidenceRejectedError:
                    await asyncio.sleep(0.01)

    async def until_rejected(self, rule, *facts):
        async with asyncio.timeout(5):
            while True:
                try:
                    self.clusters.check("c1", "node-1", *facts)
                except EvidenceRejectedError as error:
                    reason = str(error)
                    break
                await asyncio.sleep(0.01)
        assert rule in reason


@pytest.fixture(scope="module")
def authority():
    return Authority()


@pytest.fixture
async def world(authority):
    clock = SteppedClock()
    with ApiServer(authority) as server:
        access = Access("127.0.0.1", server.port, ca=authority.pem, token=ADMIN.encode())
        table = KubernetesTable(stale_after=Span(seconds=10), namespace_labels=True)
        clusters = Clusters.of({"c1": table}, {"c1": KubernetesClient(access)}, clock)
        server.store.put("pods", pod("one"))
        ready = asyncio.Event()
        task = asyncio.create_task(clusters.run(ready.set))
        try:
            await ready.wait()
            found = World(server, clusters, clock)
            await found.until(lambda: clusters.check("c1", "node-1", *claim(pod("one"))))
            yield found
        finally:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)


def claim(one, which="app", **more):
    """The facts that an honest attestor states, or with `more` another one."""
    meta, uid = one["metadata"], one["metadata"]["uid"]
    of = next(s for s in one["status"]["containerStatuses"] if s["name"] == which)
    said = {
        "uid": uid,
        "namespace": meta["namespace"],
        "name": meta["name"],
        "service_account": one["spec"]["serviceAccountName"],
        "node_name": one["spec"]["nodeName"],
        "container": which,
    }
    box = {
        "engine": "k8s",
        "id": container_id(f"{uid}/{which}"),
        "name": which,
        "image": image_of(which),
        "image_digest": of["imageID"].partition("@")[2],
    }
    pod_facts = PodFacts(**{key: more.get(key, value) for key, value in said.items()})
    return pod_facts, ContainerFacts(**{key: more.get(key, value) for key, value in box.items()})


async def test_the_truth_is_accepted(world):
    world.clusters.check("c1", "node-1", *claim(pod("one")))


async def test_nothing_is_asked_per_check(world):
    def asked():  # by anything but the one watch, which may be about to begin
        return [path for _, path in world.server.calls if "watch=" not in path]

    before = asked()
    for _ in range(100):
        world.clusters.check("c1", "node-1", *claim(pod("one")))
    assert asked() == before


async def test_a_pod_of_another_node_is_not(world):
    there = pod("two", node="node-2")
    world.store.put("pods", there)
    await world.until(lambda: world.clusters.check("c1", "node-2", *claim(there)))
    await world.reject("another node", *claim(there))
    await world.reject("another node", *claim(there, node_name="node-1"))
    await world.reject("another node", *claim(pod("one")), node="node-2")


async def test_a_pod_that_nobody_knows_is_none(world):
    await world.reject("no such pod", *claim(pod("one"), uid="00000000-0000-0000-0000-000000000000"))


@pytest.mark.parametrize(
    ("field", "value", "rule"),
    [
        ("namespace", "kube-system", "pod.namespace"),
        ("name", "another", "pod.name"),
        ("service_account", "admin", "pod.service_account"),
        ("container", "sidecar", "pod.container"),
        ("id", "0" * 64, "container.id"),
        ("image", "registry.example.org/trusted:1", "container.image"),
        ("image_digest", "sha256:" + "0" * 64, "container.image_digest"),
        ("image_digest", "", "container.image_digest"),
    ],
)
async def test_a_claim_of_another_thing_is_refused(world, field, value, rule):
    await world.reject(rule, *claim(pod("one"), **{field: value}))


async def test_a_claim_without_a_container_is_refused(world):
    await world.reject("evidence.container: is missing", claim(pod("one"))[0], None)


async def test_the_container_of_one_pod_is_not_that_of_another(world):
    other = pod("two", account="admin")
    world.store.put("pods", other)
    await world.until(lambda: world.clusters.check("c1", "node-1", *claim(other)))
    await world.reject("container.id", claim(other)[0], claim(pod("one"))[1])


async def test_a_runtime_that_tells_the_images_id_is_held_to_it(world):
    one = pod("three")
    one["status"]["containerStatuses"][0]["imageID"] = "docker://sha256:" + "c" * 64
    world.store.put("pods", one)
    pod_facts, container = claim(one)
    told = {"engine": "k8s", "id": container.id, "image": container.image}
    await world.until(
        lambda: world.clusters.check(
            "c1", "node-1", pod_facts, ContainerFacts(**told, image_id="sha256:" + "c" * 64)
        )
    )
    await world.reject("image_id", pod_facts, ContainerFacts(**told, image_id="sha256:" + "d" * 64))


@pytest.mark.parametrize("phase", ["Succeeded", "Failed", "Unknown", ""])
async def test_a_dead_pod_earns_nothing(world, phase):
    one = pod("one")
    world.store.put("pods", {**one, "status": {**one["status"], "phase": phase}})
    await world.until_rejected("has ended", *claim(one))


async def test_a_pod_that_is_removed_earns_nothing(world):
    world.store.remove("pods", "default", "one")
    await world.until_rejected("no such pod", *claim(pod("one")))


async def test_a_deleted_pod_may_finish_until_its_end(world):
    one = pod("one")
    end = datetime.now(UTC) + timedelta(seconds=4)
    one["metadata"]["deletionTimestamp"] = end.strftime("%Y-%m-%dT%H:%M:%SZ")
    world.store.put("pods", one)
    await world.until(lambda: seen(world, one))
    world.clusters.check("c1", "node-1", *claim(one))
    world.clock.ahead = timedelta(seconds=5)
    await world.reject("is deleted", *claim(one))


def seen(world, one):
    watch = world.clusters._clusters["c1"].pods
    if watch.known[one["metadata"]["uid"]].metadata.deletion_timestamp is None:
        raise EvidenceRejectedError("not yet")


async def test_a_container_that_was_restarted_is_the_new_one(world):
    one = pod("one")
    new = {**one, "status": {**one["status"], "containerStatuses": [status("app", "cd" * 32)]}}
    world.store.put("pods", new)
    await world.until(lambda: world.clusters.check("c1", "node-1", *claim(one, id="cd" * 32)))
    await world.reject("container.id", *claim(one))


async def test_an_init_container_counts_while_its_pod_is_pending(world):
    one = pod("four", containers=("app",))
    setup = status("setup", container_id(f"{one['metadata']['uid']}/setup"))
    one["spec"]["initContainers"] = [{"name": "setup", "image": image_of("setup")}]
    honest = claim({**one, "status": {"containerStatuses": [setup]}}, "setup")
    one["status"] = {"phase": "Pending", "initContainerStatuses": [setup]}
    world.store.put("pods", one)
    await world.until(lambda: world.clusters.check("c1", "node-1", *honest))


async def test_a_cluster_that_is_not_watched_vouches_for_nothing(world):
    await world.reject("'c2' is not watched", *claim(pod("one")), cluster="c2")


async def test_a_cluster_that_cannot_be_seen_vouches_for_nothing(world):
    world.server.fault = lambda request: request.send_error(503)
    world.clock.ahead = timedelta(seconds=11)
    await world.reject("cannot be seen now", *claim(pod("one")))


async def test_a_cluster_that_comes_back_is_caught_up_with(world):
    world.server.fault = lambda request: request.send_error(503)
    world.store.compact()  # ends the running watch
    world.store.remove("pods", "default", "one")
    world.store.put("pods", pod("two"))
    world.server.fault = None
    await world.until(lambda: world.clusters.check("c1", "node-1", *claim(pod("two"))))
    await world.reject("no such pod", *claim(pod("one")))


async def test_what_holds_is_told_by_the_clusters_word(world):
    found = world.clusters.selectors("c1", claim(pod("one"))[0])
    assert Selector("k8s", "sa:booking") in found
    assert Selector("k8s", f"container-image:{image_of('app')}") in found
    with pytest.raises(EvidenceRejectedError):
        world.clusters.selectors("c1", claim(pod("one"), container="nobody")[0])


def labels_of(selectors):
    return {s.value for s in selectors if s.value.startswith("ns-label:")}


async def test_labels_of_a_namespace_hold_by_the_clusters_word_alone(world):
    world.store.namespace("default", team="a")
    said = claim(pod("one"))[0]

    def seen():
        if "ns-label:team:a" not in labels_of(world.clusters.selectors("c1", said)):
            raise EvidenceRejectedError("not yet")

    await world.until(seen)
    world.store.remove("namespaces", "", "default")

    def gone():
        if labels_of(world.clusters.selectors("c1", said)):
            raise EvidenceRejectedError("not yet")

    await world.until(gone)


async def test_who_does_not_watch_namespaces_vouches_for_none_of_their_labels(world, authority):
    access = Access("127.0.0.1", world.server.port, ca=authority.pem, token=ADMIN.encode())
    others = Clusters.of({"c1": KubernetesTable()}, {"c1": KubernetesClient(access)}, SystemClock())
    task = asyncio.create_task(others.run(lambda: None))
    found = await world.until(lambda: others.selectors("c1", claim(pod("one"))[0]))
    assert labels_of(found) == set()
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)


async def test_namespaces_that_cannot_be_seen_vouch_for_nothing(world):
    cluster = world.clusters._clusters["c1"]
    unseen = Watch(None, SystemClock(), NAMESPACES, keep=lambda one: one, stale_after=Span(seconds=10))
    world.clusters._clusters["c1"] = replace(cluster, namespaces=unseen)
    with pytest.raises(EvidenceRejectedError, match="namespaces cannot be seen now"):
        world.clusters.selectors("c1", claim(pod("one"))[0])


async def test_before_the_first_list_nothing_is_vouched_for(authority):
    access = Access("127.0.0.1", 1, ca=authority.pem)
    clusters = Clusters.of({"c1": KubernetesTable()}, {"c1": KubernetesClient(access)}, SystemClock())
    with pytest.raises(EvidenceRejectedError, match="cannot be seen now"):
        clusters.check("c1", "node-1", *claim(pod("one")))

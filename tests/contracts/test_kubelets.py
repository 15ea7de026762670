# SPDX-License-Identifier: Apache-2.0
"""What we rely on of a kubelet's list of pods: the fake keeps it, and a real one (`make test-kubernetes`).

A real one is asked by way of its API server; the answer is the kubelet's own.
"""

import re
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import quote

import pytest

from spiffekit.daemon.kubernetes import facts
from spiffekit.daemon.kubernetes.access import Access, kubeconfig
from spiffekit.daemon.kubernetes.client import MAX_LIST, KubernetesClient, KubernetesError
from spiffekit.daemon.kubernetes.objects import Node, ObjectList, Pod, PodList, bare_id
from tests.contracts.test_kubernetes import REAL
from tests.fakes.kubernetes import ADMIN, ApiServer, Authority, Kubelet, image_of, pod, status

MIRROR = "kube-system"  # static pods live there, whose uid the API server does not know


@dataclass
class Seen:
    """What a kubelet and its API server say of the pods of one node."""

    kubelet: list[Pod]
    cluster: list[Pod]

    def running(self):
        return [one for one in self.kubelet if one.status.phase == "Running"]


async def real(client):
    """Of the first node whose kubelet answers."""
    nodes = await client.get("/api/v1/nodes", ObjectList[Node], limit=MAX_LIST)
    for node in nodes.items:
        name = node.metadata.name
        try:
            found = await client.get(f"/api/v1/nodes/{quote(name, '')}/proxy/pods", PodList, limit=MAX_LIST)
        except KubernetesError:
            continue
        of_cluster, _ = await client.pods(f"spec.nodeName={name}")
        return Seen(list(found.items or ()), of_cluster)
    pytest.fail("no kubelet answers")


@pytest.fixture
async def seen():
    if REAL:
        return await real(KubernetesClient(kubeconfig(Path(REAL))))
    two = pod("two", containers=("app", "sidecar"), app="booking")
    two["metadata"]["ownerReferences"] = [{"kind": "ReplicaSet", "name": "booking", "uid": "rs-1"}]
    two["spec"]["initContainers"] = [{"name": "setup", "image": image_of("setup")}]
    two["status"]["initContainerStatuses"] = [status("setup", "ab" * 32)]
    pods = [pod("one"), two]
    authority = Authority()
    with ApiServer(authority) as server, Kubelet(pods) as kubelet:
        for one in pods:
            server.store.put("pods", one)
        asked = KubernetesClient(Access("127.0.0.1", kubelet.port, plain=True))
        found = await asked.get("/pods", PodList, limit=MAX_LIST)
        access = Access("127.0.0.1", server.port, ca=authority.pem, token=ADMIN.encode())
        of_cluster, _ = await KubernetesClient(access).pods("spec.nodeName=node-1")
        return Seen(list(found.items), of_cluster)


async def test_a_running_pod_has_what_we_read(seen):
    assert seen.running()
    for one in seen.running():
        assert re.fullmatch(r"[0-9a-f]{32}|[0-9a-f-]{36}", one.metadata.uid)
        assert one.metadata.namespace
        assert one.metadata.name
        assert one.spec.node_name
        assert one.spec.containers
        assert one.status.container_statuses


async def test_a_running_container_is_found_by_its_id_and_has_images(seen):
    for one in seen.running():
        for state in one.status.container_statuses:
            if not state.container_id:  # not started yet, or anew
                continue
            assert re.fullmatch(r"[a-z-]+://[0-9a-f]{64}", state.container_id)
            assert one.container(bare_id(state)) == state
            assert one.image(state.name)
            assert state.image
            assert state.image_id


async def test_kubelet_and_cluster_say_the_same(seen):
    """The issuer holds what an attestor learnt from its kubelet to the word of the cluster."""
    told = {one.metadata.uid: one for one in seen.cluster}
    compared = 0
    for one in seen.running():
        other = told.get(one.metadata.uid)
        if one.metadata.namespace == MIRROR or other is None or other.status != one.status:
            continue  # a static pod, or one that is changing
        for state in one.status.container_statuses:
            assert facts.selectors(one, state) == facts.selectors(other, state)
            assert facts.pod_facts(one, state) == facts.pod_facts(other, state)
            assert facts.container_facts(one, state) == facts.container_facts(other, state)
            compared += 1
    assert compared

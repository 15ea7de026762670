# SPDX-License-Identifier: Apache-2.0
"""A cluster's story: real daemons, and processes in pods' cgroups; its servers are fakes under contract."""

import contextlib
import os
import re
import subprocess
import sys
import tempfile
import uuid
from datetime import timedelta
from pathlib import Path

import pytest

from deploy.local import Local
from tests.fakes.kubernetes import ApiServer, Authority, Kubelet, container_id, pod
from tests.system.conftest import eventually, nodes

ROOTS = [Path("/sys/fs/cgroup/pids"), Path("/sys/fs/cgroup/unified"), Path("/sys/fs/cgroup")]
TOKEN_LIFE = timedelta(hours=1).total_seconds()


@pytest.fixture(scope="module")
def pods_folder():
    """Where pods' cgroups are, at the root of a hierarchy, as a kubelet makes them."""
    for root in ROOTS:
        folder = root / "kubepods"
        if (root / "cgroup.procs").exists() and os.access(root, os.W_OK):
            made = not folder.exists()
            folder.mkdir(exist_ok=True)
            yield folder
            if made:
                with contextlib.suppress(OSError):  # somebody else uses it by now
                    folder.rmdir()
            return
    pytest.skip("cgroups cannot be made: not root, or mounted read-only")


class Cell:
    """The cgroup of a pod's container; commands run in it."""

    def __init__(self, folder, one):
        self.pod = one
        uid = one["metadata"]["uid"]
        self.folder = folder / f"pod{uid}"
        self.container = self.folder / container_id(f"{uid}/app")
        self.container.mkdir(parents=True)

    def close(self):
        self.container.rmdir()
        self.folder.rmdir()

    def ids(self, attestor):
        """The SPIFFE IDs that a process in here is granted."""
        fetch = [
            sys.executable,
            "-m",
            "attestor",
            "api",
            "fetch",
            "x509",
            "--socketPath",
            str(attestor.socket),
        ]
        script = f'echo $$ > {self.container}/cgroup.procs && exec "$@"'
        done = subprocess.run(
            ["sh", "-c", script, "sh", *fetch, "--timeout", "8"], capture_output=True, text=True, timeout=30
        )
        return re.findall(r"spiffe://example\.org/\S+", done.stdout) if done.returncode == 0 else []


@pytest.fixture
def cell(pods_folder):
    made = []

    def make(name, **more):
        made.append(Cell(pods_folder, pod(name, uid=str(uuid.uuid4()), **more)))
        return made[-1]

    yield make
    for one in made:
        one.close()


@pytest.fixture(scope="module")
def authority():
    return Authority()


@pytest.fixture(scope="module")
def api_server(authority):
    with ApiServer(authority) as server:
        server.store.put("nodes", {"metadata": {"name": "node-1", "uid": "node-uid", "labels": {}}})
        server.store.put("pods", pod("attestor-1", namespace="spiffe", account="attestor"))
        yield server


@pytest.fixture(scope="module")
def kubelet(authority):
    with Kubelet([], authority, names=("node-1",)) as found:
        yield found


@pytest.fixture(scope="module")
def local(api_server):
    with tempfile.TemporaryDirectory(prefix="sa-") as name:
        folder = Path(name)
        folder.chmod(0o755)
        kubeconfig = str(api_server.kubeconfig(folder))
        settings = {
            "node_attestor.k8s_psat.clusters.c1": {"service_account_allow_list": ["spiffe:attestor"]},
            "kubernetes.c1": {"kubeconfig": kubeconfig, "namespace_labels": True},
        }
        with Local(folder, issuer=settings) as deployment:
            deployment.start_issuer()
            yield deployment


@pytest.fixture(scope="module")
def attestor(local, api_server, kubelet):
    mine = api_server.store.get("pods", "spiffe", "attestor-1")["metadata"]
    token = api_server.store.token(
        "spiffe", "attestor", ["spire-server"], TOKEN_LIFE, {"name": mine["name"], "uid": mine["uid"]}
    )
    (local.folder / "token").write_text(token)
    (local.folder / "node-token").write_text("node-token")
    found = local.start_attestor(
        settings={
            "node_attestor.k8s_psat": {"cluster": "c1", "token_path": str(local.folder / "token")},
            "workload_attestor.k8s": {
                "node_name": "node-1",
                "kubelet_secure_port": kubelet.port,
                "kubelet_ca_path": str(local.folder / "ca.crt"),
                "token_path": str(local.folder / "node-token"),
                "kubeconfig": str(local.folder / "kubeconfig"),
                "namespace_labels": True,
            },
        }
    )
    found.node_id = "spiffe://example.org/spire/agent/k8s_psat/c1/node-uid"
    api_server.store.namespace("default", team="travel")
    selectors = ("k8s:ns:default", "k8s:ns-label:team:travel")
    local.register("/{k8s:ns}/{k8s:sa}", found.node_id, *selectors, options=["--perProcess"])
    return found


def test_pods_earn_identities_and_a_node_cannot_invent_them(local, attestor, api_server, kubelet, cell):
    # 1. The node has proved itself by its token.
    assert nodes(local)[attestor.node_id]["attestation_type"] == "k8s_psat"
    # 2. Two pods of one user on one node: each gets its own.
    booking, pricing = cell("booking", account="booking"), cell("pricing", account="pricing")
    for one in (booking, pricing):
        api_server.store.put("pods", one.pod)
    kubelet.pods = [booking.pod, pricing.pod]
    eventually(lambda: booking.ids(attestor), ["spiffe://example.org/default/booking"])
    eventually(lambda: pricing.ids(attestor), ["spiffe://example.org/default/pricing"])
    # 3. The node makes up a pod that its cluster does not have: the issuer asks the cluster.
    invented = cell("invented", account="admin")
    kubelet.pods.append(invented.pod)
    assert invented.ids(attestor) == []
    assert "the cluster has no such pod" in local.issuer.tail()
    # 4. It gives a pod the service account of another one.
    api_server.store.put(
        "pods", invented.pod | {"spec": invented.pod["spec"] | {"serviceAccountName": "web"}}
    )
    assert invented.ids(attestor) == []
    assert "service_account: is not what the cluster says" in local.issuer.tail()
    # 5. It keeps a pod of another node.
    moved = cell("moved", account="moved")
    kubelet.pods.append(moved.pod)
    api_server.store.put("pods", moved.pod | {"spec": moved.pod["spec"] | {"nodeName": "node-2"}})
    assert moved.ids(attestor) == []
    assert "the pod is on another node" in local.issuer.tail()
    # 6. A pod ends; its node goes on to run it.
    api_server.store.put("pods", booking.pod | {"status": booking.pod["status"] | {"phase": "Succeeded"}})
    eventually(lambda: booking.ids(attestor), [])
    assert pricing.ids(attestor) == ["spiffe://example.org/default/pricing"]
    # 7. Its namespace loses the label that the entry asks for.
    api_server.store.namespace("default")
    eventually(lambda: pricing.ids(attestor), [])

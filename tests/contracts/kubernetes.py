# SPDX-License-Identifier: Apache-2.0
"""A cluster to test with: the fake, or the real one of TEST_KUBECONFIG, made use of by the same calls."""

import asyncio
import json
import secrets
from pathlib import Path

import pytest

from spiffekit.daemon.http import request
from spiffekit.daemon.kubernetes.access import Access, kubeconfig
from spiffekit.daemon.kubernetes.client import KubernetesClient, KubernetesError
from tests.fakes.kubernetes import status


class Cluster:
    """An administrator's hands. Everything is in a namespace and on a node of this test's own."""

    def __init__(self, access: Access, *, patience: float):
        self.access = access
        self.patience = patience  # seconds in which the server settles
        self.client = KubernetesClient(access)
        self.namespace = f"spiffe-test-{secrets.token_hex(4)}"
        self.node = f"{self.namespace}-node"

    @classmethod
    def real(cls, path: Path):
        return cls(kubeconfig(path), patience=20)

    async def call(self, method, path, body=None):
        content = json.dumps(body).encode() if body is not None else b""
        headers = {"content-type": "application/json"} | self.access.headers()
        async with (
            asyncio.timeout(20),
            request(
                self.access.peer(), method, self.access.prefix + path, headers=headers, body=content
            ) as answer,
        ):
            found = json.loads(await answer.body(10_000_000))
        assert answer.status < 300, found
        return found

    async def __aenter__(self):
        namespace = {"name": self.namespace, "labels": {"team": "travel"}}
        await self.call("POST", "/api/v1/namespaces", {"metadata": namespace})
        await self.call("POST", "/api/v1/nodes", {"metadata": {"name": self.node, "labels": {"zone": "a"}}})
        for account in ("attestor", "booking", "other"):
            await self.call("POST", self.path("serviceaccounts"), {"metadata": {"name": account}})
        return self

    async def __aexit__(self, *_):
        pods = await self.client.pods(f"spec.nodeName={self.node}")
        for pod in pods[0]:
            await self.remove(pod.metadata.name)
        await self.call("DELETE", f"/api/v1/nodes/{self.node}")
        await self.call("DELETE", f"/api/v1/namespaces/{self.namespace}")

    def path(self, *parts):
        return "/".join((f"/api/v1/namespaces/{self.namespace}", *parts))

    async def create(self, name, account="booking", node=None):
        """Create a pod that is on the node, without a status."""
        return await self.call(
            "POST",
            self.path("pods"),
            {
                "metadata": {"name": name, "labels": {"app": name}},
                "spec": {
                    "nodeName": node or self.node,
                    "serviceAccountName": account,
                    "automountServiceAccountToken": False,
                    "containers": [{"name": "app", "image": "registry.example.org/app:1"}],
                },
            },
        )

    async def run(self, name, account="booking", identifier="ab" * 32):
        """Create a pod and say, as its kubelet would, that its container runs."""
        await self.create(name, account)
        return await self.say(name, "Running", identifier)

    async def say(self, name, phase, identifier):
        found = await self.call("GET", self.path("pods", name))
        found["status"] = {
            "phase": phase,
            "hostIP": "10.0.0.1",
            "containerStatuses": [{**status("app", identifier), "ready": True, "restartCount": 0}],
        }
        return await self.call("PUT", self.path("pods", name, "status"), found)

    async def remove(self, name, grace=0):
        await self.call("DELETE", self.path("pods", name) + f"?gracePeriodSeconds={grace}")

    async def token(self, pod, account="booking", audience="spire-server"):
        """Return a token as the kubelet projects it; of no pod for None."""
        spec = {"audiences": [audience], "expirationSeconds": 600}
        if pod is not None:
            spec["boundObjectRef"] = {"kind": "Pod", "apiVersion": "v1", "name": pod}
        body = {"apiVersion": "authentication.k8s.io/v1", "kind": "TokenRequest", "spec": spec}
        answer = await self.call("POST", self.path("serviceaccounts", account, "token"), body)
        return answer["status"]["token"]

    async def eventually(self, check):
        """Repeat `check` until it raises nothing: a real server settles, the fake is at once."""
        loop = asyncio.get_running_loop()
        deadline = loop.time() + self.patience
        while True:
            try:
                return await check()
            except (AssertionError, KubernetesError, pytest.fail.Exception):
                if loop.time() > deadline:
                    raise
                await asyncio.sleep(0.1)

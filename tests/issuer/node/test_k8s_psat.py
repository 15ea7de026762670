# SPDX-License-Identifier: Apache-2.0
"""A service account token proves the node of its pod, and nothing else does."""

import json

import pytest

from issuer.errors import NodeRejectedError
from issuer.model import AttestationLevel
from issuer.node.k8s_psat import MAX_PAYLOAD, Cluster, Config, create
from spiffekit.daemon.config import ConfigError
from spiffekit.daemon.kubernetes.access import Access
from spiffekit.daemon.kubernetes.client import KubernetesClient
from spiffekit.selector import typo
from tests.fakes.kubernetes import ADMIN, ApiServer, Authority, pod
from tests.issuer.node.x509pop_node import Context

RULES = Cluster(
    service_account_allow_list=("spire:attestor",),
    allowed_node_label_keys=("zone", "absent"),
    allowed_pod_label_keys=("app",),
)


class World:
    """A cluster with one node and the attestor's pod on it."""

    def __init__(self, server, authority):
        self.server, self.store = server, server.store
        access = Access("127.0.0.1", server.port, ca=authority.pem, token=ADMIN.encode())
        self.context = Context(c1=KubernetesClient(access))
        self.node = {
            "metadata": {"name": "node-1", "uid": "node-uid", "labels": {"zone": "a", "os": "linux"}}
        }
        self.pod = pod("attestor-x", namespace="spire", account="attestor", app="attestor", secret="x")
        self.store.put("nodes", self.node)
        self.store.put("pods", self.pod)

    def token(
        self, name="attestor-x", *, account="attestor", audience="spire-server", lifetime=600, uid=None
    ):
        uid = uid or self.pod["metadata"]["uid"]
        bound = {"name": name, "uid": uid} if name else None
        return self.store.token("spire", account, [audience], lifetime, bound)

    async def verify(self, token, *, rules=RULES, cluster="c1"):
        async def no_challenge(_):
            raise AssertionError("tokens have no challenge")

        payload = json.dumps({"cluster": cluster, "token": token}).encode()
        return await create(Config(clusters={"c1": rules})).verify(payload, no_challenge, self.context)

    async def refused(self, token, **more):
        with pytest.raises(NodeRejectedError) as caught:
            await self.verify(token, **more)
        assert token not in str(caught.value)
        return str(caught.value)


@pytest.fixture(scope="module")
def authority():
    return Authority()


@pytest.fixture
def world(authority):
    with ApiServer(authority) as server:
        yield World(server, authority)


async def test_a_token_proves_the_node_of_its_pod(world):
    proof = await world.verify(world.token())
    assert str(proof.node_id) == "spiffe://example.org/spire/agent/k8s_psat/c1/node-uid"
    assert proof.can_reattest
    assert proof.level is AttestationLevel.PLATFORM
    assert not proof.first_use
    assert {str(s) for s in proof.selectors} == {
        "k8s_psat:cluster:c1",
        "k8s_psat:agent_ns:spire",
        "k8s_psat:agent_sa:attestor",
        "k8s_psat:agent_pod_name:attestor-x",
        f"k8s_psat:agent_pod_uid:{world.pod['metadata']['uid']}",
        "k8s_psat:agent_pod_label:app:attestor",
        "k8s_psat:agent_node_ip:10.0.0.1",
        "k8s_psat:agent_node_name:node-1",
        "k8s_psat:agent_node_uid:node-uid",
        "k8s_psat:agent_node_label:zone:a",
    }
    assert [s for s in proof.selectors if typo(s)] == []


async def test_a_node_may_go_by_its_attestors_pod(world):
    rules = Cluster(service_account_allow_list=("spire:attestor",), use_pod_uid=True)
    proof = await world.verify(world.token(), rules=rules)
    assert str(proof.node_id).endswith(f"/k8s_psat/c1/{world.pod['metadata']['uid']}")


async def test_an_expired_token_proves_nothing(world):
    assert "not valid" in await world.refused(world.token(lifetime=-1))


async def test_a_token_for_another_audience_proves_nothing(world):
    assert "not valid" in await world.refused(world.token(audience="vault"))


async def test_a_server_that_knows_no_audiences_proves_nothing(world):
    """It says yes to every token that is good for itself, and names no audience."""
    verdict = world.store.review
    world.store.review = lambda token, _: {**verdict(token, ["spire-server"]), "audiences": []}
    assert "another audience" in await world.refused(world.token())


async def test_a_token_of_another_service_account_proves_nothing(world):
    world.store.put("pods", pod("web", namespace="spire", account="web", uid="web-uid"))
    reason = await world.refused(world.token("web", account="web", uid="web-uid"))
    assert reason == "service account 'spire:web' is not allowed"


async def test_a_token_of_a_user_proves_nothing(world):
    verdict = world.store.review
    world.store.review = lambda *asked: {**verdict(*asked), "user": {"username": "spire:attestor"}}
    assert "no service account" in await world.refused(world.token())


async def test_a_token_of_no_pod_proves_nothing(world):
    assert await world.refused(world.token(None)) == "token is not bound to a pod"


async def test_a_forged_token_proves_nothing(world):
    token = world.token()
    assert "not valid" in await world.refused(token[:-1] + ("0" if token[-1] != "0" else "1"))


async def test_the_token_of_a_deleted_pod_proves_nothing(world):
    token = world.token()
    world.store.remove("pods", "spire", "attestor-x")
    assert "not valid" in await world.refused(token)


async def test_a_pod_that_is_gone_proves_nothing_even_if_the_token_is_still_believed(world):
    """API servers remember verdicts for seconds."""
    token = world.token()
    remembered = world.store.review(token, ["spire-server"])
    world.store.review = lambda *_: remembered
    world.store.remove("pods", "spire", "attestor-x")
    assert "cannot vouch" in await world.refused(token)
    world.store.put("pods", {**world.pod, "metadata": {**world.pod["metadata"], "uid": "a-new-one"}})
    assert "earlier pod" in await world.refused(token)


@pytest.mark.parametrize("phase", ["Succeeded", "Failed"])
async def test_a_pod_that_has_ended_proves_nothing(world, phase):
    world.store.put("pods", {**world.pod, "status": {**world.pod["status"], "phase": phase}})
    assert "has ended" in await world.refused(world.token())


async def test_a_pod_of_another_service_account_than_its_tokens_proves_nothing(world):
    world.store.put("pods", {**world.pod, "spec": {**world.pod["spec"], "serviceAccountName": "web"}})
    assert "another service account" in await world.refused(world.token())


async def test_a_pod_on_no_node_proves_none(world):
    world.store.put("pods", {**world.pod, "spec": {**world.pod["spec"], "nodeName": ""}})
    assert "on none" in await world.refused(world.token())


@pytest.mark.parametrize(("name", "value"), [("node-name", "node-2"), ("node-uid", "another")])
async def test_a_token_bound_to_another_node_proves_nothing(world, name, value):
    """Newer API servers bind tokens to nodes, too."""
    verdict = world.store.review

    def review(*asked):
        found = verdict(*asked)
        found["user"]["extra"][f"authentication.kubernetes.io/{name}"] = [value]
        return found

    world.store.review = review
    assert "another node" in await world.refused(world.token())


async def test_a_node_that_is_gone_is_not_proved(world):
    del world.store.objects["nodes"]["", "node-1"]
    assert "cannot vouch" in await world.refused(world.token())


async def test_another_cluster_is_not_asked(world):
    assert await world.refused(world.token(), cluster="c2") == "cluster 'c2' is not configured"
    assert world.server.calls == []


async def test_an_api_server_that_fails_proves_nothing(world):
    world.server.token = "changed"
    assert "status 401" in await world.refused(world.token())


@pytest.mark.parametrize(
    "payload",
    [
        b"",
        b"{}",
        b"[]",
        b'{"cluster": 1, "token": "x"}',
        b'{"cluster": "c1"}',
        b"\xff",
        b"x" * (MAX_PAYLOAD + 1),
    ],
    ids=["empty", "nothing", "list", "number", "no token", "bytes", "large"],
)
async def test_a_malformed_payload_is_refused(world, payload):
    with pytest.raises(NodeRejectedError, match=r"^payload is (malformed|too large)$"):
        await create(Config(clusters={"c1": RULES})).verify(payload, None, world.context)
    assert world.server.calls == []


@pytest.mark.parametrize(
    ("rules", "problem"),
    [
        (Cluster(service_account_allow_list=()), "nobody could attest"),
        (Cluster(service_account_allow_list=("attestor",)), "'attestor' is not namespace:name"),
        (Cluster(service_account_allow_list=("a:b",), audience=()), "at least one is needed"),
    ],
    ids=["nobody", "unqualified", "no audience"],
)
def test_a_mistake_is_told(rules, problem):
    with pytest.raises(ConfigError, match=problem):
        create(Config(clusters={"c1": rules}))

# SPDX-License-Identifier: Apache-2.0
"""Which pod a process is in, and what is stated of it; a kubelet that is hostile or broken."""

import asyncio
import contextlib
import time

import pytest

from attestor.errors import WorkloadAttestationError
from attestor.workload import Facts
from attestor.workload.k8s import Config, create
from spiffekit.daemon.config import ConfigError
from spiffekit.evidence import ContainerFacts, PodFacts
from spiffekit.selector import Selector, typo
from tests.attestor.workload.kubernetes import Processes, cgroup_of
from tests.attestor.workload.signatures import SIGNED, of_signatures, signed
from tests.fakes.kubernetes import ApiServer, Authority, Kubelet, container_id, image_of, pod, status


@pytest.fixture
def processes(tmp_path):
    folder = tmp_path / "proc"
    folder.mkdir()
    return Processes(folder)


@pytest.fixture(scope="module")
def authority():
    return Authority()


def reading(kubelet, **more):
    return create(Config(kubelet_read_only_port=kubelet.port, **more))


async def within(attestor, process, seconds=5):
    """As the examiner asks."""
    async with asyncio.timeout(seconds):
        return await attestor.attest(process)


def values(facts, kind):
    return sorted(s.value.removeprefix(f"{kind}:") for s in facts.selectors if s.value.startswith(f"{kind}:"))


async def test_everything_of_a_pod_is_stated(processes):
    one = pod("booking-7", containers=("app", "sidecar"), app="booking", team="travel")
    one["metadata"]["ownerReferences"] = [{"kind": "ReplicaSet", "name": "booking", "uid": "rs-1"}]
    one["spec"]["initContainers"] = [{"name": "setup", "image": image_of("setup")}]
    one["status"]["initContainerStatuses"] = [status("setup", container_id("setup"))]
    with Kubelet([one]) as kubelet:
        facts = await within(reading(kubelet), processes.of(one))
    uid, image = one["metadata"]["uid"], image_of("app")
    digest = one["status"]["containerStatuses"][0]["imageID"].partition("@")[2]
    assert facts.pod == PodFacts(
        uid=uid,
        namespace="default",
        name="booking-7",
        service_account="booking",
        node_name="node-1",
        container="app",
    )
    assert facts.container == ContainerFacts(
        engine="k8s", id=container_id(f"{uid}/app"), name="app", image=image, image_digest=digest
    )
    for kind, found in {
        "ns": ["default"],
        "sa": ["booking"],
        "node-name": ["node-1"],
        "pod-uid": [uid],
        "pod-name": ["booking-7"],
        "container-name": ["app"],
        "container-image": [image, f"registry.example.org/app@{digest}", digest],
        "pod-image-count": ["2"],
        "pod-init-image-count": ["1"],
        "pod-label": ["app:booking", "team:travel"],
        "pod-owner": ["ReplicaSet:booking"],
        "pod-owner-uid": ["ReplicaSet:rs-1"],
    }.items():
        assert values(facts, kind) == sorted(found), kind
    assert len(values(facts, "pod-image")) == 6
    assert image_of("sidecar") in values(facts, "pod-image")
    assert image_of("setup") in values(facts, "pod-init-image")
    assert [s for s in facts.selectors if typo(s)] == []


async def test_it_is_stated_who_signed_the_image_of_the_container_and_not_of_its_neighbour(
    processes, tmp_path
):
    one = pod("booking-7", containers=("app", "sidecar"))
    (app, _) = one["status"]["containerStatuses"]
    signatures = signed(tmp_path, app["imageID"].partition("@")[2])
    with Kubelet([one]) as kubelet:
        attestor = reading(kubelet, signatures=signatures)
        facts = await within(attestor, processes.of(one))
        assert of_signatures(facts) == SIGNED
        assert [s for s in facts.selectors if typo(s)] == []
        assert of_signatures(await within(attestor, processes.of(one, "sidecar"))) == set()
        app["imageID"] = app["imageID"].partition("@")[2]
        assert (
            of_signatures(await within(reading(kubelet, signatures=signatures), processes.of(one))) == set()
        )


async def test_two_pods_of_one_user_are_told_apart(processes):
    one, two = pod("one", account="a"), pod("two", account="b")
    with Kubelet([one, two]) as kubelet:
        attestor = reading(kubelet)
        for expected, account in ((one, "a"), (two, "b")):
            facts = await within(attestor, processes.of(expected))
            assert values(facts, "sa") == [account]
            assert facts.pod.uid == expected["metadata"]["uid"]


async def test_containers_of_one_pod_are_told_apart(processes):
    one = pod("one", containers=("app", "sidecar"))
    with Kubelet([one]) as kubelet:
        facts = await within(reading(kubelet), processes.of(one, "sidecar"))
    assert facts.pod.container == "sidecar"
    assert image_of("app") not in values(facts, "container-image")


async def test_an_init_container_is_one_of_the_pod(processes):
    one = pod("one")
    one["status"]["initContainerStatuses"] = [
        status("setup", container_id(f"{one['metadata']['uid']}/setup"))
    ]
    with Kubelet([one]) as kubelet:
        facts = await within(reading(kubelet), processes.of(one, "setup"))
    assert facts.pod.container == "setup"


@pytest.mark.parametrize(
    "path",
    [
        "/user.slice/user-1000.slice/user@1000.service/kubepods/besteffort/pod{uid}/{id}",
        "/user.slice/kubepods.slice/kubepods-pod{uid}.slice/cri-containerd-{id}.scope",
        "/docker/{id}",
        "/system.slice/ssh.service",
        "/",
    ],
    ids=["user", "slice", "docker", "service", "root"],
)
async def test_an_imitation_of_a_pod_is_none(processes, path):
    one = pod("one")
    uid = one["metadata"]["uid"]
    process = processes.start(f"0::{path.format(uid=uid, id=container_id(f'{uid}/app'))}\n")
    with Kubelet([one]) as kubelet:
        assert await within(reading(kubelet), process) == Facts()
        assert kubelet.calls == []


async def test_a_container_of_another_pod_is_not_believed(processes):
    """Uid by the kernel and container by the kubelet have to belong together."""
    mine, other = pod("mine"), pod("other")
    other_container = container_id(f"{other['metadata']['uid']}/app")
    process = processes.start(cgroup_of(mine["metadata"]["uid"], other_container))
    with Kubelet([mine, other]) as kubelet, pytest.raises(TimeoutError):
        await within(reading(kubelet), process, 0.6)


async def test_a_status_that_comes_late_is_waited_for(processes):
    one = pod("one")
    statuses, one["status"]["containerStatuses"] = one["status"]["containerStatuses"], []
    with Kubelet([one]) as kubelet:
        asked = asyncio.create_task(within(reading(kubelet), processes.of(one)))
        while not kubelet.calls:
            await asyncio.sleep(0)
        kubelet.pods = [{**one, "status": {**one["status"], "containerStatuses": statuses}}]
        assert (await asked).pod.name == "one"


async def test_a_pod_without_a_container_is_waited_for_until_the_deadline_only(processes):
    with Kubelet() as kubelet:
        with pytest.raises(TimeoutError):
            await within(reading(kubelet), processes.of(pod("gone")), 0.6)
        assert 2 <= len(kubelet.calls) <= 4


async def test_an_executed_process_is_known_for_one(processes):
    one = pod("one")
    first = processes.of(one)
    child = processes.of(one, parent=first.pid, numbers=[first.pid + 1, 7])
    put_in = processes.of(one, parent=1, numbers=[first.pid + 2, 12])
    with Kubelet([one]) as kubelet:
        attestor = reading(kubelet)
        assert [(await within(attestor, p)).container.entered for p in (first, child, put_in)] == [
            False,
            False,
            True,
        ]


async def test_where_numbers_are_shared_everything_counts_as_executed(processes):
    one = pod("one")
    with Kubelet([one]) as kubelet:
        assert (await within(reading(kubelet), processes.of(one, numbers=[4001]))).container.entered


@contextlib.asynccontextmanager
async def following(attestor):
    ready = asyncio.Event()
    task = asyncio.create_task(attestor.run(ready.set))
    try:
        await ready.wait()
        yield attestor
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


async def test_labels_of_the_namespace_are_stated_if_asked_for(processes, authority, tmp_path):
    one = pod("one", namespace="shop")
    with Kubelet([one]) as kubelet, ApiServer(authority) as server:
        attestor = reading(kubelet, namespace_labels=True, kubeconfig=server.kubeconfig(tmp_path))
        async with following(attestor):
            asked = asyncio.create_task(within(attestor, processes.of(one)))
            await asyncio.sleep(0)
            server.store.namespace("shop", team="a")  # known a moment later than the pod
            facts = await asked
            assert values(facts, "ns-label") == ["kubernetes.io/metadata.name:shop", "team:a"]
            server.store.namespace("shop", team="b")
            while values(await within(attestor, processes.of(one)), "ns-label")[1] != "team:b":
                await asyncio.sleep(0.01)
        assert [s for s in facts.selectors if typo(s)] == []
        assert values(await within(reading(kubelet), processes.of(one)), "ns-label") == []


async def test_without_the_api_servers_word_there_is_no_smaller_identity(processes, authority, tmp_path):
    one = pod("one")
    with Kubelet([one]) as kubelet, ApiServer(authority) as server:
        attestor = reading(kubelet, namespace_labels=True, kubeconfig=server.kubeconfig(tmp_path))
        server.fault = lambda request: request.send_error(503)
        async with following(attestor):
            with pytest.raises(TimeoutError):
                await within(attestor, processes.of(one), 0.3)


# The kubelet.


@pytest.mark.parametrize(
    "content", [b"", b"nonsense", b'{"items": 7}', b'{"items": [{"metadata": []}]}', b"\xff"]
)
async def test_garbage_is_told_at_once(processes, content):
    def answer(request):
        request.send_response(200)
        request.send_header("content-length", str(len(content)))
        request.end_headers()
        request.wfile.write(content)

    with Kubelet() as kubelet:
        kubelet.fault = answer
        with pytest.raises(
            WorkloadAttestationError, match=r"^pod cannot be examined: 127.0.0.1 answered with"
        ):
            await within(reading(kubelet), processes.of(pod("one")))


async def test_what_is_not_http_is_told_at_once(processes):
    with Kubelet() as kubelet:
        kubelet.fault = lambda request: request.wfile.write(b"SSH-2.0-OpenSSH\r\n\r\n")
        with pytest.raises(WorkloadAttestationError, match="answer is not HTTP"):
            await within(reading(kubelet), processes.of(pod("one")))


async def test_an_answer_that_is_cut_off_is_told(processes):
    def answer(request):
        request.send_response(200)
        request.send_header("content-length", "1000")
        request.end_headers()
        request.wfile.write(b'{"items": [')
        request.close_connection = True

    with Kubelet() as kubelet:
        kubelet.fault = answer
        with pytest.raises(WorkloadAttestationError, match="answer is not HTTP"):
            await within(reading(kubelet), processes.of(pod("one")))


async def test_a_kubelet_that_hangs_costs_no_more_than_the_deadline(processes):
    with Kubelet() as kubelet:
        kubelet.fault = lambda request: kubelet.stopping.wait(10)
        attestor = reading(kubelet)
        began = time.monotonic()
        asked = [within(attestor, processes.of(pod(f"p{n}")), 0.3) for n in range(20)]
        for error in await asyncio.gather(*asked, return_exceptions=True):
            assert isinstance(error, TimeoutError)
        assert time.monotonic() - began < 3
        assert len(kubelet.calls) == 1, "twenty callers hang at one request"


async def test_an_endless_answer_is_cut(processes, monkeypatch):
    monkeypatch.setattr("attestor.workload.pods.MAX_LIST", 100_000)

    def answer(request):
        request.send_response(200)
        request.send_header("transfer-encoding", "chunked")
        request.end_headers()
        while True:
            request.chunk(b" " * 65536)

    with Kubelet() as kubelet:
        kubelet.fault = answer
        with pytest.raises(WorkloadAttestationError, match="longer than 100000 bytes"):
            await within(reading(kubelet), processes.of(pod("one")))


async def test_thousands_of_pods_are_read(processes):
    pods = [pod(f"pod-{n}") for n in range(3000)]
    with Kubelet(pods) as kubelet:
        assert (await within(reading(kubelet), processes.of(pods[1500]), 20)).pod.name == "pod-1500"


async def test_nobody_listens(processes):
    with Kubelet() as kubelet:
        port = kubelet.port
    with pytest.raises(WorkloadAttestationError, match=f"127.0.0.1:{port} cannot be asked"):
        await within(create(Config(kubelet_read_only_port=port)), processes.of(pod("one")))


def secure(kubelet, tmp_path, authority, token="node-token", **more):
    (tmp_path / "ca.crt").write_bytes(authority.pem)
    (tmp_path / "token").write_text(token + "\n")
    options = {
        "node_name": "node-1",
        "kubelet_ca_path": tmp_path / "ca.crt",
        "token_path": tmp_path / "token",
    }
    return create(Config(kubelet_secure_port=kubelet.port, **options | more))


async def test_a_kubelet_proves_that_it_is_this_nodes(processes, tmp_path, authority):
    one = pod("one")
    with Kubelet([one], authority, names=("node-1",)) as kubelet:
        facts = await within(secure(kubelet, tmp_path, authority), processes.of(one))
    assert facts.pod.name == "one"


@pytest.mark.parametrize("names", [("node-2",), ("127.0.0.1",)])
async def test_another_nodes_kubelet_is_not_believed(processes, tmp_path, authority, names):
    one = pod("one")
    with Kubelet([one], authority, names=names) as kubelet:
        with pytest.raises(WorkloadAttestationError, match="cannot be asked"):
            await within(secure(kubelet, tmp_path, authority), processes.of(one))
        assert kubelet.calls == [], "and it does not see the token"


async def test_an_impostors_kubelet_is_not_believed(processes, tmp_path, authority):
    one = pod("one")
    refused = pytest.raises(WorkloadAttestationError, match="cannot be asked")
    with Kubelet([one], Authority(), names=("node-1",)) as kubelet, refused:
        await within(secure(kubelet, tmp_path, authority), processes.of(one))


async def test_verification_is_skipped_only_on_demand(processes, tmp_path, authority):
    one = pod("one")
    with Kubelet([one], Authority(), names=("whoever",)) as kubelet:
        attestor = secure(kubelet, tmp_path, authority, skip_kubelet_verification=True)
        assert (await within(attestor, processes.of(one))).pod.name == "one"


async def test_a_kubelet_that_does_not_know_us_is_told(processes, tmp_path, authority):
    with Kubelet([], authority, names=("node-1",)) as kubelet:
        attestor = secure(kubelet, tmp_path, authority, token="stale")
        with pytest.raises(WorkloadAttestationError, match="status 401") as caught:
            await within(attestor, processes.of(pod("one")))
        assert "stale" not in str(caught.value)


async def test_a_renewed_token_counts(processes, tmp_path, authority):
    one = pod("one")
    with Kubelet([one], authority, names=("node-1",)) as kubelet:
        attestor = secure(kubelet, tmp_path, authority, token="old")
        with pytest.raises(WorkloadAttestationError):
            await within(attestor, processes.of(one))
        (tmp_path / "token").write_text("node-token")
        assert (await within(attestor, processes.of(one))).pod.name == "one"


async def test_a_certificate_is_shown_instead_of_the_token(processes, tmp_path, authority):
    one = pod("one")
    certificate, key = authority.issue(("attestor",))
    (tmp_path / "tls.crt").write_bytes(certificate)
    (tmp_path / "tls.key").write_bytes(key)
    with Kubelet([one], authority, names=("node-1",), token=None) as kubelet:
        kubelet.require_certificate(authority)
        paths = {"certificate_path": tmp_path / "tls.crt", "private_key_path": tmp_path / "tls.key"}
        attestor = secure(kubelet, tmp_path, authority, **paths)
        assert (await within(attestor, processes.of(one))).pod.name == "one"
        with pytest.raises(WorkloadAttestationError):
            await within(secure(kubelet, tmp_path, authority), processes.of(one))


@pytest.mark.parametrize(
    ("config", "rule"),
    [
        (Config(source="api_server"), "node_name: is required with the API server"),
        (
            Config(kubelet_read_only_port=10255, kubelet_address="10.0.0.1"),
            "kubelet_read_only_port: has no TLS",
        ),
        (Config(certificate_path="/c"), "private_key_path: is needed with certificate_path"),
        (Config(kubelet_secure_port=70000), "kubelet_secure_port: not a port"),
        (Config(source="api_server", node_name="n"), "kubeconfig: not in a pod"),
        (Config(namespace_labels=True), "kubeconfig: not in a pod"),
    ],
    ids=["node", "plain", "key", "port", "pod", "namespaces"],
)
def test_a_mistake_is_told(monkeypatch, config, rule):
    monkeypatch.delenv("KUBERNETES_SERVICE_HOST", raising=False)
    with pytest.raises(ConfigError, match=f"^{rule}"):
        create(config)


def test_the_type_is_that_of_its_selectors():
    assert create(Config()).type == "k8s"
    assert Selector.parse("k8s:ns:default").type == "k8s"

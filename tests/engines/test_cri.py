# SPDX-License-Identifier: Apache-2.0
"""Containers of a real containerd, as a kubelet has it run them."""

import asyncio

import pytest

from attestor.errors import WorkloadAttestationError
from attestor.workload import Facts, cgroups, cri
from spiffekit.evidence import ContainerFacts
from spiffekit.selector import typo
from tests.attestor.workload.places import cgroup
from tests.attestor.workload.processes import process, values
from tests.engines import containerd
from tests.engines.containerd import POD_UID, WEB


@pytest.fixture(scope="module")
def engine(tmp_path_factory):
    with containerd.running(tmp_path_factory.mktemp("containerd")) as one:
        yield one


@pytest.fixture(scope="module")
def attest(engine):
    with asyncio.Runner() as runner:
        attestor = cri.create(cri.Config(engine.socket))
        yield lambda one: runner.run(attestor.attest(one))


@pytest.fixture(scope="module")
def pod(engine):
    with engine.pod("web-0", app="web") as one:
        yield one


def test_a_container_of_a_pod_is_described(engine, pod, attest):
    with engine.container(pod, "main", team="payments") as (container, first):
        facts = attest(first)
        assert cgroups.pod(cgroups.read(first.proc)) == cgroups.Pod(POD_UID, container)
    (image_id,) = values(facts, "image_id")
    assert {str(selector) for selector in facts.selectors} == {
        "cri:label:team:payments",
        f"cri:image:{WEB}",
        f"cri:image_id:{image_id}",
        "cri:container-name:main",
        "cri:pod-name:web-0",
        "cri:pod-namespace:default",
        f"cri:pod-uid:{POD_UID}",
        "cri:pod-label:app:web",
    }
    assert image_id.rpartition("@")[2].startswith("sha256:")
    assert facts.container == ContainerFacts(
        engine="cri",
        id=container,
        name="main",
        image=WEB,
        image_id="" if "@" in image_id else image_id,
        image_digest=image_id.partition("@")[2],
    )
    assert [s for s in facts.selectors if typo(s)] == []


def test_containers_of_one_image_are_told_apart(engine, pod, attest):
    with engine.container(pod, "a", app="a") as (_, a), engine.container(pod, "b", app="b") as (_, b):
        for _ in range(2):
            assert values(attest(a), "label") == {"app:a"}
            assert values(attest(b), "label") == {"app:b"}


def test_processes_of_the_host_and_sandboxes_are_in_no_container(engine, pod, attest):
    with process("sleep", "60") as one, cgroup(f"/k8s.io/{'0' * 64}", one.pid):
        assert attest(one) == Facts()
    with process("sleep", "60") as one, cgroup(f"/k8s.io/{pod[0]}", one.pid):
        assert attest(one) == Facts()


@pytest.mark.parametrize(
    "path", ["/user.slice/user-0.slice{0}", "/{1}", "/kubepods/cri-containerd-{1}.scope"]
)
def test_a_cgroup_of_the_same_name_earns_nothing(engine, pod, attest, path):
    with engine.container(pod, "victim", app="victim") as (container, victim), process("sleep", "60") as liar:
        real = cgroups.read(victim.proc)[""]
        with cgroup(path.format(real, container), liar.pid):
            with pytest.raises(WorkloadAttestationError, match="is not where cri runs"):
                attest(liar)
        assert values(attest(victim), "label") == {"app:victim"}

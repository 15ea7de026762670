# SPDX-License-Identifier: Apache-2.0
"""Selectors and facts of a pod, as both daemons have to see them."""

import msgspec
import pytest

from spiffekit.daemon.kubernetes.facts import container_facts, digests, images, pod_facts, selectors
from spiffekit.daemon.kubernetes.objects import ContainerStatus, Pod
from tests.fakes.kubernetes import container_id, image_of, pod, status

DIGEST = "sha256:" + "ab" * 32


def read(value):
    return msgspec.convert(value, Pod)


@pytest.fixture
def value():
    return pod("booking", containers=("app", "sidecar"), team="travel")


def of_kind(found, kind):
    return sorted(s.value.removeprefix(f"{kind}:") for s in found if s.value.startswith(f"{kind}:"))


def test_each_owner_is_a_selector_of_its_own_unless_two_could_be_taken_for_one(value):
    value["metadata"]["ownerReferences"] = [
        {"kind": "ReplicaSet", "name": "booking", "uid": "rs-1"},
        {"kind": "Job", "name": "nightly", "uid": "job-1"},
        {"kind": "Job:nightly", "name": "x", "uid": "job-2"},
    ]
    one = read(value)
    found = selectors(one, one.status.container_statuses[0])
    assert of_kind(found, "pod-owner") == ["Job:nightly", "ReplicaSet:booking"]
    assert of_kind(found, "pod-owner-uid") == ["Job:job-1", "ReplicaSet:rs-1"]


def test_a_pod_is_told_with_all_its_containers_and_seen_from_one(value):
    value["spec"]["initContainers"] = [{"name": "setup", "image": image_of("setup")}]
    value["status"]["initContainerStatuses"] = [status("setup", container_id("setup"))]
    one = read(value)
    found = selectors(one, one.status.container_statuses[1])
    assert {s.type for s in found} == {"k8s"}
    assert of_kind(found, "container-name") == ["sidecar"]
    assert image_of("sidecar") in of_kind(found, "container-image")
    assert image_of("app") not in of_kind(found, "container-image")
    assert {image_of("app"), image_of("sidecar")} <= set(of_kind(found, "pod-image"))
    assert image_of("setup") in of_kind(found, "pod-init-image")
    assert of_kind(found, "pod-image-count") == ["2"]
    assert of_kind(found, "pod-init-image-count") == ["1"]
    assert of_kind(found, "pod-label") == ["team:travel"]


def test_every_name_of_an_image_counts_and_nothing_is_no_name(value):
    one = read(value)
    told = ContainerStatus("app", "app:1", f"docker-pullable://example.org/app@{DIGEST}")
    asked = image_of("app")
    assert images(one, told) == {asked, "app:1", told.image_id, f"example.org/app@{DIGEST}", DIGEST}
    assert images(one, ContainerStatus("app", image_id="example.org/app:1")) == {asked, "example.org/app:1"}
    assert images(one, ContainerStatus("unknown")) == frozenset()


@pytest.mark.parametrize(
    ("image_id", "found"),
    [
        (DIGEST, (DIGEST, "")),
        (f"docker://{DIGEST}", (DIGEST, "")),
        (f"example.org/app@{DIGEST}", ("", DIGEST)),
        ("example.org/app:1", ("", "")),
        (f"{DIGEST}0", ("", "")),
        (f"{DIGEST}\n", ("", "")),
        ("", ("", "")),
    ],
)
def test_a_digest_is_the_images_or_its_manifests(image_id, found):
    assert digests(ContainerStatus("app", image_id=image_id)) == found


def test_a_container_is_found_by_its_whole_id_among_all_of_the_pod(value):
    value["status"]["initContainerStatuses"] = [status("setup", container_id("setup"))]
    one = read(value)
    assert one.container(container_id("setup")).name == "setup"
    assert one.container(container_id(f"{one.metadata.uid}/sidecar")).name == "sidecar"
    assert one.container(container_id("setup")[:-1]) is None


def test_facts_are_those_of_the_pod_and_its_container(value):
    one = read(value)
    seen = one.status.container_statuses[0]
    facts = pod_facts(one, seen)
    assert (facts.uid, facts.namespace, facts.name) == (one.metadata.uid, "default", "booking")
    assert (facts.service_account, facts.node_name, facts.container) == ("booking", "node-1", "app")
    container = container_facts(one, seen)
    assert (container.engine, container.id, container.name) == (
        "k8s",
        container_id(f"{one.metadata.uid}/app"),
        "app",
    )
    assert (container.image, container.image_id) == (image_of("app"), "")
    assert container.image_digest == seen.image_id.partition("@")[2]

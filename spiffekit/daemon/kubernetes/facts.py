# SPDX-License-Identifier: Apache-2.0
"""What is true of a container of a pod: the attestor states it, the issuer holds it to the cluster's word.

The selectors are SPIRE's. A container's image goes by every name that it has: as it was asked for, as the
runtime calls it, and by digest.
"""

import re
from collections.abc import Mapping
from typing import Final

from spiffekit.daemon.kubernetes.objects import ContainerStatus, Pod, bare_id
from spiffekit.evidence import ContainerFacts, PodFacts
from spiffekit.selector import Selector

TYPE: Final = "k8s"
_NONE: Final[Mapping[str, str]] = {}
_DIGEST: Final = re.compile(r"(?:(?:.*@)|(?:[a-z-]+://))?(sha256:[0-9a-f]{64})")


def selectors(
    pod: Pod, status: ContainerStatus, namespace_labels: Mapping[str, str] = _NONE
) -> frozenset[Selector]:
    """Return every selector of a process in one container of a pod, whose namespace has these labels.

    Raises:
        SelectorError: A value cannot be one.
    """
    meta, spec = pod.metadata, pod.spec
    found = {
        f"ns:{meta.namespace}",
        f"sa:{spec.service_account_name}",
        f"node-name:{spec.node_name}",
        f"pod-uid:{meta.uid}",
        f"pod-name:{meta.name}",
        f"container-name:{status.name}",
        f"pod-image-count:{len(spec.containers)}",
        f"pod-init-image-count:{len(spec.init_containers)}",
    }
    found |= {f"container-image:{name}" for name in images(pod, status)}
    for kind, statuses in (
        ("pod-image", pod.status.container_statuses),
        ("pod-init-image", pod.status.init_container_statuses),
    ):
        found |= {f"{kind}:{name}" for one in statuses for name in images(pod, one)}
    found |= {f"pod-label:{key}:{value}" for key, value in meta.labels.items()}
    found |= {f"ns-label:{key}:{value}" for key, value in namespace_labels.items()}
    for owner in meta.owner_references:
        if ":" not in owner.kind:  # or else one owner could be taken for another
            found |= {f"pod-owner:{owner.kind}:{owner.name}", f"pod-owner-uid:{owner.kind}:{owner.uid}"}
    return frozenset(Selector(TYPE, value) for value in found)


def images(pod: Pod, status: ContainerStatus) -> frozenset[str]:
    """Return every name of a container's image."""
    pulled = status.image_id.rpartition("://")[2]  # Docker's shim puts "docker-pullable://" before it
    names = {status.image, status.image_id, pulled, pod.image(status.name)}
    if match := _DIGEST.fullmatch(status.image_id):
        names.add(match[1])
    return frozenset(filter(None, names))


def digests(status: ContainerStatus) -> tuple[str, str]:
    """Return the image's ID and the digest of its manifest, each "sha256:…" or "": a runtime tells one."""
    match = _DIGEST.fullmatch(status.image_id)
    if match is None:
        return "", ""
    return ("", match[1]) if "@" in status.image_id else (match[1], "")


def pod_facts(pod: Pod, status: ContainerStatus) -> PodFacts:
    """Return the facts of a pod, seen from one container."""
    return PodFacts(
        uid=pod.metadata.uid,
        namespace=pod.metadata.namespace,
        name=pod.metadata.name,
        service_account=pod.spec.service_account_name,
        node_name=pod.spec.node_name,
        container=status.name,
    )


def container_facts(pod: Pod, status: ContainerStatus) -> ContainerFacts:
    """Return the facts of a container."""
    image_id, image_digest = digests(status)
    return ContainerFacts(
        engine=TYPE,
        id=bare_id(status),
        name=status.name,
        image=pod.image(status.name) or status.image,
        image_id=image_id,
        image_digest=image_digest,
    )

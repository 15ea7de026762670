# SPDX-License-Identifier: Apache-2.0
"""Objects of the Kubernetes API, cut to the fields that we read; all others are skipped unread."""

from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime
from typing import Final, Generic, TypeVar

import msgspec


class OwnerReference(msgspec.Struct, frozen=True):
    """What made an object."""

    kind: str
    name: str
    uid: str


class Metadata(msgspec.Struct, frozen=True, rename="camel"):
    """Names of an object. `deletion_timestamp` is the end of the grace that it has to finish."""

    name: str = ""
    namespace: str = ""
    uid: str = ""
    resource_version: str = ""
    labels: dict[str, str] = {}
    owner_references: tuple[OwnerReference, ...] = ()
    deletion_timestamp: datetime | None = None


class KubernetesObject(msgspec.Struct, frozen=True):
    """What all objects have."""

    metadata: Metadata


O = TypeVar("O", bound=KubernetesObject)  # noqa: E741 - an object


class Container(msgspec.Struct, frozen=True):
    """A container as it was asked for."""

    name: str
    image: str = ""


class PodSpec(msgspec.Struct, frozen=True, rename="camel"):
    """A pod as it was asked for, and the node that it was put on."""

    node_name: str = ""
    service_account_name: str = ""
    containers: tuple[Container, ...] = ()
    init_containers: tuple[Container, ...] = ()


class ContainerStatus(msgspec.Struct, frozen=True):
    """A container as it is. `container_id` is like "containerd://HEX"."""

    name: str
    image: str = ""
    image_id: str = msgspec.field(name="imageID", default="")
    container_id: str = msgspec.field(name="containerID", default="")


class PodStatus(msgspec.Struct, frozen=True, rename="camel"):
    """A pod as it is."""

    phase: str = ""
    host_ip: str = msgspec.field(name="hostIP", default="")
    container_statuses: tuple[ContainerStatus, ...] = ()
    init_container_statuses: tuple[ContainerStatus, ...] = ()


class Pod(KubernetesObject, frozen=True):
    """A pod."""

    spec: PodSpec = PodSpec()
    status: PodStatus = PodStatus()

    def container(self, container_id: str) -> ContainerStatus | None:
        """Return the container, or init container, with that ID (64 hex digits); None if there is none."""
        for status in (*self.status.container_statuses, *self.status.init_container_statuses):
            if bare_id(status) == container_id:
                return status
        return None

    def image(self, container: str) -> str:
        """Return the image that was asked for, by the container's name; "" if there is none."""
        asked = (*self.spec.containers, *self.spec.init_containers)
        return next((one.image for one in asked if one.name == container), "")


def bare_id(status: ContainerStatus) -> str:
    """Return a container's ID without its runtime's name; "" while it has none."""
    return status.container_id.rpartition("://")[2]


class ListMetadata(msgspec.Struct, frozen=True, rename="camel"):
    """Where a list stands; `continue_token` asks for what follows."""

    resource_version: str = ""
    continue_token: str = msgspec.field(name="continue", default="")


class ObjectList(msgspec.Struct, Generic[O], frozen=True):
    """Objects of one kind; a kubelet without any pods says null."""

    metadata: ListMetadata = ListMetadata()
    items: tuple[O, ...] | None = None


PodList = ObjectList[Pod]


class Node(KubernetesObject, frozen=True):
    """A node of the cluster."""


class Namespace(KubernetesObject, frozen=True):
    """A namespace, of which we read the labels."""


@dataclass(frozen=True, slots=True)
class Resource(Generic[O]):
    """All objects of one kind, as an API server lists and watches them."""

    plural: str
    kind: type[O]
    page: type[ObjectList[O]]
    key: Callable[[O], str]  # by which we know one


PODS: Final = Resource("pods", Pod, PodList, lambda pod: pod.metadata.uid)
NAMESPACES: Final = Resource(
    "namespaces", Namespace, ObjectList[Namespace], lambda namespace: namespace.metadata.name
)


class TokenUser(msgspec.Struct, frozen=True):
    """Whose token it is."""

    username: str = ""
    extra: dict[str, tuple[str, ...]] = {}


class TokenVerdict(msgspec.Struct, frozen=True):
    """What the API server says of a token."""

    authenticated: bool = False
    user: TokenUser = TokenUser()
    audiences: tuple[str, ...] = ()
    error: str = ""


class TokenReview(msgspec.Struct, frozen=True):
    """The answer to a TokenReview."""

    status: TokenVerdict = TokenVerdict()


class WatchEvent(msgspec.Struct, frozen=True):
    """A line of a watch; what `object` is depends on `type`."""

    type: str
    object: msgspec.Raw


class Status(msgspec.Struct, frozen=True):
    """Why something was refused."""

    code: int = 0
    reason: str = ""
    message: str = ""

# SPDX-License-Identifier: Apache-2.0
"""The clusters that this issuer watches, so that it need not take a node's word for its pods.

Nothing is asked when an SVID is issued: a watch keeps every pod in memory. A cluster that has not been seen
for too long vouches for nothing.
"""

import asyncio
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Final, NoReturn, Self

from issuer.config import KubernetesTable
from issuer.errors import EvidenceRejectedError
from spiffekit.daemon.clock import Clock
from spiffekit.daemon.kubernetes import facts
from spiffekit.daemon.kubernetes.client import KubernetesClient, KubernetesError
from spiffekit.daemon.kubernetes.objects import NAMESPACES, PODS, ContainerStatus, Namespace, O, Pod
from spiffekit.daemon.kubernetes.watch import Watch
from spiffekit.evidence import ContainerFacts, PodFacts
from spiffekit.selector import Selector

LIVE: Final = {"Pending", "Running"}  # phases; a pod is pending until its init containers are done


@dataclass(frozen=True, slots=True)
class Cluster:
    """What is followed of one cluster."""

    pods: Watch[Pod, Pod]
    namespaces: Watch[Namespace, Namespace] | None = None

    @classmethod
    def of(cls, table: KubernetesTable, client: KubernetesClient, clock: Clock) -> Self:
        """Return the cluster of a table."""
        stale_after = table.stale_after
        pods = Watch(client, clock, PODS, keep=lambda pod: pod, stale_after=stale_after)
        if not table.namespace_labels:
            return cls(pods)
        return cls(pods, Watch(client, clock, NAMESPACES, keep=lambda one: one, stale_after=stale_after))


class Clusters:
    """See the module."""

    def __init__(self, clusters: Mapping[str, Cluster], clock: Clock) -> None:
        self._clusters = clusters
        self._clock = clock

    @classmethod
    def of(
        cls,
        tables: Mapping[str, KubernetesTable],
        clients: Mapping[str, KubernetesClient],
        clock: Clock,
    ) -> Self:
        """Return the clusters of a configuration."""
        return cls({name: Cluster.of(table, clients[name], clock) for name, table in tables.items()}, clock)

    async def run(self, ready: Callable[[], None]) -> NoReturn:
        """Watch them. Ready at once: an API server that is away only withholds what needs its word."""
        async with asyncio.TaskGroup() as group:
            for name, cluster in self._clusters.items():
                group.create_task(cluster.pods.run(), name=f"watch-pods-{name}")
                if cluster.namespaces is not None:
                    group.create_task(cluster.namespaces.run(), name=f"watch-namespaces-{name}")
            ready()
        raise AssertionError("watches never end")

    def check(self, cluster: str, node_name: str, pod: PodFacts, container: ContainerFacts | None) -> None:
        """Check that a pod lives, on that node, as the facts say, and has that container.

        Raises:
            EvidenceRejectedError: It does not, or the cluster cannot be seen now.
        """
        known = self._pod(cluster, pod.uid)
        if known.spec.node_name != node_name or pod.node_name != node_name:
            raise EvidenceRejectedError("evidence.pod.node_name: the pod is on another node")
        _require_alive(known, self._clock.now())
        if container is None:
            raise EvidenceRejectedError("evidence.container: is missing")
        status = _container(known, pod)
        true = facts.container_facts(known, status)
        if container.id != true.id:
            raise EvidenceRejectedError("evidence.container.id: is not that of the pod's container")
        _require_same(facts.pod_facts(known, status), pod)
        if container.image not in facts.images(known, status):
            raise EvidenceRejectedError("evidence.container.image: is not that of the pod's container")
        for name in ("image_id", "image_digest"):  # a cluster tells one of them
            if getattr(true, name) not in ("", getattr(container, name)):
                raise EvidenceRejectedError(f"evidence.container.{name}: is not that of the pod's container")

    def selectors(self, cluster: str, pod: PodFacts) -> frozenset[Selector]:
        """Return every selector that holds, by the cluster's word, for the container of the facts.

        Raises:
            EvidenceRejectedError: There is no such, or the cluster cannot be seen now.
        """
        known = self._pod(cluster, pod.uid)
        namespaces, labels = self._clusters[cluster].namespaces, {}
        if namespaces is not None:
            namespace = _seen(cluster, namespaces).get(known.metadata.namespace)
            labels = namespace.metadata.labels if namespace is not None else {}
        return facts.selectors(known, _container(known, pod), labels)

    def _pod(self, cluster: str, uid: str) -> Pod:
        if cluster not in self._clusters:
            raise EvidenceRejectedError(f"evidence.pod: cluster {cluster!r} is not watched")
        known = _seen(cluster, self._clusters[cluster].pods).get(uid)
        if known is None:
            raise EvidenceRejectedError("evidence.pod.uid: the cluster has no such pod")
        return known


def _seen(cluster: str, watch: Watch[O, O]) -> Mapping[str, O]:
    try:
        watch.require_fresh()
    except KubernetesError as error:
        raise EvidenceRejectedError(f"evidence.pod: cluster {cluster!r}: {error}") from error
    return watch.known


def _require_alive(known: Pod, now: datetime) -> None:
    if known.status.phase not in LIVE:
        raise EvidenceRejectedError("evidence.pod: has ended")
    # A node that does not let go of a pod must not keep its identities: the grace has an end.
    if known.metadata.deletion_timestamp is not None and known.metadata.deletion_timestamp <= now:
        raise EvidenceRejectedError("evidence.pod: is deleted")


def _container(known: Pod, pod: PodFacts) -> ContainerStatus:
    for status in (*known.status.container_statuses, *known.status.init_container_statuses):
        if status.name == pod.container:
            return status
    raise EvidenceRejectedError("evidence.pod.container: the pod has no such container")


def _require_same(true: PodFacts, said: PodFacts) -> None:
    for name in ("namespace", "name", "service_account"):
        if getattr(true, name) != getattr(said, name):
            raise EvidenceRejectedError(f"evidence.pod.{name}: is not what the cluster says")

# SPDX-License-Identifier: Apache-2.0
"""The clusters that this issuer watches, so that it need not take a node's word for its pods.

Nothing is asked when an SVID is issued: a watch keeps every pod in memory. A cluster that has not been seen
for too long vouches for nothing.
"""

import asyncio
from collections.abc import Callable, Mapping
from datetime import datetime
from typing import Final, NoReturn, Self

from issuer.config import KubernetesTable
from issuer.errors import EvidenceRejectedError
from spiffekit.daemon.clock import Clock
from spiffekit.daemon.kubernetes import facts
from spiffekit.daemon.kubernetes.client import KubernetesClient, KubernetesError
from spiffekit.daemon.kubernetes.objects import ContainerStatus, Pod
from spiffekit.daemon.kubernetes.watch import PodWatch
from spiffekit.evidence import ContainerFacts, PodFacts
from spiffekit.selector import Selector

LIVE: Final = {"Pending", "Running"}  # phases; a pod is pending until its init containers are done


class Clusters:
    """See the module."""

    def __init__(self, watches: Mapping[str, PodWatch[Pod]], clock: Clock) -> None:
        self._watches = watches
        self._clock = clock

    @classmethod
    def of(
        cls,
        tables: Mapping[str, KubernetesTable],
        clients: Mapping[str, KubernetesClient],
        clock: Clock,
    ) -> Self:
        """Return the clusters of a configuration."""
        watches = {
            name: PodWatch[Pod](clients[name], clock, keep=lambda pod: pod, stale_after=table.stale_after)
            for name, table in tables.items()
        }
        return cls(watches, clock)

    async def run(self, ready: Callable[[], None]) -> NoReturn:
        """Watch them. Ready at once: an API server that is away only withholds what needs its word."""
        async with asyncio.TaskGroup() as group:
            for name, watch in self._watches.items():
                group.create_task(watch.run(), name=f"watch-{name}")
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
        return facts.selectors(known, _container(known, pod))

    def _pod(self, cluster: str, uid: str) -> Pod:
        watch = self._watches.get(cluster)
        if watch is None:
            raise EvidenceRejectedError(f"evidence.pod: cluster {cluster!r} is not watched")
        try:
            watch.require_fresh()
        except KubernetesError as error:
            raise EvidenceRejectedError(f"evidence.pod: cluster {cluster!r}: {error}") from error
        known = watch.pods.get(uid)
        if known is None:
            raise EvidenceRejectedError("evidence.pod.uid: the cluster has no such pod")
        return known


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

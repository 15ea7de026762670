# SPDX-License-Identifier: Apache-2.0
"""The pods of this node, one list for all who ask: from its kubelet, or from the API server.

A container may run before its pod's status says so. Then whoever asks waits, until its deadline.
"""

import asyncio
import math
from collections.abc import Callable, Mapping
from datetime import timedelta
from typing import Final, NoReturn, Protocol

from attestor.workload import cgroups
from spiffekit.daemon.clock import Clock
from spiffekit.daemon.kubernetes.client import MAX_LIST, KubernetesClient
from spiffekit.daemon.kubernetes.objects import NAMESPACES, PODS, Namespace, Pod, PodList
from spiffekit.daemon.kubernetes.watch import Watch

MAX_AGE: Final = 5.0  # seconds that a kubelet's list is taken for the truth: labels change
RETRY: Final = 0.25  # seconds between two lists, however many wait for their containers
BUSY: Final = 4  # times as long as a list took, the kubelet is left alone: lists of thousands of pods
STALE_AFTER: Final = timedelta(minutes=2)  # without the API server's word nothing is known of any pod


class PodSource(Protocol):
    """Knows this node's pods."""

    async def find(self, place: cgroups.Pod) -> Pod:
        """Return the pod that has this uid and this container; wait for it.

        Raises:
            KubernetesError: Pods cannot be seen now.
        """

    async def run(self, ready: Callable[[], None]) -> NoReturn:
        """Follow the pods, if need be."""


class KubeletPods:
    """Asks the kubelet when somebody asks us. Nothing happens while nobody does."""

    def __init__(self, client: KubernetesClient, clock: Clock) -> None:
        self._client = client
        self._clock = clock
        self._pods: dict[str, Pod] = {}
        self._listed = -math.inf
        self._rest = 0.0  # when the next list may be asked for
        self._listing: asyncio.Task[None] | None = None

    async def find(self, place: cgroups.Pod) -> Pod:
        """Return the pod; see `PodSource`."""
        while True:
            if self._clock.monotonic() - self._listed <= MAX_AGE and (found := _of(self._pods, place)):
                return found
            if self._listing is None or self._listing.done():
                self._listing = asyncio.create_task(self._list(), name="kubelet-pods")
            # Shielded: whoever gives up must not end the list that others wait for.
            await asyncio.shield(self._listing)

    async def _list(self) -> None:
        if (rest := self._rest - self._clock.monotonic()) > 0:
            await self._clock.sleep(timedelta(seconds=rest))
        began = self._clock.monotonic()
        try:
            found = await self._client.get("/pods", PodList, limit=MAX_LIST)
            self._pods = {pod.metadata.uid: pod for pod in found.items or ()}
            self._listed = began
        finally:
            ended = self._clock.monotonic()
            self._rest = ended + max(RETRY, BUSY * (ended - began))

    async def run(self, ready: Callable[[], None]) -> NoReturn:
        """Do nothing: there is nothing to follow."""
        ready()
        await asyncio.Event().wait()
        raise AssertionError("waits for ever")


class WatchedPods:
    """Follows the API server, restricted to this node."""

    def __init__(self, client: KubernetesClient, clock: Clock, *, node_name: str) -> None:
        self._watch = Watch(
            client,
            clock,
            PODS,
            keep=lambda pod: pod,
            stale_after=STALE_AFTER,
            field_selector=f"spec.nodeName={node_name}",
        )

    async def find(self, place: cgroups.Pod) -> Pod:
        """Return the pod; see `PodSource`."""
        return await self._watch.find(lambda pods: _of(pods, place))

    async def run(self, ready: Callable[[], None]) -> NoReturn:
        """Follow the pods. Ready at once: the API server may be away, and others answer meanwhile."""
        ready()
        await self._watch.run()


class NamespaceLabels:
    """Follows the labels of all namespaces, at the API server: no kubelet knows them."""

    def __init__(self, client: KubernetesClient, clock: Clock) -> None:
        self._watch = Watch(client, clock, NAMESPACES, keep=_labels, stale_after=STALE_AFTER)

    async def of(self, namespace: str) -> Mapping[str, str]:
        """Return the labels of a namespace; wait for it.

        Raises:
            KubernetesError: Namespaces cannot be seen now.
        """
        return await self._watch.find(lambda known: known.get(namespace))

    async def run(self) -> NoReturn:
        """Follow the namespaces."""
        await self._watch.run()


def _labels(namespace: Namespace) -> Mapping[str, str]:
    return namespace.metadata.labels


def _of(pods: dict[str, Pod], place: cgroups.Pod) -> Pod | None:
    """Return the pod only if both the uid and the container are its own."""
    pod = pods.get(place.uid)
    return pod if pod is not None and pod.container(place.container_id) is not None else None

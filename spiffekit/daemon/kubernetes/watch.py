# SPDX-License-Identifier: Apache-2.0
"""The pods of a cluster, or of one node of it, as the API server's watch tells them: no call per question.

A watch that says nothing may be broken. So each lasts for half of the time that pods may go unseen; that the
server agrees to the next one shows that it is there.
"""

import asyncio
import logging
from collections.abc import Callable
from datetime import timedelta
from typing import Final, Generic, NoReturn, TypeVar

import msgspec

from spiffekit.daemon.backoff import Backoff
from spiffekit.daemon.clock import Clock
from spiffekit.daemon.kubernetes.client import UNREADABLE, KubernetesClient, KubernetesError
from spiffekit.daemon.kubernetes.objects import Pod, Status, WatchEvent

T = TypeVar("T")
logger = logging.getLogger(__name__)

MAX_PODS: Final = 200_000  # of one cluster; Kubernetes itself is made for 150,000
GRACE: Final = timedelta(seconds=5)  # beyond the time at which the server has to end a watch
LIST_WITHIN: Final = timedelta(seconds=60)
RETRY: Final = (timedelta(milliseconds=200), timedelta(seconds=10))
GONE: Final = 410  # HTTP status: the version is too old to be followed


class _RelistError(Exception):
    """What we know cannot be followed further."""


class PodWatch(Generic[T]):
    """See the module. `pods` has what `keep` makes of each pod, by uid."""

    def __init__(
        self,
        api: KubernetesClient,
        clock: Clock,
        *,
        keep: Callable[[Pod], T],
        stale_after: timedelta,
        field_selector: str = "",
    ) -> None:
        self.pods: dict[str, T] = {}
        self._api = api
        self._clock = clock
        self._keep = keep
        self._stale_after = stale_after
        self._field_selector = field_selector
        self._version = ""
        self._seen: float | None = None
        self._change = asyncio.Event()

    def require_fresh(self) -> None:
        """Check that the server's word is not older than it may be.

        Raises:
            KubernetesError: It is, or has never come.
        """
        age = None if self._seen is None else self._clock.monotonic() - self._seen
        if age is None or age > self._stale_after.total_seconds():
            raise KubernetesError("pods cannot be seen now")

    @property
    def begun(self) -> bool:
        """Whether the pods have been listed once."""
        return self._seen is not None

    async def changed(self) -> None:
        """Return when a pod has changed, or all have been listed."""
        await self._change.wait()

    async def run(self) -> NoReturn:
        """Follow the pods for ever, through every outage."""
        backoff = Backoff(*RETRY)
        while True:
            began = self._clock.monotonic()
            try:
                if not self._version:
                    await self._list()
                await self._follow()
                if self._clock.monotonic() - began > RETRY[0].total_seconds():
                    backoff.reset()
                    continue  # or else the server ends every watch at once; that must not become a storm
            except _RelistError as error:
                self._version = ""
                logger.info("pods are listed anew", extra={"reason": str(error)})
            except (KubernetesError, TimeoutError) as error:
                logger.warning("pods cannot be watched", extra={"reason": str(error) or "no answer"})
            await self._clock.sleep(backoff.next())

    async def _list(self) -> None:
        asked = self._clock.monotonic()
        async with asyncio.timeout(LIST_WITHIN.total_seconds()):
            pods, version = await self._api.pods(self._field_selector)
        if len(pods) > MAX_PODS:
            raise KubernetesError(f"more than {MAX_PODS} pods")
        self.pods = {pod.metadata.uid: self._keep(pod) for pod in pods}
        self._version, self._seen = version, asked
        self._tell()

    async def _follow(self) -> None:
        lasts = max(int(self._stale_after.total_seconds() / 2), 1)
        query = {
            "watch": "true",
            "allowWatchBookmarks": "true",
            "fieldSelector": self._field_selector,
            "resourceVersion": self._version,
            "timeoutSeconds": str(lasts),
        }
        try:
            async with asyncio.timeout(lasts + GRACE.total_seconds()):
                async for line in self._api.lines("/api/v1/pods", query):
                    self._seen = self._clock.monotonic()
                    if line:
                        self._apply(line)
        except KubernetesError as error:
            if error.code == GONE:
                raise _RelistError(str(error)) from error
            raise
        self._seen = self._clock.monotonic()

    def _apply(self, line: bytes) -> None:
        try:
            event = msgspec.json.decode(line, type=WatchEvent)
            if event.type == "ERROR":
                status = msgspec.json.decode(event.object, type=Status)
                raise _RelistError(f"{status.code} {status.reason}")
            pod = msgspec.json.decode(event.object, type=Pod)
        except UNREADABLE as error:
            raise _RelistError(f"event of another form: {error}") from error
        self._version = pod.metadata.resource_version
        match event.type:
            case "ADDED" | "MODIFIED":
                if len(self.pods) >= MAX_PODS:
                    raise KubernetesError(f"more than {MAX_PODS} pods")
                self.pods[pod.metadata.uid] = self._keep(pod)
            case "DELETED":
                self.pods.pop(pod.metadata.uid, None)
            case _:  # a bookmark: no pod changed
                return
        self._tell()

    def _tell(self) -> None:
        change, self._change = self._change, asyncio.Event()
        change.set()

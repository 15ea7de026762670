# SPDX-License-Identifier: Apache-2.0
"""The objects of one kind in a cluster, as the API server's watch tells them: no call per question.

A watch that says nothing may be broken. So each lasts for half of the time that objects may go unseen; that
the server agrees to the next one shows that it is there.
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
from spiffekit.daemon.kubernetes.objects import KubernetesObject, O, Resource, Status, WatchEvent

T = TypeVar("T")
U = TypeVar("U")
logger = logging.getLogger(__name__)

MAX_OBJECTS: Final = 200_000  # of one cluster; Kubernetes itself is made for 150,000 pods
GRACE: Final = timedelta(seconds=5)  # beyond the time at which the server has to end a watch
LIST_WITHIN: Final = timedelta(seconds=60)
RETRY: Final = (timedelta(milliseconds=200), timedelta(seconds=10))
GONE: Final = 410  # HTTP status: the version is too old to be followed


class _RelistError(Exception):
    """What we know cannot be followed further."""


class Watch(Generic[O, T]):
    """See the module. `known` has what `keep` makes of each object, by the key of its resource."""

    def __init__(
        self,
        api: KubernetesClient,
        clock: Clock,
        resource: Resource[O],
        *,
        keep: Callable[[O], T],
        stale_after: timedelta,
        field_selector: str = "",
    ) -> None:
        self.known: dict[str, T] = {}
        self._api = api
        self._resource = resource
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
            raise KubernetesError(f"{self._resource.plural} cannot be seen now")

    @property
    def begun(self) -> bool:
        """Whether the objects have been listed once."""
        return self._seen is not None

    async def changed(self) -> None:
        """Return when an object has changed, or all have been listed."""
        await self._change.wait()

    async def find(self, choose: Callable[[dict[str, T]], U | None]) -> U:
        """Return what `choose` finds among those that are known; wait for it.

        Raises:
            KubernetesError: The server's word is older than it may be.
        """
        while not self.begun:
            await self.changed()
        while True:
            self.require_fresh()
            if (found := choose(self.known)) is not None:
                return found
            await self.changed()

    async def run(self) -> NoReturn:
        """Follow the objects for ever, through every outage."""
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
                extra = {"resource": self._resource.plural, "reason": str(error)}
                logger.info("objects are listed anew", extra=extra)
            except (KubernetesError, TimeoutError) as error:
                extra = {"resource": self._resource.plural, "reason": str(error) or "no answer"}
                logger.warning("objects cannot be watched", extra=extra)
            await self._clock.sleep(backoff.next())

    async def _list(self) -> None:
        asked = self._clock.monotonic()
        async with asyncio.timeout(LIST_WITHIN.total_seconds()):
            found, version = await self._api.all(self._resource, self._field_selector)
        if len(found) > MAX_OBJECTS:
            raise KubernetesError(f"more than {MAX_OBJECTS} {self._resource.plural}")
        self.known = {self._resource.key(one): self._keep(one) for one in found}
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
                async for line in self._api.lines(f"/api/v1/{self._resource.plural}", query):
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
            if event.type == "BOOKMARK":  # an object without anything in it: nothing changed
                mark = msgspec.json.decode(event.object, type=KubernetesObject)
                self._version = mark.metadata.resource_version
                return
            found = msgspec.json.decode(event.object, type=self._resource.kind)
        except UNREADABLE as error:
            raise _RelistError(f"event of another form: {error}") from error
        self._version, key = found.metadata.resource_version, self._resource.key(found)
        match event.type:
            case "ADDED" | "MODIFIED":
                if len(self.known) >= MAX_OBJECTS:
                    raise KubernetesError(f"more than {MAX_OBJECTS} {self._resource.plural}")
                self.known[key] = self._keep(found)
            case "DELETED":
                self.known.pop(key, None)
            case _:
                raise _RelistError(f"event of another type: {event.type[:20]}")
        self._tell()

    def _tell(self) -> None:
        change, self._change = self._change, asyncio.Event()
        change.set()

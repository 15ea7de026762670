# SPDX-License-Identifier: Apache-2.0
"""What the issuer is to be told for its audit trail, until it has it: in memory, numbered, and bounded.

An event that does not fit has a number all the same, so that the issuer finds it missing; and we say
ourselves how many there were.
"""

import asyncio
import logging
import secrets
from collections import Counter, deque
from collections.abc import Sequence
from itertools import islice
from typing import Any, Final

from spiffekit.daemon.clock import Clock
from spiffekit.wire.convert import microseconds
from spiffekit.wire.pb.issuer.v1.audit_reports_pb2 import EventsOmitted, ReportedEvent, ReportedProcess

logger = logging.getLogger(__name__)

MAX_EVENTS: Final = 10_000  # that wait to be sent
MAX_BYTES: Final = 4 * 1024 * 1024  # of these events
SHARE: Final = 2  # one user's processes may fill one part in so many: no user hides another's
BOOT_BYTES: Final = 16


class Spool:
    """See the module. Used from one event loop; one for each run of the attestor.

    Args:
        clock: Says when an event happened.
        enabled: Whether anything is kept at all.
        limit: Events that may wait.

    Attributes:
        boot: Names this run.
        last: The number of the newest event, 0 before the first.
        sent: Events that the issuer has.
        lost: Events that it will find missing.
        wake: Is set when there is something to send.
    """

    def __init__(self, clock: Clock, *, enabled: bool = True, limit: int = MAX_EVENTS) -> None:
        self._clock = clock
        self._limit = limit
        self._waiting: deque[tuple[ReportedEvent, int | None]] = deque()  # with the user it is about
        self._bytes = 0
        self._of_user: Counter[int | None] = Counter()
        self._omitted = EventsOmitted()
        self.enabled = enabled
        self.boot = secrets.token_bytes(BOOT_BYTES)
        self.last = 0
        self.sent = 0
        self.lost = 0
        self.wake = asyncio.Event()

    def __len__(self) -> int:
        return len(self._waiting)

    def add(self, process: ReportedProcess | None = None, **what: Any) -> None:
        """Keep an event of a process, or of the attestor itself."""
        if not self.enabled:
            return
        self.last += 1
        now = microseconds(self._clock.now())
        event = ReportedEvent(number=self.last, at=now, process=process, **what)
        uid, size = None if process is None else process.uid, event.ByteSize()
        full = len(self._waiting) >= self._limit or self._bytes + size > MAX_BYTES
        if full or (uid is not None and self._of_user[uid] >= self._limit // SHARE):
            if not self._omitted.lost:
                logger.warning("more happens than the issuer can be told, events are lost")
            self.lose()
            return
        self._waiting.append((event, uid))
        self._bytes += size
        self._of_user[uid] += 1
        self.wake.set()

    def lose(self) -> None:
        """Count an event that has a number and is not sent."""
        self.lost += 1
        self._omitted.lost += 1

    def omit_refusal(self) -> None:
        """Count a refusal that is not told one by one."""
        if self.enabled:
            self._omitted.refusals += 1

    def account(self) -> None:
        """When nothing waits, keep an event of what was not told since the last one, if anything was not."""
        if not self._waiting and (self._omitted.lost or self._omitted.refusals):
            omitted, self._omitted = self._omitted, EventsOmitted()
            self.add(omitted=omitted)

    def first(self, count: int) -> Sequence[ReportedEvent]:
        """Return the oldest events that wait, at most so many."""
        return [event for event, _ in islice(self._waiting, count)]

    def drop(self, count: int) -> None:
        """Forget the oldest events."""
        for _ in range(count):
            event, uid = self._waiting.popleft()
            self._bytes -= event.ByteSize()
            self._of_user[uid] -= 1
            if not self._of_user[uid]:
                del self._of_user[uid]

    def disable(self) -> None:
        """Keep nothing until it is enabled again, and forget what waits."""
        self.enabled = False
        self.drop(len(self._waiting))

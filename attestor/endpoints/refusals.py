# SPDX-License-Identifier: Apache-2.0
"""Why calls were refused: the caller gets a number, an operator looks the reason up by it.

A process that is denied must not learn from us what would let it in.
"""

import logging
import secrets
from collections import OrderedDict
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Final

import grpc

from attestor.endpoints.admission import Verdict
from attestor.endpoints.caller import Caller
from attestor.errors import PeerGoneError
from attestor.reports import Reports
from spiffekit.daemon.clock import Clock
from spiffekit.selector import Selector
from spiffekit.wire.pb.attestor.v1 import admin_pb2
from spiffekit.wire.status import Status

logger = logging.getLogger(__name__)

_LOOKED_UP: Final = (grpc.StatusCode.PERMISSION_DENIED, grpc.StatusCode.UNAVAILABLE)
MAX_KEPT: Final = 1000  # refusals; who is denied in a loop must not fill our memory


@dataclass(frozen=True, slots=True, kw_only=True)
class Refusal:
    """One call that was refused. `selectors` is empty when the process was not examined."""

    id: str  # what the caller was told
    at: datetime
    pid: int
    uid: int
    code: str
    reason: str
    selectors: frozenset[Selector] = frozenset()
    failed: frozenset[str] = frozenset()  # types of attestors that could not examine it


class Refusals:
    """The newest refusals."""

    def __init__(self, clock: Clock, reports: Reports, *, kept: int = MAX_KEPT) -> None:
        self._clock = clock
        self._reports = reports
        self._kept = kept
        self._by_id: OrderedDict[str, Refusal] = OrderedDict()

    def add(self, caller: Caller, code: str, reason: str) -> Refusal:
        """Remember a refusal."""
        examination = caller.last_examination
        refusal = Refusal(
            id=secrets.token_hex(8),
            at=self._clock.now(),
            pid=caller.process.pid,
            uid=caller.process.peer.uid,
            code=code,
            reason=reason,
            selectors=examination.selectors if examination is not None else frozenset(),
            failed=examination.failed if examination is not None else frozenset(),
        )
        self._by_id[refusal.id] = refusal
        if len(self._by_id) > self._kept:
            self._by_id.popitem(last=False)
        return refusal

    def told(self, caller: Caller | None, verdict: Verdict, error: Exception) -> Status:
        """Return what a refused caller is told: with a number, where an operator may look up the reason."""
        reason, status = verdict
        if caller is None or status.code not in _LOOKED_UP:
            return status
        refusal = self.add(caller, status.code.name, str(error))
        logger.info(
            "call refused",
            extra={"pid": refusal.pid, "uid": refusal.uid, "reason": refusal.reason, "call": refusal.id},
        )
        if not isinstance(error, PeerGoneError):  # who has exited is not refused
            self._reports.refused(caller.process, caller.last_examination, reason=reason, call=refusal.id)
        return replace(status, detail=admin_pb2.Refused(correlation_id=refusal.id))

    def find(self, refusal_id: str) -> Refusal | None:
        """Return a refusal, or None if there was none, or too many since."""
        return self._by_id.get(refusal_id)

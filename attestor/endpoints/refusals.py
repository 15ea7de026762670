# SPDX-License-Identifier: Apache-2.0
"""Why calls were refused: the caller gets a number, an operator looks the reason up by it.

A process that is denied must not learn from us what would let it in.
"""

import secrets
from collections import OrderedDict
from dataclasses import dataclass
from datetime import datetime
from typing import Final

from attestor.endpoints.caller import Caller
from spiffekit.daemon.clock import Clock
from spiffekit.selector import Selector

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

    def __init__(self, clock: Clock, *, kept: int = MAX_KEPT) -> None:
        self._clock = clock
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

    def find(self, refusal_id: str) -> Refusal | None:
        """Return a refusal, or None if there was none, or too many since."""
        return self._by_id.get(refusal_id)

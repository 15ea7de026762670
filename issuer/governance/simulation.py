# SPDX-License-Identifier: Apache-2.0
"""What policies would have decided: decisions of the audit trail, made again."""

import json
from collections import deque
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final

from spiffekit.id import SpiffeId
from spiffekit.policy import Decision, Policies, Request
from spiffekit.policy.request import SVID

EVENTS: Final = ("svid.", "call.")  # of the trail: those that a decision was made for
MAX_EVENTS: Final = 100_000
MAX_FLIPS: Final = 500  # that are kept; all are counted


@dataclass(frozen=True, slots=True, kw_only=True)
class Flip:
    """A decision that would come out otherwise."""

    event_id: str
    request: Request
    was_allowed: bool
    would: Decision


class Simulation:
    """Decides again, one event after another, and counts what comes out otherwise."""

    def __init__(self, policies: Policies, *, enforced: bool) -> None:
        self._policies = policies
        self._enforced = enforced  # whether any statement counts for SVIDs; for calls, all of them do
        self._known: dict[tuple[bytes, bool], Decision | None] = {}
        self.decided = 0
        self.undecided = 0  # it depends on selectors, which are not recorded
        self.flipped = 0
        self.flips: deque[Flip] = deque(maxlen=MAX_FLIPS)  # the newest

    def replay(self, leaves: Iterable[bytes]) -> None:
        """Decide again what events of the trail tell of; other events are passed over."""
        for leaf in leaves:
            event = json.loads(leaf)
            asked = event.get("detail", {}).get("judged")
            if asked is None or "agent" not in event:
                continue
            spiffe_id = SpiffeId.parse(event["agent"]["spiffe_id"])
            requests, hidden = Request.replayed(asked, spiffe_id, datetime.fromisoformat(event["time"]))
            self._count(event, [(request, self._decide(request, hidden=hidden)) for request in requests])

    def _count(self, event: dict[str, Any], outcomes: list[tuple[Request, Decision | None]]) -> None:
        """Compare what happened with what would: all is allowed, or one thing is denied, or nobody knows."""
        self.decided += 1
        certain = [(request, would) for request, would in outcomes if would is not None]
        denied = [(request, would) for request, would in certain if not would.allowed]
        if not denied and len(certain) < len(outcomes):
            self.undecided += 1
            return
        was_allowed = event["outcome"]["decision"] == "allow"
        if was_allowed == (not denied):
            return
        request, would = (denied or certain)[0]
        self.flipped += 1
        self.flips.append(Flip(event_id=event["id"], request=request, was_allowed=was_allowed, would=would))

    def _decide(self, request: Request, *, hidden: bool) -> Decision | None:
        if not self._enforced and request.action == SVID:
            return Decision(allowed=True)
        key = request.key(), hidden
        if key not in self._known:
            decide = self._policies.decide_without_selectors if hidden else self._policies.decide
            self._known[key] = decide(request)
        return self._known[key]

# SPDX-License-Identifier: Apache-2.0
"""What one node has been sent, and the messages that bring it to what it should have."""

from collections import deque
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Final

from google.protobuf.message import Message

from issuer.api.convert import entry_to_proto
from issuer.model import RegistrationEntry
from issuer.registration import Authorized
from spiffekit.bundle import Bundle
from spiffekit.id import TrustDomain
from spiffekit.wire.convert import bundle_to_proto
from spiffekit.wire.pb.issuer.v1 import updates_pb2

CHUNK: Final = 500  # entries, bundles or names in one message
CHUNK_BYTES: Final = 1024 * 1024  # bytes of one message, or a single thing that is larger
MAX_JOURNAL: Final = 1000  # names of changed things; who is further behind gets a snapshot


@dataclass(frozen=True, slots=True)
class _Step:
    """One change that was sent: who is at a revision below `below` may lack it."""

    below: int
    entries: frozenset[str]
    bundles: frozenset[TrustDomain]

    def __len__(self) -> int:
        return len(self.entries) + len(self.bundles)


class Sent:
    """Entries and bundles that a node has, and the names of those that changed lately.

    Nobody tells us what arrives. But a node that comes back says which revision it has reached, and the
    names of what was sent since then are enough to bring it up to date.
    """

    def __init__(self) -> None:
        self._entries: dict[str, RegistrationEntry] = {}
        self._bundles: dict[TrustDomain, Bundle] = {}
        self._journal: deque[_Step] = deque()
        self._since = -1  # the journal is complete from this revision on; -1: there was no snapshot yet
        self._until = -1  # the newest revision that the node was told
        self._doubtful = _Step(
            0, frozenset(), frozenset()
        )  # what the node may have, or not, or an older one of

    def resumed(self, revision: int) -> "Sent | None":
        """Return what a node has that has reached `revision`; None when that is not known any longer."""
        if not 0 <= self._since <= revision <= self._until:
            return None
        missed = [step for step in self._journal if revision < step.below]
        entries = frozenset[str]().union(*(step.entries for step in missed))
        bundles = frozenset[TrustDomain]().union(*(step.bundles for step in missed))
        sent = Sent()
        sent._entries = {key: entry for key, entry in self._entries.items() if key not in entries}
        sent._bundles = {key: bundle for key, bundle in self._bundles.items() if key not in bundles}
        sent._journal = self._journal.copy()
        sent._since, sent._until = self._since, self._until
        sent._doubtful = _Step(0, entries, bundles)
        return sent

    def reached(self, revision: int) -> None:
        """Take note that the node lacks nothing at `revision`, and is told so."""
        self._until = revision

    def bring(
        self, authorized: Authorized, bundles: Iterable[Bundle], revision: int
    ) -> list[updates_pb2.WatchResponse]:
        """Return the messages that bring the node to `revision`; none if it lacks nothing.

        The first ones are a snapshot. All but the last say that more follow.
        """
        entries = {entry.id: entry for entry in authorized.entries}
        fresh = {bundle.trust_domain: bundle for bundle in bundles}
        changed = [entry for key, entry in entries.items() if self._entries.get(key) is not entry]
        gone = self._doubtful.entries.union(self._entries) - entries.keys()
        changed_bundles = [bundle for key, bundle in fresh.items() if self._bundles.get(key) != bundle]
        gone_bundles = self._doubtful.bundles.union(self._bundles) - fresh.keys()
        self._entries, self._bundles = entries, fresh
        self._doubtful = _Step(0, frozenset(), frozenset())
        snapshot = self._since < 0
        if snapshot:
            self._since = revision
        elif changed or gone or changed_bundles or gone_bundles:
            self._note(
                revision,
                gone.union(entry.id for entry in changed),
                gone_bundles.union(bundle.trust_domain for bundle in changed_bundles),
            )
        else:
            self.reached(revision)
            return []
        self.reached(revision)
        parts: list[tuple[str, Message | str]] = [
            *(("entries", entry_to_proto(entry)) for entry in changed),
            *(("removed_entry_ids", key) for key in sorted(gone)),
            *(("bundles", bundle_to_proto(bundle)) for bundle in changed_bundles),
            *(("removed_bundles", trust_domain.name) for trust_domain in sorted(gone_bundles)),
        ]
        messages = list(_chunks(parts))
        for message in messages:
            message.snapshot = snapshot
            message.more = message is not messages[-1]
        _taint(messages[-1], fresh.values())
        return messages

    def _note(self, revision: int, entries: frozenset[str], bundles: frozenset[TrustDomain]) -> None:
        # Time alone can take an entry away: then who is at this revision already may lack the step as well.
        below = revision + 1 if revision == self._until else revision
        self._journal.append(_Step(below, entries, bundles))
        while sum(map(len, self._journal)) > MAX_JOURNAL:
            self._since = max(self._since, self._journal.popleft().below)


def _chunks(parts: list[tuple[str, Message | str]]) -> Iterator[updates_pb2.WatchResponse]:
    message, count, size = updates_pb2.WatchResponse(), 0, 0
    for field, part in parts:
        weight = len(part) if isinstance(part, str) else part.ByteSize()
        if count == CHUNK or (count and size + weight > CHUNK_BYTES):
            yield message
            message, count, size = updates_pb2.WatchResponse(), 0, 0
        getattr(message, field).append(part)
        count, size = count + 1, size + weight
    yield message


def _taint(message: updates_pb2.WatchResponse, bundles: Iterable[Bundle]) -> None:
    for bundle in bundles:
        message.tainted_x509_authorities.extend(
            a.subject_key_id for a in bundle.x509_authorities if a.tainted
        )
        message.tainted_jwt_authorities.extend(a.key_id for a in bundle.jwt_authorities if a.tainted)

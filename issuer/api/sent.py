# SPDX-License-Identifier: Apache-2.0
"""What one node has been sent, and the messages that bring it to what it should have."""

from collections.abc import Iterable, Iterator
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


class Sent:
    """Entries and bundles that a node has, at a range of revisions at which they were the same."""

    def __init__(self) -> None:
        self._entries: dict[str, RegistrationEntry] = {}
        self._bundles: dict[TrustDomain, Bundle] = {}
        self._brought = -1  # the revision of the newest message
        self._arrived = -1  # the newest revision at which all of it was sent; -1 while messages are under way

    def copy(self) -> "Sent":
        """Return a copy that goes its own way."""
        copied = Sent()
        copied._entries, copied._bundles = self._entries, self._bundles  # replaced, never changed
        copied._brought, copied._arrived = self._brought, self._arrived
        return copied

    def stands_at(self, revision: int) -> bool:
        """Tell whether a node that has reached `revision` has exactly this."""
        return 0 <= self._brought <= revision <= self._arrived

    def arrived(self, revision: int) -> None:
        """Take note that everything up to `revision` was sent."""
        self._arrived = revision

    def bring(
        self, authorized: Authorized, bundles: Iterable[Bundle], revision: int
    ) -> list[updates_pb2.WatchResponse]:
        """Return the messages that bring the node to `revision`; none if it lacks nothing.

        The first ones are a snapshot. All but the last say that more follow.
        """
        snapshot = self._brought < 0
        entries = {entry.id: entry for entry in authorized.entries}
        fresh = {bundle.trust_domain: bundle for bundle in bundles}
        known_entries, known_bundles = self._entries, self._bundles
        self._entries, self._bundles = entries, fresh
        parts: list[tuple[str, Message | str]] = [
            *(
                ("entries", entry_to_proto(e))
                for key, e in entries.items()
                if known_entries.get(key) is not e
            ),
            *(("removed_entry_ids", key) for key in sorted(known_entries.keys() - entries.keys())),
            *(("bundles", bundle_to_proto(b)) for td, b in fresh.items() if known_bundles.get(td) != b),
            *(("removed_bundles", td.name) for td in sorted(known_bundles.keys() - fresh.keys())),
        ]
        if not parts and not snapshot:
            return []
        self._brought, self._arrived = revision, -1
        messages = list(_chunks(parts))
        for message in messages:
            message.snapshot = snapshot
            message.more = message is not messages[-1]
        _taint(messages[-1], fresh.values())
        return messages


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

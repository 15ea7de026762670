# SPDX-License-Identifier: Apache-2.0
"""issuer.v1.Updates: push what a node may see, as it changes.

Each stream remembers what it has sent. A change that cannot concern the node costs a set look-up; any
other one costs a walk of its entries and a comparison. Nothing is polled.
"""

import asyncio
from collections.abc import AsyncIterator, Iterable
from datetime import timedelta
from typing import Final

from issuer.api.caller import Callers
from issuer.api.convert import entry_to_proto
from issuer.api.dispatch import Call
from issuer.changes import ChangeLog
from issuer.errors import InvalidRequestError
from issuer.model import ChangeKind, RegistrationEntry
from issuer.registration import Authorized, Registrations
from spiffekit.bundle import Bundle
from spiffekit.daemon.clock import Clock
from spiffekit.id import TrustDomain
from spiffekit.wire.convert import bundle_to_proto
from spiffekit.wire.pb.issuer.v1 import updates_pb2

HEARTBEAT: Final = timedelta(seconds=15)
CHUNK: Final = 500  # entries of one message


class UpdatesService:
    """See the module."""

    def __init__(
        self,
        trust_domain: TrustDomain,
        *,
        registrations: Registrations,
        log: ChangeLog,
        callers: Callers,
        clock: Clock,
        epoch: str,
        heartbeat: timedelta = HEARTBEAT,
    ) -> None:
        self._trust_domain = trust_domain
        self._registrations = registrations
        self._log = log
        self._callers = callers
        self._clock = clock
        self._epoch = epoch
        self._heartbeat = heartbeat

    async def Watch(  # noqa: N802 - the method's name on the wire
        self, requests: AsyncIterator[updates_pb2.WatchRequest], call: Call
    ) -> AsyncIterator[updates_pb2.WatchResponse]:
        """Send a snapshot, then every change, until the node may no longer call."""
        if await anext(requests, None) is None:
            raise InvalidRequestError("revision: the first message is missing")
        node_id = call.caller.node_id
        reading = asyncio.create_task(_drain(requests))
        try:
            sent = _Sent()
            revision = self._log.revision
            authorized = self._registrations.authorized(node_id, call.now)
            for message in sent.snapshot(authorized, self._bundles(authorized)):
                yield self._stamped(message, revision)
            while not reading.done():
                try:
                    async with asyncio.timeout(self._heartbeat.total_seconds()):
                        await self._log.wait_beyond(revision)
                except TimeoutError:
                    await self._callers.judge(call.connection)  # expiry comes without a change
                    yield self._stamped(updates_pb2.WatchResponse(heartbeat=True), revision)
                    continue
                changes = self._log.since(revision)
                revision = self._log.revision
                await self._callers.judge(call.connection)  # banned or evicted: ends here
                if changes is not None and not any(
                    change.kind is ChangeKind.BUNDLE or self._registrations.concerns(authorized, change)
                    for change in changes
                ):
                    continue
                authorized = self._registrations.authorized(node_id, self._clock.now())
                if (delta := sent.delta(authorized, self._bundles(authorized))) is not None:
                    yield self._stamped(delta, revision)
        finally:
            reading.cancel()

    def _bundles(self, authorized: Authorized) -> list[Bundle]:
        wanted = {self._trust_domain}
        for entry in authorized.entries:
            wanted.update(entry.federates_with)
        found = (self._registrations.bundle(trust_domain) for trust_domain in sorted(wanted))
        return [bundle for bundle in found if bundle is not None]

    def _stamped(self, message: updates_pb2.WatchResponse, revision: int) -> updates_pb2.WatchResponse:
        message.revision = revision
        message.epoch = self._epoch
        return message


class _Sent:
    """What the other side has by now."""

    def __init__(self) -> None:
        self._entries: dict[str, RegistrationEntry] = {}
        self._bundles: dict[TrustDomain, Bundle] = {}

    def snapshot(self, authorized: Authorized, bundles: Iterable[Bundle]) -> list[updates_pb2.WatchResponse]:
        """Return everything, in messages of bounded size."""
        self._entries = {entry.id: entry for entry in authorized.entries}
        self._bundles = {bundle.trust_domain: bundle for bundle in bundles}
        entries = authorized.entries
        chunks = [entries[i : i + CHUNK] for i in range(0, len(entries), CHUNK)] or [()]
        messages = [
            updates_pb2.WatchResponse(
                snapshot=True, more=True, entries=[entry_to_proto(entry) for entry in chunk]
            )
            for chunk in chunks
        ]
        messages[-1].more = False
        messages[-1].bundles.extend(bundle_to_proto(bundle) for bundle in self._bundles.values())
        _taint(messages[-1], self._bundles.values())
        return messages

    def delta(self, authorized: Authorized, bundles: Iterable[Bundle]) -> updates_pb2.WatchResponse | None:
        """Return what is new, changed or gone; None if that is nothing."""
        entries = {entry.id: entry for entry in authorized.entries}
        fresh = {bundle.trust_domain: bundle for bundle in bundles}
        changed = [entry for key, entry in entries.items() if self._entries.get(key) is not entry]
        message = updates_pb2.WatchResponse(
            entries=[entry_to_proto(entry) for entry in changed],
            removed_entry_ids=sorted(self._entries.keys() - entries.keys()),
            bundles=[bundle_to_proto(b) for td, b in fresh.items() if self._bundles.get(td) != b],
            removed_bundles=sorted(td.name for td in self._bundles.keys() - fresh.keys()),
        )
        self._entries, self._bundles = entries, fresh
        if not message.ByteSize():
            return None
        _taint(message, fresh.values())
        return message


def _taint(message: updates_pb2.WatchResponse, bundles: Iterable[Bundle]) -> None:
    for bundle in bundles:
        message.tainted_x509_authorities.extend(
            a.subject_key_id for a in bundle.x509_authorities if a.tainted
        )
        message.tainted_jwt_authorities.extend(a.key_id for a in bundle.jwt_authorities if a.tainted)


async def _drain(requests: AsyncIterator[updates_pb2.WatchRequest]) -> None:
    """Read acknowledgements, so that they do not pile up; the end of them is the end of the stream."""
    async for _ in requests:
        pass

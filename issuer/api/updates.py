# SPDX-License-Identifier: Apache-2.0
"""issuer.v1.Updates: push what a node may see, as it changes.

Each stream remembers what it has sent, and the service keeps that for a while after the stream has ended:
a node that comes back with the revision it has reached gets only what it missed. A change that cannot
concern the node costs a set look-up; any other one costs a walk of its entries and a comparison. Nothing
is polled, and nothing piles up for a node that reads slowly: what it gets next is computed when it reads.
"""

import asyncio
import secrets
from collections import OrderedDict
from collections.abc import AsyncIterator
from datetime import timedelta
from typing import Final

from issuer.api.caller import Callers
from issuer.api.dispatch import Call
from issuer.api.sent import Sent
from issuer.changes import ChangeLog
from issuer.errors import InvalidRequestError, NodeDeniedError
from issuer.governance.policy_bundles import PolicyPublisher, PublishedPolicies
from issuer.governance.revocation import Published, Publisher
from issuer.model import ChangeKind
from issuer.registration import Authorized, Registrations
from spiffekit.bundle import Bundle
from spiffekit.daemon.clock import Clock
from spiffekit.id import SpiffeId, TrustDomain
from spiffekit.wire.pb.issuer.v1 import updates_pb2

HEARTBEAT: Final = timedelta(seconds=15)
MAX_REMEMBERED: Final = (
    1000  # nodes whose streams can be resumed; more would cost memory for nodes that are gone
)


class UpdatesService:
    """See the module."""

    def __init__(  # noqa: PLR0913 - what it works with
        self,
        trust_domain: TrustDomain,
        *,
        registrations: Registrations,
        log: ChangeLog,
        callers: Callers,
        publisher: Publisher,
        policies: PolicyPublisher,
        clock: Clock,
        epoch: str,
        heartbeat: timedelta = HEARTBEAT,
        remembered: int = MAX_REMEMBERED,
    ) -> None:
        self._trust_domain = trust_domain
        self._registrations = registrations
        self._log = log
        self._callers = callers
        self._publisher = publisher
        self._policies = policies
        self._clock = clock
        # A database put back to an older state counts its revisions anew: each run stands for itself.
        self._epoch = f"{epoch}-{secrets.token_hex(4)}"
        self._heartbeat = heartbeat
        self._remembered = remembered
        self._sent: OrderedDict[SpiffeId, Sent] = OrderedDict()

    async def Watch(  # noqa: N802 - the method's name on the wire
        self, requests: AsyncIterator[updates_pb2.WatchRequest], call: Call
    ) -> AsyncIterator[updates_pb2.WatchResponse]:
        """Send a snapshot or what changed since the last stream, then every change, until it may not call."""
        first = await anext(requests, None)
        if first is None:
            raise InvalidRequestError("revision: the first message is missing")
        node_id = call.caller.node_id
        sent = self._take_up(node_id, first)
        reading = asyncio.create_task(_drain(requests))
        told = 0  # the number of the revocations that were sent last
        decided_by = first.policies if first.epoch == self._epoch else 0  # that of the policies
        try:
            revision = self._log.revision
            authorized = self._registrations.authorized(node_id, call.now)
            for message in sent.bring(authorized, self._bundles(authorized), revision) or [_heartbeat()]:
                yield self._stamped(message, revision)
            while await self._is_more(revision, told, decided_by, reading):
                await self._callers.judge(call.connection)  # banned, evicted or expired: ends here
                published = self._publisher.current
                if published.number > told:  # first: policies may be large, and the way to the node slow
                    told = published.number
                    yield self._stamped(_revocations(published), revision)
                    continue
                policies = self._policies.current
                if policies.number > decided_by:
                    decided_by = policies.number
                    yield self._stamped(_policies(policies), revision)
                    continue
                if self._log.revision == revision:
                    yield self._stamped(_heartbeat(), revision)
                    continue
                changes = self._log.since(revision)
                revision = self._log.revision
                if changes is None or any(
                    change.kind is ChangeKind.BUNDLE or self._registrations.concerns(authorized, change)
                    for change in changes
                ):
                    authorized = self._registrations.authorized(node_id, self._clock.now())
                    for message in sent.bring(authorized, self._bundles(authorized), revision):
                        yield self._stamped(message, revision)
                else:
                    sent.reached(revision)
        except NodeDeniedError:
            self._sent.pop(node_id, None)
            raise
        finally:
            reading.cancel()

    def _take_up(self, node_id: SpiffeId, request: updates_pb2.WatchRequest) -> Sent:
        """Return what the node has: what it was sent up to the revision that it has reached, or nothing."""
        before = self._sent.pop(node_id, None)
        if before is None or request.epoch != self._epoch:
            sent = Sent()
        else:
            # A copy of its own: the old stream may not have noticed yet that it is dead.
            sent = before.resumed(request.revision) or Sent()
        self._sent[node_id] = sent
        if len(self._sent) > self._remembered:
            self._sent.popitem(last=False)
        return sent

    async def _is_more(
        self, revision: int, told: int, decided_by: int, reading: "asyncio.Task[None]"
    ) -> bool:
        """Wait for a change, or the time of a heartbeat; False when the node has ended the stream."""
        growing = [
            asyncio.create_task(self._log.wait_beyond(revision)),
            asyncio.create_task(self._publisher.wait_beyond(told)),
            asyncio.create_task(self._policies.wait_beyond(decided_by)),
        ]
        try:
            await asyncio.wait(
                (*growing, reading),
                timeout=self._heartbeat.total_seconds(),
                return_when=asyncio.FIRST_COMPLETED,
            )
        finally:
            for one in growing:
                one.cancel()
        return not reading.done()

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


def _revocations(published: Published) -> updates_pb2.WatchResponse:
    what = updates_pb2.Revocations(status=published.status, crls=published.crls)
    return updates_pb2.WatchResponse(heartbeat=True, revocations=what)


def _policies(published: PublishedPolicies) -> updates_pb2.WatchResponse:
    what = updates_pb2.Policies(number=published.number, bundle=published.token)
    return updates_pb2.WatchResponse(heartbeat=True, policies=what)


def _heartbeat() -> updates_pb2.WatchResponse:
    return updates_pb2.WatchResponse(heartbeat=True)


async def _drain(requests: AsyncIterator[updates_pb2.WatchRequest]) -> None:
    """Read acknowledgements, so that they do not pile up; the end of them is the end of the stream."""
    async for _ in requests:
        pass

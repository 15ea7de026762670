# SPDX-License-Identifier: Apache-2.0
"""spire.api.server.entry.v1: operators register identities, nodes learn which ones they may serve."""

import time
from collections.abc import AsyncIterator, Callable, Iterable
from datetime import datetime
from typing import Any, Final

from issuer.api.convert import (
    comparison_field,
    entry_from_proto,
    entry_to_proto,
    id_field,
    selectors_field,
)
from issuer.api.dispatch import PAGE_BYTES, Call, item_status, masked, page_size, pages_of
from issuer.errors import AlreadyExistsError, InvalidRequestError, IssuerError, NotFoundError
from issuer.model import RegistrationEntry, new_entry_id
from issuer.registration import Registrations
from issuer.selection import compares
from issuer.store import Database, Transaction
from spiffekit.errors import SpiffeIdError
from spiffekit.id import TrustDomain
from spiffekit.wire.pb.spire.api import types_pb2
from spiffekit.wire.pb.spire.api.server.entry.v1 import entry_pb2

MAX_PAGE: Final = 1000
MAX_BATCH: Final = 1000
SYNC_PAGE: Final = 500  # entries of one message of SyncAuthorizedEntries


Act = Callable[[Transaction], RegistrationEntry]


class EntryService:
    """See the module."""

    def __init__(
        self, trust_domain: TrustDomain, *, database: Database, registrations: Registrations
    ) -> None:
        self._trust_domain = trust_domain
        self._database = database
        self._registrations = registrations

    async def BatchCreateEntry(  # noqa: N802 - the method's name on the wire
        self, request: entry_pb2.BatchCreateEntryRequest, call: Call
    ) -> entry_pb2.BatchCreateEntryResponse:
        """Create entries; each has a status of its own."""
        _bounded(request.entries)
        mask = request.output_mask if request.HasField("output_mask") else None

        def create(message: types_pb2.Entry) -> Act:
            def act(tx: Transaction) -> RegistrationEntry:
                entry_id = message.id or new_entry_id(time.time_ns())
                entry = entry_from_proto(message, self._trust_domain, entry_id=entry_id, now=call.now)
                tx.audit.append(call.record(entry.name, entry=entry.id, admin=entry.admin))
                return tx.entries.create(entry)

            return act

        outcomes = await self._database.write_each([create(message) for message in request.entries])
        kind = entry_pb2.BatchCreateEntryResponse.Result
        return entry_pb2.BatchCreateEntryResponse(results=[self._result(kind, one, mask) for one in outcomes])

    async def BatchUpdateEntry(  # noqa: N802 - the method's name on the wire
        self, request: entry_pb2.BatchUpdateEntryRequest, call: Call
    ) -> entry_pb2.BatchUpdateEntryResponse:
        """Update entries: the fields of the input mask, or all."""
        _bounded(request.entries)
        input_mask = request.input_mask if request.HasField("input_mask") else None
        mask = request.output_mask if request.HasField("output_mask") else None

        def update(message: types_pb2.Entry) -> Act:
            def act(tx: Transaction) -> RegistrationEntry:
                before = tx.entries.get(message.id)
                merged = _merged(entry_to_proto(before), message, input_mask)
                entry = entry_from_proto(merged, self._trust_domain, entry_id=message.id, now=call.now)
                tx.audit.append(call.record(entry.name, entry=entry.id, admin=entry.admin))
                return tx.entries.update(entry)

            return act

        outcomes = await self._database.write_each([update(message) for message in request.entries])
        kind = entry_pb2.BatchUpdateEntryResponse.Result
        return entry_pb2.BatchUpdateEntryResponse(results=[self._result(kind, one, mask) for one in outcomes])

    async def BatchDeleteEntry(  # noqa: N802 - the method's name on the wire
        self, request: entry_pb2.BatchDeleteEntryRequest, call: Call
    ) -> entry_pb2.BatchDeleteEntryResponse:
        """Delete entries; each has a status of its own."""
        _bounded(request.ids)

        def delete(entry_id: str) -> Act:
            def act(tx: Transaction) -> RegistrationEntry:
                entry = tx.entries.delete(entry_id)
                tx.audit.append(call.record(entry.name, entry=entry.id))
                return entry

            return act

        outcomes = await self._database.write_each([delete(entry_id) for entry_id in request.ids])
        kind = entry_pb2.BatchDeleteEntryResponse.Result
        return entry_pb2.BatchDeleteEntryResponse(
            results=[
                kind(id=entry_id, status=_status(one))
                for entry_id, one in zip(request.ids, outcomes, strict=True)
            ]
        )

    async def GetEntry(self, request: entry_pb2.GetEntryRequest, call: Call) -> types_pb2.Entry:  # noqa: N802 - the method's name on the wire
        """Return one entry."""
        del call
        entry = self._registrations.entry(request.id)
        if entry is None:
            raise NotFoundError(f"entry {request.id[:255]!r} does not exist")
        mask = request.output_mask if request.HasField("output_mask") else None
        return self._shown(entry, mask)

    def _result(self, kind: Any, outcome: RegistrationEntry | IssuerError, mask: Any) -> Any:
        """Return what came of one entry: as it is now, or the one that exists already, or neither."""
        entry = outcome.existing if isinstance(outcome, AlreadyExistsError) else outcome
        result = kind(status=_status(outcome))
        if isinstance(entry, RegistrationEntry):
            result.entry.CopyFrom(self._shown(entry, mask))
        return result

    def _shown(self, entry: RegistrationEntry, mask: types_pb2.EntryMask | None) -> types_pb2.Entry:
        """Return the message of an entry as it counts, with who answers for the identity."""
        message: types_pb2.Entry = masked(entry_to_proto(self._registrations.effective(entry)), mask)
        agent = self._registrations.agent(entry.spiffe_id) if entry.template is None else None
        if agent is not None:
            message.owner, message.agent_state = str(agent.owner), agent.state
        return message

    async def ListEntries(  # noqa: N802 - the method's name on the wire
        self, request: entry_pb2.ListEntriesRequest, call: Call
    ) -> entry_pb2.ListEntriesResponse:
        """List entries, a page at a time."""
        del call
        wanted = self._predicate(request.filter)
        mask = request.output_mask if request.HasField("output_mask") else None
        entries = filter(wanted, self._registrations.entries_after(request.page_token))
        messages = (self._shown(entry, mask) for entry in entries)
        found, more = next(pages_of(messages, page_size(request.page_size, MAX_PAGE)))
        return entry_pb2.ListEntriesResponse(entries=found, next_page_token=found[-1].id if more else "")

    async def CountEntries(  # noqa: N802 - the method's name on the wire
        self, request: entry_pb2.CountEntriesRequest, call: Call
    ) -> entry_pb2.CountEntriesResponse:
        """Count entries."""
        del call
        wanted = self._predicate(request.filter)
        return entry_pb2.CountEntriesResponse(count=sum(map(wanted, self._registrations.entries())))

    def _predicate(self, given: Any) -> Callable[[RegistrationEntry], bool]:
        tests: list[Callable[[RegistrationEntry], bool]] = []
        if given.HasField("by_spiffe_id"):
            spiffe_id = id_field("by_spiffe_id", given.by_spiffe_id, self._trust_domain)
            tests.append(lambda entry: entry.template is None and entry.spiffe_id == spiffe_id)
        if given.HasField("by_parent_id"):
            parent_id = id_field("by_parent_id", given.by_parent_id, self._trust_domain)
            tests.append(lambda entry: entry.parent_id == parent_id)
        if given.HasField("by_selectors"):
            selectors = selectors_field(given.by_selectors.selectors, "by_selectors")
            how = comparison_field("by_selectors", given.by_selectors.match)
            tests.append(lambda entry: compares(entry.selectors, selectors, how))
        if given.HasField("by_federates_with"):
            domains = _domains(given.by_federates_with.trust_domains)
            mode = comparison_field("by_federates_with", given.by_federates_with.match)
            tests.append(lambda entry: compares(frozenset(entry.federates_with), domains, mode))
        if given.HasField("by_hint"):
            tests.append(lambda entry: entry.hint == given.by_hint.value)
        if given.HasField("by_downstream"):
            tests.append(lambda entry: entry.downstream == given.by_downstream.value)
        return lambda entry: all(test(entry) for test in tests)

    async def GetAuthorizedEntries(  # noqa: N802 - the method's name on the wire
        self, request: entry_pb2.GetAuthorizedEntriesRequest, call: Call
    ) -> entry_pb2.GetAuthorizedEntriesResponse:
        """Return what the calling node may serve."""
        mask = request.output_mask if request.HasField("output_mask") else None
        entries = self._servable(call)
        return entry_pb2.GetAuthorizedEntriesResponse(
            entries=[masked(entry_to_proto(entry), mask) for entry in entries]
        )

    def _servable(self, call: Call) -> list[RegistrationEntry]:
        """Return what a stock SPIRE agent can serve: it has no evidence, and knows no templates."""
        entries = self._registrations.authorized(call.caller.node_id, call.now).entries
        return [entry for entry in entries if not entry.needs_evidence]

    async def SyncAuthorizedEntries(  # noqa: N802 - the method's name on the wire
        self, requests: AsyncIterator[entry_pb2.SyncAuthorizedEntriesRequest], call: Call
    ) -> AsyncIterator[entry_pb2.SyncAuthorizedEntriesResponse]:
        """Send everything when it is little, and otherwise revisions first and what is then asked for."""
        first = await anext(requests, None)
        if first is None:
            raise InvalidRequestError("output_mask: the first message is missing")
        if first.ids:
            raise InvalidRequestError("ids: not in the first message")
        mask = first.output_mask if first.HasField("output_mask") else None
        if mask is not None and not mask.revision_number:
            raise InvalidRequestError("output_mask: revision_number cannot be left out")
        entries = self._servable(call)
        if len(entries) <= SYNC_PAGE:
            whole = _full(entries, mask)
            if whole.ByteSize() <= PAGE_BYTES:
                yield whole
                return
        for start in range(0, len(entries), SYNC_PAGE):
            yield entry_pb2.SyncAuthorizedEntriesResponse(
                entry_revisions=map(_revision, entries[start : start + SYNC_PAGE]),
                more=start + SYNC_PAGE < len(entries),
            )
        by_id = {entry.id: entry for entry in entries}
        async for request in requests:
            asked = (by_id[entry_id] for entry_id in request.ids if entry_id in by_id)
            messages = (masked(entry_to_proto(entry), mask) for entry in asked)
            for page, more in pages_of(messages, SYNC_PAGE):
                yield entry_pb2.SyncAuthorizedEntriesResponse(entries=page, more=more)


def _full(entries: Iterable[RegistrationEntry], mask: Any) -> entry_pb2.SyncAuthorizedEntriesResponse:
    return entry_pb2.SyncAuthorizedEntriesResponse(
        entries=[masked(entry_to_proto(entry), mask) for entry in entries]
    )


def _revision(entry: RegistrationEntry) -> entry_pb2.EntryRevision:
    created: datetime = entry.created_at
    return entry_pb2.EntryRevision(
        id=entry.id, revision_number=entry.revision, created_at=int(created.timestamp())
    )


def _status(outcome: RegistrationEntry | IssuerError) -> types_pb2.Status:
    return item_status(outcome) if isinstance(outcome, IssuerError) else types_pb2.Status(message="OK")


def _merged(
    before: types_pb2.Entry, given: types_pb2.Entry, mask: types_pb2.EntryMask | None
) -> types_pb2.Entry:
    """Return `before` with the fields that the mask names taken from `given`; without a mask, all."""
    merged = types_pb2.Entry()
    merged.CopyFrom(before)
    for field in types_pb2.EntryMask.DESCRIPTOR.fields:
        if mask is None or getattr(mask, field.name):
            merged.ClearField(field.name)
            part = types_pb2.Entry()
            part.CopyFrom(given)
            for other in types_pb2.Entry.DESCRIPTOR.fields:
                if other.name != field.name:
                    part.ClearField(other.name)
            merged.MergeFrom(part)
    return merged


def _domains(names: Any) -> frozenset[TrustDomain]:
    try:
        return frozenset(TrustDomain.parse(name) for name in names)
    except SpiffeIdError as error:
        raise InvalidRequestError(f"by_federates_with: {error}") from error


def _bounded(items: Any) -> None:
    if len(items) > MAX_BATCH:
        raise InvalidRequestError(f"more than {MAX_BATCH} items in one call")

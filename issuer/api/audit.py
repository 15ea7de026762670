# SPDX-License-Identifier: Apache-2.0
"""issuer.v1.Audit: read the audit trail, and prove what is in it."""

import asyncio
import contextlib
from collections.abc import Iterator
from datetime import datetime
from typing import Final

from issuer.api.dispatch import PAGE_BYTES, Call, page_size
from issuer.errors import AuditLogError, InvalidRequestError
from issuer.governance.log_files import LogFiles
from issuer.governance.log_proofs import prove
from issuer.store import Database
from issuer.store.audit import AuditFilter
from issuer.store.schema import unstamp
from spiffekit.errors import SpiffeError
from spiffekit.jws import MAX_INSTANT
from spiffekit.transparency.notes import VerifierKey
from spiffekit.wire.pb.issuer.v1 import audit_pb2

MAX_PAGE: Final = 1000  # events


class AuditService:
    """See the module.

    Args:
        key: The public key of the log.
    """

    def __init__(self, *, database: Database, files: LogFiles, key: VerifierKey) -> None:
        self._database = database
        self._files = files
        self._key = key

    async def ListEvents(  # noqa: N802 - the method's name on the wire
        self, request: audit_pb2.ListEventsRequest, call: Call
    ) -> audit_pb2.ListEventsResponse:
        """Return a page of events."""
        del call
        if request.after < 0:
            raise InvalidRequestError("after: is negative")
        wanted = AuditFilter(
            type=request.type,
            actor=request.actor,
            subject=request.resource,
            credential=request.credential,
            id=request.id,
            txn=request.txn,
            since=_instant("since", request.since),
            until=_instant("until", request.until),
        )
        size = page_size(request.page_size, MAX_PAGE)
        rows = await self._database.read(
            lambda tx: tx.audit.leaves(request.after, size, wanted, newest_first=request.newest_first),
            aside=True,
        )
        response = audit_pb2.ListEventsResponse(more=len(rows) == size)
        weight = 0
        for sequence, leaf in rows:
            weight += len(leaf)
            if weight > PAGE_BYTES:
                response.more = True
                break
            response.events.add(sequence=sequence, json=leaf)
        return response

    async def ProveEvent(  # noqa: N802 - the method's name on the wire
        self, request: audit_pb2.ProveEventRequest, call: Call
    ) -> audit_pb2.ProveEventResponse:
        """Return the proof that an event is in the log."""
        del call
        if request.sequence < 1:
            raise InvalidRequestError("sequence: begins with 1")
        with _as_contradiction():
            proof = await asyncio.to_thread(prove, self._files, self._key, request.sequence)
        return audit_pb2.ProveEventResponse(proof=proof.encode())

    async def GetCheckpoint(  # noqa: N802 - the method's name on the wire
        self, request: audit_pb2.GetCheckpointRequest, call: Call
    ) -> audit_pb2.GetCheckpointResponse:
        """Return the signed head of the log."""
        del request, call
        with _as_contradiction():
            note = await asyncio.to_thread(self._files.checkpoint)
        return audit_pb2.GetCheckpointResponse(checkpoint=note or b"", verifier_key=str(self._key))


@contextlib.contextmanager
def _as_contradiction() -> Iterator[None]:
    """Let what is wrong with the log's files be our failure, and not the caller's."""
    try:
        yield
    except SpiffeError as error:
        raise AuditLogError(f"the audit log is damaged: {error}") from error


def _instant(field: str, microseconds: int) -> datetime | None:
    if not 0 <= microseconds < (MAX_INSTANT + 1) * 1_000_000:
        raise InvalidRequestError(f"{field}: is before 1970 or after 9999")
    return unstamp(microseconds) if microseconds else None

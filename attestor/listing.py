# SPDX-License-Identifier: Apache-2.0
"""All entries of this node, a page at a time: what a stock server offers instead of the push stream."""

import asyncio
import contextlib
from collections.abc import Mapping
from typing import Any, Final

from attestor.cache import Entry
from attestor.errors import IssuerUnavailableError
from attestor.updates import entries_from_proto
from spiffekit.wire.convert import seconds
from spiffekit.wire.pb.spire.api.server.entry.v1 import entry_pb2

SYNC_PAGE: Final = 500  # entries asked for at once


async def send(stream: Any, message: Any) -> None:
    """Send a message. A stream that has ended takes none, and the next read says why it has."""
    with contextlib.suppress(asyncio.InvalidStateError):
        await stream.write(message)


async def sync(stream: Any, known: Mapping[str, Entry]) -> tuple[Entry, ...]:
    """Return all of them; those that `known` has in the same revision are not sent again."""
    await send(stream, entry_pb2.SyncAuthorizedEntriesRequest())
    revisions: list[entry_pb2.EntryRevision] = []
    found: dict[str, Entry] = {}

    async def read() -> bool:
        answer = await stream.read()
        if not isinstance(answer, entry_pb2.SyncAuthorizedEntriesResponse):
            raise IssuerUnavailableError("issuer ended the list of entries too early")
        revisions.extend(answer.entry_revisions)
        found.update({entry.id: entry for entry in entries_from_proto(answer.entries)[0]})
        return answer.more

    while await read():
        pass
    wanted = []
    for revision in revisions:
        entry = known.get(revision.id)
        if entry is not None and (entry.revision, seconds(entry.created_at)) == (
            revision.revision_number,
            revision.created_at,
        ):
            found[entry.id] = entry
        else:
            wanted.append(revision.id)
    for start in range(0, len(wanted), SYNC_PAGE):
        ids = wanted[start : start + SYNC_PAGE]
        await send(stream, entry_pb2.SyncAuthorizedEntriesRequest(ids=ids))
        while await read():
            pass
    return tuple(found.values())

# SPDX-License-Identifier: Apache-2.0
"""The push stream as an attestor has it."""

import asyncio
import contextlib

import grpc

from spiffekit.wire.pb.issuer.v1 import updates_pb2, updates_pb2_grpc
from tests.issuer_api.calls import WITHIN


class Watch:
    """A stream as an attestor has it."""

    def __init__(self, channel, **opening):
        self.call = updates_pb2_grpc.UpdatesStub(channel).Watch()
        self.opening = opening

    async def __aenter__(self):
        await self.call.write(updates_pb2.WatchRequest(**self.opening))
        return self

    async def __aexit__(self, *_):
        self.call.cancel()

    async def next(self):
        """The next message that is no heartbeat."""
        async with asyncio.timeout(WITHIN):
            while True:
                message = await self.call.read()
                if message is grpc.aio.EOF:
                    raise AssertionError(f"ended: {await self.call.code()} {await self.call.details()}")
                if not message.heartbeat:
                    return message

    async def heartbeat(self):
        """The next message, which has to be a heartbeat."""
        message = await asyncio.wait_for(self.call.read(), WITHIN)
        assert message == updates_pb2.WatchResponse(
            heartbeat=True, revision=message.revision, epoch=message.epoch
        )
        return message


def said(message):
    """What a message says, in short."""
    return {
        "snapshot": message.snapshot,
        "entries": [entry.id for entry in message.entries],
        "removed": list(message.removed_entry_ids),
        "bundles": [bundle.trust_domain for bundle in message.bundles],
        "removed_bundles": list(message.removed_bundles),
    }


def says(message, *, snapshot=False, entries=(), removed=(), bundles=(), removed_bundles=()):
    wanted = (snapshot, list(entries), list(removed), list(bundles), list(removed_bundles))
    return tuple(said(message).values()) == wanted


@contextlib.asynccontextmanager
async def opened(channel):
    """A stream whose snapshot has been read."""
    async with Watch(channel) as watch:
        watch.snapshot = await watch.next()
        yield watch


async def delete(world, entry_id):
    await world.database.write(lambda tx: tx.entries.delete(entry_id))

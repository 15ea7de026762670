# SPDX-License-Identifier: Apache-2.0
"""A push stream that broke off goes on where it was; where that is not known there is a snapshot."""

import asyncio

import pytest

from spiffekit.wire.pb.issuer.v1 import updates_pb2
from tests.issuer_api.calls import WITHIN
from tests.issuer_api.watching import Watch, delete, opened, says
from tests.issuer_api.world import World


async def resumed(channel, revision, epoch):
    async with Watch(channel, revision=revision, epoch=epoch) as watch:
        return await asyncio.wait_for(watch.call.read(), WITHIN)


async def test_a_stream_that_broke_off_goes_on_where_it_was(world, channel):
    await world.entry("/kept")
    await world.entry("/gone")
    async with opened(channel) as watch:
        await world.entry("/seen")
        last = await watch.next()
    await delete(world, "gone")
    await world.entry("/new")
    message = await resumed(channel, last.revision, last.epoch)
    assert says(message, entries=["new"], removed=["gone"])
    assert (message.revision, message.more) == (world.log.revision, False)


async def test_a_resumed_stream_that_missed_nothing_hears_so_at_once(world, channel):
    await world.entry("/web")
    async with opened(channel) as watch:
        last = watch.snapshot
    await world.node("n2")  # of no concern
    message = await resumed(channel, last.revision, last.epoch)
    assert message == updates_pb2.WatchResponse(heartbeat=True, revision=world.log.revision, epoch=last.epoch)


async def test_a_resumed_stream_goes_on_with_changes(world, channel):
    async with opened(channel) as watch:
        last = watch.snapshot
    async with Watch(channel, revision=last.revision, epoch=last.epoch) as watch:
        await watch.heartbeat()
        await world.entry("/web")
        assert says(await watch.next(), entries=["web"])


async def test_entries_lost_with_an_alias_are_removed_on_resuming(world):
    """None of them changed: the entry did that gave the node its alias."""
    await world.entry("/alias", parent="/spire/server", selectors=["t:a"])
    await world.entry("/web", parent="/alias")
    channel = await world.dial(await world.node("n1", selectors=["t:a"]))
    async with opened(channel) as watch:
        assert says(watch.snapshot, snapshot=True, entries=["web"], bundles=["example.org"])
    await delete(world, "alias")
    message = await resumed(channel, watch.snapshot.revision, watch.snapshot.epoch)
    assert says(message, removed=["web"])


async def test_a_renewed_node_goes_on_over_its_new_connection(world):
    svid = await world.node("n1")
    await world.entry("/web")
    async with opened(await world.dial(svid)) as watch:
        last = watch.snapshot
    renewed = await world.dial(await world.renewed(svid))
    assert (await resumed(renewed, last.revision, last.epoch)).heartbeat


async def test_a_heartbeat_is_a_place_to_resume_from(beating):
    channel = await beating.dial(await beating.node("n1"))
    async with opened(channel) as watch:
        await beating.node("n2")
        message = watch.snapshot
        async with asyncio.timeout(WITHIN):
            while message.revision != beating.log.revision:
                message = await watch.heartbeat()
    assert (await resumed(channel, message.revision, message.epoch)).heartbeat


@pytest.mark.parametrize(
    ("revision", "epoch"), [(0, ""), (-2, ""), (1, ""), (0, "another"), (0, "database")], ids=repr
)
async def test_from_a_place_that_is_not_known_there_is_a_snapshot(world, channel, revision, epoch):
    await world.entry("/web")
    async with opened(channel) as watch:
        await world.entry("/web2")
        last = await watch.next()
    epoch = {"": last.epoch, "database": world.database.epoch}.get(epoch, epoch)
    message = await resumed(channel, last.revision + revision if revision else 0, epoch)
    assert says(message, snapshot=True, entries=["web", "web2"], bundles=["example.org"])


async def test_another_node_cannot_resume_the_stream_of_this_one(world, channel):
    await world.entry("/web")
    async with opened(channel) as watch:
        last = watch.snapshot
    other = await world.dial(await world.node("n2"))
    assert says(await resumed(other, last.revision, last.epoch), snapshot=True, bundles=["example.org"])


@pytest.fixture
async def forgetful(place, clock):
    """A world that remembers the stream of one node."""
    async with World.open(place, clock, remembered=1) as made:
        yield made


async def test_only_the_latest_streams_are_remembered(forgetful):
    channel, other = [await forgetful.dial(await forgetful.node(name)) for name in ("n1", "n2")]
    async with opened(channel) as first:
        pass
    async with opened(other) as second:
        pass
    assert (await resumed(channel, first.snapshot.revision, first.snapshot.epoch)).snapshot
    async with opened(other) as second:
        pass
    assert not (await resumed(other, second.snapshot.revision, second.snapshot.epoch)).snapshot


async def test_an_old_stream_that_lingers_does_not_disturb_the_new_one(world, channel):
    async with (
        opened(channel) as old,
        Watch(channel, revision=old.snapshot.revision, epoch=old.snapshot.epoch) as new,
    ):
        await new.heartbeat()
        await world.entry("/web")
        assert says(await new.next(), entries=["web"])
        assert says(await old.next(), entries=["web"])


async def test_what_was_pushed_into_a_dead_connection_is_sent_again(world, channel):
    """The issuer has not noticed yet: to it, the old stream goes on."""
    async with opened(channel) as old:
        place = old.snapshot.revision, old.snapshot.epoch
        await world.entry("/web")
        assert says(await old.next(), entries=["web"])  # the issuer's part of it is over; say this got lost
        await world.entry("/web2")
        assert says(await resumed(channel, *place), entries=["web", "web2"])

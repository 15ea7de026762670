# SPDX-License-Identifier: Apache-2.0
"""The push stream: a snapshot, then every change, resumed where it broke off."""

import asyncio
import contextlib
from datetime import timedelta

import grpc
import pytest

from issuer.api.sent import CHUNK
from issuer.model import AuthorityKind
from spiffekit.bundle import Bundle
from spiffekit.id import TrustDomain
from spiffekit.wire.pb.issuer.v1 import updates_pb2, updates_pb2_grpc
from tests.issuer_api.calls import WITHIN, denial_reason, refused
from tests.issuer_api.watching import Watch, delete, opened, says
from tests.issuer_api.world import World

Code = grpc.StatusCode
PARTNER = TrustDomain("partner.org")


async def put(world, bundle):
    await world.database.write(lambda tx: tx.bundles.put(bundle))


# Snapshot and changes.


async def test_a_stream_opens_with_everything_that_the_node_may_see(world, channel):
    await put(world, Bundle(PARTNER))
    await put(world, Bundle(TrustDomain("unrelated.org")))
    await world.entry("/web", federates_with=(PARTNER,))
    await world.entry("/theirs", parent="/spire/agent/test/n2")
    async with Watch(channel) as watch:
        message = await watch.next()
    assert says(message, snapshot=True, entries=["web"], bundles=["example.org", "partner.org"])
    assert (message.more, message.revision) == (False, world.log.revision)
    assert message.epoch.startswith(world.database.epoch + "-")


async def test_changes_are_pushed_as_they_are_made(world, channel):
    async with opened(channel) as watch:
        assert says(watch.snapshot, snapshot=True, bundles=["example.org"])

        await world.entry("/web")
        message = await watch.next()
        assert says(message, entries=["web"])
        assert (message.revision, message.more) == (world.log.revision, False)

        await world.database.write(lambda tx: tx.entries.update(world.made("/web", hint="new")))
        message = await watch.next()
        assert [(entry.id, entry.hint, entry.revision_number) for entry in message.entries] == [
            ("web", "new", 1)
        ]

        await world.entry("/child", parent="/web")
        assert says(await watch.next(), entries=["child"])

        await delete(world, "web")
        assert says(await watch.next(), removed=["child", "web"])


async def test_changes_of_bundles_are_pushed_to_those_who_federate(world, channel):
    async with opened(channel) as watch:
        await put(world, Bundle(PARTNER))
        await world.entry("/web", federates_with=(PARTNER,))
        assert says(await watch.next(), entries=["web"], bundles=["partner.org"])
        await put(world, Bundle(PARTNER, refresh_hint=timedelta(seconds=7)))
        message = await watch.next()
        assert says(message, bundles=["partner.org"])
        assert message.bundles[0].refresh_hint == 7
        await delete(world, "web")
        assert says(await watch.next(), removed=["web"], removed_bundles=["partner.org"])


async def test_a_new_authority_is_pushed_and_a_tainted_one_named(world, channel):
    first = world.authorities.slots(AuthorityKind.X509).active
    first_jwt = world.authorities.slots(AuthorityKind.JWT).active
    async with opened(channel) as watch:
        for kind in AuthorityKind:
            prepared = await world.authorities.prepare(kind)
            message = await watch.next()
            assert says(message, bundles=["example.org"])
            await world.authorities.activate(kind, prepared.id)
        assert (len(message.bundles[0].x509_authorities), len(message.bundles[0].jwt_authorities)) == (2, 2)
        assert (message.tainted_x509_authorities, message.tainted_jwt_authorities) == ([], [])
        await world.authorities.taint(AuthorityKind.X509, first.id)
        message = await watch.next()
        assert (message.tainted_x509_authorities, message.tainted_jwt_authorities) == ([first.id], [])
        await world.authorities.taint(AuthorityKind.JWT, first_jwt.id)
        message = await watch.next()
        assert (message.tainted_x509_authorities, message.tainted_jwt_authorities) == (
            [first.id],
            [first_jwt.id],
        )
    async with opened(await world.dial(await world.node("n2"))) as watch:
        assert watch.snapshot.tainted_x509_authorities == [first.id]


async def test_what_does_not_concern_the_node_is_not_pushed(world, channel):
    async with opened(channel) as watch:
        await world.entry("/theirs", parent="/spire/agent/test/n2")
        await put(world, Bundle(PARTNER))
        await world.node("n2")
        await world.entry("/mine")
        message = await watch.next()
    assert says(message, entries=["mine"])
    assert message.revision == world.log.revision


async def test_a_follower_that_the_log_has_left_behind_is_brought_up_to_date(place, clock):
    async with World.open(place, clock, kept=1) as world:
        channel = await world.dial(await world.node("n1"))
        async with opened(channel) as watch:
            await fill(world, 3)
            assert says(await watch.next(), entries=["n0000", "n0001", "n0002"])


async def fill(world, count):
    def act(tx):
        for number in range(count):
            tx.entries.create(world.made(f"/n{number:04}"))

    await world.database.write(act)


@pytest.mark.parametrize("live", [True, False])
async def test_many_entries_come_in_chunks(world, channel, live):
    async with contextlib.AsyncExitStack() as stack:
        if live:
            watch = await stack.enter_async_context(opened(channel))
        await fill(world, CHUNK + 1)
        if not live:
            watch = await stack.enter_async_context(Watch(channel))
        first, last = [await watch.next() for _ in range(2)]
    assert [(len(m.entries), m.more, m.snapshot) for m in (first, last)] == [
        (CHUNK, True, not live),
        (1, False, not live),
    ]
    assert (len(first.bundles), len(last.bundles)) == (0, 0 if live else 1)
    assert first.revision == last.revision == world.log.revision
    assert len({entry.id for message in (first, last) for entry in message.entries}) == CHUNK + 1


# The end of a stream.


async def test_a_quiet_stream_has_heartbeats(beating):
    async with opened(await beating.dial(await beating.node("n1"))) as watch:
        message = await watch.heartbeat()
        assert (message.revision, message.epoch) == (watch.snapshot.revision, watch.snapshot.epoch)
        await beating.node("n2")
        async with asyncio.timeout(WITHIN):
            while message.revision != beating.log.revision:
                message = await watch.heartbeat()


async def test_a_stream_ends_when_the_svid_of_its_node_does(beating, clock):
    """Time passes without any change in the registry."""
    async with opened(await beating.dial(await beating.node("n1"))) as watch:
        await watch.heartbeat()
        clock.step(timedelta(hours=2))
        with refused(Code.PERMISSION_DENIED, "node SVID has expired") as caught:
            await watch.next()
        assert denial_reason(caught.value) == "AGENT_EXPIRED"


async def ban(world, svid):
    node = world.node_of(svid, serial="")
    await world.database.write(lambda tx: tx.nodes.put(node))


async def evict(world, svid):
    await world.database.write(lambda tx: tx.nodes.delete(svid.spiffe_id))


async def attest_again(world, svid):
    await world.node("n1")


@pytest.mark.parametrize(
    ("revoke", "text", "reason"),
    [
        (ban, "node is banned", "AGENT_BANNED"),
        (evict, "node is not attested", "AGENT_NOT_ATTESTED"),
        (attest_again, "node SVID is no longer active", "AGENT_NOT_ACTIVE"),
    ],
)
async def test_a_stream_ends_with_the_standing_of_its_node(world, revoke, text, reason):
    """At once, and not with the next heartbeat: that one is further away than the test waits."""
    svid = await world.node("n1")
    async with opened(await world.dial(svid)) as watch:
        await revoke(world, svid)
        with refused(Code.PERMISSION_DENIED, text) as caught:
            await watch.next()
        assert denial_reason(caught.value) == reason
    assert world.services["updates"]._sent == {}


async def test_a_stream_whose_node_has_nothing_more_to_say_ends_at_once(world, channel):
    async with opened(channel) as watch:
        await watch.call.write(updates_pb2.WatchRequest(revision=watch.snapshot.revision))
        await watch.call.done_writing()
        assert await asyncio.wait_for(watch.call.read(), WITHIN) is grpc.aio.EOF
        assert await watch.call.code() is Code.OK


async def test_a_stream_without_an_opening_is_refused(channel):
    call = updates_pb2_grpc.UpdatesStub(channel).Watch()
    await call.done_writing()
    with refused(Code.INVALID_ARGUMENT, "revision: the first message is missing"):
        await call.read()

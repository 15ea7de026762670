# SPDX-License-Identifier: Apache-2.0
"""What a node learns of the entries that it may serve, by the two ways of a stock agent."""

from datetime import timedelta

import grpc
import pytest

from issuer.api.entry import SYNC_PAGE
from spiffekit.wire.pb.spire.api import types_pb2
from spiffekit.wire.pb.spire.api.server.entry.v1 import entry_pb2, entry_pb2_grpc
from tests.issuer_api.calls import WITHIN, refused
from tests.issuer_api.world import id_message

Code = grpc.StatusCode
Request = entry_pb2.SyncAuthorizedEntriesRequest


@pytest.fixture
async def stub(world):
    return entry_pb2_grpc.EntryStub(await world.dial(await world.node("n1")))


async def authorized(stub, mask=None):
    answer = await stub.GetAuthorizedEntries(entry_pb2.GetAuthorizedEntriesRequest(output_mask=mask))
    return list(answer.entries)


async def sync(stub, *requests):
    call = stub.SyncAuthorizedEntries(iter(requests), timeout=WITHIN)
    return [answer async for answer in call]


async def test_a_node_learns_its_own_entries_and_no_others(world, stub, clock):
    await world.entry("/mine")
    await world.entry("/child", parent="/mine")
    await world.entry("/theirs", parent="/spire/agent/test/n2")
    await world.entry("/over", expires_at=clock.now() - timedelta(seconds=1))
    assert [entry.id for entry in await authorized(stub)] == ["child", "mine"]
    (answer,) = await sync(stub, Request())
    assert [entry.id for entry in answer.entries] == ["child", "mine"]
    assert (answer.more, len(answer.entry_revisions)) == (False, 0)


async def test_an_alias_gives_its_entries_to_the_nodes_that_earn_it(world):
    await world.entry("/alias", parent="/spire/server", selectors=["x509pop:subject:cn:web"])
    await world.entry("/below", parent="/alias")
    earns = await world.node("n1", selectors=["x509pop:subject:cn:web", "x509pop:serialnumber:1"])
    lacks = await world.node("n2", selectors=["x509pop:serialnumber:1"])
    assert [e.id for e in await authorized(entry_pb2_grpc.EntryStub(await world.dial(earns)))] == ["below"]
    assert await authorized(entry_pb2_grpc.EntryStub(await world.dial(lacks))) == []


async def test_masks_leave_out_what_they_do_not_name(world, stub):
    entry = await world.entry("/mine", hint="h")
    mask = types_pb2.EntryMask(spiffe_id=True, revision_number=True)
    wanted = types_pb2.Entry(id=entry.id, spiffe_id=id_message("/mine"))
    assert await authorized(stub, mask) == [wanted]
    (answer,) = await sync(stub, Request(output_mask=mask))
    assert list(answer.entries) == [wanted]


@pytest.mark.parametrize(
    ("requests", "text"),
    [
        ((), "output_mask: the first message is missing"),
        ((Request(ids=["a"]),), "ids: not in the first message"),
        (
            (Request(output_mask=types_pb2.EntryMask(spiffe_id=True)),),
            "output_mask: revision_number cannot be left out",
        ),
    ],
)
async def test_a_sync_that_opens_badly_is_refused(stub, requests, text):
    with refused(Code.INVALID_ARGUMENT, text):
        await sync(stub, *requests)


async def fill(world, count):
    def act(tx):
        for number in range(count):
            tx.entries.create(world.made(f"/n{number:04}"))

    await world.database.write(act)


async def test_many_entries_are_told_by_revision_and_then_sent_as_asked(world, stub, clock):
    await fill(world, SYNC_PAGE + 1)
    await world.database.write(lambda tx: tx.entries.update(world.made("/n0001", hint="new")))
    asked = [f"n{number:04}" for number in range(SYNC_PAGE + 1)]
    answers = await sync(
        stub, Request(), Request(ids=["n0001", "unknown"]), Request(ids=["unknown"]), Request(ids=asked)
    )
    shapes = [(len(a.entry_revisions), len(a.entries), a.more) for a in answers]
    assert shapes == [
        (500, 0, True),
        (1, 0, False),
        (0, 1, False),
        (0, 0, False),
        (0, 500, True),
        (0, 1, False),
    ]
    created = int(clock.now().timestamp())
    assert answers[0].entry_revisions[:2] == [
        entry_pb2.EntryRevision(id="n0000", revision_number=0, created_at=created),
        entry_pb2.EntryRevision(id="n0001", revision_number=1, created_at=created),
    ]
    assert [(e.id, e.hint, e.revision_number) for e in answers[2].entries] == [("n0001", "new", 1)]
    assert [e.id for a in answers[4:] for e in a.entries] == asked


async def test_few_entries_are_sent_at_once(world, stub):
    await fill(world, SYNC_PAGE)
    (answer,) = await sync(stub, Request())
    assert (len(answer.entries), len(answer.entry_revisions), answer.more) == (SYNC_PAGE, 0, False)


async def test_a_node_cannot_ask_for_the_entries_of_another_one(world, stub):
    await fill(world, SYNC_PAGE + 1)
    await world.entry("/theirs", parent="/spire/agent/test/n2")
    *_, last = await sync(stub, Request(), Request(ids=["theirs"]))
    assert list(last.entries) == []


async def test_large_entries_come_in_answers_that_a_stock_agent_can_read(world, stub):
    """gRPC's own limit is 4 MiB, and agents of the field do not raise it."""
    names = await world.large_entries(7)
    answers = await sync(stub, Request(), Request(ids=names))
    assert [len(answer.entry_revisions) for answer in answers] == [7, 0, 0, 0]
    assert [e.id for answer in answers for e in answer.entries] == names
    assert [answer.more for answer in answers] == [False, True, True, False]
    assert max(answer.ByteSize() for answer in answers) < 4 * 1024 * 1024

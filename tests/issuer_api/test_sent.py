# SPDX-License-Identifier: Apache-2.0
"""What a follower lacks, cut into messages of bounded size; and what becomes of one that reads slowly."""

from datetime import UTC, datetime, timedelta

import pytest

from issuer.api.caller import Caller, Connection, Kind
from issuer.api.dispatch import Call
from issuer.api.sent import CHUNK, CHUNK_BYTES, Sent
from issuer.model import RegistrationEntry
from issuer.registration import Authorized
from spiffekit.bundle import Bundle
from spiffekit.id import SpiffeId, TrustDomain
from spiffekit.selector import Selector
from spiffekit.wire.pb.issuer.v1 import updates_pb2

NOW = datetime(2026, 1, 1, tzinfo=UTC)
OWN = Bundle(TrustDomain("example.org"))


def entry(number, *, size=10, hint=""):
    return RegistrationEntry(
        id=f"e{number}",
        spiffe_id=SpiffeId.parse(f"spiffe://example.org/e{number}"),
        parent_id=SpiffeId.parse("spiffe://example.org/spire/agent/test/n1"),
        selectors=frozenset(
            Selector("t", f"{i}" + "x" * min(size - 8000 * i, 8000)) for i in range(-(-size // 8000))
        ),
        created_at=NOW,
        hint=hint,
    )


def authorized(*entries):
    return Authorized(tuple(entries), frozenset())


def test_a_snapshot_of_nothing_is_a_message():
    (message,) = Sent().bring(authorized(), [], 7)
    assert message == updates_pb2.WatchResponse(snapshot=True)


def test_who_lacks_nothing_gets_nothing():
    sent, some = Sent(), entry(1)
    sent.bring(authorized(some), [OWN], 1)
    assert sent.bring(authorized(some), [OWN], 2) == []


@pytest.mark.parametrize(
    ("count", "chunks"), [(CHUNK - 1, [CHUNK - 1]), (CHUNK, [CHUNK]), (CHUNK + 1, [CHUNK, 1])]
)
def test_a_message_has_so_many_things(count, chunks):
    messages = Sent().bring(authorized(*map(entry, range(count))), [], 1)
    assert [len(message.entries) for message in messages] == chunks
    assert [message.more for message in messages] == [True] * (len(chunks) - 1) + [False]


def test_a_message_has_so_many_bytes():
    big = [entry(number, size=400_000) for number in range(5)]
    messages = Sent().bring(authorized(*big), [OWN], 1)
    assert [len(message.entries) for message in messages] == [2, 2, 1]
    assert all(message.ByteSize() < CHUNK_BYTES for message in messages)


def test_what_is_gone_comes_in_chunks_too():
    sent = Sent()
    sent.bring(authorized(*map(entry, range(CHUNK + 1))), [OWN], 1)
    first, second = sent.bring(authorized(), [], 2)
    assert (len(first.removed_entry_ids), first.more, first.snapshot) == (CHUNK, True, False)
    assert (len(second.removed_entry_ids), list(second.removed_bundles), second.more) == (
        1,
        ["example.org"],
        False,
    )


def test_a_place_is_known_from_the_last_message_to_the_last_quiet_revision():
    sent = Sent()
    assert not any(sent.stands_at(revision) for revision in (-1, 0, 1))
    sent.bring(authorized(), [OWN], 5)
    assert not sent.stands_at(5), "messages are under way"
    sent.arrived(5)
    sent.arrived(8)
    assert [revision for revision in range(12) if sent.stands_at(revision)] == [5, 6, 7, 8]
    sent.bring(authorized(entry(1)), [OWN], 9)
    assert not any(sent.stands_at(revision) for revision in range(12))
    sent.arrived(9)
    assert [revision for revision in range(12) if sent.stands_at(revision)] == [9]


def test_a_copy_goes_its_own_way():
    first = Sent()
    first.bring(authorized(entry(1)), [OWN], 1)
    first.arrived(1)
    second = first.copy()
    second.bring(authorized(entry(1), entry(2)), [OWN], 2)
    assert first.stands_at(1)
    assert not second.stands_at(1)
    (message,) = first.bring(authorized(entry(2)), [OWN], 3)
    assert ([e.id for e in message.entries], list(message.removed_entry_ids)) == (["e2"], ["e1"])


async def test_a_slow_reader_gets_one_message_for_all_that_it_missed(world):
    """What waits for it does not grow with the number of changes: nothing is made before it is read."""
    svid = await world.node("n1")
    node = world.registrations.node(svid.spiffe_id)
    connection = Connection(
        "192.0.2.1", None, svid.spiffe_id, str(svid.serial_number), world.clock.now() + timedelta(hours=1)
    )
    caller = Caller(Kind.NODE, str(svid.spiffe_id), "192.0.2.1", node)
    call = Call("/issuer.v1.Updates/Watch", caller, connection, world.clock.now(), "1")

    class Requests:
        def __init__(self):
            self.sent = False

        def __aiter__(self):
            return self

        async def __anext__(self):
            if self.sent:
                await world.clock.sleep(timedelta(days=1))
            self.sent = True
            return updates_pb2.WatchRequest()

    stream = world.services["updates"].Watch(Requests(), call)
    try:
        assert (await anext(stream)).snapshot
        await world.entry("/web")
        for number in range(50):
            changed = world.made("/web", hint=f"h{number}")
            await world.database.write(lambda tx, changed=changed: tx.entries.update(changed))
        message = await anext(stream)
        assert [(e.id, e.hint) for e in message.entries] == [("web", "h49")]
        assert message.revision == world.log.revision
    finally:
        await stream.aclose()

# SPDX-License-Identifier: Apache-2.0
"""What a follower lacks, cut into messages of bounded size; and what becomes of one that reads slowly."""

from datetime import UTC, datetime, timedelta

import pytest

from issuer.api.caller import Caller, Connection, Kind
from issuer.api.dispatch import Call
from issuer.api.sent import CHUNK, CHUNK_BYTES, MAX_JOURNAL, Sent
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


def said(messages):
    return [([e.id for e in m.entries], list(m.removed_entry_ids), len(m.bundles)) for m in messages]


def sent_over_time():
    """A snapshot of entry 1 at revision 5; entry 2 comes at 7, entry 1 goes at 9; quiet until 11."""
    sent, first, second = Sent(), entry(1), entry(2)
    sent.bring(authorized(first), [OWN], 5)
    sent.bring(authorized(first, second), [OWN], 7)
    sent.bring(authorized(second), [OWN], 9)
    sent.reached(11)
    return sent, authorized(second)


@pytest.mark.parametrize(
    ("revision", "missed"),
    [
        (5, [(["e2"], ["e1"], 0)]),
        (6, [(["e2"], ["e1"], 0)]),
        (7, [([], ["e1"], 0)]),
        (8, [([], ["e1"], 0)]),
        (9, []),
        (11, []),
    ],
)
def test_who_comes_back_gets_what_it_missed(revision, missed):
    """Whatever was sent after that revision may have been lost on the way."""
    sent, now = sent_over_time()
    assert said(sent.resumed(revision).bring(now, [OWN], 11)) == missed


@pytest.mark.parametrize("revision", [-1, 0, 4, 12, 2**63])
def test_a_revision_before_the_snapshot_or_beyond_what_was_told_is_not_known(revision):
    sent, _ = sent_over_time()
    assert sent.resumed(revision) is None


@pytest.mark.parametrize("revision", [-1, 0, 1])
def test_what_was_never_sent_cannot_be_resumed(revision):
    assert Sent().resumed(revision) is None


def test_who_comes_back_again_and_again_misses_nothing():
    sent, now = sent_over_time()
    for _ in range(3):
        sent = sent.resumed(5)
        assert said(sent.bring(now, [OWN], 11)) == [(["e2"], ["e1"], 0)]
    assert said(sent.resumed(11).bring(authorized(), [], 12)) == [([], ["e1", "e2"], 0)]


def test_what_time_takes_away_is_said_again_to_who_may_not_have_heard():
    """An entry ended by time: the revision before and after the message is the same."""
    sent = Sent()
    sent.bring(authorized(entry(1)), [OWN], 5)
    assert said(sent.bring(authorized(), [OWN], 5)) == [([], ["e1"], 0)]
    assert said(sent.resumed(5).bring(authorized(), [OWN], 5)) == [([], ["e1"], 0)]


def test_a_bundle_that_was_missed_is_sent_again():
    sent, other = Sent(), Bundle(TrustDomain("other.org"))
    sent.bring(authorized(), [OWN], 1)
    sent.bring(authorized(), [OWN, other], 2)
    (message,) = sent.resumed(1).bring(authorized(), [OWN, other], 2)
    assert [bundle.trust_domain for bundle in message.bundles] == ["other.org"]
    sent.bring(authorized(), [OWN], 3)
    (message,) = sent.resumed(1).bring(authorized(), [OWN], 3)
    assert list(message.removed_bundles) == ["other.org"]


def test_the_journal_is_bounded():
    sent = Sent()
    sent.bring(authorized(), [OWN], 1)
    for revision in range(2, MAX_JOURNAL + 4):
        sent.bring(authorized(entry(revision % 2)), [OWN], revision)
    assert sum(map(len, sent._journal)) <= MAX_JOURNAL
    assert sent.resumed(2) is None
    assert sent.resumed(MAX_JOURNAL) is not None


def test_the_old_stream_and_the_new_one_go_their_own_ways():
    old, now = sent_over_time()
    new = old.resumed(11)
    new.bring(authorized(), [OWN], 12)
    assert old.resumed(12) is None
    assert said(old.bring(authorized(entry(3)), [OWN], 13)) == [(["e3"], ["e2"], 0)]
    assert said(new.bring(now, [OWN], 13)) == [(["e2"], [], 0)]


async def test_a_slow_reader_gets_one_message_for_all_that_it_missed(world):
    """What waits for it does not grow with the number of changes: nothing is made before it is read."""
    svid = await world.node("n1")
    node = world.registrations.node(svid.spiffe_id)
    connection = Connection(
        "192.0.2.1", None, svid.spiffe_id, str(svid.serial_number), world.clock.now() + timedelta(hours=1)
    )
    caller = Caller(frozenset({Kind.NODE}), str(svid.spiffe_id), "192.0.2.1", node)
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

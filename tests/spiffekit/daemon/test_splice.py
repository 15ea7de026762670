# SPDX-License-Identifier: Apache-2.0
"""Two connections made one: what passes, when a sender has to wait, and how both end."""

import asyncio

import pytest

from spiffekit.daemon.frames import PREFACE, Allowance, FrameGuard
from spiffekit.daemon.splice import CHUNK, PIECE, InnerEnd, OuterEnd

PING = b"\0\0\x08\6\0\0\0\0\0abcdefgh"


class Transport(asyncio.Transport):
    """A connection that remembers what was asked of it."""

    def __init__(self):
        super().__init__()
        self.sent = b""
        self.reading = True
        self.ended = ""

    def set_write_buffer_limits(self, high=None, low=None):
        pass

    def write(self, data):
        self.sent += data

    def pause_reading(self):
        self.reading = False

    def resume_reading(self):
        assert not self.ended
        self.reading = True

    def is_closing(self):
        return bool(self.ended)

    def close(self):
        self.ended = self.ended or "closed"

    def abort(self):
        self.ended = "aborted"


class Splice:
    """An outer and an inner end, and the connections behind them."""

    def __init__(self, *calls):
        self.reports = []
        self.buffer = memoryview(bytearray(CHUNK))
        self.outer = OuterEnd(FrameGuard(calls=calls), self.buffer, self.reports.append)
        self.inner = InnerEnd()
        self.client, self.server = Transport(), Transport()
        self.outer.connection_made(self.client)
        self.inner.connection_made(self.server)

    def join(self):
        self.outer.join(self.inner)
        return self

    def receive(self, data):
        self.outer.get_buffer(-1)[: len(data)] = data
        self.outer.buffer_updated(len(data))


@pytest.fixture
def splice():
    return Splice().join()


def test_nothing_is_read_before_both_ends_are_there():
    splice = Splice()
    assert not splice.client.reading
    assert not splice.server.reading
    splice.join()
    assert splice.client.reading
    assert splice.server.reading


def test_bytes_pass_both_ways_unchanged(splice):
    splice.receive(PREFACE + PING)
    splice.inner.data_received(b"answer")
    assert splice.server.sent == PREFACE + PING
    assert splice.client.sent == b"answer"


def test_a_slow_reader_makes_its_sender_wait_and_nobody_else(splice):
    for end, sender, other in (
        (splice.inner, splice.client, splice.server),
        (splice.outer, splice.server, splice.client),
    ):
        end.pause_writing()
        assert (sender.reading, other.reading) == (False, True)
        end.resume_writing()
        assert sender.reading


def test_when_one_end_is_lost_the_other_is_closed_once_what_was_sent_has_arrived():
    for lost, left in (("outer", "server"), ("inner", "client")):
        splice = Splice().join()
        getattr(splice, lost).connection_lost(None)
        assert getattr(splice, lost).closed.is_set()
        assert getattr(splice, left).ended == "closed"


def test_what_still_comes_at_one_end_when_the_other_is_gone_goes_nowhere():
    """TLS hands over what it has decrypted before it says goodbye."""
    splice = Splice().join()
    splice.inner.connection_lost(None)
    splice.receive(PREFACE + PING)
    splice.outer.pause_writing()
    splice.outer.resume_writing()
    assert splice.server.sent == b""
    assert splice.reports == []
    splice.outer.connection_lost(None)
    splice.outer.pass_on(b"too late")
    splice.outer.pause_writing()
    splice.outer.abort()
    assert splice.client.ended == "closed", "it is gone already, and not ours to abort"


def test_a_flood_is_told_of_and_cut_off_before_it_passes(splice):
    splice.receive(b"GET / HTTP/1.1\r\n")
    assert splice.reports == ["not an HTTP/2 client"]
    assert splice.client.ended == "aborted"
    assert splice.server.sent == b""


def test_only_a_client_that_says_nothing_is_closed_for_its_silence():
    silent, speaking = Splice().join(), Splice().join()
    speaking.receive(PREFACE[:1])
    for splice in (silent, speaking):
        splice.outer.close_if_silent()
    assert (silent.client.ended, speaking.client.ended) == ("aborted", "")


class Time:
    now = 0.0

    def __call__(self):
        return self.now


async def test_a_client_in_debt_is_not_read_and_its_bytes_wait_in_order():
    time = Time()
    allowance = Allowance(1, 1000, time)
    splice = Splice(allowance).join()
    allowance.spend(2)  # a millisecond of debt
    splice.receive(PREFACE)
    assert not splice.client.reading
    splice.receive(PING)  # what had been received already
    assert splice.server.sent == b""
    splice.outer.resume_writing()
    splice.inner.pause_writing()
    splice.inner.resume_writing()
    assert not splice.client.reading, "a fast reader does not pay the client's debt"
    time.now = 1
    async with asyncio.timeout(5):
        while not splice.client.reading:
            await asyncio.sleep(0.001)
    assert splice.server.sent == PREFACE + PING


async def test_calls_behind_data_that_pass_whole_wait_all_the_same():
    call = b"\0\0\0\1\4\0\0\0\1"  # a header block of nothing
    data = b"\0\x20\0\0\0\0\0\0\1" + b"y" * 0x2000
    splice = Splice(Allowance(1, 1, Time())).join()
    splice.receive(PREFACE + call + data + call * 300)
    passed = splice.server.sent.removeprefix(PREFACE + call + data)
    assert (call * 300).startswith(passed)
    assert len(passed) <= PIECE
    assert not splice.client.reading


async def test_what_waits_is_forgotten_with_its_connection():
    allowance = Allowance(1, 1, Time())
    splice = Splice(allowance).join()
    allowance.spend(1000)
    splice.receive(PREFACE)
    splice.outer.connection_lost(None)
    assert splice.outer._release.cancelled(), (
        "or whoever hangs up would fill our memory until the debt is paid"
    )
    assert splice.server.sent == b""
    assert splice.server.ended == "closed"

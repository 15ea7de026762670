# SPDX-License-Identifier: Apache-2.0
"""The guard counts frames, however the bytes are cut, and ends connections that flood."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from spiffekit.daemon.frames import (
    CONTROL_BURST,
    CONTROL_RATE,
    MAX_HEADER_BLOCK,
    PREFACE,
    FloodError,
    FrameGuard,
)

DATA, HEADERS, PRIORITY, RST, SETTINGS, PUSH, PING, GOAWAY, WINDOW, CONTINUATION = range(10)
END_HEADERS = 0x4
END_STREAM = 0x1


def frame(kind, payload=b"", flags=0, stream=1):
    return len(payload).to_bytes(3) + bytes((kind, flags)) + stream.to_bytes(4) + payload


class Time:
    def __init__(self):
        self.now = 0.0

    def __call__(self):
        return self.now


@pytest.fixture
def time():
    return Time()


@pytest.fixture
def guard(time):
    guard = FrameGuard(time)
    guard.feed(PREFACE)
    return guard


def test_a_client_of_good_will_passes(guard):
    guard.feed(frame(SETTINGS, b"\0" * 36, stream=0) + frame(WINDOW, b"\0\0\xff\xff", stream=0))
    for stream in range(1, 20001, 2):
        guard.feed(
            frame(HEADERS, b"x" * 200, END_HEADERS, stream) + frame(DATA, b"y" * 50, END_STREAM, stream)
        )
        guard.feed(frame(WINDOW, b"\0\0\0\x20", stream=0))


@pytest.mark.parametrize(
    "opening", [b"GET / HTTP/1.1\r\n", b"\x16\x03\x01\x02\x00", b"PRI * HTTP/2.1", b"\0"]
)
def test_what_is_not_http2_is_refused_at_its_first_wrong_byte(time, opening):
    with pytest.raises(FloodError, match="not an HTTP/2 client"):
        FrameGuard(time).feed(opening)


def test_a_preface_in_pieces_is_a_preface(time):
    guard = FrameGuard(time)
    for byte in PREFACE:
        guard.feed(bytes((byte,)))
    guard.feed(frame(SETTINGS, stream=0))


def test_a_preface_that_goes_wrong_late_is_refused(time):
    guard = FrameGuard(time)
    guard.feed(PREFACE[:20])
    with pytest.raises(FloodError, match="not an HTTP/2 client"):
        guard.feed(b"XXXX")


CONTROL = {
    "priority": frame(PRIORITY, b"\0" * 5),
    "reset": frame(RST, b"\0" * 4),
    "settings": frame(SETTINGS, stream=0),
    "ping": frame(PING, b"\0" * 8, stream=0),
    "empty data": frame(DATA),
}


@pytest.mark.parametrize("kind", CONTROL)
def test_a_burst_of_control_frames_passes_and_a_flood_does_not(guard, kind):
    guard.feed(CONTROL[kind] * int(CONTROL_BURST))
    with pytest.raises(FloodError, match="too many control frames"):
        guard.feed(CONTROL[kind])


def test_kinds_of_control_frames_share_one_budget(guard):
    each = int(CONTROL_BURST) // len(CONTROL)
    guard.feed(b"".join(CONTROL.values()) * each)
    with pytest.raises(FloodError):
        guard.feed(CONTROL["ping"])


def test_the_budget_comes_back_with_time_and_no_further_than_a_burst(guard, time):
    ping = CONTROL["ping"]
    guard.feed(ping * int(CONTROL_BURST))
    time.now += 1
    guard.feed(ping * int(CONTROL_RATE))
    time.now += 3600
    guard.feed(ping * int(CONTROL_BURST))
    with pytest.raises(FloodError):
        guard.feed(ping)


def test_a_header_block_may_be_continued_to_its_bound(guard):
    half = b"x" * (MAX_HEADER_BLOCK // 4)
    guard.feed(frame(HEADERS, half) + frame(CONTINUATION, half) * 2 + frame(CONTINUATION, half, END_HEADERS))
    guard.feed(frame(HEADERS, half, END_HEADERS, 3))


def test_a_header_block_that_does_not_end_is_refused(guard):
    piece = frame(CONTINUATION, b"x" * 16000)
    guard.feed(frame(HEADERS))
    with pytest.raises(FloodError, match="a header block is too large"):
        guard.feed(piece * 5)


def test_a_frame_of_headers_larger_than_a_block_is_refused_before_its_bytes_come(guard):
    with pytest.raises(FloodError, match="a header block is too large"):
        guard.feed((MAX_HEADER_BLOCK + 1).to_bytes(3) + bytes((HEADERS, 0)) + b"\0\0\0\1")


def test_empty_continuations_are_control_frames(guard):
    """The CONTINUATION flood of 2024 sends them empty, so that no block ever grows."""
    guard.feed(frame(HEADERS))
    with pytest.raises(FloodError, match="too many control frames"):
        guard.feed(frame(CONTINUATION) * (int(CONTROL_BURST) + 1))


@pytest.mark.parametrize("kind", [DATA, HEADERS, PRIORITY, RST, SETTINGS, PING, WINDOW, 0xAB])
def test_nothing_interrupts_a_header_block(guard, kind):
    guard.feed(frame(HEADERS, b"x"))
    with pytest.raises(FloodError, match="a header block is interrupted"):
        guard.feed(frame(kind, b"\0" * 8))


def test_a_payload_is_never_read_as_frames(guard):
    guard.feed(frame(DATA, CONTROL["ping"] * 1000) * 10)


@given(st.data())
def test_the_verdict_does_not_depend_on_how_the_bytes_are_cut(data):
    kinds = st.sampled_from([DATA, HEADERS, RST, SETTINGS, PING, WINDOW, CONTINUATION])
    frames = data.draw(
        st.lists(st.tuples(kinds, st.binary(max_size=30), st.sampled_from([0, END_HEADERS])), max_size=25)
    )
    stream = PREFACE + b"".join(frame(kind, payload, flags) for kind, payload, flags in frames)
    cuts = sorted(data.draw(st.lists(st.integers(0, len(stream)), max_size=10)))

    def verdict(pieces):
        guard = FrameGuard(lambda: 0.0)
        try:
            for piece in pieces:
                guard.feed(piece)
        except FloodError as error:
            return str(error)
        return "passed"

    pieces = [stream[start:end] for start, end in zip([0, *cuts], [*cuts, len(stream)], strict=True)]
    assert verdict(pieces) == verdict([stream])

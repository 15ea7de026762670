# SPDX-License-Identifier: Apache-2.0
"""The guard counts frames, however the bytes are cut, and ends connections that flood."""

import hpack
import pytest
from hypothesis import given
from hypothesis import strategies as st

from spiffekit.daemon.frames import (
    CONTROL_BURST,
    CONTROL_RATE,
    MAX_FIELDS,
    MAX_HEADER_BLOCK,
    MAX_SOURCES,
    PREFACE,
    WINDOW_COST,
    Allowance,
    Allowances,
    FloodError,
    FrameGuard,
    count_fields,
)

DATA, HEADERS, PRIORITY, RST, SETTINGS, PUSH, PING, GOAWAY, WINDOW, CONTINUATION = range(10)
END_STREAM, END_HEADERS, PADDED, HAS_PRIORITY = 0x1, 0x4, 0x8, 0x20


def field(size):
    """A literal header field of `size` bytes in all."""
    for width in (1, 2, 3):
        value = size - 3 - width
        length = bytes((value,)) if value < 127 else b"\x7f" + varint(value - 127)
        if len(length) == width:
            return b"\0\x01a" + length + b"v" * value
    raise AssertionError(size)


def varint(number):
    octets = []
    while number >= 128:
        octets.append(number % 128 | 0x80)
        number //= 128
    return bytes((*octets, number))


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
            frame(HEADERS, field(200), END_HEADERS, stream) + frame(DATA, b"y" * 50, END_STREAM, stream)
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
    block = field(MAX_HEADER_BLOCK)
    cut = MAX_HEADER_BLOCK // 3
    guard.feed(
        frame(HEADERS, block[:cut])
        + frame(CONTINUATION, block[cut:-5])
        + frame(CONTINUATION, block[-5:], END_HEADERS)
    )
    guard.feed(frame(HEADERS, block, END_HEADERS, 3))


def test_a_header_block_that_does_not_end_is_refused(guard):
    piece = frame(CONTINUATION, b"x" * 16000)
    guard.feed(frame(HEADERS))
    with pytest.raises(FloodError, match="a header block is too large"):
        guard.feed(piece * 2)


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


def test_the_data_of_a_frame_are_harmless_and_what_comes_after_them_is_not(guard):
    assert guard.harmless == 0
    guard.feed(frame(DATA, b"y" * 5000)[:100])
    assert guard.harmless == 4909
    guard.feed(b"y" * 4909)
    assert guard.harmless == 0


@pytest.mark.parametrize("kind", [HEADERS, SETTINGS, PING, WINDOW, GOAWAY, 200])
def test_no_other_payload_is_harmless(guard, kind):
    guard.feed(frame(kind, b"y" * 5000)[:100])
    assert guard.harmless == 0


def test_window_updates_are_cheap_and_not_free(guard):
    update = frame(WINDOW, b"\0\0\0\1", stream=0)
    guard.feed(update * int(CONTROL_BURST / WINDOW_COST * 0.99))
    with pytest.raises(FloodError, match="too many control frames"):
        guard.feed(update * int(CONTROL_BURST / WINDOW_COST * 0.02))


@pytest.mark.parametrize(
    "one",
    [b"\x90", b"\xff\x80\x01", b"\x20", field(20), b"\x50\x03abc", b"\x40\x01a\x01b", b"\x10\x81a\0"],
    ids=["indexed", "indexed far", "table size", "literal", "named by index", "remembered", "never indexed"],
)
def test_fields_are_counted_and_bounded(guard, one):
    """A byte of HPACK may stand for a field of any size (CVE-2021-44716 is of this kind)."""
    assert count_fields(one * 7) == 7
    guard.feed(frame(HEADERS, one * MAX_FIELDS, END_HEADERS))
    with pytest.raises(FloodError, match="a header block has too many fields"):
        guard.feed(frame(HEADERS, one * (MAX_FIELDS + 1), END_HEADERS))


@given(st.lists(st.tuples(st.text(max_size=200), st.text(max_size=200), st.booleans()), max_size=30))
def test_as_many_fields_are_counted_as_an_encoder_wrote(fields):
    """The encoder of the h2 project is the oracle, with Huffman coding and its dynamic table."""
    encoder = hpack.Encoder()
    for _ in range(2):
        block = encoder.encode([(name or "a", value, secret) for name, value, secret in fields])
        assert count_fields(block) == len(fields)


@pytest.mark.parametrize(
    "block",
    [
        b"\x40",
        b"\x40\x05ab",
        b"\0\x01a",
        b"\0\x01a\x02b",
        b"\xff",
        b"\xff\xff",
        b"\xff" + b"\x80" * 9 + b"\1",
    ],
)
def test_a_malformed_header_block_is_refused(guard, block):
    with pytest.raises(FloodError, match="a header block is malformed"):
        guard.feed(frame(HEADERS, block, END_HEADERS))


def test_padding_and_priority_are_no_fields(guard):
    padded = frame(
        HEADERS, b"\x03" + b"\0\0\0\x03\x10" + field(20) + b"\xff" * 3, END_HEADERS | PADDED | HAS_PRIORITY
    )
    guard.feed(padded * 3)


@pytest.mark.parametrize(
    ("payload", "flags"),
    [
        (b"", PADDED),
        (b"\x05abc", PADDED),
        (b"\0\0\0", HAS_PRIORITY),
        (b"\1\0\0\0\0\0", PADDED | HAS_PRIORITY),
    ],
)
def test_padding_longer_than_its_frame_is_refused(guard, payload, flags):
    with pytest.raises(FloodError, match="a header block is malformed"):
        guard.feed(frame(HEADERS, payload, END_HEADERS | flags))


def test_an_allowance_comes_back_with_time_and_no_further_than_its_burst(time):
    allowance = Allowance(10, 2, time)
    allowance.spend(10)
    assert allowance.wait() == 0
    allowance.spend(4)
    assert allowance.wait() == 2
    time.now += 1.5
    assert allowance.wait() == 0.5
    time.now += 1000
    allowance.spend(10)
    assert allowance.wait() == 0
    allowance.spend(1)
    assert allowance.wait() == 0.5


def test_calls_are_charged_to_each_allowance_and_the_emptiest_one_decides(time):
    small, large = Allowance(1, 1, time), Allowance(100, 1, time)
    guard = FrameGuard(time, (small, large))
    guard.feed(PREFACE + frame(HEADERS, field(20), END_HEADERS) * 3)
    assert guard.wait() == 2
    assert large.wait() == 0
    large.spend(107)
    assert guard.wait() == 10


def test_a_guard_without_allowances_never_waits(guard):
    guard.feed(frame(HEADERS, field(20), END_HEADERS) * 10000)
    assert guard.wait() == 0


def test_to_come_back_does_not_renew_an_allowance():
    allowances = Allowances(1, 0.001)
    allowances.of("a").spend(100)
    assert allowances.of("a").wait() > 1000
    assert allowances.of("b").wait() == 0


def test_allowances_of_old_sources_are_forgotten_and_of_present_ones_are_not():
    allowances = Allowances(1, 0.001)
    allowances.of("busy").spend(100)
    allowances.of("old").spend(100)
    for number in range(MAX_SOURCES):
        allowances.of("busy")
        allowances.of(number)
    assert allowances.of("busy").wait() > 0
    assert allowances.of("old").wait() == 0


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

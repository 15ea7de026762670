# SPDX-License-Identifier: Apache-2.0
"""A guard that counts a client's HTTP/2 frames and header fields as they pass, and changes nothing.

gRPC's own server bounds messages and streams, but reads on through floods of control frames, of header
blocks that never end, and of fields of one byte each. Only lengths are read here (RFC 9113 §4.1,
RFC 7541 §6); no state of HTTP/2 or HPACK is kept, so nothing can be smuggled past gRPC: what does not
parse here is refused.
"""

import time
from collections import OrderedDict
from collections.abc import Callable, Hashable
from typing import Final

PREFACE: Final = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"  # RFC 9113 §3.4
HEADER_BYTES: Final = 9
MAX_HEADER_BLOCK: Final = 16 * 1024  # bytes, as gRPC's metadata; stops CONTINUATION floods
CONTROL_BURST: Final = 2000.0  # frames; what many streams cancelled at once may need
CONTROL_RATE: Final = 500.0  # frames a second; stops RST_STREAM, PING, SETTINGS and PRIORITY floods
WINDOW_COST: Final = 0.1  # of a control frame: one comes with every few kilobytes that we send
MAX_FIELDS: Final = 100  # of a header block; stops HPACK bombs, where each byte stands for a whole field
MAX_SOURCES: Final = 4096  # sources whose allowance is remembered

_DATA, _HEADERS, _PRIORITY, _RST, _SETTINGS, _PING, _WINDOW, _CONTINUATION = 0, 1, 2, 3, 4, 6, 8, 9
_BLOCK: Final = frozenset((_HEADERS, _CONTINUATION))
_CONTROL: Final = frozenset((_PRIORITY, _RST, _SETTINGS, _PING))
_END_HEADERS, _PADDED, _HAS_PRIORITY = 0x4, 0x8, 0x20


class FloodError(Exception):
    """The client sends what no client of good will sends."""


class Allowance:
    """Units that are spent, and come back with time. It may go into debt."""

    __slots__ = ("_burst", "_clock", "_last", "_left", "_rate")

    def __init__(self, burst: float, rate: float, clock: Callable[[], float] = time.monotonic) -> None:
        self._burst = burst
        self._rate = rate
        self._clock = clock
        self._left = burst
        self._last = clock()

    def spend(self, units: float) -> None:
        """Take so many units."""
        now = self._clock()
        self._left = min(self._burst, self._left + (now - self._last) * self._rate) - units
        self._last = now

    def wait(self) -> float:
        """Return after how many seconds the debt is paid; 0 without debt."""
        self.spend(0)
        return max(-self._left / self._rate, 0.0)


class Allowances:
    """One allowance for each source. They outlive connections: to come back does not renew them."""

    def __init__(self, burst: float, rate: float) -> None:
        self._burst = burst
        self._rate = rate
        self._of: OrderedDict[Hashable, Allowance] = OrderedDict()

    def of(self, source: Hashable) -> Allowance:
        """Return the allowance of a source."""
        found = self._of.setdefault(source, Allowance(self._burst, self._rate))
        self._of.move_to_end(source)
        if len(self._of) > MAX_SOURCES:
            self._of.popitem(last=False)
        return found


class FrameGuard:
    """Feed it every byte that a client sends, in order; it raises when the connection has to end.

    `unjudged` is how many of the last bytes belong to a header block that is still open; whoever feeds it
    keeps them back, because half of a bad block does harm already.

    Args:
        clock: Monotonic seconds.
        calls: What the client's calls are charged to.
    """

    __slots__ = (
        "_block",
        "_calls",
        "_control",
        "_flags",
        "_head",
        "_kind",
        "_left",
        "_payload",
        "_preface",
        "unjudged",
    )

    def __init__(
        self, clock: Callable[[], float] = time.monotonic, calls: tuple[Allowance, ...] = ()
    ) -> None:
        self._calls = calls
        self.unjudged = 0
        self._preface = len(PREFACE)
        self._head = b""
        self._kind = self._flags = 0
        self._left = 0  # bytes of the present frame's payload that have not come yet
        self._payload = b""  # what has come of it, if it is part of a header block
        self._block: bytes | None = None  # the header block that is open
        self._control = Allowance(CONTROL_BURST, CONTROL_RATE, clock)

    def charge(self) -> None:
        """Charge the client with a call, or with what costs us as much."""
        for allowance in self._calls:
            allowance.spend(1)

    def wait(self) -> float:
        """Return how many seconds the next bytes have to wait: the client makes calls too fast."""
        return max((allowance.wait() for allowance in self._calls), default=0.0)

    @property
    def harmless(self) -> int:
        """How many of the next bytes are data of a call that was let through."""
        return self._left if self._kind == _DATA else 0

    def feed(self, data: bytes) -> None:
        """Count what passes.

        Raises:
            FloodError: It is not HTTP/2, or too much of what costs us and means nothing.
        """
        position = 0
        if self._preface:
            position = min(self._preface, len(data))
            start = len(PREFACE) - self._preface
            if data[:position] != PREFACE[start : start + position]:
                raise FloodError("not an HTTP/2 client")
            self._preface -= position
        end = len(data)
        while position < end:
            if self._left:
                step = min(self._left, end - position)
                if self._kind in _BLOCK:
                    self._payload += data[position : position + step]
                    self.unjudged += step
                self._left -= step
                position += step
            else:
                need = HEADER_BYTES - len(self._head)
                self._head += data[position : position + need]
                position += min(need, end - position)
                if len(self._head) < HEADER_BYTES:
                    return
                self._begin(int.from_bytes(self._head[:3]), self._head[3], self._head[4])
                self._head = b""
            if not self._left and self._kind in _BLOCK:
                self._end_of_headers()

    def _begin(self, length: int, kind: int, flags: int) -> None:
        self._left, self._kind, self._flags = length, kind, flags
        if self._block is not None and kind != _CONTINUATION:  # RFC 9113 §6.10
            raise FloodError("a header block is interrupted")
        if kind in _BLOCK:
            if len(self._block or b"") + length > MAX_HEADER_BLOCK:
                raise FloodError("a header block is too large")
            self.unjudged += HEADER_BYTES
            if kind == _CONTINUATION:
                self._spend(1)
            else:
                self.charge()
        elif kind == _WINDOW:
            self._spend(WINDOW_COST)
        elif kind in _CONTROL or (kind == _DATA and length == 0):
            self._spend(1)

    def _end_of_headers(self) -> None:
        payload, self._payload = self._payload, b""
        if self._kind == _HEADERS:
            payload = _unpadded(payload, self._flags)
        self._block = (self._block or b"") + payload
        if self._flags & _END_HEADERS:
            if count_fields(self._block) > MAX_FIELDS:
                raise FloodError("a header block has too many fields")
            self._block = None
            self.unjudged = 0

    def _spend(self, frames: float) -> None:
        self._control.spend(frames)
        if self._control.wait():
            raise FloodError("too many control frames")


def _unpadded(payload: bytes, flags: int) -> bytes:
    """Return the part of a HEADERS frame that belongs to the block (RFC 9113 §6.2)."""
    start = (1 if flags & _PADDED else 0) + (5 if flags & _HAS_PRIORITY else 0)
    padding = payload[0] if flags & _PADDED and payload else 0
    if start + padding > len(payload):
        raise FloodError("a header block is malformed")
    return payload[start : len(payload) - padding]


def count_fields(block: bytes) -> int:
    """Return how many fields a whole header block has (RFC 7541 §6), without decoding one.

    Raises:
        FloodError: It is malformed.
    """
    position = count = 0
    try:
        while position < len(block):
            first = block[position]
            if first & 0x80:  # indexed
                _, position = _integer(block, position, 0x7F)
            elif first & 0x60 == 0x20:  # size of the table
                _, position = _integer(block, position, 0x1F)
            else:
                name, position = _integer(block, position, 0x3F if first & 0x40 else 0x0F)
                for _ in range(1 if name else 2):
                    length, position = _integer(block, position, 0x7F)
                    position += length
            count += 1
    except IndexError as error:
        raise FloodError("a header block is malformed") from error
    if position > len(block):
        raise FloodError("a header block is malformed")
    return count


def _integer(block: bytes, position: int, mask: int) -> tuple[int, int]:
    """Return an integer (RFC 7541 §5.1) and the position after it."""
    value = block[position] & mask
    position += 1
    if value < mask:
        return value, position
    for shift in range(0, 28, 7):
        octet = block[position]
        position += 1
        value += (octet & 0x7F) << shift
        if not octet & 0x80:
            return value, position
    raise FloodError("a header block is malformed")

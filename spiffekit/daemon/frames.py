# SPDX-License-Identifier: Apache-2.0
"""A guard that counts a client's HTTP/2 frames as they pass, and never looks into them.

gRPC's own server bounds messages and streams, but reads on through floods of control frames and of
header blocks that never end. Only frame headers are read here (RFC 9113 §4.1); no state of HTTP/2 is
kept, so nothing can be smuggled past gRPC: what does not parse here is refused.
"""

from collections.abc import Callable
from typing import Final

PREFACE: Final = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"  # RFC 9113 §3.4
HEADER_BYTES: Final = 9
MAX_HEADER_BLOCK: Final = 64 * 1024  # bytes; stops CONTINUATION floods
CONTROL_BURST: Final = 2000.0  # frames; what many streams cancelled at once may need
CONTROL_RATE: Final = 500.0  # frames a second; stops RST_STREAM, PING, SETTINGS and PRIORITY floods

_DATA, _HEADERS, _PRIORITY, _RST, _SETTINGS, _PING, _CONTINUATION = 0, 1, 2, 3, 4, 6, 9
_CONTROL: Final = frozenset((_PRIORITY, _RST, _SETTINGS, _PING))
_END_HEADERS: Final = 0x4


class FloodError(Exception):
    """The client sends what no client of good will sends."""


class FrameGuard:
    """Feed it every byte that a client sends, in order; it raises when the connection has to end."""

    __slots__ = ("_block", "_budget", "_clock", "_head", "_last", "_preface", "_skip")

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._preface = len(PREFACE)
        self._head = b""
        self._skip = 0
        self._block: int | None = None  # bytes of the header block that is open
        self._budget = CONTROL_BURST
        self._last = clock()

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
            if self._skip:
                step = min(self._skip, end - position)
                self._skip -= step
                position += step
                continue
            need = HEADER_BYTES - len(self._head)
            self._head += data[position : position + need]
            position += min(need, end - position)
            if len(self._head) == HEADER_BYTES:
                self._frame(int.from_bytes(self._head[:3]), self._head[3], self._head[4])
                self._head = b""

    def _frame(self, length: int, kind: int, flags: int) -> None:
        self._skip = length
        if self._block is not None and kind != _CONTINUATION:  # RFC 9113 §6.10
            raise FloodError("a header block is interrupted")
        if kind in (_HEADERS, _CONTINUATION):
            block = (self._block or 0) + length
            if block > MAX_HEADER_BLOCK:
                raise FloodError("a header block is too large")
            self._block = None if flags & _END_HEADERS else block
            if kind == _CONTINUATION:
                self._spend()
        elif kind in _CONTROL or (kind == _DATA and length == 0):
            self._spend()

    def _spend(self) -> None:
        now = self._clock()
        self._budget = min(CONTROL_BURST, self._budget + (now - self._last) * CONTROL_RATE) - 1
        self._last = now
        if self._budget < 0:
            raise FloodError("too many control frames")

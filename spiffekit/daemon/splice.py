# SPDX-License-Identifier: Apache-2.0
"""Passing bytes between two connections, with back-pressure both ways, and closing both together."""
# ruff: noqa: SLF001 - both ends of a splice are ours

import asyncio
from collections.abc import Callable
from typing import Final

from spiffekit.daemon.frames import FloodError, FrameGuard

HIGH_WATER: Final = 64 * 1024  # bytes that wait for a slow reader before the sender is paused
CHUNK: Final = 16 * 1024  # bytes read from a client at once; that much of its calls may have to wait
PIECE: Final = 1024  # bytes judged at once, so that few calls pass which should have waited; and what is data


class End(asyncio.BaseProtocol):
    """What both ends of a splice share. It reads nothing until it is joined with the other one."""

    def __init__(self) -> None:
        self.closed = asyncio.Event()
        self._transport: asyncio.Transport | None = None
        self._other: End | None = None
        self._blocked = False  # the reader at the other end is slow

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Hold the bytes until the ends are joined."""
        assert isinstance(transport, asyncio.Transport)  # noqa: S101 - only stream transports call it
        self._transport = transport
        transport.set_write_buffer_limits(high=HIGH_WATER)
        transport.pause_reading()

    def join(self, other: "End") -> None:
        """Let bytes flow between both."""
        self._other, other._other = other, self
        self._set_reading()
        other._set_reading()

    def pass_on(self, data: bytes) -> None:
        """Send `data` at the other end."""
        if self._other is not None and self._other._transport is not None:
            self._other._transport.write(data)

    def pause_writing(self) -> None:
        """Pause the sender: the reader at this end is slow."""
        self._block_other(blocked=True)

    def resume_writing(self) -> None:
        """Let the sender go on."""
        self._block_other(blocked=False)

    def connection_lost(self, _error: Exception | None) -> None:
        """Close the other end once what was sent has arrived."""
        self.closed.set()
        self._transport = None
        other, self._other = self._other, None
        if other is not None and other._transport is not None:
            other._transport.close()

    def abort(self) -> None:
        """Close at once."""
        if self._transport is not None:
            self._transport.abort()

    def _block_other(self, *, blocked: bool) -> None:
        if self._other is not None:
            self._other._blocked = blocked
            self._other._set_reading()

    def _may_read(self) -> bool:
        return not self._blocked

    def _set_reading(self) -> None:
        if self._transport is None or self._transport.is_closing():
            return
        if self._may_read():
            self._transport.resume_reading()
        else:
            self._transport.pause_reading()


class InnerEnd(End, asyncio.Protocol):
    """The end of our own gRPC server, which is trusted."""

    def data_received(self, data: bytes) -> None:
        """Pass the bytes on."""
        self.pass_on(data)


class OuterEnd(End, asyncio.BufferedProtocol):
    """The end of a client, guarded against floods.

    Args:
        guard: Judges what the client sends.
        buffer: Where bytes are received, `CHUNK` of them; all ends may share it.
        report: Is told why a connection was closed.
    """

    def __init__(self, guard: FrameGuard, buffer: memoryview, report: Callable[[str], None]) -> None:
        super().__init__()
        self._report = report
        self._guard = guard
        self._buffer = buffer
        self._heard = False
        self._held = b""  # what waits until the client may make calls again
        self._unjudged = b""  # what may turn out to be harmful
        self._release: asyncio.TimerHandle | None = None

    def get_buffer(self, _sizehint: int) -> memoryview:
        """Return where to receive."""
        return self._buffer

    def buffer_updated(self, size: int) -> None:
        """Pass the bytes on, or hold them while the client makes calls too fast."""
        self._heard = True
        self._held += bytes(self._buffer[:size])
        if self._release is None:
            self._pass_held()

    def _pass_held(self) -> None:
        self._release = None
        try:
            while self._held:
                if wait := self._guard.wait():
                    self._release = asyncio.get_running_loop().call_later(wait, self._pass_held)
                    break
                size = max(PIECE, self._guard.harmless)
                piece, self._held = self._held[:size], self._held[size:]
                self._guard.feed(piece)
                judged = self._unjudged + piece
                safe = max(len(judged) - self._guard.unjudged, 0)
                self._unjudged = judged[safe:]
                self.pass_on(judged[:safe])
        except FloodError as error:
            self._report(str(error))
            self.abort()
        else:
            self._set_reading()

    def connection_lost(self, error: Exception | None) -> None:
        """Forget what is held, and close the other end."""
        if self._release is not None:
            self._release.cancel()
        super().connection_lost(error)

    def close_if_silent(self) -> None:
        """Close a connection that has said nothing."""
        if not self._heard:
            self.abort()

    def _may_read(self) -> bool:
        return self._release is None and super()._may_read()

# SPDX-License-Identifier: Apache-2.0
"""Passing bytes between two connections, with back-pressure both ways, and closing both together."""

import asyncio
import logging
import time
from typing import Final

from spiffekit.daemon.frames import FloodError, FrameGuard

logger = logging.getLogger(__name__)

HIGH_WATER: Final = 64 * 1024  # bytes that wait for a slow reader before the sender is paused


class End(asyncio.Protocol):
    """One end of a splice. It reads nothing until it is joined with the other one."""

    def __init__(self, guard: FrameGuard | None = None) -> None:
        self.closed = asyncio.Event()
        self._guard = guard
        self._heard = False
        self._transport: asyncio.Transport | None = None
        self._other: End | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Hold the bytes until the ends are joined."""
        assert isinstance(transport, asyncio.Transport)  # noqa: S101 - only stream transports call it
        self._transport = transport
        transport.set_write_buffer_limits(high=HIGH_WATER)
        transport.pause_reading()

    def join(self, other: "End") -> None:
        """Let bytes flow between both."""
        self._other, other._other = other, self  # noqa: SLF001 - of the same class
        self._resume()
        other._resume()  # noqa: SLF001 - of the same class

    def data_received(self, data: bytes) -> None:
        """Judge the frames, then pass the bytes on."""
        self._heard = True
        if self._guard is not None:
            try:
                self._guard.feed(data)
            except FloodError as error:
                logger.warning("connection closed", extra={"reason": str(error)})
                self.abort()
                return
        if self._other is not None and self._other._transport is not None:  # noqa: SLF001 - of the same class
            self._other._transport.write(data)  # noqa: SLF001 - of the same class

    def pause_writing(self) -> None:
        """Pause the sender: the reader at this end is slow."""
        if self._other is not None:
            self._other._pause()  # noqa: SLF001 - of the same class

    def resume_writing(self) -> None:
        """Let the sender go on."""
        if self._other is not None:
            self._other._resume()  # noqa: SLF001 - of the same class

    def connection_lost(self, _error: Exception | None) -> None:
        """Close the other end once what was sent has arrived."""
        self.closed.set()
        self._transport = None
        other, self._other = self._other, None
        if other is not None and other._transport is not None:  # noqa: SLF001 - of the same class
            other._transport.close()  # noqa: SLF001 - what was sent still arrives

    def close_if_silent(self) -> None:
        """Close a connection that has said nothing."""
        if not self._heard:
            self.abort()

    def abort(self) -> None:
        """Close at once."""
        if self._transport is not None:
            self._transport.abort()

    def _pause(self) -> None:
        if self._transport is not None and not self._transport.is_closing():
            self._transport.pause_reading()

    def _resume(self) -> None:
        if self._transport is not None and not self._transport.is_closing():
            self._transport.resume_reading()


def outer_end() -> End:
    """Return the end of a client, guarded against floods."""
    return End(FrameGuard(time.monotonic))

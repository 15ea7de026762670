# SPDX-License-Identifier: Apache-2.0
"""A process that asks for its identity: which one it is, that it still lives, and what it executes.

Order closes every race: the kernel names the process and hands out a pidfd at accept; /proc is read;
then the pidfd is asked whether the process still lives. Only if so was it this process that was read.
"""

import ctypes
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Self

from attestor.errors import PeerGoneError
from spiffekit.daemon.peer import PeerProcess

MAX_STAT: Final = 4096  # bytes of /proc/PID/stat
AT_FDCWD: Final = -100
AT_STATX_DONT_SYNC: Final = 0x4000  # statx(2): what the kernel knows, without asking a server that may hang
STATX_BASIC_STATS: Final = 0x7FF
_libc: Final = ctypes.CDLL(None, use_errno=True)
Executable = tuple[int, int, int, int, int]
"""Device, inode, size, and the times of content and status in nanoseconds; exec and replacement change it."""


class _Time(ctypes.Structure):
    _fields_ = (("seconds", ctypes.c_int64), ("nanoseconds", ctypes.c_uint32), ("_reserved", ctypes.c_int32))

    @property
    def ns(self) -> int:
        return int(self.seconds * 1_000_000_000 + self.nanoseconds)


class _Statx(ctypes.Structure):
    _fields_ = (
        ("_before", ctypes.c_uint8 * 32),
        ("inode", ctypes.c_uint64),
        ("size", ctypes.c_uint64),
        ("_blocks", ctypes.c_uint64 * 2),
        ("_accessed", _Time),
        ("_created", _Time),
        ("changed", _Time),
        ("modified", _Time),
        ("_special", ctypes.c_uint32 * 2),
        ("device_major", ctypes.c_uint32),
        ("device_minor", ctypes.c_uint32),
        ("_rest", ctypes.c_uint64 * 14),
    )


@dataclass(frozen=True, slots=True)
class Process:
    """A local process behind a connection. Its pidfd stays open as long as the connection."""

    peer: PeerProcess

    @classmethod
    def of(cls, peer: PeerProcess) -> Self:
        """Return the process of a peer."""
        return cls(peer)

    @property
    def pid(self) -> int:
        """The process ID, in our PID namespace."""
        return self.peer.pid

    @property
    def proc(self) -> Path:
        """Its folder below /proc; what is read there counts only if `require_alive` passes afterwards."""
        return Path("/proc", str(self.peer.pid))

    def require_alive(self) -> None:
        """Check that the process still lives.

        Raises:
            PeerGoneError: It has exited.
        """
        if not self.peer.alive():
            raise PeerGoneError("caller has exited")

    def birth(self) -> tuple[int, int]:
        """Return its parent's PID, 0 for one that we cannot see, and its start in clock ticks since boot.

        Raises:
            PeerGoneError: The process has exited, or may not be examined.
        """
        return birth(self.proc)

    def executable(self) -> Executable:
        """Return what names the executable that runs now.

        Raises:
            PeerGoneError: The process has exited, or may not be examined.
        """
        info = _Statx()
        path, mask = os.fsencode(self.proc / "exe"), STATX_BASIC_STATS
        if _libc.statx(AT_FDCWD, path, AT_STATX_DONT_SYNC, mask, ctypes.byref(info)):
            raise PeerGoneError("caller's executable cannot be examined")
        device = os.makedev(info.device_major, info.device_minor)
        return (device, info.inode, info.size, info.modified.ns, info.changed.ns)


def birth(proc: Path) -> tuple[int, int]:
    """Return what `Process.birth` does, of any process.

    Args:
        proc: Its folder below /proc.

    Raises:
        PeerGoneError: It has exited, or may not be examined.
    """
    try:
        with (proc / "stat").open("rb") as file:
            # After the name, which may hold anything; proc(5) counts the state as field 3.
            fields = file.read(MAX_STAT).rpartition(b")")[2].split()
    except OSError as error:
        raise PeerGoneError("process cannot be examined") from error
    return int(fields[1]), int(fields[19])

# SPDX-License-Identifier: Apache-2.0
"""A process that asks for its identity: which one it is, that it still lives, and what it executes.

Order closes every race: the kernel names the process and hands out a pidfd at accept; /proc is read;
then the pidfd is asked whether the process still lives. Only if so was it this process that was read.
"""

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Self

from attestor.errors import PeerGoneError
from spiffekit.daemon.peer import PeerProcess

MAX_STAT: Final = 4096  # bytes of /proc/PID/stat
Executable = tuple[int, int, int, int, int]
"""Device, inode, size, and the times of content and status in nanoseconds; exec and replacement change it."""


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
        try:
            info = os.stat(self.proc / "exe")  # noqa: PTH116 - follows the kernel's link, not a path
        except OSError as error:
            raise PeerGoneError("caller's executable cannot be examined") from error
        return (info.st_dev, info.st_ino, info.st_size, info.st_mtime_ns, info.st_ctime_ns)


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

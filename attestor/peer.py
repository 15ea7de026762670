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
from spiffekit.evidence import MAX_ANCESTORS, AncestorFacts

MAX_STAT: Final = 4096  # bytes of /proc/PID/stat
MAX_STATUS: Final = 64 * 1024  # bytes of /proc/PID/status
MAX_PATH: Final = 256  # characters of an ancestor's executable; a longer one is left out of the record
AT_FDCWD: Final = -100
AT_STATX_DONT_SYNC: Final = 0x4000  # statx(2): what the kernel knows, without asking a server that may hang
DELETED: Final = " (deleted)"  # what the kernel puts after the path of a file that is gone
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


def status(proc: Path) -> dict[str, str]:
    """Return the fields of a process's status.

    Args:
        proc: Its folder below /proc.

    Raises:
        OSError: It cannot be read.
        ValueError: It is longer than `MAX_STATUS`: what stands last may be cut.
    """
    with (proc / "status").open("rb") as file:
        text = file.read(MAX_STATUS + 1).decode("ascii", "replace")
    if len(text) > MAX_STATUS:
        raise ValueError(f"status is longer than {MAX_STATUS} bytes")
    # At line feeds alone: the name that a process gives itself may hold any other line break.
    return dict(line.split(":\t", 1) for line in text.split("\n") if ":\t" in line)


def ancestors(proc: Path) -> tuple[AncestorFacts, ...]:
    """Return who is above a process, its parent first: `MAX_ANCESTORS`, or up to one that cannot be examined.

    Each is read between two looks at its child, whose parent is another from the moment that its own
    exits: a number that was given anew is not taken for it.

    Args:
        proc: Its folder below /proc.
    """
    found: list[AncestorFacts] = []
    try:
        parent = birth(proc)[0]
        while parent and len(found) < MAX_ANCESTORS:
            above = proc.with_name(str(parent))
            next_parent, start_ticks = birth(above)
            uid = int(status(above)["Uid"].split()[1])  # effective
            facts = AncestorFacts(pid=parent, start_ticks=start_ticks, uid=uid, executable=_path(above))
            if birth(proc)[0] != parent:
                break
            found.append(facts)
            proc, parent = above, next_parent
    except (OSError, PeerGoneError, ValueError, LookupError):
        pass  # what is known already stands
    return tuple(found)


def _path(proc: Path) -> str:
    """Return an executable's path for a record; "" for a deleted one, or one that cannot be recorded."""
    path = str((proc / "exe").readlink())
    if path.endswith(DELETED) or len(path) > MAX_PATH or not path.isprintable():
        return ""
    return path

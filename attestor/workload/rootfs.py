# SPDX-License-Identifier: Apache-2.0
"""Files as a process sees them: below its root folder, wherever links lead, and nothing but files."""

import ctypes
import hashlib
import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import islice
from typing import Final

from attestor.peer import Process
from attestor.workload import file_systems

OPENAT2: Final = 437  # the system call, on every architecture that we run on
RESOLVE: Final = 0x02 | 0x10  # RESOLVE_NO_MAGICLINKS | RESOLVE_IN_ROOT
MAX_HELD: Final = 4096  # open or mapped files that are looked at; a process may have a million
CHUNK: Final = 256 * 1024  # bytes
_libc: Final = ctypes.CDLL(None, use_errno=True)


class _OpenHow(ctypes.Structure):
    _fields_ = (("flags", ctypes.c_uint64), ("mode", ctypes.c_uint64), ("resolve", ctypes.c_uint64))


@dataclass(frozen=True, slots=True)
class File:
    """A regular file, as it was at one moment."""

    device: int
    inode: int
    sha256: str  # lower-case hex


class Root:
    """The root folder of a process. Every call may hang where the process mounted something that does.

    Args:
        fd: The folder.
        limit: Largest file that is read, in bytes.
    """

    def __init__(self, fd: int, limit: int) -> None:
        self._fd = fd
        self._limit = limit

    @classmethod
    @contextmanager
    def of(cls, process: Process, limit: int) -> "Iterator[Root]":
        """Hold the root folder of a process open.

        Raises:
            OSError: The process has exited, or may not be examined.
        """
        fd = os.open(process.proc / "root", os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            yield cls(fd, limit)
        finally:
            os.close(fd)

    def file(self, path: str) -> File | None:
        """Return a file by its absolute path in there; None if there is none that could be vouched for.

        None for anything that is no regular file, is larger than the limit, changes meanwhile or lies on a
        FUSE mount. A pipe or a device is not even opened.
        """
        try:
            with opened(self._fd, path) as held:
                before = os.fstat(held)
                if not stat.S_ISREG(before.st_mode) or before.st_size > self._limit:
                    return None
                if file_systems.kind(held) == file_systems.FUSE:
                    return None
                with open(f"/proc/self/fd/{held}", "rb", buffering=0) as file:  # noqa: PTH123 - a descriptor
                    digest = self._digest(file.fileno())
                after = os.fstat(held)
        except (OSError, ValueError):  # ValueError: a NUL or a lone surrogate in the path
            return None
        if digest is None or _state(before) != _state(after):
            return None
        return File(before.st_dev, before.st_ino, digest)

    def _digest(self, fd: int) -> str | None:
        digest, left = hashlib.sha256(), self._limit
        while chunk := os.read(fd, CHUNK):
            left -= len(chunk)
            if left < 0:  # it grows while it is read
                return None
            digest.update(chunk)
        return digest.hexdigest()


@contextmanager
def opened(root: int, path: str) -> Iterator[int]:
    """Hold what is at a path open (`O_PATH`), wherever links lead: `root` is what they take for "/".

    Raises:
        OSError: There is nothing, or it cannot be looked at.
        ValueError: The path has a NUL.
    """
    how = _OpenHow(os.O_PATH | os.O_CLOEXEC, 0, RESOLVE)
    name = os.fsencode(path)
    if b"\0" in name:
        raise ValueError("a path has no NUL")
    fd = _libc.syscall(OPENAT2, root, name, ctypes.byref(how), ctypes.sizeof(how))
    if fd < 0:
        raise OSError(ctypes.get_errno(), "cannot be opened")
    try:
        yield fd
    finally:
        os.close(fd)


def _state(info: os.stat_result) -> tuple[int, int, int]:
    return info.st_size, info.st_mtime_ns, info.st_ctime_ns


def held(process: Process, file: File) -> str:
    """Return by which name the kernel has `file` open in, or mapped into, a process; empty if it has not.

    Raises:
        OSError: The process has exited, or may not be examined.
    """
    for folder in ("fd", "map_files"):
        with os.scandir(process.proc / folder) as entries:
            for entry in islice(entries, MAX_HELD):
                if name := _names(entry.path, file):
                    return name
    return ""


def _names(link: str, file: File) -> str:
    try:
        info = os.stat(link)  # noqa: PTH116 - follows the kernel's link, not a path
        same = (info.st_dev, info.st_ino) == (file.device, file.inode)
        return os.readlink(link) if same else ""  # noqa: PTH115
    except OSError:  # closed meanwhile
        return ""

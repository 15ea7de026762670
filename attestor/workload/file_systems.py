# SPDX-License-Identifier: Apache-2.0
"""Which kind of file system a file is on: one whose bytes the kernel holds, or one whose server may lie."""

import ctypes
from typing import Final

_libc: Final = ctypes.CDLL(None, use_errno=True)

FUSE: Final = 0x65735546  # its server may be the workload, and may say whatever it likes
LOCAL: Final = frozenset(
    {
        0xEF53,  # ext2, ext3 and ext4
        0x58465342,  # XFS
        0x9123683E,  # Btrfs
        0xF2F52010,  # F2FS
        0xCA451A4E,  # bcachefs
        0x2FC12FC1,  # ZFS
        0x3153464A,  # JFS
        0x24051905,  # UBIFS
        0x794C7630,  # overlay
        0x01021994,  # tmpfs, and memfd
        0x958458F6,  # hugetlbfs, and memfd with huge pages
        0x858458F6,  # ramfs
        0x73717368,  # SquashFS
        0xE0F5E1E2,  # EROFS
        0x9660,  # ISO 9660
        0x4D44,  # FAT
    }
)
"""Kinds whose bytes the kernel reads from a device or from memory: what we read is what was executed."""


def kind(fd: int) -> int:
    """Return the kind of the file system of an open file, as in statfs(2). A server may make it hang.

    Raises:
        OSError: It cannot be told.
    """
    buffer = (ctypes.c_long * 64)()  # struct statfs has 120 bytes, and its type first
    if _libc.fstatfs(fd, buffer):
        raise OSError(ctypes.get_errno(), "has no file system")
    return int(buffer[0])

# SPDX-License-Identifier: Apache-2.0
"""What a process executes: path, inode and SHA-256 of one file, whenever the process calls exec."""

import hashlib
import os
import time
from collections import OrderedDict
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from attestor.errors import WorkloadAttestationError
from attestor.peer import DELETED, Executable, Process
from attestor.workload import file_systems
from attestor.workload.aside import Aside

MAX_HASHES: Final = 1024  # executables whose hash is remembered
SETTLED: Final = 1_000_000_000  # ns since the last change of a file; two changes of one tick have one time


@dataclass(frozen=True, slots=True)
class Description:
    """An executable; what cannot be vouched for is empty."""

    path: str  # in the mount namespace of its process; empty for a deleted file
    inode: str  # device and inode, as `stat -c %d:%i` prints them; empty where such numbers are given anew
    sha256: str  # lower-case hex; empty if none was to be computed


class Executables:
    """Describes executables. Hashes are remembered by what names the file, so each is computed once.

    Args:
        limit: Largest file that is hashed, in bytes: 0 is any, below 0 hashes none.
        remote: Hash files of file systems that have a server, too: it may show us other bytes than
            were executed.
    """

    def __init__(self, limit: int = 0, *, remote: bool = False) -> None:
        self._limit = limit
        self._remote = remote
        self._hashes: OrderedDict[Executable, str] = OrderedDict()
        self._aside = Aside()

    async def describe(self, process: Process) -> Description:
        """Describe what a process executes.

        Raises:
            WorkloadAttestationError: It is too large to be hashed, or changed meanwhile.
            PeerGoneError: The process has exited, or may not be examined.
            OSError: It cannot be read.
        """
        executable = process.executable()
        path = str((process.proc / "exe").readlink())
        digest = self._hashes.get(executable, "")
        # What was remembered of a file system without a device may be claimed by another that has its number.
        if self._limit >= 0 and not (digest and os.major(executable[0])):
            exe = process.proc / "exe"
            digest = await self._aside.run(process.peer.uid, self._hash, exe, executable[2], digest)
        if process.executable() != executable:
            raise WorkloadAttestationError("executable changed while it was read")
        self._remember(executable, digest)
        return Description("" if path.endswith(DELETED) else path, _inode(executable), digest)

    def _hash(self, exe: Path, size: int, known: str) -> str:
        # Through /proc/PID/exe: a path may mean another file in another mount namespace.
        with exe.open("rb") as file:
            if not self._remote and file_systems.kind(file.fileno()) not in file_systems.LOCAL:
                return ""
            if known:
                return known
            if 0 < self._limit < size:
                raise WorkloadAttestationError(f"executable is larger than {self._limit} bytes")
            return hashlib.file_digest(file, "sha256").hexdigest()

    def _remember(self, executable: Executable, digest: str) -> None:
        if not digest or time.time_ns() - executable[4] < SETTLED:
            return
        self._hashes[executable] = digest
        self._hashes.move_to_end(executable)
        if len(self._hashes) > MAX_HASHES:
            self._hashes.popitem(last=False)


def _inode(executable: Executable) -> str:
    # A file system without a device (overlay, tmpfs, FUSE) gets a number that was another's before, and
    # whoever may mount one in a user namespace may choose the inodes.
    device, inode = executable[:2]
    return f"{device}:{inode}" if os.major(device) else ""

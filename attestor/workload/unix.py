# SPDX-License-Identifier: Apache-2.0
"""What the kernel says of any process: its user, groups, and if asked for, its executable and its parent."""

import grp
import pwd
import shlex
from collections.abc import Mapping
from collections.abc import Set as AbstractSet
from contextlib import closing
from dataclasses import dataclass
from typing import Final, Self

import msgspec

from attestor.errors import PeerGoneError, WorkloadAttestationError
from attestor.peer import Process, status
from attestor.workload import Facts
from attestor.workload.aside import Aside
from attestor.workload.executable import Executables
from spiffekit.daemon.peer import PeerProcess, PeerUnknownError
from spiffekit.selector import Selector

TYPE: Final = "unix"
MAX_CMDLINE: Final = 4096  # bytes; a longer one is not stated, for a part of it could mislead
INIT: Final = 1  # in its PID namespace


class Config(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """``[workload_attestor.unix]``.

    Attributes:
        discover_workload_path: Add the selectors `path`, `inode` and `sha256`.
        workload_size_limit: Largest executable that is hashed, in bytes: 0 is any, below 0 hashes none.
        hash_remote_executables: Hash on FUSE and network file systems too, whose server may lie to us.
        discover_parent: Add the selectors `parent:uid`, `parent:path` and `parent:sha256`.
        declare_cmdline: Add `declared:cmdline`, which the process itself could forge.
    """

    discover_workload_path: bool = False
    workload_size_limit: int = 0
    hash_remote_executables: bool = False
    discover_parent: bool = False
    declare_cmdline: bool = False


class UnixAttestor:
    """See the module."""

    type = TYPE

    def __init__(self, config: Config) -> None:
        self._config = config
        self._executables = Executables(config.workload_size_limit, remote=config.hash_remote_executables)
        self._aside = Aside()

    async def attest(self, process: Process) -> Facts:
        """Return the selectors of a process: user and groups, and the others as configured.

        Raises:
            WorkloadAttestationError: The process cannot be read, or its executable is larger than allowed.
        """
        try:
            # Names may come from a directory over the network, and hang as it does.
            found = _selectors(await self._aside.run(process.peer.uid, _identity, _Status.of(process)))
            if self._config.discover_workload_path:
                exe = await self._executables.describe(process)
                found |= _selectors({"path": {exe.path}, "inode": {exe.inode}, "sha256": {exe.sha256}})
        except (OSError, ValueError, PeerGoneError) as error:
            raise WorkloadAttestationError(f"process cannot be examined: {error}") from error
        if self._config.discover_parent:
            found |= await self._parent(process)
        if self._config.declare_cmdline:
            found |= await self._aside.run(process.peer.uid, _cmdline, process)
        return Facts(found)

    async def _parent(self, process: Process) -> frozenset[Selector]:
        """Return what holds for the direct parent; nothing if it exits meanwhile or cannot be examined.

        A pidfd holds the parent before it is read. It lives afterwards, and has the number that the kernel
        then names as parent: so it was the parent that was read, not one that got the number later.
        """
        try:
            pid, _ = process.birth()
            with closing(PeerProcess.from_pid(pid)) as peer:
                parent = Process.of(peer)
                seen = _Status.of(parent)
                if seen.own_pid == INIT:  # adopts all whose parent exited, so it says nothing
                    return frozenset()
                exe = await self._executables.describe(parent)
                uid, path, sha256 = {str(seen.uid)}, {exe.path}, {exe.sha256}
                found = _selectors({"parent:uid": uid, "parent:path": path, "parent:sha256": sha256})
                if process.birth()[0] != pid or not peer.alive():
                    return frozenset()
        except (OSError, ValueError, WorkloadAttestationError, PeerGoneError, PeerUnknownError):
            return frozenset()
        return found


@dataclass(frozen=True, slots=True)
class _Status:
    uid: int  # effective, like gid
    gid: int
    groups: tuple[int, ...]
    own_pid: int  # in the PID namespace of the process

    @classmethod
    def of(cls, process: Process) -> Self:
        fields = status(process.proc)
        try:
            uid, gid = (int(fields[name].split()[1]) for name in ("Uid", "Gid"))
            groups = tuple(map(int, fields["Groups"].split()))
            return cls(uid, gid, groups, int(fields["NSpid"].split()[-1]))
        except LookupError as error:
            raise ValueError("status lacks a field") from error


def _identity(seen: _Status) -> Mapping[str, AbstractSet[str]]:
    return {
        "uid": {str(seen.uid)},
        "gid": {str(seen.gid)},
        "user": {_user(seen.uid)},
        "group": {_group(seen.gid)},
        "supplementary_gid": set(map(str, seen.groups)),
        "supplementary_group": set(map(_group, seen.groups)),
    }


def _cmdline(process: Process) -> frozenset[Selector]:
    try:
        with (process.proc / "cmdline").open("rb") as file:
            line = file.read(MAX_CMDLINE + 1)
        if not 0 < len(line) <= MAX_CMDLINE:
            return frozenset()
        words = line.removesuffix(b"\0").decode().split("\0")
        return _selectors({"declared:cmdline": {shlex.join(words)}})
    except (OSError, ValueError):  # what a process may choose must not deny it its identity
        return frozenset()


def _selectors(values: Mapping[str, AbstractSet[str]]) -> frozenset[Selector]:
    """Return a selector for each value by kind; an empty value is none."""
    return frozenset(Selector(TYPE, f"{kind}:{v}") for kind, found in values.items() for v in found if v)


def _user(uid: int) -> str:
    try:
        return pwd.getpwuid(uid).pw_name
    except KeyError:
        return ""


def _group(gid: int) -> str:
    try:
        return grp.getgrgid(gid).gr_name
    except KeyError:
        return ""


def create(config: Config) -> UnixAttestor:
    """Make the attestor of a configuration table."""
    return UnixAttestor(config)

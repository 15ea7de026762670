# SPDX-License-Identifier: Apache-2.0
"""What the kernel says of any process: its user, groups, and if asked for, its executable and ancestors."""

import grp
import pwd
import shlex
from collections.abc import Iterable, Mapping
from collections.abc import Set as AbstractSet
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from typing import Final, Self

import msgspec

from attestor.errors import PeerGoneError, WorkloadAttestationError
from attestor.peer import Process, status
from attestor.workload import Facts
from attestor.workload.aside import Aside
from attestor.workload.executable import Description, Executables
from spiffekit.daemon.peer import PeerProcess, PeerUnknownError
from spiffekit.errors import SelectorError
from spiffekit.evidence import MAX_ANCESTORS
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
        discover_ancestors: Add the selectors `ancestor:path` and `ancestor:sha256`, for up to eight of them.
        declare_cmdline: Add `declared:cmdline`, which the process itself could forge.
    """

    discover_workload_path: bool = False
    workload_size_limit: int = 0
    hash_remote_executables: bool = False
    discover_parent: bool = False
    discover_ancestors: bool = False
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
        depth = MAX_ANCESTORS if self._config.discover_ancestors else int(self._config.discover_parent)
        above = await self._above(process, depth)
        if self._config.discover_parent:
            found |= _parent(above)
        if self._config.discover_ancestors:
            found |= _ancestors(above)
        if self._config.declare_cmdline:
            found |= await self._aside.run(process.peer.uid, _cmdline, process)
        return Facts(found)

    async def _above(self, process: Process, depth: int) -> list["_Ancestor"]:
        """Return who is above a process, its parent first: `depth`, or up to one that cannot be examined.

        A pidfd holds each before it is read. It lives afterwards, and has the number that the kernel then
        names as parent of one that lives: so what was read is the parent, not one that got its number later.
        """
        above: list[_Ancestor] = []
        with ExitStack() as held:
            try:
                while len(above) < depth:
                    pid, _ = process.birth()
                    parent = Process.of(PeerProcess.from_pid(pid))
                    held.callback(parent.peer.close)
                    seen, exe = _Status.of(parent), await self._executables.describe(parent)
                    if process.birth()[0] != pid:
                        break
                    process.require_alive()
                    parent.require_alive()
                    above.append(_Ancestor(seen, exe))
                    process = parent
            except (OSError, ValueError, WorkloadAttestationError, PeerGoneError, PeerUnknownError):
                pass  # what is known already stands
        return above


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


@dataclass(frozen=True, slots=True)
class _Ancestor:
    status: _Status
    exe: Description


def _parent(above: list[_Ancestor]) -> frozenset[Selector]:
    # The first process of a PID namespace adopts all whose parent exited, so it says nothing.
    if not above or above[0].status.own_pid == INIT:
        return frozenset()
    uid, exe = above[0].status.uid, above[0].exe
    return _stated([("parent:uid", str(uid)), ("parent:path", exe.path), ("parent:sha256", exe.sha256)])


def _ancestors(above: list[_Ancestor]) -> frozenset[Selector]:
    # User and program in one: an entry that needs both of one ancestor must not get them of two.
    return _stated(
        (f"ancestor:{kind}", f"{one.status.uid}:{value}")
        for one in above
        for kind, value in (("path", one.exe.path), ("sha256", one.exe.sha256))
        if value
    )


def _stated(values: Iterable[tuple[str, str]]) -> frozenset[Selector]:
    """Return a selector for each kind and value that can be one: what others are called denies nothing."""
    found: frozenset[Selector] = frozenset()
    for kind, value in values:
        with suppress(SelectorError):
            found |= _selectors({kind: {value}})
    return found


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

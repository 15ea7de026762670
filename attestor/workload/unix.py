# SPDX-License-Identifier: Apache-2.0
"""What the kernel says of any process: its user, groups, and if asked for, its executable."""

import asyncio
import grp
import hashlib
import pwd
from collections import OrderedDict
from pathlib import Path
from typing import Final

import msgspec

from attestor.errors import WorkloadAttestationError
from attestor.peer import Executable, Process
from attestor.workload import Facts
from spiffekit.errors import SelectorError
from spiffekit.selector import Selector

TYPE: Final = "unix"
MAX_STATUS: Final = 64 * 1024  # bytes of /proc/PID/status
MAX_HASHES: Final = 1024  # executables whose hash is remembered
_DELETED: Final = " (deleted)"


class Config(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """``[workload_attestor.unix]``.

    Attributes:
        discover_workload_path: Add the selectors `path` and `sha256`.
        workload_size_limit: Largest executable that is hashed, in bytes: 0 is any, below 0 hashes none.
    """

    discover_workload_path: bool = False
    workload_size_limit: int = 0


class UnixAttestor:
    """See the module. Hashes are remembered by what names the executable, so each is computed once."""

    type = TYPE

    def __init__(self, config: Config) -> None:
        self._config = config
        self._hashes: OrderedDict[Executable, str] = OrderedDict()

    async def attest(self, process: Process) -> Facts:
        """Return uid, gid, user, group, supplementary groups, and path and sha256 if configured.

        Raises:
            WorkloadAttestationError: The process cannot be read, or its executable is larger than allowed.
        """
        try:
            uid, gid, groups = _ids(process.proc / "status")
            values = {"uid": {str(uid)}, "gid": {str(gid)}, "supplementary_gid": set(map(str, groups))}
            values["user"] = {name} if (name := _user(uid)) else set()
            values["group"] = {name} if (name := _group(gid)) else set()
            values["supplementary_group"] = {name for g in groups if (name := _group(g))}
            if self._config.discover_workload_path:
                path = str((process.proc / "exe").readlink())
                if not path.endswith(_DELETED):  # a deleted file has no path that could be vouched for
                    values["path"] = {path}
                if self._config.workload_size_limit >= 0:
                    values["sha256"] = {await self._sha256(process)}
            return Facts(
                frozenset(Selector(TYPE, f"{kind}:{v}") for kind, found in values.items() for v in found)
            )
        except (OSError, ValueError, SelectorError) as error:
            raise WorkloadAttestationError(f"process cannot be examined: {error}") from error

    async def _sha256(self, process: Process) -> str:
        executable = process.executable()
        if executable in self._hashes:
            self._hashes.move_to_end(executable)
            return self._hashes[executable]
        limit = self._config.workload_size_limit
        if limit and executable[2] > limit:
            raise WorkloadAttestationError(f"executable is larger than {limit} bytes")
        digest = await asyncio.to_thread(_hash, process.proc / "exe")
        if process.executable() != executable:
            raise WorkloadAttestationError("executable changed while it was read")
        self._hashes[executable] = digest
        if len(self._hashes) > MAX_HASHES:
            self._hashes.popitem(last=False)
        return digest


def _hash(exe: Path) -> str:
    # Through /proc/PID/exe: a path may mean another file in another mount namespace.
    with exe.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _ids(status: Path) -> tuple[int, int, list[int]]:
    """Return effective uid and gid, and the supplementary groups."""
    with status.open("rb") as file:
        text = file.read(MAX_STATUS).decode("ascii", "replace")
    fields = dict(line.split(":\t", 1) for line in text.splitlines() if ":\t" in line)
    return (
        int(fields["Uid"].split()[1]),
        int(fields["Gid"].split()[1]),
        list(map(int, fields["Groups"].split())),
    )


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

# SPDX-License-Identifier: Apache-2.0
"""Which program an interpreter runs, as far as that can be known of a process that reads it and closes it.

The command line is the process's own memory, so what it names is only declared. The kernel vouches for a
file that the process still has open or mapped, as Java has its archive.
"""

import os
import re
from collections.abc import Iterator
from pathlib import PurePosixPath
from typing import Final

import msgspec

from attestor.errors import PeerGoneError, WorkloadAttestationError
from attestor.peer import Process
from attestor.workload import Facts
from attestor.workload.aside import Aside
from attestor.workload.executable import Executables
from attestor.workload.rootfs import File, Root, held
from spiffekit.daemon.config import ConfigError
from spiffekit.errors import SelectorError
from spiffekit.selector import Selector

TYPE: Final = "script"
MAX_CMDLINE: Final = 64 * 1024  # bytes; what comes after is not looked at
MAX_ARGUMENTS: Final = 32  # looked at for a file; each costs an attempt to open it
MAX_HEIGHT: Final = 8  # folders above the program's that are searched for lock files and charters
MAX_NAMES: Final = 16  # of files that are searched for
_INLINE: Final = {"-c", "-m", "-e", "-p", "--eval", "--print"}  # what follows is the program, or its name
_SHA256: Final = re.compile(r"[0-9a-f]{64}")


class Config(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """``[workload_attestor.script]``.

    Attributes:
        interpreters: What is an interpreter: paths of executables, or their SHA-256 in hex.
        lock_files: Names of lock files; the nearest of each, from the program's folder upwards, is hashed.
        charter_files: Paths of an agent's charter or settings, searched for and hashed likewise.
        max_bytes: Largest file that is hashed.
    """

    interpreters: tuple[str, ...]
    lock_files: tuple[str, ...] = ()
    charter_files: tuple[str, ...] = ()
    max_bytes: int = 64 * 1024 * 1024


class ScriptAttestor:
    """See the module."""

    type = TYPE

    def __init__(self, config: Config) -> None:
        self._config = config
        by_hash = any(_SHA256.fullmatch(one) for one in config.interpreters)
        self._executables = Executables(0 if by_hash else -1)
        self._aside = Aside()

    async def attest(self, process: Process) -> Facts:
        """Return what is known, and what is declared, of the program; nothing if it is no interpreter.

        Raises:
            WorkloadAttestationError: The process cannot be examined, or executes something else meanwhile.
        """
        try:
            executable = await self._executables.describe(process)
            if not {executable.path, executable.sha256} & set(self._config.interpreters):
                return Facts()
            found = await self._aside.run(process.peer.uid, self._look, process)
            if await self._executables.describe(process) != executable:
                raise WorkloadAttestationError("process executes something else now")
        except (OSError, PeerGoneError) as error:
            raise WorkloadAttestationError(f"process cannot be examined: {error}") from error
        return Facts(found)

    def _look(self, process: Process) -> frozenset[Selector]:
        found = set()
        for kind, value in self._values(process):
            try:
                found.add(Selector(TYPE, f"{kind}:{value}"))
            except SelectorError:  # a file name, say, with a line feed: nobody has an entry for it
                continue
        return frozenset(found)

    def _values(self, process: Process) -> Iterator[tuple[str, str]]:
        command, *arguments = _command_line(process)
        folder = str((process.proc / "cwd").readlink())
        with Root.of(process, self._config.max_bytes) as root:
            if "/" in command:
                venv = str(PurePosixPath(folder, command).parent.parent)
                if root.file(f"{venv}/pyvenv.cfg"):
                    yield "declared:venv", venv
            path, program = _program(root, folder, arguments)
            if program is not None:
                folder = str(PurePosixPath(path).parent)
                yield "declared:path", path
                yield "declared:sha256", program.sha256
                yield from _held(process, program)
            for name in self._config.lock_files:
                yield from (("declared:lock-sha256", file.sha256) for file in _nearest(root, folder, name))
            for name in self._config.charter_files:
                yield from (("declared:charter-sha256", file.sha256) for file in _nearest(root, folder, name))


def _command_line(process: Process) -> list[str]:
    with (process.proc / "cmdline").open("rb") as file:
        return os.fsdecode(file.read(MAX_CMDLINE)).split("\0")


def _program(root: Root, folder: str, arguments: list[str]) -> tuple[str, File | None]:
    """Return the first argument that is a file; there is none if the program itself is an argument."""
    for argument in arguments[:MAX_ARGUMENTS]:
        if argument in _INLINE:
            break
        if argument and not argument.startswith("-"):
            path = str(PurePosixPath(folder, argument))
            if file := root.file(path):
                return path, file
    return "", None


def _held(process: Process, program: File) -> Iterator[tuple[str, str]]:
    name = held(process, program)
    if not name:
        return
    yield "path", name
    yield "sha256", program.sha256
    if os.major(program.device):  # other numbers are given anew, see `unix:inode`
        yield "inode", f"{program.device}:{program.inode}"


def _nearest(root: Root, folder: str, name: str) -> list[File]:
    """Return the file of that name in the folder, or in the nearest above it, if any."""
    place = PurePosixPath(folder)
    for above in (place, *place.parents)[: MAX_HEIGHT + 1]:
        if file := root.file(str(above / name)):
            return [file]
    return []


def _problems(config: Config) -> Iterator[str]:
    if not config.interpreters:
        yield "interpreters: at least one is needed"
    for one in config.interpreters:
        if not one.startswith("/") and not _SHA256.fullmatch(one):
            yield f"interpreters: {one!r} is neither an absolute path nor a SHA-256 in lower-case hex"
    for option in ("lock_files", "charter_files"):
        names: tuple[str, ...] = getattr(config, option)
        if len(names) > MAX_NAMES:
            yield f"{option}: more than {MAX_NAMES}"
        for name in names:
            if not name or name.startswith("/") or ".." in PurePosixPath(name).parts:
                yield f"{option}: {name!r} is not a path below the folder that it is searched in"


def create(config: Config) -> ScriptAttestor:
    """Make the attestor of a configuration table.

    Raises:
        ConfigError: A name or a path cannot be used.
    """
    if problems := list(_problems(config)):
        raise ConfigError(*problems)
    return ScriptAttestor(config)

# SPDX-License-Identifier: Apache-2.0
"""Which unit of systemd a process belongs to, by systemd's word over D-Bus."""

import asyncio
import contextlib
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Final
from urllib.parse import quote

import msgspec
from dbus_fast import Message, MessageType, Variant
from dbus_fast.aio import MessageBus
from dbus_fast.errors import DBusFastError

from attestor.errors import WorkloadAttestationError
from attestor.peer import Process
from attestor.workload import Facts, cgroups
from spiffekit.errors import SelectorError
from spiffekit.selector import Selector

TYPE: Final = "systemd"
MAX_CONNECTIONS: Final = 16  # at once; the bus allows a user few hundred, and other services need some
SYSTEMD: Final = "org.freedesktop.systemd1"
MANAGER: Final = "/org/freedesktop/systemd1"
PROPERTIES: Final = "org.freedesktop.DBus.Properties"


class Config(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """``[workload_attestor.systemd]``.

    Attributes:
        bus_socket: The socket of the system bus.
    """

    bus_socket: Path = Path("/run/dbus/system_bus_socket")


class SystemdAttestor:
    """See the module. Each question has its own connection: one that hangs or breaks harms no other.

    Args:
        config: The table.
        root: The folder that /proc and /sys are in.
    """

    type = TYPE

    def __init__(self, config: Config, root: Path = Path("/")) -> None:
        self._address = f"unix:path={quote(str(config.bus_socket))}"
        self._root = root
        self._connections = asyncio.Semaphore(MAX_CONNECTIONS)

    async def attest(self, process: Process) -> Facts:
        """Return id and fragment_path of the unit whose cgroup the process is in.

        The unit is asked for by the cgroup that we see, not by PID: so it does not matter who has that
        number when systemd looks.

        Raises:
            WorkloadAttestationError: systemd does not answer, or the process moved meanwhile.
        """
        group = self._group(process)
        try:
            async with self._connections, _connected(self._address) as bus:
                unit = await _call(bus, MANAGER, f"{SYSTEMD}.Manager", "GetUnitByControlGroup", group)
                found = {
                    "id": await _call(bus, unit, PROPERTIES, "Get", f"{SYSTEMD}.Unit", "Id"),
                    "fragment_path": await _call(
                        bus, unit, PROPERTIES, "Get", f"{SYSTEMD}.Unit", "FragmentPath"
                    ),
                }
            selectors = frozenset(Selector(TYPE, f"{kind}:{value}") for kind, value in found.items() if value)
        except (OSError, EOFError, DBusFastError, SelectorError) as error:
            raise WorkloadAttestationError(f"systemd cannot be asked: {error}") from error
        if self._group(process) != group:
            raise WorkloadAttestationError("process moved to another cgroup")
        return Facts(selectors)

    def _group(self, process: Process) -> str:
        """Return the cgroup of a process as systemd names it."""
        self._require_same_namespaces()
        # The same test as systemd's own for which hierarchy is its own.
        unified = (self._root / "sys/fs/cgroup/cgroup.controllers").exists()
        group = cgroups.read(process.proc).get("" if unified else "name=systemd", "")
        if not group.startswith("/") or "/../" in f"{group}/":
            raise WorkloadAttestationError("process is outside of the cgroups that we see")
        return group

    def _require_same_namespaces(self) -> None:
        # From below a cgroup namespace of our own, "/system.slice/x.service" could be of anybody's making.
        proc = self._root / "proc"
        try:
            same = (proc / "1/ns/cgroup").samefile(proc / "self/ns/cgroup")
            if same and (proc / "1/comm").read_bytes() == b"systemd\n":
                return
        except OSError as error:
            raise WorkloadAttestationError(f"process 1 cannot be examined: {error.strerror}") from error
        raise WorkloadAttestationError("systemd is not process 1 of our PID and cgroup namespaces")


@contextlib.asynccontextmanager
async def _connected(address: str) -> AsyncIterator[MessageBus]:
    bus = await MessageBus(address).connect()
    try:
        yield bus
    finally:
        bus.disconnect()
        await bus.wait_for_disconnect()  # type: ignore[no-untyped-call]


async def _call(bus: MessageBus, path: str, interface: str, member: str, *arguments: str) -> str:
    """Call a method of systemd that returns one string, object path, or variant of a string.

    Raises:
        WorkloadAttestationError: It returns an error or something else.
    """
    message = Message(
        destination=SYSTEMD,
        path=path,
        interface=interface,
        member=member,
        signature="s" * len(arguments),
        body=list(arguments),
    )
    reply = await bus.call(message)
    if reply.message_type is not MessageType.METHOD_RETURN:
        raise WorkloadAttestationError(f"systemd refuses {member}: {str(reply.error_name)[:100]}")
    match reply.body:
        case [str(value)] | [Variant(value=str(value))]:
            return value
        case _:
            raise WorkloadAttestationError(f"systemd answers {member} with {reply.signature[:20]!r}")


def create(config: Config) -> SystemdAttestor:
    """Make the attestor of a configuration table."""
    return SystemdAttestor(config)

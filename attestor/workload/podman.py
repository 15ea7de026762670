# SPDX-License-Identifier: Apache-2.0
"""Containers of podman: root's by the word of root's engine, and a user's by the word of that user's own.

A user's engine says whatever its user wants. So what it says is stated as that user's word: the selectors
of a rootless container all start with ``podman:user:UID:``, and never match an entry that means root's.
"""

import fcntl
import os
import re
import struct
from pathlib import Path
from typing import Final

import msgspec

from attestor.errors import WorkloadAttestationError
from attestor.peer import Process
from attestor.workload.cgroups import Container
from attestor.workload.containers import ContainerAttestor, Inspected
from attestor.workload.engine import Engine
from attestor.workload.engine_api import EngineApi
from spiffekit.daemon.clock import SystemClock
from spiffekit.daemon.config import ConfigError

TYPE: Final = "podman"
SEGMENT: Final = re.compile(r"libpod-(?:payload-)?([0-9a-f]{64})(?:\.scope)?")
MAX_NAMESPACES: Final = 33  # the kernel nests user namespaces 32 deep
_SLICE: Final = re.compile(r"/user\.slice/user-([1-9][0-9]{0,9})\.slice/.*", re.DOTALL)
_NS_GET_PARENT: Final = 0xB702  # ioctl_ns(2)
_NS_GET_OWNER_UID: Final = 0xB704


class Config(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """``[workload_attestor.podman]``.

    Attributes:
        socket_path: The socket of root's engine.
        rootless_socket_path: The socket of a user's engine, with `{uid}` in it; "" for none.
        environment: The environment variables that `podman:env` states, by name; "*" is all. Everybody who
            may read the evidence of an issuance sees their values.
    """

    socket_path: Path = Path("/run/podman/podman.sock")
    rootless_socket_path: str = "/run/user/{uid}/podman/podman.sock"
    environment: tuple[str, ...] = ()


class Podman:
    """Root's engine, and the users' engines."""

    def __init__(self, config: Config) -> None:
        self._config = config
        self._environment = frozenset(config.environment)
        self._root = Engine(EngineApi(config.socket_path), kind=TYPE, environment=self._environment)

    async def inspect(self, process: Process, container: Container) -> Inspected | None:
        """Ask the engine that owns the place where the container is.

        Raises:
            WorkloadAttestationError: The engine cannot be asked, answers with nonsense, or is another user's.
        """
        uid = _user(container)
        if uid is None:
            return await self._root.inspect(container.id)
        if not self._config.rootless_socket_path:
            return None
        if not _owned(process, uid):
            raise WorkloadAttestationError(f"process in user {uid}'s slice is in no namespace of that user")
        path = Path(self._config.rootless_socket_path.replace("{uid}", str(uid)))
        engine = Engine(
            EngineApi(path, owner=uid), kind=TYPE, prefix=f"user:{uid}:", environment=self._environment
        )
        return await engine.inspect(container.id)


def _user(container: Container) -> int | None:
    """Return the user in whose slice the container is; None for root's own."""
    users = {match and int(match[1]) for match in (_SLICE.fullmatch(path) for _, path in container.paths)}
    if len(users) > 1:
        raise WorkloadAttestationError("cgroup hierarchies name different users")
    return users.pop()


def _owned(process: Process, uid: int) -> bool:
    """Tell whether the process's user namespace, or one above it, was made by the user.

    The process itself may run as any user that was mapped into it.
    """
    try:
        namespace = os.open(process.proc / "ns" / "user", os.O_RDONLY | os.O_CLOEXEC)
    except OSError as error:
        raise WorkloadAttestationError(f"user namespace cannot be read: {error.strerror}") from error
    try:
        for _ in range(MAX_NAMESPACES):
            if struct.unpack("I", fcntl.ioctl(namespace, _NS_GET_OWNER_UID, bytes(4)))[0] == uid:
                return True
            above = fcntl.ioctl(namespace, _NS_GET_PARENT)
            os.close(namespace)
            namespace = above
    except PermissionError:
        return False  # the next one is ours, or above ours
    finally:
        os.close(namespace)
    return False


def create(config: Config) -> ContainerAttestor:
    """Make the attestor of a configuration table.

    Raises:
        ConfigError: `rootless_socket_path` names the same socket for every user.
    """
    if config.rootless_socket_path and "{uid}" not in config.rootless_socket_path:
        raise ConfigError("rootless_socket_path: has no {uid}")
    return ContainerAttestor(TYPE, SEGMENT, Podman(config).inspect, SystemClock())

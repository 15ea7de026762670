# SPDX-License-Identifier: Apache-2.0
"""Containers of podman: root's by the word of root's engine, and a user's by the word of that user's own.

A user's engine says whatever its user wants. So what it says is stated as that user's word: the selectors
of a rootless container all start with ``podman:user:UID:``, and never match an entry that means root's.
"""

import re
from dataclasses import replace
from pathlib import Path
from typing import Final

import msgspec

from attestor.errors import WorkloadAttestationError
from attestor.workload import image_signatures
from attestor.workload.cgroups import Container
from attestor.workload.containers import ContainerAttestor, Inspected
from attestor.workload.engine import Engine
from attestor.workload.engine_api import EngineApi
from spiffekit.daemon.clock import SystemClock
from spiffekit.daemon.config import ConfigError

TYPE: Final = "podman"
SEGMENT: Final = re.compile(r"libpod-(?:payload-)?([0-9a-f]{64})(?:\.scope)?")
_SLICE: Final = re.compile(r"/user\.slice/user-([1-9][0-9]{0,9})\.slice/.*", re.DOTALL)


class Config(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """``[workload_attestor.podman]``.

    Attributes:
        socket_path: The socket of root's engine.
        rootless_socket_path: The socket of a user's engine, with `{uid}` in it; "" for none.
        environment: The environment variables that `podman:env` states, by name; "*" is all. Everybody who
            may read the evidence of an issuance sees their values.
        signatures: Who may sign images of root's engine: a table of its own, see
            [image signatures](image-signatures.md).
    """

    socket_path: Path = Path("/run/podman/podman.sock")
    rootless_socket_path: str = "/run/user/{uid}/podman/podman.sock"
    environment: tuple[str, ...] = ()
    signatures: image_signatures.Config | None = None


class Podman:
    """Root's engine, and the users' engines."""

    def __init__(self, config: Config) -> None:
        self._config = config
        self._environment = frozenset(config.environment)
        # Root's only: a user's own engine could name the digest of any image.
        self._root = Engine(
            EngineApi(config.socket_path),
            kind=TYPE,
            environment=self._environment,
            signatures=image_signatures.create(config.signatures),
        )

    async def inspect(self, container: Container) -> Inspected | None:
        """Ask the engine that owns the place where the container is.

        Raises:
            WorkloadAttestationError: The engine cannot be asked, answers with nonsense, or is another user's.
        """
        uid = _user(container)
        if uid is None:
            return await self._root.inspect(container.id)
        if not self._config.rootless_socket_path:
            return None
        path = Path(self._config.rootless_socket_path.replace("{uid}", str(uid)))
        engine = Engine(
            EngineApi(path, owner=uid), kind=TYPE, prefix=f"user:{uid}:", environment=self._environment
        )
        inspected = await engine.inspect(container.id)
        return inspected and replace(inspected, owner=uid)


def _user(container: Container) -> int | None:
    """Return the user in whose slice the container is; None for root's own."""
    users = {match and int(match[1]) for match in (_SLICE.fullmatch(path) for _, path in container.paths)}
    if len(users) > 1:
        raise WorkloadAttestationError("cgroup hierarchies name different users")
    return users.pop()


def create(config: Config) -> ContainerAttestor:
    """Make the attestor of a configuration table.

    Raises:
        ConfigError: `rootless_socket_path` names the same socket for every user, or image signatures cannot
            be verified as it says.
    """
    if config.rootless_socket_path and "{uid}" not in config.rootless_socket_path:
        raise ConfigError("rootless_socket_path: has no {uid}")
    return ContainerAttestor(TYPE, SEGMENT, Podman(config).inspect, SystemClock())

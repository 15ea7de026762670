# SPDX-License-Identifier: Apache-2.0
"""Containers of Docker, by the word of its engine."""

import re
from pathlib import Path
from typing import Final

import msgspec

from attestor.workload import image_signatures
from attestor.workload.cgroups import Container
from attestor.workload.containers import ContainerAttestor, Inspected
from attestor.workload.engine import Engine
from attestor.workload.engine_api import EngineApi
from spiffekit.daemon.clock import SystemClock

TYPE: Final = "docker"
SEGMENT: Final = re.compile(r"(?:docker-)?([0-9a-f]{64})(?:\.scope)?")


class Config(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """``[workload_attestor.docker]``.

    Attributes:
        socket_path: The engine's socket.
        environment: The environment variables that `docker:env` states, by name; "*" is all. Everybody who
            may read the evidence of an issuance sees their values.
        signatures: Who may sign images: a table of its own, see [image signatures](image-signatures.md).
    """

    socket_path: Path = Path("/run/docker.sock")
    environment: tuple[str, ...] = ()
    signatures: image_signatures.Config | None = None


def create(config: Config) -> ContainerAttestor:
    """Make the attestor of a configuration table.

    Raises:
        ConfigError: Image signatures cannot be verified as it says.
    """
    engine = Engine(
        EngineApi(config.socket_path),
        kind=TYPE,
        environment=frozenset(config.environment),
        signatures=image_signatures.create(config.signatures),
    )

    async def inspect(container: Container) -> Inspected | None:
        return await engine.inspect(container.id)

    return ContainerAttestor(TYPE, SEGMENT, inspect, SystemClock())

# SPDX-License-Identifier: Apache-2.0
"""Evidence: what an attestor saw of a workload, as it goes to the issuer and into the record of an issuance.

Selectors match entries; the facts behind them say which process, container and pod it was. Nothing in here
comes from the workload itself, but for selectors whose value starts with ``declared:``.
"""

from dataclasses import dataclass
from datetime import datetime
from typing import Final

from spiffekit.selector import Selector


@dataclass(frozen=True, slots=True, kw_only=True)
class ProcessFacts:
    """A process, by the kernel's word, in the attestor's PID namespace."""

    pid: int
    start_ticks: (
        int  # clock ticks from boot to its start: with `pid` it names the process until the next boot
    )
    uid: int
    gid: int
    executable: str = ""  # path as the kernel names it; empty for a deleted file
    device: int = 0  # of the executable's file
    inode: int = 0
    sha256: str = ""  # of the executable, lower-case hex; empty if it was not hashed


MAX_ANCESTORS: Final = 8  # recorded of one process: whoever starts processes in each other fills no record


@dataclass(frozen=True, slots=True, kw_only=True)
class AncestorFacts:
    """A process above another, in the attestor's PID namespace: for the record, not for a judgement."""

    pid: int
    start_ticks: int  # as in `ProcessFacts`
    uid: int  # effective
    executable: str = ""  # path as the kernel names it; empty for a deleted file, or an unwieldy name


@dataclass(frozen=True, slots=True, kw_only=True)
class ContainerFacts:
    """A container, by its engine's word."""

    engine: str  # the attestor that found it, e.g. "docker"
    id: str  # 64 lower-case hex digits
    name: str = ""
    image: str = ""  # as it was named when the container was made
    image_id: str = ""  # of its configuration, "sha256:…"
    image_digest: str = ""  # of its manifest, "sha256:…"; empty for an image that was never in a registry
    entered: bool = False  # the process was put into it (exec) and does not descend from its first process


@dataclass(frozen=True, slots=True, kw_only=True)
class PodFacts:
    """A Kubernetes pod, by its kubelet's or API server's word."""

    uid: str
    namespace: str
    name: str
    service_account: str
    node_name: str
    container: str = ""  # the container's name in the pod


@dataclass(frozen=True, slots=True, kw_only=True)
class Evidence:
    """Everything that an attestor knew of one process at one moment."""

    id: bytes  # 16 random bytes: each evidence counts once
    instance_uid: str  # of the process: 26 characters of a-z and 2-7
    collected_at: datetime
    selectors: frozenset[Selector]
    process: ProcessFacts
    ancestors: tuple[AncestorFacts, ...] = ()  # the parent first; ends at one that cannot be examined
    container: ContainerFacts | None = None
    pod: PodFacts | None = None

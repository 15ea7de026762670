# SPDX-License-Identifier: Apache-2.0
"""Which container, or container of which pod, a process is in, by the kernel's word: /proc/PID/cgroup.

Never by mountinfo, which a process with a user namespace of its own can write. What the file says is true
of where the process is, but not of who made that place: a user may name a cgroup of a delegated tree, or of
a container's, like somebody else's container. So

* the outermost segment that names a container counts, never one below it;
* a pod's path counts only at the root of the hierarchy, where only root makes cgroups;
* a container found here is a claim, until the engine's word for the container's first process puts that
  one into the same place: two `Container` of one container are equal.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from attestor.errors import WorkloadAttestationError

MAX_FILE: Final = 64 * 1024  # bytes: 13 hierarchies of paths of 4096 bytes; no more is ever read
_LINE: Final = re.compile(r"[0-9]+:([^:]*):(/.*)", re.DOTALL)
_ID: Final = r"([0-9a-f]{64})"

ANY: Final = re.compile(rf"(?:(?:[^/]*:)?[a-z]+(?:-(?!conmon)[a-z]+)*[-:])?{_ID}(?:\.scope)?")
"""A segment of whatever engine: ``ID``, ``docker-ID.scope``, ``cri-containerd-ID.scope``, ``libpod-ID``,
``kubepods-podUID.slice:cri-containerd:ID``. The monitor of a container (conmon) is not in it."""

_UID: Final = r"pod([0-9a-f]{8}(?:[-_]?[0-9a-f]{4}){3}[-_]?[0-9a-f]{12})"
_POD: Final = re.compile(
    rf"""/kubepods(?:/[a-z]+)?/{_UID}/(?:[a-z]+-(?!conmon))?{_ID}(?:/.*)?
    |/(?:[a-z0-9]+-)*kubepods\.slice(?:/[a-z0-9-]+\.slice)?/[a-z0-9-]+-{_UID}\.slice/
        [a-z]+(?:-(?!conmon)[a-z]+)*-{_ID}\.scope(?:/.*)?
    |/(?:[a-z0-9]+-)*kubepods(?:-[a-z]+)?-{_UID}\.slice:[a-z-]+:{_ID}(?:/.*)?""",
    re.VERBOSE | re.DOTALL,
)


@dataclass(frozen=True, slots=True)
class Container:
    """A container, and its cgroup in each hierarchy that has it; whatever is in it has an equal one."""

    id: str  # 64 lower-case hex digits
    paths: tuple[tuple[str, str], ...]  # controllers, "" for version 2, and path to the container's segment


@dataclass(frozen=True, slots=True)
class Pod:
    """A Kubernetes pod, and one of its containers or its sandbox."""

    uid: str  # as the API server writes it
    container_id: str  # 64 lower-case hex digits


def read(proc: Path) -> Mapping[str, str]:
    """Return the cgroup of a process in each hierarchy, by controllers.

    Args:
        proc: Its folder below /proc.

    Raises:
        WorkloadAttestationError: The file cannot be read, or is larger or other than what the kernel writes.
    """
    try:
        with (proc / "cgroup").open("rb") as file:
            text = file.read(MAX_FILE + 1)
    except OSError as error:
        raise WorkloadAttestationError(f"cgroup of process cannot be read: {error.strerror}") from error
    return parse(text)


def parse(text: bytes) -> Mapping[str, str]:
    """Return path by controllers of a cgroup file.

    Raises:
        WorkloadAttestationError: It is larger or other than what the kernel writes.
    """
    if len(text) > MAX_FILE:
        raise WorkloadAttestationError(f"cgroup of process is longer than {MAX_FILE} bytes")
    groups: dict[str, str] = {}
    # The kernel lets no cgroup have a line feed in its name; any other byte may be there.
    for line in text.decode("utf-8", "surrogateescape").removesuffix("\n").split("\n") if text else ():
        match = _LINE.fullmatch(line)
        if match is None or match[1] in groups:
            raise WorkloadAttestationError("cgroup of process has a line of another form")
        groups[match[1]] = match[2]
    return groups


def container(groups: Mapping[str, str], segment: re.Pattern[str] = ANY) -> Container | None:
    """Return the container that a process claims to be in; None if it claims none.

    Args:
        groups: What `read` returned.
        segment: What a segment that names a container looks like; its group 1 is the ID.

    Raises:
        WorkloadAttestationError: Hierarchies name different containers.
    """
    found: dict[str, str] = {}
    ids: set[str] = set()
    for controllers, path in groups.items():
        names = path.split("/")
        for index, name in enumerate(names):
            if match := segment.fullmatch(name):
                ids.add(match[1])
                found[controllers] = "/".join(names[: index + 1])
                break
    if len(ids) > 1:
        raise WorkloadAttestationError("cgroup hierarchies name different containers")
    return Container(ids.pop(), tuple(sorted(found.items()))) if ids else None


def pod(groups: Mapping[str, str], root: str = "") -> Pod | None:
    """Return the pod and container that a process is in; None if it is in none.

    Args:
        groups: What `read` returned.
        root: The kubelet's cgroup root, below which only root makes cgroups, e.g. "/kubelet"; "" is "/".

    Raises:
        WorkloadAttestationError: Hierarchies name different pods or containers.
    """
    found: set[Pod] = set()
    for path in groups.values():
        if path.startswith(root) and (match := _POD.fullmatch(path, len(root))):
            uid, container_id = (group for group in match.groups() if group is not None)
            found.add(Pod(uid.replace("_", "-"), container_id))
    if len(found) > 1:
        raise WorkloadAttestationError("cgroup hierarchies name different pods")
    return found.pop() if found else None

# SPDX-License-Identifier: Apache-2.0
"""Processes that are in pods, as a folder like /proc shows them."""

from dataclasses import dataclass
from pathlib import Path

from tests.fakes.kubernetes import container_id


@dataclass
class InPod:
    """What an attestor looks at of a process."""

    proc: Path

    @property
    def pid(self):
        return int(self.proc.name)


def cgroup_of(uid, identifier):
    return f"0::/kubepods.slice/kubepods-pod{uid.replace('-', '_')}.slice/cri-containerd-{identifier}.scope\n"


class Processes:
    """A folder like /proc."""

    def __init__(self, folder):
        self._folder = folder
        self._last = 4000

    def start(self, cgroup, *, parent=1, numbers=None):
        self._last += 1
        proc = self._folder / str(self._last)
        proc.mkdir()
        (proc / "cgroup").write_text(cgroup)
        numbers = numbers or [self._last, 1]
        (proc / "status").write_text(
            f"Name:\tapp\nPPid:\t{parent}\nNSpid:\t{chr(9).join(map(str, numbers))}\n"
        )
        return InPod(proc)

    def of(self, pod, container="app", **more):
        """A process in a container of a pod."""
        uid = pod["metadata"]["uid"]
        return self.start(cgroup_of(uid, container_id(f"{uid}/{container}")), **more)

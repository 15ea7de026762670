# SPDX-License-Identifier: Apache-2.0
"""A real dockerd, in a network namespace of its own and with all of its state in one folder."""

import contextlib
import shlex

from tests.engines.daemons import PURE_V2, ContainerEngine, daemon
from tests.engines.packages import need

PACKAGES = {"dockerd": "docker.io", "docker": "docker.io", "containerd": "containerd", "runc": "runc"}
OPTIONS = (
    "--bridge none --iptables=false --ip-forward=false --ip-masq=false --oom-score-adjust 0 --group root"
    " --exec-opt native.cgroupdriver=cgroupfs"
)


@contextlib.contextmanager
def running(folder, *, pure_v2=False):
    """A dockerd; with `pure_v2` it sees version 2 of the cgroups alone."""
    need(PACKAGES)
    socket = folder / "docker.sock"
    command = shlex.split(
        f"unshare -n {PURE_V2 if pure_v2 else ''} dockerd --host unix://{socket} --pidfile {folder}/pid"
        f" --data-root {folder}/data --exec-root {folder}/exec {OPTIONS}"
    )
    with daemon(command, socket=socket, log=folder / "log"):
        engine = ContainerEngine("docker", socket, ["docker", "--host", f"unix://{socket}"])
        try:
            yield engine
        finally:
            if left := engine("ps", "-aq").split():
                engine("rm", "-f", *left)

# SPDX-License-Identifier: Apache-2.0
"""A real podman of root, with its API at a socket and all of its state in one folder."""

import contextlib
import shlex
import shutil
import subprocess
import tempfile

from tests.engines.daemons import PURE_V2, ContainerEngine, daemon
from tests.engines.packages import need

PACKAGES = {"podman": "podman", "runc": "runc", "conmon": "conmon"}
CONTAINERS = """
[containers]
pids_limit = 0
default_ulimits = []
[engine]
events_logger = "file"
runtime = "{runtime}"
[network]
network_config_dir = "{folder}/net"
"""
STORAGE = """
[storage]
driver = "overlay"
graphroot = "{folder}/root"
runroot = "{short}"
"""


@contextlib.contextmanager
def running(folder, *, pure_v2=False):
    """A podman; with `pure_v2` it sees version 2 of the cgroups alone."""
    need(PACKAGES)
    (folder / "containers.conf").write_text(CONTAINERS.format(folder=folder, runtime="runc"))
    short = tempfile.mkdtemp(prefix="pm-")  # podman takes no more than 50 characters
    (folder / "storage.conf").write_text(STORAGE.format(folder=folder, short=short))
    (folder / "registries.conf").touch()
    environment = {
        "CONTAINERS_CONF": f"{folder}/containers.conf",
        "CONTAINERS_STORAGE_CONF": f"{folder}/storage.conf",
        "CONTAINERS_REGISTRIES_CONF": f"{folder}/registries.conf",
        "TMPDIR": str(folder),
    }
    socket = folder / "podman.sock"
    podman = f"podman --root {folder}/root --runroot {short} --tmpdir {folder}/tmp --cgroup-manager cgroupfs"
    service = shlex.split(f"{PURE_V2 if pure_v2 else ''} {podman} system service -t 0 unix://{socket}")
    with daemon(service, listens=socket.exists, log=folder / "log", environment=environment) as child:
        inside = f"nsenter -t {child.pid} -m" if pure_v2 else ""
        told = " ".join(f"{name}={value}" for name, value in environment.items())
        engine = ContainerEngine("podman", socket, shlex.split(f"{inside} env {told} {podman}"))
        try:
            yield engine
        finally:
            engine("rm", "-f", "-a", "-t", "0")
            shutil.rmtree(short, ignore_errors=True)
            # It mounts this on itself and may leave it so: then nobody can remove the folder.
            subprocess.run(["umount", "-l", folder / "root" / "overlay"], check=False, capture_output=True)

# SPDX-License-Identifier: Apache-2.0
"""A real dockerd, in a network namespace of its own and with all of its state in one folder."""

import contextlib
import shlex
import subprocess

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
    with daemon(command, listens=socket.exists, log=folder / "log") as child:
        engine = ContainerEngine("docker", socket, ["docker", "--host", f"unix://{socket}"])
        engine.daemon = child.pid
        try:
            yield engine
        finally:
            if left := engine("ps", "-aq").split():
                engine("rm", "-f", *left)


REGISTRY = """
version: 0.1
storage: {{filesystem: {{rootdirectory: {folder}/registry}}}}
http: {{addr: "127.0.0.1:{port}"}}
"""


@contextlib.contextmanager
def registry(engine, folder, port=5000):
    """A real registry on the loopback address of the dockerd's network namespace; yields its name."""
    need({"docker-registry": "docker-registry"})
    inside = ["nsenter", "-t", str(engine.daemon), "-n"]
    subprocess.run([*inside, "ip", "link", "set", "lo", "up"], check=True, timeout=10)
    (folder / "registry.yml").write_text(REGISTRY.format(folder=folder, port=port))
    command = [*inside, "docker-registry", "serve", folder / "registry.yml"]
    log = folder / "registry.log"
    with daemon(command, log=log, listens=lambda: "listening on" in log.read_text()):
        yield f"127.0.0.1:{port}"

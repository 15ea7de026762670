# SPDX-License-Identifier: Apache-2.0
"""A real rootless podman, of a user known in its mount namespace alone, in cgroups as logind makes them."""

import contextlib
import os
import shlex

from tests.attestor.workload.places import mount, remove
from tests.engines.daemons import USR, ContainerEngine, daemon
from tests.engines.packages import need
from tests.engines.podman import CONTAINERS, PACKAGES

UID = 100_000 + os.getpid()  # tests of several checkouts may run at once
MAPPED = 100_000_000  # the first of the users that it may map
SERVICE = f"/user.slice/user-{UID}.slice/user@{UID}.service"
STORAGE = '[storage]\ndriver = "vfs"\n'
LINES = {
    "passwd": "alice:x:{uid}:{uid}::{folder}/home:/bin/sh",
    "group": "alice:x:{uid}:",
    "subuid": f"alice:{MAPPED}:65536",
    "subgid": f"alice:{MAPPED}:65536",
}
# As root, and then as the user: what each of its programs starts with.
ENTER = """
set -e
if ! [ -d {folder}/etc ]; then
    mkdir {folder}/etc; umount -R /sys/fs/cgroup; mount -t cgroup2 none /sys/fs/cgroup
    for name in {names}; do
        touch /etc/$name; cat /etc/$name {folder}/$name >{folder}/etc/$name
        mount --bind {folder}/etc/$name /etc/$name
    done
    mkdir -p /sys/fs/cgroup{service}/init; chown -R {uid} /sys/fs/cgroup{service}
fi
echo $$ >/sys/fs/cgroup{service}/init/cgroup.procs
cd {folder}
exec setpriv --reuid {uid} --regid {uid} --clear-groups env -i PATH=$PATH HOME={folder}/home \
    XDG_RUNTIME_DIR={folder}/{uid} TMPDIR={folder}/home CONTAINERS_CONF={folder}/containers.conf \
    CONTAINERS_STORAGE_CONF={folder}/storage.conf CONTAINERS_REGISTRIES_CONF=/dev/null "$@"
"""


@contextlib.contextmanager
def running(folder):
    """A podman whose API is at folder/UID/podman.sock; every user may enter the folder."""
    need(PACKAGES | {"newuidmap": "uidmap", "crun": "crun"})
    named = {"folder": folder, "uid": UID}
    (folder / "containers.conf").write_text(CONTAINERS.format(folder=f"{folder}/home", runtime="crun"))
    (folder / "storage.conf").write_text(STORAGE)
    (folder / "enter").write_text(ENTER.format(names=" ".join(LINES), service=SERVICE, **named))
    for name, line in LINES.items():
        (folder / name).write_text(line.format(**named) + "\n")
    for name in ("home", str(UID)):
        (folder / name).mkdir()
        os.chown(folder / name, UID, UID)
    socket = folder / str(UID) / "podman.sock"
    enter = ["sh", str(folder / "enter"), "podman", "--cgroup-manager=cgroupfs"]
    service = shlex.split("unshare -m --propagation private")
    service += [*enter, "system", "service", "-t", "0", f"unix://{socket}"]
    with daemon(service, listens=socket.exists, log=folder / "log") as child:
        engine = ContainerEngine("podman", socket, ["nsenter", "-t", str(child.pid), "-m", *enter], [USR])
        try:
            yield engine
        finally:
            engine("rm", "-f", "-a", "-t", "0")
            engine("system", "migrate")  # ends the process that keeps its namespace
    (mount() / SERVICE[1:] / "cgroup.kill").write_text("1")  # podman leaves a part of its service running
    remove(f"{SERVICE}/init")

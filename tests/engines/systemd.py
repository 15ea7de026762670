# SPDX-License-Identifier: Apache-2.0
"""A real systemd with its bus: process 1 of namespaces of its own, on this machine's files, read-only."""

import contextlib
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

INIT = Path("/lib/systemd/systemd")
STARTS_WITHIN = 20  # seconds
# What would write to the machine, or needs a device: none of it starts.
MASKED = (
    "systemd-remount-fs systemd-tmpfiles-setup systemd-tmpfiles-setup-dev systemd-modules-load "
    "modprobe@ systemd-update-utmp systemd-journal-flush systemd-sysctl systemd-random-seed "
    "systemd-udevd systemd-udev-trigger kmod-static-nodes"
)
BOOT = r"""
set -e
mkdir "$FOLDER/root"; mount --rbind / "$FOLDER/root"; cd "$FOLDER/root"
mount -o remount,bind,ro .
for under in proc sys dev run; do if mountpoint -q $under; then umount -Rl $under; fi; done
mount -t proc proc proc; mount --bind proc/sys proc/sys; mount -o remount,bind,ro proc/sys
mount -t sysfs -o ro sysfs sys; mount -t cgroup2 cgroup2 sys/fs/cgroup
mount -t tmpfs -o mode=755 tmpfs dev
for name in null zero full random urandom tty; do
    mknod -m 666 dev/$name c $(stat -c '0x%t 0x%T' /dev/$name)
done
mkdir dev/pts dev/shm; mount -t devpts -o newinstance,ptmxmode=0666 devpts dev/pts; ln -s pts/ptmx dev/ptmx
for under in dev/shm run etc/systemd var/log var/tmp; do mount -t tmpfs tmpfs $under; done
mkdir -p etc/systemd/system
for unit in $MASKED; do ln -s /dev/null etc/systemd/system/$unit.service; done
printf '[Unit]\nRequires=dbus.socket\nAfter=dbus.socket\n' >etc/systemd/system/only-the-bus.target
printf '[Service]\nExecStart=/bin/sleep 600\n' >etc/systemd/system/web.service
ip link set lo up
pivot_root . mnt; umount -l mnt
exec env -i container=test PATH=/usr/sbin:/usr/bin:/sbin:/bin \
    /lib/systemd/systemd --log-target=console --show-status=0 --unit=only-the-bus.target
"""


class Systemd:
    """A running one; commands are run in its namespaces."""

    def __init__(self, pid):
        self.pid = pid

    def run(self, *command):
        return subprocess.run(
            ["nsenter", "-t", str(self.pid), "-m", "-p", "-u", "-i", "-n", "-C", *map(str, command)],
            capture_output=True,
            text=True,
            timeout=30,
        )

    def systemctl(self, *arguments):
        return self.run("systemctl", "--no-pager", *arguments)

    def python(self, program, *arguments):
        """Run a program of Python beside it, with our packages; return what it prints."""
        done = self.run("env", f"PYTHONPATH={os.getcwd()}", sys.executable, "-c", program, *arguments)
        assert done.returncode == 0, done.stderr
        return done.stdout

    def main_pid(self, unit):
        return int(self.systemctl("show", "-P", "MainPID", unit).stdout)


@contextlib.contextmanager
def running(folder):
    """A systemd whose bus answers, ended with everything that it started."""
    group = Path(_cgroup2(), f"systemd-test-{os.getpid()}")
    group.mkdir()
    join = f"echo $$ >{group}/cgroup.procs; exec unshare -mpuinCf --kill-child --propagation private sh -c"
    log = (folder / "log").open("wb")
    environment = os.environ | {"BOOT": BOOT, "FOLDER": str(folder), "MASKED": MASKED}
    child = subprocess.Popen(["sh", "-c", f'{join} "$BOOT"'], env=environment, stdout=log, stderr=log)
    try:
        yield _ready(child, folder / "log")
    finally:
        child.send_signal(signal.SIGKILL)
        child.wait(10)
        log.close()
        _remove(group)


def _ready(child, log):
    children = Path(f"/proc/{child.pid}/task/{child.pid}/children")
    deadline = time.monotonic() + STARTS_WITHIN
    while time.monotonic() < deadline and child.poll() is None:
        if pids := children.read_text().split():
            systemd = Systemd(int(pids[0]))
            if systemd.systemctl("is-active", "dbus.socket").stdout == "active\n":
                return systemd
        time.sleep(0.05)
    raise AssertionError(log.read_text(errors="replace")[-2000:])


def _remove(group):
    deadline = time.monotonic() + STARTS_WITHIN
    while (group / "cgroup.events").read_text().startswith("populated 1"):
        assert time.monotonic() < deadline
        time.sleep(0.01)
    for below, _, _ in os.walk(group, topdown=False):
        os.rmdir(below)


def _cgroup2():
    for line in Path("/proc/self/mounts").read_text().splitlines():
        if line.split()[2] == "cgroup2":
            return line.split()[1]
    return None


def _missing():
    if os.geteuid():
        return "needs root, for namespaces of its own"
    programs = [name for name in ("unshare", "nsenter", "dbus-daemon", "systemctl") if not shutil.which(name)]
    if programs or not INIT.exists():
        return f"needs systemd, dbus and util-linux; missing: {programs or INIT}"
    return None if _cgroup2() else "needs a mount of cgroup2"


@pytest.fixture(scope="module")
def systemd(tmp_path_factory):
    if reason := _missing():
        pytest.skip(reason)
    with running(tmp_path_factory.mktemp("systemd")) as one:
        yield one

# SPDX-License-Identifier: Apache-2.0
"""Real cgroups of any name, to put processes into; only root can make them."""

import contextlib
import os
import time
from pathlib import Path

import pytest


def mount():
    """Where version 2 of the cgroups is; the test is skipped where it cannot be written."""
    for line in Path("/proc/mounts").read_text().splitlines():
        _, path, kind, *_ = line.split()
        if kind == "cgroup2" and os.access(path, os.W_OK):
            return Path(path)
    pytest.skip("no cgroup2 that can be written; run as root")
    raise AssertionError


@contextlib.contextmanager
def cgroup(path, *pids):
    """Make a cgroup with these processes in it, and remove it once they have ended or left."""
    root = mount()
    place = root / path.lstrip("/")
    made = [p for p in (place, *place.parents) if p.is_relative_to(root) and not p.exists()]
    place.mkdir(parents=True, exist_ok=True)
    try:
        for pid in pids:
            enter(place, pid)
        yield place
    finally:
        for pid in (place / "cgroup.procs").read_text().split():
            (root / "cgroup.procs").write_text(pid)
        for folder in made:
            with contextlib.suppress(OSError):  # another test is in it
                folder.rmdir()


def enter(place, pid):
    """Put a process into a cgroup."""
    (place / "cgroup.procs").write_text(str(pid))


def remove(path):
    """Remove a cgroup, and those above that nothing else is in, wherever an engine made it."""
    roots = [root for root in (mount().parent, *mount().parent.iterdir(), mount()) if root.is_dir()]
    for root in roots:
        for place in (Path(path.lstrip("/")), *Path(path.lstrip("/")).parents[:-1]):
            deadline = time.monotonic() + 5
            while (root / place / "cgroup.procs").exists() and time.monotonic() < deadline:
                try:
                    (root / place).rmdir()
                except OSError:  # processes are still ending, or others are below
                    if any(child.is_dir() for child in (root / place).iterdir()):
                        break
                    time.sleep(0.01)

# SPDX-License-Identifier: Apache-2.0
"""Programs of the distribution: installed where root may, and otherwise a reason to skip."""

import fcntl
import os
import shutil
import subprocess
from pathlib import Path

import pytest

LOCK = Path("/run/lock/attestor-tests-apt")


def need(packages):
    """Have programs at hand; skip the test where that cannot be.

    Args:
        packages: The package of each program.
    """
    if os.geteuid():
        pytest.skip("needs root")
    if not _missing(packages):
        return
    if not shutil.which("apt-get"):
        pytest.skip(f"needs {_missing(packages)}, and has no apt-get")
    with LOCK.open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        # In runlevel 1, as Debian's scripts see it, a package starts no service.
        environment = os.environ | {"RUNLEVEL": "1", "DEBIAN_FRONTEND": "noninteractive"}
        wanted = sorted({packages[program] for program in _missing(packages)})
        for command in (["update", "-q"], ["install", "-y", "-q", "--no-install-recommends", *wanted]):
            subprocess.run(["apt-get", *command], env=environment, capture_output=True, timeout=300)
    if _missing(packages):
        pytest.skip(f"needs {_missing(packages)}, which apt-get does not install")


def _missing(packages):
    return [program for program in packages if not shutil.which(program)]

# SPDX-License-Identifier: Apache-2.0
"""Processes in user namespaces of any user; only root can make them."""

import contextlib
import subprocess
import sys
from pathlib import Path

from tests.attestor.workload.processes import held, running

NAMESPACE = """
import ctypes, os, sys
libc = ctypes.CDLL(None)
def unshare():
    assert libc.unshare(0x10000000) == 0
    print("made", flush=True)
    sys.stdin.readline()
def become(uid):
    os.setresgid(uid, uid, uid)
    os.setresuid(uid, uid, uid)
become(int(sys.argv[1]))
unshare()
if sys.argv[2] == "nested":
    become(1)
    unshare()
"""


@contextlib.contextmanager
def in_namespace(uid, *, nested=False):
    """A process in a user namespace that a user made; nested in it, another by one of its mapped users."""
    command = (sys.executable, "-c", NAMESPACE, str(uid), "nested" if nested else "plain")
    with running(*command, stdin=subprocess.PIPE) as child:
        assert child.stdout.readline() == "made\n"
        if nested:
            for kind in ("uid", "gid"):
                Path(f"/proc/{child.pid}/{kind}_map").write_text(f"0 {uid} 1\n1 700000 10\n")
            child.stdin.write("\n")
            child.stdin.flush()
            assert child.stdout.readline() == "made\n"
        with held(child.pid) as one:
            yield one

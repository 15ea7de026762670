# SPDX-License-Identifier: Apache-2.0
"""A process behind a connection: which one it is, that it lives, and what it executes."""

import os
import shutil
import subprocess
import sys
from dataclasses import FrozenInstanceError
from pathlib import Path

import pytest

from attestor.errors import PeerGoneError
from attestor.peer import Process
from spiffekit.daemon.peer import PeerProcess


@pytest.fixture
def child():
    """A process that runs until it is told to end."""
    with subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE) as process:
        yield process
        process.kill()


@pytest.fixture
def process(child):
    peer = PeerProcess.from_pid(child.pid)
    yield Process.of(peer)
    peer.close()


def end(child):
    child.kill()
    child.wait()


def test_a_process_is_known_by_its_number_and_folder(process, child):
    assert process.pid == child.pid
    assert process.proc == Path(f"/proc/{child.pid}")
    assert process.peer.uid == os.getuid()
    with pytest.raises(FrozenInstanceError):
        process.peer = None


def test_a_living_process_is_alive(process):
    process.require_alive()


def test_a_process_that_has_exited_is_gone(process, child):
    end(child)
    with pytest.raises(PeerGoneError, match=r"^caller has exited$"):
        process.require_alive()
    with pytest.raises(PeerGoneError, match=r"^caller's executable cannot be examined$"):
        process.executable()


def test_a_zombie_is_gone(process, child):
    child.stdin.close()  # its input ends, and so does it; nobody has waited for it yet
    os.waitid(os.P_PID, child.pid, os.WEXITED | os.WNOWAIT)
    with pytest.raises(PeerGoneError):
        process.require_alive()


def test_the_executable_is_the_file_that_runs(process):
    info = os.stat(Path(sys.executable).resolve())
    assert process.executable()[:3] == (info.st_dev, info.st_ino, info.st_size)
    assert process.executable() == process.executable()


def test_exec_changes_the_executable(tmp_path):
    """The process stays the same one, so its pidfd does not tell."""
    other = tmp_path / "other"
    shutil.copy2("/bin/sleep", other)
    script = f"import os; input(); os.execv({str(other)!r}, ['other', '60'])"
    with subprocess.Popen([sys.executable, "-c", script], stdin=subprocess.PIPE) as child:
        peer = PeerProcess.from_pid(child.pid)
        try:
            process = Process.of(peer)
            before = process.executable()
            child.stdin.write(b"\n")
            child.stdin.flush()
            while os.readlink(process.proc / "exe") != str(other):
                process.require_alive()
            assert process.executable() != before
            process.require_alive()
        finally:
            child.kill()
            peer.close()

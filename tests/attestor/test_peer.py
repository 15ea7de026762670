# SPDX-License-Identifier: Apache-2.0
"""A process behind a connection: which one it is, that it lives, and what it executes."""

import os
import shutil
import subprocess
import sys
import threading
from dataclasses import FrozenInstanceError
from pathlib import Path

import pytest

from attestor.errors import PeerGoneError
from attestor.peer import MAX_PATH, Process, ancestors
from spiffekit.daemon.peer import PeerProcess
from spiffekit.evidence import MAX_ANCESTORS, AncestorFacts


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


NESTED = """
import os, sys
for _ in range(int(sys.argv[1])):
    if os.fork():
        os.wait()
        os._exit(0)
print(os.getpid(), flush=True)
sys.stdin.read()
"""


@pytest.fixture
def nested():
    """Start a process below others that all run the same program; return its folder."""
    started = []

    def start(depth, executable=sys.executable):
        command = [str(executable), "-c", NESTED, str(depth)]
        environment = {**os.environ, "PYTHONHOME": sys.base_prefix}
        child = subprocess.Popen(command, stdin=-1, stdout=-1, text=True, env=environment)
        started.append(child)
        return child, Path("/proc", child.stdout.readline().strip())

    yield start
    for child in started:
        child.stdin.close()
        child.wait(5)
        child.stdout.close()


def test_who_is_above_a_process_is_told_from_its_parent_upwards(nested):
    child, proc = nested(2)
    first, second, *above = ancestors(proc)
    assert second.pid == child.pid
    assert first.uid == second.uid == os.geteuid()
    assert first.executable == second.executable == str(Path(sys.executable).resolve())
    assert above[0].pid == os.getpid()
    assert above[0].start_ticks <= second.start_ticks <= first.start_ticks
    assert len(above) == 1 or above[1].pid == os.getppid()


def test_so_many_are_told_and_no_more(nested):
    child, proc = nested(MAX_ANCESTORS)
    found = ancestors(proc)
    assert len(found) == MAX_ANCESTORS
    assert found[-1].pid == child.pid


def test_an_executable_that_was_deleted_or_has_an_unwieldy_name_is_left_out(nested, tmp_path):
    for name in ("deleted", "x\n", "y" * (MAX_PATH - 1)):
        program = tmp_path / name
        shutil.copy2(Path(sys.executable).resolve(), program)
        _, proc = nested(1, program)
        if name == "deleted":
            program.unlink()
        assert ancestors(proc)[0].executable == ""


class Tree:
    """A folder like /proc in which a process has a parent, which has none that we can see."""

    def __init__(self, folder):
        self.child, self.parent = folder / "20", folder / "10"
        for proc, above in ((self.child, 10), (self.parent, 0)):
            proc.mkdir()
            self.born(proc, above)
            (proc / "status").write_text("Name:\tx\nUid:\t1\t2\t3\t4\n")
            (proc / "exe").symlink_to("/bin/x")

    @staticmethod
    def born(proc, parent):
        (proc / "stat").write_text(f"1 (x) S {parent} " + "0 " * 17 + "77 0\n")


def test_one_that_cannot_be_examined_ends_the_list(tmp_path):
    tree = Tree(tmp_path)
    assert ancestors(tree.child) == (AncestorFacts(pid=10, start_ticks=77, uid=2, executable="/bin/x"),)
    (tree.parent / "status").write_text("Name:\tx\n")
    assert ancestors(tree.child) == ()
    (tree.parent / "stat").unlink()
    assert ancestors(tree.child) == ()


def test_whoever_has_the_number_of_a_parent_that_exited_is_no_ancestor(tmp_path):
    tree = Tree(tmp_path)
    status = tree.parent / "status"
    text = status.read_text()
    status.unlink()
    os.mkfifo(status)

    def exit_meanwhile():
        with status.open("w") as file:  # somebody reads the parent, which exits at this moment
            tree.born(tree.child, 1)
            file.write(text)

    thread = threading.Thread(target=exit_meanwhile)
    thread.start()
    assert ancestors(tree.child) == ()
    thread.join(5)

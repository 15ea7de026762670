# SPDX-License-Identifier: Apache-2.0
"""Who called is decided by the kernel at the moment of connecting; none of these gets another's identity."""

import array
import asyncio
import contextlib
import errno
import os
import shutil
import signal
import socket
import struct
import sys
from pathlib import Path

import pytest

from attestor.errors import PeerGoneError, WorkloadAttestationError
from attestor.workload import Configured
from attestor.workload.examination import Examiner
from attestor.workload.unix import Config, UnixAttestor
from spiffekit.daemon.clock import SystemClock
from spiffekit.daemon.peer import OVERFLOW_ID, SO_PEERPIDFD, PeerProcess, PeerUnknownError
from tests.attacks.processes import CONNECT, SLEEP, WAIT

UNIX = UnixAttestor(Config(discover_workload_path=True))
PYTHON = Path(sys.executable).resolve()


@pytest.fixture
def call(children, listening):
    """Starts a child that connects; yields it, the connection and the process as the listener sees it."""
    with contextlib.ExitStack() as stack:

        def start(script, *arguments, **options):
            child = children(script, listening.path, *arguments, **options)
            return child, *stack.enter_context(listening.accepted())

        yield start


async def examined(attestor, process):
    """What is true of a process, or why it cannot be told."""
    examiner = Examiner([Configured(attestor)], SystemClock())
    return (await examiner.examine(process, lambda *_: True)).selectors


def strings(selectors):
    return {str(selector) for selector in selectors}


async def test_a_caller_that_lives_is_attested_as_itself(call):
    child, _, process = call(WAIT)
    assert process.pid == child.pid
    found = strings(await examined(UNIX, process))
    assert f"unix:uid:{os.geteuid()}" in found
    assert f"unix:path:{PYTHON}" in found


async def test_a_pid_that_is_used_again_is_not_the_caller(call, children):
    """The connecter exits, and another process gets its PID before the attestor looks."""
    child, _, process = call(CONNECT)
    child.wait()
    if (successor := take_pid(children, process.pid)) is not None:
        assert process.executable()  # somebody is there under that number
    with pytest.raises((PeerGoneError, WorkloadAttestationError)) as caught:
        await examined(UNIX, process)
    if successor is not None:
        assert caught.type is PeerGoneError


async def test_a_pid_that_is_used_again_before_the_call_is_accepted_is_not_the_caller(children, listening):
    child = children(CONNECT, listening.path)
    assert child.hear() == "connected"
    child.wait()
    take_pid(children, child.pid)
    with contextlib.ExitStack() as stack:
        try:
            _, process = stack.enter_context(listening.accepted())
        except PeerUnknownError:  # kernels differ in whether they give a process that has exited
            return
        with pytest.raises((PeerGoneError, WorkloadAttestationError)):
            await examined(UNIX, process)


def take_pid(children, pid):
    """Start a process of that PID, where we may say which one the kernel gives next."""
    last = Path("/proc/sys/kernel/ns_last_pid")
    for _ in range(20):
        try:
            last.write_text(str(pid - 1))
        except OSError:
            return None
        child = children(SLEEP)
        if child.pid == pid:
            return child
    return None


async def test_exec_of_another_binary_after_connecting_changes_what_is_attested(call):
    script = WAIT + 'connection.set_inheritable(True)\nos.execv("/bin/sleep", ["sleep", "60"])\n'
    child, _, process = call(script)
    before = process.executable()
    first = strings(await examined(UNIX, process))
    child.go_on()
    async with asyncio.timeout(5):
        while process.executable() == before:
            await asyncio.sleep(0.001)
    second = strings(await examined(UNIX, process))
    assert f"unix:path:{PYTHON}" in first - second
    assert f"unix:path:{Path('/bin/sleep').resolve()}" in second - first


async def test_a_binary_that_is_touched_is_another_executable(call, tmp_path):
    copy = tmp_path / "python"
    shutil.copy2(PYTHON, copy)
    _, _, process = call(WAIT, executable=copy)
    before = process.executable()
    os.utime(copy)
    assert process.executable() != before


PASS_ON = (
    CONNECT
    + """
import array
other = socket.socket(socket.AF_UNIX)
other.connect(sys.argv[2])
other.sendmsg([b"x"], [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", [connection.fileno()]))])
"""
)


async def test_a_socket_passed_on_is_still_of_the_one_that_connected(call, folder):
    """By SCM_RIGHTS to another process, after which the connecter exits."""
    aside = folder / f"aside-{os.urandom(4).hex()}.sock"
    with socket.socket(socket.AF_UNIX) as receiver:
        receiver.bind(str(aside))
        receiver.listen()
        receiver.settimeout(5)
        child, connection, process = call(PASS_ON, aside)
        heir, _ = receiver.accept()
        with heir:
            _, ancillary, _, _ = heir.recvmsg(1, socket.CMSG_SPACE(4))
    child.wait()
    (descriptor,) = array.array("i", ancillary[0][2])
    with socket.socket(fileno=descriptor) as inherited:
        inherited.send(b"who am I?")  # this process holds it now, and it works
        assert connection.recv(100) == b"who am I?"
        assert process.pid == child.pid != os.getpid()
        with pytest.raises((PeerGoneError, WorkloadAttestationError)):
            await examined(UNIX, process)


async def test_a_socket_inherited_by_a_child_is_still_of_the_parent(call):
    script = CONNECT + 'if os.fork():\n    os._exit(0)\nconnection.send(b"child")\nsys.stdin.readline()\n'
    parent, connection, process = call(script)
    parent.wait()
    assert connection.recv(100) == b"child"
    assert process.pid == parent.pid
    with pytest.raises((PeerGoneError, WorkloadAttestationError)):
        await examined(UNIX, process)


async def test_a_process_that_exits_during_attestation_gets_nothing(call):
    child, _, process = call(WAIT)

    class Slow:
        type = "slow"

        async def attest(self, process):
            found = await UNIX.attest(process)
            child.kill()
            return found

    with pytest.raises(PeerGoneError, match="caller has exited"):
        await examined(Slow(), process)


def test_a_stopped_process_is_not_a_dead_one(call):
    child, _, process = call(WAIT)
    child.signal(signal.SIGSTOP)
    process.require_alive()
    child.signal(signal.SIGCONT)


class Connection:
    """A socket whose kernel says what a test wants."""

    def __init__(self, pid, uid, gid, *, pidfd=None, error=errno.ENOPROTOOPT):
        self._credentials = struct.pack("iII", pid, uid, gid)
        self._pidfd = pidfd
        self._error = error

    def getsockopt(self, _level, option, _size):
        if option == socket.SO_PEERCRED:
            return self._credentials
        if option == SO_PEERPIDFD and self._pidfd is not None:
            return struct.pack("i", self._pidfd)
        raise OSError(self._error, os.strerror(self._error))


@pytest.mark.parametrize(
    ("pid", "uid", "gid"),
    [(0, 0, 0), (-1, 0, 0), (1, OVERFLOW_ID, 0), (1, 0, OVERFLOW_ID), (0, OVERFLOW_ID, OVERFLOW_ID)],
)
def test_a_peer_in_a_namespace_that_we_cannot_see_is_refused_and_leaves_no_descriptor(pid, uid, gid):
    reading, writing = os.pipe()
    os.close(writing)
    with pytest.raises(PeerUnknownError, match="in a PID or user namespace that we cannot see"):
        PeerProcess.from_socket(Connection(pid, uid, gid, pidfd=reading))
    with pytest.raises(OSError):
        os.close(reading)


def test_without_a_pidfd_from_the_kernel_the_process_is_opened_by_its_number(children):
    """Before Linux 6.5."""
    child = children(SLEEP)
    with contextlib.closing(PeerProcess.from_socket(Connection(child.pid, 0, 0))) as peer:
        assert peer.alive()
        child.kill()
        assert not peer.alive()


@pytest.mark.parametrize("error", [errno.ESRCH, errno.EINVAL, errno.EMFILE])
def test_a_caller_whose_process_the_kernel_cannot_give_is_not_looked_up_by_its_number(children, error):
    """It has exited before it was accepted, and its number belongs to another by now."""
    successor = children(SLEEP)
    with pytest.raises(PeerUnknownError, match="the kernel names no peer"):
        PeerProcess.from_socket(Connection(successor.pid, 0, 0, error=error))


def test_a_number_that_nobody_has_is_refused(children):
    child = children("")
    child.wait()
    with pytest.raises(PeerUnknownError, match="the kernel names no peer: No such process"):
        PeerProcess.from_socket(Connection(child.pid, 0, 0))


def test_what_is_no_unix_socket_names_no_peer():
    with socket.socket() as connection, pytest.raises(PeerUnknownError):
        PeerProcess.from_socket(connection)


@pytest.mark.skipif(os.geteuid() != 0, reason="takes another user")
def test_credentials_are_those_at_the_time_of_connecting(call):
    _, _, process = call("import os, socket\nos.setgid(4321); os.setuid(1234)\n" + WAIT)
    peer = process.peer
    assert (peer.uid, peer.gid) == (1234, 4321)

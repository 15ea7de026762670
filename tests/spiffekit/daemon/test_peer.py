# SPDX-License-Identifier: Apache-2.0
"""The process at the other end of a socket, by the kernel's word only."""

import errno
import os
import socket
import struct
import subprocess
import sys

import pytest

from spiffekit.daemon.peer import OVERFLOW_ID, SO_PEERPIDFD, PeerProcess, PeerUnknownError


@pytest.fixture
def child():
    """A process that runs until it is told to end."""
    with subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE) as process:
        yield process
        process.kill()


@pytest.fixture
def pair():
    one, other = socket.socketpair()
    with one, other:
        yield one


class Kernel:
    """A connection of which the kernel says something else."""

    def __init__(self, connection, credentials=None, pidfd_error=None):
        self.connection = connection
        self.credentials = credentials
        self.pidfd_error = pidfd_error

    def getsockopt(self, level, option, size):
        if option == SO_PEERPIDFD and self.pidfd_error:
            raise OSError(self.pidfd_error, os.strerror(self.pidfd_error))
        if option == socket.SO_PEERCRED and self.credentials:
            return struct.pack("iII", *self.credentials)
        return self.connection.getsockopt(level, option, size)


def opened():
    return len(os.listdir("/proc/self/fd"))


def test_a_peer_is_who_connected(pair):
    peer = PeerProcess.from_socket(pair)
    try:
        assert (peer.pid, peer.uid, peer.gid) == (os.getpid(), os.geteuid(), os.getegid())
        assert peer.alive()
    finally:
        peer.close()


def test_an_older_kernel_names_the_process_by_its_number(pair):
    peer = PeerProcess.from_socket(Kernel(pair, pidfd_error=errno.ENOPROTOOPT))
    try:
        assert peer.pid == os.getpid()
        assert peer.alive()
    finally:
        peer.close()


def test_a_peer_that_has_exited_is_unknown_even_if_another_has_its_number(pair):
    """Here somebody has: we ourselves live under the number that the kernel names."""
    before = opened()
    with pytest.raises(PeerUnknownError, match="the kernel names no peer: No such process"):
        PeerProcess.from_socket(Kernel(pair, pidfd_error=errno.ESRCH))
    assert opened() == before


@pytest.mark.parametrize("credentials", [(0, 0, 0), (-1, 0, 0), (1, OVERFLOW_ID, 0), (1, 0, OVERFLOW_ID)])
def test_a_peer_in_a_namespace_that_we_cannot_see_is_unknown(pair, credentials):
    before = opened()
    with pytest.raises(PeerUnknownError, match="namespace that we cannot see"):
        PeerProcess.from_socket(Kernel(pair, credentials))
    assert opened() == before


def test_what_is_no_unix_socket_has_no_peer():
    with socket.socket() as unconnected, pytest.raises(PeerUnknownError, match="names no"):
        PeerProcess.from_socket(unconnected)


def test_a_process_is_taken_by_its_number_until_it_exits(child):
    peer = PeerProcess.from_pid(child.pid)
    try:
        assert (peer.pid, peer.uid) == (child.pid, os.geteuid())
        assert peer.alive()
        child.kill()
        child.wait()
        assert not peer.alive()
    finally:
        peer.close()


@pytest.mark.parametrize("pid", [0, -1, 2**22 + 1, 2**31 - 1, 2**31, 2**64])
def test_a_number_of_no_process_is_unknown(pid):
    with pytest.raises(PeerUnknownError):
        PeerProcess.from_pid(pid)


def test_a_process_that_exits_while_it_is_taken_is_unknown_and_leaves_nothing(child, monkeypatch):
    """Or its successor's owner would be taken for its own."""
    real = os.pidfd_open

    def opened_too_late(pid):
        pidfd = real(pid)
        child.kill()
        child.wait()
        return pidfd

    monkeypatch.setattr(os, "pidfd_open", opened_too_late)
    before = opened()
    with pytest.raises(PeerUnknownError, match="no such process"):
        PeerProcess.from_pid(child.pid)
    assert opened() == before

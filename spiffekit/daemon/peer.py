# SPDX-License-Identifier: Apache-2.0
"""Which process is at the other end of a Unix socket, by the kernel's word.

Credentials and pidfd are those of the process that connected. They stay its own when the socket is
passed on or inherited, so a user of this has to ask `alive()` after whatever it learnt from the PID:
only then was it this process that it learnt about.
"""

import errno
import os
import select
import socket
import struct
from dataclasses import dataclass
from typing import Final, Self

SO_PEERPIDFD: Final = 77  # Linux >= 6.5, asm-generic/socket.h
OVERFLOW_ID: Final = 65534  # what the kernel says for an id that our user namespace cannot name


class PeerUnknownError(Exception):
    """The peer cannot be identified: it has exited, or lives where we cannot see it."""


@dataclass(frozen=True, slots=True)
class PeerProcess:
    """The process that connected. `pidfd` is ours to close, by `close()`."""

    pid: int
    uid: int
    gid: int
    pidfd: int

    @classmethod
    def from_socket(cls, connection: socket.socket) -> Self:
        """Read the peer of a connected Unix socket; call it once, right after `accept`.

        Raises:
            PeerUnknownError: The kernel names no process, user or group that we could judge.
        """
        try:
            credentials = connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, struct.calcsize("iII"))
            pid, uid, gid = struct.unpack("iII", credentials)
            pidfd = _peer_pidfd(connection, pid)
        except OSError as error:
            raise PeerUnknownError(f"the kernel names no peer: {error.strerror}") from error
        peer = cls(pid, uid, gid, pidfd)
        if pid <= 0 or OVERFLOW_ID in (uid, gid):
            peer.close()
            raise PeerUnknownError("the peer is in a PID or user namespace that we cannot see")
        return peer

    @classmethod
    def from_pid(cls, pid: int) -> Self:
        """Take a process by its number, as an operator names it; whoever has the number now is meant.

        Raises:
            PeerUnknownError: There is no such process.
        """
        if pid <= 0:
            raise PeerUnknownError("not a process number")
        try:
            pidfd = os.pidfd_open(pid)
        except (OSError, OverflowError) as error:
            raise PeerUnknownError("no such process") from error
        try:
            info = os.stat(f"/proc/{pid}")  # noqa: PTH116 - of the kernel's folder, no path of ours
        except OSError as error:
            os.close(pidfd)
            raise PeerUnknownError("no such process") from error
        return cls(pid, info.st_uid, info.st_gid, pidfd)

    def alive(self) -> bool:
        """Tell whether the process still runs; a pidfd becomes readable when it has exited."""
        poll = select.poll()
        poll.register(self.pidfd, select.POLLIN)
        return not poll.poll(0)

    def close(self) -> None:
        """Give the pidfd back. Once."""
        os.close(self.pidfd)


def _peer_pidfd(connection: socket.socket, pid: int) -> int:
    try:
        (pidfd,) = struct.unpack("i", connection.getsockopt(socket.SOL_SOCKET, SO_PEERPIDFD, 4))
    except OSError as error:
        if error.errno != errno.ENOPROTOOPT:
            raise  # it has exited, and its number may be another's by now
        # Before Linux 6.5 there is only the number. One that was given up between connect and accept, and
        # is another's already, cannot be told from the caller's.
        return os.pidfd_open(pid)
    return int(pidfd)

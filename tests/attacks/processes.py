# SPDX-License-Identifier: Apache-2.0
"""Processes that connect to a listening socket, as the fixtures `children` and `listening` give them."""

import contextlib
import os
import select
import socket
import subprocess
import sys

import pytest

from attestor.peer import Process
from spiffekit.daemon.peer import PeerProcess

CONNECT = """
import os, socket, sys
connection = socket.socket(socket.AF_UNIX)
connection.connect(sys.argv[1])
print("connected", flush=True)
"""
WAIT = CONNECT + "\nsys.stdin.readline()\n"
SLEEP = "import sys; sys.stdin.readline()"


class Child:
    """A process that says a line now and then, and goes on when told."""

    def __init__(self, script, *arguments, executable=sys.executable):
        self._process = subprocess.Popen(
            [str(executable), "-c", script, *map(str, arguments)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            bufsize=0,
            env={**os.environ, "PYTHONHOME": sys.base_prefix},
        )

    @property
    def pid(self):
        return self._process.pid

    def hear(self):
        assert select.select([self._process.stdout], [], [], 5)[0]
        return self._process.stdout.readline().decode().strip()

    def go_on(self):
        self._process.stdin.write(b"\n")

    def signal(self, number):
        self._process.send_signal(number)

    def wait(self):
        self._process.wait(5)

    def kill(self):
        self._process.kill()
        self._process.wait(5)

    def close(self):
        with contextlib.suppress(ProcessLookupError):
            self._process.kill()
        self._process.wait(5)
        self._process.stdin.close()
        self._process.stdout.close()


@pytest.fixture
def children():
    running = []

    def start(*arguments, **options):
        child = Child(*arguments, **options)
        running.append(child)
        return child

    yield start
    for child in running:
        child.close()


class Listening:
    def __init__(self, path, listener):
        self.path = path
        self._listener = listener

    @contextlib.contextmanager
    def accepted(self):
        """Yields a connection and the process that made it."""
        self._listener.settimeout(5)
        connection, _ = self._listener.accept()
        connection.settimeout(5)
        with connection, contextlib.closing(PeerProcess.from_socket(connection)) as peer:
            yield connection, Process.of(peer)


@pytest.fixture
def listening(folder):
    path = folder / f"peers-{os.urandom(4).hex()}.sock"
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(path))
        path.chmod(0o777)
        listener.listen()
        yield Listening(path, listener)

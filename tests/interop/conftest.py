# SPDX-License-Identifier: Apache-2.0
"""The official clients, in processes of their own."""

import contextlib
import json
import os
import queue
import shutil
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

HERE = Path(__file__).parent
WAIT = 15.0  # seconds for a line; the Go client backs off for whole seconds


class Client:
    """A client process that prints one JSON object a line."""

    def __init__(self, command, endpoint):
        self.process = subprocess.Popen(
            command,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            env={**os.environ, "SPIFFE_ENDPOINT_SOCKET": endpoint},
        )
        self._lines = queue.Queue()
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def _read(self):
        for line in self.process.stdout:
            self._lines.put(line)
        self._lines.put(None)

    def line(self, wait=WAIT):
        """The next object; an AssertionError when the process ended or nothing came in time."""
        line = self._lines.get(timeout=wait)
        assert line is not None, f"the client ended with {self.process.wait()}"
        return json.loads(line)

    def until(self, key, wait=WAIT):
        """The next object that has `key`."""
        while key not in (found := self.line(wait)):
            pass
        return found

    def connected(self):
        """Return when it has connected to the Workload API."""
        deadline = time.monotonic() + WAIT
        while not self.sockets():
            assert time.monotonic() < deadline
            time.sleep(0.01)

    def sockets(self):
        """The sockets that it has open, by their names in the kernel: a new connection is a new one."""
        found = set()
        for path in Path(f"/proc/{self.process.pid}/fd").iterdir():
            with contextlib.suppress(FileNotFoundError):  # closed meanwhile
                found.add(os.readlink(path))
        return {name for name in found if name.startswith("socket:")}

    def close(self):
        self.process.kill()
        self.process.wait()
        self._reader.join(5)
        self.process.stdout.close()


@pytest.fixture(scope="session")
def go_binary(tmp_path_factory):
    go = shutil.which("go")
    if go is None:
        pytest.skip("no Go toolchain on this machine")
    binary = tmp_path_factory.mktemp("go") / "workload"
    built = subprocess.run(
        [go, "build", "-o", str(binary), "."], cwd=HERE / "go", capture_output=True, text=True, timeout=300
    )
    assert built.returncode == 0, built.stderr
    return binary


@pytest.fixture
def start():
    """Start clients; all of them end with the test."""
    clients = []

    def begin(command, endpoint):
        clients.append(Client([str(part) for part in command], endpoint))
        return clients[-1]

    yield begin
    for client in clients:
        client.close()


@pytest.fixture
def go_client(start, go_binary):
    return lambda endpoint, *arguments, seconds=60: start([go_binary, seconds, *arguments], endpoint)


@pytest.fixture
def py_client(start):
    return lambda endpoint, *arguments: start([sys.executable, HERE / "py_spiffe.py", *arguments], endpoint)

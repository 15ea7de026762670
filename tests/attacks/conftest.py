# SPDX-License-Identifier: Apache-2.0
"""A victim in a process of its own, with what it may take."""

import contextlib
import os
import subprocess
import sys
import threading
import time

import psutil
import pytest

from tests.attacks.hostile import GoodClient
from tests.attacks.processes import children, listening

__all__ = ["children", "listening"]

MAX_GROWTH = 30 * 1024 * 1024  # bytes
MAX_P99 = 0.1  # seconds
LASTS = "1"  # seconds of an attack
ATTEMPTS = 5  # of what another load of the machine can only worsen


class Victim:
    def __init__(self, path, process):
        self.path = path
        self.process = psutil.Process(process.pid)

    @property
    def memory(self):
        return self.process.memory_info().rss

    @property
    def descriptors(self):
        return self.process.num_fds()

    @contextlib.contextmanager
    def beside(self):
        """Yields what becomes of a good client and of memory while the context lasts."""
        seen = Seen()
        stop = threading.Event()
        with GoodClient(self.path) as client:
            for _ in range(50):
                timed(client)
            before = self.memory

            def live():
                try:
                    while not stop.is_set():
                        seen.latencies.append(timed(client))
                        seen.growth = max(seen.growth, self.memory - before)
                        stop.wait(0.002)
                except BaseException as error:
                    seen.error = error

            thread = threading.Thread(target=live)
            thread.start()
            try:
                yield seen
            finally:
                stop.set()
                thread.join()
        seen.growth = max(seen.growth, self.memory - before)

    def endure(self, *arguments):
        """Runs a hostile program beside a good client; returns what it prints.

        Whatever else this machine does can only add latency, so that alone is measured again.
        """
        for attempt in range(ATTEMPTS):
            name, *rest = arguments
            with self.beside() as seen:
                answer = subprocess.run(
                    [sys.executable, "-m", "tests.attacks.hostile", str(self.path), name, LASTS, *rest],
                    capture_output=True,
                    text=True,
                    timeout=60,
                )
            assert answer.returncode == 0, answer.stderr
            seen.check(latency=attempt == ATTEMPTS - 1)
            if seen.p99 < MAX_P99:
                break
        return answer.stdout


def timed(client):
    start = time.perf_counter()
    assert client.call() == "0"
    return time.perf_counter() - start


class Seen:
    def __init__(self):
        self.latencies = []
        self.growth = 0
        self.error = None

    @property
    def p99(self):
        return sorted(self.latencies)[int(len(self.latencies) * 0.99)]

    def check(self, *, latency=True):
        assert self.error is None
        assert len(self.latencies) > 20
        assert self.growth < MAX_GROWTH
        if latency:
            assert self.p99 < MAX_P99


@pytest.fixture
def start_victim(tmp_path_factory, folder):
    running = []

    def start(*, descriptors=None):
        path = folder / f"{len(running)}-{time.monotonic_ns() % 10**9}.sock"

        limits = [] if descriptors is None else ["prlimit", f"--nofile={descriptors}:{descriptors}"]
        unmeasured = {name: value for name, value in os.environ.items() if not name.startswith("COVERAGE_")}
        process = subprocess.Popen(
            [*limits, sys.executable, "-m", "tests.attacks.victim", str(path)], env=unmeasured
        )
        running.append(process)
        deadline = time.monotonic() + 20
        while not path.exists():
            assert process.poll() is None
            assert time.monotonic() < deadline
            time.sleep(0.01)
        return Victim(path, process)

    yield start
    for process in running:
        process.kill()
        process.wait()


@pytest.fixture
def victim(start_victim):
    return start_victim()

# SPDX-License-Identifier: Apache-2.0
"""Real processes to be examined, ended with the test."""

import contextlib
import subprocess

from attestor.peer import Process
from spiffekit.daemon.peer import PeerProcess


@contextlib.contextmanager
def held(pid):
    """A process by its number, held by a pidfd."""
    peer = PeerProcess.from_pid(pid)
    try:
        yield Process.of(peer)
    finally:
        peer.close()


@contextlib.contextmanager
def running(*command, **options):
    """A new process, which runs until the test is done with it; its output can be read."""
    child = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, **options)
    try:
        yield child
    finally:
        child.kill()
        child.communicate(timeout=5)


@contextlib.contextmanager
def process(*command, **options):
    """The same, once it executes its program, ready to be examined."""
    with running(*command, **options) as child, held(child.pid) as one:
        yield one


def values(facts, kind):
    """The values of one kind of selector."""
    return {s.value.removeprefix(f"{kind}:") for s in facts.selectors if s.value.startswith(f"{kind}:")}

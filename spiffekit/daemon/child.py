# SPDX-License-Identifier: Apache-2.0
"""A program of somebody else's as a child of ours: the file that was judged runs, and ends when we do.

It gets no descriptor of ours but its own file, no variable of our environment, and a session of its own.
"""

import asyncio
import contextlib
import hashlib
import logging
import os
import signal
import stat
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Final

from spiffekit.daemon.limits import RateLimit, RateLimitedError
from spiffekit.daemon.peer import PeerProcess

logger = logging.getLogger(__name__)

MAX_PROGRAM: Final = 1024 * 1024 * 1024  # bytes
MAX_LINE: Final = 1024  # bytes of a line that are logged
LINES: Final = 20.0  # a second that are logged; what a child prints must not fill the disk
LINES_AT_ONCE: Final = 200.0
CHUNK: Final = 16 * 1024  # bytes that are read at once
PAUSE: Final = 0.01  # seconds between two chunks
KILLED_WITHIN: Final = 5.0  # seconds for the kernel to end a process
_ENVIRONMENT: Final = {
    "PATH": "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
    "LANG": "C.UTF-8",
}
_LEVELS: Final = {
    b"error": logging.ERROR,
    b"warn": logging.WARNING,
    b"debug": logging.DEBUG,
    b"trace": logging.DEBUG,
}
# Between fork and exec no Python may run in a process with threads. So another one asks the kernel to be
# killed with its parent, and becomes the program. A script is opened once more, by its interpreter.
_LAUNCH: Final = """
import ctypes, os, signal, sys
parent, fd = map(int, sys.argv[1:3])
ctypes.CDLL(None).prctl(1, signal.SIGKILL)
if os.getppid() != parent:
    os._exit(1)
os.set_inheritable(fd, os.pread(fd, 2, 0) == b"#!")
os.execve(fd, sys.argv[3:], os.environ)
"""


class ChildError(Exception):
    """A program may not run, cannot, or does not keep to what was agreed."""


@dataclass(frozen=True, slots=True)
class Program:
    """What is run.

    Attributes:
        path: The file; only root and we may be able to write it.
        sha256: Of its content, in lower-case hex.
        arguments: Those after its name.
        environment: All that it gets, besides `PATH` and `LANG`.
    """

    path: Path
    sha256: str
    arguments: tuple[str, ...] = ()
    environment: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Child:
    """A program that runs."""

    name: str
    process: PeerProcess
    stdout: asyncio.StreamReader

    async def ended(self) -> str:
        """Wait until it has ended, whoever else still has its pipes; return how, e.g. "signal 9"."""
        loop, pidfd = asyncio.get_running_loop(), os.dup(self.process.pidfd)
        event = asyncio.Event()
        loop.add_reader(pidfd, event.set)
        try:
            await event.wait()
        finally:
            loop.remove_reader(pidfd)
            os.close(pidfd)
        return _how(self.process.pid)


@contextlib.asynccontextmanager
async def running(program: Program, name: str) -> AsyncIterator[Child]:
    """Run a program, and log what it says on its standard error; at the end kill its process group.

    Args:
        program: The program.
        name: What it is called in the log.

    Raises:
        ChildError: It may not be run: it is not the file that it should be.
        OSError: It cannot be.
    """
    with await asyncio.to_thread(_judged, program) as file:
        started = _start(program, file)
    async with contextlib.AsyncExitStack() as stack:
        stack.push_async_callback(asyncio.to_thread, _end, started, name)
        process = PeerProcess.from_pid(started.pid)
        stack.callback(process.close)
        stdout, stderr = [await _reader(stack, pipe) for pipe in (started.stdout, started.stderr)]
        task = asyncio.create_task(Lines(name).read(stderr), name=f"log-{name}")
        stack.callback(task.cancel)
        yield Child(name, process, stdout)


def _judged(program: Program) -> IO[bytes]:
    """Open the file, and return it if it is the one that was meant."""
    file = os.fdopen(os.open(program.path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK), "rb")
    try:
        info = os.fstat(file.fileno())
        if not stat.S_ISREG(info.st_mode) or info.st_size > MAX_PROGRAM:
            raise ChildError(f"{program.path} is no file that could be run")
        if info.st_uid not in (0, os.geteuid()) or info.st_mode & (stat.S_IWGRP | stat.S_IWOTH):
            raise ChildError(f"{program.path} can be written by others than root and this user")
        found = hashlib.file_digest(file, "sha256").hexdigest()
        if found != program.sha256:
            raise ChildError(f"{program.path} has the SHA-256 {found}, not the configured one")
    except BaseException:
        file.close()
        raise
    return file


def _start(program: Program, file: IO[bytes]) -> "subprocess.Popen[bytes]":
    fd = file.fileno()
    command = [sys.executable, "-I", "-S", "-c", _LAUNCH, str(os.getpid()), str(fd), str(program.path)]
    return subprocess.Popen(
        [*command, *program.arguments],
        bufsize=0,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env={**_ENVIRONMENT, **program.environment},
        cwd="/",
        pass_fds=(fd,),
        start_new_session=True,
        umask=0o077,
    )


async def _reader(stack: contextlib.AsyncExitStack, pipe: IO[bytes] | None) -> asyncio.StreamReader:
    reader = asyncio.StreamReader(limit=CHUNK)
    transport, _ = await asyncio.get_running_loop().connect_read_pipe(
        lambda: asyncio.StreamReaderProtocol(reader), pipe
    )
    stack.callback(transport.close)
    return reader


def _how(pid: int) -> str:
    # Without taking it away: its number is not another's until then.
    info = os.waitid(os.P_PID, pid, os.WEXITED | os.WNOWAIT)
    assert info is not None  # noqa: S101 - it has ended
    return f"{'status' if info.si_code == os.CLD_EXITED else 'signal'} {info.si_status}"


def _end(started: "subprocess.Popen[bytes]", name: str) -> None:
    # Nobody has waited for it yet, so its number is its own still, and its group's.
    os.killpg(started.pid, signal.SIGKILL)
    try:
        started.wait(KILLED_WITHIN)
    except subprocess.TimeoutExpired:  # it waits for a device, say
        logger.exception("child cannot be killed", extra={"child": name, "pid": started.pid})


class Lines:
    """Logs what a child says, line by line, not too many of them, and none that is too long."""

    def __init__(self, name: str) -> None:
        self._name = name
        self._limit = RateLimit(LINES, LINES_AT_ONCE, monotonic=time.monotonic)
        self._begun = b""
        self._left_out = 0

    async def read(self, reader: asyncio.StreamReader) -> None:
        """Log all of it."""
        while chunk := await reader.read(CHUNK):
            await self.feed(chunk)
        await self.feed(b"\n")

    async def feed(self, chunk: bytes) -> None:
        """Log the lines that end here, then pause: a flood must not take the loop's time."""
        *lines, self._begun = (self._begun + chunk).split(b"\n")
        if len(self._begun) > MAX_LINE:
            lines.append(self._begun)
            self._begun = b""
        lines = [line for line in lines if line]
        for number, line in enumerate(lines):
            try:
                self._limit.spend(self._name)
            except RateLimitedError:
                self._left_out += len(lines) - number
                break
            self._log(line)
        await asyncio.sleep(PAUSE)

    def _log(self, line: bytes) -> None:
        extra: dict[str, object] = {"child": self._name, "line": line[:MAX_LINE].decode("utf-8", "replace")}
        if self._left_out:
            extra["lines_left_out"] = self._left_out
            self._left_out = 0
        # As hclog writes it, which programs made with go-plugin do.
        level = line.partition(b'"@level":"')[2].partition(b'"')[0]
        logger.log(_LEVELS.get(level, logging.INFO), "child says", extra=extra)

# SPDX-License-Identifier: Apache-2.0
"""Container engines as a test sees them: started in a folder, told to run containers, ended."""

import contextlib
import io
import os
import subprocess
import sys
import tarfile
import time
from pathlib import Path

from tests.attestor.workload.processes import held

STARTS_WITHIN = 20  # seconds
IMAGE = "localhost/attestor/web:1"
# In a private mount namespace, so that the machine's own mounts stay.
PURE_V2 = (
    "unshare -m --propagation private sh -c"
    " 'umount -R /sys/fs/cgroup && mount -t cgroup2 none /sys/fs/cgroup && exec \"$@\"' sh"
)
USR = Path("/usr")
# What a container needs to run the machine's programs, and ours.
PATHS = [
    USR,
    *(
        p
        for p in {Path(sys.prefix), Path(sys.base_prefix), Path(__file__).parents[2]}
        if USR not in p.parents
    ),
]


def image():
    """A root whose programs are the machine's own: /usr is mounted when a container runs."""
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode="w") as tar:
        for name in ("bin", "sbin", "lib", "lib64"):
            link = tarfile.TarInfo(name)
            link.type, link.linkname = tarfile.SYMTYPE, f"usr/{name}"
            tar.addfile(link)
        for name in ("usr", "etc", "proc", "sys", "dev", "tmp", "run"):
            folder = tarfile.TarInfo(name)
            folder.type, folder.mode = tarfile.DIRTYPE, 0o755
            tar.addfile(folder)
    return file.getvalue()


class ContainerEngine:
    """One that runs, and its command line."""

    def __init__(self, kind, socket, command, paths=PATHS):
        self.kind = kind
        self.socket = socket
        self._command = command
        self._mounts = [f"--volume={path}:{path}:ro" for path in paths]
        self("import", "-c", "LABEL from=image", "-", IMAGE, data=image())

    def __call__(self, *arguments, data=None, within=60):
        """Run a command of its line, and return what it prints."""
        done = subprocess.run(
            [*self._command, *map(str, arguments)], input=data, capture_output=True, timeout=within
        )
        assert done.returncode == 0, done.stderr.decode()
        return done.stdout.decode().strip()

    def run(self, *options, command=("sleep", "3600"), image=IMAGE, detached=True, **labels):
        """Run a container; return its ID, or what it prints if it is not detached."""
        mode = ["--detach", "--stop-signal=KILL"] if detached else ["--rm"]
        told = [f"--label={name}={value}" for name, value in labels.items()]
        return self("run", *mode, "--network=none", *self._mounts, *told, *options, image, *command)

    def pid(self, container):
        return int(self("inspect", "--format", "{{.State.Pid}}", container))

    @contextlib.contextmanager
    def running(self, *options, **labels):
        """A container and its first process, until the test is done with them."""
        container = self.run(*options, **labels)
        try:
            with held(self.pid(container)) as first:
                yield container, first
        finally:
            self("rm", "-f", container)


@contextlib.contextmanager
def daemon(command, *, listens, log, environment=None):
    """Run a daemon until the test is done with it; it listens when this yields."""
    with log.open("wb") as output:
        child = subprocess.Popen(
            command,
            stdout=output,
            stderr=output,
            env=os.environ | (environment or {}),
            start_new_session=True,
        )
    try:
        deadline = time.monotonic() + STARTS_WITHIN
        while not listens():
            assert time.monotonic() < deadline, log.read_text()[-2000:]
            assert child.poll() is None, log.read_text()[-2000:]
            time.sleep(0.02)
        yield child
    finally:
        child.terminate()
        try:
            child.wait(20)
        except subprocess.TimeoutExpired:
            child.kill()
            child.wait(5)

# SPDX-License-Identifier: Apache-2.0
"""Workload attestors that run as processes of their own: the fake plug-in, as a program on disk."""

import asyncio
import contextlib
import hashlib
import json
import sys
from pathlib import Path

from attestor.config import ExternalAttestorTable
from attestor.workload.external import ExternalAttestor
from spiffekit.daemon.clock import SystemClock
from spiffekit.id import TrustDomain
from tests.fakes import plugin

OURS = TrustDomain("example.org")


def program(folder, name="plugin"):
    """The fake plug-in as a script that can be executed."""
    path = folder / name
    path.write_text(f"#!{sys.executable}\n{Path(plugin.__file__).read_text()}")
    path.chmod(0o755)
    return path


def table(folder, *arguments, data="", path=None, **options):
    """How it is run; `data` is its configuration."""
    path = path or program(folder)
    if "plugin_checksum" not in options:
        options["plugin_checksum"] = hashlib.sha256(path.read_bytes()).hexdigest()
    text = data if isinstance(data, str) else json.dumps(data)
    return ExternalAttestorTable(plugin_cmd=path, plugin_args=arguments, plugin_data=text, **options)


def external(folder, *arguments, name="foo", **options):
    return ExternalAttestor(name, table(folder, *arguments, **options), OURS, SystemClock())


@contextlib.asynccontextmanager
async def running(folder, *arguments, **options):
    """The attestor, once its plug-in serves, or once the first try is over."""
    async with followed(external(folder, *arguments, **options)) as attestor:
        yield attestor


@contextlib.asynccontextmanager
async def followed(attestor):
    """An attestor that follows something all the time, while it does."""
    ready = asyncio.Event()
    task = asyncio.create_task(attestor.run(ready.set))
    try:
        await asyncio.wait_for(ready.wait(), 20)
        yield attestor
    finally:
        task.cancel()
        await asyncio.wait([task], timeout=20)
        assert task.cancelled()


def gone(pid):
    """A process that has ended; it may be a zombie, if its parent is not one to care."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z"
    except OSError:
        return True

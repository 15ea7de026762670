# SPDX-License-Identifier: Apache-2.0
"""A container engine that serves Docker's API for containers and images that a test tells it of.

`tests/contracts/test_engines.py` holds it against real ones. A hostile one answers with raw bytes.
"""

import asyncio
import contextlib
import json
import os
import secrets
import socket
from pathlib import Path

IMAGE_ID = "sha256:" + "1f" * 32
DIGEST = "sha256:" + "2e" * 32


class FakeEngine:
    """What it knows, and what it was asked."""

    def __init__(self):
        self.containers = {}
        self.images = {}
        self.requests = []
        self.raw = None  # what it answers instead, in pieces
        self.add_image(IMAGE_ID, [f"registry.example/web@{DIGEST}"])

    def add_image(self, image_id, digests):
        self.images[image_id] = {"Id": image_id, "RepoDigests": digests}

    def run(
        self, pid, *, name="web", image="registry.example/web:1", image_id=IMAGE_ID, labels=None, env=None
    ):
        """Know a container whose first process is `pid`, and return its ID."""
        container_id = secrets.token_hex(32)
        self.containers[container_id] = {
            "Id": container_id,
            "Name": f"/{name}",
            "Image": image_id,
            "State": {"Pid": pid, "Running": pid != 0},
            "Config": {"Image": image, "Labels": labels or {}, "Env": env or []},
        }
        return container_id

    def _find(self, target):
        match target.split("/"):
            case ["", "containers", container_id, "json"]:
                return self.containers.get(container_id)
            case ["", "images", image_id, "json"]:
                return self.images.get(image_id)
        return None

    async def _serve(self, reader, writer):
        with contextlib.suppress(ConnectionError, EOFError), contextlib.closing(writer):
            head = await reader.readuntil(b"\r\n\r\n")
            target = head.split(b" ")[1].decode()
            self.requests.append(target)
            if self.raw is not None:
                return await self._serve_raw(writer)
            found = self._find(target)
            body = json.dumps(found or {"message": "no such thing"}).encode()
            status = b"200 OK" if found else b"404 Not Found"
            writer.write(b"HTTP/1.1 %b\r\nContent-Type: application/json\r\n" % status)
            writer.write(b"Transfer-Encoding: chunked\r\n\r\n%x\r\n%b\r\n0\r\n\r\n" % (len(body), body))
            await writer.drain()
        return None

    async def _serve_raw(self, writer):
        for piece in self.raw:
            if piece is None:
                await asyncio.Event().wait()
            writer.write(piece)
            await writer.drain()

    @contextlib.asynccontextmanager
    async def serving(self, path, owner=None):
        """Listen at `path`, as another user if root says so."""
        tasks, writers = set(), set()

        def connected(reader, writer):
            writers.add(writer)
            tasks.add(asyncio.create_task(self._serve(reader, writer)))

        bound = socket.socket(socket.AF_UNIX)
        Path(path).unlink(missing_ok=True)
        bound.bind(str(path))
        with _as_user(owner):
            server = await asyncio.start_unix_server(connected, sock=bound)
        try:
            yield self
        finally:
            for _ in range(9):
                await asyncio.sleep(0)  # connections that were made get their tasks
            server.close()
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
            for writer in writers:
                writer.transport.abort()
            await asyncio.sleep(0)  # transports let their sockets go


@contextlib.contextmanager
def _as_user(uid):
    """Whoever listens is whom the kernel names to those who connect."""
    before = os.geteuid()
    os.seteuid(before if uid is None else uid)
    try:
        yield
    finally:
        os.seteuid(before)

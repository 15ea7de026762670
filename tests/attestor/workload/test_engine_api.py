# SPDX-License-Identifier: Apache-2.0
"""Requests to engines that answer, that hang, and that say anything."""

import asyncio
import os
import time

import pytest

from attestor.errors import WorkloadAttestationError
from attestor.workload import engine_api
from attestor.workload.engine_api import EngineApi
from tests.fakes.engine import FakeEngine

OK = b"HTTP/1.1 200 OK\r\n"


@pytest.fixture
def path(tmp_path):
    return tmp_path / "engine.sock"


async def ask(path, *pieces):
    engine = FakeEngine()
    engine.raw = pieces
    async with engine.serving(path):
        return await EngineApi(path).get("/x")


async def test_a_body_is_returned_however_it_is_framed(path):
    assert await ask(path, OK, b"Content-Length: 2\r\n\r\n{", b"}") == b"{}"
    assert await ask(path, OK + b"Transfer-Encoding: chunked\r\n\r\n1\r\n{\r\n1\r\n}\r\n0\r\n\r\n") == b"{}"
    assert await ask(path, OK + b"\r\n{}") == b"{}"
    assert await ask(path, b"HTTP/1.1 100 Continue\r\n\r\n" + OK + b"Content-Length: 2\r\n\r\n{}") == b"{}"


async def test_what_is_not_there_is_none(path):
    assert await ask(path, b"HTTP/1.1 404 Not Found\r\nContent-Length: 2\r\n\r\n{}") is None


GARBAGE = {
    "noise": b"\x00\xff" * 100,
    "another protocol": b"SSH-2.0-OpenSSH_9\r\n\r\n",
    "nothing": b"",
    "half a body": OK + b"Content-Length: 9\r\n\r\n{}",
    "half a chunk": OK + b"Transfer-Encoding: chunked\r\n\r\n9\r\n{}",
    "two lengths": OK + b"Content-Length: 2\r\nContent-Length: 3\r\n\r\n{}",
    "a negative length": OK + b"Content-Length: -1\r\n\r\n{}",
    "endless headers": OK + b"A: b\r\n" * 20_000,
    "an endless line": b"H" * 100_000,
    "another connection": b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: tcp\r\n\r\n",
}


@pytest.mark.parametrize("answer", GARBAGE.values(), ids=GARBAGE)
async def test_anything_else_is_refused_in_our_own_words(path, answer):
    with pytest.raises(WorkloadAttestationError, match=r"^engine at .*: (answer|connection|peer) "):
        await ask(path, answer)


@pytest.mark.parametrize("status", [b"200 OK", b"404 Not Found"])
@pytest.mark.parametrize("framing", [b"", b"Content-Length: 104857600\r\n"])
async def test_an_endless_body_is_not_read_to_its_end(path, status, framing):
    head = b"HTTP/1.1 " + status + b"\r\n" + framing + b"\r\n"
    with pytest.raises(WorkloadAttestationError, match="answer is longer than 1048576 bytes"):
        await ask(path, head, *[b" " * 2**20] * 100)


@pytest.mark.parametrize("status", [b"500 Internal Server Error", b"301 Moved", b"204 No Content"])
async def test_other_answers_are_refused(path, status):
    with pytest.raises(WorkloadAttestationError, match=f"answer has status {status[:3].decode()}"):
        await ask(path, b"HTTP/1.1 " + status + b"\r\nLocation: /y\r\n\r\n")


@pytest.mark.parametrize(
    "before", [(), (OK,), (OK + b"Content-Length: 2\r\n\r\n{",)], ids=["at once", "head", "body"]
)
async def test_an_engine_that_hangs_is_left(path, monkeypatch, before):
    monkeypatch.setattr(engine_api, "DEADLINE", 0.05)
    began = time.monotonic()
    with pytest.raises(WorkloadAttestationError, match=r"no answer within 0.05 s"):
        await ask(path, *before, None)
    assert time.monotonic() - began < 4


async def test_an_engine_that_is_not_there_is_named(path):
    with pytest.raises(
        WorkloadAttestationError, match=r"^engine at .*engine.sock cannot be asked: .*No such file"
    ):
        await EngineApi(path).get("/x")


async def test_a_socket_of_another_user_is_refused(path):
    engine = FakeEngine()
    engine.raw = [OK + b"\r\n{}"]
    async with engine.serving(path):
        assert await EngineApi(path, owner=os.getuid()).get("/x") == b"{}"
        with pytest.raises(WorkloadAttestationError, match=f"belongs to user {os.getuid()}, not 4711"):
            await EngineApi(path, owner=4711).get("/x")
        link = path.with_name("link")
        link.symlink_to(path)
        with pytest.raises(WorkloadAttestationError, match="belongs to user"):
            await EngineApi(link, owner=4711).get("/x")


async def test_no_more_than_some_requests_run_at_once(path):
    """A hanging engine holds as many connections as there are slots, and no more."""
    engine = FakeEngine()
    engine.raw = [None]
    async with engine.serving(path):
        api = EngineApi(path)
        asked = [asyncio.create_task(api.get("/x")) for _ in range(5 * engine_api.MAX_REQUESTS)]
        async with asyncio.timeout(5):
            while len(engine.requests) < engine_api.MAX_REQUESTS:
                await asyncio.wait(asked, timeout=0.01)
        await asyncio.wait(asked, timeout=0.05)
        assert len(engine.requests) == engine_api.MAX_REQUESTS
        for task in asked:
            task.cancel()
        await asyncio.gather(*asked, return_exceptions=True)

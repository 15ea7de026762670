# SPDX-License-Identifier: Apache-2.0
"""Health and metrics over HTTP, for probes of good will and others."""

import asyncio
import contextlib

import pytest
from prometheus_client import CollectorRegistry, Counter

from deploy.local import free_port
from spiffekit.daemon import http_server
from spiffekit.daemon.health import Health, serve


@pytest.fixture
def registry():
    registry = CollectorRegistry()
    Counter("calls", "Calls.", registry=registry).inc(3)
    return registry


@pytest.fixture
def state():
    return Health()


@pytest.fixture
async def port(registry, state):
    port, ready = free_port(), asyncio.Event()
    service = asyncio.create_task(serve("127.0.0.1", port, state, registry)(ready.set))
    await asyncio.wait_for(ready.wait(), 5)
    yield port
    service.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await service


async def ask(port, request):
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    try:
        writer.write(request)
        return (await asyncio.wait_for(reader.read(), 5)).decode()
    finally:
        writer.close()
        await writer.wait_closed()


async def get(port, path):
    answer = await ask(port, f"GET {path} HTTP/1.1\r\nHost: localhost\r\n\r\n".encode())
    head, body = answer.split("\r\n\r\n", 1)
    status, *fields = head.split("\r\n")
    fields = dict(field.split(": ", 1) for field in fields)
    assert int(fields["Content-Length"]) == len(body)
    assert fields["Connection"] == "close"
    return status.split(" ", 1)[1], body, fields["Content-Type"]


async def test_a_daemon_is_live_from_the_start(port):
    assert await get(port, "/live") == ("200 OK", "live\n", "text/plain; charset=utf-8")


async def test_a_daemon_is_ready_when_it_says_so_and_no_longer(port, state):
    assert (await get(port, "/ready"))[:2] == ("503 Service Unavailable", "not ready\n")
    state.ready = True
    assert (await get(port, "/ready"))[:2] == ("200 OK", "ready\n")
    state.ready = False
    assert (await get(port, "/ready"))[0] == "503 Service Unavailable"


async def test_metrics_are_in_the_format_of_prometheus(port):
    status, body, kind = await get(port, "/metrics")
    assert status == "200 OK"
    assert "calls_total 3.0\n" in body
    assert kind.startswith("text/plain; version=")


@pytest.mark.parametrize("path", ["/", "/live/", "/LIVE", "/../live", "/live?x=1", "//ready"])
async def test_there_is_nothing_else(port, path):
    assert (await get(port, path))[0] == "404 Not Found"


@pytest.mark.parametrize(
    "line", ["POST /live HTTP/1.1", "HEAD /live HTTP/1.1", "GET", "GET /live", "", "\0\1\2"]
)
async def test_only_get_is_answered(port, line):
    assert "405 Method Not Allowed" in await ask(port, f"{line}\r\n\r\n".encode())


@pytest.mark.parametrize("request_", [b"", b"GET /live HTTP/1.1\r\n", b"GET /" + b"x" * 20000 + b"\r\n\r\n"])
async def test_whoever_asks_badly_gets_nothing(port, request_):
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.write(request_)
    writer.write_eof()
    with contextlib.suppress(ConnectionResetError):
        assert await asyncio.wait_for(reader.read(), 5) == b""
    writer.close()
    with contextlib.suppress(ConnectionResetError, BrokenPipeError):
        await writer.wait_closed()
    assert (await get(port, "/live"))[0] == "200 OK"


async def test_a_silent_client_does_not_keep_its_connection(port, monkeypatch):
    monkeypatch.setattr(http_server, "REQUEST_WITHIN", 0.05)
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    assert await asyncio.wait_for(reader.read(), 5) == b""
    writer.close()
    await writer.wait_closed()


async def test_a_port_that_is_taken_stops_the_daemon(port, registry, state):
    with pytest.raises(OSError, match="address already in use"):
        await serve("127.0.0.1", port, state, registry)(lambda: None)

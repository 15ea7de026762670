# SPDX-License-Identifier: Apache-2.0
"""The small HTTP server, over TLS, and asked by too many. `test_health` has the rest."""

import asyncio
import contextlib
import ssl

from deploy.local import free_port
from spiffekit.daemon import http_server
from spiffekit.daemon.http_server import Reply, serve
from spiffekit.testing import TestCA
from spiffekit.wire import tls

CA = TestCA()


def context():
    made = tls.server_context(CA.issue("spiffe://example.org/web"), (), alpn=("http/1.1",))
    made.verify_mode = ssl.CERT_NONE
    return made


@contextlib.asynccontextmanager
async def serving(**options):
    port, ready = free_port(), asyncio.Event()
    service = asyncio.create_task(
        serve("127.0.0.1", port, lambda target: Reply(target.encode()), **options)(ready.set)
    )
    await asyncio.wait_for(ready.wait(), 5)
    yield port
    service.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await service


def client_context():
    made = ssl.create_default_context()
    made.check_hostname = False
    made.verify_mode = ssl.CERT_NONE
    return made


async def get(port, target=b"/x", *, secure=None):
    reader, writer = await asyncio.open_connection("127.0.0.1", port, ssl=secure)
    writer.write(b"GET " + target + b" HTTP/1.1\r\nHost: x\r\n\r\n")
    try:
        return await asyncio.wait_for(reader.read(), 5)
    finally:
        writer.close()


async def test_each_connection_has_the_certificate_of_its_moment():
    made = []

    def fresh():
        made.append(context())
        return made[-1]

    async with serving(context=fresh) as port:
        for count in (2, 3):  # the first one is that of the start
            assert (await get(port, secure=client_context())).endswith(b"\r\n\r\n/x")
            assert len(made) == count


async def test_who_does_not_speak_tls_gets_nothing():
    async with serving(context=context) as port:
        with contextlib.suppress(ConnectionResetError):
            assert b"HTTP" not in await get(port)
        assert (await get(port, secure=client_context())).endswith(b"/x")


async def test_what_is_no_text_is_not_found():
    async with serving() as port:
        assert (await get(port, "/é".encode())).startswith(b"HTTP/1.1 404 ")


async def first_answer(port, wanted):
    """Ask until the answer is as wanted: what others hold is let go of a moment later."""
    async with asyncio.timeout(10):
        while True:
            try:
                answer = await get(port)
            except ConnectionResetError:
                answer = b""
            if wanted(answer):
                return
            await asyncio.sleep(0.01)


async def test_no_more_connections_than_it_may_have(monkeypatch):
    monkeypatch.setattr(http_server, "MAX_CONNECTIONS", 1)
    async with serving() as port:
        _, writer = await asyncio.open_connection("127.0.0.1", port)
        await first_answer(port, lambda answer: answer == b"")
        writer.close()
        await writer.wait_closed()
        await first_answer(port, lambda answer: answer.endswith(b"/x"))

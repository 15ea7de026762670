# SPDX-License-Identifier: Apache-2.0
"""The small HTTP server, over TLS, and asked by too many. `test_health` has the rest."""

import asyncio
import contextlib
import ssl

import pytest

from deploy.local import free_port
from spiffekit.daemon import http_server
from spiffekit.daemon.http_server import Reply, Take, serve
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


async def echo(target, body):
    return Reply(f"{target} took {body.decode()}".encode())


async def post(port, *fields, body=b"hello", method=b"POST"):
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.write(b"\r\n".join([method + b" /p HTTP/1.1", b"Host: x", *fields, b"", b""]) + body)
    try:
        return await asyncio.wait_for(reader.read(), 5)
    finally:
        writer.close()


async def test_a_body_is_taken_where_bodies_are_wanted():
    async with serving(post=Take(echo, 5)) as port:
        assert (await post(port, b"content-LENGTH:  5")).endswith(b"\r\n\r\n/p took hello")
        assert (await post(port, b"Content-Length: 0", body=b"")).endswith(b"/p took ")
        assert (await get(port)).endswith(b"/x")
    async with serving() as port:
        assert (await post(port, b"Content-Length: 5")).startswith(b"HTTP/1.1 405 ")


REFUSED = {
    "no length": ([], 411),
    "two lengths": ([b"Content-Length: 5", b"Content-Length: 5"], 411),
    "a length that is none": ([b"Content-Length: five"], 411),
    "a negative length": ([b"Content-Length: -5"], 411),
    "a length and chunks": ([b"Content-Length: 5", b"Transfer-Encoding: chunked"], 411),
    "chunks": ([b"Transfer-Encoding: chunked"], 411),
    "too long": ([b"Content-Length: 6"], 413),
    "an endless number": ([b"Content-Length: " + b"9" * 1000], 411),
}


@pytest.mark.parametrize(("fields", "status"), REFUSED.values(), ids=REFUSED)
async def test_a_body_of_which_it_is_not_clear_how_long_it_is_is_refused(fields, status):
    async with serving(post=Take(echo, 5)) as port:
        assert (await post(port, *fields)).startswith(b"HTTP/1.1 %d " % status)


async def test_another_method_is_refused_and_a_body_that_stays_out_gets_nothing(monkeypatch):
    monkeypatch.setattr(http_server, "REQUEST_WITHIN", 0.2)
    async with serving(post=Take(echo, 5)) as port:
        assert (await post(port, b"Content-Length: 5", method=b"PUT")).startswith(b"HTTP/1.1 405 ")
        assert await post(port, b"Content-Length: 5", body=b"hel") == b""

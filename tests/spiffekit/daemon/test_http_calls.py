# SPDX-License-Identifier: Apache-2.0
"""Calls over HTTP and mutual TLS: many on a connection, whoever calls known by certificate, all bounded."""

import asyncio
import contextlib
import ssl

import pytest

from deploy.local import free_port
from spiffekit.daemon import http_calls, http_server
from spiffekit.daemon.http_calls import Response, serve
from spiffekit.daemon.http_server import Reply
from spiffekit.testing import TestCA
from spiffekit.wire import tls

CA = TestCA()
CLIENT = CA.issue("spiffe://example.org/client")
MAX_BODY = 100


@pytest.fixture(autouse=True)
def patient(monkeypatch):
    """A machine that is busy with other tests is no client that is too slow."""
    for module in (http_calls, http_server):
        monkeypatch.setattr(module, "REQUEST_WITHIN", 60.0)


def context():
    roots = [authority.certificate_der for authority in CA.bundle.x509_authorities]
    made = tls.server_context(CA.issue("spiffe://example.org/server"), roots, alpn=("http/1.1",))
    made.minimum_version = ssl.TLSVersion.TLSv1_3
    return made


async def echo(request):
    said = f"{request.method} {request.target} {request.header('x-a')} {bool(request.peer.chain_der)} "
    return Response(Reply(said.encode() + request.body), {"x-b": "c"}, close=request.target == "/last")


@contextlib.asynccontextmanager
async def serving(answer=echo):
    port, ready = free_port(), asyncio.Event()
    service = serve("127.0.0.1", port, answer, context=context, max_body=MAX_BODY)
    running = asyncio.create_task(service(ready.set))
    await asyncio.wait_for(ready.wait(), 10)
    yield port
    running.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await running


@contextlib.asynccontextmanager
async def connected(port, svid=CLIENT):
    roots = [authority.certificate_der for authority in CA.bundle.x509_authorities]
    reader, writer = await asyncio.open_connection(
        "127.0.0.1",
        port,
        ssl=tls.client_context(svid, roots, alpn=("http/1.1",)),
        server_hostname="x",
    )
    try:
        yield reader, writer
    finally:
        writer.transport.abort()


def post(body=b"", *fields, target=b"/x", version=b"1.1"):
    lines = [b"POST " + target + b" HTTP/" + version, b"Host: x", b"Content-Length: %d" % len(body), *fields]
    return b"\r\n".join([*lines, b"", b""]) + body


async def answer(reader):
    """The status and the body of the next answer."""
    async with asyncio.timeout(20):
        head = await reader.readuntil(b"\r\n\r\n")
        (length,) = (
            int(line.partition(b":")[2])
            for line in head.split(b"\r\n")
            if line.startswith(b"content-length:")
        )
        return int(head.split(b" ")[1]), await reader.readexactly(length)


async def ends(reader):
    async with asyncio.timeout(20):
        with contextlib.suppress(ConnectionError):
            return await reader.read() == b""
    return True


async def test_many_are_answered_on_one_connection_and_each_knows_who_asks():
    async with serving() as port, connected(port) as (reader, writer):
        for body in (b"one", b"", b"three"):
            writer.write(post(body, b"X-A: 1"))
            assert await answer(reader) == (200, b"POST /x 1 True " + body)


async def test_what_is_sent_ahead_is_answered_in_order():
    async with serving() as port, connected(port) as (reader, writer):
        writer.write(post(b"one") + post(b"two") + post(b"thr")[:-1])
        assert (await answer(reader))[1].endswith(b"one")
        assert (await answer(reader))[1].endswith(b"two")
        writer.write(b"e")
        assert (await answer(reader))[1].endswith(b"the")


async def test_a_body_may_come_in_chunks():
    async with serving() as port, connected(port) as (reader, writer):
        head = post(b"", b"Transfer-Encoding: chunked").replace(b"Content-Length: 0\r\n", b"")
        writer.write(head + b"3\r\none\r\n0\r\n\r\n")
        assert (await answer(reader))[1].endswith(b"one")


async def test_a_header_that_stands_twice_is_none():
    async with serving() as port, connected(port) as (reader, writer):
        writer.write(post(b"", b"X-A: 1", b"x-a: 1"))
        assert await answer(reader) == (200, b"POST /x None True ")


async def test_who_shows_no_certificate_is_known_by_none():
    async with serving() as port, connected(port, None) as (reader, writer):
        writer.write(post())
        assert await answer(reader) == (200, b"POST /x  False ")


@pytest.mark.parametrize(
    "request_",
    [post(target=b"/last"), post(b"", b"Connection: close"), post(version=b"1.0")],
    ids=["the server wants", "the client wants", "the version is old"],
)
async def test_a_connection_ends_when_either_side_wants(request_):
    async with serving() as port, connected(port) as (reader, writer):
        writer.write(request_)
        assert (await answer(reader))[0] == 200
        assert await ends(reader)


BAD = {
    "no HTTP": (b"hello\r\n\r\n", 400),
    "two lengths": (post(b"abc", b"Content-Length: 4"), 400),
    "a length that is none": (post().replace(b"Length: 0", b"Length: -1"), 400),
    "chunks that are none": (
        post(b"", b"Transfer-Encoding: chunked").replace(b"Content-Length: 0\r\n", b"") + b"zz\r\n",
        400,
    ),
    "another encoding": (post(b"", b"Transfer-Encoding: gzip"), 501),
    "a head without end": (b"POST /x HTTP/1.1\r\nX-A: " + b"a" * 2 * http_calls.MAX_HEAD, 431),
    "a body that is too long": (post(b"a" * (MAX_BODY + 1)), 413),
    "no host": (b"POST /x HTTP/1.1\r\nContent-Length: 0\r\n\r\n", 400),
}


@pytest.mark.parametrize(("sent", "status"), BAD.values(), ids=BAD)
async def test_what_cannot_be_read_is_refused_and_ends_the_connection(sent, status):
    async with serving() as port, connected(port) as (reader, writer):
        writer.write(sent)
        assert (await answer(reader))[0] == status
        assert await ends(reader)


async def test_a_client_that_leaves_is_no_failure(caplog):
    async with serving() as port:
        for sent in (b"", post(), post(b"abc")[:-1]):
            async with connected(port) as (reader, writer):
                writer.write(sent)
                writer.write_eof() if writer.can_write_eof() else writer.close()
                await ends(reader)
    assert not caplog.records


@pytest.mark.parametrize("sent", [b"", b"POST", post(b"abc")[:-1]], ids=["nothing", "a word", "half a body"])
async def test_who_does_not_go_on_is_cut_off(monkeypatch, sent):
    monkeypatch.setattr(http_calls, "REQUEST_WITHIN", 0.1)
    async with serving() as port, connected(port) as (reader, writer):
        writer.write(sent)
        assert await ends(reader)


async def test_who_has_asked_may_be_silent_for_longer_but_not_for_ever(monkeypatch):
    monkeypatch.setattr(http_calls, "IDLE", 0.1)
    async with serving() as port, connected(port) as (reader, writer):
        writer.write(post())
        assert (await answer(reader))[0] == 200
        assert await ends(reader)


async def until_let_in(port):
    """Ask until there is an answer: what others hold is let go of a moment later."""
    async with asyncio.timeout(20):
        while True:
            async with connected(port) as (reader, writer):
                writer.write(post())
                with contextlib.suppress(asyncio.IncompleteReadError, ConnectionError):
                    return await answer(reader)
            await asyncio.sleep(0.01)


async def test_an_address_has_its_share_of_connections(monkeypatch):
    monkeypatch.setattr(http_calls, "MAX_PER_ADDRESS", 2)
    async with serving() as port, connected(port) as (first, writer):
        writer.write(post())
        assert (await answer(first))[0] == 200
        async with connected(port) as (second, other):
            other.write(post())
            assert (await answer(second))[0] == 200
            async with connected(port) as (reader, _):
                assert await ends(reader)
        assert (await until_let_in(port))[0] == 200


async def test_there_are_not_more_connections_than_may_be(monkeypatch):
    monkeypatch.setattr(http_server, "MAX_CONNECTIONS", 1)
    async with serving() as port:
        async with connected(port) as (first, writer):
            writer.write(post())
            assert (await answer(first))[0] == 200
            async with connected(port) as (reader, _):
                assert await ends(reader)
        assert (await until_let_in(port))[0] == 200

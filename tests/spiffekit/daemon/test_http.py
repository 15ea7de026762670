# SPDX-License-Identifier: Apache-2.0
"""The small HTTP client, against peers that say anything."""

import asyncio
import contextlib

import pytest

from spiffekit.daemon.http import MAX_HEADERS, HttpError, Peer, request


@contextlib.asynccontextmanager
async def saying(answer, *, close=True):
    """A peer that says `answer` to whatever comes; yields it and what came."""
    heard, writers = [], []

    async def serve(reader, writer):
        writers.append(writer)
        heard.append(await reader.readuntil(b"\r\n\r\n"))
        for piece in [answer] if isinstance(answer, bytes) else answer:
            writer.write(piece)
            with contextlib.suppress(ConnectionError):
                await writer.drain()
        if close:
            writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    async with server:
        yield Peer("127.0.0.1", server.sockets[0].getsockname()[1]), heard
        for writer in writers:
            writer.transport.abort()
        await asyncio.sleep(0)


async def ask(peer, method="GET", **more):
    async with asyncio.timeout(5), request(peer, method, "/x?y=z", **more) as answer:
        return answer.status, await answer.body(1000)


@pytest.mark.parametrize(
    "answer",
    [
        b"HTTP/1.1 200 OK\r\ncontent-length: 5\r\n\r\nhello",
        b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n2\r\nhe\r\n3\r\nllo\r\n0\r\n\r\n",
        b"HTTP/1.0 200 OK\r\n\r\nhello",
        b"HTTP/1.1 103 Early Hints\r\n\r\nHTTP/1.1 200 OK\r\ncontent-length: 5\r\n\r\nhello",
    ],
    ids=["length", "chunks", "until closed", "hints first"],
)
async def test_a_body_is_read_however_it_is_sent(answer):
    async with saying(answer) as (peer, _):
        assert await ask(peer) == (200, b"hello")


async def test_what_is_asked_for_is_said_once():
    async with saying(b"HTTP/1.1 204 No Content\r\n\r\n") as (peer, heard):
        assert await ask(peer, "POST", headers={"x-a": "b"}, body=b"{}") == (204, b"")
    head = heard[0].decode()
    assert head.startswith("POST /x?y=z HTTP/1.1\r\n")
    for line in ("host: 127.0.0.1", "connection: close", "x-a: b", "content-length: 2"):
        assert f"\r\n{line}\r\n" in head.lower()


@pytest.mark.parametrize(
    "answer",
    [
        b"",
        b"SSH-2.0-OpenSSH\r\n\r\n",
        b"HTTP/1.1 200 OK\r\ncontent-length: 50\r\n\r\nhello",
        b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n5\r\nhel",
        b"HTTP/1.1 200 OK\r\ncontent-length: 5\r\ncontent-length: 6\r\n\r\nhello!",
        b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\nxyz\r\n",
        b"HTTP/1.1 200 OK\r\nx: " + b"a" * (4 * MAX_HEADERS),
    ],
    ids=["nothing", "ssh", "cut", "cut chunk", "two lengths", "no size", "huge header"],
)
async def test_what_is_not_http_or_is_cut_off_is_refused(answer):
    async with saying(answer) as (peer, _):
        with pytest.raises(HttpError):
            await ask(peer)


async def test_a_body_that_is_too_long_is_refused_before_its_end():
    async with saying([b"HTTP/1.1 200 OK\r\n\r\n", b"x" * 1001], close=False) as (peer, _):
        with pytest.raises(HttpError, match="longer than 1000 bytes"):
            await ask(peer)


async def test_pieces_come_as_they_are_sent():
    async with saying([b"HTTP/1.1 200 OK\r\n\r\n", b"one"], close=False) as (peer, _):
        async with asyncio.timeout(5), request(peer, "GET", "/") as answer:
            assert await anext(answer.pieces()) == b"one"


async def test_whoever_is_not_there_is_told():
    async with saying(b"") as (peer, _):
        pass
    with pytest.raises(HttpError, match=f"127.0.0.1:{peer.port} cannot be asked"):
        await ask(peer)


async def test_a_header_counts_if_it_stands_there_once():
    async with saying(b"HTTP/1.1 200 OK\r\nX-One: a b\r\nx-two: a\r\nX-Two: b\r\n\r\n") as (peer, _):
        async with asyncio.timeout(5), request(peer, "GET", "/") as answer:
            assert [answer.header(name) for name in ("x-one", "x-two", "x-three")] == ["a b", "", ""]


@pytest.mark.parametrize("header", ["a\r\nx: y", "a\n"])
async def test_a_header_cannot_be_smuggled_in(header):
    async with saying(b"") as (peer, heard):
        with pytest.raises(HttpError):
            await ask(peer, headers={"authorization": header})
        assert heard == []

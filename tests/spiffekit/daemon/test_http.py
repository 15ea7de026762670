# SPDX-License-Identifier: Apache-2.0
"""The small HTTP client, against peers that say anything."""

import asyncio
import contextlib
import os
import socket
import struct

import pytest

from spiffekit.daemon.http import MAX_HEADERS, HttpError, Peer, UnixPeer, request


@contextlib.asynccontextmanager
async def saying(answer, *, close=True, path=None):
    """A peer that says `answer` to whatever comes; yields it and what came. With a path, at a Unix socket."""
    heard, writers = [], []

    async def serve(reader, writer):
        writers.append(writer)
        try:
            heard.append(await reader.readuntil(b"\r\n\r\n"))
        except asyncio.IncompleteReadError as error:
            heard.append(error.partial)
        for piece in [answer] if isinstance(answer, bytes) else answer:
            writer.write(piece)
            with contextlib.suppress(ConnectionError):
                await writer.drain()
        if close:
            writer.close()

    if path is None:
        server = await asyncio.start_server(serve, "127.0.0.1", 0)
        peer = Peer("127.0.0.1", server.sockets[0].getsockname()[1])
    else:
        server, peer = await asyncio.start_unix_server(serve, path), UnixPeer(path)
    async with server:
        yield peer, heard
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
        b"HTTP/1.1 103 Early Hints\r\n\r\n",
        b"HTTP/1.1 101 Switching Protocols\r\n\r\nhello",
        b"SSH-2.0-OpenSSH\r\n\r\n",
        b"HTTP/1.1 200 OK\r\ncontent-length: 50\r\n\r\nhello",
        b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n5\r\nhel",
        b"HTTP/1.1 200 OK\r\ncontent-length: 5\r\ncontent-length: 6\r\n\r\nhello!",
        b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\nxyz\r\n",
        b"HTTP/1.1 200 OK\r\nx: " + b"a" * (4 * MAX_HEADERS),
    ],
    ids=[
        "nothing",
        "hints only",
        "switch",
        "ssh",
        "cut",
        "cut chunk",
        "two lengths",
        "no size",
        "huge header",
    ],
)
async def test_what_is_not_http_or_is_cut_off_is_refused(answer):
    async with saying(answer) as (peer, _):
        with pytest.raises(HttpError):
            await ask(peer)


async def test_a_connection_that_breaks_is_told_of():
    async def reset(reader, writer):
        await reader.readuntil(b"\r\n\r\n")
        connection = writer.get_extra_info("socket")
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        writer.transport.abort()

    async with await asyncio.start_server(reset, "127.0.0.1", 0) as server:
        with pytest.raises(HttpError, match="connection broke"):
            await ask(Peer("127.0.0.1", server.sockets[0].getsockname()[1]))


async def test_a_unix_socket_is_asked_only_if_its_owner_is_the_one_we_want(folder):
    path, uid = folder / "http.sock", os.geteuid()
    async with saying(b"HTTP/1.1 200 OK\r\ncontent-length: 5\r\n\r\nhello", path=path) as (peer, heard):
        assert await ask(peer) == await ask(UnixPeer(path, uid)) == (200, b"hello")
        with pytest.raises(HttpError, match=f"{path} belongs to user {uid}, not {uid + 1}"):
            await ask(UnixPeer(path, uid + 1))
        async with asyncio.timeout(5):
            while len(heard) < 3:
                await asyncio.sleep(0)
    assert heard[2] == b"", "whoever is not trusted is asked nothing"


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


async def test_a_unix_socket_that_is_not_there_is_told(folder):
    path = folder / "none.sock"
    with pytest.raises(HttpError, match=f"^{path} cannot be asked: .*No such file"):
        await ask(UnixPeer(path))


@pytest.mark.parametrize("header", ["a\r\nx: y", "a\n"])
async def test_a_header_cannot_be_smuggled_in(header):
    async with saying(b"") as (peer, heard):
        with pytest.raises(HttpError):
            await ask(peer, headers={"authorization": header})
        assert heard == []

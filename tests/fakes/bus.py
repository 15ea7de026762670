# SPDX-License-Identifier: Apache-2.0
"""A D-Bus peer that answers calls of systemd's as a test says."""

import asyncio
import contextlib
import io
import struct

from dbus_fast import Message, MessageType
from dbus_fast._private.unmarshaller import Unmarshaller


@contextlib.asynccontextmanager
async def bus(path, answer, *, ok=b"OK 0123456789abcdef0123456789abcdef\r\n"):
    """Serve at `path`; `answer(message)` returns a message, bytes, or None to be silent for ever.

    Yields the list of open connections.
    """
    connections = []

    async def serve(reader, writer):
        connections.append(writer)
        try:
            await reader.readuntil(b"\r\n")
            writer.write(ok)
            await reader.readuntil(b"BEGIN\r\n")
            while True:
                message = await _read(reader)
                reply = _hello(message) if message.member == "Hello" else answer(message)
                if isinstance(reply, Message):
                    reply.serial = message.serial
                    reply = bytes(reply._marshall(False))
                if reply is not None:
                    writer.write(reply)
                if reply == b"":
                    break
        except (asyncio.IncompleteReadError, ConnectionError):
            pass
        finally:
            connections.remove(writer)
            writer.close()

    server = await asyncio.start_unix_server(serve, path)
    try:
        yield connections
    finally:
        server.close()
        await asyncio.sleep(0)


def _hello(message):
    return Message.new_method_return(message, "s", [":1.1"])


async def _read(reader):
    header = await reader.readexactly(16)
    assert header[:1] == b"l"
    body, _, fields = struct.unpack("<III", header[4:])
    rest = await reader.readexactly(fields + -fields % 8 + body)
    message = Unmarshaller(io.BytesIO(header + rest)).unmarshall()
    assert message.message_type is MessageType.METHOD_CALL
    return message

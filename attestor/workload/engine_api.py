# SPDX-License-Identifier: Apache-2.0
"""GET from the API of a container engine: HTTP/1.1 over its Unix socket, one connection for each.

An engine may be broken, or a user's own. So time, size and the socket's owner are bounded here.
"""

import asyncio
import socket
import struct
from pathlib import Path
from typing import Final

import h11

from attestor.errors import WorkloadAttestationError

DEADLINE: Final = 4.0  # seconds from connecting to the last byte: an engine that hangs
MAX_HEAD: Final = 16 * 1024  # bytes of status line and headers
MAX_BODY: Final = 1024 * 1024  # bytes: an answer that fills our memory; one of a container is 10 to 50 KiB
MAX_REQUESTS: Final = 16  # at once: a thousand workloads that start together
_CHUNK: Final = 64 * 1024  # bytes


class EngineApi:
    """The API at one socket."""

    def __init__(self, path: Path, owner: int | None = None) -> None:
        """Name the socket.

        Args:
            path: Where it is.
            owner: The user that must have opened it; None: whoever may write there.
        """
        self._path = path
        self._owner = owner
        self._slots = asyncio.Semaphore(MAX_REQUESTS)

    async def get(self, target: str) -> bytes | None:
        """Return the body of the resource; None if there is none (404).

        Args:
            target: An absolute path, as it goes into the request line.

        Raises:
            WorkloadAttestationError: The engine does not answer, or with anything else than it should.
        """
        try:
            async with self._slots, asyncio.timeout(DEADLINE):
                return await self._get(target)
        except TimeoutError as error:
            raise self._error(f"does not answer within {DEADLINE:g} s") from error
        except OSError as error:
            raise self._error(f"cannot be reached: {error.strerror}") from error
        except h11.RemoteProtocolError as error:
            raise self._error("answers with something else than HTTP/1.1") from error

    async def _get(self, target: str) -> bytes | None:
        reader, writer = await asyncio.open_unix_connection(self._path)
        try:
            self._check_owner(writer.get_extra_info("socket"))
            http = h11.Connection(h11.CLIENT, max_incomplete_event_size=MAX_HEAD)
            headers = [("Host", "localhost"), ("Connection", "close")]
            writer.write(http.send(h11.Request(method="GET", target=target, headers=headers)) or b"")
            writer.write(http.send(h11.EndOfMessage()) or b"")
            return await self._answer(http, reader)
        finally:
            writer.transport.abort()

    async def _answer(self, http: h11.Connection, reader: asyncio.StreamReader) -> bytes | None:
        body, status = bytearray(), 0
        while True:
            match http.next_event():
                case h11.NEED_DATA:
                    http.receive_data(await reader.read(_CHUNK))
                case h11.Response(status_code=status):
                    if status not in {200, 404}:
                        raise self._error(f"answers with status {status}")
                case h11.Data(data=data):
                    body += data
                    if len(body) > MAX_BODY:
                        raise self._error(f"answers with more than {MAX_BODY} bytes")
                case h11.EndOfMessage():
                    return bytes(body) if status == 200 else None
                case _:
                    pass  # 1xx: the answer proper follows

    def _check_owner(self, connection: socket.socket) -> None:
        # A path in a user's folder may lead to another engine: this is who really listens.
        credentials = connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, struct.calcsize("iII"))
        _, uid, _ = struct.unpack("iII", credentials)
        if self._owner not in {None, uid}:
            raise self._error(f"belongs to user {uid}, not {self._owner}")

    def _error(self, what: str) -> WorkloadAttestationError:
        return WorkloadAttestationError(f"engine at {self._path} {what}")

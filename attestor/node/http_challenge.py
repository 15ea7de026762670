# SPDX-License-Identifier: Apache-2.0
"""HTTP challenge: this node answers at its own DNS name, with what the issuer told it to."""

import asyncio
import json
import re
import socket
from typing import Final

import h11
import msgspec

from attestor.errors import NodeAttestationError
from spiffekit.daemon.config import ConfigError

TIMEOUT: Final = 10  # seconds for a request; a client that sends nothing holds a connection
MAX_HEAD: Final = 8 * 1024  # bytes of a request
MAX_CONNECTIONS: Final = 32  # at once; anybody may connect
MAX_NONCE: Final = 62  # characters; issuers read 64 bytes, of which the line's end takes up to two
_AGENT: Final = re.compile(r"[a-zA-Z][a-zA-Z0-9-]{0,31}", re.ASCII)
_NONCE: Final = re.compile(rf"[a-zA-Z0-9_=-]{{1,{MAX_NONCE}}}", re.ASCII)


class Config(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """``[node_attestor.http_challenge]``.

    Attributes:
        port: The TCP port to listen on while the node proves itself; 0: any that is free.
        hostname: The name by which the issuer reaches this node; the machine's own if left out.
        agentname: Tells several agents behind one name apart.
        advertised_port: The port that the issuer has to use, if it is another than `port`.
        listen: The local address to listen on; all of them if left out.
    """

    port: int = 0
    hostname: str = ""
    agentname: str = "default"
    advertised_port: int = 0
    listen: str = ""


class HttpChallenge:
    """See the module. It listens from `payload` to `release`, and answers nothing before `respond`."""

    type = "http_challenge"

    def __init__(self, config: Config) -> None:
        self._config = config
        self._path = f"/.well-known/spiffe/nodeattestor/http_challenge/{config.agentname}/challenge".encode()
        self._server: asyncio.Server | None = None
        self._connections: set[asyncio.StreamWriter] = set()
        self._nonce = b""

    async def payload(self) -> bytes:
        """Listen, and say where.

        Raises:
            NodeAttestationError: The port is taken, or is not ours to take.
        """
        await self.release()
        try:
            listener = _listener(self._config.listen, self._config.port)
            self._server = await asyncio.start_server(self._serve, sock=listener)
        except OSError as error:
            raise NodeAttestationError(
                f"port {self._config.port} cannot be listened on: {error.strerror}"
            ) from error
        where = {
            "hostname": self._config.hostname or socket.gethostname(),
            "agentname": self._config.agentname,
            "port": self._config.advertised_port or listener.getsockname()[1],
        }
        return json.dumps(where).encode()

    async def respond(self, challenge: bytes) -> bytes:
        """Serve the issuer's nonce from now on; the response itself says nothing, and must not be empty.

        Raises:
            NodeAttestationError: The challenge is malformed.
        """
        try:
            nonce = json.loads(challenge)["nonce"]
            if not _NONCE.fullmatch(nonce):
                raise NodeAttestationError("issuer's challenge has no nonce that can be served")
        except (ValueError, KeyError, TypeError, RecursionError) as error:
            raise NodeAttestationError("issuer's challenge is malformed") from error
        self._nonce = nonce.encode("ascii") + b"\n"
        return b"\n"

    async def release(self) -> None:
        """Listen no more, and drop who is connected."""
        server, self._server, self._nonce = self._server, None, b""
        for writer in self._connections:
            writer.transport.abort()
        if server is not None:
            server.close()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if len(self._connections) >= MAX_CONNECTIONS:
            writer.transport.abort()
            return
        self._connections.add(writer)
        try:
            async with asyncio.timeout(TIMEOUT):
                writer.write(await self._answer(reader))
                await writer.drain()
        except (OSError, TimeoutError, h11.ProtocolError):
            pass  # whoever it was: the issuer judges by what it got
        finally:
            self._connections.discard(writer)
            writer.close()

    async def _answer(self, reader: asyncio.StreamReader) -> bytes:
        protocol = h11.Connection(h11.SERVER, max_incomplete_event_size=MAX_HEAD)
        while (event := protocol.next_event()) is h11.NEED_DATA:
            protocol.receive_data(await reader.read(MAX_HEAD))
        asked = isinstance(event, h11.Request) and event.method == b"GET" and event.target == self._path
        body = self._nonce if asked else b""
        head = h11.Response(
            status_code=200 if body else 404,
            headers=[("content-length", str(len(body))), ("connection", "close")],
        )
        events = (head, h11.Data(body), h11.EndOfMessage())
        return b"".join(protocol.send(event) or b"" for event in events)


def _listener(address: str, port: int) -> socket.socket:
    if not address and socket.has_dualstack_ipv6():
        return socket.create_server(("", port), family=socket.AF_INET6, dualstack_ipv6=True)
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    return socket.create_server((address, port), family=family)


def create(config: Config) -> HttpChallenge:
    """Make the attestor of a configuration table."""
    for name, port in (("port", config.port), ("advertised_port", config.advertised_port)):
        if not 0 <= port <= 65535:
            raise ConfigError(f"{name}: {port} is no port")
    if not _AGENT.fullmatch(config.agentname):
        raise ConfigError("agentname: has to be up to 32 letters, digits and '-', a letter first")
    return HttpChallenge(config)

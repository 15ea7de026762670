# SPDX-License-Identifier: Apache-2.0
"""A web server that answers what a test tells it to, over TLS if it is given a host name."""

import asyncio
import contextlib
import re
import ssl

from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

from spiffekit.daemon.http import Peer
from spiffekit.testing import TestCA
from spiffekit.wire.tls import memory_file


def ok(body, *headers, status="200 OK"):
    """An answer."""
    body = body if isinstance(body, bytes) else body.encode()
    lines = (f"HTTP/1.1 {status}", f"Content-Length: {len(body)}", *headers, "", "")
    return "\r\n".join(lines).encode() + body


class WebServer:
    """It answers each request with what `answer` makes of its head, or says nothing if that is None.

    While it does, the body is the last of `bodies`.
    """

    def __init__(self, answer, *, name=""):
        self.answer, self.name, self.requests, self.bodies = answer, name, [], []
        self._writers = []

    async def __aenter__(self):
        mine, theirs = _contexts(self.name) if self.name else (None, None)
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", 0, ssl=mine)
        port = self._server.sockets[0].getsockname()[1]
        self.peer = Peer("127.0.0.1", port, theirs, self.name)
        self.host = f"127.0.0.1:{port}"
        return self

    async def __aexit__(self, *_):
        self._server.close()
        for writer in self._writers:
            writer.transport.abort()
        await self._server.wait_closed()

    async def _serve(self, reader, writer):
        self._writers.append(writer)
        with contextlib.suppress(ConnectionError, asyncio.IncompleteReadError):
            head = (await reader.readuntil(b"\r\n\r\n")).decode()
            length = re.search(r"(?i)\r\ncontent-length: (\d+)\r\n", head)
            self.bodies.append(await reader.readexactly(int(length[1])) if length else b"")
            self.requests.append(head)
            if (answer := self.answer(head)) is not None:
                writer.write(answer)
                await writer.drain()
                writer.close()


def _contexts(name):
    """The TLS contexts of a server of that name, and of a client that trusts it."""
    ca, key = TestCA(), TestCA().key
    san = (x509.SubjectAlternativeName([x509.DNSName(name)]), False)
    certificate = ca.certify(key.public_key(), uris=[], extra=[san])
    server = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    private = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    with memory_file(certificate.public_bytes(Encoding.PEM) + private) as path:
        server.load_cert_chain(path)
    authority = ca.certificate.public_bytes(Encoding.PEM).decode()
    return server, ssl.create_default_context(cadata=authority)

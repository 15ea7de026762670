# SPDX-License-Identifier: Apache-2.0
"""Whoever answers at the issuer's address gets no byte before it is known to be the issuer."""

import asyncio
import contextlib
import socket
import ssl
from datetime import timedelta

import pytest

from attestor.connection import Credentials, dial
from spiffekit.bundle import Bundle
from spiffekit.errors import (
    ExpiredError,
    UnknownTrustDomainError,
    UntrustedError,
    VerificationError,
    X509SvidError,
)
from spiffekit.id import TrustDomain
from spiffekit.testing import TestCA
from spiffekit.wire import tls
from tests.fakes.clock import FakeClock

OURS = TrustDomain("example.org")
CA = TestCA("example.org")
OTHER = TestCA("example.org")  # another authority of the same name
FOREIGN = TestCA("other.org")
ISSUER = "spiffe://example.org/spire/server"
NODE = CA.issue("spiffe://example.org/spire/agent/test/n1")
IMPOSTORS = {
    "a node": "spiffe://example.org/spire/agent/test/n1",
    "a workload": "spiffe://example.org/web",
    "below the issuer": "spiffe://example.org/spire/server/x",
    "above the issuer": "spiffe://example.org/spire",
    "another trust domain": "spiffe://other.org/spire/server",
}


class Server:
    """Shows a certificate, reads what comes, and remembers it until the connection ends."""

    def __init__(self, svid, roots=(CA,)):
        authorities = [a.certificate_der for ca in roots for a in ca.bundle.x509_authorities]
        self.context = tls.server_context(svid, authorities)
        self.received = b""
        self.shown = ()
        self.ended = asyncio.Event()

    async def _serve(self, reader, writer):
        self.shown = tls.peer_chain(writer.get_extra_info("ssl_object"))
        with contextlib.suppress(ConnectionError, ssl.SSLError):
            while data := await reader.read(1000):
                self.received += data
        writer.transport.abort()
        self.ended.set()

    @contextlib.asynccontextmanager
    async def listening(self):
        server = await asyncio.start_server(self._serve, "127.0.0.1", 0, ssl=self.context)
        try:
            yield server.sockets[0].getsockname()[1]
        finally:
            server.close()


async def connected(port, credentials):
    """Dial, say hello, and hang up."""
    _, writer = await dial("127.0.0.1", port, OURS, credentials, FakeClock(CA.now))
    writer.write(b"hello")
    await writer.drain()
    writer.close()


async def refused(server, credentials, error):
    """Expect that a server is not spoken to; return why."""
    async with server.listening() as port, asyncio.timeout(5):
        with pytest.raises(error) as caught:
            await connected(port, credentials)
        await server.ended.wait()
    assert server.received == b""
    return str(caught.value)


async def met(server, credentials):
    """Expect that a server is spoken to."""
    async with server.listening() as port, asyncio.timeout(5):
        await connected(port, credentials)
        await server.ended.wait()
    assert server.received == b"hello"
    return server


async def test_the_issuer_is_spoken_to():
    server = await met(Server(CA.issue(ISSUER)), Credentials(CA.bundle))
    assert server.shown == ()


async def test_a_node_shows_its_certificate():
    server = await met(Server(CA.issue(ISSUER)), Credentials(CA.bundle, NODE))
    assert server.shown == NODE.chain_der


async def test_names_and_addresses_of_the_issuer_do_not_matter():
    await met(Server(CA.issue(ISSUER, common_name="elsewhere")), Credentials(CA.bundle))


@pytest.mark.parametrize("who", ["a node", "a workload", "below the issuer", "above the issuer"])
async def test_a_server_with_another_spiffe_id_is_refused_before_a_byte_is_sent(who):
    reason = await refused(Server(CA.issue(IMPOSTORS[who])), Credentials(CA.bundle, NODE), VerificationError)
    assert f"is {IMPOSTORS[who]}, not the issuer of example.org" in reason


@pytest.mark.parametrize(
    ("svid", "error"),
    [
        (OTHER.issue(ISSUER), UntrustedError),
        (FOREIGN.issue(IMPOSTORS["another trust domain"]), UnknownTrustDomainError),
        (FOREIGN.issue(ISSUER), UntrustedError),
        (CA.issue(ISSUER, not_before=CA.now - timedelta(hours=2)), ExpiredError),
        (CA.issue(ISSUER, not_before=CA.now + timedelta(hours=1)), ExpiredError),
        (CA.issue(ISSUER, uris=[]), X509SvidError),
        (CA.issue(ISSUER, uris=["https://example.org/spire/server"]), X509SvidError),
        (CA.issue(ISSUER, ca=True), X509SvidError),
    ],
    ids=[
        "another authority", "another trust domain", "another trust domain as ours", "expired",
        "not yet valid", "no ID", "no SPIFFE ID", "an authority",
    ],
)  # fmt: skip
async def test_a_server_that_nobody_vouches_for_is_refused(svid, error):
    await refused(Server(svid), Credentials(CA.bundle, NODE), error)


async def test_a_bundle_without_authorities_trusts_nobody():
    await refused(Server(CA.issue(ISSUER)), Credentials(Bundle(OURS)), UntrustedError)


@pytest.mark.parametrize("ca", [CA, OTHER, FOREIGN], ids=["ours", "another", "foreign"])
async def test_an_insecure_bootstrap_takes_any_authority(ca):
    await met(Server(ca.issue(ISSUER)), Credentials(None))


@pytest.mark.parametrize("who", IMPOSTORS)
async def test_an_insecure_bootstrap_still_demands_the_id_of_the_issuer(who):
    svid = CA.issue(IMPOSTORS[who])
    assert "not the issuer of example.org" in await refused(
        Server(svid), Credentials(None), VerificationError
    )


async def test_an_insecure_bootstrap_demands_a_spiffe_id():
    await refused(Server(CA.issue(ISSUER, uris=[])), Credentials(None), X509SvidError)


async def test_the_clock_that_counts_is_ours():
    async with Server(CA.issue(ISSUER)).listening() as port:
        with pytest.raises(ExpiredError):
            await dial(
                "127.0.0.1", port, OURS, Credentials(CA.bundle), FakeClock(CA.now + timedelta(hours=2))
            )


async def test_nobody_answers():
    async with Server(CA.issue(ISSUER)).listening() as port:
        pass
    with pytest.raises(ConnectionRefusedError):
        await connected(port, Credentials(CA.bundle))


async def test_a_server_that_never_shakes_hands_is_given_up(monkeypatch):
    monkeypatch.setattr(tls, "CONNECT_WITHIN", timedelta(milliseconds=50))
    with socket.create_server(("127.0.0.1", 0)) as server, pytest.raises(TimeoutError):
        await connected(server.getsockname()[1], Credentials(CA.bundle))


async def test_plain_text_is_refused():
    async def speak(reader, writer):
        writer.write(b"HTTP/1.1 200 OK\r\n\r\n")
        writer.close()

    server = await asyncio.start_server(speak, "127.0.0.1", 0)
    try:
        with pytest.raises(ssl.SSLError):
            await connected(server.sockets[0].getsockname()[1], Credentials(CA.bundle))
    finally:
        server.close()

# SPDX-License-Identifier: Apache-2.0
"""The issuer's listener: TLS without old versions or resumption, and callers known by their certificates."""

import asyncio
import contextlib
import ssl
from datetime import timedelta

import grpc
import pytest
from cryptography import x509

from spiffekit.daemon.listener import Limits, TlsFront
from spiffekit.daemon.peer import PeerUnknownError
from spiffekit.errors import SpiffeError
from spiffekit.testing import TestCA
from spiffekit.wire import tls
from spiffekit.wire.tls import load_identity
from spiffekit.x509svid import spiffe_id_of, verify
from tests.spiffekit.daemon.fronts import serving as behind

PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\4\0\0\0\0\0"


@pytest.fixture(scope="module")
def ca():
    return TestCA("example.org")


@pytest.fixture(scope="module")
def foreign():
    return TestCA("other.org")


class Issuer:
    """What the listener asks for: its certificate, its roots, and its opinion of a peer."""

    def __init__(self, ca):
        self.ca = ca
        self.svid = ca.issue("spiffe://example.org/spire/server")

    def context(self):
        return tls.server_context(self.svid, [a.certificate_der for a in self.ca.bundle.x509_authorities])

    def identify(self, peer):
        if not peer.chain_der:
            return f"anonymous at {peer.address}"
        try:
            return str(verify(peer.chain_der, self.ca.bundle, now=self.ca.now))
        except SpiffeError as error:
            raise PeerUnknownError(str(error)) from error


@pytest.fixture
def issuer(ca):
    return Issuer(ca)


@pytest.fixture
async def front(issuer):
    async with serving(issuer) as front:
        yield front


@contextlib.asynccontextmanager
async def serving(issuer, host="127.0.0.1", limits=None):
    front = TlsFront(host, 0, context=issuer.context, identify=issuer.identify, limits=limits)

    async with behind(front, str.encode):
        yield front


def client(ca, svid=None):
    return tls.client_context(svid, [a.certificate_der for a in ca.bundle.x509_authorities])


@contextlib.asynccontextmanager
async def dialled(front, context, host="127.0.0.1"):
    reader, writer = await asyncio.wait_for(asyncio.open_connection(host, front.port, ssl=context), 5)
    try:
        yield reader, writer
    finally:
        writer.transport.abort()


async def ask(front, context, host="127.0.0.1"):
    """Call over a connection of that context, as nodes do."""

    async def connect():
        return await asyncio.open_connection(host, front.port, ssl=context)

    async with (
        tls.Tunnel(connect).open() as target,
        grpc.aio.insecure_channel(target, options=[("grpc.use_local_subchannel_pool", 1)]) as channel,
    ):
        return (await channel.unary_unary("/Test/Who")(b"", timeout=5)).decode()


async def test_without_a_certificate_a_caller_is_anonymous(front, ca):
    assert await ask(front, client(ca)) == "anonymous at 127.0.0.1"


async def test_a_caller_with_a_certificate_is_who_it_names(front, ca):
    svid = ca.issue("spiffe://example.org/spire/agent/x")
    assert await ask(front, client(ca, svid)) == "spiffe://example.org/spire/agent/x"


@pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1, ssl.TLSVersion.TLSv1_1])
@pytest.mark.filterwarnings("ignore:ssl.TLSVersion:DeprecationWarning")
async def test_old_versions_are_refused(front, ca, version):
    context = client(ca)
    context.set_ciphers("ALL:@SECLEVEL=0")
    context.minimum_version = context.maximum_version = version
    with pytest.raises(ConnectionResetError):  # by the listener: refused by ourselves it is an SSLError
        async with dialled(front, context):
            pass


@pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3])
async def test_present_versions_are_served(front, ca, version):
    context = client(ca)
    context.minimum_version = context.maximum_version = version
    assert await ask(front, context) == "anonymous at 127.0.0.1"


@pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3])
async def test_no_session_outlives_its_connection(front, ca, version):
    """SPIRE 1.14.3 (#6715): a resumed session skipped the checks of the client's certificate."""
    context = client(ca, ca.issue("spiffe://example.org/spire/agent/x"))
    context.options &= ~ssl.OP_NO_TICKET
    context.minimum_version = context.maximum_version = version
    reused = []
    session = None
    for _ in range(2):
        incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
        secured = context.wrap_bio(incoming, outgoing, session=session)
        reader, writer = await asyncio.open_connection("127.0.0.1", front.port)
        try:
            await asyncio.wait_for(shake_hands(secured, incoming, outgoing, reader, writer), 5)
            session = secured.session
            reused.append(secured.session_reused)
            assert session is None or not session.has_ticket
        finally:
            writer.transport.abort()
    assert reused == [False, False]


async def shake_hands(secured, incoming, outgoing, reader, writer):
    """Until an answer has come: that is when a ticket would have come as well."""
    asked = False
    while True:
        try:
            if not asked:
                secured.do_handshake()
                secured.write(PREFACE)
                asked = True
            writer.write(outgoing.read())
            if secured.read(100):
                return
        except ssl.SSLWantReadError:
            writer.write(outgoing.read())
            incoming.write(await reader.read(65536))


async def test_a_certificate_of_another_authority_is_refused(front, ca, foreign):
    assert await refused(front, client(ca, foreign.issue("spiffe://other.org/x")))


async def test_a_certificate_that_names_our_trust_domain_by_another_authority_is_refused(front, ca):
    impostor = TestCA("example.org")
    assert await refused(front, client(ca, impostor.issue("spiffe://example.org/spire/agent/x")))


@pytest.mark.parametrize(
    "changes",
    [
        {"uris": []},
        {"uris": ["spiffe://example.org/a", "spiffe://example.org/b"]},
        {"uris": ["https://example.org/a"]},
        {"lifetime": timedelta(seconds=1), "not_before": None},
        {"ca": True, "usage": {"key_cert_sign": True}},
        {"usage": {"digital_signature": True, "key_cert_sign": True}},
    ],
    ids=["no ID", "two IDs", "no SPIFFE ID", "expired", "an authority", "may sign certificates"],
)
async def test_a_certificate_that_is_no_svid_is_refused(front, ca, changes):
    """SPIRE #655: the path of a peer's certificate was not validated."""
    if "lifetime" in changes:
        changes = {"lifetime": timedelta(minutes=1), "not_before": ca.now - timedelta(hours=1)}
    svid = ca.issue("spiffe://example.org/spire/agent/x", **changes)
    assert await refused(front, client(ca, svid))


async def refused(front, context):
    """Tells whether no byte of an answer came."""
    try:
        async with dialled(front, context) as (reader, writer):
            writer.write(PREFACE)
            return await asyncio.wait_for(reader.read(100), 5) == b""
    except (ssl.SSLError, ConnectionError):
        return True


async def test_a_new_certificate_is_shown_and_open_connections_stay(front, issuer, ca):
    context = client(ca)
    async with dialled(front, context) as (reader, writer):
        before = shown(writer)
        writer.write(PREFACE)
        assert await asyncio.wait_for(reader.readexactly(9), 5)
        issuer.svid = ca.issue("spiffe://example.org/spire/server")
        async with dialled(front, context) as (_, later):
            assert shown(later) != before
        writer.write(b"\0\0\x08\6\0\0\0\0\0abcdefgh")
        answer = b""
        while b"abcdefgh" not in answer:
            answer += await asyncio.wait_for(reader.read(1000), 5)


def shown(writer):
    (leaf, *_) = tls.peer_chain(writer.get_extra_info("ssl_object"))
    assert str(spiffe_id_of(x509.load_der_x509_certificate(leaf))) == "spiffe://example.org/spire/server"
    return leaf


async def test_new_roots_count_from_the_next_connection_on(front, issuer, ca):
    successor = TestCA("example.org")
    context = client(ca)
    load_identity(context, successor.issue("spiffe://example.org/spire/agent/x"))
    assert await refused(front, context)
    issuer.ca = successor
    assert await ask(front, context) == "spiffe://example.org/spire/agent/x"


async def test_only_http2_is_agreed_on(front, ca):
    context = client(ca)
    async with dialled(front, context) as (_, writer):
        assert writer.get_extra_info("ssl_object").selected_alpn_protocol() == "h2"


async def test_a_handshake_that_does_not_end_is_cut_off(issuer):
    limits = Limits(handshake_within=timedelta(milliseconds=50))
    async with serving(issuer, limits=limits) as front:
        reader, writer = await asyncio.open_connection("127.0.0.1", front.port)
        writer.write(b"\x16\x03\x01")
        with contextlib.suppress(ConnectionResetError):
            assert await asyncio.wait_for(reader.read(), 5) == b""
        writer.close()
        assert front.connections == 0 or await none_left(front)


async def none_left(front):
    async with asyncio.timeout(5):
        while front.connections:
            await asyncio.sleep(0.001)
    return True


async def test_who_says_nothing_after_the_handshake_is_cut_off(issuer, ca):
    limits = Limits(first_byte_within=timedelta(milliseconds=50))
    async with serving(issuer, limits=limits) as front, dialled(front, client(ca)) as (reader, _):
        with contextlib.suppress(ConnectionResetError):
            await asyncio.wait_for(reader.read(), 5)
        assert await none_left(front)


async def test_an_address_has_its_share_of_connections(issuer, ca):
    limits = Limits(max_connections_per_source=1)
    async with serving(issuer, limits=limits) as front, dialled(front, client(ca)):
        assert await refused(front, client(ca))


async def test_plain_text_is_refused(front):
    reader, writer = await asyncio.open_connection("127.0.0.1", front.port)
    writer.write(PREFACE)
    with contextlib.suppress(ConnectionResetError):
        assert (await asyncio.wait_for(reader.read(), 5))[:1] in (b"", b"\x15")  # at most an alert
    writer.close()


async def test_an_ipv6_address_can_be_listened_on(issuer, ca):
    try:
        async with serving(issuer, host="::1") as front:
            assert await ask(front, client(ca), host="::1") == "anonymous at ::1"
    except OSError:
        pytest.skip("this machine has no IPv6")

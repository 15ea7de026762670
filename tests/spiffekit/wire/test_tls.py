# SPDX-License-Identifier: Apache-2.0
"""TLS with X.509-SVIDs: what is presented, what is asked for, and who is reached."""

import asyncio
import contextlib
import os
import ssl
import subprocess
import sys
from datetime import timedelta
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.serialization import Encoding

from spiffekit.errors import ExpiredError, UnauthorizedPeerError, UntrustedError, VerificationError
from spiffekit.id import SpiffeId
from spiffekit.testing import CA_USAGE, TestCA
from spiffekit.wire import tls
from spiffekit.x509svid import X509Svid, verify

CA = TestCA()
ROOTS = [a.certificate_der for a in CA.bundle.x509_authorities]
SERVER, CLIENT = CA.issue("spiffe://example.org/server"), CA.issue("spiffe://example.org/client")


def shake(server, client, session=None):
    """Do a handshake in memory, and let a byte through, so that failures of both sides show."""
    to_server, to_client = ssl.MemoryBIO(), ssl.MemoryBIO()
    far = server.wrap_bio(to_server, to_client, server_side=True)
    near = client.wrap_bio(to_client, to_server, server_hostname="anything", session=session)
    waiting = [near, far]
    while waiting:
        side = waiting.pop(0)
        try:
            side.do_handshake()
        except ssl.SSLWantReadError:
            waiting.append(side)
    far.write(b"x")
    assert near.read() == b"x"
    return far, near


def test_both_sides_see_the_whole_chain_of_the_other():
    intermediate = TestCA()
    intermediate.certificate = CA.certify(
        intermediate.key.public_key(), uris=["spiffe://example.org"], ca=True, usage=CA_USAGE, purposes=()
    )
    made = intermediate.issue("spiffe://example.org/client")
    above = intermediate.certificate.public_bytes(Encoding.DER)
    client = X509Svid(made.spiffe_id, (*made.chain_der, above), made.private_key_der)
    far, near = shake(tls.server_context(SERVER, ROOTS), tls.client_context(client, ROOTS))
    # OpenSSL adds the root to a lone leaf when it knows it.
    assert tls.peer_chain(near) == (*SERVER.chain_der, *ROOTS)
    assert tls.peer_chain(far) == client.chain_der
    assert near.selected_alpn_protocol() == far.selected_alpn_protocol() == "h2"


def test_a_client_need_not_show_a_certificate():
    far, near = shake(tls.server_context(SERVER, ROOTS), tls.client_context(None, ROOTS))
    assert tls.peer_chain(far) == ()
    assert tls.peer_chain(near)[:1] == SERVER.chain_der


@pytest.mark.parametrize("side", ["server", "client"])
def test_a_chain_of_a_stranger_ends_the_handshake(side):
    stranger = TestCA().issue("spiffe://example.org/stranger")
    server, client = (stranger, CLIENT) if side == "server" else (SERVER, stranger)
    with pytest.raises(ssl.SSLError):
        shake(tls.server_context(server, ROOTS), tls.client_context(client, ROOTS))


def test_without_roots_nobody_is_believed():
    with pytest.raises(ssl.SSLError):
        shake(tls.server_context(SERVER, ROOTS), tls.client_context(CLIENT, ()))


def test_a_root_that_another_one_signed_is_a_root():
    above, below = TestCA(), TestCA()
    below.certificate = above.certify(
        below.key.public_key(), uris=["spiffe://example.org"], ca=True, usage=CA_USAGE, purposes=()
    )
    roots = [below.certificate.public_bytes(Encoding.DER)]
    server = below.issue("spiffe://example.org/server")
    shake(tls.server_context(server, roots), tls.client_context(None, roots))


def test_the_first_contact_believes_anybody_and_sees_whom_it_reached():
    stranger = TestCA("other.example").issue("spiffe://other.example/server")
    _, near = shake(tls.server_context(stranger, ()), tls.unverified_client_context())
    assert tls.peer_chain(near) == stranger.chain_der


@pytest.mark.filterwarnings("ignore:ssl.TLSVersion:DeprecationWarning")
@pytest.mark.parametrize("side", ["server", "client"])
def test_versions_before_1_2_are_refused(side):
    old = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER if side == "server" else ssl.PROTOCOL_TLS_CLIENT)
    old.check_hostname = False
    old.verify_mode = ssl.CERT_NONE
    old.minimum_version = ssl.TLSVersion.TLSv1
    old.maximum_version = ssl.TLSVersion.TLSv1_1
    old.set_ciphers("ALL:@SECLEVEL=0")
    tls.load_identity(old, SERVER)
    with pytest.raises(ssl.SSLError, match="UNSUPPORTED_PROTOCOL"):
        if side == "server":
            shake(old, tls.client_context(CLIENT, ROOTS))
        else:
            shake(tls.server_context(SERVER, ROOTS), old)


@pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3])
def test_nobody_is_known_by_a_resumed_session(version):
    """The fix of SPIRE 1.14.3 (#6715): a resumed session skipped what is asked of a certificate."""
    server, client = tls.server_context(SERVER, ROOTS), tls.client_context(CLIENT, ROOTS)
    client.options &= ~ssl.OP_NO_TICKET
    client.maximum_version = version
    _, near = shake(server, client)
    assert not near.session.has_ticket
    again, _ = shake(server, client, near.session)
    if again.session_reused:
        with pytest.raises(ssl.SSLError, match="the session was resumed"):
            tls.peer_chain(again)
    assert again.session_reused is (version is ssl.TLSVersion.TLSv1_2)


def test_a_key_is_given_to_openssl_without_a_file():
    with tls.memory_file(b"secret") as path:
        descriptor = int(path.rsplit("/", 1)[1])
        assert Path(path).read_bytes() == b"secret"
        assert os.readlink(path).startswith("/memfd:")
        assert not os.get_inheritable(descriptor)
    with pytest.raises(OSError, match="Bad file descriptor"):
        os.fstat(descriptor)


def test_the_descriptor_is_closed_when_openssl_refuses():
    broken = X509Svid(SERVER.spiffe_id, SERVER.chain_der, CLIENT.private_key_der)
    before = len(os.listdir("/proc/self/fd"))
    with pytest.raises(ssl.SSLError):
        tls.server_context(broken, ROOTS)
    assert len(os.listdir("/proc/self/fd")) == before


class Far:
    """A TLS server on a Unix socket that returns what it gets, and a way to it that judges who answers."""

    def __init__(self, folder, svid):
        self.path, self.svid = folder / "far.sock", svid
        self.received = b""
        self.connections = 0

    async def __aenter__(self):
        self._server = await asyncio.start_unix_server(
            self._echo, self.path, ssl=tls.server_context(self.svid, ROOTS)
        )
        return self

    async def __aexit__(self, *_):
        self._server.close()

    async def _echo(self, reader, writer):
        self.connections += 1
        with contextlib.suppress(OSError):
            while data := await reader.read(1024):
                self.received += data
                writer.write(data)
                await writer.drain()
        writer.close()

    async def dial(self):
        context = tls.unverified_client_context()
        reader, writer = await asyncio.open_unix_connection(self.path, ssl=context, server_hostname="far")
        try:
            found = verify(tls.peer_chain(writer.get_extra_info("ssl_object")), CA.bundle, now=CA.now)
            if found != SpiffeId.parse("spiffe://example.org/server"):
                raise UnauthorizedPeerError(f"the server is {found}")
        except BaseException:
            writer.transport.abort()
            raise
        return reader, writer


async def through(target):
    return await asyncio.open_unix_connection(target.removeprefix("unix:"))


async def test_a_tunnel_leads_to_the_server_with_the_right_id(tmp_path):
    async with Far(tmp_path, SERVER) as far, tls_tunnel(far) as (tunnel, target):
        assert Path(target.removeprefix("unix:")).stat().st_mode & 0o777 == 0o600
        reader, writer = await through(target)
        writer.write(b"hello")
        async with asyncio.timeout(5):
            assert await reader.readexactly(5) == b"hello"
        assert tunnel.last_error is None
        writer.close()


@contextlib.asynccontextmanager
async def tls_tunnel(far):
    tunnel = tls.Tunnel(far.dial)
    async with tunnel.open() as target:
        yield tunnel, target
    assert not Path(target.removeprefix("unix:")).exists()


IMPOSTORS = {
    "another ID": (CA.issue("spiffe://example.org/impostor"), UnauthorizedPeerError),
    "another trust domain": (
        TestCA("other.example").issue("spiffe://other.example/server"),
        VerificationError,
    ),
    "a stranger's root": (TestCA().issue("spiffe://example.org/server"), UntrustedError),
    "expired": (
        CA.issue("spiffe://example.org/server", not_before=CA.now - timedelta(hours=2)),
        ExpiredError,
    ),
    "not yet valid": (
        CA.issue("spiffe://example.org/server", not_before=CA.now + timedelta(hours=2)),
        ExpiredError,
    ),
}


@pytest.mark.parametrize("which", IMPOSTORS)
async def test_an_impostor_gets_no_byte_through_a_tunnel(tmp_path, which):
    svid, expected = IMPOSTORS[which]
    async with Far(tmp_path, svid) as far, tls_tunnel(far) as (tunnel, target):
        reader, writer = await through(target)
        writer.write(b"secret")
        with contextlib.suppress(ConnectionError):
            async with asyncio.timeout(5):
                assert await reader.read() == b""
        assert isinstance(tunnel.last_error, expected)
        assert far.received == b""
        writer.close()


async def test_an_error_is_forgotten_when_the_next_connection_succeeds(tmp_path):
    async with Far(tmp_path, IMPOSTORS["expired"][0]) as far, tls_tunnel(far) as (tunnel, target):
        reader, writer = await through(target)
        with contextlib.suppress(ConnectionError):
            await reader.read()
        assert isinstance(tunnel.last_error, ExpiredError)
        writer.close()
        far._server.close()
        far.svid = SERVER
        async with far:
            reader, writer = await through(target)
            writer.write(b"x")
            async with asyncio.timeout(5):
                assert await reader.readexactly(1) == b"x"
            assert tunnel.last_error is None
            writer.close()


async def test_dropping_ends_what_is_open_and_the_next_connection_is_a_new_one(tmp_path):
    async with Far(tmp_path, SERVER) as far, tls_tunnel(far) as (tunnel, target):
        for expected in (1, 2):
            reader, writer = await through(target)
            writer.write(b"x")
            async with asyncio.timeout(5):
                assert await reader.readexactly(1) == b"x"
                tunnel.drop()
                with contextlib.suppress(ConnectionError):
                    assert await reader.read() == b""
            assert far.connections == expected
            writer.close()


async def test_the_end_of_one_side_ends_the_other(tmp_path):
    async with Far(tmp_path, SERVER) as far, tls_tunnel(far) as (tunnel, target):
        reader, writer = await through(target)
        writer.write(b"x")
        async with asyncio.timeout(5):
            await reader.readexactly(1)
            writer.close()
            while tunnel._tasks:
                await asyncio.wait(list(tunnel._tasks))


async def test_what_was_sent_before_the_end_arrives(tmp_path):
    """The last bytes of an answer wait for a slow reader when the server has already closed."""
    sent = bytes(450_000)

    async def answer(_, writer):
        writer.write(sent)
        await writer.drain()
        writer.close()

    far = await asyncio.start_unix_server(answer, tmp_path / "far.sock")
    tunnel = tls.Tunnel(lambda: asyncio.open_unix_connection(tmp_path / "far.sock"))
    async with tunnel.open() as target:
        reader, writer = await through(target)
        async with asyncio.timeout(5):
            while not tunnel._tasks:
                await asyncio.sleep(0)
            await asyncio.wait(list(tunnel._tasks))
            assert await reader.read() == sent
        writer.close()
    far.close()


async def test_no_other_process_may_use_a_tunnel(tmp_path):
    """The socket's folder is private; this is for root and for those who share our user."""
    program = (
        "import socket,sys; s=socket.socket(socket.AF_UNIX); s.connect(sys.argv[1]); s.send(b'x'); s.recv(1)"
    )
    async with Far(tmp_path, SERVER) as far, tls_tunnel(far) as (tunnel, target):
        path = target.removeprefix("unix:")
        process = await asyncio.create_subprocess_exec(
            sys.executable, "-c", program, path, stderr=subprocess.DEVNULL
        )
        async with asyncio.timeout(5):
            await process.wait()
        assert str(tunnel.last_error) == "another process tried to use the tunnel"
        assert far.connections == 0


async def test_a_tunnel_that_is_left_takes_its_connections_with_it(tmp_path):
    async with Far(tmp_path, SERVER) as far:
        async with tls_tunnel(far) as (_, target):
            reader, writer = await through(target)
            writer.write(b"x")
            async with asyncio.timeout(5):
                await reader.readexactly(1)
        with contextlib.suppress(ConnectionError):
            async with asyncio.timeout(5):
                assert await reader.read() == b""
        writer.close()


async def test_a_connection_that_is_dropped_before_it_begins_is_closed_all_the_same(tmp_path):
    """A task that is cancelled before its first step runs no `finally` of its own."""
    async with Far(tmp_path, SERVER) as far, tls_tunnel(far) as (tunnel, _):
        ends = []

        def begin_and_drop(reader, writer):
            tunnel._begin(reader, writer)
            tunnel.drop()
            ends.append(writer)

        server = await asyncio.start_unix_server(begin_and_drop, tmp_path / "near.sock")
        reader, writer = await asyncio.open_unix_connection(tmp_path / "near.sock")
        with contextlib.suppress(ConnectionError):
            async with asyncio.timeout(5):
                assert await reader.read() == b""
        assert ends[0].is_closing()
        assert far.connections == 0
        writer.close()
        server.close()

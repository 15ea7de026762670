# SPDX-License-Identifier: Apache-2.0
"""mTLS contexts: with asyncio and with plain sockets, for peers that are right and peers that are not."""

import asyncio
import contextlib
import http.server
import socket
import ssl
import threading
import urllib.request
from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest
from cryptography.hazmat.primitives import serialization

from spiffekit.bundle import BundleSet
from spiffekit.errors import NoIdentityIssuedError, UnauthorizedPeerError
from spiffekit.id import SpiffeId
from spiffekit.testing import CA_USAGE
from spiffekit.workload import (
    Peer,
    PeerRefusedError,
    X509Update,
    any_of,
    exact,
    member_of,
    mtls_client_context,
    mtls_server_context,
    peer_spiffe_id,
    verified_peer,
)

SERVER, CLIENT = "spiffe://example.org/server", "spiffe://example.org/client"


def everybody(_peer):
    return True


def update(*svids, trusts):
    return X509Update(tuple(svids), BundleSet([ca.bundle for ca in trusts]), (), datetime.now(UTC))


class Source:
    """A source whose update a test replaces."""

    def __init__(self, now):
        self.now = now

    def x509_update(self):
        return self.now


@contextlib.asynccontextmanager
async def echo_server(context):
    """Answer each line with the peer's ID and the line."""

    async def serve(reader, writer):
        peer = peer_spiffe_id(writer)
        while line := await reader.readline():
            writer.write(f"{peer} ".encode() + line)
            await writer.drain()
        writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0, ssl=context)
    async with server:
        yield server.sockets[0].getsockname()[1]


async def ask(reader, writer, line=b"hello\n"):
    writer.write(line)
    await writer.drain()
    async with asyncio.timeout(5):
        return await reader.readline()


@contextlib.asynccontextmanager
async def connected(port, context):
    async with asyncio.timeout(5):
        reader, writer = await asyncio.open_connection("127.0.0.1", port, ssl=context)
    try:
        yield reader, writer
    finally:
        writer.transport.abort()


async def test_both_sides_learn_who_the_other_is(ca):
    svid = ca.issue(SERVER)
    server = mtls_server_context(update(svid, trusts=[ca]), exact(SpiffeId.parse(CLIENT)))
    client = mtls_client_context(update(ca.issue(CLIENT), trusts=[ca]), exact(SpiffeId.parse(SERVER)))
    async with echo_server(server) as port, connected(port, client) as (reader, writer):
        assert await ask(reader, writer) == f"{CLIENT} hello\n".encode()
        assert peer_spiffe_id(writer) == SpiffeId.parse(SERVER)
        assert verified_peer(writer) == Peer(
            svid.spiffe_id, svid.serial_number, svid.not_before, svid.expires_at
        )
        assert writer.get_extra_info("ssl_object").version() == "TLSv1.3"
        assert writer.get_extra_info("ssl_object").session_reused is False


async def test_trust_domains_may_differ_when_each_is_known(ca, other_ca):
    foreign = "spiffe://other.test/client"
    server = mtls_server_context(
        update(ca.issue(SERVER), trusts=[ca, other_ca]), member_of(other_ca.trust_domain)
    )
    client = mtls_client_context(update(other_ca.issue(foreign), trusts=[ca, other_ca]), everybody)
    async with echo_server(server) as port, connected(port, client) as (reader, writer):
        assert await ask(reader, writer) == f"{foreign} hello\n".encode()


async def test_rotation_changes_new_connections_and_drops_no_old_one(ca):
    source = Source(update(ca.issue(SERVER), trusts=[ca]))
    client = mtls_client_context(update(ca.issue(CLIENT), trusts=[ca]), everybody)
    async with (
        echo_server(mtls_server_context(source, everybody)) as port,
        connected(port, client) as (reader, writer),
    ):
        before = writer.get_extra_info("ssl_object").getpeercert(binary_form=True)
        source.now = update(ca.issue(SERVER), trusts=[ca])
        async with connected(port, client) as (_, second):
            after = second.get_extra_info("ssl_object").getpeercert(binary_form=True)
        assert before != after == source.now.svids[0].chain_der[0]
        assert await ask(reader, writer) == f"{CLIENT} hello\n".encode()


async def test_one_context_serves_many_connections_of_one_update_without_being_made_again(ca):
    context = mtls_client_context(update(ca.issue(CLIENT), trusts=[ca]), everybody)
    assert context._current() is context._current()


async def test_the_application_may_name_its_own_protocols_for_the_connections_that_follow(ca):
    server = mtls_server_context(update(ca.issue(SERVER), trusts=[ca]), everybody)
    client = mtls_client_context(update(ca.issue(CLIENT), trusts=[ca]), everybody)
    async with echo_server(server) as port:
        for protocols, agreed in ((None, "h2"), (["other", "http/1.1"], "http/1.1"), (["other"], None)):
            if protocols:
                client.set_alpn_protocols(protocols)
            async with connected(port, client) as (reader, writer):
                assert writer.get_extra_info("ssl_object").selected_alpn_protocol() == agreed
                assert await ask(reader, writer)


def _wrong_peers(ca, other_ca):
    wrong = type(ca)("example.org")  # same name, other keys
    yield "of_an_authority_that_is_not_ours", update(wrong.issue(CLIENT), trusts=[ca])
    yield "of_a_trust_domain_without_bundle", update(other_ca.issue("spiffe://other.test/x"), trusts=[ca])
    expired = ca.issue(CLIENT, not_before=ca.now - timedelta(hours=2), lifetime=timedelta(hours=1))
    yield "expired", update(expired, trusts=[ca])
    two = ca.issue(CLIENT, uris=[CLIENT, "spiffe://example.org/second"])
    yield "with_two_ids", update(two, trusts=[ca])
    yield "that_may_sign", update(ca.issue(CLIENT, ca=True), trusts=[ca])


@pytest.mark.requirement("WLAPI-17", "X509-30", "X509-34")
async def test_a_server_serves_no_wrong_client(ca, other_ca):
    server = mtls_server_context(update(ca.issue(SERVER), trusts=[ca]), everybody)
    async with echo_server(server) as port:
        for name, source in _wrong_peers(ca, other_ca):
            context = mtls_client_context(source, everybody)
            assert await _refused(port, context), name


@pytest.mark.requirement("WLAPI-17", "X509-30", "X509-34")
async def test_a_client_speaks_to_no_wrong_server(ca, other_ca):
    client = mtls_client_context(update(ca.issue(CLIENT), trusts=[ca]), everybody)
    for name, source in _wrong_peers(ca, other_ca):
        async with echo_server(mtls_server_context(source, everybody)) as port:
            with pytest.raises(ssl.SSLError):
                async with connected(port, client):
                    pytest.fail(name)


async def _refused(port, context):
    """Tell whether the server ends the connection without an answer."""
    try:
        async with connected(port, context) as (reader, writer):
            return await ask(reader, writer) == b""
    except (ssl.SSLError, ConnectionError):
        return True


@pytest.mark.requirement("X509-34")
async def test_an_authority_speaks_for_its_own_trust_domain_only(ca, other_ca):
    # Signed by a root that is loaded, but for the other trust domain.
    forged = other_ca.issue(CLIENT)
    server = mtls_server_context(update(ca.issue(SERVER), trusts=[ca, other_ca]), everybody)
    async with echo_server(server) as port:
        assert await _refused(port, mtls_client_context(update(forged, trusts=[ca]), everybody))
    client = mtls_client_context(update(ca.issue(CLIENT), trusts=[ca, other_ca]), everybody)
    lying = mtls_server_context(update(forged, trusts=[ca]), everybody)
    async with echo_server(lying) as port:
        with pytest.raises(PeerRefusedError, match="no authority of"):
            async with connected(port, client):
                pass


# Revocation lists, which come with the SVIDs.


def listing(update, *crls):
    return replace(update, crls=crls)


@pytest.mark.requirement("WLAPI-12", "WLAPI-13", "WLAPI-14")
async def test_a_peer_on_a_revocation_list_is_refused_until_an_update_comes_without_it(ca):
    svid = ca.issue(SERVER)
    source = Source(update(ca.issue(CLIENT), trusts=[ca]))
    client = mtls_client_context(source, everybody)
    async with echo_server(mtls_server_context(update(svid, trusts=[ca]), everybody)) as port:
        source.now = listing(source.now, ca.crl(svid.serial_number))
        with pytest.raises(PeerRefusedError, match=f"certificate {svid.serial_number:x} is revoked"):
            async with connected(port, client):
                pass
        source.now = listing(source.now, ca.crl(svid.serial_number + 1))
        async with connected(port, client) as (reader, writer):
            assert await ask(reader, writer)
        source.now = listing(source.now)
        async with connected(port, client) as (reader, writer):
            assert await ask(reader, writer)


async def test_a_client_on_a_revocation_list_is_not_served(ca):
    svid = ca.issue(CLIENT)
    source = listing(update(ca.issue(SERVER), trusts=[ca]), ca.crl(svid.serial_number))
    async with echo_server(mtls_server_context(source, everybody)) as port:
        assert await _refused(port, mtls_client_context(update(svid, trusts=[ca]), everybody))


async def test_an_intermediate_on_a_revocation_list_takes_its_svids_with_it(ca):
    middle = type(ca)("example.org")
    middle.certificate = ca.certify(
        middle.key.public_key(), uris=["spiffe://example.org"], common_name="m", ca=True, usage=CA_USAGE
    )
    leaf = middle.issue(SERVER)
    chain = (*leaf.chain_der, middle.certificate.public_bytes(serialization.Encoding.DER))
    server = mtls_server_context(update(replace(leaf, chain_der=chain), trusts=[ca]), everybody)
    source = Source(update(ca.issue(CLIENT), trusts=[ca]))
    client = mtls_client_context(source, everybody)
    async with echo_server(server) as port:
        async with connected(port, client) as (reader, writer):
            assert await ask(reader, writer)
        source.now = listing(source.now, ca.crl(middle.certificate.serial_number))
        with pytest.raises(PeerRefusedError, match="is revoked"):
            async with connected(port, client):
                pass


async def test_a_revocation_list_counts_for_its_own_trust_domain_only_and_a_bad_one_not_at_all(
    ca, other_ca, caplog
):
    """Else whoever is trusted for one trust domain could cut off the peers of another."""
    svid = ca.issue(SERVER)
    stranger = type(ca)("example.org")
    crls = [other_ca.crl(svid.serial_number), stranger.crl(svid.serial_number), b"malformed"]
    source = listing(update(ca.issue(CLIENT), trusts=[other_ca, ca]), *crls, ca.crl())
    assert set(source.revocation_lists) == {ca.trust_domain, other_ca.trust_domain}
    assert [record.reason.split(":")[0] for record in caplog.records] == [
        "no authority of any bundle signed it",
        "revocation list",
    ]
    async with (
        echo_server(mtls_server_context(update(svid, trusts=[ca]), everybody)) as port,
        connected(port, mtls_client_context(source, everybody)) as (reader, writer),
    ):
        assert await ask(reader, writer)


async def test_a_trusted_peer_that_is_not_the_one_we_want_is_refused(ca):
    want = exact(SpiffeId.parse("spiffe://example.org/other"))
    server = update(ca.issue(SERVER), trusts=[ca])
    client = update(ca.issue(CLIENT), trusts=[ca])
    async with echo_server(mtls_server_context(server, everybody)) as port:
        with pytest.raises(PeerRefusedError, match=f"peer refused: {SERVER} is not authorised"):
            async with connected(port, mtls_client_context(client, want)):
                pass
    async with echo_server(mtls_server_context(server, want)) as port:
        assert await _refused(port, mtls_client_context(client, everybody))
    async with echo_server(mtls_server_context(server, any_of())) as port:
        assert await _refused(port, mtls_client_context(client, everybody))


async def test_a_client_without_certificate_is_refused(ca):
    bare = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    bare.check_hostname, bare.verify_mode = False, ssl.CERT_NONE
    server = mtls_server_context(update(ca.issue(SERVER), trusts=[ca]), everybody)
    async with echo_server(server) as port:
        assert await _refused(port, bare)


async def test_old_versions_of_tls_are_refused(ca):
    bare = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    bare.check_hostname, bare.verify_mode = False, ssl.CERT_NONE
    bare.set_ciphers("ALL:@SECLEVEL=0")
    bare.minimum_version = ssl.TLSVersion.MINIMUM_SUPPORTED
    with pytest.warns(DeprecationWarning, match="TLSv1_1"):
        bare.maximum_version = ssl.TLSVersion.TLSv1_1
    server = mtls_server_context(update(ca.issue(SERVER), trusts=[ca]), everybody)
    async with echo_server(server) as port:
        with pytest.raises((ssl.SSLError, ConnectionError)):
            async with connected(port, bare):
                pass


def test_without_an_identity_there_is_no_connection(ca):
    source = Source(update(ca.issue(CLIENT), trusts=[ca]))
    context = mtls_client_context(source, everybody)
    context.wrap_bio(ssl.MemoryBIO(), ssl.MemoryBIO())
    source.now = X509Update((), BundleSet(), (), datetime.now(UTC))
    with pytest.raises(NoIdentityIssuedError, match="no identity issued"):
        context.wrap_bio(ssl.MemoryBIO(), ssl.MemoryBIO())
    one, other = socket.socketpair()
    with one, other, pytest.raises(NoIdentityIssuedError):
        context.wrap_socket(one)


def test_sessions_are_not_resumed(ca):
    context = mtls_client_context(update(ca.issue(CLIENT), trusts=[ca]), everybody)
    with pytest.raises(ValueError, match="sessions are not resumed"):
        context.wrap_bio(ssl.MemoryBIO(), ssl.MemoryBIO(), session=object())


def test_the_peer_of_something_else_is_nobody(ca):
    with pytest.raises(UnauthorizedPeerError, match="not a connection of these contexts"):
        peer_spiffe_id(object())
    context = mtls_client_context(update(ca.issue(CLIENT), trusts=[ca]), everybody)
    fresh = context.wrap_bio(ssl.MemoryBIO(), ssl.MemoryBIO())
    with pytest.raises(UnauthorizedPeerError, match="the handshake is not finished"):
        peer_spiffe_id(fresh)


@pytest.mark.parametrize("act", [lambda t: t.read(1), lambda t: t.write(b"secret")], ids=["read", "write"])
def test_reading_or_writing_first_does_the_whole_handshake_first(ca, act):
    nobody = any_of()
    client_io, server_io = [(ssl.MemoryBIO(), ssl.MemoryBIO()) for _ in range(2)]
    client = mtls_client_context(update(ca.issue(CLIENT), trusts=[ca]), nobody).wrap_bio(*client_io)
    server = mtls_server_context(update(ca.issue(SERVER), trusts=[ca]), everybody).wrap_bio(
        *server_io, server_side=True
    )
    with pytest.raises(ssl.SSLWantReadError):
        act(client)
    server_io[0].write(client_io[1].read())
    with pytest.raises(ssl.SSLWantReadError):
        server.do_handshake()
    client_io[0].write(server_io[1].read())
    with pytest.raises(PeerRefusedError, match="is not authorised"):
        act(client)


def _serve_once(context, handle):
    """Serve one connection in a thread; return (port, thread, errors)."""
    listening = socket.create_server(("127.0.0.1", 0))
    port = listening.getsockname()[1]
    errors = []

    def serve():
        with listening, context.wrap_socket(listening, server_side=True) as secured:
            try:
                connection, _ = secured.accept()
                with connection:
                    handle(connection)
            except (OSError, ssl.SSLError) as error:
                errors.append(error)

    thread = threading.Thread(target=serve)
    thread.start()
    return port, thread, errors


def test_plain_sockets_work_the_same(ca):
    said = []

    def handle(connection):
        said.append((str(connection.peer_spiffe_id), connection.recv(100)))
        connection.sendall(b"answer")

    source = Source(None)
    port, thread, errors = None, None, None
    source.now = update(ca.issue(SERVER), trusts=[ca])
    server = mtls_server_context(source, everybody)
    port, thread, errors = _serve_once(server, handle)
    source.now = update(ca.issue(SERVER), trusts=[ca])  # rotated while it listens
    client = mtls_client_context(update(ca.issue(CLIENT), trusts=[ca]), everybody)
    with (
        socket.create_connection(("127.0.0.1", port), timeout=5) as plain,
        client.wrap_socket(plain) as secured,
    ):
        assert secured.getpeercert(binary_form=True) == source.now.svids[0].chain_der[0]
        assert secured.write(b"question") == 8
        assert secured.recv(100) == b"answer"
        assert peer_spiffe_id(secured) == SpiffeId.parse(SERVER)
    thread.join(5)
    assert (said, errors) == ([(CLIENT, b"question")], [])


def test_a_plain_socket_to_the_wrong_peer_is_refused(ca):
    port, thread, _ = _serve_once(
        mtls_server_context(update(ca.issue(SERVER), trusts=[ca]), everybody), lambda c: c.recv(1)
    )
    client = mtls_client_context(update(ca.issue(CLIENT), trusts=[ca]), any_of())
    plain = socket.create_connection(("127.0.0.1", port), timeout=5)
    with plain, pytest.raises(PeerRefusedError):
        client.wrap_socket(plain)
    thread.join(5)


@pytest.mark.parametrize(
    "act",
    [
        lambda s: s.send(b"secret"),
        lambda s: s.sendall(b"secret"),
        lambda s: s.write(b"secret"),
        lambda s: s.recv(1),
        lambda s: s.read(1),
        lambda s: s.recv_into(bytearray(1)),
    ],
    ids=["send", "sendall", "write", "recv", "read", "recv_into"],
)
def test_a_delayed_handshake_of_a_plain_socket_is_done_before_the_first_byte(ca, act):
    port, thread, _ = _serve_once(
        mtls_server_context(update(ca.issue(SERVER), trusts=[ca]), everybody), lambda c: c.recv(1)
    )
    client = mtls_client_context(update(ca.issue(CLIENT), trusts=[ca]), any_of())
    with socket.create_connection(("127.0.0.1", port), timeout=5) as plain:
        secured = client.wrap_socket(plain, do_handshake_on_connect=False)
        with pytest.raises(PeerRefusedError):
            act(secured)
        secured.close()
    thread.join(5)


def test_the_standard_librarys_http_speaks_through_them(ca):
    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self):
            body = str(peer_spiffe_id(self.connection)).encode()
            self.send_response(200)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_):
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        context = mtls_server_context(update(ca.issue(SERVER), trusts=[ca]), everybody)
        server.socket = context.wrap_socket(server.socket, server_side=True, do_handshake_on_connect=False)
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        try:
            client = mtls_client_context(update(ca.issue(CLIENT), trusts=[ca]), everybody)
            url = f"https://127.0.0.1:{server.server_address[1]}/"
            with urllib.request.urlopen(url, context=client, timeout=5) as answer:
                assert answer.read().decode() == CLIENT
        finally:
            server.shutdown()
            thread.join(5)


def test_private_keys_touch_no_disk(ca, tmp_path, monkeypatch):
    import tempfile

    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    context = mtls_client_context(update(ca.issue(CLIENT), trusts=[ca]), everybody)
    context.wrap_bio(ssl.MemoryBIO(), ssl.MemoryBIO())
    assert list(tmp_path.iterdir()) == []

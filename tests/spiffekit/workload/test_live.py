# SPDX-License-Identifier: Apache-2.0
"""Peers that are taken back do not connect, and who is connected is cut off, with asyncio and in threads."""

import asyncio
import contextlib
import gc
import socket
import ssl
import threading
import time
from datetime import UTC, datetime, timedelta

import pytest

from spiffekit.bundle import BundleSet
from spiffekit.errors import RevokedError, StatusUnknownError
from spiffekit.id import SpiffeId
from spiffekit.jwtsvid import JwtSvid
from spiffekit.status import BACKDATE, LIFETIME, AgentStatus
from spiffekit.workload import (
    PeerRefusedError,
    PeerWatch,
    X509Update,
    mtls_client_context,
    mtls_server_context,
)
from spiffekit.workload.live import Peer
from tests.fakes.clock import FakeClock
from tests.spiffekit.workload.conftest import until

SERVER, CLIENT = "spiffe://example.org/server", "spiffe://example.org/client"
ID = SpiffeId.parse(CLIENT)
SECOND = timedelta(seconds=1)
AT_ONCE = 5  # seconds in which a live connection of a listed peer is closed


def everybody(_peer):
    return True


def update(*svids, trusts):
    return X509Update(tuple(svids), BundleSet([ca.bundle for ca in trusts]), (), datetime.now(UTC))


class Watch(PeerWatch):
    """A watch that tests tell what is taken back."""

    def __init__(self, ca, clock=None, **options):
        super().__init__(clock=clock, **options)
        self.trust_domain = ca.trust_domain
        self.sequence = 0
        self.say()

    def say(self, **fields):
        self.sequence += 1
        now = self._clock.now()
        fixed = {"issued_at": now, "expires_at": now + LIFETIME, "sequence": self.sequence}
        return self.put(AgentStatus(trust_domain=self.trust_domain, **fixed | fields))


@pytest.fixture
def watch(ca):
    return Watch(ca)


@contextlib.asynccontextmanager
async def echo_server(context, served):
    """Answer each line, and tell by `served` how each connection ended."""

    async def serve(reader, writer):
        try:
            while line := await reader.readline():
                writer.write(line)
                await writer.drain()
            served.append("end")
        except OSError as error:
            served.append(error)
        writer.transport.abort()

    server = await asyncio.start_server(serve, "127.0.0.1", 0, ssl=context)
    async with server:
        yield server.sockets[0].getsockname()[1]


@contextlib.asynccontextmanager
async def talking(ca, *, server=None, client=None, svid=None, served=None):
    """A connection over which something was said; `server` and `client` are their watches."""
    accepting = mtls_server_context(update(ca.issue(SERVER), trusts=[ca]), everybody, status=server)
    calling = mtls_client_context(update(svid or ca.issue(CLIENT), trusts=[ca]), everybody, status=client)
    async with echo_server(accepting, [] if served is None else served) as port, asyncio.timeout(AT_ONCE):
        reader, writer = await asyncio.open_connection("127.0.0.1", port, ssl=calling)
        try:
            writer.write(b"hello\n")
            assert await reader.readline() == b"hello\n"
            yield reader, writer
        finally:
            writer.transport.abort()


@contextlib.contextmanager
def refused(kind):
    """The client refuses the server, for a reason of this kind."""
    with pytest.raises(PeerRefusedError) as caught:
        yield
    assert isinstance(caught.value.__cause__, kind)


def listed(svid):
    """All ways to take something back."""
    return {
        "suspended": {"suspended": frozenset([svid.spiffe_id])},
        "retired": {"retired": frozenset([svid.spiffe_id])},
        "revoked": {"serials": frozenset([svid.serial_number])},
        "issued too early": {"not_before": {svid.spiffe_id: svid.not_before + BACKDATE + SECOND}},
    }


WAYS = ("suspended", "retired", "revoked", "issued too early")


# The handshake.


async def test_who_is_not_listed_connects(ca, watch):
    watch.say(suspended=frozenset([SpiffeId.parse(f"{CLIENT}2")]))
    async with talking(ca, server=watch, client=watch):
        assert len(watch) == 2


@pytest.mark.parametrize("way", WAYS)
async def test_a_server_that_is_listed_is_refused(ca, watch, way):
    svid = ca.issue(SERVER)
    watch.say(**listed(svid)[way])
    server = mtls_server_context(update(svid, trusts=[ca]), everybody)
    client = mtls_client_context(update(ca.issue(CLIENT), trusts=[ca]), everybody, status=watch)
    async with echo_server(server, []) as port:
        with refused(RevokedError):
            await asyncio.open_connection("127.0.0.1", port, ssl=client)
    assert len(watch) == 0


@pytest.mark.parametrize("way", WAYS)
async def test_a_client_that_is_listed_is_not_served(ca, watch, way):
    svid = ca.issue(CLIENT)
    watch.say(**listed(svid)[way])
    with pytest.raises((AssertionError, OSError)):
        async with talking(ca, server=watch, svid=svid):
            pass
    assert len(watch) == 0


async def test_while_nobody_knows_everybody_is_refused(ca):
    """A status that is not renewed is worth nothing: whoever keeps it from us would keep the listed alive."""
    clock = FakeClock(datetime.now(UTC))
    watch = Watch(ca, clock)
    server = mtls_server_context(update(ca.issue(SERVER), trusts=[ca]), everybody)
    client = mtls_client_context(update(ca.issue(CLIENT), trusts=[ca]), everybody, status=watch, clock=clock)
    async with echo_server(server, []) as port:
        _, writer = await asyncio.open_connection("127.0.0.1", port, ssl=client)
        writer.transport.abort()
        clock.step(LIFETIME)
        with refused(StatusUnknownError):
            await asyncio.open_connection("127.0.0.1", port, ssl=client)
        unknown = mtls_client_context(update(ca.issue(CLIENT), trusts=[ca]), everybody, status=PeerWatch())
        with refused(StatusUnknownError):
            await asyncio.open_connection("127.0.0.1", port, ssl=unknown)


async def test_a_connection_that_is_open_outlives_the_status(ca):
    """Our choice: an outage of the issuer must not end all work at once. New ones are refused."""
    clock = FakeClock(datetime.now(UTC))
    watch = Watch(ca, clock)
    async with talking(ca, server=watch) as (reader, writer):
        clock.step(10 * LIFETIME)
        writer.write(b"still here\n")
        assert await reader.readline() == b"still here\n"


async def test_other_trust_domains_are_refused_unless_they_are_named(ca, other_ca):
    """We know the status of our own only."""
    server = mtls_server_context(
        update(other_ca.issue("spiffe://other.test/s"), trusts=[ca, other_ca]), everybody
    )
    source = update(ca.issue(CLIENT), trusts=[ca, other_ca])
    async with echo_server(server, []) as port:
        with refused(StatusUnknownError):
            await asyncio.open_connection(
                "127.0.0.1", port, ssl=mtls_client_context(source, everybody, status=Watch(ca))
            )
        named = Watch(ca, without_status=[other_ca.trust_domain])
        _, writer = await asyncio.open_connection(
            "127.0.0.1", port, ssl=mtls_client_context(source, everybody, status=named)
        )
        writer.transport.abort()


# Live connections.


@pytest.mark.parametrize("way", WAYS)
async def test_a_live_connection_of_who_is_listed_is_closed_at_both_ends(ca, watch, way):
    svid, served = ca.issue(CLIENT), []
    async with talking(ca, server=watch, svid=svid, served=served) as (reader, _):
        began = time.monotonic()
        assert watch.say(**listed(svid)[way])
        assert await reader.read() == b""  # nobody sends anything: it is the server that closes
        assert time.monotonic() - began < AT_ONCE
        await until(lambda: served)
    assert len(watch) == 0


async def test_a_client_closes_as_well(ca, watch):
    async with talking(ca, client=watch) as (reader, writer):
        watch.say(suspended=frozenset([SpiffeId.parse(SERVER)]))
        assert await reader.read() == b""
        assert writer.is_closing()


async def test_others_are_not_disturbed(ca, watch):
    async with (
        talking(ca, server=watch) as (reader, writer),
        talking(ca, server=watch, svid=ca.issue(f"{CLIENT}2")) as (other, _),
    ):
        watch.say(suspended=frozenset([SpiffeId.parse(f"{CLIENT}2")]))
        assert await other.read() == b""
        writer.write(b"still here\n")
        assert await reader.readline() == b"still here\n"
        assert len(watch) == 1


async def test_a_status_of_another_trust_domain_cuts_nobody(ca, other_ca, watch):
    svid = ca.issue(CLIENT)
    async with talking(ca, server=watch, svid=svid) as (reader, writer):
        now = datetime.now(UTC)
        theirs = AgentStatus(
            trust_domain=other_ca.trust_domain,
            sequence=1,
            issued_at=now,
            expires_at=now + LIFETIME,
            serials=frozenset([svid.serial_number]),
        )
        assert watch.put(theirs)
        writer.write(b"still here\n")
        assert await reader.readline() == b"still here\n"


async def test_a_status_that_is_no_newer_changes_nothing(ca, watch):
    async with talking(ca, server=watch) as (reader, writer):
        status = watch.agent_status(ca.trust_domain)
        assert not watch.put(status)
        with pytest.raises(StatusUnknownError):
            watch.say(sequence=0, suspended=frozenset([ID]))
        writer.write(b"still here\n")
        assert await reader.readline() == b"still here\n"


async def test_many_are_cut_in_one_go(ca, watch):
    accepting = mtls_server_context(update(ca.issue(SERVER), trusts=[ca]), everybody, status=watch)
    calling = mtls_client_context(update(ca.issue(CLIENT), trusts=[ca]), everybody)
    async with echo_server(accepting, []) as port:
        opened = [await asyncio.open_connection("127.0.0.1", port, ssl=calling) for _ in range(50)]
        await until(lambda: len(watch) == 50)
        began = time.monotonic()
        watch.say(suspended=frozenset([ID]))
        async with asyncio.timeout(AT_ONCE):
            ends = await asyncio.gather(*(reader.read() for reader, _ in opened), return_exceptions=True)
        assert time.monotonic() - began < AT_ONCE
        assert all(end == b"" or isinstance(end, OSError) for end in ends)
        for _, writer in opened:
            writer.transport.abort()


async def test_who_hangs_up_is_forgotten(ca, watch):
    for _ in range(3):
        async with talking(ca, server=watch, client=watch):
            assert len(watch) == 2

    def nobody():
        gc.collect()
        return len(watch) == 0

    await until(nobody)


def _pair(ca, watch, *, svid=None):
    """Two ends of TLS over memory, of which the server has a watch."""
    client_io, server_io = [(ssl.MemoryBIO(), ssl.MemoryBIO()) for _ in range(2)]
    client = mtls_client_context(update(svid or ca.issue(CLIENT), trusts=[ca]), everybody).wrap_bio(
        *client_io
    )
    server = mtls_server_context(update(ca.issue(SERVER), trusts=[ca]), everybody, status=watch).wrap_bio(
        *server_io, server_side=True
    )

    def pump():
        server_io[0].write(client_io[1].read())
        client_io[0].write(server_io[1].read())

    for step in (client, server, client, server):
        with contextlib.suppress(ssl.SSLWantReadError):
            step.do_handshake()
        pump()
    return client, server, pump


def test_no_byte_passes_even_if_nobody_can_close_the_connection(ca, watch):
    """Of a TLS object that is not asyncio's, the transport is not known."""
    client, server, pump = _pair(ca, watch)
    client.write(b"before")
    pump()
    assert server.read() == b"before"
    client.write(b"after")
    pump()
    watch.say(retired=frozenset([ID]))
    for act in (server.read, lambda: server.write(b"secret")):
        with pytest.raises(PeerRefusedError, match=f"peer refused: {CLIENT} is retired"):
            act()


async def test_a_loop_that_has_ended_is_no_trouble(ca, watch):
    connection = await asyncio.to_thread(asyncio.run, _left_open(ca, watch))
    watch.say(suspended=frozenset([ID]))
    with pytest.raises(PeerRefusedError):
        connection.read()


async def _left_open(ca, watch):
    _, server, _ = _pair(ca, watch)
    return server


class Connection:
    """One that can be cut, and does what `cutting` does then."""

    loop = None
    reason = None
    cutting = staticmethod(lambda: None)

    def cut(self, reason):
        self.reason = reason
        self.cutting()


def test_a_connection_may_go_while_others_are_cut(ca, watch):
    svid = ca.issue(CLIENT)
    live = [Connection(), Connection()]
    for connection in live:
        watch.admit(connection, Peer(ID, svid.serial_number, svid.not_before, svid.expires_at))
    live[0].cutting = live.clear
    del connection
    watch.say(suspended=frozenset([ID]))
    assert (live, len(watch)) == ([], 0)


def test_a_status_that_comes_during_the_handshake_counts(ca):
    """The connection is known before it is judged, so that either the judgement or the status finds it."""

    class Clock(FakeClock):
        told = False

        def now(self):
            if not self.told and len(watch):
                self.told = True
                watch.say(suspended=frozenset([ID]))
            return super().now()

    watch = PeerWatch()
    clock = Clock(datetime.now(UTC))
    watch = Watch(ca, clock)
    connection, svid = Connection(), ca.issue(CLIENT)
    with pytest.raises(RevokedError):
        watch.admit(connection, Peer(ID, svid.serial_number, svid.not_before, svid.expires_at))
    assert isinstance(connection.reason, RevokedError)
    assert len(watch) == 0


# Threads.


def _serving_in_a_thread(context, handle):
    listening = socket.create_server(("127.0.0.1", 0))
    port = listening.getsockname()[1]
    ended = []

    def serve():
        with listening, context.wrap_socket(listening, server_side=True) as secured:
            try:
                connection, _ = secured.accept()
                with connection:
                    handle(connection)
            except OSError as error:
                ended.append(error)

    thread = threading.Thread(target=serve)
    thread.start()
    return port, thread, ended


@pytest.mark.parametrize(
    "act", [lambda c: c.recv(1), lambda c: c.recv_into(bytearray(1))], ids=["recv", "recv_into"]
)
def test_a_thread_that_waits_for_who_is_listed_is_woken_by_an_error(ca, watch, act):
    waiting = threading.Event()

    def handle(connection):
        connection.sendall(b"go")
        waiting.set()
        act(connection)

    server = mtls_server_context(update(ca.issue(SERVER), trusts=[ca]), everybody, status=watch)
    port, thread, ended = _serving_in_a_thread(server, handle)
    client = mtls_client_context(update(ca.issue(CLIENT), trusts=[ca]), everybody)
    with (
        socket.create_connection(("127.0.0.1", port), timeout=AT_ONCE) as plain,
        client.wrap_socket(plain) as secured,
    ):
        assert secured.recv(2) == b"go"
        assert waiting.wait(AT_ONCE)
        watch.say(suspended=frozenset([ID]))
        with contextlib.suppress(ssl.SSLError, ConnectionError):
            assert secured.recv(1) == b""
        thread.join(AT_ONCE)
    (error,) = ended
    assert isinstance(error, PeerRefusedError)
    assert isinstance(error.__cause__, RevokedError)


@pytest.mark.parametrize(
    "act",
    [
        lambda s: s.send(b"secret"),
        lambda s: s.sendall(b"secret"),
        lambda s: s.write(b"secret"),
        lambda s: s.recv(1),
    ],
    ids=["send", "sendall", "write", "recv"],
)
def test_a_socket_that_was_cut_passes_nothing(ca, watch, act):
    done = threading.Event()
    server = mtls_server_context(update(ca.issue(SERVER), trusts=[ca]), everybody)
    port, thread, _ = _serving_in_a_thread(server, lambda _: done.wait(AT_ONCE))
    client = mtls_client_context(update(ca.issue(CLIENT), trusts=[ca]), everybody, status=watch)
    with (
        socket.create_connection(("127.0.0.1", port), timeout=AT_ONCE) as plain,
        client.wrap_socket(plain) as secured,
    ):
        watch.say(suspended=frozenset([SpiffeId.parse(SERVER)]))
        with pytest.raises(PeerRefusedError, match="is suspended"):
            act(secured)
        secured.close()
        secured.cut(RevokedError("again"))  # of what is closed already
        done.set()
    thread.join(AT_ONCE)


# Tokens.


def test_a_token_is_judged_by_the_status_as_well(ca, other_ca, watch):
    token = JwtSvid.parse_unverified(ca.jwt(CLIENT, claims={"jti": "j"}))
    watch.check_token(token)
    for fields in ({"suspended": frozenset([ID])}, {"jtis": frozenset(["j"])}):
        watch.say(**fields)
        with pytest.raises(RevokedError):
            watch.check_token(token)
    theirs = JwtSvid.parse_unverified(other_ca.jwt("spiffe://other.test/x"))
    with pytest.raises(StatusUnknownError):
        watch.check_token(theirs)
    Watch(ca, without_status=[other_ca.trust_domain]).check_token(theirs)

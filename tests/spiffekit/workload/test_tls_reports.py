# SPDX-License-Identifier: Apache-2.0
"""Whoever a context lets in or refuses is told to its reporter, and by whom and why."""

import asyncio
import socket

import pytest

from spiffekit.errors import RevokedError
from spiffekit.id import SpiffeId
from spiffekit.workload import PeerRefusedError, exact, mtls_client_context, mtls_server_context
from spiffekit.workload.reporting import Verification
from tests.spiffekit.workload.test_tls import ask, connected, echo_server, everybody, update

CLIENT, SERVER = "spiffe://example.org/client", "spiffe://example.org/server"


class Told(list):
    """A reporter that a test reads."""

    report = list.append


class Listing:
    """A status that has taken everybody back."""

    def admit(self, _connection, peer):
        raise RevokedError(f"{peer.spiffe_id} is suspended")


@pytest.fixture
def both(ca):
    """Updates of a client and of a server."""
    return update(ca.issue(CLIENT), trusts=[ca]), update(ca.issue(SERVER), trusts=[ca])


async def test_both_sides_tell_of_whom_they_let_in(both):
    (client, server), at_client, at_server = both, Told(), Told()
    context = mtls_server_context(server, everybody, reporter=at_server)
    async with echo_server(context) as port:
        tls = mtls_client_context(client, exact(SpiffeId.parse(SERVER)), reporter=at_client)
        async with connected(port, tls) as (reader, writer):
            await ask(reader, writer)
    for told, peer, update_ in ((at_client, SERVER, server), (at_server, CLIENT, client)):
        serial = update_.svids[0].serial_number
        assert told == [Verification(kind="mtls", allowed=True, peer=SpiffeId.parse(peer), serial=serial)]


async def test_who_is_refused_is_told_with_the_reason(both):
    (client, server), told = both, Told()
    context = mtls_client_context(client, exact(SpiffeId.parse(CLIENT)), reporter=told)
    async with echo_server(mtls_server_context(server, everybody)) as port:
        with pytest.raises(PeerRefusedError):
            async with connected(port, context):
                pass
    assert told == [Verification(kind="mtls", allowed=False, reason=f"{SERVER} is not authorised")]


async def test_who_is_taken_back_is_told_by_its_certificate(both):
    (client, server), told = both, Told()
    context = mtls_client_context(client, everybody, status=Listing(), reporter=told)
    async with echo_server(mtls_server_context(server, everybody)) as port:
        with pytest.raises(PeerRefusedError):
            async with connected(port, context):
                pass
    (one,) = told
    assert (one.allowed, one.reason) == (False, f"{SERVER} is suspended")
    assert (str(one.peer), one.serial) == (SERVER, server.svids[0].serial_number)


async def test_plain_sockets_tell_too(both):

    (client, server), told = both, Told()
    context = mtls_client_context(client, everybody, reporter=told)

    def connect(port):
        with socket.create_connection(("127.0.0.1", port)) as plain, context.wrap_socket(plain):
            pass

    async with echo_server(mtls_server_context(server, everybody)) as port:
        await asyncio.to_thread(connect, port)
    assert [str(one.peer) for one in told] == [SERVER]

# SPDX-License-Identifier: Apache-2.0
"""What was taken back, over HTTPS."""

import asyncio
import contextlib
import ssl
from datetime import timedelta

import pytest

from deploy.local import free_port
from issuer.api import status_endpoint
from issuer.config import StatusEndpointTable
from issuer.model import AuthorityKind
from spiffekit.bundle import BundleSet
from spiffekit.crl import RevocationList
from spiffekit.daemon.http import Peer, request
from spiffekit.status import AgentStatus
from spiffekit.wire import tls
from tests.issuer_api.world import TRUST_DOMAIN


@pytest.fixture
async def peer(world):
    def context():
        made = tls.server_context(world.identity.x509_svid(), (), alpn=("http/1.1",))
        made.verify_mode = ssl.CERT_NONE
        return made

    table = StatusEndpointTable(address="127.0.0.1", port=free_port())
    ready = asyncio.Event()
    running = asyncio.create_task(status_endpoint.serve(table, world.publisher, context)(ready.set))
    await ready.wait()
    trusting = ssl.create_default_context()
    trusting.check_hostname, trusting.verify_mode = False, ssl.CERT_NONE
    yield Peer("127.0.0.1", table.port, trusting)
    running.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await running


async def get(peer, target):
    async with asyncio.timeout(10), request(peer, "GET", target) as answer:
        return answer.status, answer.header("content-type"), await answer.body(100_000)


async def test_nothing_is_known_before_it_is_published(peer):
    assert (await get(peer, "/status"))[0] == 503


async def test_whoever_asks_gets_what_is_published(world, peer):
    assert await world.publisher._publish()
    bundle = world.registrations.bundle(TRUST_DOMAIN)
    status, kind, token = await get(peer, "/status")
    assert (status, kind) == (200, "application/jwt")
    said = AgentStatus.verify(token.decode(), BundleSet([bundle]), now=world.clock.now())
    assert said.expires_at - said.issued_at == timedelta(seconds=90)
    key_id = world.authorities.slots(AuthorityKind.X509).active.id
    assert (await get(peer, "/crls"))[2].decode() == f"{key_id}\n"
    status, kind, crl = await get(peer, f"/crl/{key_id}")
    assert (status, kind) == (200, "application/pkix-crl")
    assert RevocationList.verify(crl, bundle).authority_key_id == key_id
    for target in ("/", "/crl", "/crl/", f"/crl/{key_id.upper()}", f"/crls/{key_id}", "/status?x=1"):
        assert (await get(peer, target))[0] == 404

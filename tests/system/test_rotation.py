# SPDX-License-Identifier: Apache-2.0
"""Short lives: authorities of a minute, SVIDs of ten seconds, and nobody notices."""

import asyncio
import time

import pytest

from spiffekit.workload import (
    X509Source,
    member_of,
    mtls_client_context,
    mtls_server_context,
)
from tests.system.conftest import UID

CHECKS = 15
EVERY = 4.0  # seconds: the checks span one whole life of an authority


@pytest.fixture(scope="module")
def settings():
    return {"issuer": {"ca_ttl": "60s", "default_x509_svid_ttl": "10s"}}


async def _echo(reader, writer):
    while line := await reader.readline():
        writer.write(line)
        await writer.drain()
    writer.close()


async def test_no_check_fails_while_svids_and_authorities_rotate(local, attestor):
    local.register("/rotating", attestor.node_id, UID)
    leaves, authorities = set(), set()
    async with X509Source.open(attestor.endpoint) as source:
        everyone = member_of(source.x509_svid().spiffe_id.trust_domain)
        server = await asyncio.start_server(_echo, "127.0.0.1", 0, ssl=mtls_server_context(source, everyone))
        port = server.sockets[0].getsockname()[1]
        client = mtls_client_context(source, everyone)
        kept = await asyncio.open_connection("127.0.0.1", port, ssl=client)
        began = time.monotonic()
        for check in range(1, CHECKS + 1):
            await asyncio.sleep(began + check * EVERY - time.monotonic())
            fresh = await asyncio.open_connection("127.0.0.1", port, ssl=client)
            for reader, writer in (kept, fresh):
                writer.write(b"hello\n")
                assert await asyncio.wait_for(reader.readline(), 5) == b"hello\n"
            fresh[1].close()
            svid = source.x509_svid()
            leaves.add(svid.serial_number)
            authorities.add(svid.leaf.issuer.rfc4514_string())
        kept[1].close()
        server.close()
    assert len(leaves) >= CHECKS * EVERY / 10
    assert len(authorities) >= 2, "the authority has changed as well"

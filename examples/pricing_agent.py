# SPDX-License-Identifier: Apache-2.0
"""An agent that answers another one over mTLS. It holds no secret: its identity comes from what it is.

SPIFFE_ENDPOINT_SOCKET=unix:///run/attestor/public/api.sock python pricing_agent.py 8443
"""

import asyncio
import contextlib
import sys

from spiffekit.id import SpiffeId
from spiffekit.workload import (
    StatusSource,
    X509Source,
    X509Update,
    exact,
    mtls_server_context,
    peer_spiffe_id,
)

CUSTOMER = SpiffeId.parse("spiffe://example.org/agents/booking")


def rotated(update: X509Update) -> None:
    for svid in update.svids:
        print(f"certificate {svid.serial_number:x} {svid.spiffe_id}", flush=True)


async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    customer = peer_spiffe_id(writer)  # verified before the first byte
    with contextlib.suppress(OSError):  # it is cut off when its agent is taken back
        while await reader.readline():
            writer.write(f"42 EUR for {customer}\n".encode())
            await writer.drain()
    writer.close()


async def main(port: int) -> None:
    async with X509Source.open(on_update=rotated) as source, StatusSource.open() as status:
        context = mtls_server_context(source, exact(CUSTOMER), status=status)
        server = await asyncio.start_server(serve, "127.0.0.1", port, ssl=context)
        print("listening", flush=True)
        async with server:
            await server.serve_forever()


asyncio.run(main(int(sys.argv[1])))

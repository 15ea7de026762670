# SPDX-License-Identifier: Apache-2.0
"""An agent that asks another one for a price over mTLS, again and again, on one connection and on new ones.

SPIFFE_ENDPOINT_SOCKET=unix:///run/attestor/public/api.sock python booking_agent.py 8443
"""

import asyncio
import sys
from ssl import SSLContext

from spiffekit.errors import NoIdentityIssuedError
from spiffekit.id import SpiffeId
from spiffekit.workload import X509Source, X509Update, exact, mtls_client_context

SELLER = SpiffeId.parse("spiffe://example.org/agents/pricing")
EVERY = 0.1  # seconds


def rotated(update: X509Update) -> None:
    for svid in update.svids:
        print(f"certificate {svid.serial_number:x} {svid.spiffe_id}", flush=True)
    if not update.svids:
        print("identity taken back", flush=True)


async def ask(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> str:
    writer.write(b"price?\n")
    await writer.drain()
    if not (answer := await reader.readline()):
        raise ConnectionResetError("the other side hung up")
    return answer.decode().strip()


async def talk(context: SSLContext, port: int) -> None:
    kept = await asyncio.open_connection("127.0.0.1", port, ssl=context)
    try:
        while True:
            fresh = await asyncio.open_connection("127.0.0.1", port, ssl=context)
            print(f"answers {await ask(*kept)} | {await ask(*fresh)}", flush=True)
            fresh[1].close()
            await asyncio.sleep(EVERY)
    finally:
        kept[1].close()


async def main(port: int) -> None:
    async with X509Source.open(on_update=rotated) as source:
        context = mtls_client_context(source, exact(SELLER))
        while True:
            try:
                await talk(context, port)
            except NoIdentityIssuedError:
                print("nothing to present", flush=True)
            except OSError as error:  # of TLS, too
                print(f"interrupted {error}", flush=True)
            await asyncio.sleep(EVERY)


asyncio.run(main(int(sys.argv[1])))

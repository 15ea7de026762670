# SPDX-License-Identifier: Apache-2.0
"""A server of tools that asks before each call: was the caller taken back, and does policy permit this tool?

SPIFFE_ENDPOINT_SOCKET=unix:///run/attestor/public/api.sock python tool_server.py 8443

It needs the extra `policy`. A caller sends the name of a tool, a line each, and hears "done" or why not.
Who was let in and who was not, and by which policies, is in the issuer's audit trail.
"""

import asyncio
import sys

from spiffekit.id import SpiffeId, TrustDomain
from spiffekit.workload import (
    PolicySource,
    Reporter,
    StatusSource,
    ToolGate,
    X509Source,
    below,
    mtls_server_context,
    verified_peer,
)

AGENTS = SpiffeId.parse("spiffe://example.org/agent")
MAX_NAME = 256  # bytes


async def main(port: int) -> None:
    async with (
        X509Source.open() as source,
        StatusSource.open() as status,
        PolicySource.open(TrustDomain("example.org")) as policies,
        Reporter.open() as reporter,
    ):
        gate = ToolGate(status=status, policies=policies, reporter=reporter)

        async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            peer = verified_peer(writer)
            try:
                while tool := (await reader.readline()).decode("ascii", "replace").strip():
                    decision = gate.decide(peer, tool)
                    # What an auditor will ask, and finds in the trail: who, what, by which policies.
                    print(
                        "allowed" if decision.allowed else f"denied {decision.denial}",
                        peer.spiffe_id,
                        tool,
                        ",".join(decision.ids) or "-",
                        decision.bundle[:12] or "-",
                        flush=True,
                    )
                    answer = "done" if decision.allowed else f"denied: {decision.reason}"
                    writer.write(f"{answer}\n".encode())
                    await writer.drain()
            except (OSError, ValueError) as error:  # it hung up, was cut off, or sent a line without an end
                print("ended", peer.spiffe_id, error, flush=True)
            finally:
                writer.close()

        context = mtls_server_context(source, below(AGENTS), status=status, reporter=reporter)
        server = await asyncio.start_server(serve, "127.0.0.1", port, ssl=context, limit=MAX_NAME)
        print("serving", server.sockets[0].getsockname()[1], flush=True)
        async with server:
            await server.serve_forever()


asyncio.run(main(int(sys.argv[1])))

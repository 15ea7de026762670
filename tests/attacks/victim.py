# SPDX-License-Identifier: Apache-2.0
"""A program to attack: the public listener with gRPC behind it, put together as the attestor does.

Arguments: the path of its socket. Its service answers calls with what was asked, and streams updates.
"""

import asyncio
import sys
from pathlib import Path

import grpc

from attestor.assembly import MAX_REQUEST, SOCKET_MODE
from attestor.peer import Process
from spiffekit.daemon.listener import UnixFront, inner_socket, server_options

UPDATES = 200  # messages of a stream
UPDATE = b"u" * 16 * 1024  # about an answer with an SVID, a bundle and federated bundles


async def main(path):
    front = UnixFront(path, mode=SOCKET_MODE, identify=Process.of)

    async def echo(request, context):
        front.peer_of(context).require_alive()
        return request

    async def follow(_request, _context):
        for _ in range(UPDATES):
            yield UPDATE

    methods = {
        "Echo": grpc.unary_unary_rpc_method_handler(echo),
        "Follow": grpc.unary_stream_rpc_method_handler(follow),
    }
    with inner_socket() as inner:
        server = grpc.aio.server(options=server_options(MAX_REQUEST))
        server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler("Victim", methods),))
        server.add_insecure_port(f"unix:{inner}")
        await server.start()
        async with front.open(inner):
            await asyncio.Event().wait()


if __name__ == "__main__":
    asyncio.run(main(Path(sys.argv[1])))

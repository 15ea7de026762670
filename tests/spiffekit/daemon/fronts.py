# SPDX-License-Identifier: Apache-2.0
"""A gRPC server behind a listener, whose one method tells who calls."""

import contextlib

import grpc

from spiffekit.daemon.listener import UnknownPeerError, inner_socket, server_options


@contextlib.asynccontextmanager
async def serving(front, tell):
    """Yield the inner socket while `front` is open; `tell` makes bytes of a caller."""

    async def who(_request, context):
        try:
            return tell(front.peer_of(context))
        except UnknownPeerError as error:
            await context.abort(grpc.StatusCode.PERMISSION_DENIED, str(error))

    handlers = {"Who": grpc.unary_unary_rpc_method_handler(who)}
    with inner_socket() as inner:
        server = grpc.aio.server(options=server_options(1024))
        server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler("Test", handlers),))
        server.add_insecure_port(f"unix:{inner}")
        await server.start()
        try:
            async with front.open(inner):
                yield inner
        finally:
            await server.stop(0)

# SPDX-License-Identifier: Apache-2.0
"""From a plain object to a gRPC handler, by the descriptor of the service that it implements."""

from collections.abc import Callable, Mapping
from typing import Any, Final

import grpc
from google.protobuf import message_factory
from google.protobuf.descriptor import ServiceDescriptor

Behaviour = Callable[..., Any]

# By whether the client streams, and whether the server does. No method of ours streams to us alone.
_MAKERS: Final[Mapping[tuple[bool, bool], Callable[..., Any]]] = {
    (False, False): grpc.unary_unary_rpc_method_handler,
    (False, True): grpc.unary_stream_rpc_method_handler,
    (True, True): grpc.stream_stream_rpc_method_handler,
}


def handler(
    service: ServiceDescriptor,
    implementation: object,
    *,
    unary: Callable[[str, Behaviour], Behaviour],
    stream: Callable[[str, Behaviour], Behaviour],
) -> grpc.GenericRpcHandler:
    """Return the handler of a service.

    Args:
        service: Which one.
        implementation: Has an attribute of the name of each method; one that it lacks answers UNIMPLEMENTED.
        unary: Makes what gRPC calls for a method with one answer, from the method's path and that attribute.
        stream: The same for a method that streams answers, whether or not the client streams as well.
    """
    handlers = {}
    for method in service.methods:
        behave = getattr(implementation, method.name, None)
        if behave is None:
            continue
        make = _MAKERS[method.client_streaming, method.server_streaming]
        wrap = stream if method.server_streaming else unary
        request = message_factory.GetMessageClass(method.input_type)
        response = message_factory.GetMessageClass(method.output_type)
        handlers[method.name] = make(
            wrap(f"/{service.full_name}/{method.name}", behave),
            request.FromString,
            response.SerializeToString,
        )
    return grpc.method_handlers_generic_handler(service.full_name, handlers)

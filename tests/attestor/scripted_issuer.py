# SPDX-License-Identifier: Apache-2.0
"""An issuer that says what ours never would, over real gRPC and TLS."""

import contextlib

import grpc
from google.protobuf import message_factory

from attestor.connection import Credentials
from attestor.issuer_client import IssuerClient
from spiffekit.daemon.listener import TlsFront, inner_socket, server_options
from spiffekit.testing import TestCA
from spiffekit.wire import tls
from spiffekit.wire.pb.issuer.v1 import audit_reports_pb2, updates_pb2
from spiffekit.wire.pb.spire.api.server.agent.v1 import agent_pb2
from spiffekit.wire.pb.spire.api.server.bundle.v1 import bundle_pb2
from spiffekit.wire.pb.spire.api.server.entry.v1 import entry_pb2
from spiffekit.wire.pb.spire.api.server.svid.v1 import svid_pb2
from tests.fakes.clock import FakeClock

SERVICES = [
    service
    for module in (audit_reports_pb2, updates_pb2, agent_pb2, bundle_pb2, entry_pb2, svid_pb2)
    for service in module.DESCRIPTOR.services_by_name.values()
]
CA = TestCA("example.org")


def handlers(methods):
    for service in SERVICES:
        found = {m.name: handler(m, methods[m.name]) for m in service.methods if m.name in methods}
        yield grpc.method_handlers_generic_handler(service.full_name, found)


def handler(method, behave):
    """What serves a method: a function of request, or requests, and context."""
    kinds = ("stream" if s else "unary" for s in (method.client_streaming, method.server_streaming))
    make = getattr(grpc, "_".join(kinds) + "_rpc_method_handler")
    request = message_factory.GetMessageClass(method.input_type)
    return make(
        behave, request_deserializer=request.FromString, response_serializer=lambda m: m.SerializeToString()
    )


@contextlib.asynccontextmanager
async def client_of(**methods):
    """A client of an issuer that has these methods and no others."""
    svid = CA.issue("spiffe://example.org/spire/server")
    roots = [a.certificate_der for a in CA.bundle.x509_authorities]
    front = TlsFront(
        "127.0.0.1", 0, context=lambda: tls.server_context(svid, roots), identify=lambda peer: peer
    )
    async with contextlib.AsyncExitStack() as stack:
        inner = stack.enter_context(inner_socket())
        server = grpc.aio.server(options=server_options(1024 * 1024))
        server.add_generic_rpc_handlers(tuple(handlers(methods)))
        server.add_insecure_port(f"unix:{inner}")
        await server.start()
        stack.push_async_callback(server.stop, 0)
        await stack.enter_async_context(front.open(inner))
        credentials = Credentials(CA.bundle, CA.issue("spiffe://example.org/spire/agent/test/n1"))
        client = IssuerClient.open("127.0.0.1", front.port, CA.trust_domain, credentials, FakeClock(CA.now))
        yield await stack.enter_async_context(client)

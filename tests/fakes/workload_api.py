# SPDX-License-Identifier: Apache-2.0
"""A Workload API that says what a test tells it to, over a real gRPC server on a Unix socket."""

import asyncio
from contextlib import asynccontextmanager

import grpc

from spiffekit.wire.pb.attestor.v1 import policies_pb2, status_pb2
from spiffekit.wire.pb.attestor.v1.signer_pb2 import SignProofRequest, SignProofResponse
from spiffekit.wire.pb.attestor.v1.verifications_pb2 import (
    ReportVerificationsRequest,
    ReportVerificationsResponse,
)
from spiffekit.wire.workload_api import SECURITY_HEADER, SERVICE, messages, methods


class FakeWorkloadApi:
    """Streams what `say` was told last; `refuse` ends streams with a status, and `end` without one."""

    def __init__(self):
        self.messages = messages()
        self.calls = []  # (method, metadata)
        self.deadlines = []  # of streams, in seconds from when they were opened
        self.answers = {}  # of unary methods
        self._now = {}
        self._changed = asyncio.Event()
        self._refusal = None
        self._ended = False

    def say(self, name, message):
        self._refusal, self._ended = None, False
        self._now[name] = message
        self._notify()

    def say_status(self, token):
        """What was taken back, as our attestor says it beside the Workload API."""
        self.say("Status/Watch", status_pb2.WatchResponse(status=token))

    def say_policies(self, token):
        """Which policies hold, likewise."""
        self.say("Policies/Watch", policies_pb2.WatchPoliciesResponse(bundle=token))

    def refuse(self, code, details=""):
        self._refusal = (code, details)
        self._notify()

    def end(self):
        self._ended = True
        self._notify()

    def _notify(self):
        changed, self._changed = self._changed, asyncio.Event()
        changed.set()

    async def _take(self, name, context):
        metadata = dict(context.invocation_metadata())
        self.calls.append((name, metadata))
        key, value = SECURITY_HEADER
        if metadata.get(key) != value:
            await context.abort(grpc.StatusCode.INVALID_ARGUMENT, "security header missing from request")

    def called(self, name):
        return sum(1 for method, _ in self.calls if method == name)

    def _stream(self, name):
        async def handle(_request, context):
            await self._take(name, context)
            self.deadlines.append(context.time_remaining())
            sent = None
            while True:
                changed = self._changed
                if self._refusal is not None:
                    await context.abort(*self._refusal)
                if self._ended:
                    return
                if name in self._now and self._now[name] is not sent:
                    sent = self._now[name]
                    yield sent
                await changed.wait()

        return handle

    def _unary(self, name):
        async def handle(request, context):
            await self._take(name, context)
            if self._refusal is not None:
                await context.abort(*self._refusal)
            return self.answers[name](request)

        return handle

    @asynccontextmanager
    async def serving(self, path):
        server = grpc.aio.server()
        handlers = {}
        for name, method in methods().items():
            if "WIT" in name and name not in self._now:
                continue  # the profile is switched off
            kind = (
                grpc.unary_stream_rpc_method_handler
                if method.streaming
                else grpc.unary_unary_rpc_method_handler
            )
            behave = self._stream(name) if method.streaming else self._unary(name)
            handlers[name] = kind(behave, method.request.FromString, lambda m: m.SerializeToString())
        status, policies = (
            grpc.unary_stream_rpc_method_handler(
                self._stream(name), bytes, lambda message: message.SerializeToString()
            )
            for name in ("Status/Watch", "Policies/Watch")
        )
        server.add_generic_rpc_handlers(
            (
                grpc.method_handlers_generic_handler(SERVICE, handlers),
                grpc.method_handlers_generic_handler("attestor.v1.Status", {"Watch": status}),
                grpc.method_handlers_generic_handler("attestor.v1.Policies", {"Watch": policies}),
            )
        )
        for service, name, request, response in (
            ("Signer", "SignProof", SignProofRequest, SignProofResponse),
            ("Verifications", "Report", ReportVerificationsRequest, ReportVerificationsResponse),
        ):
            if name in self.answers:
                behave = grpc.unary_unary_rpc_method_handler(
                    self._unary(name), request.FromString, response.SerializeToString
                )
                added = grpc.method_handlers_generic_handler(f"attestor.v1.{service}", {name: behave})
                server.add_generic_rpc_handlers((added,))
        server.add_insecure_port(f"unix:{path}")
        await server.start()
        try:
            yield f"unix://{path}"
        finally:
            await server.stop(0)

# SPDX-License-Identifier: Apache-2.0
"""What was taken back, for local verifiers, on the public socket beside the Workload API.

Any process may ask: what is told is signed, and no secret. The rules of the socket hold, and the answer is
rendered once for all.
"""

from collections.abc import AsyncIterator

import grpc

from attestor.cache import Cache
from attestor.endpoints.admission import Admission, Context
from attestor.revocation import TakenBack
from spiffekit.wire.pb.attestor.v1 import status_pb2
from spiffekit.wire.status import abort


class Status:
    """See the module."""

    def __init__(self, cache: Cache, admission: Admission) -> None:
        self._cache = cache
        self._admission = admission
        self._rendered: tuple[TakenBack, bytes] | None = None

    def handler(self) -> grpc.GenericRpcHandler:
        """Return the gRPC handler of the service."""
        service = status_pb2.DESCRIPTOR.services_by_name["Status"]
        watch = grpc.unary_stream_rpc_method_handler(
            self._watch, status_pb2.WatchRequest.FromString, lambda rendered: rendered
        )
        return grpc.method_handlers_generic_handler(service.full_name, {"Watch": watch})

    async def _watch(self, _request: status_pb2.WatchRequest, context: Context) -> AsyncIterator[bytes]:
        try:
            process = self._admission.admit(context)
            with self._admission.streaming(process), self._cache.watching_revocations() as watcher:
                while True:
                    yield self._message()
                    await watcher.wait()
                    process.require_alive()
        except Exception as error:  # noqa: BLE001 - the RPC boundary: every error becomes a status
            await abort(context, self._admission.refuse(error))

    def _message(self) -> bytes:
        taken = self._cache.taken_back
        if self._rendered is None or self._rendered[0] is not taken:
            message = status_pb2.WatchResponse(status=taken.token, crls=taken.crls)
            self._rendered = (taken, message.SerializeToString())
        return self._rendered[1]

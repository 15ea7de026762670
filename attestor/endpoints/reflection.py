# SPDX-License-Identifier: Apache-2.0
"""Server reflection on the public socket (Workload_Endpoint §7), under the rules of any other call there."""

from collections.abc import AsyncIterator
from typing import Any

import grpc
from google.protobuf import descriptor_pool
from grpc_reflection.v1alpha import reflection, reflection_pb2  # type: ignore[import-untyped]

from attestor.endpoints.admission import Admission, Context
from attestor.peer import Process
from spiffekit.wire.status import abort
from spiffekit.wire.workload_api import SERVICE, messages


class Reflection:
    """See the module. The Workload API is described from its own pool, which nothing else is in."""

    def __init__(self, admission: Admission) -> None:
        self._admission = admission
        names = (SERVICE, reflection.SERVICE_NAME)
        self._servicer = reflection.aio.ReflectionServicer(names, pool=_pool())

    def handler(self) -> grpc.GenericRpcHandler:
        """Return the gRPC handler of the service."""
        info = grpc.stream_stream_rpc_method_handler(
            self._answer,
            reflection_pb2.ServerReflectionRequest.FromString,
            reflection_pb2.ServerReflectionResponse.SerializeToString,
        )
        return grpc.method_handlers_generic_handler(reflection.SERVICE_NAME, {"ServerReflectionInfo": info})

    async def _answer(self, requests: AsyncIterator[Any], context: Context) -> AsyncIterator[Any]:
        try:
            process = self._admission.admit(context)
            with self._admission.streaming(process):
                charged = self._charged(requests, process)
                async for answer in self._servicer.ServerReflectionInfo(charged, context):
                    yield answer
        except Exception as error:  # noqa: BLE001 - the RPC boundary: every error becomes a status
            await abort(context, self._admission.refuse(error).status)

    async def _charged(self, requests: AsyncIterator[Any], process: Process) -> AsyncIterator[Any]:
        """Pass requests on, each as a call of its own: a stream may have any number of them."""
        async for request in requests:
            self._admission.charge(process)
            yield request


def _pool() -> descriptor_pool.DescriptorPool:
    workload = messages()["X509SVIDRequest"].DESCRIPTOR.file
    pool = descriptor_pool.DescriptorPool()
    for file in (*workload.dependencies, workload, reflection_pb2.DESCRIPTOR):
        pool.AddSerializedFile(file.serialized_pb)
    return pool

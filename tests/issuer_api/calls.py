# SPDX-License-Identifier: Apache-2.0
"""Calls as clients make them: any method of any service by its descriptor, and raw HTTP/2."""

import asyncio
import contextlib

import grpc
import h2.config
import h2.connection
import h2.events
import pytest
from google.protobuf import any_pb2, descriptor_pb2, descriptor_pool, message_factory

from spiffekit.wire.pb.spire.api import types_pb2

WITHIN = 20  # seconds; nothing here waits for anybody


def paths(*services):
    return [f"/{service.full_name}/{method.name}" for service in services for method in service.methods]


async def call_empty(channel, method):
    """Call any method with an empty request, or with none on a stream of requests; return its status.

    Of a stream of answers the first one is enough.
    """
    path = f"/{method.containing_service.full_name}/{method.name}"
    kinds = (
        "stream" if streams else "unary" for streams in (method.client_streaming, method.server_streaming)
    )
    stub = getattr(channel, "_".join(kinds))(
        path, lambda message: message.SerializeToString(), lambda data: data
    )
    request = message_factory.GetMessageClass(method.input_type)()
    call = stub(iter(()) if method.client_streaming else request, timeout=WITHIN)
    with contextlib.suppress(grpc.aio.AioRpcError):
        if method.server_streaming:
            async for _ in call:
                call.cancel()  # it was answered, and what follows may have no end
                return grpc.StatusCode.OK, ""
        else:
            await call
    return await call.code(), await call.details()


@contextlib.contextmanager
def refused(code, message=None):
    """Expect a call to be refused, with exactly this message if one is given."""
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        yield caught
    assert caught.value.code() is code, caught.value.details()
    if message is not None:
        assert caught.value.details() == message


def _status_class():
    """google.rpc.Status, of which we use three fields."""
    file = descriptor_pb2.FileDescriptorProto(
        name="status.proto", package="google.rpc", syntax="proto3", dependency=["google/protobuf/any.proto"]
    )
    message = file.message_type.add(name="Status")
    message.field.add(name="code", number=1, type=5, label=1)
    message.field.add(name="message", number=2, type=9, label=1)
    message.field.add(name="details", number=3, type=11, label=3, type_name=".google.protobuf.Any")
    pool = descriptor_pool.DescriptorPool()
    pool.AddSerializedFile(any_pb2.DESCRIPTOR.serialized_pb)
    pool.Add(file)
    return message_factory.GetMessageClass(pool.FindMessageTypeByName("google.rpc.Status"))


RpcStatus = _status_class()


def denial_reason(error):
    """The reason that SPIRE's API gives a node in the details of a refusal."""
    (packed,) = [value for key, value in error.trailing_metadata() if key == "grpc-status-details-bin"]
    status = RpcStatus.FromString(packed)
    assert status.code == error.code().value[0]
    assert status.message == error.details()
    (detail,) = status.details
    assert detail.type_url == "type.googleapis.com/spire.api.types.PermissionDeniedDetails"
    reason = types_pb2.PermissionDeniedDetails.FromString(detail.value).reason
    return types_pb2.PermissionDeniedDetails.Reason.Name(reason)


async def call_raw(reader, writer, path, body=b""):
    """Make one gRPC call with a `:path` of exactly these bytes; return its grpc-status, or None."""
    config = h2.config.H2Configuration(
        client_side=True, validate_outbound_headers=False, normalize_outbound_headers=False
    )
    connection = h2.connection.H2Connection(config)
    connection.initiate_connection()
    stream = connection.get_next_available_stream_id()
    headers = [
        (b":method", b"POST"),
        (b":scheme", b"http"),
        (b":path", path),
        (b":authority", b"localhost"),
        (b"te", b"trailers"),
        (b"content-type", b"application/grpc"),
    ]
    connection.send_headers(stream, headers)
    connection.send_data(stream, b"\0" + len(body).to_bytes(4) + body, end_stream=True)
    writer.write(connection.data_to_send())
    found = {}
    async with asyncio.timeout(WITHIN):
        while data := await reader.read(65536):
            for event in connection.receive_data(data):
                if isinstance(event, h2.events.ResponseReceived | h2.events.TrailersReceived):
                    found |= dict(event.headers)
                if isinstance(
                    event, h2.events.StreamEnded | h2.events.StreamReset | h2.events.ConnectionTerminated
                ):
                    status = found.get(b"grpc-status")
                    return None if status is None else int(status)
            writer.write(connection.data_to_send())
    return None

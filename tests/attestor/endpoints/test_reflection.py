# SPDX-License-Identifier: Apache-2.0
"""Reflection tells what the public socket serves, under the rules that hold for every call there."""

import os

import grpc
import pytest
from google.protobuf.descriptor_pb2 import FileDescriptorProto
from grpc_reflection.v1alpha import reflection_pb2, reflection_pb2_grpc

from attestor.endpoints.admission import CALLS_AT_ONCE, MAX_STREAMS_PER_UID
from tests.attestor.endpoints.conftest import until
from tests.attestor.endpoints.world import HEADER, WITHIN, Client, ended, read

Code = grpc.StatusCode
REFLECTION = "grpc.reflection.v1alpha.ServerReflection"
SERVICES = {"list_services": ""}


def converse(client, metadata=HEADER):
    stub = reflection_pb2_grpc.ServerReflectionStub(client.channel)
    return stub.ServerReflectionInfo(metadata=metadata, timeout=WITHIN)


async def ask(stream, fields):
    """Say one thing and hear the answer: what is sent to a stream that has ended hides why it did."""
    await stream.write(reflection_pb2.ServerReflectionRequest(**fields))
    return await read(stream)


def files(answer):
    found = answer.file_descriptor_response.file_descriptor_proto
    return {file.name: file for file in map(FileDescriptorProto.FromString, found)}


@pytest.mark.requirement("WEP-27", "WEP-25")
async def test_the_services_are_listed_and_described(world):
    async with world.serving() as client:
        stream = converse(client)
        listed = await ask(stream, SERVICES)
        workload = await ask(stream, {"file_containing_symbol": "SpiffeWorkloadAPI"})
        itself = await ask(stream, {"file_containing_symbol": REFLECTION})
        await stream.done_writing()
        assert await stream.read() is grpc.aio.EOF
    assert {service.name for service in listed.list_services_response.service} == {
        "SpiffeWorkloadAPI",
        REFLECTION,
    }
    (service,) = (service for file in files(workload).values() for service in file.service)
    assert len(service.method) == 7
    assert "google/protobuf/struct.proto" in files(workload)
    assert any(file.service for file in files(itself).values())


async def test_nothing_else_of_this_process_is_described(world):
    async with world.serving() as client:
        answer = await ask(converse(client), {"file_containing_symbol": "attestor.v1.Admin"})
    assert answer.error_response.error_code == Code.NOT_FOUND.value[0]


@pytest.mark.requirement("WEP-07", "WEP-18")
async def test_without_the_security_header_nothing_is_described(world):
    async with world.serving() as client:
        refusal = await ended(converse(client, metadata=()))
    assert refusal == (Code.INVALID_ARGUMENT, "security header missing from request")


async def test_a_call_round_the_listener_is_denied(world):
    async with world.serving(), Client.connect(f"unix:{world.front._inner}") as round_it:
        assert (await ended(converse(round_it)))[0] is Code.PERMISSION_DENIED


async def test_each_request_counts_as_a_call(world):
    async with world.serving() as client:
        world.admission._calls.spend(os.geteuid(), int(CALLS_AT_ONCE) - 4)
        stream = converse(client)
        for _ in range(3):
            assert (await ask(stream, SERVICES)).list_services_response.service
        with pytest.raises(grpc.aio.AioRpcError, match="too many requests") as caught:
            await ask(stream, SERVICES)
    assert caught.value.code() is Code.UNAVAILABLE


async def test_each_stream_counts_as_a_stream(world):
    async with world.serving() as client:
        world.admission._streams[os.geteuid()] = MAX_STREAMS_PER_UID
        assert await ended(converse(client)) == (Code.UNAVAILABLE, "too many streams of this user")
        world.admission._streams.clear()
        stream = converse(client)
        await ask(stream, SERVICES)
        stream.cancel()
        await until(lambda: not world.admission._streams)

# SPDX-License-Identifier: Apache-2.0
"""The messages and methods of the Workload API, from a descriptor pool of our own.

The standard's file has no package, so its symbols clash with those of any other library that loads it
into protobuf's default pool. A private pool speaks the same bytes and lives beside them.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from importlib import resources
from types import MappingProxyType
from typing import Final

from google.protobuf import descriptor_pb2, descriptor_pool, message_factory
from google.protobuf.message import Message

SERVICE: Final = "SpiffeWorkloadAPI"
SECURITY_HEADER: Final = ("workload.spiffe.io", "true")  # Workload_Endpoint §3
ENDPOINT_VARIABLE: Final = "SPIFFE_ENDPOINT_SOCKET"  # Workload_Endpoint §4


@dataclass(frozen=True, slots=True)
class Method:
    """One method: its gRPC path, its messages, and whether it streams its answers."""

    name: str
    path: str
    request: type[Message]
    response: type[Message]
    streaming: bool


@cache
def messages() -> Mapping[str, type[Message]]:
    """Return the message classes by name."""
    packaged = resources.files("spiffekit.wire.pb").joinpath("workload.binpb").read_bytes()
    pool = descriptor_pool.DescriptorPool()
    for file in descriptor_pb2.FileDescriptorSet.FromString(packaged).file:
        pool.Add(file)
    found = message_factory.GetMessageClassesForFiles(["spiffekit/wire/pb/workload.proto"], pool)
    return MappingProxyType(found)


@cache
def methods() -> Mapping[str, Method]:
    """Return the methods by name."""
    classes = messages()
    file = classes["X509SVIDRequest"].DESCRIPTOR.file
    service = file.services_by_name[SERVICE]
    return MappingProxyType(
        {
            method.name: Method(
                method.name,
                f"/{SERVICE}/{method.name}",
                classes[method.input_type.name],
                classes[method.output_type.name],
                method.server_streaming,
            )
            for method in service.methods
        }
    )


def method(name: str) -> Method:
    """Return one method, by name."""
    return methods()[name]

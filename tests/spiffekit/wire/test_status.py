# SPDX-License-Identifier: Apache-2.0
"""From errors to gRPC status: what a peer may see, and nothing else."""

import grpc
import pytest
from google.protobuf import any_pb2, descriptor_pb2, descriptor_pool, message_factory
from grpc.aio import AbortError

from spiffekit import errors
from spiffekit.wire import status
from spiffekit.wire.pb.spire.api import types_pb2

Code = grpc.StatusCode


class TeapotError(Exception):
    pass


class LidError(TeapotError):
    pass


TABLE = status.StatusTable({TeapotError: Code.UNAVAILABLE})


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (errors.SpiffeIdError("x"), Code.INVALID_ARGUMENT),
        (errors.SelectorError("x"), Code.INVALID_ARGUMENT),
        (errors.BundleError("x"), Code.INVALID_ARGUMENT),
        (errors.SvidError("x"), Code.INVALID_ARGUMENT),
        (errors.X509SvidError("x"), Code.INVALID_ARGUMENT),
        (errors.JwtSvidError("x"), Code.INVALID_ARGUMENT),
        (errors.UnsupportedKeyError("x"), Code.INVALID_ARGUMENT),
        (errors.UntrustedError("x"), Code.INVALID_ARGUMENT),
        (errors.UnknownTrustDomainError("x"), Code.INVALID_ARGUMENT),
        (errors.ExpiredError("x"), Code.INVALID_ARGUMENT),
        (errors.AudienceError("x"), Code.INVALID_ARGUMENT),
        (TeapotError("x"), Code.UNAVAILABLE),
        (LidError("x"), Code.UNAVAILABLE),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, Exception) else value.name,
)
def test_an_error_in_the_table_is_shown(error, code):
    assert TABLE.status_of(error) == status.Status(code, "x")


@pytest.mark.parametrize(
    "error",
    [
        ValueError("secret"),
        RuntimeError("secret"),
        errors.SpiffeError("secret"),
        OSError("secret"),
        KeyError("secret"),
    ],
    ids=lambda error: type(error).__name__,
)
def test_an_error_outside_the_table_says_nothing(error):
    assert TABLE.status_of(error) == status.Status(Code.INTERNAL, "internal error")


def test_a_daemon_may_judge_a_callers_input_otherwise():
    table = status.StatusTable({errors.ExpiredError: Code.UNAUTHENTICATED})
    assert table.status_of(errors.ExpiredError("x")).code is Code.UNAUTHENTICATED
    assert table.status_of(errors.AudienceError("x")).code is Code.INVALID_ARGUMENT


def test_a_message_is_bounded():
    assert len(TABLE.status_of(TeapotError("x" * 10_000)).message) == status.MAX_MESSAGE


def rpc_status():
    """Return google.rpc.Status, which no dependency of ours brings along."""
    file = descriptor_pb2.FileDescriptorProto(name="status.proto", package="google.rpc", syntax="proto3")
    file.dependency.append("google/protobuf/any.proto")
    message = file.message_type.add(name="Status")
    field = descriptor_pb2.FieldDescriptorProto
    message.field.add(name="code", number=1, type=field.TYPE_INT32, label=field.LABEL_OPTIONAL)
    message.field.add(name="message", number=2, type=field.TYPE_STRING, label=field.LABEL_OPTIONAL)
    message.field.add(
        name="details",
        number=3,
        type=field.TYPE_MESSAGE,
        label=field.LABEL_REPEATED,
        type_name="google.protobuf.Any",
    )
    pool = descriptor_pool.DescriptorPool()
    pool.AddSerializedFile(any_pb2.DESCRIPTOR.serialized_pb)
    pool.Add(file)
    return message_factory.GetMessageClass(pool.FindMessageTypeByName("google.rpc.Status"))


@pytest.mark.parametrize("text", ["banned", "", "\u00e9" * 500])
def test_a_detail_is_what_every_client_can_read(text):
    detail = types_pb2.PermissionDeniedDetails(reason=types_pb2.PermissionDeniedDetails.AGENT_BANNED)
    packed = status.Status(Code.PERMISSION_DENIED, text, detail).details()
    read = rpc_status().FromString(packed)
    assert (read.code, read.message) == (7, text)
    (found,) = read.details
    assert found.type_url == "type.googleapis.com/spire.api.types.PermissionDeniedDetails"
    assert types_pb2.PermissionDeniedDetails.FromString(found.value) == detail


def test_without_a_detail_there_is_none_to_read():
    assert not rpc_status().FromString(status.Status(Code.NOT_FOUND, "gone").details()).details


def test_the_detail_comes_from_the_error():
    detail = types_pb2.PermissionDeniedDetails(reason=types_pb2.PermissionDeniedDetails.AGENT_EXPIRED)
    table = status.StatusTable(
        {TeapotError: Code.PERMISSION_DENIED}, detail=lambda error: detail if str(error) == "old" else None
    )
    assert table.status_of(TeapotError("old")).detail == detail
    assert table.status_of(TeapotError("hot")).detail is None


class Context:
    def __init__(self, *, lazy=False):
        self.trailing, self.aborted, self._lazy = (), None, lazy

    def set_trailing_metadata(self, metadata):
        self.trailing = metadata

    async def abort(self, code, message):
        self.aborted = (code, message)
        if not self._lazy:
            raise AbortError


async def test_a_call_ends_with_code_message_and_detail():
    context, plain = Context(), Context()
    detailed = status.Status(Code.NOT_FOUND, "gone", types_pb2.SPIFFEID(path="/a"))
    with pytest.raises(AbortError):
        await status.abort(context, detailed)
    assert context.aborted == (Code.NOT_FOUND, "gone")
    assert context.trailing == (("grpc-status-details-bin", detailed.details()),)
    with pytest.raises(AbortError):
        await status.abort(plain, status.Status(Code.NOT_FOUND, "gone"))
    assert plain.trailing == ()


async def test_nothing_runs_after_the_end_of_a_call():
    with pytest.raises(AssertionError, match="abort raises"):
        await status.abort(Context(lazy=True), status.Status(Code.NOT_FOUND, "gone"))

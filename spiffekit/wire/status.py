# SPDX-License-Identifier: Apache-2.0
"""From our errors to gRPC status: one table a daemon, and nothing that is not in it leaves the process."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Final, NoReturn

import grpc
from google.protobuf import any_pb2
from google.protobuf.message import Message

from spiffekit.errors import (
    AudienceError,
    BundleError,
    EvidenceError,
    ExpiredError,
    SelectorError,
    SpiffeIdError,
    SvidError,
    TemplateError,
    UnsupportedKeyError,
    VerificationError,
)

MAX_MESSAGE: Final = 1024  # characters that a peer may see of a message
DETAILS_KEY: Final = "grpc-status-details-bin"
INTERNAL: Final = "internal error"

Code = grpc.StatusCode

# What a caller sent broke a rule: the message is about its own input, and may go back to it.
OWN_INPUT: Final[Mapping[type[Exception], grpc.StatusCode]] = {
    SpiffeIdError: Code.INVALID_ARGUMENT,
    SelectorError: Code.INVALID_ARGUMENT,
    TemplateError: Code.INVALID_ARGUMENT,
    EvidenceError: Code.INVALID_ARGUMENT,
    BundleError: Code.INVALID_ARGUMENT,
    SvidError: Code.INVALID_ARGUMENT,
    UnsupportedKeyError: Code.INVALID_ARGUMENT,
    VerificationError: Code.INVALID_ARGUMENT,
    ExpiredError: Code.INVALID_ARGUMENT,
    AudienceError: Code.INVALID_ARGUMENT,
}


@dataclass(frozen=True, slots=True)
class Status:
    """What a peer gets: a code, a message, and at most one typed detail."""

    code: grpc.StatusCode
    message: str
    detail: Message | None = None

    def details(self) -> bytes:
        """Return the serialised google.rpc.Status that carries the detail.

        Three fields, written by hand: code = 1 (varint), message = 2 and details = 3 (both bytes).
        """
        number: int = self.code.value[0]
        parts = [_varint(1 << 3), _varint(number), _bytes_field(2, self.message.encode())]
        if self.detail is not None:
            packed = any_pb2.Any()
            packed.Pack(self.detail)
            parts.append(_bytes_field(3, packed.SerializeToString()))
        return b"".join(parts)


def _varint(value: int) -> bytes:
    encoded = bytearray()
    while value > 0x7F:
        encoded.append(value & 0x7F | 0x80)
        value >>= 7
    encoded.append(value)
    return bytes(encoded)


def _bytes_field(number: int, data: bytes) -> bytes:
    return _varint(number << 3 | 2) + _varint(len(data)) + data


class StatusTable:
    """Maps errors to status by their nearest class in the table; anything else is an internal error.

    Args:
        codes: The code for each class of error.
        detail: Returns the typed detail of an error, or None.
    """

    def __init__(
        self,
        codes: Mapping[type[Exception], grpc.StatusCode],
        *,
        detail: Callable[[Exception], Message | None] = lambda _: None,
    ) -> None:
        self._codes = {**OWN_INPUT, **codes}
        self._detail = detail

    def status_of(self, error: Exception) -> Status:
        """Return what a peer may see of `error`."""
        for kind in type(error).__mro__:
            if (code := self._codes.get(kind)) is not None:
                return Status(code, str(error)[:MAX_MESSAGE], self._detail(error))
        return Status(Code.INTERNAL, INTERNAL)


async def abort(context: "grpc.aio.ServicerContext[object, object]", status: Status) -> NoReturn:
    """End a call with a status."""
    if status.detail is not None:
        context.set_trailing_metadata(((DETAILS_KEY, status.details()),))
    await context.abort(status.code, status.message)
    raise AssertionError("abort raises")

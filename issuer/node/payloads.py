# SPDX-License-Identifier: Apache-2.0
"""JSON that nodes send, read into the form that it has to have; bytes are in base64 there."""

from typing import Final, TypeVar

import msgspec

from issuer.errors import NodeRejectedError

MAX_BYTES: Final = 128 * 1024  # of a payload or a challenge response, before anything of it is read
Form = TypeVar("Form")


def read(data: bytes, form: type[Form], what: str) -> Form:
    """Read `data`; members that `form` does not have are skipped, since newer nodes may send more.

    Raises:
        NodeRejectedError: It is too large, or has another form; the message begins with `what`.
    """
    if len(data) > MAX_BYTES:
        raise NodeRejectedError(f"{what} is too large")
    try:
        return msgspec.json.decode(data, type=form)
    except (ValueError, RecursionError) as error:  # msgspec's errors, and bytes that are no UTF-8
        raise NodeRejectedError(f"{what} is malformed: {error}") from error

# SPDX-License-Identifier: Apache-2.0
"""JSON values as constraints compare them: bounded, and with one text for each value.

Whoever verifies in another language has to reach the same verdict. What readers of JSON disagree about is
therefore no value at all: numbers beyond 2**53 - 1 (RFC 7493 §2.2), infinities, and halves of characters.
"""

import json
from collections.abc import Callable, Mapping, Sequence
from typing import Final, ParamSpec, TypeVar

from spiffekit.errors import ConstraintError

MAX_NUMBER: Final = 2**53 - 1  # beyond, two numbers may be one to whoever reads them as doubles
MAX_DEPTH: Final = 32  # arrays and objects in each other
P = ParamSpec("P")
T = TypeVar("T")
_JSON: Final = json.JSONEncoder(sort_keys=True, separators=(",", ":"), allow_nan=False)


def named(name: str, parse: Callable[P, T], /, *args: P.args, **kwargs: P.kwargs) -> T:
    """Return what `parse` makes of its arguments.

    Raises:
        ConstraintError: It raises one; this one says `name` before.
    """
    try:
        return parse(*args, **kwargs)
    except ConstraintError as error:
        raise ConstraintError(f"{name} {error}") from error


def array(name: str, value: object, most: int) -> Sequence[object]:
    """Return an array of at most so many elements.

    Raises:
        ConstraintError: It is none; the message says `name`.
    """
    if not isinstance(value, list | tuple):
        raise ConstraintError(f"{name} is not an array")
    if len(value) > most:
        raise ConstraintError(f"{name} has more than {most} elements")
    return value


def number(value: object) -> int | float:
    """Return a number; one that is whole as an `int`, as 1.0 is 1 in JSON.

    Raises:
        ConstraintError: It is none, or not within 2**53 - 1.
    """
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise ConstraintError("is not a number")
    if not abs(value) <= MAX_NUMBER:  # of NaN nothing is true
        raise ConstraintError("is a number beyond 2**53 - 1")
    return int(value) if value == int(value) else value


def text(value: object, limit: int) -> str:
    """Return a string.

    Raises:
        ConstraintError: It is none, has half a character, or is longer than `limit` bytes.
    """
    if not isinstance(value, str):
        raise ConstraintError("is not a string")
    try:
        size = len(value.encode())
    except UnicodeEncodeError:
        raise ConstraintError("has half a character") from None
    if size > limit:
        raise ConstraintError(f"is longer than {limit} bytes")
    return value


def canonical(value: object, limit: int) -> str:
    """Return the text of a JSON value. Two values have the same if and only if they are equal.

    So 1 and 1.0 are equal, and true, 1 and "1" are not.

    Raises:
        ConstraintError: It is no JSON value, nested deeper than `MAX_DEPTH`, or longer than `limit`.
    """
    written = _JSON.encode(_plain(value, MAX_DEPTH, limit))
    if len(written) > limit:
        raise ConstraintError(f"is longer than {limit} bytes")
    return written


def _plain(value: object, depth: int, limit: int) -> object:
    match value:
        case None | bool():
            return value
        case str():
            return text(value, limit)
        case int() | float():
            return number(value)
        case list() | tuple() if depth:
            return [_plain(element, depth - 1, limit) for element in value]
        case Mapping() if depth:
            return {text(name, limit): _plain(member, depth - 1, limit) for name, member in value.items()}
        case list() | tuple() | Mapping():
            raise ConstraintError(f"is nested deeper than {MAX_DEPTH}")
        case _:
            raise ConstraintError(f"is a {type(value).__name__}, which JSON does not have")

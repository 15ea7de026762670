# SPDX-License-Identifier: Apache-2.0
"""What a stream of the Workload API says to one caller."""

from collections.abc import Awaitable, Callable, Sequence
from typing import NamedTuple

from attestor.endpoints.caller import Caller
from attestor.reports import AnySvid, Handed


def _never(_caller: Caller) -> float | None:
    return None


class Answer(NamedTuple):
    """A serialised message, empty while there is nothing to say yet, and the SVIDs in it."""

    message: bytes = b""
    handed: Sequence[Handed[AnySvid]] = ()


class Answers(NamedTuple):
    """What there is to say now; and when it has to be renewed, if ever."""

    answer: Callable[[Caller], Awaitable[Answer]]
    due: Callable[[Caller], float | None] = _never  # on the monotonic clock

# SPDX-License-Identifier: Apache-2.0
"""What a stream of the Workload API says to one caller."""

from collections.abc import Awaitable, Callable
from typing import NamedTuple

from attestor.endpoints.caller import Caller


def _never(_caller: Caller) -> float | None:
    return None


class Answers(NamedTuple):
    """What there is to say now, empty while it is not there yet; and when it has to be renewed, if ever."""

    message: Callable[[Caller], Awaitable[bytes]]
    due: Callable[[Caller], float | None] = _never  # on the monotonic clock

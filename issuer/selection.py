# SPDX-License-Identifier: Apache-2.0
"""How lists compare what a thing has with what was asked for; the numbers are those of SPIRE's API."""

from enum import IntEnum
from typing import TypeVar

T = TypeVar("T")


class Comparison(IntEnum):
    """How a thing's own set compares with the given one."""

    EXACT = 0
    SUBSET = 1  # the thing's set is part of the given one, and not empty
    SUPERSET = 2  # the thing's set has all of the given one
    ANY = 3  # they share at least one


def compares(own: frozenset[T], given: frozenset[T], comparison: Comparison) -> bool:
    """Tell whether `own` compares with `given` as asked."""
    match comparison:
        case Comparison.EXACT:
            return own == given
        case Comparison.SUBSET:
            return bool(own) and own <= given
        case Comparison.SUPERSET:
            return own >= given
        case Comparison.ANY:
            return bool(own & given)

# SPDX-License-Identifier: Apache-2.0
"""Sets of selectors as JSON; the same set gives the same text, and equal sets are one object."""

import json
from collections.abc import Iterable
from functools import lru_cache

from spiffekit.selector import Selector


def encode_selectors(selectors: Iterable[Selector]) -> str:
    """Return the text of a set."""
    return json.dumps([[s.type, s.value] for s in sorted(selectors)], separators=(",", ":"))


@lru_cache(maxsize=65536)
def decode_selectors(text: str) -> frozenset[Selector]:
    """Return the set of a text. Cached: many entries share a set, and memory is per set then."""
    return frozenset(_selector(kind, value) for kind, value in json.loads(text))


@lru_cache(maxsize=65536)
def _selector(kind: str, value: str) -> Selector:
    return Selector(kind, value)

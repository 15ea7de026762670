# SPDX-License-Identifier: Apache-2.0
"""BER (X.690) as clouds sign in it, read strictly: bounded, in order, and nothing left over.

Lengths may be indefinite, because AWS writes them. Otherwise it is DER: tags of one octet, shortest lengths.
"""

from dataclasses import dataclass
from typing import Final

from issuer.errors import NodeRejectedError

MAX_SIZE: Final = 16 * 1024  # bytes; documents that clouds sign have less than 5 kB, certificates included
MAX_DEPTH: Final = 8  # indefinite lengths within each other: deeper ones only fill the stack
MAX_SEGMENTS: Final = 64  # of a document
OCTETS: Final = 0x04
OID: Final = 0x06
INTEGER: Final = 0x02
NULL: Final = 0x05
SEQUENCE: Final = 0x30
SET: Final = 0x31
_CONSTRUCTED: Final = 0x20
_END: Final = b"\x00\x00"


@dataclass(frozen=True, slots=True)
class Element:
    """One element: its tag, its content, and all of it as it was sent."""

    tag: int
    content: bytes
    encoded: bytes


class Reader:
    """Takes elements off the front; each mistake is a `NodeRejectedError`."""

    def __init__(self, data: bytes) -> None:
        if len(data) > MAX_SIZE:
            raise NodeRejectedError("signed data is too large")
        self._data, self._at = data, 0

    def take(self, tag: int) -> Element:
        """Return the next element, which has to have this tag."""
        element = self.optional(tag)
        if element is None:
            raise NodeRejectedError("signed data has another structure than is supported")
        return element

    def inside(self, tag: int) -> "Reader":
        """Return a reader of the content of the next element, which has to have this tag."""
        return Reader(self.take(tag).content)

    def optional(self, tag: int) -> Element | None:
        """Return the next element if it has this tag."""
        if self._data[self._at : self._at + 1] != bytes((tag,)):
            return None
        element, self._at = _element(self._data, self._at, 0)
        return element

    def all(self, tag: int, limit: int) -> list[Element]:
        """Return all that is left: up to `limit` elements, which have to have this tag."""
        found: list[Element] = []
        while self._at < len(self._data):
            if len(found) == limit:
                raise NodeRejectedError(f"signed data has more than {limit} elements of a kind")
            found.append(self.take(tag))
        return found

    def number(self, value: int) -> None:
        """Take a small INTEGER that has to be this."""
        if self.take(INTEGER).content != bytes((value,)):
            raise NodeRejectedError("signed data is of another version than is supported")

    def end(self) -> None:
        """Refuse what is left."""
        if self._at != len(self._data):
            raise NodeRejectedError("signed data has more than belongs there")


def octets(element: Element) -> bytes:
    """Return the value of an OCTET STRING, which may be sent in segments (X.690 §8.7.3)."""
    if element.tag == OCTETS:
        return element.content
    return b"".join(segment.content for segment in Reader(element.content).all(OCTETS, MAX_SEGMENTS))


def _element(data: bytes, at: int, depth: int) -> tuple[Element, int]:
    """Return the element at a position, and the position after it."""
    header = data[at : at + 2]
    if len(header) < 2:
        raise NodeRejectedError("signed data is cut short")
    tag, size = header
    if tag & 0x1F == 0x1F:
        raise NodeRejectedError("signed data has a tag of more than one octet")
    start = at + 2
    if size == 0x80:
        return _indefinite(data, at, depth)
    if size > 0x80:
        width = size & 0x7F
        size = int.from_bytes(data[start : start + width])
        start += width
        if width > 3 or size < 0x80 or size.bit_length() <= 8 * (width - 1):
            raise NodeRejectedError("signed data has a length that is not the shortest")
    end = start + size
    if end > len(data):
        raise NodeRejectedError("signed data is cut short")
    return Element(tag, data[start:end], data[at:end]), end


def _indefinite(data: bytes, at: int, depth: int) -> tuple[Element, int]:
    """Return an element that goes on until its end-of-contents (X.690 §8.1.3.6)."""
    if not data[at] & _CONSTRUCTED or depth == MAX_DEPTH:
        raise NodeRejectedError("signed data has an indefinite length where none can be")
    position = at + 2
    while data[position : position + 2] != _END:
        _, position = _element(data, position, depth + 1)
    return Element(data[at], data[at + 2 : position], data[at : position + 2]), position + 2

# SPDX-License-Identifier: Apache-2.0
"""DER (X.690) as far as a TBSCertificate needs it: writing only, nothing hostile is ever read here."""

from datetime import datetime
from functools import lru_cache
from typing import Final

TRUE: Final = b"\x01\x01\xff"
_GENERALIZED_FROM: Final = 2050  # RFC 5280 §4.1.2.5


@lru_cache(maxsize=4096)
def _header(tag: int, size: int) -> bytes:
    """Return tag and length; certificates are much alike, so it is mostly remembered."""
    if size < 0x80:
        return bytes((tag, size))
    octets = size.to_bytes((size.bit_length() + 7) // 8)
    return bytes((tag, 0x80 | len(octets))) + octets


def tlv(tag: int, *parts: bytes) -> bytes:
    """Return tag, length and the concatenated parts."""
    body = b"".join(parts)
    return _header(tag, len(body)) + body


def sequence(*parts: bytes) -> bytes:
    """Return a SEQUENCE."""
    body = b"".join(parts)
    return _header(0x30, len(body)) + body


def integer(value: int) -> bytes:
    """Return a non-negative INTEGER."""
    return tlv(0x02, value.to_bytes(value.bit_length() // 8 + 1))


def octet_string(*parts: bytes) -> bytes:
    """Return an OCTET STRING."""
    return tlv(0x04, *parts)


def bit_string(data: bytes, unused: int = 0) -> bytes:
    """Return a BIT STRING whose last octet has `unused` padding bits."""
    return tlv(0x03, bytes((unused,)), data)


def oid(dotted: str) -> bytes:
    """Return an OBJECT IDENTIFIER."""
    first, second, *rest = map(int, dotted.split("."))
    body = bytearray()
    for arc in (first * 40 + second, *rest):
        groups = [arc & 0x7F]
        while arc := arc >> 7:
            groups.append(arc & 0x7F | 0x80)
        body += bytes(reversed(groups))
    return tlv(0x06, bytes(body))


def time(instant: datetime) -> bytes:
    """Return a UTCTime before 2050, a GeneralizedTime from then on (RFC 5280 §4.1.2.5); whole seconds."""
    # Formatted by hand: strftime takes ten times as long, twice for each certificate.
    rest = f"{instant.month:02}{instant.day:02}{instant.hour:02}{instant.minute:02}{instant.second:02}Z"
    if instant.year < _GENERALIZED_FROM:
        return tlv(0x17, f"{instant.year % 100:02}{rest}".encode("ascii"))
    return tlv(0x18, f"{instant.year:04}{rest}".encode("ascii"))

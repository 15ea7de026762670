# SPDX-License-Identifier: Apache-2.0
"""Certificate revocation lists of one X.509 authority (RFC 5280 §5)."""

from collections.abc import Iterable
from datetime import datetime
from enum import IntEnum
from typing import Final, NamedTuple

from issuer.ca import der

_VERSION_2: Final = b"\x02\x01\x01"
_REASON: Final = der.oid("2.5.29.21")
_NUMBER: Final = der.oid("2.5.29.20")
_AUTHORITY: Final = der.oid("2.5.29.35")


class Reason(IntEnum):
    """Why a certificate was taken back, by its number in RFC 5280 §5.3.1."""

    KEY_COMPROMISE = 1
    CESSATION_OF_OPERATION = 5
    CERTIFICATE_HOLD = 6


class Revoked(NamedTuple):
    """One certificate that was taken back."""

    serial: int
    at: datetime
    reason: Reason


def crl_tbs(
    revoked: Iterable[Revoked],
    *,
    issuer_name_der: bytes,
    key_id: bytes,
    signature_algorithm_der: bytes,
    number: int,
    this_update: datetime,
    next_update: datetime,
) -> bytes:
    """Return the TBSCertList, DER: what an authority signs.

    Args:
        revoked: The certificates. Those of other authorities of ours do no harm: serials are random.
        issuer_name_der: The subject of the authority.
        key_id: Its subject key identifier.
        signature_algorithm_der: AlgorithmIdentifier of its signatures.
        number: Greater than that of every list before.
        this_update: Now, whole seconds.
        next_update: When the next list will have come.
    """
    entries = [
        der.sequence(
            der.integer(one.serial),
            der.time(one.at),
            der.sequence(der.sequence(_REASON, der.octet_string(der.tlv(0x0A, bytes((one.reason,)))))),
        )
        for one in revoked
    ]
    extensions = der.sequence(
        der.sequence(_AUTHORITY, der.octet_string(der.sequence(der.tlv(0x80, key_id)))),
        der.sequence(_NUMBER, der.octet_string(der.integer(number))),
    )
    return der.sequence(
        _VERSION_2,
        signature_algorithm_der,
        issuer_name_der,
        der.time(this_update),
        der.time(next_update),
        der.sequence(*entries) if entries else b"",  # RFC 5280 §5.1.2.6: absent, not empty
        der.tlv(0xA0, extensions),
    )

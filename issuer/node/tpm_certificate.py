# SPDX-License-Identifier: Apache-2.0
"""Certificates of endorsement keys, by which makers of TPMs vouch for them (TCG EK Credential Profile)."""

import re
from typing import Final

from cryptography import x509

from issuer.errors import NodeRejectedError
from issuer.node.chains import Authorities
from issuer.node.tpm import Public
from spiffekit.certificates import load_certificate, public_key_of
from spiffekit.errors import SpiffeError

_MANUFACTURER: Final = x509.ObjectIdentifier("2.23.133.2.1")  # EK Credential Profile, section 3.1.2
_PURPOSE: Final = x509.ObjectIdentifier("2.23.133.8.1")


def verify(der: bytes, endorsement: Public, authorities: Authorities) -> x509.Certificate:
    """Verify that one of the authorities itself signed the certificate of this endorsement key.

    Raises:
        NodeRejectedError: None did, or it is of another key or for another purpose.
    """
    try:
        certificate = load_certificate(der)
        key = public_key_of(certificate)
    except SpiffeError as error:
        raise NodeRejectedError(f"endorsement key's {error}") from error
    if key != endorsement.key:
        raise NodeRejectedError("certificate is of another endorsement key")
    for extension in certificate.extensions:
        match extension.value:
            case x509.ExtendedKeyUsage() as purposes if _PURPOSE not in purposes:
                raise NodeRejectedError("certificate is not for an endorsement key")
    authorities.verify(certificate)
    return certificate


def manufacturer(certificate: x509.Certificate) -> str | None:
    """Return the maker's identifier in the TCG's registry, eight hex digits, if the certificate names one."""
    try:
        san = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    except x509.ExtensionNotFound:
        return None
    names = [name for directory in san.get_values_for_type(x509.DirectoryName) for name in directory]
    values = [str(name.value) for name in names if name.oid == _MANUFACTURER]
    if len(values) == 1 and re.fullmatch(r"id:[0-9A-Fa-f]{8}", values[0]):
        return values[0][3:].upper()
    return None

# SPDX-License-Identifier: Apache-2.0
"""Certificate revocation lists (RFC 5280 §5) as the Workload API hands them out. Pure: no clock."""

from collections.abc import Iterable
from dataclasses import dataclass, field
from datetime import datetime
from typing import Final, Self

from cryptography import x509
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric import ec, rsa

from spiffekit.bundle import Bundle
from spiffekit.certificates import MALFORMED
from spiffekit.errors import RevokedError, StatusError, UntrustedError

MAX_BYTES: Final = 16 * 1024 * 1024
_KNOWN: Final = frozenset(
    (x509.AuthorityKeyIdentifier.oid, x509.CRLNumber.oid)
)  # RFC 5280 §5.2: nothing critical besides


@dataclass(frozen=True, slots=True)
class RevocationList:
    """What one X.509 authority has taken back. You get one by `verify`."""

    authority_key_id: str  # subject key identifier, lower-case hex
    number: int
    this_update: datetime
    next_update: datetime
    serials: frozenset[int] = field(repr=False)

    @classmethod
    def verify(cls, crl_der: bytes, bundle: Bundle) -> Self:
        """Verify a list against the authorities of the trust domain that it is for.

        Args:
            crl_der: CertificateList, DER.
            bundle: Of that trust domain.

        Raises:
            StatusError: It is malformed, or asks for something that we do not understand.
            UntrustedError: No authority of the bundle signed it.
        """
        if len(crl_der) > MAX_BYTES:
            raise StatusError(f"revocation list is longer than {MAX_BYTES} bytes")
        try:
            crl = x509.load_der_x509_crl(crl_der)
            for extension in crl.extensions:
                if extension.critical and extension.oid not in _KNOWN:
                    raise StatusError(f"revocation list has critical extension {extension.oid.dotted_string}")
            number = crl.extensions.get_extension_for_class(x509.CRLNumber).value.crl_number
            serials = frozenset(entry.serial_number for entry in crl)
            signer = _signer(crl, bundle)  # in here, for some parts are read only when they are asked for
            this_update, next_update = crl.last_update_utc, crl.next_update_utc
        except (*MALFORMED, UnsupportedAlgorithm, x509.ExtensionNotFound) as error:
            raise StatusError(f"revocation list: {error}") from error
        if next_update is None:  # RFC 5280 §5.1.2.5
            raise StatusError("revocation list does not say when the next one comes")
        return cls(signer, number, this_update, next_update, serials)

    def check(self, certificate: x509.Certificate) -> None:
        """Check that a certificate was not taken back by this authority.

        Raises:
            RevokedError: It was.
        """
        if certificate.serial_number not in self.serials:
            return
        try:
            said = certificate.extensions.get_extension_for_class(x509.AuthorityKeyIdentifier).value
        except x509.ExtensionNotFound:
            issuer = None
        else:
            issuer = said.key_identifier
        # A certificate that does not say who issued it is taken to be meant.
        if issuer is None or issuer.hex() == self.authority_key_id:
            raise RevokedError(f"certificate {certificate.serial_number:x} is revoked")


def _signer(crl: x509.CertificateRevocationList, bundle: Bundle) -> str:
    for authority in bundle.x509_authorities:
        certificate = x509.load_der_x509_certificate(authority.certificate_der)
        key = certificate.public_key()
        if certificate.subject != crl.issuer or not isinstance(
            key, ec.EllipticCurvePublicKey | rsa.RSAPublicKey
        ):
            continue
        if crl.is_signature_valid(key):
            return authority.subject_key_id
    raise UntrustedError(f"no authority of {bundle.trust_domain} signed the revocation list")


def check_all(lists: Iterable[RevocationList], certificate: x509.Certificate) -> None:
    """Check that no list names a certificate.

    Raises:
        RevokedError: One does.
    """
    for one in lists:
        one.check(certificate)

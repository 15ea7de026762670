# SPDX-License-Identifier: Apache-2.0
"""Certificates of nodes and of their hardware, verified up to authorities that the configuration names."""

from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Final

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.x509 import verification

from issuer.errors import NodeRejectedError
from spiffekit.certificates import certificates_from_pem, check_strength, load_certificate
from spiffekit.daemon.config import ConfigError
from spiffekit.errors import SelectorError, SpiffeError
from spiffekit.selector import Selector

MAX_INTERMEDIATES: Final = 4  # each costs a signature to verify
# RFC 5280 rather than the web's rules: these certificates come from private authorities and from makers of
# hardware, many of which leave out names or key identifiers. What is critical and unknown is refused by the
# verifier.
_PERMIT, _ANY_CASE = verification.ExtensionPolicy.permit_all, verification.Criticality.AGNOSTIC


class Authorities:
    """Those who vouch for certificates, directly or through intermediates that a node sends."""

    def __init__(self, certificates: list[x509.Certificate], intermediates: int = MAX_INTERMEDIATES) -> None:
        ca_policy = (
            _PERMIT()
            .require_present(x509.BasicConstraints, _ANY_CASE, None)  # the verifier demands cA true itself
            .may_be_present(x509.KeyUsage, _ANY_CASE, _authority_usage)
        )
        self._builder = (
            verification.PolicyBuilder()
            .store(verification.Store(certificates))
            .max_chain_depth(intermediates)
            .extension_policies(ca_policy=ca_policy, ee_policy=_PERMIT())
        )

    def verify(
        self, leaf: x509.Certificate, intermediates: Sequence[x509.Certificate] = ()
    ) -> list[x509.Certificate]:
        """Verify a certificate that is no authority's; whether its purpose fits is the caller's to check.

        Returns:
            The chain from the certificate to the authority.

        Raises:
            NodeRejectedError: One of the certificates is weak, it is a signing certificate, or no authority
                vouches for it now.
        """
        for extension in leaf.extensions:
            if isinstance(extension.value, x509.BasicConstraints) and extension.value.ca:
                raise NodeRejectedError("certificate is a signing certificate")
        # Sizes are judged before anything is verified: a huge key costs the verifier seconds.
        for certificate in (leaf, *intermediates):
            try:
                check_strength(certificate)
            except SpiffeError as error:
                raise NodeRejectedError(str(error)) from error
        try:
            verifier = self._builder.time(datetime.now(UTC)).build_client_verifier()
            return verifier.verify(leaf, list(intermediates)).chain
        except verification.VerificationError as error:
            raise NodeRejectedError(f"no configured root vouches for the certificate: {error}") from error


def _authority_usage(_policy: object, _certificate: object, usage: x509.KeyUsage | None) -> None:
    if usage is not None and not usage.key_cert_sign:
        raise ValueError("key usage of a signing certificate lacks keyCertSign")


def selectors(kind: str, chain: Sequence[x509.Certificate]) -> set[Selector]:
    """Return what a chain says of its subject and who vouches for it, as selectors of a type.

    Raises:
        NodeRejectedError: The subject's name is none that a selector can have.
    """
    authorities = {Selector(kind, f"ca:fingerprint:{fingerprint(authority)}") for authority in chain[1:]}
    return authorities | common_name(kind, "subject", chain[0].subject)


def common_name(kind: str, whose: str, name: x509.Name) -> set[Selector]:
    """Return the selector of a name, if it has one.

    Raises:
        NodeRejectedError: It is none that a selector can have.
    """
    names = name.get_attributes_for_oid(x509.NameOID.COMMON_NAME)
    if not names or not names[0].value:
        return set()
    try:
        return {Selector(kind, f"{whose}:cn:{names[0].value!s}")}
    except SelectorError as error:
        raise NodeRejectedError(f"certificate's common name: {error}") from error


def fingerprint(certificate: x509.Certificate) -> str:
    """Return what SPIRE calls a certificate by: the SHA-1 of its DER, in hex."""
    return certificate.fingerprint(hashes.SHA1()).hex()  # noqa: S303 - a name, as SPIRE spells it


def read_authorities(path: Path, option: str) -> list[x509.Certificate]:
    """Return the certificates of a PEM file.

    Raises:
        ConfigError: It cannot be read, or has none; the message names `option`.
    """
    try:
        return [load_certificate(der) for der in certificates_from_pem(path.read_bytes())]
    except OSError as error:
        raise ConfigError(f"{option}: {path}: {error.strerror}") from error
    except SpiffeError as error:
        raise ConfigError(f"{option}: {path}: {error}") from error

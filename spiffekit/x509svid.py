# SPDX-License-Identifier: Apache-2.0
"""X.509-SVIDs: parse one of our own, verify one of a peer's. Pure: no clock, no socket."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import datetime
from functools import cached_property
from typing import Final, Protocol, Self

from cryptography import x509
from cryptography.hazmat.primitives import serialization
from cryptography.x509 import verification

from spiffekit.bundle import Bundle, BundleSource
from spiffekit.certificates import (
    certificates_from_pem,
    check_leaf,
    check_signing_certificate,
    check_strength,
    load_certificate,
    pem_certificate,
    public_key_of,
    spiffe_id_of,
    split_der,
)
from spiffekit.errors import ExpiredError, UnsupportedKeyError, UntrustedError, X509SvidError
from spiffekit.id import SpiffeId
from spiffekit.keys import PublicKey, private_key_from_der, private_key_from_pem, private_key_to_der

MAX_CHAIN: Final = 8  # certificates; a longer chain only costs the verifier time


class SvidSource(Protocol):
    """Whatever has a current X.509-SVID."""

    def x509_svid(self) -> "X509Svid":
        """Return the SVID to present now."""


@dataclass(frozen=True)
class X509Svid:
    """An X.509-SVID with its private key. Equal only to itself in all parts; `repr` shows no key.

    `chain_der` is the leaf first, then intermediates; the root is not in it. `private_key_der` is
    unencrypted PKCS#8. You get one by `parse` or `parse_pem`.
    """

    spiffe_id: SpiffeId
    chain_der: tuple[bytes, ...] = field(repr=False)
    private_key_der: bytes = field(repr=False)
    hint: str = ""

    @classmethod
    def parse(cls, chain_der: bytes, private_key_der: bytes, *, hint: str = "") -> Self:
        """Parse concatenated DER certificates and a PKCS#8 key, and check that they are an SVID.

        This does not verify that anybody vouches for it.

        Raises:
            X509SvidError: A certificate breaks X509-SVID §2 to §4, or the key does not fit the leaf.
        """
        chain = split_der(chain_der)
        certificates = [load_certificate(der) for der in chain]
        spiffe_id = check_leaf(certificates[0])
        for intermediate in certificates[1:]:
            check_signing_certificate(intermediate)
        try:
            key = private_key_from_der(private_key_der)
        except UnsupportedKeyError as error:
            raise X509SvidError(f"private key: {error}") from error
        if key.public_key() != _public_key(certificates[0]):
            raise X509SvidError("private key does not fit the leaf certificate")
        return cls(spiffe_id, chain, private_key_der, hint)

    @classmethod
    def parse_pem(cls, chain_pem: bytes, key_pem: bytes) -> Self:
        """Parse PEM certificates, leaf first, and a PEM key. See `parse`.

        Raises:
            X509SvidError: As for `parse`, or the PEM is malformed.
        """
        try:
            key = private_key_from_pem(key_pem)
        except UnsupportedKeyError as error:
            raise X509SvidError(f"private key: {error}") from error
        return cls.parse(b"".join(certificates_from_pem(chain_pem)), private_key_to_der(key))

    def x509_svid(self) -> Self:
        """Return itself: the value is a source of its own."""
        return self

    @cached_property
    def leaf(self) -> x509.Certificate:
        """The leaf certificate."""
        return x509.load_der_x509_certificate(self.chain_der[0])

    @property
    def not_before(self) -> datetime:
        """From when it is valid."""
        return self.leaf.not_valid_before_utc

    @property
    def expires_at(self) -> datetime:
        """Until when it is valid."""
        return self.leaf.not_valid_after_utc

    @property
    def serial_number(self) -> int:
        """The leaf's serial number."""
        return self.leaf.serial_number

    def chain_pem(self) -> bytes:
        """Return the chain as PEM, leaf first."""
        return b"".join(pem_certificate(der) for der in self.chain_der)

    def key_pem(self) -> bytes:
        """Return the private key as unencrypted PKCS#8 PEM."""
        return private_key_from_der(self.private_key_der).private_bytes(
            serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
        )


def _public_key(certificate: x509.Certificate) -> PublicKey:
    try:
        return public_key_of(certificate)
    except UnsupportedKeyError as error:
        raise X509SvidError(f"leaf: {error}") from error


def verify(chain_der: Sequence[bytes], bundles: BundleSource, *, now: datetime) -> SpiffeId:
    """Verify a peer's chain against the bundle of its own trust domain.

    The procedure (X509-SVID §5):

    1. the chain has one to `MAX_CHAIN` certificates, each of bounded size;
    2. the leaf is an X.509-SVID leaf: one URI SAN, a SPIFFE ID with a path, not a signing certificate;
    3. intermediates are signing certificates;
    4. the bundle is chosen by the leaf's trust domain, never a pool of several;
    5. no certificate rests on a weak hash or key;
    6. the leaf is valid at `now`;
    7. RFC 5280 path validation from the leaf to a root of that bundle.

    Whether the peer is the one that you want to talk to is **not** decided here.

    Args:
        chain_der: Leaf first, each DER; a root at the end is tolerated.
        bundles: Where the bundle of the peer's trust domain comes from.
        now: The instant to judge by.

    Raises:
        X509SvidError: The leaf is no X.509-SVID.
        UnknownTrustDomainError: There is no bundle for its trust domain.
        ExpiredError: The leaf is not valid at `now`.
        UntrustedError: No root of the bundle vouches for it.
    """
    # (1)
    if not 1 <= len(chain_der) <= MAX_CHAIN:
        raise X509SvidError(f"chain has {len(chain_der)} certificates: 1 to {MAX_CHAIN} are possible")
    certificates = [load_certificate(der) for der in chain_der]
    leaf, intermediates = certificates[0], certificates[1:]
    # (2)
    spiffe_id = check_leaf(leaf)
    # (3)
    for intermediate in intermediates:
        check_signing_certificate(intermediate)
    # (4)
    bundle = bundles.bundle_for(spiffe_id.trust_domain)
    # (5)
    for certificate in certificates:
        check_strength(certificate)
    # (6)
    if not leaf.not_valid_before_utc <= now <= leaf.not_valid_after_utc:
        raise ExpiredError(f"X.509-SVID of {spiffe_id} is not valid at {now:%Y-%m-%dT%H:%M:%SZ}")
    # (7)
    _verify_path(leaf, intermediates, bundle, now=now)
    return spiffe_id


def _verify_path(
    leaf: x509.Certificate, intermediates: list[x509.Certificate], bundle: Bundle, *, now: datetime
) -> None:
    roots = bundle.x509_roots
    if not roots:
        raise UntrustedError(f"bundle of {bundle.trust_domain} has no X.509 authorities")  # X509-SVID §6.2
    builder = (
        verification.PolicyBuilder()
        .store(verification.Store(list(roots)))
        .time(now)
        .max_chain_depth(MAX_CHAIN)
        .extension_policies(ca_policy=_CA_POLICY, ee_policy=_LEAF_POLICY)
    )
    try:
        builder.build_client_verifier().verify(leaf, intermediates)
    except verification.VerificationError as error:
        raise UntrustedError(
            f"no authority of {bundle.trust_domain} vouches for the chain: {error}"
        ) from error


def _extension_policies() -> tuple[verification.ExtensionPolicy, verification.ExtensionPolicy]:
    # RFC 5280 rather than the web's rules: an SVID may come without EKU, a root without key identifiers.
    permit = verification.ExtensionPolicy.permit_all
    any_case = verification.Criticality.AGNOSTIC
    ca_policy = (
        permit()
        .require_present(x509.BasicConstraints, any_case, None)  # cA itself is cryptography's rule
        .require_present(x509.KeyUsage, any_case, _authority_usage)
        .require_not_present(x509.NameConstraints)  # cannot be judged for URIs: fail closed, X509-SVID §4.2
    )
    leaf_policy = permit().require_present(x509.SubjectAlternativeName, any_case, None)
    return ca_policy, leaf_policy


def _authority_usage(
    _policy: verification.Policy, _certificate: x509.Certificate, usage: x509.KeyUsage
) -> None:
    if not usage.key_cert_sign:
        raise ValueError("key usage of a signing certificate lacks keyCertSign")


_CA_POLICY, _LEAF_POLICY = _extension_policies()


__all__ = ["MAX_CHAIN", "SvidSource", "X509Svid", "spiffe_id_of", "split_der", "verify"]

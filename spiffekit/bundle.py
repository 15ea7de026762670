# SPDX-License-Identifier: Apache-2.0
"""Trust bundles: the public keys that vouch for one trust domain (Trust_Domain_and_Bundle §3, §4).

A bundle belongs to exactly one trust domain, and an SVID is verified with the bundle of its own trust
domain only. Bundles of several trust domains are kept side by side in a `BundleSet`, never merged.
"""

import logging
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from functools import cached_property
from typing import Final, Protocol, Self

from cryptography import x509

from spiffekit import jwk
from spiffekit.certificates import (
    certificates_from_pem,
    load_authority,
    load_certificate,
    pem_certificate,
    split_der,
)
from spiffekit.errors import BundleError, UnknownTrustDomainError, X509SvidError
from spiffekit.id import TrustDomain
from spiffekit.keys import PublicKey, check_public_key, public_key_from_der, public_key_to_der, subject_key_id

logger = logging.getLogger(__name__)

X509_USE: Final = "x509-svid"  # X509-SVID §6.1
JWT_USE: Final = "jwt-svid"  # JWT-SVID §6.1
WIT_USE: Final = "wit-svid"  # WIT-SVID §6.1
MAX_SEQUENCE: Final = 2**64 - 1  # what others hold a sequence number in
MAX_REFRESH_HINT: Final = 2**31 - 1  # seconds


@dataclass(frozen=True)
class X509Authority:
    """A certificate that X.509-SVIDs may rest on, DER. A tainted one is about to be withdrawn."""

    certificate_der: bytes = field(repr=False)
    tainted: bool = False

    @cached_property
    def certificate(self) -> x509.Certificate:
        """The certificate."""
        return x509.load_der_x509_certificate(self.certificate_der)

    @cached_property
    def subject_key_id(self) -> str:
        """The subject key identifier, lower-case hex; it names the authority."""
        try:
            extension = self.certificate.extensions.get_extension_for_class(x509.SubjectKeyIdentifier)
        except x509.ExtensionNotFound:
            return subject_key_id(check_public_key(self.certificate.public_key())).hex()
        return extension.value.digest.hex()


@dataclass(frozen=True)
class JwtAuthority:
    """A public key that JWT-SVIDs or WIT-SVIDs may rest on: SubjectPublicKeyInfo, DER, named by `key_id`."""

    key_id: str
    public_key_der: bytes = field(repr=False)
    expires_at: datetime | None = None
    tainted: bool = False

    @cached_property
    def public_key(self) -> PublicKey:
        """The key."""
        return public_key_from_der(self.public_key_der)


class BundleSource(Protocol):
    """Whatever has bundles: one, a set, or something that keeps them fresh."""

    def bundle_for(self, trust_domain: TrustDomain) -> "Bundle":
        """Return the bundle of `trust_domain`, or raise `UnknownTrustDomainError`."""


@dataclass(frozen=True)
class Bundle:
    """The authorities of one trust domain, with sequence number and refresh hint when known."""

    trust_domain: TrustDomain
    x509_authorities: tuple[X509Authority, ...] = ()
    jwt_authorities: tuple[JwtAuthority, ...] = ()
    sequence: int | None = None
    refresh_hint: timedelta | None = None
    wit_authorities: tuple[JwtAuthority, ...] = ()

    def __post_init__(self) -> None:
        """Hold it to what a bundle can be written as, so that each can be read again.

        Raises:
            BundleError: Sequence or refresh hint is out of range; a hint is in whole seconds, at least one.
                Or a JWT authority and a WIT authority have one key ID (WIT-SVID §6.1).
        """
        if shared := _key_ids(self.jwt_authorities) & _key_ids(self.wit_authorities):
            raise BundleError(f"kid {min(shared)[:80]!r} is that of a JWT and of a WIT authority")
        if self.sequence is not None and not 0 <= self.sequence <= MAX_SEQUENCE:
            raise BundleError(f"sequence is not a whole number of 0 to {MAX_SEQUENCE}")
        hint = self.refresh_hint
        if hint is not None and (hint.microseconds or not 0 < hint.total_seconds() <= MAX_REFRESH_HINT):
            raise BundleError(f"refresh_hint is not a whole number of 1 to {MAX_REFRESH_HINT} seconds")

    @classmethod
    def parse(cls, trust_domain: TrustDomain, document: bytes) -> Self:
        """Parse a SPIFFE bundle document (Trust_Domain_and_Bundle §4).

        Elements of an unknown type or use, and elements whose key does not validate, are ignored one by
        one and logged; the rest of the bundle counts. An empty `keys` is a bundle that trusts nothing.

        Raises:
            BundleError: It is no JSON object with an array `keys`, or sequence or hint are invalid.
        """
        top, elements = jwk.key_set(document)
        x509_authorities: dict[bytes, X509Authority] = {}
        jwt_authorities: dict[str, JwtAuthority] = {}
        wit_authorities: dict[str, JwtAuthority] = {}

        def take(element: jwk.Element) -> None:
            if element.use == X509_USE:
                certificate = element.certificate()
                x509_authorities[certificate] = X509Authority(certificate)
            elif element.use == JWT_USE:
                _take_key(element, jwt_authorities, wit_authorities)
            elif element.use == WIT_USE:
                _take_key(element, wit_authorities, jwt_authorities)
            else:  # Trust_Domain_and_Bundle §4.2.2
                raise BundleError(f"use {element.use!r} is not known")

        _take_each(trust_domain, elements, take)
        hint = jwk.whole_number(top, "spiffe_refresh_hint", MAX_REFRESH_HINT)
        return cls(
            trust_domain,
            tuple(x509_authorities.values()),
            tuple(jwt_authorities.values()),
            sequence=jwk.whole_number(top, "spiffe_sequence", MAX_SEQUENCE),
            refresh_hint=timedelta(seconds=hint) if hint else None,  # 0 says nothing, as in messages
            wit_authorities=tuple(wit_authorities.values()),
        )

    @classmethod
    def from_jwks(cls, trust_domain: TrustDomain, document: bytes) -> Self:
        """Parse a JWKS as the Workload API carries it: JWT authorities only, `use` optional.

        Raises:
            BundleError: It is no JSON object with an array `keys`.
        """
        return cls(trust_domain, jwt_authorities=_of_use(JWT_USE, trust_domain, document))

    @classmethod
    def from_wit_jwks(cls, trust_domain: TrustDomain, document: bytes) -> Self:
        """Parse a JWKS as the Workload API carries it: WIT authorities only, `use` optional.

        Raises:
            BundleError: It is no JSON object with an array `keys`.
        """
        return cls(trust_domain, wit_authorities=_of_use(WIT_USE, trust_domain, document))

    @classmethod
    def from_x509_der(cls, trust_domain: TrustDomain, concatenated: bytes) -> Self:
        """Parse concatenated DER certificates; empty input is a bundle without X.509 authorities.

        Raises:
            BundleError: A certificate is malformed.
        """
        try:
            ders = split_der(concatenated) if concatenated else ()
            for der in ders:
                load_certificate(der)
        except X509SvidError as error:
            raise BundleError(f"bundle of {trust_domain}: {error}") from error
        return cls(trust_domain, tuple(X509Authority(der) for der in dict.fromkeys(ders)))

    @classmethod
    def from_pem(cls, trust_domain: TrustDomain, pem: bytes) -> Self:
        """Parse PEM certificates, at least one.

        Raises:
            BundleError: There is none, or one is malformed or no signing certificate.
        """
        try:
            ders = certificates_from_pem(pem)
            for der in ders:
                load_authority(der)
        except X509SvidError as error:
            raise BundleError(f"bundle of {trust_domain}: {error}") from error
        return cls(trust_domain, tuple(X509Authority(der) for der in dict.fromkeys(ders)))

    def bundle_for(self, trust_domain: TrustDomain) -> Self:
        """Return itself for its own trust domain: the value is a source of its own."""
        if trust_domain != self.trust_domain:
            raise UnknownTrustDomainError(f"no bundle for trust domain {trust_domain}")
        return self

    @cached_property
    def x509_roots(self) -> tuple[x509.Certificate, ...]:
        """The certificates of all X.509 authorities."""
        return tuple(authority.certificate for authority in self.x509_authorities)

    def jwt_authority(self, key_id: str) -> JwtAuthority | None:
        """Return the JWT authority of that key ID, compared exactly."""
        return next((a for a in self.jwt_authorities if a.key_id == key_id), None)

    def wit_authority(self, key_id: str) -> JwtAuthority | None:
        """Return the WIT authority of that key ID, compared exactly (WIT-SVID §2.1)."""
        return next((a for a in self.wit_authorities if a.key_id == key_id), None)

    @property
    def size(self) -> int:
        """How many authorities there are of all kinds."""
        return len(self.x509_authorities) + len(self.jwt_authorities) + len(self.wit_authorities)

    def same_content(self, other: "Bundle") -> bool:
        """Tell whether both trust the same authorities, whatever their sequence numbers."""
        return replace(self, sequence=None) == replace(other, sequence=None)

    def to_jwks(self) -> bytes:
        """Return the SPIFFE bundle document, JSON in UTF-8; the same bundle gives the same bytes."""
        keys = [
            jwk.from_certificate(authority.certificate_der, X509_USE) for authority in self.x509_authorities
        ]
        keys += _jwks(self.jwt_authorities, JWT_USE)
        keys += _jwks(self.wit_authorities, WIT_USE)
        top: dict[str, object] = {"keys": keys}
        if self.sequence is not None:
            top["spiffe_sequence"] = self.sequence
        if self.refresh_hint is not None:
            top["spiffe_refresh_hint"] = int(self.refresh_hint.total_seconds())
        return jwk.to_json(top)

    def to_jwt_jwks(self) -> bytes:
        """Return the JWKS of the JWT authorities only, as the Workload API carries it."""
        return jwk.to_json({"keys": _jwks(self.jwt_authorities, JWT_USE)})

    def to_wit_jwks(self) -> bytes:
        """Return the JWKS of the WIT authorities only, as the Workload API carries it."""
        return jwk.to_json({"keys": _jwks(self.wit_authorities, WIT_USE)})

    def to_pem(self) -> bytes:
        """Return the X.509 authorities as PEM."""
        return b"".join(pem_certificate(authority.certificate_der) for authority in self.x509_authorities)

    def x509_der(self) -> bytes:
        """Return the X.509 authorities as concatenated DER."""
        return b"".join(authority.certificate_der for authority in self.x509_authorities)


def _jwt_authority(element: jwk.Element) -> JwtAuthority:
    return JwtAuthority(element.key_id(), public_key_to_der(element.public_key()))


def _take_key(
    element: jwk.Element, into: dict[str, JwtAuthority], beside: Mapping[str, JwtAuthority]
) -> None:
    if element.key_id() in beside:  # WIT-SVID §6.1: an ID names one key of the bundle
        raise BundleError("kid is that of a key of another use")
    into[element.key_id()] = _jwt_authority(element)


def _key_ids(authorities: Iterable[JwtAuthority]) -> set[str]:
    return {authority.key_id for authority in authorities}


def _jwks(authorities: Iterable[JwtAuthority], use: str) -> list[dict[str, object]]:
    return [jwk.from_public_key(a.public_key, use, a.key_id) for a in authorities]


def _of_use(use: str, trust_domain: TrustDomain, document: bytes) -> tuple[JwtAuthority, ...]:
    _, elements = jwk.key_set(document)
    found: dict[str, JwtAuthority] = {}

    def take(element: jwk.Element) -> None:
        if element.use not in (None, use):  # a key of another use must not judge these tokens
            raise BundleError(f"use {element.use!r} is not {use!r}")
        found[element.key_id()] = _jwt_authority(element)

    _take_each(trust_domain, elements, take)
    return tuple(found.values())


def _take_each(
    trust_domain: TrustDomain, elements: Iterable[jwk.Element], take: Callable[[jwk.Element], None]
) -> None:
    """Take each element that validates, and log the others (Trust_Domain_and_Bundle §4.1.3)."""
    for element in elements:
        try:
            take(element)
        except BundleError as error:
            logger.warning(
                "bundle element ignored",
                extra={"trust_domain": str(trust_domain), "index": element.index, "reason": str(error)},
            )


class BundleSet:
    """Bundles by trust domain. Immutable; a source of bundles."""

    __slots__ = ("_bundles",)

    def __init__(self, bundles: Iterable[Bundle] = ()) -> None:
        self._bundles = {bundle.trust_domain: bundle for bundle in bundles}

    def bundle_for(self, trust_domain: TrustDomain) -> Bundle:
        """Return the bundle of that trust domain, or raise `UnknownTrustDomainError`."""
        try:
            return self._bundles[trust_domain]
        except KeyError as error:
            raise UnknownTrustDomainError(f"no bundle for trust domain {trust_domain}") from error

    def get(self, trust_domain: TrustDomain) -> Bundle | None:
        """Return the bundle of that trust domain, or None."""
        return self._bundles.get(trust_domain)

    def with_bundle(self, bundle: Bundle) -> "BundleSet":
        """Return a set in which `bundle` replaces that of its trust domain."""
        return BundleSet([*self._bundles.values(), bundle])

    def without(self, trust_domain: TrustDomain) -> "BundleSet":
        """Return a set without the bundle of that trust domain."""
        return BundleSet(b for td, b in self._bundles.items() if td != trust_domain)

    def __iter__(self) -> Iterator[Bundle]:
        return iter(self._bundles.values())

    def __len__(self) -> int:
        return len(self._bundles)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, BundleSet) and self._bundles == other._bundles

    def __hash__(self) -> int:
        return hash(frozenset(self._bundles.items()))


__all__ = ["Bundle", "BundleSet", "BundleSource", "JwtAuthority", "X509Authority"]

# SPDX-License-Identifier: Apache-2.0
"""Sign SVIDs: build from the profile, sign, and check the result before anybody gets it."""

import secrets
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Final, NamedTuple

from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec, rsa

from issuer.ca import der
from issuer.ca.crl import Revoked, crl_tbs
from issuer.ca.profile import BACKDATE, Issuer, Leaf, leaf_tbs, new_serial
from issuer.errors import AuthorityNotReadyError, InvalidRequestError
from issuer.keys import Key
from issuer.model import AuthorityRecord
from spiffekit.certificates import check_leaf, spiffe_id_of
from spiffekit.errors import UnsupportedKeyError
from spiffekit.id import SpiffeId, TrustDomain
from spiffekit.jws import algorithms_of, signing_input, with_signature
from spiffekit.keys import PublicKey, check_public_key, public_key_from_der, public_key_to_der
from spiffekit.witsvid import TOKEN_TYPE, confirmation

MAX_AUDIENCE_BYTES: Final = 2048  # bytes of one audience
MAX_AUDIENCES: Final = 50
CHECK_WHOLE_EVERY: Final = 256  # certificates

_ALGORITHMS: Final = {  # of the authority's key: AlgorithmIdentifier (RFC 5758 §3.2, RFC 8017 §A.2.4)
    "secp256r1": der.sequence(der.oid("1.2.840.10045.4.3.2")),
    "secp384r1": der.sequence(der.oid("1.2.840.10045.4.3.3")),
    "rsa": der.sequence(der.oid("1.2.840.113549.1.1.11"), b"\x05\x00"),
}
_JWT: Final = {"secp256r1": "ES256", "secp384r1": "ES384", "rsa": "RS256"}


class IssuedX509Svid(NamedTuple):
    """A signed X.509-SVID: `chain_der` is the leaf first, without the root."""

    chain_der: tuple[bytes, ...]
    spiffe_id: SpiffeId
    serial: int
    expires_at: datetime
    authority_id: str


@dataclass(frozen=True, slots=True)
class IssuedToken:
    """A signed JWT-SVID or WIT-SVID in compact serialization."""

    token: str
    spiffe_id: SpiffeId
    issued_at: datetime
    expires_at: datetime
    authority_id: str
    jti: str = ""


@dataclass(frozen=True, slots=True)
class Holder:
    """Who holds a key: `public_key_der` is its SubjectPublicKeyInfo, `instance` the UID of the process."""

    public_key_der: bytes
    algorithm: str  # with which the holder will sign, e.g. "ES256"
    instance: str = ""

    def confirmed(self) -> dict[str, object]:
        """Return the claim `cnf`.

        Raises:
            InvalidRequestError: The key is none that we accept, or the algorithm does not fit it.
        """
        try:
            key = public_key_from_der(self.public_key_der)
        except UnsupportedKeyError as error:
            raise InvalidRequestError(f"public_key: {error}") from error
        if self.algorithm not in algorithms_of(key):
            raise InvalidRequestError(f"signing_algorithm: {self.algorithm[:20]!r} is none of the key's")
        return confirmation(key, self.algorithm)


def key_kind(key: PublicKey) -> str:
    """Return the curve's name, or "rsa"."""
    match key:
        case ec.EllipticCurvePublicKey():
            return key.curve.name
        case rsa.RSAPublicKey():
            return "rsa"
        case _:
            raise AuthorityNotReadyError("an authority's key has to be EC or RSA")


def signature_algorithm(key: PublicKey) -> bytes:
    """Return the AlgorithmIdentifier of signatures by an authority's key, DER."""
    return _ALGORITHMS[key_kind(key)]


class X509Signer:
    """Signs with one X.509 authority. Everything that does not vary is made once."""

    def __init__(self, record: AuthorityRecord, key: Key) -> None:
        self._certificate = certificate = x509.load_der_x509_certificate(record.certificate_der)
        self._signed = 0
        self._record = record
        self._ends = record.not_after.replace(microsecond=0)
        self._key = key
        self._trust_domain = spiffe_id_of(certificate).trust_domain
        self._algorithm = signature_algorithm(key.public_key)
        self._issuer = Issuer(
            name_der=certificate.subject.public_bytes(),
            key_id=bytes.fromhex(record.id),
            signature_algorithm_der=self._algorithm,
        )

    async def sign(
        self,
        spiffe_id: SpiffeId,
        public_key_der: bytes,
        *,
        ttl: timedelta,
        now: datetime,
        dns_names: tuple[str, ...] = (),
    ) -> IssuedX509Svid:
        """Return an X.509-SVID; it ends with the authority at the latest.

        Args:
            spiffe_id: Whom it names.
            public_key_der: SubjectPublicKeyInfo of a key that we accept, as `parse_csr` returns it.
            ttl: How long it is valid from `now`.
            now: The instant of issue.
            dns_names: DNS names that it carries, checked.

        Raises:
            AuthorityNotReadyError: The authority has ended.
            InvalidRequestError: The ID has no path (X509-SVID §3.1), or is of another trust domain (§3.2).
        """
        _check_subject(spiffe_id, self._trust_domain)
        now = now.replace(microsecond=0)
        not_after = min(now + ttl, self._ends)
        if not_after <= now:
            raise AuthorityNotReadyError("the X.509 authority has expired")
        leaf = Leaf(
            spiffe_id=spiffe_id,
            public_key_der=public_key_der,
            dns_names=dns_names,
            serial=new_serial(now),
            not_before=now - BACKDATE,
            not_after=not_after,
        )
        tbs = leaf_tbs(leaf, self._issuer)
        signature = await self._key.sign(tbs)
        certificate = der.sequence(tbs, self._algorithm, der.bit_string(signature))
        self._check(certificate, leaf)
        return IssuedX509Svid((certificate,), spiffe_id, leaf.serial, not_after, self._record.id)

    async def sign_crl(
        self, revoked: Iterable[Revoked], *, number: int, now: datetime, lifetime: timedelta
    ) -> bytes:
        """Return the CertificateList of this authority, DER."""
        now = now.replace(microsecond=0)
        tbs = crl_tbs(
            revoked,
            issuer_name_der=self._issuer.name_der,
            key_id=self._issuer.key_id,
            signature_algorithm_der=self._algorithm,
            number=number,
            this_update=now,
            next_update=now + lifetime,
        )
        return der.sequence(tbs, self._algorithm, der.bit_string(await self._key.sign(tbs)))

    def _check(self, certificate_der: bytes, leaf: Leaf) -> None:
        """Parse what was signed and compare: a mistake of ours must not leave the authority.

        The library's strict parser sees every certificate. Each extension and the signature are looked
        at in the first of a signer and then in one of `CHECK_WHOLE_EVERY`: that costs more than signing.
        """
        made = x509.load_der_x509_certificate(certificate_der)
        if (
            made.serial_number != leaf.serial
            or made.not_valid_after_utc != leaf.not_after
            or str(leaf.spiffe_id).encode("ascii") not in certificate_der
        ):
            raise AssertionError("signed certificate differs from its profile")
        if self._signed % CHECK_WHOLE_EVERY == 0:
            self._check_whole(made, leaf)
        self._signed += 1

    def _check_whole(self, made: x509.Certificate, leaf: Leaf) -> None:
        check_leaf(made)
        made.verify_directly_issued_by(self._certificate)
        san = made.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
        if (
            san.get_values_for_type(x509.UniformResourceIdentifier) != [str(leaf.spiffe_id)]
            or tuple(san.get_values_for_type(x509.DNSName)) != leaf.dns_names
            or public_key_to_der(check_public_key(made.public_key())) != leaf.public_key_der
        ):
            raise AssertionError("signed certificate differs from its profile")


class TokenSigner:
    """Signs tokens with one JWT or WIT authority."""

    def __init__(self, record: AuthorityRecord, key: Key, *, trust_domain: TrustDomain) -> None:
        self._record = record
        self._trust_domain = trust_domain
        self._key = key
        self._algorithm = _JWT[key_kind(key.public_key)]

    def _lifetime(self, spiffe_id: SpiffeId, ttl: timedelta, now: datetime) -> tuple[datetime, datetime]:
        """Return when a token begins and ends, in whole seconds: with the authority at the latest.

        Raises:
            AuthorityNotReadyError: The authority has ended.
            InvalidRequestError: The ID has no path or is of another trust domain.
        """
        _check_subject(spiffe_id, self._trust_domain)
        now = now.replace(microsecond=0)
        expires_at = min(now + ttl, self._record.not_after.replace(microsecond=0))
        if expires_at <= now:
            raise AuthorityNotReadyError(f"the {self._record.kind.upper()} authority has expired")
        return now, expires_at

    async def token(self, typ: str, claims: Mapping[str, object]) -> str:
        """Return a signed token of any claims; `typ` keeps one kind from passing for another."""
        header = {"alg": self._algorithm, "kid": self._record.id, "typ": typ}  # JWT-SVID §2: nothing else
        signed = signing_input(header, claims)
        signature = await self._key.sign(signed.encode("ascii"))
        return with_signature(signed, signature, self._algorithm)


class JwtSigner(TokenSigner):
    """Signs with one JWT authority."""

    def __init__(
        self, record: AuthorityRecord, key: Key, *, trust_domain: TrustDomain, issuer: str = ""
    ) -> None:
        super().__init__(record, key, trust_domain=trust_domain)
        self._issuer = issuer

    async def sign(
        self,
        spiffe_id: SpiffeId,
        audience: tuple[str, ...],
        *,
        ttl: timedelta,
        now: datetime,
        jti: bool = False,
        owner: str = "",
    ) -> IssuedToken:
        """Return a JWT-SVID; it ends with the authority at the latest.

        Args:
            owner: Who is accountable for the subject; a claim of that name says so.

        Raises:
            AuthorityNotReadyError: The authority has ended.
            InvalidRequestError: The ID has no path or is of another trust domain, or the audience is
                empty or too long.
        """
        audience = check_audience(audience)
        now, expires_at = self._lifetime(spiffe_id, ttl, now)
        claims: dict[str, object] = {
            "sub": str(spiffe_id),
            "aud": list(audience),
            "exp": int(expires_at.timestamp()),
            "iat": int(now.timestamp()),
        }
        if self._issuer:
            claims["iss"] = self._issuer
        if jti:
            claims["jti"] = _token_id()
        if owner:
            claims["owner"] = owner
        token = await self.token("JWT", claims)
        return IssuedToken(token, spiffe_id, now, expires_at, self._record.id, str(claims.get("jti", "")))


class WitSigner(TokenSigner):
    """Signs with one WIT authority."""

    async def sign(
        self,
        spiffe_id: SpiffeId,
        holder: Holder,
        *,
        ttl: timedelta,
        now: datetime,
        owner: str = "",
    ) -> IssuedToken:
        """Return a WIT-SVID; it ends with the authority at the latest.

        It has neither `aud` nor `iss`: nothing that takes bearer tokens may mistake it for one
        (WIT-SVID §3.7).

        Args:
            holder: The workload, which has to prove each time that it has the key.
            owner: Who is accountable for the subject; a claim of that name says so.

        Raises:
            AuthorityNotReadyError: The authority has ended.
            InvalidRequestError: The ID has no path or is of another trust domain, or key and algorithm do
                not fit.
        """
        confirmed = holder.confirmed()
        now, expires_at = self._lifetime(spiffe_id, ttl, now)
        jti = _token_id()
        claims: dict[str, object] = {
            "sub": str(spiffe_id),
            "cnf": confirmed,
            "exp": int(expires_at.timestamp()),
            "nbf": int((now - BACKDATE).timestamp()),
            "iat": int(now.timestamp()),
            "jti": jti,
        }
        if holder.instance:
            claims["agent_instance_id"] = holder.instance
        if owner:
            claims["owner"] = owner
        token = await self.token(TOKEN_TYPE, claims)
        return IssuedToken(token, spiffe_id, now, expires_at, self._record.id, jti)


def _token_id() -> str:
    """Return a new `jti`. People type it: it never begins with a "-", which commands take for an option."""
    return secrets.token_hex(16)


def _check_subject(spiffe_id: SpiffeId, trust_domain: TrustDomain) -> None:
    if not spiffe_id.path:
        raise InvalidRequestError(f"spiffe_id: {spiffe_id} has no path")
    if not spiffe_id.is_member_of(trust_domain):
        raise InvalidRequestError(f"spiffe_id: {spiffe_id} is not in trust domain {trust_domain}")


def check_audience(audience: tuple[str, ...]) -> tuple[str, ...]:
    """Return the audience without empty names.

    Raises:
        InvalidRequestError: Nothing is left, or it is too long (JWT-SVID §3.2).
    """
    named = tuple(name for name in audience if name)
    if not named:
        raise InvalidRequestError("audience: at least one is required")
    if len(named) > MAX_AUDIENCES or any(len(name.encode()) > MAX_AUDIENCE_BYTES for name in named):
        raise InvalidRequestError(
            f"audience: at most {MAX_AUDIENCES} of at most {MAX_AUDIENCE_BYTES} bytes each"
        )
    return named

# SPDX-License-Identifier: Apache-2.0
"""Between the messages of `spire.api.types` and our values. Parsing names the field and the rule."""

from datetime import UTC, datetime, timedelta
from typing import Any, Final

from spiffekit.bundle import MAX_REFRESH_HINT, Bundle, JwtAuthority, X509Authority
from spiffekit.certificates import load_authority
from spiffekit.errors import BundleError, UnsupportedKeyError, X509SvidError
from spiffekit.id import SpiffeId, TrustDomain
from spiffekit.jws import MAX_INSTANT
from spiffekit.keys import public_key_from_der
from spiffekit.selector import Selector
from spiffekit.wire.pb.spire.api import types_pb2

MAX_AUTHORITIES: Final = 1000
_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)


def spiffe_id_to_proto(spiffe_id: SpiffeId) -> types_pb2.SPIFFEID:
    """Return the message of an ID; its path keeps the leading slash."""
    return types_pb2.SPIFFEID(trust_domain=spiffe_id.trust_domain.name, path=spiffe_id.path)


def spiffe_id_from_proto(message: types_pb2.SPIFFEID) -> SpiffeId:
    """Return the ID of a message.

    Raises:
        SpiffeIdError: It breaks SPIFFE-ID §2.
    """
    return SpiffeId(TrustDomain.parse(message.trust_domain), message.path)


def selector_to_proto(selector: Selector) -> types_pb2.Selector:
    """Return the message of a selector."""
    return types_pb2.Selector(type=selector.type, value=selector.value)


def selector_from_proto(message: types_pb2.Selector) -> Selector:
    """Return the selector of a message.

    Raises:
        SelectorError: Type or value is invalid.
    """
    return Selector(message.type, message.value)


def seconds(instant: datetime | None) -> int:
    """Return whole seconds since the epoch; 0 for None."""
    if instant is None:
        return 0
    since = instant - _EPOCH
    return since.days * 86_400 + since.seconds  # a third of the time that // takes


def microseconds(instant: datetime) -> int:
    """Return whole microseconds since the epoch."""
    return (instant - _EPOCH) // timedelta(microseconds=1)


def instant(epoch_seconds: int) -> datetime | None:
    """Return the instant, or None for 0.

    Raises:
        ValueError: It is negative or beyond the year 9999.
    """
    if epoch_seconds == 0:
        return None
    if not 0 < epoch_seconds <= MAX_INSTANT:
        raise ValueError("not a point in time that can be kept")
    return datetime.fromtimestamp(epoch_seconds, UTC)


def bundle_to_proto(bundle: Bundle) -> types_pb2.Bundle:
    """Return the message of a bundle."""
    return types_pb2.Bundle(
        trust_domain=bundle.trust_domain.name,
        x509_authorities=[
            types_pb2.X509Certificate(asn1=a.certificate_der, tainted=a.tainted)
            for a in bundle.x509_authorities
        ],
        jwt_authorities=[types_pb2.JWTKey(**_key(a)) for a in bundle.jwt_authorities],
        wit_authorities=[types_pb2.WITKey(**_key(a)) for a in bundle.wit_authorities],
        refresh_hint=0 if bundle.refresh_hint is None else int(bundle.refresh_hint.total_seconds()),
        sequence_number=bundle.sequence or 0,
    )


def _key(authority: JwtAuthority) -> dict[str, Any]:
    """Return the fields that JWTKey and WITKey have alike."""
    return {
        "public_key": authority.public_key_der,
        "key_id": authority.key_id,
        "expires_at": seconds(authority.expires_at),
        "tainted": authority.tainted,
    }


def bundle_from_proto(message: types_pb2.Bundle) -> Bundle:
    """Return the bundle of a message.

    Raises:
        SpiffeIdError: The trust domain is invalid.
        BundleError: An authority is malformed, and the message says which one; or the hint is.
    """
    trust_domain = TrustDomain.parse(message.trust_domain)
    keys = len(message.jwt_authorities) + len(message.wit_authorities)
    if len(message.x509_authorities) + keys > MAX_AUTHORITIES:
        raise BundleError(f"bundle of {trust_domain} has more than {MAX_AUTHORITIES} authorities")
    if not 0 <= message.refresh_hint <= MAX_REFRESH_HINT:
        raise BundleError(f"refresh_hint is not a whole number of 0 to {MAX_REFRESH_HINT} seconds")
    return Bundle(
        trust_domain,
        tuple(x509_authority_from_proto(i, a) for i, a in enumerate(message.x509_authorities)),
        tuple(jwt_authority_from_proto(i, a) for i, a in enumerate(message.jwt_authorities)),
        sequence=message.sequence_number,
        refresh_hint=timedelta(seconds=message.refresh_hint) if message.refresh_hint else None,
        wit_authorities=tuple(wit_authority_from_proto(i, a) for i, a in enumerate(message.wit_authorities)),
    )


def x509_authority_from_proto(index: int, message: types_pb2.X509Certificate) -> X509Authority:
    """Return an X.509 authority, checked to be a signing certificate.

    Raises:
        BundleError: It is none.
    """
    try:
        load_authority(message.asn1)
    except X509SvidError as error:
        raise BundleError(f"x509_authorities[{index}]: {error}") from error
    return X509Authority(message.asn1, message.tainted)


def jwt_authority_from_proto(index: int, message: types_pb2.JWTKey) -> JwtAuthority:
    """Return a JWT authority.

    Raises:
        BundleError: The key ID is missing, or the key is malformed.
    """
    return key_from_proto(f"jwt_authorities[{index}]", message)


def wit_authority_from_proto(index: int, message: types_pb2.WITKey) -> JwtAuthority:
    """Return a WIT authority.

    Raises:
        BundleError: The key ID is missing, or the key is malformed.
    """
    return key_from_proto(f"wit_authorities[{index}]", message)


def key_from_proto(field: str, message: types_pb2.JWTKey | types_pb2.WITKey) -> JwtAuthority:
    """Return the JWT or WIT authority that a field holds.

    Raises:
        BundleError: The key ID is missing, or the key is malformed; the message names the field.
    """
    if not message.key_id:
        raise BundleError(f"{field}: key_id is missing")
    try:
        public_key_from_der(message.public_key)
        expires_at = instant(message.expires_at)
    except (UnsupportedKeyError, ValueError) as error:
        raise BundleError(f"{field}: {error}") from error
    return JwtAuthority(message.key_id, message.public_key, expires_at, message.tainted)

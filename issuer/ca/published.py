# SPDX-License-Identifier: Apache-2.0
"""What others add to our own bundle: keys that downstream issuers publish, and what operators append.

Ours are the authorities of the journal. Whatever else is in the bundle is trusted like them, and that is
all: it never signs here, rotation neither uses nor changes it, and it goes once it has ended.
"""

from collections.abc import Iterable
from dataclasses import replace
from datetime import datetime, timedelta
from typing import Final

from issuer.errors import AlreadyExistsError, FailedPreconditionError, InvalidRequestError, NotFoundError
from issuer.model import AuthorityKind
from issuer.store import Transaction
from spiffekit.bundle import Bundle, JwtAuthority, X509Authority
from spiffekit.id import TrustDomain
from spiffekit.jwk import MAX_KEY_ID
from spiffekit.jws import algorithms_of
from spiffekit.keys import public_key_to_der

MAX_PUBLISHED: Final = 256  # keys of others; the room that is left in a bundle is for operators and for us
MAX_LIFETIME: Final = timedelta(days=366)  # what nobody withdraws goes by itself


def check(key: JwtAuthority, now: datetime) -> JwtAuthority:
    """Return a key that a downstream issuer may publish, in the one form that its bytes can have.

    Raises:
        InvalidRequestError: It may not; the message says why.
    """
    if len(key.key_id) > MAX_KEY_ID:
        raise InvalidRequestError(f"key_id: longer than {MAX_KEY_ID} characters, no token can name it")
    if not algorithms_of(key.public_key):
        raise InvalidRequestError("public_key: is of a kind that no SVID is signed with")
    if key.expires_at is None or key.expires_at <= now:
        raise InvalidRequestError("expires_at: is not in the future")
    if key.expires_at > now + MAX_LIFETIME:
        raise InvalidRequestError(f"expires_at: is more than {MAX_LIFETIME.days} days away")
    if key.tainted:
        raise InvalidRequestError("tainted: a key that nobody is to trust is not published")
    return replace(key, public_key_der=public_key_to_der(key.public_key))


def publish(tx: Transaction, trust_domain: TrustDomain, kind: AuthorityKind, key: JwtAuthority) -> Bundle:
    """Add a key that `check` has returned to our own bundle; one that is in stays as it is.

    Raises:
        AlreadyExistsError: Its ID is that of another key, or the key has another ID or use: whoever took
            that on could stand in for somebody else's key, or keep it when it is withdrawn.
        FailedPreconditionError: There are too many already.
    """
    bundle = tx.bundles.get(trust_domain)
    jwt_keys, wit_keys = bundle.jwt_authorities, bundle.wit_authorities
    same_use = jwt_keys if kind is AuthorityKind.JWT else wit_keys
    for known in (*jwt_keys, *wit_keys):
        same_id = known.key_id == key.key_id
        same_key = known.public_key_der == key.public_key_der
        if same_id and same_key and known in same_use:
            return bundle
        if same_id:
            raise AlreadyExistsError(f"key_id: {key.key_id[:80]!r} is that of another key")
        if same_key:
            raise AlreadyExistsError(f"public_key: is known by the ID {known.key_id[:80]!r}")
    ours = {
        record.id for kind in (AuthorityKind.JWT, AuthorityKind.WIT) for record in tx.authorities.all(kind)
    }
    if sum(known.key_id not in ours for known in (*jwt_keys, *wit_keys)) >= MAX_PUBLISHED:
        raise FailedPreconditionError(
            f"{MAX_PUBLISHED} keys of others are in the bundle; wait for some to end"
        )
    if kind is AuthorityKind.JWT:
        return tx.bundles.put(replace(bundle, jwt_authorities=(*jwt_keys, key)))
    return tx.bundles.put(replace(bundle, wit_authorities=(*wit_keys, key)))


def withdraw(tx: Transaction, trust_domain: TrustDomain, authority_id: str) -> Bundle:
    """Take out of our own bundle what others added by that key ID or subject key identifier.

    Raises:
        NotFoundError: There is nothing of that name.
        FailedPreconditionError: It is one of ours: what signs here has to be published.
    """
    if any(record.id == authority_id for kind in AuthorityKind for record in tx.authorities.all(kind)):
        raise FailedPreconditionError(
            f"authority {authority_id[:80]!r} is one of ours, which rotation replaces"
        )
    bundle = tx.bundles.get(trust_domain)
    left = replace(
        bundle,
        x509_authorities=tuple(a for a in bundle.x509_authorities if a.subject_key_id != authority_id),
        jwt_authorities=tuple(key for key in bundle.jwt_authorities if key.key_id != authority_id),
        wit_authorities=tuple(key for key in bundle.wit_authorities if key.key_id != authority_id),
    )
    if left.size == bundle.size:
        raise NotFoundError(f"no authority {authority_id[:80]!r} is in the bundle")
    return tx.bundles.put(left)


def lasting_keys(
    added: Iterable[JwtAuthority], ours: set[str], ended_before: datetime
) -> tuple[JwtAuthority, ...]:
    """Return the keys that are not ours and have not ended before an instant; one without end lasts."""
    return tuple(
        key
        for key in added
        if key.key_id not in ours and (key.expires_at is None or key.expires_at > ended_before)
    )


def lasting_certificates(
    added: Iterable[X509Authority], ours: set[bytes], ended_before: datetime
) -> tuple[X509Authority, ...]:
    """Return the certificates that are not ours and have not ended before an instant."""
    return tuple(
        authority
        for authority in added
        if authority.certificate_der not in ours and authority.certificate.not_valid_after_utc > ended_before
    )

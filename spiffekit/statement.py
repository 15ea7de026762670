# SPDX-License-Identifier: Apache-2.0
"""What a trust domain states of itself: a JWS that a JWT authority of its own bundle signed. Pure."""

from spiffekit.bundle import BundleSource
from spiffekit.errors import JwtSvidError, SpiffeIdError, UntrustedError
from spiffekit.id import SpiffeId, TrustDomain
from spiffekit.jws import Jws


def verify(
    token: str, bundles: BundleSource, *, typ: str, longest: int, what: str
) -> tuple[TrustDomain, Jws]:
    """Verify who signed a statement, and return that trust domain and the token taken apart.

    1. it is a compact JWS of bounded size and of its own `typ`, so that nothing else passes for one;
    2. the issuer is a trust domain, and a JWT authority of that trust domain's bundle signed it.

    What it says, and whether it is of now, is left to the caller.

    Args:
        token: Compact serialization.
        bundles: Where the bundle of the issuer comes from.
        typ: What `typ` has to be.
        longest: Characters that it may have.
        what: The statement's name in messages.

    Raises:
        JwtSvidError: It is malformed.
        UnknownTrustDomainError: There is no bundle for its trust domain.
        UntrustedError: No key of that bundle vouches for it.
    """
    # (1)
    jws = Jws.parse_unverified(token, typ=typ, longest=longest)
    # (2)
    said = jws.payload.get("iss")
    if not isinstance(said, str):
        raise JwtSvidError("iss is missing or no text")
    try:
        issuer = SpiffeId.parse(said)
    except SpiffeIdError as error:
        raise JwtSvidError(str(error)) from error
    if issuer.path:
        raise JwtSvidError("iss is no trust domain")
    authority = bundles.bundle_for(issuer.trust_domain).jwt_authority(jws.key_id())
    if authority is None:
        raise UntrustedError(f"no key of {issuer.trust_domain} signed the {what}")
    jws.check_signature(authority.public_key)
    return issuer.trust_domain, jws

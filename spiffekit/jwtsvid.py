# SPDX-License-Identifier: Apache-2.0
"""JWT-SVIDs: parse and verify. Pure: no clock, no socket."""

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from types import MappingProxyType
from typing import Any, Self

from spiffekit.bundle import BundleSource
from spiffekit.errors import AudienceError, JwtSvidError, SpiffeIdError, UntrustedError
from spiffekit.id import SpiffeId
from spiffekit.jws import DEFAULT_LEEWAY, Jws


@dataclass(frozen=True)
class JwtSvid:
    """A JWT-SVID. `repr` shows neither token nor claims. You get one by `verify` or `parse_unverified`.

    `key_id` names the key that is said to have signed it; it is empty if that is not said.
    """

    spiffe_id: SpiffeId
    audience: tuple[str, ...]
    expires_at: datetime
    issued_at: datetime | None
    token: str = field(repr=False)
    claims: Mapping[str, Any] = field(repr=False, hash=False)
    hint: str = ""
    key_id: str = ""

    @classmethod
    def parse_unverified(cls, token: str, audience: Collection[str] = (), *, hint: str = "") -> Self:
        """Parse a token whose issuer is known by other means, such as the Workload API.

        **This does not verify the signature or the time.** All of `audience` must be meant.

        Raises:
            JwtSvidError: It is malformed.
            AudienceError: It is not meant for all of `audience`.
        """
        svid = cls(**_claims(Jws.parse_unverified(token)), token=token, hint=hint)
        if missing := [name for name in audience if name not in svid.audience]:
            raise AudienceError(f"token is not meant for {missing[0][:80]!r}")
        return svid


def verify(
    token: str,
    bundles: BundleSource,
    *,
    audience: Collection[str],
    now: datetime,
    leeway: timedelta = DEFAULT_LEEWAY,
) -> JwtSvid:
    """Verify a token against the bundle of its subject's own trust domain.

    The procedure (JWT-SVID §4, §A):

    1. it is a compact JWS of bounded size;
    2. `alg` is one of the nine of JWT-SVID §2.1: looked at before anything else is done;
    3. `typ` is absent, `JWT` or `JOSE`; no critical extension is asked for; there is a `kid`;
    4. `sub` is a SPIFFE ID with a path, `aud` and `exp` are there and well-formed;
    5. the bundle is chosen by the subject's trust domain, the key in it by `kid`;
    6. the key is of the type that `alg` asks for, and the signature is good;
    7. `now` is before `exp` and not before `nbf`, within `leeway`;
    8. one of `audience` is meant.

    Args:
        token: Compact serialization.
        bundles: Where the bundle of the subject's trust domain comes from.
        audience: The names that the validator goes by; at least one.
        now: The instant to judge by.
        leeway: How far clocks may be apart.

    Raises:
        JwtSvidError: It is malformed.
        UnknownTrustDomainError: There is no bundle for the subject's trust domain.
        UntrustedError: No key of that bundle vouches for it.
        ExpiredError: `now` is outside its validity.
        AudienceError: It is meant for somebody else.
    """
    # (1) to (3)
    jws = Jws.parse_unverified(token)
    key_id = jws.key_id()
    # (4)
    svid = JwtSvid(**_claims(jws), token=token)
    # (5)
    bundle = bundles.bundle_for(svid.spiffe_id.trust_domain)
    authority = bundle.jwt_authority(key_id)
    if authority is None:
        raise UntrustedError(f"no JWT authority {key_id[:80]!r} in the bundle of {bundle.trust_domain}")
    # (6)
    jws.check_signature(authority.public_key)
    # (7)
    jws.check_time(now, leeway)
    # (8)
    if not any(name in svid.audience for name in audience):
        raise AudienceError("token is meant for somebody else")
    return svid


def _claims(jws: Jws) -> dict[str, Any]:
    subject = jws.payload.get("sub")
    if not isinstance(subject, str):
        raise JwtSvidError("sub is missing or not a string")
    try:
        spiffe_id = SpiffeId.parse(subject)
    except SpiffeIdError as error:
        raise JwtSvidError(f"sub: {error}") from error
    if not spiffe_id.path:
        raise JwtSvidError("sub has no path")
    return {
        "spiffe_id": spiffe_id,
        "audience": jws.audience(),
        "expires_at": jws.expires_at(),
        "issued_at": jws.instant("iat"),
        "claims": MappingProxyType(jws.payload),
        "key_id": jws.key_id() if "kid" in jws.header else "",
    }

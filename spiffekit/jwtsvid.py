# SPDX-License-Identifier: Apache-2.0
"""JWT-SVIDs: parse and verify. Pure: no clock, no socket."""

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from types import MappingProxyType
from typing import Any, Final, Self

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, padding, rsa
from cryptography.hazmat.primitives.asymmetric.utils import encode_dss_signature

from spiffekit.bundle import BundleSource
from spiffekit.errors import (
    AudienceError,
    ExpiredError,
    JwtSvidError,
    SpiffeIdError,
    UntrustedError,
)
from spiffekit.id import SpiffeId
from spiffekit.jwk import MAX_KEY_ID, decode_base64url, parse_json_object
from spiffekit.keys import PublicKey

MAX_TOKEN_BYTES: Final = 64 * 1024  # characters; a longer token only costs the validator time
MAX_AUDIENCES: Final = 100
DEFAULT_LEEWAY: Final = timedelta(seconds=30)  # for clocks that are a little apart, JWT-SVID §A
_TYPES: Final = ("JWT", "JOSE")  # JWT-SVID §2.3
_MAX_INSTANT: Final = 253402300799  # seconds, the end of the year 9999

_Hash = type[hashes.SHA256] | type[hashes.SHA384] | type[hashes.SHA512]
_HASHES: Final[dict[str, _Hash]] = {"256": hashes.SHA256, "384": hashes.SHA384, "512": hashes.SHA512}
_CURVES: Final = {"ES256": ("secp256r1", 32), "ES384": ("secp384r1", 48), "ES512": ("secp521r1", 66)}
ALGORITHMS: Final = frozenset(
    f"{kind}{size}" for kind in ("RS", "ES", "PS") for size in _HASHES
)  # JWT-SVID §2.1


@dataclass(frozen=True)
class JwtSvid:
    """A JWT-SVID. `repr` shows neither token nor claims. You get one by `verify` or `parse_unverified`."""

    spiffe_id: SpiffeId
    audience: tuple[str, ...]
    expires_at: datetime
    issued_at: datetime | None
    token: str = field(repr=False)
    claims: Mapping[str, Any] = field(repr=False, hash=False)
    hint: str = ""

    @classmethod
    def parse_unverified(cls, token: str, audience: Collection[str] = (), *, hint: str = "") -> Self:
        """Parse a token whose issuer is known by other means, such as the Workload API.

        **This does not verify the signature or the time.** All of `audience` must be meant.

        Raises:
            JwtSvidError: It is malformed.
            AudienceError: It is not meant for all of `audience`.
        """
        parts = _split(token)
        svid = cls(**_claims(parts), token=token, hint=hint)
        if missing := [name for name in audience if name not in svid.audience]:
            raise AudienceError(f"token is not meant for {missing[0][:80]!r}")
        return svid


@dataclass(frozen=True, slots=True)
class _Parts:
    header: dict[str, Any]
    payload: dict[str, Any]
    signed: bytes
    signature: bytes


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
    parts = _split(token)
    key_id = parts.header.get("kid")
    if not isinstance(key_id, str) or not 0 < len(key_id) <= MAX_KEY_ID:
        raise JwtSvidError("header has no kid")
    # (4)
    svid = JwtSvid(**_claims(parts), token=token)
    # (5)
    bundle = bundles.bundle_for(svid.spiffe_id.trust_domain)
    authority = bundle.jwt_authority(key_id)
    if authority is None:
        raise UntrustedError(f"no JWT authority {key_id[:80]!r} in the bundle of {bundle.trust_domain}")
    # (6)
    _check_signature(authority.public_key, parts)
    # (7)
    _check_time(parts.payload, now, leeway)
    # (8)
    if not any(name in svid.audience for name in audience):
        raise AudienceError("token is meant for somebody else")
    return svid


def _split(token: str) -> _Parts:
    """Steps 1 to 3, short of the key ID, which a token from the Workload API need not have."""
    if len(token) > MAX_TOKEN_BYTES:
        raise JwtSvidError(f"token is longer than {MAX_TOKEN_BYTES} bytes")
    pieces = token.split(".")
    if len(pieces) != 3:
        raise JwtSvidError("token is not a compact JWS of three parts")
    try:
        header = parse_json_object(decode_base64url(pieces[0]))
    except ValueError as error:
        raise JwtSvidError(f"header: {error}") from error
    algorithm = header.get("alg")
    if not isinstance(algorithm, str) or algorithm not in ALGORITHMS:  # exactly, and before anything else
        raise JwtSvidError(f"alg {str(algorithm)[:20]!r} is not allowed")
    if header.get("typ", "JWT") not in _TYPES:
        raise JwtSvidError(f"typ {str(header['typ'])[:20]!r} is not JWT or JOSE")
    if "crit" in header:  # RFC 7515 §4.1.11: we understand none
        raise JwtSvidError("header asks for critical extensions")
    try:
        payload = parse_json_object(decode_base64url(pieces[1]))
        signature = decode_base64url(pieces[2])
    except ValueError as error:
        raise JwtSvidError(f"token: {error}") from error
    return _Parts(header, payload, f"{pieces[0]}.{pieces[1]}".encode("ascii"), signature)


def _claims(parts: _Parts) -> dict[str, Any]:
    payload = parts.payload
    subject = payload.get("sub")
    if not isinstance(subject, str):
        raise JwtSvidError("sub is missing or not a string")
    try:
        spiffe_id = SpiffeId.parse(subject)
    except SpiffeIdError as error:
        raise JwtSvidError(f"sub: {error}") from error
    if not spiffe_id.path:
        raise JwtSvidError("sub has no path")
    expires_at = _instant(payload, "exp")
    if expires_at is None:
        raise JwtSvidError("exp is missing")  # JWT-SVID §3.3
    return {
        "spiffe_id": spiffe_id,
        "audience": _audience(payload.get("aud")),
        "expires_at": expires_at,
        "issued_at": _instant(payload, "iat"),
        "claims": MappingProxyType(payload),
    }


def _audience(value: object) -> tuple[str, ...]:
    names = [value] if isinstance(value, str) else value
    if not isinstance(names, list) or not names or len(names) > MAX_AUDIENCES:
        raise JwtSvidError("aud is missing, empty or too long")  # JWT-SVID §3.2
    if not all(isinstance(name, str) and name for name in names):
        raise JwtSvidError("aud has a member that is not a name")
    return tuple(names)


def _instant(payload: dict[str, Any], name: str) -> datetime | None:
    value = payload.get(name)
    if value is None:
        return None
    # bool is an int in Python, and a NumericDate may have a fraction (RFC 7519 §2)
    if type(value) not in (int, float) or not 0 <= value <= _MAX_INSTANT:
        raise JwtSvidError(f"{name} is not a point in time")
    return datetime.fromtimestamp(value, UTC)


def _check_time(payload: dict[str, Any], now: datetime, leeway: timedelta) -> None:
    expires_at, not_before = _instant(payload, "exp"), _instant(payload, "nbf")
    if expires_at is None or now - leeway >= expires_at:
        raise ExpiredError("token has expired")
    if not_before is not None and now + leeway < not_before:
        raise ExpiredError("token is not valid yet")


def _check_signature(key: PublicKey, parts: _Parts) -> None:
    algorithm: str = parts.header["alg"]
    digest = _HASHES[algorithm[2:]]()
    try:
        match key, algorithm[:2]:
            case ec.EllipticCurvePublicKey(), "ES":
                curve, width = _CURVES[algorithm]
                if key.curve.name != curve or len(parts.signature) != 2 * width:
                    raise UntrustedError(f"key or signature is not of the kind that {algorithm} uses")
                r, s = (int.from_bytes(half) for half in (parts.signature[:width], parts.signature[width:]))
                key.verify(encode_dss_signature(r, s), parts.signed, ec.ECDSA(digest))
            case rsa.RSAPublicKey(), "RS":
                key.verify(parts.signature, parts.signed, padding.PKCS1v15(), digest)
            case rsa.RSAPublicKey(), "PS":
                salted = padding.PSS(padding.MGF1(digest), digest.digest_size)
                key.verify(parts.signature, parts.signed, salted, digest)
            case _:
                raise UntrustedError(f"key is not of the kind that {algorithm} uses")
    except InvalidSignature as error:
        raise UntrustedError("signature is not good") from error

# SPDX-License-Identifier: Apache-2.0
"""Signed JSON Web Tokens in the compact form (RFC 7515 §3.1, RFC 7519), read strictly. Pure: no clock."""

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any, Final

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, padding, rsa
from cryptography.hazmat.primitives.asymmetric.utils import decode_dss_signature, encode_dss_signature

from spiffekit.errors import ExpiredError, JwtSvidError, UntrustedError
from spiffekit.jwk import MAX_KEY_ID, decode_base64url, encode_base64url, parse_json_object, to_json
from spiffekit.keys import PublicKey

MAX_TOKEN_BYTES: Final = 64 * 1024  # characters; a longer token only costs the validator time
MAX_AUDIENCES: Final = 100
DEFAULT_LEEWAY: Final = timedelta(seconds=30)  # for clocks that are a little apart, JWT-SVID §A
_TYPES: Final = ("JWT", "JOSE")  # JWT-SVID §2.3
MAX_INSTANT: Final = 253402300799  # seconds, the end of the year 9999

_Hash = type[hashes.SHA256] | type[hashes.SHA384] | type[hashes.SHA512]
_HASHES: Final[dict[str, _Hash]] = {"256": hashes.SHA256, "384": hashes.SHA384, "512": hashes.SHA512}
_CURVES: Final = {"ES256": ("secp256r1", 32), "ES384": ("secp384r1", 48), "ES512": ("secp521r1", 66)}
ALGORITHMS: Final = frozenset(
    f"{kind}{size}" for kind in ("RS", "ES", "PS") for size in _HASHES
)  # JWT-SVID §2.1


@dataclass(frozen=True, slots=True)
class Jws:
    """A token taken apart. **Nothing in it is verified** before `check_signature` and `check_time`."""

    header: dict[str, Any]
    payload: dict[str, Any]
    signed: bytes
    signature: bytes

    @classmethod
    def parse_unverified(
        cls,
        token: str,
        algorithms: Collection[str] = ALGORITHMS,
        *,
        typ: str | None = None,
        longest: int = MAX_TOKEN_BYTES,
    ) -> "Jws":
        """Take a token apart, having looked at `alg` before anything else.

        Args:
            token: Compact serialization.
            algorithms: Those of `ALGORITHMS` that may sign it.
            typ: What `typ` has to be; if None, it is absent, JWT or JOSE, so that no kind passes for another.
            longest: Characters that it may have.

        Raises:
            JwtSvidError: It is malformed, or signed with another algorithm.
        """
        if len(token) > longest:
            raise JwtSvidError(f"token is longer than {longest} bytes")
        pieces = token.split(".")
        if len(pieces) != 3:
            raise JwtSvidError("token is not a compact JWS of three parts")
        try:
            header = parse_json_object(decode_base64url(pieces[0]))
        except ValueError as error:
            raise JwtSvidError(f"header: {error}") from error
        algorithm = header.get("alg")
        if not isinstance(algorithm, str) or algorithm not in algorithms:  # exactly
            raise JwtSvidError(f"alg {str(algorithm)[:20]!r} is not allowed")
        if typ is not None and header.get("typ") != typ:
            raise JwtSvidError(f"typ {str(header.get('typ'))[:20]!r} is not {typ}")
        if typ is None and header.get("typ", "JWT") not in _TYPES:
            raise JwtSvidError(f"typ {str(header['typ'])[:20]!r} is not JWT or JOSE")
        if "crit" in header:  # RFC 7515 §4.1.11: we understand none
            raise JwtSvidError("header asks for critical extensions")
        try:
            payload = parse_json_object(decode_base64url(pieces[1]), longest)
            signature = decode_base64url(pieces[2])
        except ValueError as error:
            raise JwtSvidError(f"token: {error}") from error
        return cls(header, payload, f"{pieces[0]}.{pieces[1]}".encode("ascii"), signature)

    def key_id(self) -> str:
        """Return the ID of the key that is said to have signed.

        Raises:
            JwtSvidError: There is none.
        """
        key_id = self.header.get("kid")
        if not isinstance(key_id, str) or not 0 < len(key_id) <= MAX_KEY_ID:
            raise JwtSvidError("header has no kid")
        return key_id

    def audience(self) -> tuple[str, ...]:
        """Return whom the token is meant for.

        Raises:
            JwtSvidError: It does not say, or says it of something else than names.
        """
        value = self.payload.get("aud")
        names = [value] if isinstance(value, str) else value
        if not isinstance(names, list) or not names or len(names) > MAX_AUDIENCES:
            raise JwtSvidError("aud is missing, empty or too long")  # JWT-SVID §3.2
        if not all(isinstance(name, str) and name for name in names):
            raise JwtSvidError("aud has a member that is not a name")
        return tuple(names)

    def instant(self, name: str) -> datetime | None:
        """Return a claim that is a point in time, or None if it is not there.

        Raises:
            JwtSvidError: It is something else.
        """
        value = self.payload.get(name)
        if value is None:
            return None
        # bool is an int in Python, and a NumericDate may have a fraction (RFC 7519 §2)
        if type(value) not in (int, float) or not 0 <= value <= MAX_INSTANT:
            raise JwtSvidError(f"{name} is not a point in time")
        return datetime.fromtimestamp(value, UTC)

    def expires_at(self) -> datetime:
        """Return when the token ends.

        Raises:
            JwtSvidError: It does not say.
        """
        expires_at = self.instant("exp")
        if expires_at is None:
            raise JwtSvidError("exp is missing")  # JWT-SVID §3.3
        return expires_at

    def check_time(self, now: datetime, leeway: timedelta = DEFAULT_LEEWAY) -> None:
        """Check that `now` is before `exp` and not before `nbf`, within `leeway`.

        Raises:
            ExpiredError: It is not.
            JwtSvidError: There is no `exp`, or one of both is no point in time.
        """
        not_before = self.instant("nbf")
        if now - leeway >= self.expires_at():
            raise ExpiredError("token has expired")
        if not_before is not None and now + leeway < not_before:
            raise ExpiredError("token is not valid yet")

    def check_signature(self, key: PublicKey) -> None:
        """Check that `key` is of the type that `alg` asks for, and that it signed.

        Raises:
            UntrustedError: It is not, or did not.
        """
        algorithm: str = self.header["alg"]
        digest = _HASHES[algorithm[2:]]()
        try:
            match key:
                case ec.EllipticCurvePublicKey() if algorithm in algorithms_of(key):
                    width = _CURVES[algorithm][1]
                    if len(self.signature) != 2 * width:
                        raise UntrustedError(f"signature is not of the kind that {algorithm} uses")
                    r, s = (int.from_bytes(half) for half in (self.signature[:width], self.signature[width:]))
                    key.verify(encode_dss_signature(r, s), self.signed, ec.ECDSA(digest))
                case rsa.RSAPublicKey() if algorithm.startswith("PS"):
                    salted = padding.PSS(padding.MGF1(digest), digest.digest_size)
                    key.verify(self.signature, self.signed, salted, digest)
                case rsa.RSAPublicKey() if algorithm.startswith("RS"):
                    key.verify(self.signature, self.signed, padding.PKCS1v15(), digest)
                case _:
                    raise UntrustedError(f"key is not of the kind that {algorithm} uses")
        except InvalidSignature as error:
            raise UntrustedError("signature is not good") from error


def algorithms_of(key: PublicKey) -> frozenset[str]:
    """Return the algorithms of `ALGORITHMS` that a key may be used with; none for other kinds of key."""
    match key:
        case ec.EllipticCurvePublicKey():
            return frozenset(name for name, (curve, _) in _CURVES.items() if curve == key.curve.name)
        case rsa.RSAPublicKey():
            return ALGORITHMS - _CURVES.keys()
        case _:
            return frozenset()


def signing_input(header: Mapping[str, object], claims: Mapping[str, object]) -> str:
    """Return what is signed of a token (RFC 7515 §5.1)."""
    return ".".join(encode_base64url(to_json(part)) for part in (header, claims))


def with_signature(signed: str, der_signature: bytes, algorithm: str) -> str:
    """Return a token in compact form.

    Args:
        signed: What `signing_input` returned.
        der_signature: The signature over it as cryptographic libraries and key managers return it.
        algorithm: What it was signed with; elliptic signatures are written by halves (RFC 7518 §3.4).
    """
    if algorithm in _CURVES:
        width = _CURVES[algorithm][1]
        der_signature = b"".join(half.to_bytes(width) for half in decode_dss_signature(der_signature))
    return f"{signed}.{encode_base64url(der_signature)}"


def sign(typ: str, claims: Mapping[str, object], key: ec.EllipticCurvePrivateKey) -> str:
    """Return a token that an elliptic key of ours signs; it names no key."""
    (algorithm,) = algorithms_of(key.public_key())
    signed = signing_input({"alg": algorithm, "typ": typ}, claims)
    signature = key.sign(signed.encode("ascii"), ec.ECDSA(_HASHES[algorithm[2:]]()))
    return with_signature(signed, signature, algorithm)

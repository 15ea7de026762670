# SPDX-License-Identifier: Apache-2.0
"""JSON Web Keys and key sets, as far as SPIFFE bundles use them (RFC 7517, RFC 7518 §6, RFC 8037).

Strict: names are unique, base64url has no padding, coordinates have full width, and a key that stands
beside a certificate has to be that certificate's key.
"""

import base64
import json
import re
from dataclasses import dataclass
from typing import Any, Final

from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa

from spiffekit.certificates import load_authority, public_key_of
from spiffekit.errors import BundleError, UnsupportedKeyError, X509SvidError
from spiffekit.keys import PublicKey, check_public_key

MAX_DOCUMENT_BYTES: Final = 1024 * 1024  # bytes; a larger bundle only costs the reader memory
MAX_KEYS: Final = 1000  # elements
MAX_KEY_ID: Final = 1024  # characters

_CURVES: Final[dict[str, tuple[type[ec.EllipticCurve], int]]] = {  # name: class, bytes of a coordinate
    "P-256": (ec.SECP256R1, 32),
    "P-384": (ec.SECP384R1, 48),
    "P-521": (ec.SECP521R1, 66),
}
_NAMES: Final = {"secp256r1": "P-256", "secp384r1": "P-384", "secp521r1": "P-521"}
_SURROGATE: Final = re.compile(rb"\\u[dD][89a-fA-F]")
_BASE64URL: Final = re.compile(r"[A-Za-z0-9_-]+", re.ASCII)


def decode_base64url(text: object) -> bytes:
    """Decode base64url without padding, and nothing else (RFC 7515 §2).

    Raises:
        ValueError: It is not exactly that.
    """
    if not isinstance(text, str) or not _BASE64URL.fullmatch(text) or len(text) % 4 == 1:
        raise ValueError("not base64url without padding")
    data = base64.urlsafe_b64decode(text + "=" * (-len(text) % 4))
    if encode_base64url(data) != text:
        raise ValueError("base64url has stray bits")
    return data


def encode_base64url(data: bytes) -> str:
    """Encode base64url without padding."""
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode("ascii")


def parse_json_object(document: bytes, limit: int = MAX_DOCUMENT_BYTES) -> dict[str, Any]:
    """Parse a JSON object whose names are unique at every level (RFC 8259 §4).

    Raises:
        ValueError: It is larger than `limit` bytes, not JSON, not an object, has half a character, or a
            name stands twice.
    """
    if len(document) > limit:
        raise ValueError(f"larger than {limit} bytes")

    def unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        found = dict(pairs)
        if len(found) != len(pairs):
            raise ValueError("a name stands twice")
        return found

    def refuse(constant: str) -> None:
        raise ValueError(f"{constant} is not JSON")

    try:
        parsed = json.loads(document.decode("utf-8"), object_pairs_hook=unique, parse_constant=refuse)
    except RecursionError as error:
        raise ValueError("nested too deeply") from error
    if _SURROGATE.search(document):  # RFC 8259 §8.2: a lone one is a text that cannot be passed on
        json.dumps(parsed, ensure_ascii=False).encode("utf-8")
    if not isinstance(parsed, dict):
        raise ValueError("not a JSON object")  # noqa: TRY004 - one error for all that is malformed
    return parsed


def to_json(value: object) -> bytes:
    """Return compact JSON in ASCII."""
    return json.dumps(value, separators=(",", ":")).encode("ascii")


@dataclass(frozen=True, slots=True)
class Element:
    """One element of a key set, not judged yet."""

    index: int
    fields: dict[str, Any]

    @property
    def use(self) -> object:
        """The public key use; None if there is none."""
        return self.fields.get("use")

    def key_id(self) -> str:
        """Return the key ID.

        Raises:
            BundleError: There is none (JWT-SVID §6.1).
        """
        key_id = self.fields.get("kid")
        if not isinstance(key_id, str) or not 0 < len(key_id) <= MAX_KEY_ID:
            raise BundleError("kid is missing or not a string of bounded length")
        return key_id

    def public_key(self) -> PublicKey:
        """Return the public key.

        Raises:
            BundleError: Its type is not known (Trust_Domain_and_Bundle §4.2.1), or it does not validate.
        """
        try:
            match self.fields.get("kty"):
                case "EC":
                    return self._elliptic()
                case "RSA":
                    return self._rsa()
                case "OKP":
                    return self._edwards()
                case kind:
                    raise BundleError(f"kty {kind!r} is not known")
        except (ValueError, UnsupportedKeyError) as error:
            raise BundleError(f"key does not validate: {error}") from error

    def private_key(self) -> ec.EllipticCurvePrivateKey:
        """Return the private key, which has to be an elliptic one (RFC 7518 §6.2.2).

        Raises:
            BundleError: It is none, it does not validate, or the public half beside it is another.
        """
        public = self.public_key()
        if not isinstance(public, ec.EllipticCurvePublicKey):
            raise BundleError("key is not an elliptic one")
        try:
            scalar = decode_base64url(self.fields.get("d"))
            if len(scalar) != _CURVES[_NAMES[public.curve.name]][1]:
                raise BundleError("d does not have the width of the curve")
            private = ec.derive_private_key(int.from_bytes(scalar), public.curve)
        except ValueError:
            raise BundleError(
                "d does not validate"
            ) from None  # it is secret, and so is what is wrong with it
        if private.public_key() != public:
            raise BundleError("private and public half do not fit")
        return private

    def _elliptic(self) -> PublicKey:
        name = self.fields.get("crv")
        if not isinstance(name, str) or name not in _CURVES:
            raise BundleError(f"crv {name!r} is not known")
        curve, width = _CURVES[name]
        x, y = (decode_base64url(self.fields.get(part)) for part in ("x", "y"))
        if not len(x) == len(y) == width:  # RFC 7518 §6.2.1.2
            raise BundleError("coordinates do not have the width of the curve")
        return ec.EllipticCurvePublicNumbers(int.from_bytes(x), int.from_bytes(y), curve()).public_key()

    def _rsa(self) -> PublicKey:
        n, e = (int.from_bytes(decode_base64url(self.fields.get(part))) for part in ("n", "e"))
        return check_public_key(rsa.RSAPublicNumbers(e, n).public_key())

    def _edwards(self) -> PublicKey:
        if self.fields.get("crv") != "Ed25519":  # RFC 8037 §2; X25519 signs nothing
            raise BundleError(f"crv {self.fields.get('crv')!r} is not known")
        return ed25519.Ed25519PublicKey.from_public_bytes(decode_base64url(self.fields.get("x")))

    def certificate(self) -> bytes:
        """Return the DER of the authority's certificate; only the first value counts (X509-SVID §6.2).

        Raises:
            BundleError: There is none, it is no signing certificate, or the key beside it is another.
        """
        values = self.fields.get("x5c")
        if not isinstance(values, list) or not values or not isinstance(values[0], str):
            raise BundleError("x5c is missing or empty")
        try:
            der = base64.b64decode(values[0], validate=True)
            certificate = load_authority(der)
        except (ValueError, X509SvidError) as error:
            raise BundleError(f"x5c: {error}") from error
        if self.public_key() != certificate.public_key():
            raise BundleError("key is not that of the certificate")
        return der


def key_set(document: bytes) -> tuple[dict[str, Any], list[Element]]:
    """Parse a key set into its top-level members and its elements.

    Raises:
        BundleError: It is no JSON object with an array `keys` (Trust_Domain_and_Bundle §4.1.3).
    """
    try:
        top = parse_json_object(document)
    except ValueError as error:
        raise BundleError(f"bundle is not a JSON object: {error}") from error
    keys = top.get("keys")
    if not isinstance(keys, list):
        raise BundleError("bundle has no array 'keys'")
    if len(keys) > MAX_KEYS:
        raise BundleError(f"bundle has more than {MAX_KEYS} keys")
    return top, [Element(i, key if isinstance(key, dict) else {}) for i, key in enumerate(keys)]


def whole_number(top: dict[str, Any], name: str, limit: int) -> int | None:
    """Return a member that has to be a whole number of 0 to `limit`, or None if it is not there.

    Raises:
        BundleError: It is anything else.
    """
    value = top.get(name)
    if value is None:
        return None
    if type(value) is not int or not 0 <= value <= limit:
        raise BundleError(f"{name} is not a whole number of 0 to {limit}")
    return value


def from_public_key(key: PublicKey, use: str | None = None, key_id: str | None = None) -> dict[str, object]:
    """Return the JWK of a public key."""
    element: dict[str, object] = {} if use is None else {"use": use}
    if key_id is not None:
        element["kid"] = key_id
    match key:
        case ec.EllipticCurvePublicKey():
            name = _NAMES[key.curve.name]
            numbers, width = key.public_numbers(), _CURVES[name][1]
            x, y = (encode_base64url(n.to_bytes(width)) for n in (numbers.x, numbers.y))
            return {**element, "kty": "EC", "crv": name, "x": x, "y": y}
        case rsa.RSAPublicKey():
            public = key.public_numbers()
            n, e = (
                encode_base64url(value.to_bytes((value.bit_length() + 7) // 8))
                for value in (public.n, public.e)
            )
            return {**element, "kty": "RSA", "n": n, "e": e}
        case ed25519.Ed25519PublicKey():  # pragma: no branch - the last kind there is, mypy checks
            return {**element, "kty": "OKP", "crv": "Ed25519", "x": encode_base64url(key.public_bytes_raw())}


def from_certificate(der: bytes, use: str) -> dict[str, object]:
    """Return the JWK of an X.509 authority: its key, and the certificate in `x5c` (X509-SVID §6.1)."""
    key = public_key_of(x509.load_der_x509_certificate(der))
    return {**from_public_key(key, use), "x5c": [base64.b64encode(der).decode("ascii")]}


def from_private_key(key: ec.EllipticCurvePrivateKey) -> dict[str, object]:
    """Return the JWK of a private key, with `d`: a secret (RFC 7518 §6.2.2)."""
    width = _CURVES[_NAMES[key.curve.name]][1]
    scalar = encode_base64url(key.private_numbers().private_value.to_bytes(width))
    return {**from_public_key(key.public_key()), "d": scalar}

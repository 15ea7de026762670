# SPDX-License-Identifier: Apache-2.0
"""JWT-SVIDs, good and bad, for a validator that goes by the name "test" (JWT-SVID §2 to §5)."""

import base64
import hashlib
import hmac
import json

from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.utils import decode_dss_signature
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from spiffekit.testing import TestCA
from tests.vectors import keys

CA = TestCA("example.org", now=keys.NOW, seed=b"tokens")
OTHER = TestCA("other.example", now=keys.NOW, seed=b"tokens of others")
WEB = "spiffe://example.org/web"
NOW = int(keys.NOW.timestamp())
LEEWAY = 30
LONGEST = f"spiffe://example.org/{'a' * 2027}"


def encoded(data):
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()


def token(header=None, **claims):
    """Return a signed token; a header or claim that is None is left out."""
    return CA.jwt(WEB, header=header, claims=claims)


def signed(header, payload):
    """Return a token of parts as they are, signed with the right key."""
    text = f"{encoded(header)}.{encoded(payload)}"
    return f"{text}.{encoded(raw_signature(text.encode()))}"


def raw_signature(data):
    r, s = decode_dss_signature(CA.jwt_key.sign(data, ec.ECDSA(hashes.SHA256(), deterministic_signing=True)))
    return r.to_bytes(32) + s.to_bytes(32)


def with_header(**members):
    """Return a signed token with exactly these members, null ones too."""
    return signed(json.dumps(members).encode(), json.dumps(CLAIMS).encode())


def with_claims(**members):
    return signed(json.dumps(HEADER).encode(), json.dumps({**CLAIMS, **members}).encode())


NONE = b'{"alg":"none"}'
HEADER = {"alg": "ES256", "kid": "test-key", "typ": "JWT"}
CLAIMS = {"sub": WEB, "aud": ["test"], "exp": NOW + 300, "iat": NOW}


def good():
    """Yield (rule, token)."""
    yield "plain", token()
    for aud in ("test", ["test"], ["other", "test"]):
        yield "audience", token(aud=aud)
    for typ in (None, "JWT", "JOSE"):
        yield "type", token({"typ": typ})
    jwk = {"kty": "EC", "crv": "P-256", "x": "AA", "y": "AA"}
    for members in ({"jku": "https://evil.example/"}, {"jwk": jwk}, {"x5c": ["AAAA"]}, {"cty": "x", "b": 1}):
        yield "further headers", token(members)
    yield "further claims", token(jti="x", iss="https://example.org", role={"a": [1, None]}, nbf=NOW - 10)
    yield "instant with a fraction", token(exp=NOW + 1.5)
    yield "expired within leeway", token(exp=NOW - LEEWAY + 1)
    yield "begins within leeway", token(nbf=NOW + LEEWAY)
    yield "issued in the future", token(iat=NOW + 3600)
    yield "no iat", token(iat=None)
    yield "end of time", token(exp=253402300799)
    yield "longest", CA.jwt(LONGEST, ["test"])


def malformed():
    """Yield (rule, token, message) of what is refused as malformed."""
    whole = token()
    head, body, signature = whole.split(".")
    parts = {"protected": head, "signature": signature}
    three = "token is not a compact JWS of three parts"
    yield "JSON serialization", json.dumps({"payload": body, "signatures": [parts]}), three
    yield "JSON serialization", json.dumps({"payload": body, **parts}), three
    yield "encrypted", f"{encoded(b'{}')}.AA.AA.AA.AA", three
    for text in ("", "x", f"{head}.{body}", f"{whole}.", f"{whole}.AA", f".{whole}"):
        yield "parts", text, three
    for text in (f"{whole}=", f"{whole}\n", f" {whole}", f"{head}.{body}.", f"{head}..{signature}"):
        yield "encoding", text, None
    for alg in ("none", "None", "HS256", "EdDSA", "ES256K", "es256", "rs256", "RS1", "", 1, ["ES256"], {}):
        yield "algorithm", token({"alg": alg}), f"alg {str(alg)!r} is not allowed"
    yield "algorithm", token({"alg": None}), "alg 'None' is not allowed"
    yield "algorithm", f"{encoded(NONE)}.{body}.", "alg 'none' is not allowed"
    public = CA.jwt_key.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
    text = f"{encoded(json.dumps({**HEADER, 'alg': 'HS256'}).encode())}.{body}"
    code = encoded(hmac.digest(public, text.encode(), hashlib.sha256))
    yield "algorithm", f"{text}.{code}", "alg 'HS256' is not allowed"
    for typ in ("jwt", "at+jwt", "wit+jwt", "JWT ", "", 1):
        yield "type", token({"typ": typ}), f"typ {str(typ)!r} is not JWT or JOSE"
    yield "type", with_header(**{**HEADER, "typ": None}), "typ 'None' is not JWT or JOSE"
    for crit in (["foo"], [], ["exp"], "exp"):
        yield "critical", token({"crit": crit, "foo": 1}), "header asks for critical extensions"
    for kid in (None, "", 1, ["test-key"], "k" * 1025):
        yield "no kid", token({"kid": kid}), "header has no kid"
    for sub in (None, 1, [WEB]):
        yield "subject", token(sub=sub), "sub is missing or not a string"
    yield "subject", token(sub=""), "sub: SPIFFE ID is empty"
    yield "subject", token(sub="http://example.org/web"), None
    yield "subject", token(sub=f"{WEB}\n"), None
    yield "subject", token(sub=LONGEST + "a"), "sub: SPIFFE ID is longer than 2048 bytes"
    yield "subject without path", token(sub="spiffe://example.org"), "sub has no path"
    for aud in (None, [], 1, {"test": 1}, ["test"] * 101):
        yield "no audience", token(aud=aud), "aud is missing, empty or too long"
    yield "no audience", with_claims(aud=None), "aud is missing, empty or too long"
    for aud in ("", [""], ["test", 1], ["test", None], [["test"]]):
        yield "no audience", token(aud=aud), "aud has a member that is not a name"
    yield "no expiry", token(exp=None), "exp is missing"
    yield "no expiry", with_claims(exp=None), "exp is missing"
    for exp in (str(NOW + 300), True, [NOW + 300], -1, 253402300800, 1e300, {}):
        yield "expiry", token(exp=exp), "exp is not a point in time"
    yield "other instants", token(iat="now"), "iat is not a point in time"
    for name in ("header", "token"):
        for text in (b"[]", b'"x"', b"{", b'{"a":1,"a":2}', b'{"a":NaN}', b"\xff"):
            pieces = (
                (text, json.dumps(CLAIMS).encode())
                if name == "header"
                else (json.dumps(HEADER).encode(), text)
            )
            yield "no object", signed(*pieces), None


def untrusted():
    """Yield (rule, token, error, message) of what is well-formed and refused."""
    head, body, signature = token().split(".")
    raw = base64.urlsafe_b64decode(signature + "==")
    bad, kind = "signature is not good", "signature is not of the kind that ES256 uses"
    role = token(role="admin").split(".")[1]
    yield "tampered", f"{head}.{role}.{signature}", "UntrustedError", bad
    other_head = encoded(json.dumps({**HEADER, "typ": "JOSE"}).encode())
    yield "tampered", f"{other_head}.{body}.{signature}", "UntrustedError", bad
    flipped = bytes([raw[0] ^ 1]) + raw[1:]
    for data in (flipped, bytes(64), b"\xff" * 64, raw[32:] + raw[:32]):
        yield "signature", f"{head}.{body}.{encoded(data)}", "UntrustedError", bad
    for data in (raw[:-1], raw + b"\x00", b"\x00", bytes(96)):
        yield "signature", f"{head}.{body}.{encoded(data)}", "UntrustedError", kind
    for kid in ("Test-key", "test-key ", "another"):
        message = f"no JWT authority {kid!r} in the bundle of example.org"
        yield "unknown kid", token({"kid": kid}), "UntrustedError", message
    yield "key of another trust domain", CA.jwt("spiffe://other.example/web"), "UntrustedError", bad
    yield "key of another trust domain", OTHER.jwt(WEB), "UntrustedError", bad
    message = "no bundle for trust domain nobody.example"
    yield "no bundle", CA.jwt("spiffe://nobody.example/web"), "UnknownTrustDomainError", message
    for exp in (NOW - LEEWAY, NOW - LEEWAY - 1, NOW - LEEWAY - 0.5, 0):
        yield "expired", token(exp=exp), "ExpiredError", "token has expired"
    for nbf in (NOW + LEEWAY + 1, NOW + LEEWAY + 0.5, NOW + 3600):
        yield "not yet", token(nbf=nbf), "ExpiredError", "token is not valid yet"
    for aud in ("other", ["other", "another"], "Test", "test ", "tes", "spiffe://example.org/test"):
        yield "audience", token(aud=aud), "AudienceError", "token is meant for somebody else"


def build():
    """Return the vectors; "bundles" are those that the validator knows."""
    bad = [(rule, text, "JwtSvidError", message) for rule, text, message in malformed()] + list(untrusted())
    return {
        "now": NOW,
        "leeway": LEEWAY,
        "audience": ["test"],
        "bundles": {ca.trust_domain.name: json.loads(ca.bundle.to_jwks()) for ca in (CA, OTHER)},
        "good": [{"rule": rule, "token": text} for rule, text in good()],
        "bad": [dict(zip(("rule", "token", "error", "message"), row, strict=True)) for row in bad],
    }

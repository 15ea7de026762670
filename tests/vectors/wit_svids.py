# SPDX-License-Identifier: Apache-2.0
"""WIT-SVIDs with proofs, good and bad, for a receiver of "https://tools.example/run" (WIT-SVID §2 to §6)."""

import base64
import hashlib
import json

from cryptography.hazmat.primitives.asymmetric import ec

from spiffekit.jwk import encode_base64url, from_private_key, from_public_key
from spiffekit.testing import TestCA
from tests.vectors import keys

CA = TestCA("example.org", now=keys.NOW, seed=b"witnesses of keys")
OTHER = TestCA("other.example", now=keys.NOW, seed=b"others' keys")
AGENT = "spiffe://example.org/agent"
TOOL = "https://tools.example/run"
NOW = int(keys.NOW.timestamp())
LEEWAY, LIFETIME = 30, 30
KEY = keys.elliptic_key(ec.SECP256R1(), "an agent's own")
ANOTHER = keys.elliptic_key(ec.SECP256R1(), "of another process")
PUBLIC = {**from_public_key(KEY.public_key()), "alg": "ES256"}


def token(header=None, **claims):
    """Return a signed WIT-SVID; a header or claim that is None is left out."""
    return CA.wit(AGENT, KEY.public_key(), header=header, claims=claims)


def digest(text):
    return encode_base64url(hashlib.sha256(text.encode()).digest())


def proof(of, header=None, key=KEY, **claims):
    """Return a proof for a WIT-SVID; a header or claim that is None is left out."""
    whole = {"aud": TOOL, "exp": NOW + LIFETIME, "jti": "one-of-a-kind", "wth": digest(of), **claims}
    return CA.sign({"alg": "ES256", "typ": "wpt+jwt", **(header or {})}, whole, key)


def pair(header=None, **claims):
    """Return a WIT-SVID, and a proof that is good."""
    made = token(header, **claims)
    return made, proof(made)


def good():
    """Yield (rule, token, proof)."""
    yield "plain", *pair()
    for members in ({"foo": 1}, {"jku": "https://evil.example/"}, {"x5c": ["AAAA"]}):
        yield "further headers", *pair(members)
    yield "further claims", *pair(agent_instance_id="a2", owner="https://idp.example|team", x=[1])
    for jti in (None, "ID"):
        yield "jti", *pair(jti=jti)
    for iat in (None, NOW + 3600):
        yield "iat", *pair(iat=iat)
    yield "iss", *pair(iss="example.org")
    yield "begins", *pair(nbf=NOW - 10)
    yield "expired within leeway", *pair(exp=NOW - LEEWAY + 1)
    yield "begins within leeway", *pair(nbf=NOW + LEEWAY)
    yield "key with an ID", *pair(cnf={"jwk": {**PUBLIC, "kid": "k", "use": "sig"}})
    yield "further confirmation", *pair(cnf={"jwk": PUBLIC, "kid": "k"})
    made = token()
    yield "proof with further headers", made, proof(made, {"kid": "k"})
    yield "proof with further claims", made, proof(made, iat=NOW + 3600, x=1)
    yield "proof within leeway", made, proof(made, exp=NOW - LEEWAY + 1)
    yield "proof within leeway", made, proof(made, exp=NOW + LIFETIME + LEEWAY)
    yield "audience in an array", made, proof(made, aud=[TOOL])


def malformed():
    """Yield (rule, token, proof, message) of SVIDs that are malformed; the proof is good."""
    for alg in ("none", "HS256", "EdDSA", "es256", "", None, 1):
        yield "algorithm", *pair({"alg": alg}), f"alg {str(alg)!r} is not allowed"
    for typ in (None, "JWT", "WIT+JWT", "application/wit+jwt", "wpt+jwt", "", 1):
        yield "type", *pair({"typ": typ}), f"typ {str(typ)!r} is not wit+jwt"
    yield "critical", *pair({"crit": ["foo"], "foo": 1}), "header asks for critical extensions"
    for kid in (None, "", 1):
        yield "no kid", *pair({"kid": kid}), "header has no kid"
    for sub in (None, 1, [AGENT]):
        yield "subject", *pair(sub=sub), "sub is missing or not a string"
    yield "subject", *pair(sub="wimse://example.org/agent"), None
    yield "subject", *pair(sub="spiffe://example.org"), "sub has no path"
    for aud in (TOOL, [TOOL], [], ""):
        yield "audience", *pair(aud=aud), "aud is there, and a WIT-SVID has none"
    for cnf in (None, "key", [], {}, {"jkt": digest("x")}, {"jwk": None}, {"jwk": json.dumps(PUBLIC)}):
        yield "confirmation", *pair(cnf=cnf), "cnf has no jwk"
    private = {**from_private_key(KEY), "alg": "ES256"}
    yield "private key", *pair(cnf={"jwk": private}), "cnf.jwk has the member 'd': it is no public key"
    symmetric = {"kty": "oct", "k": "AAAA", "alg": "HS256"}
    yield "private key", *pair(cnf={"jwk": symmetric}), "cnf.jwk has the member 'k': it is no public key"
    for members in ({"kty": "AKP"}, {"x": "AA"}, {"crv": "secp256k1"}, {"y": PUBLIC["x"]}):
        yield "confirmed key", *pair(cnf={"jwk": {**PUBLIC, **members}}), None
    for alg in ("EdDSA", "HS256", "none", "RS256", "ES384", "", None, 1):
        said = {**PUBLIC, "alg": alg}
        yield (
            "confirmed algorithm",
            *pair(cnf={"jwk": said}),
            f"cnf.jwk: alg {str(alg)!r} is none of the key's",
        )
    edwards = {**from_public_key(keys.edwards_key("x").public_key()), "alg": "EdDSA"}
    yield "confirmed algorithm", *pair(cnf={"jwk": edwards}), "cnf.jwk: alg 'EdDSA' is none of the key's"
    yield "no expiry", *pair(exp=None), "exp is missing"
    for exp in (str(NOW + 300), True, -1):
        yield "expiry", *pair(exp=exp), "exp is not a point in time"
    for jti in (1, ["a"], "x" * 257):
        yield "ID", *pair(jti=jti), "jti is not a string of at most 256 characters"
    yield "ID", *pair(nbf="now"), "nbf is not a point in time"
    made = token()
    yield "no proof", made, "", "proof: token is not a compact JWS of three parts"
    yield "no proof", made, made, None
    for text in (f"{proof(made)}.", f"{proof(made)}\n"):
        yield "proof", made, text, None
    for alg in ("none", "HS256", "ES384", "RS256", "PS256", "es256", None):
        yield (
            "algorithm of the proof",
            made,
            proof(made, {"alg": alg}),
            f"proof: alg {str(alg)!r} is not allowed",
        )
    for typ in (None, "JWT", "wit+jwt", "WPT+JWT", "aat+jwt"):
        yield "type of the proof", made, proof(made, {"typ": typ}), f"proof: typ {str(typ)!r} is not wpt+jwt"
    yield "type of the proof", made, proof(made, {"crit": []}), "proof: header asks for critical extensions"
    for aud in (None, [], "", 1):
        yield "audience of the proof", made, proof(made, aud=aud), None
    yield "audience of the proof", made, proof(made, aud=[TOOL, "x"]), "proof: aud names more than one"
    yield "expiry of the proof", made, proof(made, exp=None), "proof: exp is missing"
    yield "expiry of the proof", made, proof(made, exp="soon"), "proof: exp is not a point in time"
    for jti in (None, "", 1, "x" * 257):
        yield (
            "ID of the proof",
            made,
            proof(made, jti=jti),
            "proof: jti is not a string of 1 to 256 characters",
        )
    yield (
        "proof that is too long",
        made,
        proof(made, x="x" * 16384),
        "proof: token is longer than 16384 bytes",
    )


def untrusted():
    """Yield (rule, token, proof, error, message) of what is well-formed and refused."""
    made, bad = token(), "signature is not good"
    head, body, signature = made.split(".")
    forged = f"{head}.{token(role='admin').split('.')[1]}.{signature}"
    yield "tampered", forged, proof(forged), "UntrustedError", bad
    raw = base64.urlsafe_b64decode(signature + "==")
    flipped = f"{head}.{body}.{encode_base64url(bytes([raw[0] ^ 1]) + raw[1:])}"
    yield "signature", flipped, proof(flipped), "UntrustedError", bad
    swapped = CA.sign({"alg": "ES256", "kid": CA.wit_key_id, "typ": "wit+jwt"}, claims(), KEY)
    yield "signed by its own key", swapped, proof(swapped), "UntrustedError", bad
    by_jwt_key = CA.sign({"alg": "ES256", "kid": CA.key_id, "typ": "wit+jwt"}, claims(), CA.jwt_key)
    message = "no WIT authority 'test-key' in the bundle of example.org"
    yield "key of another use", by_jwt_key, proof(by_jwt_key), "UntrustedError", message
    for kid in ("Test-wit-key", "another"):
        message = f"no WIT authority {kid!r} in the bundle of example.org"
        yield "unknown kid", *pair({"kid": kid}), "UntrustedError", message
    theirs = OTHER.wit(AGENT, KEY.public_key())
    yield "key of another trust domain", theirs, proof(theirs), "UntrustedError", bad
    message = "no bundle for trust domain nobody.example"
    yield "no bundle", *pair(sub="spiffe://nobody.example/agent"), "UnknownTrustDomainError", message
    for exp in (NOW - LEEWAY, NOW - 3600):
        yield "expired", *pair(exp=exp), "ExpiredError", "token has expired"
    for nbf in (NOW + LEEWAY + 1, NOW + 3600):
        yield "not yet", *pair(nbf=nbf), "ExpiredError", "token is not valid yet"
    yield "proof by another key", made, proof(made, key=ANOTHER), "UntrustedError", bad
    shorter = proof(made)
    cut = f"{shorter.rpartition('.')[0]}.{encode_base64url(bytes(63))}"
    yield (
        "signature of the proof",
        made,
        cut,
        "UntrustedError",
        "signature is not of the kind that ES256 uses",
    )
    for wth in (None, "", digest("other"), digest(made)[:-1], made, [digest(made)]):
        yield (
            "proof of another SVID",
            made,
            proof(made, wth=wth),
            "UntrustedError",
            "proof is for another WIT-SVID",
        )
    for aud in ("https://tools.example/", f"{TOOL}?x", f"{TOOL}/", "HTTPS://tools.example/run", "run"):
        yield (
            "proof for others",
            made,
            proof(made, aud=aud),
            "AudienceError",
            "proof is meant for somebody else",
        )
    for exp in (NOW - LEEWAY, NOW + LIFETIME + LEEWAY + 1, NOW + 3600, 0):
        yield (
            "time of the proof",
            made,
            proof(made, exp=exp),
            "ExpiredError",
            "proof has expired, or lives too long",
        )
    for name in ("ath", "tth", "oth"):
        for value in (digest("x"), {}, {"x": digest("x")}, ""):
            message = "proof is for other tokens than those of the request"
            yield "proof for other tokens", made, proof(made, **{name: value}), "UntrustedError", message


def claims():
    return {"sub": AGENT, "cnf": {"jwk": PUBLIC}, "exp": NOW + 3600}


def build():
    """Return the vectors; "bundles" are those that the receiver knows."""
    bad = [(rule, *both, "WitSvidError", message) for rule, *both, message in malformed()] + list(untrusted())
    names = ("rule", "token", "proof", "error", "message")
    return {
        "now": NOW,
        "leeway": LEEWAY,
        "audience": [TOOL],
        "bundles": {ca.trust_domain.name: json.loads(ca.wit_bundle.to_jwks()) for ca in (CA, OTHER)},
        "good": [dict(zip(names, row, strict=False)) for row in good()],
        "bad": [dict(zip(names, row, strict=True)) for row in bad],
    }

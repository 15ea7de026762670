# SPDX-License-Identifier: Apache-2.0
"""Bundle documents and what is to be found in them (Trust_Domain_and_Bundle §4, X509-SVID §6, JWT-SVID §6).

Documents are made with the standard library and joserfc, not with the code that reads them.
"""

import base64
import json

from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from joserfc.jwk import ECKey, OKPKey, RSAKey

from spiffekit.testing import CA_USAGE, TestCA
from tests.vectors import keys

CA = TestCA("example.com", now=keys.NOW, seed=b"bundles")
OTHER = TestCA("example.com", now=keys.NOW, seed=b"bundles, another")
RSA = keys.rsa_key()
P256 = keys.elliptic_key(ec.SECP256R1(), "P-256")
ZERO = keys.elliptic_key(ec.SECP256R1(), "P-256 427")  # its x begins with a byte of zero
P384 = keys.elliptic_key(ec.SECP384R1(), "P-384")
P521 = keys.elliptic_key(ec.SECP521R1(), "P-521")
ED25519 = keys.edwards_key("Ed25519")
KINDS = {"RSA": RSAKey, "EC": ECKey, "OKP": OKPKey}


def jwk(key, kind="EC", **members):
    pem = key.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
    made = {k: v for k, v in KINDS[kind].import_key(pem).as_dict().items() if k != "kid"}
    return {k: v for k, v in {**made, **members}.items() if v is not None}


def x5c(*certificates):
    return [base64.b64encode(c.public_bytes(Encoding.DER)).decode() for c in certificates]


def authority(ca=CA, **members):
    return jwk(ca.key, **{"use": "x509-svid", "x5c": x5c(ca.certificate), **members})


def token_key(key=P256, kind="EC", **members):
    return jwk(key, kind, **{"use": "jwt-svid", "kid": "k1", **members})


def certified(key, kind, **changes):
    """Return the element of a certificate that CA has signed for a key."""
    wanted = {"uris": ["spiffe://example.com"], "ca": True, "usage": CA_USAGE, "purposes": (), **changes}
    return jwk(key, kind, use="x509-svid", x5c=x5c(CA.certify(key.public_key(), **wanted)))


def of(*elements, **members):
    return json.dumps({"keys": list(elements), **members})


def short_x(element):
    """Leave the first byte of a coordinate out, as encoders of plain integers do with zeros."""
    raw = base64.urlsafe_b64decode(element["x"] + "==")
    return {**element, "x": base64.urlsafe_b64encode(raw[1:]).rstrip(b"=").decode()}


def rows():
    """Yield (rule, document, X.509 authorities, JWT key IDs, sequence, hint in seconds)."""
    good, url = authority(), base64.urlsafe_b64encode(CA.certificate.public_bytes(Encoding.DER)).decode()
    pem = CA.certificate.public_bytes(Encoding.PEM).decode()
    first, second = (
        certified(RSA, "RSA", common_name=f"example.com {number}", uris=["spiffe://example.com"])
        for number in (1, 2)
    )
    hint = 28 * 24 * 60 * 60
    yield "appendix A, bundle 1", of(first, spiffe_sequence=1, spiffe_refresh_hint=hint), 1, [], 1, hint
    yield (
        "appendix A, bundle 2",
        of(first, second, spiffe_sequence=2, spiffe_refresh_hint=hint),
        2,
        [],
        2,
        hint,
    )
    slash = certified(RSA, "RSA", uris=["spiffe://example.com/"])
    yield "appendix A, ID with a slash", of(slash, good), 1, [], None, None
    yield "keys alone", of(good, token_key()), 1, ["k1"], None, None
    yield "further members", of(good, x=1, trust_domain={"a": []}), 1, [], None, None
    yield "no keys left", of(), 0, [], None, None
    yield "no usable keys left", of({"kty": "AKP"}, token_key(use="sig")), 0, [], None, None
    for sequence in (0, 2**63 + 1, 2**64 - 1):
        yield "sequence", of(spiffe_sequence=sequence), 0, [], sequence, None
    for hint in (0, 60):  # 0 says nothing
        yield "hint", of(spiffe_refresh_hint=hint), 0, [], None, hint or None
    yield "unknown key type", of(token_key(kty="AKP"), token_key(kid="k2")), 0, ["k2"], None, None
    yield "no key type", of(token_key(kty=None), token_key(kid="k2")), 0, ["k2"], None, None
    yield "symmetric key", of(token_key(kty="oct", k="AAAA"), token_key(kid="k2")), 0, ["k2"], None, None
    for use in (None, "sig", "JWT-SVID", "wit-svid", "", 1, ["jwt-svid"]):
        yield "use", of(token_key(use=use), token_key(kid="k2")), 0, ["k2"], None, None
    for use in ("X509-SVID", "sig", None):
        yield "use", of(authority(use=use), authority(OTHER)), 1, [], None, None
    for element in (None, [], "jwk", 1):
        yield "no object", json.dumps({"keys": [element, good]}), 1, [], None, None
    for value in (None, [], [1], "text", [url[:-4] + "_-__"], [pem], ["AAAA"], [""]):
        yield "x5c", of(authority(x5c=value), authority(OTHER)), 1, [], None, None
    yield "x5c of two", of(authority(x5c=x5c(CA.certificate, OTHER.certificate))), 1, [], None, None
    yield "x5c of two, bad first", of(authority(x5c=["AAAA", *x5c(CA.certificate)])), 0, [], None, None
    yield "the same twice", of(good, good), 1, [], None, None
    yield "key of another", of(authority(OTHER, x5c=x5c(CA.certificate)), authority(OTHER)), 1, [], None, None
    for missing in ("crv", "x", "y", "kty"):
        yield "key left out", of(authority(**{missing: None}), authority(OTHER)), 1, [], None, None
    leaf = certified(P256, "EC", uris=["spiffe://example.com/w"], ca=False, usage={"digital_signature": True})
    yield "leaf", of(leaf, good), 1, [], None, None
    yield (
        "CA with a path",
        of(certified(P256, "EC", uris=["spiffe://example.com/ca"]), good),
        1,
        [],
        None,
        None,
    )
    yield "CA without ID", of(certified(P256, "EC", uris=[]), good), 2, [], None, None
    yield "no kid", of(token_key(kid=None), token_key(kid="k2")), 0, ["k2"], None, None
    for kid in ("", 1, None, "k" * 1025):
        yield "kid", of(token_key(kid=kid), token_key(kid="k2")), 0, ["k2"], None, None
    yield "kid", of(token_key(kid="K1"), token_key(kid="k1")), 0, ["K1", "k1"], None, None
    kinds = [token_key(key, kid=f"k{key.key_size}") for key in (P256, P384, P521)]
    kinds += [
        token_key(ZERO, kid="zero"),
        token_key(RSA, "RSA", kid="rsa"),
        token_key(ED25519, "OKP", kid="ed"),
    ]
    yield "kinds of keys", of(*kinds), 0, ["k256", "k384", "k521", "zero", "rsa", "ed"], None, None
    flawed = [
        short_x(token_key(ZERO)),
        token_key(x="AAAA"),
        token_key(x=token_key()["x"] + "="),
        token_key(y=token_key()["x"]),
        token_key(crv="P-384"),
        token_key(crv="secp256k1"),
        token_key(crv=["P-256"]),
        token_key(x=1),
        token_key(RSA, "RSA", n="AQAB"),
        token_key(RSA, "RSA", e="Ag"),
        token_key(RSA, "RSA", e=None),
        token_key(ED25519, "OKP", x="AAAA"),
        token_key(ED25519, "OKP", crv="X25519"),
        token_key(ED25519, "OKP", crv=None),
    ]
    for element in flawed:
        yield "bad key material", of(element, token_key(kid="k2")), 0, ["k2"], None, None


def malformed():
    """Yield (rule, document, message)."""
    yield "no keys", "{}", "bundle has no array 'keys'"
    for value in ("{}", "null", '"x"', "1"):
        yield "no array", f'{{"keys":{value}}}', "bundle has no array 'keys'"
    for text in ("[]", '"keys"', "1", "null"):
        yield "no object", text, "bundle is not a JSON object: not a JSON object"
    for text in ("", "{", '{"keys":[]}x', '{"keys":[],}', "{'keys':[]}", "{\u201ckeys\u201d:[]}"):
        yield "no JSON", text, None
    for text in ('{"keys":[NaN]}', '{"keys":[-Infinity]}'):
        yield "no JSON", text, f"bundle is not a JSON object: {text[9:-2]} is not JSON"
    twice = "bundle is not a JSON object: a name stands twice"
    yield "name twice", '{"keys":[],"keys":[]}', twice
    yield "name twice", '{"keys":[{"use":"jwt-svid","use":"x509-svid"}]}', twice
    limit = f"0 to {2**64 - 1}"
    for value in ("-1", "1.5", '"1"', "1.0", "true", "[]", str(2**64)):
        message = f"spiffe_sequence is not a whole number of {limit}"
        yield "sequence", f'{{"keys":[],"spiffe_sequence":{value}}}', message
    for value in ("-1", "60.0", '"60"', "false", str(2**31)):
        message = f"spiffe_refresh_hint is not a whole number of 0 to {2**31 - 1}"
        yield "hint", f'{{"keys":[],"spiffe_refresh_hint":{value}}}', message


def build():
    """Return the vectors; every one is of the trust domain example.com."""
    names = ("rule", "document", "x509_authorities", "jwt_key_ids", "sequence", "refresh_hint")
    return {
        "trust_domain": "example.com",
        "good": [dict(zip(names, row, strict=True)) for row in rows()],
        "bad": [dict(zip(("rule", "document", "message"), row, strict=True)) for row in malformed()],
    }

# SPDX-License-Identifier: Apache-2.0
"""Chains of X.509-SVIDs, good and bad (X509-SVID §2 to §6)."""

import base64
import json
from datetime import timedelta

from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509.oid import ExtendedKeyUsageOID

from spiffekit.testing import CA_USAGE, TestCA
from tests.vectors import keys

HOUR = timedelta(hours=1)
WEB = "spiffe://example.org/web"
KEY = keys.elliptic_key(ec.SECP256R1(), "leaf").public_key()
URI = x509.UniformResourceIdentifier
UNKNOWN = x509.UnrecognizedExtension(x509.ObjectIdentifier("1.3.6.1.4.1.99999.1"), b"\x05\x00")
NAMES = x509.NameConstraints([URI("example.org")], None)
OTHER_NAMES = x509.NameConstraints([URI("other.example")], None)
UNTRUSTED = "UntrustedError"


class Maker:
    """The authorities of one run, so that every run makes the same certificates."""

    def __init__(self):
        self.ca = TestCA("example.org", now=keys.NOW, seed=b"chains")
        self.other = TestCA("other.example", now=keys.NOW, seed=b"chains of others")
        self.stranger = TestCA("example.org", now=keys.NOW, seed=b"a stranger")
        self.count = 0

    def leaf(self, signer=None, **changes):
        return (signer or self.ca).certify(KEY, **{"uris": [WEB], **changes})

    def under(self, above=None, **changes):
        """Return an authority below another."""
        self.count += 1
        made = TestCA("example.org", now=keys.NOW, seed=b"intermediate %d" % self.count)
        wanted = {
            "uris": ["spiffe://example.org"],
            "common_name": f"intermediate {self.count}",
            "ca": True,
            "usage": CA_USAGE,
            "purposes": (),
            **changes,
        }
        made.certificate = (above or self.ca).certify(made.key.public_key(), **wanted)
        return made

    def below(self, *authorities, **changes):
        """Return the chain of a leaf below authorities, the nearest of them last."""
        return [self.leaf(authorities[-1], **changes), *[a.certificate for a in reversed(authorities)]]


def good(make):
    """Yield (rule, chain)."""
    yield "plain", [make.leaf()]
    yield "no EKU", [make.leaf(purposes=())]
    yield (
        "DNS name",
        [make.leaf(uris=[], extra=[(x509.SubjectAlternativeName([URI(WEB), x509.DNSName("a.b")]), False)])],
    )
    san = x509.SubjectAlternativeName([URI(WEB)])
    yield "no subject", [make.leaf(common_name="", uris=[], extra=[(san, True)])]
    yield "unknown extension", [make.leaf(extra=[(UNKNOWN, False)])]
    yield "longest", [make.leaf(uris=[f"spiffe://example.org/{'a' * 2027}"])]
    one = make.under()
    yield "intermediate", make.below(one)
    yield "intermediate", [*make.below(one), make.ca.certificate]
    yield "intermediate", make.below(make.under(uris=[]))
    yield "intermediate", make.below(make.under(purposes=(ExtendedKeyUsageOID.CODE_SIGNING,)))
    yield "two intermediates", make.below(one, make.under(one))
    yield "path length", make.below(make.under(path_length=0))
    near = make.under(make.under(path_length=1))
    yield "another bundle", [make.leaf(make.other, uris=["spiffe://other.example/web"])]
    yield "needless certificates", [make.leaf(), make.stranger.certificate, near.certificate]
    second = timedelta(seconds=1)
    yield "first second", [make.leaf(not_before=keys.NOW)]
    yield "last second", [make.leaf(not_before=keys.NOW - HOUR, lifetime=HOUR)]
    yield "one second", [make.leaf(not_before=keys.NOW, lifetime=second)]
    edwards = make.ca.certify(keys.edwards_key("leaf").public_key(), uris=[WEB])
    yield "kinds of keys", [edwards]
    yield "kinds of keys", [make.ca.certify(keys.rsa_key().public_key(), uris=[WEB])]
    yield (
        "kinds of keys",
        [make.ca.certify(keys.elliptic_key(ec.SECP521R1(), "leaf").public_key(), uris=[WEB])],
    )


def malformed(make):
    """Yield (rule, chain) of what is no X.509-SVID; the messages are those of single certificates."""
    yield "no certificate", []
    yield "long chain", [make.leaf(), *[make.ca.certificate] * 8]
    yield "two IDs", [make.leaf(uris=[WEB, "spiffe://example.org/db"])]
    yield "two IDs", [make.leaf(uris=[WEB, WEB])]
    yield "two IDs", [make.leaf(uris=[WEB, "https://example.org"])]
    yield "no ID", [make.leaf(uris=[])]
    yield "scheme", [make.leaf(uris=["https://example.org/web"])]
    yield "no path", [make.leaf(uris=["spiffe://example.org"])]
    yield "authority as leaf", [make.ca.certificate]
    yield "authority as leaf", [make.under(uris=[WEB]).certificate, make.ca.certificate]
    yield "signs certificates", [make.leaf(usage={"digital_signature": True, "key_cert_sign": True})]
    yield "signs revocation lists", [make.leaf(usage={"digital_signature": True, "crl_sign": True})]
    yield "no constraints", [make.leaf(ca=None)]
    yield "no key usage", [make.leaf(usage={})]
    san = x509.SubjectAlternativeName([URI(WEB)])
    yield "no subject", [make.leaf(common_name="", uris=[], extra=[(san, False)])]
    yield "clients only", [make.leaf(purposes=(ExtendedKeyUsageOID.CLIENT_AUTH,))]
    yield "intermediate without cA", make.below(make.under(ca=False))
    yield "intermediate without keyCertSign", make.below(make.under(usage={"crl_sign": True}))
    yield "intermediate with a path", make.below(make.under(uris=["spiffe://example.org/ca"]))
    yield (
        "leaf as intermediate",
        make.below(make.under(ca=False, usage={"digital_signature": True}, uris=[WEB])),
    )


def untrusted(make):
    """Yield (rule, chain, error)."""
    now = keys.NOW
    yield "expired", [make.leaf(not_before=now - 2 * HOUR, lifetime=HOUR)], "ExpiredError"
    yield "expired", [make.leaf(not_before=now - HOUR, lifetime=HOUR - timedelta(seconds=1))], "ExpiredError"
    yield "not yet", [make.leaf(not_before=now + timedelta(seconds=1))], "ExpiredError"
    ended = make.under(not_before=now - 2 * HOUR, lifetime=HOUR)
    yield "expired intermediate", make.below(ended), UNTRUSTED
    yield "intermediate not yet", make.below(make.under(not_before=now + HOUR)), UNTRUSTED
    yield "stranger", [make.leaf(make.stranger)], UNTRUSTED
    yield "stranger", [make.leaf(make.stranger), make.stranger.certificate], UNTRUSTED
    yield "no bundle", [make.leaf(uris=["spiffe://nobody.example/web"])], "UnknownTrustDomainError"
    yield "root of another", [make.leaf(make.other)], UNTRUSTED
    yield "root of another", [make.leaf(uris=["spiffe://other.example/web"])], UNTRUSTED
    yield "intermediate left out", make.below(make.under())[:1], UNTRUSTED
    short = make.under(path_length=0)
    yield "path length", make.below(short, make.under(short)), UNTRUSTED
    yield "unknown critical extension", [make.leaf(extra=[(UNKNOWN, True)])], UNTRUSTED
    yield "unknown critical extension", make.below(make.under(extra=[(UNKNOWN, True)])), UNTRUSTED
    for names in (NAMES, OTHER_NAMES):
        for critical in (True, False):
            yield "name constraints", make.below(make.under(extra=[(names, critical)])), UNTRUSTED
    weak = keys.elliptic_key(ec.SECP256K1(), "weak").public_key()
    yield "weak key", [make.ca.certify(weak, uris=[WEB])], UNTRUSTED
    forged = make.leaf().public_bytes(Encoding.DER)
    yield "signature", [forged[:-1] + bytes([forged[-1] ^ 1])], UNTRUSTED
    tampered = make.leaf().public_bytes(Encoding.DER).replace(b"/web", b"/ceo")
    yield "signature", [tampered], UNTRUSTED


def text(certificate):
    der = certificate if isinstance(certificate, bytes) else certificate.public_bytes(Encoding.DER)
    return base64.b64encode(der).decode()


def build():
    """Return the vectors; "bundles" are those that the validator knows."""
    make = Maker()
    bad = [(rule, chain, "X509SvidError") for rule, chain in malformed(make)] + list(untrusted(make))
    return {
        "now": int(keys.NOW.timestamp()),
        "bundles": {ca.trust_domain.name: json.loads(ca.bundle.to_jwks()) for ca in (make.ca, make.other)},
        "good": [{"rule": rule, "chain": [text(c) for c in chain]} for rule, chain in good(make)],
        "bad": [
            {"rule": rule, "chain": [text(c) for c in chain], "error": error} for rule, chain, error in bad
        ],
    }

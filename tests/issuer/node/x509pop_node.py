# SPDX-License-Identifier: Apache-2.0
"""A node that attests by X.509 proof of possession, in which everything can be made wrong."""

import base64
import hashlib
import json

from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, padding, rsa
from cryptography.hazmat.primitives.asymmetric.utils import Prehashed, decode_dss_signature
from cryptography.hazmat.primitives.serialization import Encoding

from issuer.errors import NodeRejectedError
from issuer.node.x509pop import X509PopVerifier
from spiffekit.id import SpiffeId, TrustDomain
from spiffekit.keys import PrivateKey
from spiffekit.testing import CA_USAGE, TestCA

AUTHORITY = {"uris": [], "ca": True, "usage": CA_USAGE, "purposes": ()}
ROOT = TestCA()


TRUST_DOMAIN = TrustDomain("example.org")


class Context:
    """What the issuer offers to a verifier, with some join tokens and clusters."""

    def __init__(self, *tokens, **clusters):
        self.tokens = set(tokens)
        self.redeemed = []
        self._clusters = clusters

    def node_id(self, path):
        return SpiffeId(TRUST_DOMAIN, "/spire/agent" + path)

    async def redeem_join_token(self, value):
        self.redeemed.append(value)
        if value not in self.tokens:
            raise NodeRejectedError("join token does not exist or has already been used")
        self.tokens.remove(value)

    def cluster(self, name):
        if name not in self._clusters:
            raise NodeRejectedError(f"cluster {name!r} is not configured")
        return self._clusters[name]


class Intermediate(TestCA):
    def __init__(self, parent, name="intermediate", **changes):
        super().__init__()
        self.certificate = parent.certify(
            self.key.public_key(), **{**AUTHORITY, "common_name": name, **changes}
        )


class Node:
    """A node's half, in which everything can be made wrong."""

    def __init__(self, issuer=ROOT, *, key: PrivateKey | None = None, chain=(), **changes):
        self.key = key or ec.generate_private_key(ec.SECP256R1())
        self.certificate = issuer.certify(self.key.public_key(), **{"uris": [], **changes})
        self.chain = [self.certificate, *chain]
        self.challenges = []

    def payload(self):
        return payload(*(certificate.public_bytes(Encoding.DER) for certificate in self.chain))

    async def respond(self, challenge):
        self.challenges.append(challenge)
        ((kind, body),) = json.loads(challenge).items()
        return json.dumps({kind: self.proof(base64.b64decode(body["nonce"]), b"n" * 32)}).encode()

    def proof(self, theirs, ours):
        digest = hashlib.sha256(theirs + ours).digest()
        if isinstance(self.key, rsa.RSAPrivateKey):
            salted = padding.PSS(padding.MGF1(hashes.SHA256()), padding.PSS.MAX_LENGTH)
            signature = self.key.sign(digest, salted, Prehashed(hashes.SHA256()))
            return {"nonce": text(ours), "signature": text(signature)}
        r, s = decode_dss_signature(self.key.sign(digest, ec.ECDSA(Prehashed(hashes.SHA256()))))
        return {"nonce": text(ours), "r": text(r.to_bytes(66)), "s": text(s.to_bytes(66))}

    async def prove(self, *roots):
        verifier = X509PopVerifier([root.certificate for root in roots or (ROOT,)])
        return await verifier.verify(self.payload(), self.respond, Context())


def payload(*ders):
    return json.dumps({"certificates": [text(der) for der in ders]}).encode()


def text(data):
    return base64.b64encode(data).decode()

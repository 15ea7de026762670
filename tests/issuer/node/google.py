# SPDX-License-Identifier: Apache-2.0
"""Google, in which everything can be made wrong: its keys, the tokens of its instances, its Compute API."""

import hashlib
import hmac
import json
from datetime import timedelta

from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import padding, rsa
from cryptography.hazmat.primitives.serialization import Encoding

from spiffekit.jwk import encode_base64url
from spiffekit.testing import TestCA
from tests.fakes.web import WebServer, ok

HOST, COMPUTE = "www.googleapis.com", "compute.googleapis.com"
KEY = rsa.generate_private_key(public_exponent=65537, key_size=2048)
OTHER = rsa.generate_private_key(public_exponent=65537, key_size=2048)
INSTANCE = {
    "project_id": "project-1",
    "project_number": 739419398126,
    "zone": "us-west1-b",
    "instance_id": "152986662232938449",
    "instance_name": "web-1",
    "instance_creation_timestamp": 1552953092,
    "instance_confidentiality": 0,
}


class Google:
    """You get one by `async with`. It signs at the time of `clock`."""

    def __init__(self, clock):
        self.clock = clock
        self.published = {"k1": self.certify(KEY.public_key())}
        self.cache = ("Cache-Control: public, max-age=20000, must-revalidate, no-transform",)
        self.server = WebServer(lambda head: ok(json.dumps(self.published), *self.cache), name=HOST)

    async def __aenter__(self):
        await self.server.__aenter__()
        return self

    async def __aexit__(self, *error):
        await self.server.__aexit__(*error)

    def certify(self, key, *, days=16):
        """A certificate in PEM; as with Google's, nobody is to look at more than its key and its time."""
        ca = TestCA(now=self.clock.now())
        certificate = ca.certify(key, uris=[], lifetime=timedelta(days=days), common_name="federated-signon")
        return certificate.public_bytes(Encoding.PEM).decode()

    def claims(self, **changes):
        now = int(self.clock.now().timestamp())
        return {
            "iss": "https://accounts.google.com",
            "aud": "spire-gcp-node-attestor",
            "azp": "117",
            "sub": "117",
            "email": "web@project-1.iam.gserviceaccount.com",
            "email_verified": True,
            "iat": now,
            "exp": now + 3600,
            "google": {"compute_engine": INSTANCE},
            **changes,
        }

    def token(self, *, key=KEY, header=None, **changes):
        """A token; a claim that is None is left out."""
        head = {"alg": "RS256", "kid": "k1", "typ": "JWT", **(header or {})}
        signed = ".".join(
            encode_base64url(json.dumps({k: v for k, v in part.items() if v is not None}).encode())
            for part in (head, self.claims(**changes))
        )
        match head["alg"]:
            case "none":
                return f"{signed}.".encode()
            case "HS256":
                signature = hmac.digest(self.published["k1"].encode(), signed.encode(), hashlib.sha256)
            case "PS256":
                salted = padding.PSS(padding.MGF1(hashes.SHA256()), 32)
                signature = key.sign(signed.encode(), salted, hashes.SHA256())
            case _:
                signature = key.sign(signed.encode(), padding.PKCS1v15(), hashes.SHA256())
        return f"{signed}.{encode_base64url(signature)}".encode()

    def instance(self, **changes):
        """A token of an instance with other words about it."""
        return self.token(google={"compute_engine": INSTANCE | changes})


class Compute:
    """The Compute API, which lets in whoever has the last token of the metadata server beside it."""

    def __init__(self):
        self.tokens, self.valid, self.lasts = 0, set(), 3599
        self.described = {
            "id": INSTANCE["instance_id"],
            "status": "RUNNING",
            "tags": {"items": ["web", "public"]},
            "labels": {"env": "prod", "team": ""},
            "metadata": {"items": [{"key": "role", "value": "front:1"}, {"key": "empty"}]},
        }
        self.api = WebServer(self.describe, name=COMPUTE)
        self.metadata = WebServer(self.issue)

    async def __aenter__(self):
        await self.api.__aenter__()
        await self.metadata.__aenter__()
        return self

    async def __aexit__(self, *error):
        await self.metadata.__aexit__(*error)
        await self.api.__aexit__(*error)

    def issue(self, head):
        assert "\r\nmetadata-flavor: google\r\n" in head.lower()
        self.tokens += 1
        self.valid = {f"SECRET-{self.tokens}"}
        answer = {"access_token": f"SECRET-{self.tokens}", "expires_in": self.lasts, "token_type": "Bearer"}
        return ok(json.dumps(answer), "Metadata-Flavor: Google")

    def describe(self, head):
        if bearer(head) not in self.valid:
            return ok("{}", status="401 Unauthorized")
        return ok(json.dumps(self.described))


def bearer(head):
    """The token of a request."""
    (found,) = (line for line in head.split("\r\n") if line.lower().startswith("authorization: bearer "))
    return found.split()[2]

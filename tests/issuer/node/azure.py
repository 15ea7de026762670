# SPDX-License-Identifier: Apache-2.0
"""Azure's metadata service, in which everything can be made wrong: its certificates and its documents."""

import base64
import json
from urllib.parse import parse_qs, urlsplit

from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import rsa
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509.oid import AuthorityInformationAccessOID

from spiffekit.testing import CA_USAGE, TestCA
from tests.fakes.web import ok
from tests.issuer.node import cms
from tests.issuer.node.cms import Message

DOMAIN = "contoso.example"
TENANT = "ef3e5f13-3c2b-4b1f-9c1e-3a0f6d0c6a11"
SUBSCRIPTION = "d5b40d61-272e-48da-beb9-05f295c42bd6"
MACHINE = "bd8e7443-24a0-41f3-b949-8baf4fd1c573"
NAME = "eastus.metadata.azure.com"
PATH = "/pkiops/certs/Test%20Issuing%20CA%2001%20-%20xsign.crt"
KEY = rsa.generate_private_key(public_exponent=65537, key_size=2048)
OTHER = rsa.generate_private_key(public_exponent=65537, key_size=2048)


class Authority(TestCA):
    """A root, or an authority that `parent` vouches for."""

    def __init__(self, now, parent=None, name="Test Root", **changes):
        super().__init__(now=now)
        made = {"uris": [], "common_name": name, "ca": True, "usage": CA_USAGE, "purposes": (), **changes}
        self.certificate = (parent or self).certify(self.key.public_key(), issuer=parent, **made)
        self.made = made

    def again(self):
        """Sign its own certificate by its own name."""
        self.certificate = self.certify(self.key.public_key(), **self.made)
        return self


class Azure:
    """Its certificates, and the documents that it signs for one virtual machine."""

    def __init__(self, now):
        self.root = Authority(now).again()
        self.issuing = Authority(now, self.root, "Test Issuing CA 01", path_length=0)
        self.signer = self.certify()
        self.machine = MACHINE

    def certify(self, names=(NAME,), *, where="http://www.microsoft.com" + PATH, key=KEY, **changes):
        """A certificate of the metadata service."""
        extra = []
        if names:
            extra.append((x509.SubjectAlternativeName([x509.DNSName(name) for name in names]), False))
        if where:
            access = [
                x509.AccessDescription(method, x509.UniformResourceIdentifier(location))
                for method, location in (
                    (AuthorityInformationAccessOID.OCSP, "http://oneocsp.microsoft.com/ocsp"),
                    (AuthorityInformationAccessOID.CA_ISSUERS, where),
                )
            ]
            extra.append((x509.AuthorityInformationAccess(access), False))
        made = {"uris": [], "common_name": "metadata.azure.com", "extra": extra, **changes}
        return self.issuing.certify(key.public_key(), **made)

    def certificate(self):
        """What Microsoft publishes of the authority in between."""
        return self.issuing.certificate.public_bytes(Encoding.DER)

    def sign(self, document, *, signer=None, key=KEY, bag=None, **changes):
        """A signed message in base64, as Azure makes them."""
        signer = signer or self.signer
        made = Message(document, signer, key, attributes=None)
        made.digests = made.digest = cms.SHA256_RSA
        made.algorithm = cms.RSA
        for name, value in changes.items():
            assert hasattr(made, name)
            setattr(made, name, value)
        made.with_certificates(*((signer,) if bag is None else bag))
        return base64.b64encode(made.build()).decode()

    def document(self, nonce, **changes):
        """What is signed."""
        whole = {
            "licenseType": "",
            "nonce": nonce,
            "plan": {"name": "", "product": "", "publisher": ""},
            "sku": "20_04-lts-gen2",
            "subscriptionId": SUBSCRIPTION,
            "timeStamp": {"createdOn": "04/19/22 01:27:21 -0000", "expiresOn": "04/19/22 07:27:21 -0000"},
            "vmId": self.machine,
            **changes,
        }
        return json.dumps(whole, separators=(",", ":")).encode()

    def __call__(self, head):
        """Answer as the metadata service of the machine does."""
        method, target, _ = head.split(" ", 2)
        parts = urlsplit(target)
        query = {name: value for name, (value,) in parse_qs(parts.query).items()}
        if method != "GET" or "metadata: true" not in head.lower() or query["api-version"] != "2025-04-07":
            return ok('{"error":"Bad request"}', status="400 Bad Request")
        match parts.path:
            case "/metadata/attested/document":
                return ok(
                    json.dumps({"encoding": "pkcs7", "signature": self.sign(self.document(query["nonce"]))})
                )
            case "/metadata/instance":
                compute = {
                    "name": "vm",
                    "vmScaleSetName": "set-1",
                    "tags": "ä:ö",
                    "subscriptionId": SUBSCRIPTION,
                }
                return ok(json.dumps({"compute": compute}, ensure_ascii=False))
        return ok("", status="404 Not Found")

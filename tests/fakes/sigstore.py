# SPDX-License-Identifier: Apache-2.0
"""A Sigstore instance: an authority that names signers, its certificate log, and a log of signatures.

What it signs and logs has the formats of the public good instance; `test_image_sigstore.py` holds both to
the same tests. A test makes it err by what it passes to `sign`.
"""

import base64
import copy
import hashlib
import json
import struct
import subprocess
from datetime import UTC, datetime, timedelta

from cryptography import x509
from cryptography.hazmat import asn1
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

ISSUER = "https://accounts.example.org"
SUBJECT = "https://git.example.org/web/.ci/release.yml@refs/heads/main"
PAYLOAD_TYPE = "application/vnd.in-toto+json"
NAMES = (x509.UniformResourceIdentifier(SUBJECT),)
NOW = datetime(2025, 6, 1, 12, tzinfo=UTC)
_CONFIG = b"""
[tsa]
default_tsa = authority
[authority]
serial = serial
default_policy = 1.2.3.4
digests = sha256
signer_digest = sha256
ess_cert_id_alg = sha256
"""
_SCTS = x509.ObjectIdentifier("1.3.6.1.4.1.11129.2.4.2")
_FULCIO = "1.3.6.1.4.1.57264.1."


def b64(data):
    return base64.b64encode(data).decode()


def der(public_key):
    return public_key.public_bytes(
        serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo
    )


def new_key():
    return ec.generate_private_key(ec.SECP256R1())


def signed(key, data):
    return key.sign(data, ec.ECDSA(hashes.SHA256()))


def pae(kind, body):
    return b"DSSEv1 %d %b %d %b" % (len(kind), kind.encode(), len(body), body)


def statement(
    digest, predicate_type="https://sigstore.dev/cosign/sign/v1", predicate=None, *, version="v1", **more
):
    """A statement about the image of that digest ("sha256:…")."""
    return {
        "_type": f"https://in-toto.io/Statement/{version}",
        "subject": [{"digest": {"sha256": digest.removeprefix("sha256:")}}],
        "predicateType": predicate_type,
        "predicate": predicate or {},
        **more,
    }


def provenance(digest, builder=SUBJECT, repository="https://git.example.org/web", **more):
    """A statement of how the image was built, as SLSA 1.0 has it."""
    return statement(
        digest,
        "https://slsa.dev/provenance/v1",
        {
            "buildDefinition": {"externalParameters": {"workflow": {"repository": repository}}},
            "runDetails": {"builder": {"id": builder}},
            **more,
        },
    )


def keyed(key, said, kind=PAYLOAD_TYPE):
    """A bundle that is signed by a key, without certificate or log."""
    body = json.dumps(said).encode()
    return {
        "mediaType": "application/vnd.dev.sigstore.bundle.v0.3+json",
        "verificationMaterial": {"publicKey": {"hint": b64(hashlib.sha256(der(key.public_key())).digest())}},
        "dsseEnvelope": {
            "payloadType": kind,
            "payload": b64(body),
            "signatures": [{"sig": b64(signed(key, pae(kind, body)))}],
        },
    }


class FakeSigstore:
    """One instance. Its log has a few entries of others already."""

    def __init__(self, now=NOW):
        self.now = now
        self.root, self.intermediate, self.ct, self.rekor = (new_key() for _ in range(4))
        self.chain = [
            self._authority("intermediate", self.intermediate, "root", self.root),
            self._authority("root", self.root, "root", self.root),
        ]
        self.clock, stamping = new_key(), ExtendedKeyUsageOID.TIME_STAMPING
        stamper = self._authority("clock", self.clock, "root", self.root, stamping)
        self.clock_chain = [stamper, self.chain[1]]
        self.leaves = [hashlib.sha256(b"\0entry %d" % number).digest() for number in range(5)]

    def _authority(self, name, key, issuer, issuer_key, purpose=None):
        made = (
            x509.CertificateBuilder()
            .subject_name(_name(name))
            .issuer_name(_name(issuer))
            .public_key(key.public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(self.now - timedelta(days=365))
            .not_valid_after(self.now + timedelta(days=3650))
            .add_extension(x509.BasicConstraints(ca=purpose is None, path_length=None), critical=True)
            .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
            .add_extension(
                x509.AuthorityKeyIdentifier.from_issuer_public_key(issuer_key.public_key()), critical=False
            )
        )
        if purpose is None:
            made = made.add_extension(_usage(key_cert_sign=True, crl_sign=True), critical=True)
        else:
            made = made.add_extension(x509.ExtendedKeyUsage([purpose]), critical=True)
        return made.sign(issuer_key, hashes.SHA256())

    def trusted_root(self):
        """What its users are given."""
        log = lambda key, url: {
            "baseUrl": url,
            "hashAlgorithm": "SHA2_256",
            "publicKey": {
                "rawBytes": b64(der(key.public_key())),
                "keyDetails": "PKIX_ECDSA_P256_SHA_256",
                "validFor": {"start": "2020-01-01T00:00:00Z"},
            },
            "logId": {"keyId": b64(_key_id(key))},
        }
        authority = lambda chain, url: {
            "subject": {"organization": "example.org", "commonName": "root"},
            "uri": url,
            "certChain": {
                "certificates": [
                    {"rawBytes": b64(one.public_bytes(serialization.Encoding.DER))} for one in chain
                ]
            },
            "validFor": {"start": "2020-01-01T00:00:00Z"},
        }
        return {
            "mediaType": "application/vnd.dev.sigstore.trustedroot+json;version=0.1",
            "tlogs": [log(self.rekor, "https://rekor.example.org")],
            "certificateAuthorities": [authority(self.chain, "https://fulcio.example.org")],
            "ctlogs": [log(self.ct, "https://ct.example.org")],
            "timestampAuthorities": [authority(self.clock_chain, "https://tsa.example.org")],
        }

    def certify(
        self,
        key,
        *,
        names=NAMES,
        issuer=ISSUER,
        old_issuer=None,
        repository=None,
        purpose=ExtendedKeyUsageOID.CODE_SIGNING,
        ct=None,
    ):
        """A certificate that names a signer for ten minutes, with the promise of its log."""
        builder = (
            x509.CertificateBuilder()
            .subject_name(x509.Name([]))
            .issuer_name(self.chain[0].subject)
            .public_key(key.public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(self.now)
            .not_valid_after(self.now + timedelta(minutes=10))
            .add_extension(_usage(digital_signature=True), critical=True)
            .add_extension(x509.ExtendedKeyUsage([purpose]), critical=False)
            .add_extension(
                x509.AuthorityKeyIdentifier.from_issuer_public_key(self.intermediate.public_key()),
                critical=False,
            )
            .add_extension(x509.SubjectAlternativeName(names), critical=True)
        )
        extensions = {
            "1": old_issuer and old_issuer.encode(),
            "8": issuer and asn1.encode_der(issuer),
            "12": repository and asn1.encode_der(repository),
        }
        for number, value in extensions.items():
            if value:
                oid = x509.ObjectIdentifier(_FULCIO + number)
                builder = builder.add_extension(x509.UnrecognizedExtension(oid, value), critical=False)
        logged = builder.sign(self.intermediate, hashes.SHA256()).tbs_certificate_bytes
        scts = self._promise(ct or self.ct, logged)
        builder = builder.add_extension(x509.UnrecognizedExtension(_SCTS, scts), critical=False)
        return builder.sign(self.intermediate, hashes.SHA256())

    def _promise(self, ct, tbs):
        """A list with one signed certificate timestamp (RFC 6962 §3.3)."""
        milliseconds = int(self.now.timestamp() * 1000)
        entry = struct.pack(">BBQH", 0, 0, milliseconds, 1) + _key_id(self.intermediate)
        entry += len(tbs).to_bytes(3, "big") + tbs + b"\0\0"
        signature = signed(ct, entry)
        sct = b"\0" + _key_id(ct) + struct.pack(">QHBBH", milliseconds, 0, 4, 3, len(signature)) + signature
        listed = struct.pack(">HH", len(sct) + 2, len(sct)) + sct
        return b"\x04" + _length(listed) + listed

    def sign(self, said, *, kind=PAYLOAD_TYPE, after=timedelta(minutes=1), rekor=None, **certificate):
        """A bundle with a statement, signed, and logged that long after its certificate begins.

        `said` may be bytes. `rekor` is the key of another log; more is for the certificate.
        """
        key = new_key()
        leaf = self.certify(key, **certificate)
        body = said if isinstance(said, bytes) else json.dumps(said).encode()
        signature = signed(key, pae(kind, body))
        pem = leaf.public_bytes(serialization.Encoding.PEM)
        return {
            "mediaType": "application/vnd.dev.sigstore.bundle.v0.3+json",
            "verificationMaterial": {
                "certificate": {"rawBytes": b64(leaf.public_bytes(serialization.Encoding.DER))},
                "tlogEntries": [
                    self._logged(rekor or self.rekor, _entry(body, signature, pem), self.now + after)
                ],
            },
            "dsseEnvelope": {
                "payloadType": kind,
                "payload": b64(body),
                "signatures": [{"sig": b64(signature)}],
            },
        }

    def sign_and_stamp(self, said, folder):
        """A bundle whose log gives no time (Rekor 2): a timestamp authority does, by the system's clock."""
        key = new_key()
        leaf = self.certify(key).public_bytes(serialization.Encoding.DER)
        body = json.dumps(said).encode()
        message = pae(PAYLOAD_TYPE, body)
        signature = signed(key, message)
        verifier = {"keyDetails": "PKIX_ECDSA_P256_SHA_256", "x509Certificate": {"rawBytes": b64(leaf)}}
        entry = {
            "data": {"algorithm": "SHA2_256", "digest": b64(hashlib.sha256(message).digest())},
            "signature": {"content": b64(signature), "verifier": verifier},
        }
        entry = {"apiVersion": "0.0.2", "kind": "hashedrekord", "spec": {"hashedRekordV002": entry}}
        logged = self._logged(self.rekor, entry, self.now)
        del logged["integratedTime"], logged["inclusionPromise"]
        logged["logIndex"] = logged["inclusionProof"]["logIndex"]
        stamp = {"rfc3161Timestamps": [{"signedTimestamp": b64(self._stamp(signature, folder))}]}
        return {
            "mediaType": "application/vnd.dev.sigstore.bundle.v0.3+json",
            "verificationMaterial": {
                "certificate": {"rawBytes": b64(leaf)},
                "tlogEntries": [logged],
                "timestampVerificationData": stamp,
            },
            "dsseEnvelope": {
                "payloadType": PAYLOAD_TYPE,
                "payload": b64(body),
                "signatures": [{"sig": b64(signature)}],
            },
        }

    def _stamp(self, data, folder):
        """The answer of a timestamp authority (RFC 3161), by OpenSSL's."""
        pem = serialization.Encoding.PEM
        key = self.clock.private_bytes(pem, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
        files = {"data": data, "key": key, "serial": b"01\n", "config": _CONFIG}
        files["signer"] = self.clock_chain[0].public_bytes(pem)
        for name, content in files.items():
            folder.joinpath(name).write_bytes(content)
        for command in (
            "openssl ts -query -data data -sha256 -cert -out query",
            "openssl ts -reply -config config -queryfile query -signer signer -inkey key -out reply",
        ):
            subprocess.run(command.split(), cwd=folder, check=True, capture_output=True, timeout=30)
        return folder.joinpath("reply").read_bytes()

    def _logged(self, rekor, entry, at):
        body = json.dumps(entry, separators=(",", ":"), sort_keys=True).encode()
        index = len(self.leaves)
        self.leaves.append(hashlib.sha256(b"\0" + body).digest())
        promised = {
            "body": b64(body),
            "integratedTime": int(at.timestamp()),
            "logID": _key_id(rekor).hex(),
            "logIndex": index + 1000,  # over all shards of the log
        }
        canonical = json.dumps(promised, separators=(",", ":"), sort_keys=True).encode()
        root, size = _root(self.leaves), len(self.leaves)
        note = f"rekor.example.org - 1\n{size}\n{b64(root)}\n"
        checkpoint = b64(_key_id(rekor)[:4] + signed(rekor, note.encode()))
        return {
            "logIndex": str(promised["logIndex"]),
            "logId": {"keyId": b64(_key_id(rekor))},
            "kindVersion": {"kind": entry["kind"], "version": entry["apiVersion"]},
            "integratedTime": str(promised["integratedTime"]),
            "inclusionPromise": {"signedEntryTimestamp": b64(signed(rekor, canonical))},
            "inclusionProof": {
                "logIndex": str(index),
                "rootHash": b64(root),
                "treeSize": str(size),
                "hashes": [b64(one) for one in _path(index, self.leaves)],
                "checkpoint": {"envelope": f"{note}\n\u2014 rekor.example.org {checkpoint}\n"},
            },
            "canonicalizedBody": b64(body),
        }


def changed(bundle, path, value):
    """A copy of a bundle with something else at a path such as "dsseEnvelope.payload"; None takes it away."""
    copied = copy.deepcopy(bundle)
    *above, last = [int(part) if part.isdigit() else part for part in path.split(".")]
    place = copied
    for part in above:
        place = place[part]
    if value is None:
        del place[last]
    else:
        place[last] = value(place[last]) if callable(value) else value
    return copied


def flipped(text):
    """Base64 of the same bytes, but for one bit in the middle."""
    data = bytearray(base64.b64decode(text))
    data[len(data) // 2] ^= 1
    return b64(bytes(data))


def _entry(body, signature, pem):
    return {
        "apiVersion": "0.0.1",
        "kind": "dsse",
        "spec": {
            "envelopeHash": {"algorithm": "sha256", "value": "0" * 64},
            "payloadHash": {"algorithm": "sha256", "value": hashlib.sha256(body).hexdigest()},
            "signatures": [{"signature": b64(signature), "verifier": b64(pem)}],
        },
    }


def _name(common_name):
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, common_name)])


def _usage(**held):
    every = (
        "digital_signature", "content_commitment", "key_encipherment", "data_encipherment", "key_agreement",
        "key_cert_sign", "crl_sign", "encipher_only", "decipher_only",
    )  # fmt: skip
    return x509.KeyUsage(**dict.fromkeys(every, False) | held)


def _key_id(key):
    return hashlib.sha256(der(key.public_key())).digest()


def _length(data):
    size = len(data)
    return bytes([size]) if size < 128 else bytes([0x81, size])


def _split(leaves):
    """Where a tree of hashes divides (RFC 6962 §2.1): at the largest power of two below its size."""
    return 1 << ((len(leaves) - 1).bit_length() - 1)


def _root(leaves):
    if len(leaves) == 1:
        return leaves[0]
    k = _split(leaves)
    return hashlib.sha256(b"\1" + _root(leaves[:k]) + _root(leaves[k:])).digest()


def _path(index, leaves):
    if len(leaves) == 1:
        return []
    k = _split(leaves)
    if index < k:
        return [*_path(index, leaves[:k]), _root(leaves[k:])]
    return [*_path(index - k, leaves[k:]), _root(leaves[:k])]

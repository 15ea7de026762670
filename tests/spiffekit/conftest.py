# SPDX-License-Identifier: Apache-2.0
"""Certificates that no library makes any more."""

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ed25519, padding, rsa
from cryptography.hazmat.primitives.serialization import Encoding

from spiffekit.testing import CA_USAGE, TestCA

SHA256_RSA = bytes.fromhex("06092a864886f70d01010b")
SHA1_RSA = bytes.fromhex("06092a864886f70d010105")


@pytest.fixture(scope="session")
def sha1_issuer():
    """An authority with an RSA key, and a function that signs a certificate's content with SHA-1."""
    authority = TestCA()
    authority.key = rsa.generate_private_key(65537, 2048)
    authority.certificate = authority.certify(
        authority.key.public_key(),
        uris=["spiffe://example.org"],
        common_name="RSA",
        ca=True,
        usage=CA_USAGE,
        purposes=(),
    )

    def weaken(certificate):
        content = certificate.tbs_certificate_bytes.replace(SHA256_RSA, SHA1_RSA)
        signature = authority.key.sign(content, padding.PKCS1v15(), hashes.SHA1())
        der = certificate.public_bytes(Encoding.DER)
        der = der.replace(certificate.tbs_certificate_bytes, content).replace(SHA256_RSA, SHA1_RSA)
        return x509.load_der_x509_certificate(der.replace(certificate.signature, signature))

    return authority, weaken


@pytest.fixture(scope="session")
def sha1_certificate(sha1_issuer):
    authority, weaken = sha1_issuer
    key = ed25519.Ed25519PrivateKey.generate().public_key()
    return weaken(authority.certify(key, uris=["spiffe://example.org/web"]))


@pytest.fixture(scope="session")
def edwards_certificate():
    key = ed25519.Ed25519PrivateKey.generate()
    subject = TestCA().certificate
    return (
        x509.CertificateBuilder()
        .subject_name(subject.subject)
        .issuer_name(subject.subject)
        .public_key(key.public_key())
        .serial_number(1)
        .not_valid_before(subject.not_valid_before_utc)
        .not_valid_after(subject.not_valid_after_utc)
        .sign(key, None)
    )

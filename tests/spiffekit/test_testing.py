# SPDX-License-Identifier: Apache-2.0
"""The authority for tests, judged by other libraries where they can."""

from datetime import UTC, datetime, timedelta

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import rsa
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from joserfc import jwt
from joserfc.jwk import ECKey

from spiffekit.crl import RevocationList
from spiffekit.jwtsvid import verify as verify_jwt
from spiffekit.status import AgentStatus
from spiffekit.testing import TestCA
from spiffekit.x509svid import verify as verify_x509

NOW = datetime(2026, 1, 1, tzinfo=UTC)
WEB = "spiffe://example.org/web"


@pytest.mark.requirement("ID-22", "ID-23", "ID-24", "X509-07")
def test_an_authority_is_an_svid_of_its_trust_domain():
    certificate = TestCA("example.org").certificate
    san = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    assert san.get_values_for_type(x509.UniformResourceIdentifier) == ["spiffe://example.org"]
    certificate.verify_directly_issued_by(certificate)


def test_what_it_issues_is_believed_with_its_bundle():
    ca = TestCA("example.org", now=NOW)
    svid = ca.issue(WEB, lifetime=timedelta(minutes=5), hint="internal")
    assert verify_x509(svid.chain_der, ca.bundle, now=NOW) == svid.spiffe_id
    assert (svid.hint, svid.expires_at - svid.not_before) == ("internal", timedelta(minutes=5))
    assert verify_jwt(ca.jwt(WEB), ca.bundle, audience=["test"], now=NOW).spiffe_id == svid.spiffe_id


def test_what_it_takes_back_is_believed_with_its_bundle():
    ca = TestCA("example.org", now=NOW)
    svid, other = ca.issue(WEB), ca.issue(WEB)
    found = RevocationList.verify(ca.crl(svid.serial_number, number=3), ca.bundle)
    assert (found.serials, found.number) == ({svid.serial_number}, 3)
    status = AgentStatus.verify(
        ca.status(sequence=2, serials=frozenset([other.serial_number])), ca.bundle, now=NOW
    )
    assert (status.sequence, status.serials, status.issued_at) == (2, {other.serial_number}, NOW)


def test_another_library_believes_its_tokens():
    ca = TestCA(now=NOW)
    pem = ca.jwt_key.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
    decoded = jwt.decode(ca.jwt(WEB, ["a"]), ECKey.import_key(pem), algorithms=["ES256"])
    assert decoded.header == {"alg": "ES256", "kid": "test-key", "typ": "JWT"}
    epoch = int(NOW.timestamp())
    assert decoded.claims == {"sub": WEB, "aud": ["a"], "exp": epoch + 3600, "iat": epoch}


def test_a_seed_makes_the_same_again():
    one, same, other = (TestCA(now=NOW, seed=seed) for seed in (b"a", b"a", b"b"))
    assert one.bundle == same.bundle
    assert one.bundle != other.bundle
    assert one.issue(WEB) == same.issue(WEB)
    assert one.jwt(WEB) == same.jwt(WEB)
    assert len({one.issue(WEB).serial_number for _ in range(3)}) == 3


def test_without_a_seed_nothing_is_the_same_again():
    one, other = TestCA(now=NOW), TestCA(now=NOW)
    assert one.bundle != other.bundle
    assert one.issue(WEB).serial_number != one.issue(WEB).serial_number


def test_an_authority_may_be_given_another_key():
    ca = TestCA(now=NOW, seed=b"a")
    ca.key = rsa.generate_private_key(65537, 2048)
    assert ca.issue(WEB).leaf.signature_algorithm_oid.dotted_string == "1.2.840.113549.1.1.11"


def test_wit_svids_of_a_seeded_authority_are_the_same_in_every_run():
    key = TestCA(now=NOW).new_key()
    first, second = (TestCA(now=NOW, seed=b"x") for _ in range(2))
    assert first.wit(WEB, key.public_key()) == second.wit(WEB, key.public_key())
    assert first.wit_bundle == second.wit_bundle
    assert first.wit_bundle.jwt_authorities == first.bundle.jwt_authorities
    assert TestCA(now=NOW).wit_key != TestCA(now=NOW).wit_key

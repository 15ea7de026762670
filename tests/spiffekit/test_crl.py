# SPDX-License-Identifier: Apache-2.0
"""Revocation lists: only an authority of the trust domain's own bundle takes back what it issued."""

import re
from datetime import UTC, datetime, timedelta

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519

from issuer.ca import der
from spiffekit import crl as module
from spiffekit.bundle import Bundle, X509Authority
from spiffekit.crl import RevocationList, check_all
from spiffekit.errors import RevokedError, StatusError, UntrustedError
from spiffekit.testing import TestCA

NOW = datetime(2026, 1, 1, tzinfo=UTC)
HOUR = timedelta(hours=1)
CA = TestCA(now=NOW)
ECDSA_SHA256, ECDSA_UNKNOWN = der.oid("1.2.840.10045.4.3.2"), der.oid("1.2.840.10045.4.3.9")
UNTRUSTED = "no authority of example.org signed the revocation list"


def a_list(*serials, ca=CA, extensions=None, key=None, digest=None, next_update=NOW + HOUR):
    builder = x509.CertificateRevocationListBuilder().issuer_name(ca.certificate.subject).last_update(NOW)
    builder = builder.next_update(next_update)
    for extension, critical in [(x509.CRLNumber(5), False)] if extensions is None else extensions:
        builder = builder.add_extension(extension, critical)
    for serial in serials:
        revoked = x509.RevokedCertificateBuilder().serial_number(serial).revocation_date(NOW).build()
        builder = builder.add_revoked_certificate(revoked)
    signed = builder.sign(key or ca.key, digest or hashes.SHA256())
    return signed.public_bytes(serialization.Encoding.DER)


def without_next_update():
    """What no builder makes: a list that does not say when the next one comes."""
    number = der.sequence(der.oid("2.5.29.20"), der.octet_string(der.integer(1)))
    algorithm = der.sequence(ECDSA_SHA256)
    tbs = der.sequence(
        der.integer(1),
        algorithm,
        CA.certificate.subject.public_bytes(),
        der.time(NOW),
        der.tlv(0xA0, der.sequence(number)),
    )
    return der.sequence(tbs, algorithm, der.bit_string(CA.key.sign(tbs, ec.ECDSA(hashes.SHA256()))))


def leaf(ca=CA, **changes):
    made = ca.issue("spiffe://example.org/web", **changes)
    return x509.load_der_x509_certificate(made.chain_der[0])


def refused(kind, message):
    return pytest.raises(kind, match=f"^{re.escape(message)}$")


def test_a_list_names_what_its_authority_took_back():
    bad, good = leaf(), leaf()
    found = RevocationList.verify(a_list(bad.serial_number), CA.bundle)
    assert (found.number, found.this_update, found.next_update) == (5, NOW, NOW + HOUR)
    assert found.authority_key_id == CA.bundle.x509_authorities[0].subject_key_id
    with refused(RevokedError, f"certificate {bad.serial_number:x} is revoked"):
        check_all([found], bad)
    check_all([found], good)
    assert str(bad.serial_number) not in repr(found)


def test_an_empty_list_takes_nothing_back():
    check_all([RevocationList.verify(a_list(), CA.bundle)], leaf())


def test_a_list_is_no_word_about_another_authoritys_certificate():
    other = TestCA(now=NOW)
    theirs = leaf(other)
    check_all([RevocationList.verify(a_list(theirs.serial_number), CA.bundle)], theirs)


def test_a_certificate_that_does_not_say_who_issued_it_is_taken_to_be_meant():
    key = CA.new_key()
    name = x509.Name([])
    builder = x509.CertificateBuilder().subject_name(name).issuer_name(name).public_key(key.public_key())
    bare = (
        builder.serial_number(9).not_valid_before(NOW).not_valid_after(NOW + HOUR).sign(key, hashes.SHA256())
    )
    with refused(RevokedError, "certificate 9 is revoked"):
        RevocationList.verify(a_list(9), CA.bundle).check(bare)


def test_only_an_authority_of_the_bundle_signs():
    with refused(UntrustedError, UNTRUSTED):
        RevocationList.verify(a_list(ca=TestCA("example.org", now=NOW)), CA.bundle)
    with refused(UntrustedError, UNTRUSTED):
        RevocationList.verify(a_list(key=CA.new_key()), CA.bundle)
    with refused(UntrustedError, UNTRUSTED):
        RevocationList.verify(a_list().replace(ECDSA_SHA256, ECDSA_UNKNOWN), CA.bundle)
    forged = bytearray(a_list(1))
    forged[-1] ^= 1
    with pytest.raises((UntrustedError, StatusError)):
        RevocationList.verify(bytes(forged), CA.bundle)


def test_a_bundle_of_several_authorities_finds_the_one_that_signed():
    second = TestCA(now=NOW)
    authorities = (*second.bundle.x509_authorities, *CA.bundle.x509_authorities)
    both = Bundle(CA.trust_domain, authorities)
    assert RevocationList.verify(a_list(), both).authority_key_id == authorities[1].subject_key_id


@pytest.mark.parametrize(
    ("der", "why"),
    [
        (b"", "revocation list: "),
        (b"\x30\x00", "revocation list: "),
        (a_list() + b"\x00", "revocation list: "),
        (
            a_list().replace(b"\x02\x01\x01", b"\x02\x01\x00", 1),
            "revocation list: 0 is not a valid CRL version",
        ),
        (a_list().replace(b"\x55\x04\x03\x0c", b"\x55\x04\x03\x00"), "revocation list: error parsing asn1"),
        (a_list(extensions=[]), "revocation list: No <"),
        (without_next_update(), "revocation list does not say when the next one comes"),
        (
            a_list(
                extensions=[
                    (x509.CRLNumber(1), False),
                    (x509.IssuingDistributionPoint(None, None, True, False, None, False, False), True),
                ]
            ),
            "revocation list has critical extension 2.5.29.28",
        ),
    ],
    ids=["empty", "nothing", "more behind", "version", "name", "no number", "no next one", "of a part only"],
)
def test_a_list_that_is_none_is_refused(der, why):
    with pytest.raises(StatusError) as caught:
        RevocationList.verify(der, CA.bundle)
    assert str(caught.value).startswith(why)


def test_a_list_is_not_longer_than_it_may_be(monkeypatch):
    monkeypatch.setattr(module, "MAX_BYTES", 10)
    with refused(StatusError, "revocation list is longer than 10 bytes"):
        RevocationList.verify(a_list(), CA.bundle)


def test_an_authority_with_another_kind_of_key_signs_nothing():
    odd = TestCA(now=NOW)
    odd.key = ed25519.Ed25519PrivateKey.generate()
    name = odd.certificate.subject
    builder = x509.CertificateBuilder().subject_name(name).issuer_name(name).public_key(odd.key.public_key())
    builder = builder.add_extension(x509.SubjectKeyIdentifier.from_public_key(odd.key.public_key()), False)
    made = builder.serial_number(1).not_valid_before(NOW).not_valid_after(NOW + HOUR).sign(odd.key, None)
    authority = X509Authority(made.public_bytes(serialization.Encoding.DER))
    with refused(UntrustedError, UNTRUSTED):
        RevocationList.verify(a_list(ca=odd, key=CA.key), Bundle(CA.trust_domain, (authority,)))

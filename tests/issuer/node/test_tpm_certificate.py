# SPDX-License-Identifier: Apache-2.0
"""A certificate counts for the endorsement key that it is of, if an authority of its maker signed it."""

from datetime import timedelta

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.serialization import Encoding

from issuer.errors import NodeRejectedError
from issuer.node import tpm, tpm_certificate
from issuer.node.chains import Authorities
from spiffekit.testing import CA_USAGE, TestCA
from tests.issuer.node import tpm_structures as made
from tests.issuer.node.x509pop_node import ROOT, Intermediate

PURPOSE = x509.ObjectIdentifier("2.23.133.8.1")
ENDORSEMENT = tpm.endorsement_key(made.endorsement(made.RSA_KEY))
YEAR = timedelta(days=365)


def verify(issuer=ROOT, *authorities, key=made.RSA_KEY, **changes):
    settings = {"uris": [], "common_name": "", "usage": {"key_encipherment": True}, "purposes": (PURPOSE,)}
    certificate = issuer.certify(key.public_key(), **settings | changes)
    known = Authorities([authority.certificate for authority in authorities or (issuer,)], intermediates=0)
    der = certificate.public_bytes(Encoding.DER)
    return tpm_certificate.verify(der, ENDORSEMENT, known)


def named(*values):
    names = [x509.NameAttribute(x509.ObjectIdentifier("2.23.133.2.1"), value) for value in values]
    return x509.SubjectAlternativeName([x509.DirectoryName(x509.Name(names))])


@pytest.mark.parametrize("purposes", [(PURPOSE,), ()], ids=["its purpose", "any purpose"])
def test_a_certificate_of_a_known_maker_is_good(purposes):
    assert verify(purposes=purposes).public_key() == ENDORSEMENT.key


def test_an_intermediate_of_the_maker_is_named_itself():
    intermediate = Intermediate(ROOT)
    assert verify(intermediate)
    with pytest.raises(NodeRejectedError, match="no configured root"):
        verify(intermediate, ROOT)


@pytest.mark.parametrize(
    ("changes", "why"),
    [
        ({"key": made.EC_KEY}, "of another endorsement key"),
        ({"purposes": (x509.oid.ExtendedKeyUsageOID.CLIENT_AUTH,)}, "not for an endorsement key"),
        ({"ca": True, "usage": CA_USAGE}, "is a signing certificate"),
        ({"lifetime": timedelta(seconds=1)}, "no configured root"),
        ({"not_before": ROOT.now + YEAR}, "no configured root"),
        ({"extra": [(x509.UnrecognizedExtension(PURPOSE, b"\0\0"), True)]}, "no configured root"),
        ({"hash_algorithm": hashes.SHA224()}, "no configured root|signed with"),
    ],
    ids=["key", "purpose", "authority", "expired", "not yet", "unknown and critical", "hash"],
)
def test_a_certificate_that_breaks_a_rule_is_refused(changes, why):
    with pytest.raises(NodeRejectedError, match=why):
        verify(**changes)


@pytest.mark.parametrize(
    "changes",
    [
        {"ca": False},
        {"ca": None},
        {"usage": {"digital_signature": True}},
        {"usage": {"crl_sign": True}},
        {"lifetime": timedelta(seconds=1)},
        {"not_before": ROOT.now + YEAR},
    ],
    ids=["no authority", "no constraints", "for signatures", "for lists", "expired", "not yet"],
)
def test_one_who_may_sign_no_certificates_vouches_for_nobody(changes):
    """Even if the operator lists it."""
    with pytest.raises(NodeRejectedError, match="no configured root"):
        verify(Intermediate(ROOT, **changes))


def test_a_maker_of_the_same_name_is_another():
    with pytest.raises(NodeRejectedError, match="no configured root"):
        verify(TestCA(), ROOT)


@pytest.mark.parametrize("der", [b"", b"\x30\x00", b"\x30" * 100_000], ids=["nothing", "empty", "huge"])
def test_what_is_no_certificate_is_refused(der):
    with pytest.raises(NodeRejectedError, match=r"^endorsement key's certificate is"):
        tpm_certificate.verify(der, ENDORSEMENT, Authorities([ROOT.certificate]))


@pytest.mark.parametrize(
    ("extra", "maker"),
    [
        ([], None),
        ([(named("id:53544d20"), True)], "53544D20"),
        ([(named("id:53544D20", "id:494E5443"), True)], None),
        ([(named("id:53544D2"), False)], None),
        ([(named("id:53544D20\n"), False)], None),
        ([(x509.SubjectAlternativeName([x509.DNSName("id.example.org")]), False)], None),
    ],
    ids=["no names", "one", "two", "short", "line", "another name"],
)
def test_a_maker_is_named_by_one_identifier(extra, maker):
    assert tpm_certificate.manufacturer(verify(extra=extra)) == maker

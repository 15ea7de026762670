# SPDX-License-Identifier: Apache-2.0
"""Revocation lists of our authorities, as others read them."""

from datetime import timedelta

import pytest
from cryptography import x509
from hypothesis import given
from hypothesis import strategies as st

from issuer.ca import der
from issuer.ca.crl import Reason, Revoked, crl_tbs
from issuer.model import AuthorityKind
from spiffekit.crl import RevocationList
from spiffekit.keys import KeyType
from spiffekit.testing import TestCA
from tests.issuer.ca.world import DAY, World
from tests.issuer.strategies import NOW

HOUR = timedelta(hours=1)
CA = TestCA(now=NOW)
serials = st.integers(1, 2**127 - 1)


@given(st.dictionaries(serials, st.sampled_from(Reason), max_size=5), st.integers(1, 2**63 - 1))
def test_a_list_says_to_others_what_it_says_to_us(revoked, number):
    from cryptography.hazmat.primitives import hashes
    from cryptography.hazmat.primitives.asymmetric import ec

    algorithm = der.sequence(der.oid("1.2.840.10045.4.3.2"))
    tbs = crl_tbs(
        [Revoked(serial, NOW - HOUR, reason) for serial, reason in revoked.items()],
        issuer_name_der=CA.certificate.subject.public_bytes(),
        key_id=b"k" * 20,
        signature_algorithm_der=algorithm,
        number=number,
        this_update=NOW,
        next_update=NOW + HOUR,
    )
    signature = CA.key.sign(tbs, ec.ECDSA(hashes.SHA256()))
    made = der.sequence(tbs, algorithm, der.bit_string(signature))
    read = x509.load_der_x509_crl(made)
    assert read.is_signature_valid(CA.key.public_key())
    assert (read.last_update_utc, read.next_update_utc) == (NOW, NOW + HOUR)
    said = {
        entry.serial_number: entry.extensions.get_extension_for_class(x509.CRLReason).value.reason.name
        for entry in read
    }
    names = {
        Reason.KEY_COMPROMISE: "key_compromise",
        Reason.CESSATION_OF_OPERATION: "cessation_of_operation",
        Reason.CERTIFICATE_HOLD: "certificate_hold",
    }
    assert said == {serial: names[reason] for serial, reason in revoked.items()}
    key_id = read.extensions.get_extension_for_class(x509.AuthorityKeyIdentifier).value.key_identifier
    assert key_id == b"k" * 20
    assert RevocationList.verify(made, CA.bundle).number == number


@pytest.fixture(params=[KeyType.EC_P256, KeyType.EC_P384, KeyType.RSA_2048])
async def world(request, tmp_path):
    world = World(tmp_path, ca_key_type=request.param)
    await world.start()
    yield world
    world.close()


async def lists(world, *revoked):
    made = await world.authorities.revocation_lists(revoked, number=7, lifetime=HOUR)
    bundle = await world.bundle()
    return [RevocationList.verify(one, bundle) for one in made]


async def test_every_authority_that_signed_something_has_a_list(world):
    (only,) = await lists(world, Revoked(5, world.clock.now(), Reason.CERTIFICATE_HOLD))
    first = world.active(AuthorityKind.X509).id
    assert (only.authority_key_id, only.number, only.serials) == (first, 7, {5})
    assert (only.this_update, only.next_update) == (world.clock.now(), world.clock.now() + HOUR)
    prepared = await world.authorities.prepare(AuthorityKind.X509)
    assert [one.authority_key_id for one in await lists(world)] == [first]
    await world.authorities.activate(AuthorityKind.X509, prepared.id)
    assert {one.authority_key_id for one in await lists(world)} == {first, prepared.id}
    world.clock.step(DAY - timedelta(seconds=5))
    assert {one.authority_key_id for one in await lists(world)} == {first, prepared.id}
    world.clock.step(timedelta(seconds=5))
    assert await lists(world) == []


async def test_an_authority_whose_key_is_gone_has_no_list(world):
    await world.keys.delete(world.active(AuthorityKind.X509).key_id)
    assert await lists(world) == []

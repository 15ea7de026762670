# SPDX-License-Identifier: Apache-2.0
"""What others add to our bundle stays through rotations, and goes when it has ended."""

from dataclasses import replace
from datetime import timedelta

import pytest

from issuer.ca.published import MAX_PUBLISHED, publish
from issuer.errors import FailedPreconditionError
from issuer.model import AuthorityKind
from spiffekit.bundle import JwtAuthority
from spiffekit.keys import KeyType, generate_private_key, public_key_to_der
from spiffekit.testing import TestCA
from tests.issuer.ca.world import DAY, LEAF_KEY, OURS, World

JWT, WIT = AuthorityKind.JWT, AuthorityKind.WIT


@pytest.fixture
async def world(tmp_path):
    world = World(tmp_path)
    await world.start()
    yield world
    world.close()


def a_key(world, key_id):
    der = public_key_to_der(generate_private_key(KeyType.EC_P256).public_key())
    return JwtAuthority(key_id, der, world.clock.now() + DAY)


async def add(world, **added):
    """Add authorities to the bundle as others do."""

    def act(tx):
        bundle = tx.bundles.get(OURS)
        return tx.bundles.put(
            replace(bundle, **{field: (*getattr(bundle, field), new) for field, new in added.items()})
        )

    return await world.database.write(act)


async def test_a_key_goes_a_day_after_its_end_and_one_without_an_end_stays(world):
    ends = world.clock.now() + DAY
    ending, lasting = JwtAuthority("ending", LEAF_KEY, ends), JwtAuthority("lasting", LEAF_KEY)
    await add(world, jwt_authorities=ending)
    await add(world, jwt_authorities=lasting)
    wit = JwtAuthority("wit", LEAF_KEY, ends)
    before = await add(world, wit_authorities=wit)
    await world.authorities.prune()
    assert await world.bundle() == before, "not even the sequence number"
    world.clock.step(2 * DAY - timedelta(seconds=1))
    await world.start()  # our own end as well, and are replaced
    bundle = await world.bundle()
    assert {ending, lasting} <= set(bundle.jwt_authorities)
    assert wit in bundle.wit_authorities
    world.clock.step(timedelta(seconds=1))
    await world.authorities.prune()
    bundle = await world.check()
    assert lasting in bundle.jwt_authorities
    assert "ending" not in {key.key_id for key in bundle.jwt_authorities}
    assert "wit" not in {key.key_id for key in bundle.wit_authorities}


async def test_a_root_goes_a_day_after_its_end(world):
    root = TestCA("example.org", now=world.clock.now()).bundle.x509_authorities[0]
    await add(world, x509_authorities=root)
    ends = root.certificate.not_valid_after_utc
    world.clock.step(ends + DAY - timedelta(seconds=1) - world.clock.now())
    await world.authorities.prune()
    assert root in (await world.bundle()).x509_authorities
    world.clock.step(timedelta(seconds=1))
    await world.authorities.prune()
    assert root not in (await world.bundle()).x509_authorities


async def test_a_key_that_is_named_like_one_of_our_certificates_stays(world):
    key = JwtAuthority(world.active(AuthorityKind.X509).id, LEAF_KEY)
    await add(world, jwt_authorities=key)
    await world.authorities.prepare(AuthorityKind.X509)
    assert key in (await world.bundle()).jwt_authorities


async def test_the_keys_of_others_are_bounded_and_leave_room_for_our_own(world):
    """A bundle of more authorities than a reader accepts could never be loaded again."""

    def fill(tx):
        bundle = tx.bundles.get(OURS)
        theirs = tuple(a_key(world, f"k{number}") for number in range(MAX_PUBLISHED - 1))
        tx.bundles.put(replace(bundle, jwt_authorities=(*bundle.jwt_authorities, *theirs)))
        return publish(tx, OURS, WIT, a_key(world, "last"))

    before = await world.database.write(fill)
    for kind in (JWT, WIT):
        with pytest.raises(FailedPreconditionError, match=r"^256 keys of others are in the bundle"):
            await world.database.write(lambda tx, kind=kind: publish(tx, OURS, kind, a_key(world, "more")))
    again = before.jwt_authority("k0")
    assert await world.database.write(lambda tx: publish(tx, OURS, JWT, again)) == before
    for kind in AuthorityKind:
        await world.authorities.prepare(kind)
    assert (await world.check()).size == before.size + 3
    world.clock.step(2 * DAY)
    await world.start()
    await world.authorities.prune()
    await world.database.write(lambda tx: publish(tx, OURS, JWT, a_key(world, "more")))


async def test_switching_wit_off_withdraws_the_keys_of_others_as_well(world):
    await add(world, wit_authorities=JwtAuthority("wit", LEAF_KEY))
    jwt = JwtAuthority("jwt", LEAF_KEY)
    await add(world, jwt_authorities=jwt)
    world.policy = replace(world.policy, wit=False)
    await world.start()
    bundle = await world.check()
    assert bundle.wit_authorities == ()
    assert jwt in bundle.jwt_authorities

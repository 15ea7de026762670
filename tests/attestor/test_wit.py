# SPDX-License-Identifier: Apache-2.0
"""The instance key of a process: how long it lives, and what is bound to it."""

from dataclasses import replace
from datetime import timedelta

import pytest

from attestor.wit import KEY_LIFETIME, WitSvids
from tests.attestor.factory import entry
from tests.attestor.test_instances import World, start

__all__ = ["start"]

HOUR, SECOND = timedelta(hours=1), timedelta(seconds=1)
ONE, TWO = entry("one"), entry("two", created=1)


class Signing(World):
    def __init__(self):
        super().__init__()
        self.cache.apply(entries=(), bundles=(self.issuer.ca.wit_bundle,), snapshot=True)
        self.wit = WitSvids(self.client, self.cache, self.clock)

    async def key(self, process, *entries, grant=True):
        examination = self.examination()
        if grant:
            self.issuer.grant(*entries)
        instance = self.instances.of(process, examination)
        return await self.wit.ensure(instance, process, examination, entries)


@pytest.fixture
async def world():
    world = Signing()
    yield world
    world.instances.close()


async def test_a_process_has_one_key_and_another_process_has_another(world, start):
    (_, first), (_, second) = start(), start()
    mine = await world.key(first, ONE, TWO)
    assert sorted(mine.held) == ["one", "two"]
    assert all(held.svid.public_key == mine.key.public_key() for held in mine.held.values())
    assert (await world.key(first, ONE)).key is mine.key
    assert (await world.key(second, ONE)).key is not mine.key
    assert world.wit.issued == 3


async def test_tokens_are_renewed_at_half_of_their_life_under_the_same_key(world, start):
    _, process = start()
    before = (await world.key(process, ONE)).held["one"]
    await world.clock.advance(HOUR / 2 - SECOND)
    assert (await world.key(process, ONE)).held["one"] is before
    await world.clock.advance(SECOND)
    after = (await world.key(process, ONE)).held["one"]
    assert after.svid.token != before.svid.token
    assert after.svid.public_key == before.svid.public_key


async def test_a_key_lives_for_a_day_at_most(world, start):
    _, process = start()
    key = (await world.key(process, ONE)).key
    await world.clock.advance(KEY_LIFETIME - SECOND)
    mine = await world.key(process, ONE)
    assert mine.key is key
    assert mine.due() == world.clock.monotonic() + 1
    await world.clock.advance(SECOND)
    assert (await world.key(process, ONE)).key is not key


async def test_an_entry_that_changes_gets_another_token(world, start):
    _, process = start()
    before = (await world.key(process, ONE)).held["one"]
    changed = replace(ONE, revision=1)
    after = (await world.key(process, changed)).held["one"]
    assert (before.revision, after.revision) == (0, 1)
    assert (await world.key(process)).held == {}


async def test_what_was_refused_is_asked_for_again_after_a_while(world, start):
    _, process = start()
    world.issuer.refused.add("one")
    mine = await world.key(process, ONE, TWO)
    assert sorted(mine.held) == ["two"]
    assert mine.due() == world.clock.monotonic() + 5
    world.issuer.refused.clear()
    await world.clock.advance(5 * SECOND)
    assert sorted((await world.key(process, ONE, TWO)).held) == ["one", "two"]


async def test_a_bundle_that_is_not_known_vouches_for_nothing(world, start):
    """What was signed before is asked for again: we could not say that it still counts."""
    _, process = start()
    before = (await world.key(process, ONE)).held["one"]
    world.cache.apply(entries=(), bundles=(), removed_bundles=(world.cache.trust_domain,))
    assert (await world.key(process, ONE)).held["one"].svid.token != before.svid.token

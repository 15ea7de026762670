# SPDX-License-Identifier: Apache-2.0
"""Authorities survive every restart, are published before they sign, and are withdrawn for good."""

import asyncio
from dataclasses import replace
from datetime import timedelta

import pytest

from issuer.errors import AuthorityNotReadyError, FailedPreconditionError, NotFoundError, StoreError
from issuer.keys import KeyManagerError, KeyNotFoundError, LocalKey
from issuer.model import AuthorityKind, AuthorityState
from spiffekit.bundle import JwtAuthority, X509Authority
from spiffekit.keys import KeyType, generate_private_key, public_key_to_der
from spiffekit.testing import TestCA
from tests.issuer.ca.world import DAY, OURS, FailingKeys, World

X509, JWT = AuthorityKind.X509, AuthorityKind.JWT
PREPARED, ACTIVE, OLD = AuthorityState.PREPARED, AuthorityState.ACTIVE, AuthorityState.OLD


@pytest.fixture
async def world(tmp_path):
    world = World(tmp_path, keys=FailingKeys())
    await world.start()
    yield world
    world.close()


async def test_the_first_start_makes_one_authority_of_each_kind(world):
    bundle = await world.check()
    assert list(world.state(X509).values()) == list(world.state(JWT).values()) == [ACTIVE]
    assert len(bundle.x509_authorities) == len(bundle.jwt_authorities) == 1
    (key,) = bundle.jwt_authorities
    assert key.expires_at == world.active(JWT).not_after == world.clock.now() + DAY


async def nothing(world, kind):
    del world, kind


async def prepared(world, kind):
    await world.authorities.prepare(kind)


async def rotated(world, kind):
    await world.authorities.activate(kind, (await world.authorities.prepare(kind)).id)


async def rotated_and_prepared(world, kind):
    await rotated(world, kind)
    await prepared(world, kind)


async def tainted(world, kind):
    first = world.active(kind).id
    await rotated(world, kind)
    await world.authorities.taint(kind, first)


async def revoked(world, kind):
    first = world.active(kind).id
    await tainted(world, kind)
    await world.authorities.revoke(kind, first)


HISTORIES = [nothing, prepared, rotated, rotated_and_prepared, tainted, revoked]


@pytest.mark.parametrize("kind", AuthorityKind)
@pytest.mark.parametrize("history", HISTORIES, ids=lambda history: history.__name__)
async def test_a_restart_changes_nothing(world, history, kind):
    await history(world, kind)
    before, bundle = {k: world.authorities.slots(k) for k in AuthorityKind}, await world.check()
    await world.start()
    assert {k: set(world.authorities.slots(k).records) for k in AuthorityKind} == {
        k: set(slots.records) for k, slots in before.items()
    }
    assert await world.check() == bundle, "not even the sequence number"


@pytest.mark.parametrize("kind", AuthorityKind)
@pytest.mark.parametrize("history", HISTORIES, ids=lambda history: history.__name__)
async def test_what_was_signed_before_a_restart_is_good_after_it(world, history, kind):
    before = await world.sign()
    await history(world, kind)
    after = await world.sign()
    await world.start()
    await world.check_signed(*after)
    if history is not revoked:
        await world.check_signed(*before)


async def test_what_is_prepared_is_published_before_it_signs(world):
    for kind in AuthorityKind:
        active = world.active(kind)
        record = await world.authorities.prepare(kind)
        assert world.state(kind) == {active.id: ACTIVE, record.id: PREPARED}
    bundle = await world.check()
    assert len(bundle.x509_authorities) == len(bundle.jwt_authorities) == 2
    signed = await world.sign()
    assert [svid.authority_id for svid in signed] == [world.active(kind).id for kind in AuthorityKind]


@pytest.mark.parametrize("kind", AuthorityKind)
async def test_a_prepared_one_that_gives_way_leaves_bundle_journal_and_keys(world, kind):
    first = await world.authorities.prepare(kind)
    second = await world.authorities.prepare(kind)
    assert first.id not in world.state(kind)
    assert world.state(kind)[second.id] is PREPARED
    await world.check()
    with pytest.raises(KeyNotFoundError):
        await world.keys.get(first.key_id)


@pytest.mark.parametrize("kind", AuthorityKind)
async def test_a_tainted_authority_is_published_as_such_and_a_revoked_one_is_gone(world, kind):
    first = world.active(kind)
    await rotated(world, kind)
    assert (await world.authorities.taint(kind, first.id)).tainted
    bundle = await world.check()
    keys = (*bundle.jwt_authorities, *bundle.wit_authorities)
    marks = [a.tainted for a in (*bundle.x509_authorities, *keys)]
    assert marks.count(True) == 1
    revoked = await world.authorities.revoke(kind, first.id)
    assert revoked.id == first.id
    bundle = await world.check()
    assert first.certificate_der not in {a.certificate_der for a in bundle.x509_authorities if kind is X509}
    assert first.id not in {a.key_id for a in (*bundle.jwt_authorities, *bundle.wit_authorities)}
    with pytest.raises(KeyNotFoundError):
        await world.keys.get(first.key_id)


@pytest.mark.parametrize("kind", AuthorityKind)
async def test_refused_steps_change_nothing(world, kind):
    before, bundle = world.authorities.slots(kind), await world.bundle()
    active = world.active(kind).id
    for refused in (
        world.authorities.activate(kind, active),
        world.authorities.taint(kind, active),
        world.authorities.revoke(kind, active),
    ):
        with pytest.raises(FailedPreconditionError):
            await refused
    for unknown in (world.authorities.activate, world.authorities.taint, world.authorities.revoke):
        with pytest.raises(NotFoundError):
            await unknown(kind, "unknown")
    assert world.authorities.slots(kind) == before
    assert await world.bundle() == bundle


@pytest.mark.requirement("BND-05")
@pytest.mark.parametrize("ca_ttl", [timedelta(seconds=s) for s in (1, 65, 86_400, 86_461)])
async def test_the_sequence_number_stays_while_nothing_changes(tmp_path, ca_ttl):
    world = World(tmp_path, ca_ttl=ca_ttl)
    await world.start()
    bundle = await world.bundle()
    assert bundle.refresh_hint.total_seconds() == max(1, ca_ttl.total_seconds() // 10)
    await world.start()
    await world.authorities.prune()
    assert (await world.bundle()).sequence == bundle.sequence
    await world.authorities.prepare(JWT)
    assert (await world.bundle()).sequence == bundle.sequence + 1
    prepared = world.authorities.slots(JWT).prepared.id
    await world.authorities.activate(JWT, prepared)  # published is the same set of keys, in the same order
    assert (await world.bundle()).sequence == bundle.sequence + 1
    world.close()


async def test_authorities_that_others_appended_stay_in_the_bundle(world):
    foreign = TestCA("example.org").bundle
    other_key = JwtAuthority("theirs", public_key_to_der(generate_private_key(KeyType.EC_P256).public_key()))

    def append(tx):
        bundle = tx.bundles.get(OURS)
        tx.bundles.put(
            replace(
                bundle,
                x509_authorities=(*bundle.x509_authorities, *foreign.x509_authorities),
                jwt_authorities=(*bundle.jwt_authorities, other_key),
            )
        )

    await world.database.write(append)
    for kind in AuthorityKind:
        await revoked(world, kind)
    await world.start()
    await world.authorities.prepare(X509)
    bundle = await world.check()
    assert foreign.x509_authorities[0] in bundle.x509_authorities
    assert other_key in bundle.jwt_authorities
    assert (len(bundle.x509_authorities), len(bundle.jwt_authorities)) == (3, 2)
    assert isinstance(bundle.x509_authorities[0], X509Authority)


@pytest.mark.parametrize("kind", AuthorityKind)
async def test_authorities_are_forgotten_one_lifetime_after_their_end(world, kind):
    first = world.active(kind)
    await rotated(world, kind)
    world.clock.step(2 * DAY - timedelta(microseconds=1))
    await world.authorities.prune()
    assert first.id in world.state(kind)
    world.clock.step(timedelta(microseconds=1))
    await world.authorities.prune()
    assert first.id not in world.state(kind)
    with pytest.raises(KeyNotFoundError):
        await world.keys.get(first.key_id)
    assert len(await world.journal(kind)) == 1


@pytest.mark.parametrize("kind", AuthorityKind)
async def test_an_active_authority_that_ended_while_nobody_ran_is_replaced(world, kind):
    first = world.active(kind).id
    world.clock.step(DAY)
    await world.start()
    assert world.state(kind)[first] is OLD
    assert world.active(kind).id != first
    assert {r.state for r in await world.journal(kind) if r.id == first} == {OLD}
    await world.check()


@pytest.mark.parametrize("kind", AuthorityKind)
async def test_the_prepared_one_takes_over_when_the_active_one_ended_while_nobody_ran(world, kind):
    """Verifiers know it already."""
    world.clock.step(DAY / 2)
    prepared = await world.authorities.prepare(kind)
    world.clock.step(DAY / 2)
    await world.start()
    assert world.active(kind).id == prepared.id
    await world.check()


@pytest.mark.parametrize("kind", AuthorityKind)
async def test_when_both_have_ended_another_one_is_made(world, kind):
    prepared = await world.authorities.prepare(kind)
    world.clock.step(DAY)
    await world.start()
    assert prepared.id not in world.state(kind), "it never signed anything"
    await world.check()


@pytest.mark.parametrize("kind", AuthorityKind)
async def test_an_active_authority_whose_key_is_gone_is_replaced_and_stays_published(world, kind):
    """As after each restart with keys in memory."""
    signed = await world.sign()
    first = world.active(kind)
    await world.keys.delete(first.key_id)
    await world.start()
    assert world.state(kind)[first.id] is OLD
    await world.check()
    await world.check_signed(*signed)


@pytest.mark.parametrize("kind", AuthorityKind)
async def test_a_key_of_another_authority_under_the_same_name_is_not_used(world, kind):
    first = world.active(kind)
    await world.keys.generate(first.key_id, KeyType.EC_P256)
    await world.start()
    assert world.active(kind).id != first.id
    await world.check()


@pytest.mark.parametrize("kind", AuthorityKind)
async def test_a_key_that_cannot_be_read_stops_the_start(world, kind):
    """A wrong passphrase must not make the issuer throw its authorities away."""
    first = world.active(kind)
    world.keys.unreadable.add(first.key_id)
    with pytest.raises(KeyManagerError, match=r"the file cannot be read$"):
        await world.start()
    world.keys.unreadable.clear()
    await world.start()
    assert world.active(kind).id == first.id


@pytest.mark.parametrize("kind", AuthorityKind)
async def test_a_prepared_one_whose_key_cannot_be_read_is_not_waited_for(world, kind):
    world.clock.step(DAY / 2)
    prepared = await world.authorities.prepare(kind)
    world.keys.unreadable.add(prepared.key_id)
    world.clock.step(DAY / 2)
    await world.start()
    assert world.active(kind).id != prepared.id
    await world.check()


@pytest.mark.parametrize("kind", AuthorityKind)
async def test_a_full_disk_changes_nothing_and_leaves_no_key_behind(world, kind):
    before, keys = world.authorities.slots(kind), await world.keys.list()
    world.database.failures = 1
    with pytest.raises(StoreError):
        await world.authorities.prepare(kind)
    assert world.authorities.slots(kind) == before
    assert await world.keys.list() == keys
    prepared = await world.authorities.prepare(kind)
    world.database.failures = 1
    with pytest.raises(StoreError):
        await world.authorities.activate(kind, prepared.id)
    assert world.state(kind)[prepared.id] is PREPARED
    await world.check()
    signed = await world.sign()
    assert prepared.id not in [svid.authority_id for svid in signed], "it is not active"


async def test_a_key_that_cannot_be_deleted_stops_nothing(world):
    world.keys.stuck = True
    for kind in AuthorityKind:
        await revoked(world, kind)
    await world.check()


async def test_steps_taken_at_the_same_time_are_all_kept(world):
    first = {kind: world.active(kind).id for kind in AuthorityKind}
    for kind in AuthorityKind:
        await rotated(world, kind)
    await asyncio.gather(
        *(world.authorities.prepare(kind) for kind in AuthorityKind),
        *(world.authorities.taint(kind, first[kind]) for kind in AuthorityKind),
        world.authorities.prune(),
    )
    await world.check()
    for kind in AuthorityKind:
        assert sorted(world.state(kind).values()) == [ACTIVE, OLD, PREPARED]
        assert world.authorities.slots(kind).find(first[kind]).tainted


class LyingKeys(FailingKeys):
    """A key manager that says one public key and signs with another."""

    async def generate(self, key_id, key_type):
        key = await super().generate(key_id, key_type)
        liar = LocalKey(key_id, generate_private_key(key_type))
        liar.public_key = key.public_key
        return liar


async def test_a_key_manager_that_signs_with_another_key_is_found_out(tmp_path):
    world = World(tmp_path, keys=LyingKeys())
    with pytest.raises(KeyManagerError, match=r"^key 'x509-[0-9a-f]{16}': its signature does not fit"):
        await world.start()
    assert await world.keys.list() == [], "and leaves nothing behind"
    world.close()


async def test_no_name_of_an_authority_is_ever_used_again(world):
    """A kid in two bundles must mean one key, also after restarts and revocations."""
    seen = {kind: [world.active(kind).id] for kind in AuthorityKind}
    for _ in range(10):
        for kind in AuthorityKind:
            await revoked(world, kind)
            seen[kind].append(world.active(kind).id)
        await world.start()
    for ids in seen.values():
        assert len(set(ids)) == 11


@pytest.mark.requirement("WIT-03")
async def test_wit_authorities_rotate_like_the_others(tmp_path):
    world = World(tmp_path)
    await world.start()
    seen = set()
    for _ in range(3):
        seen |= {a.key_id for a in (await world.check()).wit_authorities}
        prepared = await world.authorities.prepare(AuthorityKind.WIT)
        assert prepared.id in {a.key_id for a in (await world.bundle()).wit_authorities}
        await world.authorities.activate(AuthorityKind.WIT, prepared.id)
    bundle = await world.check()
    assert len(seen | {a.key_id for a in bundle.wit_authorities}) == 4
    assert len(bundle.jwt_authorities) == 1
    before = set(world.authorities.slots(AuthorityKind.WIT).records)
    await world.start()
    assert set(world.authorities.slots(AuthorityKind.WIT).records) == before
    world.close()


async def test_wit_authorities_are_withdrawn_when_they_are_switched_off(tmp_path):
    world = World(tmp_path)
    await world.start()
    (record,) = world.authorities.slots(AuthorityKind.WIT).records
    world.policy = replace(world.policy, wit=False)
    await world.start()
    assert (await world.bundle()).wit_authorities == ()
    assert await world.journal(AuthorityKind.WIT) == []
    with pytest.raises(KeyNotFoundError):
        await world.keys.get(record.key_id)
    with pytest.raises(AuthorityNotReadyError, match="no WIT authority is active yet"):
        _ = world.authorities.wit
    await world.check()
    world.close()

# SPDX-License-Identifier: Apache-2.0
"""Authorities and the issuer's own certificate stay fresh, through restarts, failures and clock steps."""

import asyncio
import contextlib
from datetime import timedelta

import pytest
from cryptography import x509
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from issuer.ca.authorities import Authorities
from issuer.ca.rotation import Rotation, ServerIdentity
from issuer.errors import AuthorityNotReadyError
from issuer.model import AuthorityKind, AuthorityState
from spiffekit.bundle import BundleSet
from spiffekit.x509svid import verify as verify_x509
from tests.issuer.ca.world import DAY, OURS, FailingKeys, World

X509, JWT, WIT = AuthorityKind
PREPARED, ACTIVE, OLD = AuthorityState.PREPARED, AuthorityState.ACTIVE, AuthorityState.OLD
HOUR, MINUTE, SECOND = timedelta(hours=1), timedelta(minutes=1), timedelta(seconds=1)


@contextlib.asynccontextmanager
async def rotating(world, **options):
    """The service, as the daemon runs it."""
    ready = asyncio.Event()
    rotation = world.rotation(**options)
    service = asyncio.create_task(rotation.run(ready.set))
    try:
        await asyncio.wait_for(ready.wait(), 5)
        yield rotation
        assert not service.done(), "a service runs until it is cancelled"
    finally:
        service.cancel()
        await asyncio.gather(service, return_exceptions=True)


async def pass_time(world, duration):
    """Let time pass a check at a time: what waits for the database needs more than turns of the loop."""
    step = world.step
    target = world.clock.monotonic() + duration.total_seconds()
    while world.clock.monotonic() < target:
        left = timedelta(seconds=target - world.clock.monotonic())
        await world.clock.advance(min(step, left))
        for _ in range(20000):
            if world.clock.sleeping:
                break
            await asyncio.sleep(0.0005)
        assert world.clock.sleeping


@pytest.fixture
async def world(tmp_path):
    world = World(tmp_path, keys=FailingKeys())
    await world.start()
    yield world
    world.close()


async def check_at(world, rotation, when, start):
    world.clock.step(start + when - world.clock.now())
    await rotation.check()


async def test_a_day_in_the_life_of_an_authority(world):
    """With the default of 24 h: prepared after 12 h, taken over after 20 h, withdrawn after another day."""
    start, rotation = world.clock.now(), world.rotation()
    first = {kind: world.active(kind).id for kind in AuthorityKind}
    await check_at(world, rotation, 12 * HOUR - SECOND, start)
    assert {kind: list(world.state(kind).values()) for kind in AuthorityKind} == {
        X509: [ACTIVE],
        JWT: [ACTIVE],
        WIT: [ACTIVE],
    }
    await check_at(world, rotation, 12 * HOUR, start)
    second = {kind: world.authorities.slots(kind).prepared.id for kind in AuthorityKind}
    await check_at(world, rotation, 20 * HOUR - SECOND, start)
    assert {kind: world.active(kind).id for kind in AuthorityKind} == first
    await check_at(world, rotation, 20 * HOUR, start)
    for kind in AuthorityKind:
        assert world.state(kind) == {first[kind]: OLD, second[kind]: ACTIVE}
    await check_at(world, rotation, 48 * HOUR - SECOND, start)
    assert all(first[kind] in world.state(kind) for kind in AuthorityKind)
    await check_at(world, rotation, 48 * HOUR, start)
    assert not any(first[kind] in world.state(kind) for kind in AuthorityKind)
    await world.check()


async def test_with_short_lives_every_svid_is_good_for_all_of_its_life(tmp_path):
    """SPIRE's own story: authorities of 60 s, SVIDs of 10 s; here through eight rotations, with restarts."""
    world = World(tmp_path, ca_ttl=MINUTE)
    await world.start()
    rotation = world.rotation(ttl=10 * SECOND)
    alive, seen, most = [], {kind: set() for kind in AuthorityKind}, 0
    for second in range(0, 420, 2):
        world.clock.step(2 * SECOND)
        if second % 98 == 50:
            await world.start()
            rotation = world.rotation(ttl=10 * SECOND)
        await rotation.check()
        signed = await world.sign(10 * SECOND)
        for kind, svid in zip(AuthorityKind, signed, strict=True):
            assert svid.expires_at - world.clock.now() == 10 * SECOND, "never cut short"
            seen[kind].add(svid.authority_id)
        alive = [pair for pair in alive if pair[0].expires_at > world.clock.now()] + [signed]
        if second % 10 == 0:
            for pair in alive:
                await world.check_signed(*pair)
        most = max(most, len(await world.journal(X509)))
    assert all(len(ids) >= 8 for ids in seen.values())
    assert most <= 4, "withdrawn in time"
    assert len(await world.keys.list()) <= 3 * most
    world.close()


async def test_what_is_prepared_too_late_reaches_the_verifiers_before_it_signs(world):
    world.clock.step(23 * HOUR)
    rotation, first = world.rotation(), world.active(X509).id
    await rotation.check()
    assert world.state(X509)[first] is ACTIVE
    assert world.authorities.slots(X509).prepared is not None
    await rotation.check()
    assert world.state(X509)[first] is OLD
    await world.check()


async def test_the_service_rotates_as_time_passes(tmp_path):
    world = World(tmp_path, ca_ttl=HOUR)
    world.step = 10 * SECOND
    await world.start()
    first = world.active(X509).id
    async with rotating(world):
        await pass_time(world, 30 * MINUTE + world.step)
        assert world.authorities.slots(X509).prepared is not None
        await pass_time(world, 20 * MINUTE)
        assert world.state(X509)[first] is OLD
        await world.check()
    world.close()


@pytest.mark.parametrize("failures", [1, 3])
async def test_a_failing_database_is_tried_again(world, failures, caplog):
    """A full disk in the middle of a rotation: logged, and done when there is room again."""
    world.step = 10 * SECOND
    world.clock.step(13 * HOUR)
    async with rotating(world):
        world.database.failures = failures
        await pass_time(world, (failures + 2) * world.step)
    assert all(world.authorities.slots(kind).prepared for kind in AuthorityKind)
    assert [r.message for r in caplog.records if r.exc_info] == ["rotation failed, trying again"] * failures
    assert len(await world.keys.list()) == 6
    await world.check()


async def test_a_prepared_authority_whose_key_is_lost_is_replaced(world):
    """Else rotation would wait for a key that never comes, until nothing can sign."""
    rotation = world.rotation()
    for kind in AuthorityKind:
        lost = await world.authorities.prepare(kind)
        world.keys.unreadable.add(lost.key_id)
    world.clock.step(21 * HOUR)
    first = world.active(X509).id
    await rotation.check()
    await rotation.check()
    assert world.state(X509)[first] is OLD
    await world.check()


async def test_a_machine_that_slept_for_days_goes_on(world):
    rotation = world.rotation()
    for kind in AuthorityKind:
        await world.authorities.prepare(kind)
    world.clock.step(5 * DAY)
    await rotation.check()
    await world.check()
    assert world.identity.x509_svid().expires_at > world.clock.now()


async def test_rotation_before_anything_is_loaded_signs_nothing(world):
    world.authorities = Authorities(
        OURS, world.policy, keys=world.keys, database=world.database, clock=world.clock
    )
    with pytest.raises(AuthorityNotReadyError):
        await world.rotation().check()


STEPS = st.lists(
    st.tuples(st.timedeltas(SECOND, 40 * MINUTE), st.timedeltas(-HOUR, HOUR)), min_size=1, max_size=8
)


@pytest.mark.parametrize("ca_ttl", [MINUTE, HOUR, DAY], ids=["1 min", "1 h", "24 h"])
@settings(max_examples=5, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow])
@given(steps=STEPS)
@example(steps=[(SECOND, HOUR)])
@example(steps=[(SECOND, -HOUR)])
@example(steps=[(40 * MINUTE, -HOUR), (SECOND, HOUR), (SECOND, HOUR)])
async def test_clock_steps_of_an_hour_do_not_stop_rotation(tmp_path_factory, ca_ttl, steps):
    """After two checks everything is good by the clock as it is then, whatever it was before."""
    world = World(tmp_path_factory.mktemp("steps"), ca_ttl=ca_ttl)
    await world.start()
    rotation = world.rotation(ttl=10 * MINUTE)
    for passed, step in steps:
        world.clock.step(passed + step)
        for _ in range(2):
            with contextlib.suppress(AuthorityNotReadyError):
                await rotation.check()
        bundle = await world.check()
        now = world.clock.now()
        root = x509.load_der_x509_certificate(world.active(X509).certificate_der)
        assert root.not_valid_before_utc <= now < root.not_valid_after_utc
        assert verify_x509(world.identity.x509_svid().chain_der, BundleSet([bundle]), now=now)
    world.close()


async def test_the_issuers_own_certificate_is_renewed_at_half_of_its_life(world):
    rotation = world.rotation(ttl=HOUR)
    with pytest.raises(AuthorityNotReadyError, match=r"^the issuer has no certificate yet$"):
        world.identity.x509_svid()
    await rotation.check()
    first = world.identity.x509_svid()
    assert str(first.spiffe_id) == "spiffe://example.org/spire/server"
    assert first.expires_at == world.clock.now() + HOUR
    world.clock.step((first.expires_at - first.not_before) / 2 - 11 * SECOND)
    await rotation.check()
    assert world.identity.x509_svid() is first
    world.clock.step(SECOND)
    await rotation.check()
    second = world.identity.x509_svid()
    assert second is not first
    assert second.private_key_der != first.private_key_der


async def test_the_issuers_own_certificate_follows_the_authority(world):
    rotation = world.rotation(ttl=HOUR)
    await rotation.check()
    first = world.identity.x509_svid()
    await world.authorities.activate(X509, (await world.authorities.prepare(X509)).id)
    await world.identity.refresh()
    second = world.identity.x509_svid()
    assert second.chain_der != first.chain_der
    assert verify_x509(second.chain_der, BundleSet([await world.bundle()]), now=world.clock.now())


async def test_the_issuers_own_certificate_is_made_again_when_the_clock_goes_back(world):
    rotation = world.rotation(ttl=HOUR)
    await rotation.check()
    first = world.identity.x509_svid()
    world.clock.step(-MINUTE)
    await world.identity.refresh()
    assert world.identity.x509_svid().not_before < first.not_before


async def test_checks_come_often_enough_for_the_shortest_life(world):
    def every(ca_ttl, ttl):
        identity = ServerIdentity(OURS, world.authorities, ttl=ttl, clock=world.clock)
        return Rotation(world.authorities, identity, ca_ttl=ca_ttl, clock=world.clock)._every

    assert every(DAY, HOUR) == 10 * SECOND
    assert every(MINUTE, HOUR) == SECOND
    assert every(DAY, 10 * SECOND) == 1.25 * SECOND

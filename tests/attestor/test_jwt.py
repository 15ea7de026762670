# SPDX-License-Identifier: Apache-2.0
"""A token is remembered until half of its life is over, and given until its end while the issuer is away."""

from dataclasses import replace
from datetime import timedelta
from types import SimpleNamespace

import pytest

from attestor import jwt
from attestor.cache import Cache
from attestor.errors import (
    IssuerUnavailableError,
    IssuerUntrustedError,
    MustReattestError,
    NodeAttestationError,
    NodeBannedError,
)
from attestor.jwt import JwtCache
from spiffekit.bundle import JwtAuthority
from spiffekit.errors import AudienceError
from tests.attestor.factory import entry
from tests.fakes.clock import FakeClock
from tests.fakes.issuer import FakeIssuer

LIFE = timedelta(minutes=5)  # of the fake issuer's tokens
SECOND = timedelta(seconds=1)
AWAY = IssuerUnavailableError("away")


class World:
    def __init__(self):
        self.clock = FakeClock()
        self.issuer = FakeIssuer(self.clock)
        self.entry = entry("e1", hint="internal")
        self.issuer.grant(self.entry)
        self.client = self.issuer.client(self.issuer.node())
        self.known = Cache(self.issuer.ca.trust_domain)
        self.know()
        self.cache = JwtCache(self.client, self.known, self.clock)

    def know(self, **changes):
        """The bundle of the issuer, with changes."""
        self.known.apply(entries=(), bundles=(replace(self.issuer.bundle, **changes),), snapshot=True)

    async def fetch(self, *audience, entry=None):
        """The token itself."""
        return (await self.cache.fetch(entry or self.entry, audience or ("aud",))).token

    @property
    def asked(self):
        return self.issuer.calls.count("new_jwt_svid")


@pytest.fixture
def world():
    return World()


async def test_a_token_is_for_the_entry_and_its_audience(world):
    svid = await world.cache.fetch(world.entry, ["a", "b"])
    assert svid.spiffe_id == world.entry.spiffe_id
    assert svid.audience == ("a", "b")
    assert svid.hint == "internal"
    assert svid.expires_at == world.clock.now() + LIFE


async def test_a_token_is_given_again_in_the_first_half_of_its_life(world):
    first = await world.fetch()
    await world.clock.advance(LIFE / 2 - SECOND)
    assert await world.fetch() == first
    assert world.asked == 1
    await world.clock.advance(SECOND)
    assert await world.fetch() != first
    assert world.asked == 2


async def test_a_token_is_not_given_for_another_audience(world):
    await world.fetch("a")
    await world.fetch("a", "b")
    await world.fetch("b")
    assert world.asked == 3


async def test_the_order_of_an_audience_does_not_matter(world):
    first = await world.fetch("a", "b")
    assert await world.fetch("b", "a", "b") == first
    svid = await world.cache.fetch(world.entry, ["c", "d", "c"])
    assert svid.audience == ("c", "d")


async def test_a_token_is_not_given_for_another_entry_or_a_changed_one(world):
    other = entry("e2")
    changed = entry("e1", revision=1, path="/moved")
    world.issuer.grant(other)
    assert len({await world.fetch(entry=e) for e in (world.entry, other, changed)}) == 3


async def test_a_token_that_was_given_for_one_process_is_not_given_to_another(world):
    one, two = (SimpleNamespace(instance_uid=uid * 26) for uid in "ab")
    first = (await world.cache.fetch(world.entry, ["aud"], one)).token
    assert (await world.cache.fetch(world.entry, ["aud"], two)).token != first
    assert (await world.cache.fetch(world.entry, ["aud"])).token != first
    assert (await world.cache.fetch(world.entry, ["aud"], one)).token == first
    assert world.issuer.evidence == [one, two, None]


async def test_while_the_issuer_is_away_a_token_is_given_until_it_expires(world):
    first = await world.fetch()
    for error in (AWAY, IssuerUntrustedError("false")):
        world.issuer.error = error
        await world.clock.advance(LIFE / 2 - SECOND)
        assert await world.fetch() == first
    await world.clock.advance(2 * SECOND)
    with pytest.raises(IssuerUntrustedError):
        await world.fetch()
    world.issuer.error = None
    assert await world.fetch() != first


async def test_while_the_issuer_is_away_there_is_no_new_token(world):
    world.issuer.error = AWAY
    with pytest.raises(IssuerUnavailableError):
        await world.fetch()


def tainted(world):
    return tuple(replace(authority, tainted=True) for authority in world.issuer.bundle.jwt_authorities)


def withdrawn(_world):
    return ()


@pytest.mark.parametrize("authorities", [tainted, withdrawn])
async def test_a_token_of_an_authority_that_lost_our_trust_is_not_given_again(world, authorities):
    """Whether or not the issuer can be asked for another one."""
    first = await world.fetch()
    world.know(jwt_authorities=authorities(world))
    world.issuer.error = AWAY
    with pytest.raises(IssuerUnavailableError):
        await world.fetch()
    world.issuer.error = None
    world.know()
    assert await world.fetch() != first
    assert world.asked == 3


async def test_a_token_is_not_given_again_while_no_bundle_is_known(world):
    first = await world.fetch()
    world.known.apply(entries=(), snapshot=True)
    assert await world.fetch() != first


async def test_tokens_of_other_authorities_are_given_again(world):
    first = await world.fetch()
    other = JwtAuthority("other", world.issuer.bundle.jwt_authorities[0].public_key_der, tainted=True)
    world.know(jwt_authorities=(other, *world.issuer.bundle.jwt_authorities))
    assert await world.fetch() == first


@pytest.mark.parametrize("kind", [NodeBannedError, NodeAttestationError, MustReattestError])
async def test_what_the_issuer_refuses_is_not_given_from_memory(world, kind):
    await world.fetch()
    await world.clock.advance(LIFE / 2)
    world.issuer.error = kind("no")
    with pytest.raises(kind):
        await world.fetch()


async def test_a_token_with_a_jti_is_never_given_twice(world):
    once = entry("once", jwt_svid_include_jti=True)
    world.issuer.grant(once)
    tokens = [await world.fetch(entry=once) for _ in range(3)]
    assert len(set(tokens)) == 3
    world.issuer.error = AWAY
    with pytest.raises(IssuerUnavailableError):
        await world.fetch(entry=once)


async def test_a_token_that_was_remembered_is_not_given_once_its_entry_asks_for_a_jti(world):
    first = await world.fetch()
    once = entry("e1", jwt_svid_include_jti=True)
    world.issuer.grant(once)
    assert await world.fetch(entry=once) != first
    world.issuer.error = AWAY
    with pytest.raises(IssuerUnavailableError):
        await world.fetch(entry=once)


@pytest.mark.parametrize("token", ["", "a.b.c", "no token"])
async def test_a_malformed_token_is_not_given(world, token):
    async def answer(*_):
        return token

    world.client.new_jwt_svid = answer
    with pytest.raises(IssuerUnavailableError, match=r"^issuer's JWT-SVID cannot be used: "):
        await world.fetch()


async def test_a_token_for_somebody_else_is_not_given(world):
    ask = world.client.new_jwt_svid

    async def answer(entry_id, *_):
        return await ask(entry_id, ["somebody else"])

    world.client.new_jwt_svid = answer
    with pytest.raises(IssuerUnavailableError) as caught:
        await world.fetch()
    assert isinstance(caught.value.__cause__, AudienceError)


async def test_a_malformed_token_does_not_take_the_place_of_a_good_one(world):
    async def answer(*_):
        return "no token"

    first = await world.fetch()
    await world.clock.advance(LIFE / 2)
    world.client.new_jwt_svid = answer
    with pytest.raises(IssuerUnavailableError):
        await world.fetch()
    del world.client.new_jwt_svid
    world.issuer.error = AWAY
    assert await world.fetch() == first


async def test_after_the_clock_was_set_back_another_token_is_asked_for(world):
    """By that clock its end is far away, and by the issuer's it may be over."""
    first = await world.fetch()
    world.clock.step(-timedelta(hours=1))
    assert await world.fetch() != first


async def test_a_token_without_an_issue_time_is_asked_for_each_time(world):
    async def answer(_entry_id, audience, _evidence):
        world.issuer.calls.append("new_jwt_svid")
        return world.issuer.ca.jwt(str(world.entry.spiffe_id), audience, claims={"iat": None})

    world.client.new_jwt_svid = answer
    await world.fetch()
    await world.fetch()
    assert world.asked == 2


async def test_what_was_used_last_is_remembered(world, monkeypatch):
    monkeypatch.setattr(jwt, "MAX_CACHED", 2)
    await world.fetch("a")
    await world.fetch("b")
    await world.fetch("a")
    await world.fetch("c")
    assert world.asked == 3
    await world.fetch("a")
    await world.fetch("c")
    assert world.asked == 3
    await world.fetch("b")
    assert world.asked == 4

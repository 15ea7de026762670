# SPDX-License-Identifier: Apache-2.0
"""What streams say: the whole state at once, again when it changes, and nothing else."""

import json
from dataclasses import replace
from datetime import timedelta

import grpc
import pytest

from spiffekit.bundle import Bundle
from spiffekit.x509svid import X509Svid
from tests.attestor.endpoints.conftest import until
from tests.attestor.endpoints.world import BUNDLES, STREAMS, ended, ids, read
from tests.attestor.factory import entry

Code = grpc.StatusCode
DENIED = (Code.PERMISSION_DENIED, "no identity issued")
OWN, OTHER = "spiffe://example.org", "spiffe://other.org"


def bundles(message):
    """The bundles of any stream's message, by name."""
    return dict(message.bundles) if hasattr(message, "bundles") else dict(message.federated_bundles)


def federated(entry_id="web", **fields):
    return entry(entry_id, federates_with=["other.org"], **fields)


@pytest.mark.requirement("WLAPI-10", "WLAPI-18", "WLAPI-19", "WLAPI-21", "WLAPI-23")
async def test_the_first_message_comes_at_once_and_every_field_of_it_is_set(world):
    world.grant(entry("web", hint="internal"), entry("db", created=1))
    async with world.serving() as client:
        message = await client.first()
    assert ids(message) == [f"{OWN}/web", f"{OWN}/db"]
    for said, known in zip(message.svids, world.cache.entries.values(), strict=True):
        svid = X509Svid.parse(said.x509_svid, said.x509_svid_key)  # leaf first, PKCS#8
        assert svid == replace(world.cache.svid(known), hint="")
        assert str(svid.spiffe_id) == said.spiffe_id
        assert said.bundle == world.ca.bundle.x509_der()
        assert said.hint == known.hint


@pytest.mark.requirement("WLAPI-10")
@pytest.mark.parametrize("name", STREAMS)
async def test_each_stream_has_a_first_message_of_its_own(world, name):
    world.grant(entry("web"))
    async with world.serving() as client:
        streams = [client.stream(name) for _ in range(3)]
        first, *others = [await read(stream) for stream in streams]
        assert others == [first, first]


@pytest.mark.requirement("WLAPI-08", "WLAPI-09")
async def test_when_one_svid_rotates_the_message_has_all_of_them_and_the_bundles(world):
    web, db = federated("web"), entry("db", created=1)
    world.grant(web, db, bundles=[world.other.bundle])
    async with world.serving() as client:
        stream = client.stream()
        first = await read(stream)
        world.issue(db)
        second = await read(stream)
    assert ids(second) == ids(first) == [f"{OWN}/web", f"{OWN}/db"]
    assert second.svids[0] == first.svids[0]
    assert second.svids[1].x509_svid != first.svids[1].x509_svid
    assert bundles(second) == bundles(first) == {OTHER: world.other.bundle.x509_der()}


def rotate(world):
    world.issue(world.cache.entries["web"])


def federate(world):
    world.cache.apply(entries=(), bundles=[world.other.bundle])


def publish(world):
    """Another authority of ours, of both kinds."""
    ca = type(world.ca)("example.org", now=world.clock.now())
    ca.key_id = "another"
    both = Bundle(
        world.ca.trust_domain,
        world.ca.bundle.x509_authorities + ca.bundle.x509_authorities,
        world.ca.bundle.jwt_authorities + ca.bundle.jwt_authorities,
    )
    world.cache.apply(entries=(), bundles=[both])


def stir(world):
    """A change, but not of what this caller is told."""
    world.grant(entry("somebody-else", "unix:uid:2"))
    world.cache.notify()


CHANGES = [
    ("FetchX509SVID", rotate),
    *((name, change) for name in STREAMS for change in (federate, publish)),
]


@pytest.mark.requirement("WLAPI-09")
@pytest.mark.parametrize(("name", "change"), CHANGES, ids=lambda part: getattr(part, "__name__", part))
async def test_a_change_of_the_answer_is_one_message_and_no_change_is_none(world, name, change):
    world.grant(federated())
    async with world.serving() as client:
        stream = client.stream(name)
        first = await read(stream)
        stir(world)
        change(world)
        second = await read(stream)
        stir(world)
        world.remove("web")
        assert await ended(stream) == DENIED
    assert second != first


@pytest.mark.requirement("WLAPI-06")
@pytest.mark.parametrize("name", STREAMS)
async def test_a_stream_in_which_nothing_happens_stays_open(world, name):
    world.grant(federated())
    async with world.serving() as client:
        stream = client.stream(name)
        await read(stream)
        await world.clock.advance(timedelta(days=1))
        federate(world)
        assert OTHER in bundles(await read(stream))


@pytest.mark.requirement("WLAPI-09")
@pytest.mark.parametrize("name", BUNDLES)
async def test_streams_of_bundles_say_nothing_of_svids(world, name):
    world.grant(federated())
    async with world.serving() as client:
        stream = client.stream(name)
        await read(stream)
        rotate(world)
        federate(world)
        assert set(bundles(await read(stream))) == {OWN, OTHER}


@pytest.mark.requirement("WLAPI-29", "WLAPI-41", "WLAPI-42")
async def test_our_own_bundle_is_always_there_and_has_what_the_method_is_for(world):
    world.grant(entry("web"))
    async with world.serving() as client:
        x509 = bundles(await client.first("FetchX509Bundles"))
        jwt = bundles(await client.first("FetchJWTBundles"))
    assert x509 == {OWN: world.ca.bundle.x509_der()}
    (key,) = json.loads(jwt[OWN])["keys"]
    assert (set(jwt), key["kid"], key.get("use", "jwt-svid")) == ({OWN}, "test-key", "jwt-svid")
    assert "x5c" not in key


@pytest.mark.requirement("WLAPI-41")
async def test_a_trust_domain_without_keys_of_a_kind_is_empty_for_jwt_and_absent_for_x509(world):
    """A client of the field dies of an empty X.509 bundle, and would miss an absent JWT bundle."""
    jwt_only = replace(world.other.bundle, x509_authorities=())
    x509_only = replace(world.ca.bundle, jwt_authorities=())
    world.grant(federated(), bundles=[jwt_only, x509_only])
    async with world.serving() as client:
        assert bundles(await client.first()) == {}
        assert set(bundles(await client.first("FetchX509Bundles"))) == {OWN}
        jwt = bundles(await client.first("FetchJWTBundles"))
    assert json.loads(jwt[OWN]) == {"keys": []}
    assert len(json.loads(jwt[OTHER])["keys"]) == 1


@pytest.mark.parametrize("name", STREAMS)
async def test_only_who_federates_is_told_of_another_trust_domain_and_only_as_long(world, name):
    world.grant(federated(), entry("db", "unix:uid:2"), bundles=[world.other.bundle])
    own = set() if name == "FetchX509SVID" else {OWN}
    async with world.serving() as client:
        stream = client.stream(name)
        assert set(bundles(await read(stream))) == own | {OTHER}
        world.unix.say("uid:2")  # for who calls from now on
        assert set(bundles(await client.first(name))) == own
        world.cache.apply(entries=(), removed_bundles=[world.other.trust_domain])
        assert set(bundles(await read(stream))) == own


@pytest.mark.requirement("WEP-22", "WLAPI-25", "WLAPI-30", "WLAPI-43")
@pytest.mark.parametrize("name", STREAMS)
async def test_a_stream_lasts_until_the_last_entry_goes(world, name):
    world.grant(federated("web"), entry("db", created=1), bundles=[world.other.bundle])
    async with world.serving() as client:
        stream = client.stream(name)
        await read(stream)
        world.remove("web")
        second = await read(stream)
        assert OTHER not in bundles(second)
        if name == "FetchX509SVID":
            assert ids(second) == [f"{OWN}/db"]
        world.remove("db")
        assert await ended(stream) == DENIED


@pytest.mark.requirement("WLAPI-23", "WLAPI-67")
async def test_of_entries_with_one_hint_the_oldest_is_served_until_it_goes(world):
    world.grant(
        entry("young", hint="h", created=2), entry("old", hint="h", created=1), entry("plain", created=3)
    )
    async with world.serving() as client:
        stream = client.stream()
        assert ids(await read(stream)) == [f"{OWN}/old", f"{OWN}/plain"]
        world.remove("old")
        assert ids(await read(stream)) == [f"{OWN}/young", f"{OWN}/plain"]


async def test_a_hint_that_changes_is_told(world):
    """What has been rendered for an entry is not served when the entry is another."""
    world.grant(entry("web", hint="one"))
    async with world.serving() as client:
        stream = client.stream()
        assert (await read(stream)).svids[0].hint == "one"
        world.grant(entry("web", hint="two"))
        assert (await read(stream)).svids[0].hint == "two"
        assert (await client.first()).svids[0].hint == "two"


async def test_callers_with_the_same_entries_share_an_answer_and_others_do_not(world):
    world.grant(entry("web"), entry("db", "unix:uid:2"))
    async with world.serving() as client:
        kept = [client.stream(), client.stream()]
        first = [await read(stream) for stream in kept]
        assert len(world.api._rendered) == 1
        world.unix.say("uid:2")
        assert ids(await client.first()) == [f"{OWN}/db"]
        world.unix.say("uid:1", "uid:2")
        assert sorted(ids(await client.first())) == [f"{OWN}/db", f"{OWN}/web"]
        world.unix.say("uid:1")
        assert await client.first("FetchJWTBundles")
        assert len(world.api._rendered) == 4
        await until(lambda: world.streams == len(kept))
        rotate(world)
        assert [await read(stream) for stream in kept] != first
        assert len(world.api._rendered) == 1  # nothing of before is kept


async def test_nothing_is_told_until_there_is_an_svid_and_then_at_once(world):
    world.register(entry("web"))
    async with world.serving() as client:
        stream = client.stream()
        for name in BUNDLES:
            assert await client.first(name), "bundles wait for no SVID"
        rotate(world)
        assert ids(await read(stream)) == [f"{OWN}/web"]


async def test_an_identity_that_changes_is_not_missing_until_its_new_svid_comes(world):
    """A message without it would make the client drop it."""
    world.grant(entry("web"), entry("db", created=1))
    async with world.serving() as client:
        stream = client.stream()
        await read(stream)
        world.register(entry("web", path="/moved", revision=1))
        world.issue(world.cache.entries["db"])
        world.issue(world.cache.entries["web"])
        assert ids(await read(stream)) == [f"{OWN}/moved", f"{OWN}/db"]


async def test_an_entry_that_the_issuer_refuses_keeps_no_other_from_being_renewed(world):
    world.grant(entry("web"))
    async with world.serving() as client:
        stream = client.stream()
        first = await read(stream)
        bad = entry("bad", created=-1)
        world.register(bad)
        world.cache.put_svids({}, refused=[bad])
        rotate(world)
        second = await read(stream)
        assert ids(second) == [f"{OWN}/web"]
        assert second.svids[0].x509_svid != first.svids[0].x509_svid
        world.issue(bad)
        assert ids(await read(stream)) == [f"{OWN}/bad", f"{OWN}/web"]


async def test_an_answer_is_never_empty_though_the_issuer_refuses_everything(world):
    only = entry("only")
    world.register(only)
    world.cache.put_svids({}, refused=[only])
    async with world.serving() as client:
        stream = client.stream()
        assert await client.first("FetchX509Bundles")
        world.issue(only)
        assert ids(await read(stream)) == [f"{OWN}/only"]

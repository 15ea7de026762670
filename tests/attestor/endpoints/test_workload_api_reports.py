# SPDX-License-Identifier: Apache-2.0
"""Whatever a process is handed or refused is told for the audit trail, and nothing that it was not."""

import os
from datetime import timedelta

import pytest

from attestor.errors import IssuerUnavailableError
from spiffekit.jwtsvid import JwtSvid
from spiffekit.witsvid import WitSvid
from tests.attestor.endpoints.conftest import until
from tests.attestor.endpoints.world import DB, SERVED, read
from tests.attestor.factory import entry

ME = (os.getpid(), os.getuid())
WEB = entry("web")
OWN = entry("own", needs_evidence=True)


def told(world):
    return world.spool.first(1000)


def fetched(world):
    return [event.fetched for event in told(world) if event.HasField("fetched")]


async def test_an_x509_svid_is_told_when_it_is_handed_out_and_when_it_is_renewed(world):
    world.grant(WEB)
    async with world.serving() as client:
        stream = client.stream()
        await read(stream)
        (first,) = told(world)
        assert (first.process.pid, first.process.uid) == ME
        assert (first.fetched.entry_id, first.fetched.instance_uid) == ("web", "")
        (identity,) = world.cache.update(WEB.selectors).identities
        assert first.fetched.serial == str(identity.svid.serial_number)
        world.issue(WEB)
        await read(stream)
        assert len({one.serial for one in fetched(world)}) == 2
        await client.first()
        assert len(told(world)) == 2, "the same one again"


async def test_of_svids_of_one_process_alone_the_instance_is_told(world):
    world.register(OWN)
    async with world.serving() as client:
        await client.first()
        (instance,) = world.instances._instances.values()
        (one,) = fetched(world)
        assert (one.kind, one.instance_uid, one.entry_id) == ("x509-svid", instance.uid, "own")


@pytest.mark.parametrize("needs_evidence", [False, True])
async def test_a_jwt_svid_is_told_with_its_audience(world, needs_evidence):
    world.grant(entry("web", needs_evidence=needs_evidence, jwt_svid_include_jti=True))
    async with world.serving() as client:
        answer = await client.answer("FetchJWTSVID", **DB)
        token = JwtSvid.parse_unverified(answer.svids[0].svid)
        (one,) = fetched(world)
        assert (one.kind, one.jti, list(one.audience)) == ("jwt-svid", token.claims["jti"], ["db"])
        assert bool(one.instance_uid) == needs_evidence


async def test_a_wit_svid_is_told_with_its_key_or_with_a_proof_only(make_world):
    world = make_world(export=True)
    world.grant(OWN, bundles=(world.ca.wit_bundle,))
    async with world.serving() as client:
        presentation = await client.sign()
        await client.sign()
        wit = WitSvid.parse_unverified(presentation.token)
        (one,) = fetched(world)
        assert (one.kind, one.jti, one.entry_id) == ("wit-svid", wit.claims["jti"], "own")
        await client.answer("FetchWITSVID")
        assert len(fetched(world)) == 1, "it is the same one"


async def test_bundles_are_nobodys_secret(world):
    world.grant(WEB)
    async with world.serving() as client:
        await client.first("FetchX509Bundles")
        await client.first("FetchJWTBundles")
        assert told(world) == []


@pytest.mark.parametrize("name", SERVED)
async def test_whoever_is_refused_is_told_by_the_number_that_it_was_given(world, name):
    async with world.serving() as client:
        await client.refusal(name, **SERVED[name])
        (event,) = told(world)
        (refusal,) = world.refusals._by_id.values()
        assert (event.process.pid, event.process.uid) == ME
        assert (event.refused.reason, event.refused.call) == ("no_identity", refusal.id)


async def test_a_token_that_the_issuer_does_not_give_is_a_refusal(world):
    world.grant(WEB)
    world.issuer.error = IssuerUnavailableError("down")
    async with world.serving() as client:
        await client.refusal("FetchJWTSVID", **DB)
        (event,) = told(world)
        assert (event.refused.reason, event.WhichOneof("what")) == ("not_ready", "refused")


async def test_a_bad_request_is_none(world):
    world.grant(WEB)
    async with world.serving() as client:
        await client.refusal("FetchJWTSVID", audience=[])
        await client.refusal("FetchX509SVID", metadata=())
        assert told(world) == []


async def test_who_loses_an_identity_by_what_it_becomes_is_told(world):
    world.grant(entry("one"), entry("two", "unix:uid:2", created=1))
    async with world.serving() as client:
        stream = client.stream()
        await read(stream)
        world.unix.say("uid:2")
        world.issue(*world.cache.entries.values())
        await read(stream)
        changed = next(event for event in told(world) if event.HasField("posture_changed"))
        assert (changed.process.pid, list(changed.posture_changed.entry_ids)) == (os.getpid(), ["one"])
        assert [one.entry_id for one in fetched(world)] == ["one", "two"]


async def test_an_identity_that_ends_on_an_open_stream_is_a_refusal(world):
    world.grant(WEB)
    async with world.serving() as client:
        stream = client.stream()
        await read(stream)
        world.remove("web")
        await until(lambda: len(told(world)) == 2)
        assert told(world)[1].refused.reason == "no_identity"
        stream.cancel()


async def test_no_key_or_token_is_told(make_world):
    world = make_world(export=True)
    world.grant(WEB, entry("own", needs_evidence=True, created=1, jwt_svid_include_jti=True))
    async with world.serving() as client:
        x509 = await client.first()
        jwt = await client.answer("FetchJWTSVID", **DB)
        wit = await client.answer("FetchWITSVID")
        await world.clock.advance(timedelta(seconds=1))
    said = b"".join(event.SerializeToString() for event in told(world))
    secrets = [
        *(svid.x509_svid_key for svid in x509.svids),
        *(svid.svid.encode() for svid in jwt.svids),
        *(svid.wit_svid.encode() for svid in wit.svids),
        *(svid.wit_svid_key.encode() for svid in wit.svids),
    ]
    assert len(secrets) >= 6
    assert len(fetched(world)) >= 4
    assert not [secret for secret in secrets if secret in said]

# SPDX-License-Identifier: Apache-2.0
"""What is taken back is taken from workloads at once, and told to all the others."""

from datetime import timedelta

import grpc
import pytest

from attestor.instances import REFUSED_FOR
from attestor.rotation import Rotation
from spiffekit.id import SpiffeId
from spiffekit.template import Template
from spiffekit.testing import TestCA
from spiffekit.x509svid import X509Svid
from tests.attestor.endpoints.conftest import until
from tests.attestor.endpoints.world import BUNDLES, DB, STREAMS, ended, ids, read
from tests.attestor.factory import entry

Code = grpc.StatusCode
DENIED = (Code.PERMISSION_DENIED, "no identity issued")
OWN = "spiffe://example.org"
AGENT, ANN = SpiffeId.parse(f"{OWN}/agent"), SpiffeId.parse(f"{OWN}/user/ann")
WITH_LISTS = ("FetchX509SVID", "FetchX509Bundles")
SUSPENDED, RETIRED = "suspended", "retired"


def only(spiffe_id):
    return frozenset([spiffe_id])


def svid(message, index=0):
    return X509Svid.parse(message.svids[index].x509_svid, message.svids[index].x509_svid_key)


@pytest.mark.requirement("WLAPI-09", "WLAPI-12", "WLAPI-22")
@pytest.mark.parametrize("name", WITH_LISTS)
async def test_revocation_lists_are_told_once_for_each_change_and_gone_with_the_last(world, name):
    world.grant(entry("web"))
    async with world.serving() as client:
        stream = client.stream(name)
        first = await read(stream)
        assert list(first.crl) == []
        crl = world.ca.crl(7)
        world.take_back(crls=[crl])
        assert list((await read(stream)).crl) == [crl]
        world.take_back(crls=[world.ca.crl(7, number=2)])  # signed anew, and says the same
        newer = world.ca.crl(7, 8, number=3)
        world.take_back(crls=[newer])
        assert list((await read(stream)).crl) == [newer], "exactly one message for each change"
        world.take_back()
        assert await read(stream) == first
        assert list((await client.first(name)).crl) == []


@pytest.mark.requirement("WLAPI-09")
async def test_streams_of_jwt_bundles_say_nothing_of_revocation_lists(world):
    world.grant(entry("web"))
    async with world.serving() as client:
        stream = client.stream("FetchJWTBundles")
        await read(stream)
        world.take_back(crls=[world.ca.crl(7)])
        await until(lambda: world.idle)
        world.remove("web")
        assert await ended(stream) == DENIED


async def test_a_list_of_another_authority_is_not_handed_on(world):
    world.grant(entry("web"))
    async with world.serving() as client:
        world.take_back(crls=[TestCA("example.org", now=world.clock.now()).crl(7), world.other.crl(8)])
        assert list((await client.first()).crl) == []
    assert world.revocations.refused == 2


async def test_processes_with_keys_of_their_own_are_told_of_lists_as_well(world):
    world.register(entry("agent", needs_evidence=True))
    crl = world.ca.crl(7)
    async with world.serving() as client:
        stream = client.stream()
        first = await read(stream)
        world.take_back(crls=[crl])
        second = await read(stream)
        assert list(second.crl) == [crl]
        assert second.svids == first.svids


@pytest.mark.parametrize("what", [SUSPENDED, RETIRED])
@pytest.mark.parametrize("per_process", [False, True], ids=["shared", "per-process"])
@pytest.mark.parametrize("name", STREAMS)
async def test_who_has_nothing_else_is_cut_off(world, what, per_process, name):
    world.grant(entry("agent", needs_evidence=per_process))
    async with world.serving() as client:
        stream = client.stream(name)
        await read(stream)
        world.take_back(**{what: only(AGENT)})
        assert await ended(stream) == DENIED
        for method in STREAMS:
            assert await client.refusal(method) == DENIED
        assert await client.refusal("FetchJWTSVID", **DB) == DENIED
    assert not world.cache._svids
    assert [instance.held for instance in world.instances._instances.values()] == []


async def test_keys_are_dropped_even_if_no_stream_is_open(world):
    world.register(entry("agent", needs_evidence=True))
    async with world.serving() as client:
        await client.first()
        (instance,) = world.instances._instances.values()
        assert instance.held
        world.take_back(suspended=only(AGENT))
        assert not instance.held


async def test_who_has_something_else_keeps_that(world):
    world.grant(entry("agent"), entry("web", created=1))
    async with world.serving() as client:
        streams = {name: client.stream(name) for name in STREAMS}
        for stream in streams.values():
            await read(stream)
        world.take_back(retired=only(AGENT))
        assert ids(await read(streams["FetchX509SVID"])) == [f"{OWN}/web"]
        assert ids(await client.answer("FetchJWTSVID", **DB)) == [f"{OWN}/web"]
        for name in BUNDLES:
            assert await client.first(name)


async def test_what_a_template_makes_of_a_process_is_taken_back_and_no_other_process_is(world):
    template = Template.parse("spiffe://example.org/user/{unix:user}")
    world.register(entry("users", "unix:gid:1", path="/user", template=template, needs_evidence=True))
    async with world.serving() as client:
        world.unix.say("gid:1", "user:ann")
        stream = client.stream()
        assert ids(await read(stream)) == [str(ANN)]
        world.take_back(suspended=only(ANN))
        assert await ended(stream) == DENIED
        world.unix.say("gid:1", "user:bob")
        assert ids(await client.first()) == [f"{OWN}/user/bob"]


async def test_an_agent_that_is_resumed_gets_its_identity_again_with_another_key(world):
    world.grant(entry("agent"))
    rotation = Rotation(world.issuer.client(world.issuer.node("n2")), world.cache, clock=world.clock)
    async with world.serving() as client:
        before = svid(await client.first())
        world.take_back(suspended=only(AGENT))
        await rotation.rotate()
        assert world.issuer.batches == [], "nobody asks for what is not to be had"
        world.take_back()
        await rotation.rotate()
        assert svid(await client.first()).private_key_der != before.private_key_der


async def test_a_serial_that_is_revoked_is_replaced_at_once(world):
    world.grant(entry("agent"))
    rotation = Rotation(world.issuer.client(world.issuer.node("n2")), world.cache, clock=world.clock)
    async with world.serving() as client:
        stream = client.stream()
        before = svid(await read(stream))
        world.take_back(serials=frozenset([before.serial_number]))
        waiting = client.stream()  # is not handed the old one, and not refused either
        await until(lambda: world.idle)
        await rotation.rotate()
        after = svid(await read(stream))
        assert after.serial_number != before.serial_number
        assert after.private_key_der != before.private_key_der
        assert svid(await read(waiting)) == after


async def test_a_serial_on_a_list_alone_is_replaced_as_well(world):
    world.grant(entry("agent"))
    revoked = world.cache.svid(world.cache.entries["agent"]).serial_number
    world.take_back(crls=[world.ca.crl(revoked)])
    assert not world.cache._svids


async def test_an_svid_of_one_process_that_is_revoked_is_replaced_at_once(world):
    world.register(entry("agent", needs_evidence=True))
    async with world.serving() as client:
        stream = client.stream()
        before = svid(await read(stream))
        world.take_back(serials=frozenset([before.serial_number]))
        after = svid(await read(stream))
        assert after.serial_number != before.serial_number
        assert after.private_key_der != before.private_key_der


async def test_what_was_issued_before_an_instant_is_replaced_and_what_comes_after_is_good(world):
    world.register(entry("agent", needs_evidence=True))
    async with world.serving() as client:
        stream = client.stream()
        before = svid(await read(stream))
        await world.clock.advance(timedelta(seconds=5))
        world.take_back(not_before={AGENT: world.clock.now()})
        after = svid(await read(stream))
        assert after.serial_number != before.serial_number


async def test_an_svid_that_is_taken_back_while_it_is_under_way_is_not_handed_out(world):
    """So is what an issuer signs whose clock is behind: it is asked again later, not without end."""
    world.register(entry("agent", needs_evidence=True), entry("shared", created=1))
    rotation = Rotation(world.issuer.client(world.issuer.node("n2")), world.cache, clock=world.clock)
    later = world.clock.now() + timedelta(seconds=REFUSED_FOR)
    world.take_back(not_before={AGENT: later, SpiffeId.parse(f"{OWN}/shared"): later})
    async with world.serving() as client:
        await rotation.rotate()
        assert not world.cache._svids
        stream = client.stream()
        await until(lambda: world.clock.sleeping)
        await rotation.rotate()
        assert world.issuer.batches == [["shared"], ["agent"]]
        await world.clock.advance(timedelta(seconds=2 * REFUSED_FOR))
        await rotation.rotate()
        found = []
        while len(found) < 2:
            found = ids(await read(stream))
        assert found == [f"{OWN}/agent", f"{OWN}/shared"]


async def test_a_token_that_is_taken_back_is_not_handed_out_again(world):
    world.grant(entry("agent"))
    async with world.serving() as client:
        first = await client.answer("FetchJWTSVID", **DB)
        assert await client.answer("FetchJWTSVID", **DB) == first
        await world.clock.advance(timedelta(seconds=1))
        world.take_back(not_before={AGENT: world.clock.now()})
        again = await client.answer("FetchJWTSVID", **DB)
        assert again != first
        assert await client.answer("FetchJWTSVID", **DB) == again


@pytest.mark.parametrize("what", [SUSPENDED, RETIRED])
async def test_tokens_of_who_is_ended_are_no_longer_valid(world, what):
    world.grant(entry("web"))
    token = world.ca.jwt(str(AGENT), ["db"])
    async with world.serving() as client:
        asked = {"audience": "db", "svid": token}
        assert (await client.answer("ValidateJWTSVID", **asked)).spiffe_id == str(AGENT)
        world.take_back(**{what: only(AGENT)})
        assert await client.refusal("ValidateJWTSVID", **asked) == (
            Code.INVALID_ARGUMENT,
            f"{AGENT} is {what}",
        )


async def test_a_token_whose_number_is_taken_back_is_no_longer_valid(world):
    world.grant(entry("web", federates_with=["other.org"]), bundles=[world.other.bundle])
    bad, good = (world.ca.jwt(str(AGENT), ["db"], claims={"jti": name}) for name in "jk")
    theirs = world.other.jwt("spiffe://other.org/x", ["db"], claims={"jti": "j"})
    world.take_back(jtis=frozenset(["j"]))
    async with world.serving() as client:
        refusal = await client.refusal("ValidateJWTSVID", audience="db", svid=bad)
        assert refusal == (Code.INVALID_ARGUMENT, f"token 'j' of {AGENT} is revoked")
        for token in (good, theirs):
            assert await client.answer("ValidateJWTSVID", audience="db", svid=token)


async def test_revocations_of_others_are_no_message(world):
    world.grant(entry("agent"))
    async with world.serving() as client:
        stream = client.stream()
        await read(stream)
        world.take_back(suspended=only(ANN), jtis=frozenset(["j"]))
        await until(lambda: world.idle)
        world.remove("agent")
        assert await ended(stream) == DENIED

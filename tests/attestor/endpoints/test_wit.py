# SPDX-License-Identifier: Apache-2.0
"""WIT-SVIDs with their keys and their bundles on the public socket, behind the real listener."""

import json
from datetime import timedelta

import grpc
import pytest

from spiffekit.bundle import Bundle
from spiffekit.jwk import Element
from spiffekit.witsvid import Presentation, WitSvid, make_proof
from tests.attacks.processes import children
from tests.attestor.endpoints.conftest import until
from tests.attestor.endpoints.http2 import PASS_ON, Stream, connection_of
from tests.attestor.endpoints.test_signer import DENIED, TOOL, agent, judge, make_agent
from tests.attestor.endpoints.world import ended, ids, read
from tests.attestor.factory import entry

__all__ = ["agent", "children", "make_agent"]

Code = grpc.StatusCode
MINUTE = timedelta(minutes=1)


@pytest.fixture
def exporting(make_agent):
    """A node that hands out keys."""
    return make_agent(export=True)


def key_of(svid):
    return Element(0, json.loads(svid.wit_svid_key)).private_key()


@pytest.mark.requirement("WLAPI-52", "WLAPI-03")
async def test_switched_off_every_call_of_the_profile_is_unimplemented(make_agent):
    world = make_agent()
    off = (Code.UNIMPLEMENTED, "the WIT profile is not supported")
    async with world.serving() as client:
        for name in ("FetchWITSVID", "FetchWITBundles"):
            assert await client.refusal(name) == off
        assert (await client.unsigned())[0] is Code.UNIMPLEMENTED


async def test_keys_are_not_handed_out_unless_configured(agent):
    kept = (Code.PERMISSION_DENIED, "keys are not handed out; use attestor.v1.Signer")
    async with agent.serving() as client:
        assert await client.refusal("FetchWITSVID") == kept
        assert (await client.first("FetchWITBundles")).bundles
        agent.unix.say("uid:2")
        assert await client.refusal("FetchWITSVID") == DENIED
    assert agent.issuer.evidence == []


@pytest.mark.requirement("WLAPI-55", "WLAPI-56", "WLAPI-57")
async def test_the_standards_call_hands_out_svids_with_their_key(make_agent):
    world = make_agent(entry("one", hint="in"), entry("two", created=1, hint="out"), export=True)
    async with world.serving() as client:
        answer = await client.first("FetchWITSVID")
        assert ids(answer) == ["spiffe://example.org/one", "spiffe://example.org/two"]
        assert [svid.hint for svid in answer.svids] == ["in", "out"]
        for svid in answer.svids:
            parsed = WitSvid.parse_unverified(svid.wit_svid)
            assert str(parsed.spiffe_id) == svid.spiffe_id
            proof = make_proof(parsed, key_of(svid), TOOL, now=world.clock.now())
            assert judge(world, Presentation(parsed.token, proof))
        one = await client.first("FetchWITSVID", spiffe_id="spiffe://example.org/two")
        assert ids(one) == ["spiffe://example.org/two"]


@pytest.mark.requirement("WLAPI-59")
async def test_who_is_not_granted_an_identity_gets_no_wit_svid(exporting):
    async with exporting.serving() as client:
        assert await client.refusal("FetchWITSVID", spiffe_id="spiffe://example.org/other") == DENIED
        assert (await client.refusal("FetchWITSVID", spiffe_id="x"))[0] is Code.INVALID_ARGUMENT
        exporting.issuer.refused.add("agent")
        assert await client.refusal("FetchWITSVID") == DENIED
        exporting.unix.say("uid:2")
        assert await client.refusal("FetchWITSVID") == DENIED


async def test_an_issuer_that_signs_none_is_told_by_name(exporting):
    exporting.issuer.signs_wit = False
    said = (Code.UNAVAILABLE, "the issuer signs no WIT-SVIDs")
    async with exporting.serving() as client:
        assert await client.unsigned() == said
        assert await client.refusal("FetchWITSVID") == said
        assert (await client.first("FetchWITBundles")).bundles


async def test_another_process_gets_another_key(exporting, children, folder):
    """Nobody is answered for another process: who calls is what the kernel says."""
    async with exporting.serving() as client:
        ours = (await client.first("FetchWITSVID")).svids[0]
        with connection_of(children, exporting.path, folder, PASS_ON) as (_, connection):
            stream = Stream(connection, "FetchWITSVID")
            await stream.open()
            theirs = (await stream.message()).svids[0]
        assert ours.spiffe_id == theirs.spiffe_id
        assert ours.wit_svid_key != theirs.wit_svid_key
        assert len({evidence.instance_uid for evidence in exporting.issuer.evidence}) == 2


async def test_keys_are_gone_with_the_process(exporting, children, folder):
    async with exporting.serving() as client:
        await client.sign()
        with connection_of(children, exporting.path, folder, PASS_ON) as (child, connection):
            stream = Stream(connection, "FetchWITSVID")
            await stream.open()
            await stream.message()
            (_, theirs) = exporting.instances._instances.values()
            assert theirs.key is not None
            child.kill()
            await until(lambda: len(exporting.instances) == 1)
        assert theirs.key is None


async def test_the_svid_is_renewed_on_the_open_stream_under_the_same_key(exporting):
    async with exporting.serving() as client:
        stream = client.stream("FetchWITSVID")
        first = (await read(stream)).svids[0]
        await until(lambda: exporting.clock.sleeping)
        await exporting.clock.advance(31 * MINUTE)
        second = (await read(stream)).svids[0]
        assert first.wit_svid != second.wit_svid
        assert first.wit_svid_key == second.wit_svid_key


@pytest.mark.requirement("WLAPI-61")
async def test_an_identity_that_is_lost_ends_the_stream(exporting):
    async with exporting.serving() as client:
        stream = client.stream("FetchWITSVID")
        await read(stream)
        exporting.remove("agent")
        assert await ended(stream) == DENIED


async def test_what_a_tainted_authority_signed_is_replaced_at_once(exporting):
    async with exporting.serving() as client:
        stream = client.stream("FetchWITSVID")
        first = (await read(stream)).svids[0]
        exporting.ca.wit_key_id = "another-key"
        exporting.cache.apply(entries=(), bundles=(exporting.ca.wit_bundle,))
        second = (await read(stream)).svids[0]
        assert WitSvid.parse_unverified(first.wit_svid).key_id == "test-wit-key"
        assert WitSvid.parse_unverified(second.wit_svid).key_id == "another-key"


@pytest.mark.requirement("WLAPI-54", "WLAPI-62", "WLAPI-63")
async def test_wit_bundles_have_the_keys_for_wit_svids_and_no_others(agent):
    agent.register(entry("agent", federates_with=["other.org"]), bundles=(agent.other.wit_bundle,))
    async with agent.serving() as client:
        answer = (await client.first("FetchWITBundles")).bundles
        jwt = (await client.first("FetchJWTBundles")).bundles
    assert sorted(answer) == ["spiffe://example.org", "spiffe://other.org"]
    for ca in (agent.ca, agent.other):
        key = f"spiffe://{ca.trust_domain}"
        document = json.loads(answer[key])
        assert [(k["use"], k["kid"]) for k in document["keys"]] == [("wit-svid", "test-wit-key")]
        assert b"wit" not in jwt[key]
        found = Bundle.from_wit_jwks(ca.trust_domain, answer[key].encode())
        assert found.wit_authorities == ca.wit_bundle.wit_authorities


@pytest.mark.requirement("WLAPI-64")
async def test_who_has_no_identity_gets_no_wit_bundles(agent):
    agent.unix.say("uid:2")
    async with agent.serving() as client:
        assert await client.refusal("FetchWITBundles") == DENIED


async def test_a_bundle_that_changes_is_said_again(agent):
    async with agent.serving() as client:
        stream = client.stream("FetchWITBundles")
        await read(stream)
        agent.cache.apply(entries=(), bundles=(agent.ca.bundle,))
        message = await read(stream)
        assert json.loads(message.bundles["spiffe://example.org"]) == {"keys": []}

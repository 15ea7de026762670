# SPDX-License-Identifier: Apache-2.0
"""Proofs of possession on the public socket, behind the real listener, for workloads that hold no key."""

from dataclasses import replace
from datetime import timedelta

import grpc
import pytest

from attestor.errors import IssuerUnavailableError, MustReattestError
from spiffekit.errors import AudienceError, ExpiredError, ReplayedError, UntrustedError
from spiffekit.witsvid import Bound, Replays, WitSvid, hash_of, verify
from tests.attestor.factory import entry

Code = grpc.StatusCode
DENIED = (Code.PERMISSION_DENIED, "no identity issued")
NOT_READY = (Code.UNAVAILABLE, "not ready")
TOOL = "https://tools.example/run"
HOUR, MINUTE, SECOND = timedelta(hours=1), timedelta(minutes=1), timedelta(seconds=1)


@pytest.fixture
def make_agent(make_world):
    """Nodes with one entry, or those given; with `export` they serve the WIT profile."""

    def make(*entries, **options):
        world = make_world(**options)
        world.register(*(entries or (entry("agent", needs_evidence=True),)))
        world.cache.apply(entries=(), bundles=(world.ca.wit_bundle,))
        return world

    return make


@pytest.fixture
def agent(make_agent):
    """A node that proves for workloads and hands out no keys."""
    return make_agent(export=False)


def judge(world, presented, audience=TOOL, replays=None):
    """What a tool server makes of it."""
    now = world.clock.now()
    return verify(presented, world.ca.wit_bundle, audience=[audience], now=now, replays=replays)


def key_of(presented):
    return WitSvid.parse_unverified(presented.token).public_key


@pytest.mark.requirement("WIT-35")
async def test_a_process_proves_who_it_is_without_ever_holding_a_key(agent):
    async with agent.serving() as client:
        svid = judge(agent, await client.sign())
        assert (str(svid.spiffe_id), svid.algorithm) == ("spiffe://example.org/agent", "ES256")
        (instance,) = agent.instances._instances.values()
        assert svid.claims["agent_instance_id"] == instance.uid
        assert agent.issuer.evidence[0].instance_uid == instance.uid


async def test_each_proof_is_for_one_receiver_and_counts_once(agent):
    async with agent.serving() as client:
        first, second = await client.sign(), await client.sign()
    assert first.token == second.token
    assert first.proof != second.proof
    replays = Replays()
    for presented in (first, second):
        assert judge(agent, presented, replays=replays)
        with pytest.raises(ReplayedError):
            judge(agent, presented, replays=replays)
    with pytest.raises(AudienceError):
        judge(agent, first, "https://other.example/run")


async def test_a_proof_is_for_the_other_tokens_of_the_request(agent):
    bound = Bound("access", "transaction", {"grant": "token"})
    async with agent.serving() as client:
        presented = await client.sign(**bound.claims())
    with pytest.raises(UntrustedError, match="proof is for other tokens"):
        judge(agent, presented)
    assert judge(agent, replace(presented, bound=bound))


async def test_a_proof_may_be_shorter(agent):
    async with agent.serving() as client:
        presented = await client.sign(lifetime=1)
    await agent.clock.advance(31 * SECOND)
    with pytest.raises(ExpiredError, match="proof has expired"):
        judge(agent, presented)


DIGEST = hash_of("x")
NO_NAME = "oth: a name is not 1 to 64 letters, digits, '.', '_', ':' and '-'"


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"audience": ""}, "proof: aud is empty or longer than 2048 characters"),
        ({"audience": "x" * 2049}, "proof: aud is empty or longer than 2048 characters"),
        ({"lifetime": 31}, "proof: lifetime is not between 1 and 30 seconds"),
        ({"lifetime": 2**32 - 1}, "proof: lifetime is not between 1 and 30 seconds"),
        ({"spiffe_id": "agent"}, None),
        ({"ath": "token itself"}, "ath: not a SHA-256 in base64url without padding"),
        ({"tth": DIGEST + "="}, "tth: not a SHA-256 in base64url without padding"),
        ({"oth": {"x": ""}}, "oth.x: not a SHA-256 in base64url without padding"),
        ({"oth": {"x y": DIGEST}}, NO_NAME),
        ({"oth": {"x" * 65: DIGEST}}, NO_NAME),
        ({"oth": {str(n): DIGEST for n in range(17)}}, "oth: more than 16"),
    ],
    ids=lambda value: str(value)[:40],
)
async def test_what_is_too_much_or_malformed_is_not_signed(agent, fields, message):
    async with agent.serving() as client:
        code, said = await client.unsigned(**fields)
        assert code is Code.INVALID_ARGUMENT
        assert message in (None, said)


async def test_an_oversized_request_is_refused_before_it_is_read(agent):
    async with agent.serving() as client:
        code, _ = await client.unsigned(audience="x" * 200_000)
        assert code is Code.RESOURCE_EXHAUSTED


async def test_a_signer_wants_the_security_header(agent):
    async with agent.serving() as client:
        missing = (Code.INVALID_ARGUMENT, "security header missing from request")
        assert await client.unsigned(metadata=()) == missing


async def test_a_process_speaks_for_its_own_identities_only(make_agent):
    world = make_agent(entry("one"), entry("two", created=1), entry("theirs", "unix:uid:2"), export=False)
    async with world.serving() as client:
        first = await client.sign()
        second = await client.sign(spiffe_id="spiffe://example.org/two")
        assert str(judge(world, first).spiffe_id) == "spiffe://example.org/one"
        assert str(judge(world, second).spiffe_id) == "spiffe://example.org/two"
        assert key_of(first) == key_of(second)
        for other in ("theirs", "none"):
            assert await client.unsigned(spiffe_id=f"spiffe://example.org/{other}") == DENIED


async def test_what_a_process_executes_next_gets_another_key(agent):
    """What it was before may have been trusted with things that it may not touch now."""
    async with agent.serving() as client:
        before = await client.sign()
        agent.executable = (1, 1, 1, 1, 1)
        assert key_of(before) != key_of(await client.sign())


async def test_who_executes_something_else_while_it_is_signed_for_gets_nothing(agent):
    async with agent.serving() as client:
        ensure = agent.wit.ensure

        async def slowly(*arguments):
            found = await ensure(*arguments)
            agent.executable = (2, 2, 2, 2, 2)
            return found

        agent.wit.ensure = slowly
        assert await client.unsigned() == DENIED


async def test_a_process_without_an_entry_proves_nothing(agent):
    agent.unix.say("uid:2")
    async with agent.serving() as client:
        assert await client.unsigned() == DENIED
        assert agent.issuer.evidence == []
    assert agent.admission.refusals["no_identity"] == 1


async def test_an_entry_that_is_gone_proves_nothing_any_more(agent):
    async with agent.serving() as client:
        assert await client.sign()
        agent.remove("agent")
        assert await client.unsigned() == DENIED


@pytest.mark.parametrize("what", ["suspended", "retired"])
async def test_an_agent_that_is_taken_back_proves_nothing_any_more(agent, what):
    async with agent.serving() as client:
        svid = judge(agent, await client.sign())
        agent.take_back(**{what: frozenset([svid.spiffe_id])})
        assert await client.unsigned() == DENIED


async def test_what_the_issuer_refuses_proves_nothing_until_it_is_granted(agent):
    agent.issuer.refused.add("agent")
    async with agent.serving() as client:
        assert await client.unsigned() == await client.unsigned() == DENIED
        assert len(agent.issuer.batches) == 1
        agent.issuer.refused.clear()
        await agent.clock.advance(5 * SECOND)
        assert await client.sign()


async def test_a_token_that_is_taken_back_is_replaced(agent):
    async with agent.serving() as client:
        svid = judge(agent, await client.sign())
        agent.take_back(jtis=[svid.jti])
        assert judge(agent, await client.sign()).jti != svid.jti


async def test_while_the_issuer_is_away_what_is_there_still_proves(agent):
    async with agent.serving() as client:
        agent.issuer.error = IssuerUnavailableError("away")
        assert await client.unsigned() == NOT_READY
        agent.issuer.error = None
        first = await client.sign()
        agent.issuer.error = IssuerUnavailableError("away")
        await agent.clock.advance(40 * MINUTE)
        assert (await client.sign()).token == first.token
        await agent.clock.advance(21 * MINUTE)
        assert await client.unsigned() == NOT_READY


async def test_a_node_that_has_to_prove_itself_anew_is_not_ready(agent):
    agent.issuer.failing["new_wit_svids"] = MustReattestError("node is not attested")
    async with agent.serving() as client:
        assert await client.unsigned() == NOT_READY


async def test_an_issuer_that_signs_something_else_is_not_believed(agent):
    agent.issuer.spoiled.add("agent")
    async with agent.serving() as client:
        assert await client.unsigned() == NOT_READY
        agent.issuer.spoiled.clear()
        agent.issuer.grant(entry("agent", path="/other"))
        assert await client.unsigned() == NOT_READY

# SPDX-License-Identifier: Apache-2.0
"""What every type of node attestation does, whatever proves the node, with both halves at work."""

import asyncio
import contextlib
import json

import pytest

from attestor.errors import NodeAttestationError
from issuer.errors import NodeRejectedError
from issuer.node import NodeProof, Refreshing
from spiffekit.selector import typo
from tests.contracts.nodes import TYPES
from tests.issuer.node.x509pop_node import TRUST_DOMAIN
from tests.issuer.strategies import a_node

MARK = "wrongly-sent"
LARGE = 2 * 1024 * 1024  # bytes
GARBAGE = {
    "nothing": b"",
    "zeros": b"\0" * 100,
    "not UTF-8": b"\xff\xfe",
    "text": MARK.encode() + b" text",
    "null": b"null",
    "number": b"7",
    "list": b"[]",
    "object": b"{}",
    "other members": json.dumps({MARK: MARK}).encode(),
    "deep": b"[" * 100_000,
    "deep member": b'{"token": ' + b'{"a":' * 50_000,
    "huge number": b"1" * 10_000,
    "lone surrogate": b'"\\ud800"',
    "path": b"../../spire/server",
    "large": b" " * LARGE,
}


@pytest.fixture(scope="module", params=TYPES)
def kind(request):
    return request.param


@pytest.fixture(scope="module")
def site(kind, tmp_path_factory):
    with contextlib.ExitStack() as stack:
        yield TYPES[kind](tmp_path_factory.mktemp("n"), stack)


@pytest.fixture
async def pair(site):
    async with site.open() as found:
        yield found


challenging = pytest.mark.parametrize(
    "kind", [kind for kind, site in TYPES.items() if site.challenges], indirect=True, scope="module"
)
proved_once = pytest.mark.parametrize(
    "kind", [kind for kind, site in TYPES.items() if site.first_use], indirect=True, scope="module"
)


async def prove(pair, machine, *, payload=None, respond=None):
    if payload is None:
        payload = await machine.payload()
    return await pair.verifier.verify(payload, respond or machine.respond, pair.context)


async def unasked(_challenge):
    raise AssertionError("whoever cannot be a node is asked nothing")


async def test_a_machine_is_proved_under_its_type_and_worth_no_more_than_that(kind, site, pair):
    proof = await prove(pair, pair.one)
    assert isinstance(proof, NodeProof)
    assert pair.one.type == kind
    assert proof.node_id.trust_domain == TRUST_DOMAIN
    assert proof.node_id.path.startswith(f"/spire/agent/{kind}/")
    assert proof.level is site.level
    assert {selector.type for selector in proof.selectors} <= {kind}
    assert [selector for selector in proof.selectors if typo(selector)] == []


async def test_two_machines_are_two_nodes_even_at_the_same_time(pair):
    one, other = await asyncio.gather(prove(pair, pair.one), prove(pair, pair.other))
    assert one.node_id != other.node_id


async def test_a_proof_is_made_again_or_counts_once(site, pair):
    """What proves a machine a second time proves the same one; what may not is used up, or for first use."""
    first = await prove(pair, pair.one)
    assert first.first_use is site.first_use
    assert not (first.can_reattest and first.first_use)
    try:
        again = await prove(pair, pair.one)
    except NodeRejectedError:
        assert not first.can_reattest
    else:
        assert again.node_id == first.node_id
        assert first.can_reattest or first.first_use


@proved_once
async def test_what_cannot_be_proved_again_is_judged_again_when_it_renews(kind, pair):
    proof = await prove(pair, pair.one)
    node = a_node(id=proof.node_id, attestation_type=kind, selectors=proof.selectors)
    assert isinstance(pair.verifier, Refreshing)
    assert await pair.verifier.refresh(node) == proof.selectors


@pytest.mark.parametrize("payload", GARBAGE.values(), ids=GARBAGE)
async def test_what_is_no_payload_is_refused_and_asked_nothing(pair, payload):
    with pytest.raises(NodeRejectedError) as caught:
        await prove(pair, pair.one, payload=payload, respond=unasked)
    assert 0 < len(str(caught.value)) < 1000
    assert MARK not in str(caught.value)


async def test_a_payload_that_is_too_large_is_refused_however_good_it_is(pair):
    payload = await pair.one.payload()
    with pytest.raises(NodeRejectedError):
        await prove(pair, pair.one, payload=payload + b" " * LARGE, respond=unasked)


@challenging
async def test_what_is_no_response_is_refused(pair):
    payload = await pair.one.payload()
    for response in GARBAGE.values():

        async def respond(_challenge, response=response):
            return response

        with pytest.raises(NodeRejectedError) as caught:
            await prove(pair, pair.one, payload=payload, respond=respond)
        assert MARK not in str(caught.value)


@challenging
async def test_a_recorded_response_is_of_no_use(pair):
    recorded, asked = [], []

    async def record(challenge):
        asked.append(challenge)
        recorded.append(await pair.one.respond(challenge))
        return recorded[-1]

    async def replay(challenge):
        asked.append(challenge)
        return recorded[0]

    payload = await pair.one.payload()
    assert await prove(pair, pair.one, payload=payload, respond=record)
    with pytest.raises(NodeRejectedError):
        await prove(pair, pair.one, payload=payload, respond=replay)
    assert len(asked) == len(set(asked)) >= 2


@challenging
async def test_another_machine_cannot_answer_for_this_one(pair):
    named, other = await pair.one.payload(), await pair.other.payload()  # which is ready, too
    if named == other:  # it names nobody: who answers is who is proved
        proof = await prove(pair, pair.one, respond=pair.other.respond)
        assert proof.node_id == (await prove(pair, pair.other)).node_id
        return
    with pytest.raises((NodeRejectedError, NodeAttestationError)):
        await prove(pair, pair.one, respond=pair.other.respond)


@challenging
async def test_a_machine_that_hangs_up_proves_nothing(pair):
    async def hang_up(_challenge):
        raise EOFError

    with pytest.raises(EOFError):
        await prove(pair, pair.one, respond=hang_up)
    assert await prove(pair, pair.one), "and can come back"

# SPDX-License-Identifier: Apache-2.0
"""Operators list, ban and forget nodes, and make join tokens."""

from datetime import timedelta

import grpc
import pytest
from google.protobuf.wrappers_pb2 import BoolValue

from issuer.api.node import MAX_TOKEN_TTL
from spiffekit.selector import Selector
from spiffekit.wire.pb.spire.api import types_pb2
from spiffekit.wire.pb.spire.api.server.agent.v1 import agent_pb2, agent_pb2_grpc
from tests.issuer_api.calls import refused
from tests.issuer_api.world import id_message, spiffe_id

Code = grpc.StatusCode
Filter = agent_pb2.ListAgentsRequest.Filter
HOUR = timedelta(hours=1)


@pytest.fixture
def stub(local):
    return agent_pb2_grpc.AgentStub(local)


@pytest.fixture
async def nodes(world, stub):
    now = world.clock.now()
    await world.node("a", selectors=["t:a"], version="1.2.3")
    await world.node("ab", selectors=["t:a", "t:b"], can_reattest=True, expires_at=now)
    await world.node("b", selectors=["t:b"], attestation_type="x509pop", expires_at=now + 2 * HOUR)
    await world.node("bad", expires_at=now + HOUR)
    await stub.BanAgent(agent_pb2.BanAgentRequest(id=id_message("/spire/agent/test/bad")))


def short(agents):
    return " ".join(agent.id.path.removeprefix("/spire/agent/test/") for agent in agents)


def to(match, *values):
    selectors = [types_pb2.Selector(type="t", value=value) for value in values]
    return types_pb2.SelectorMatch(selectors=selectors, match=match)


EXACT, SUBSET, SUPERSET, ANY = range(4)
FILTERS = [
    ({}, "a ab b bad"),
    ({"by_attestation_type": "x509pop"}, "b"),
    ({"by_attestation_type": "nothing"}, ""),
    ({"by_banned": BoolValue(value=True)}, "bad"),
    ({"by_banned": BoolValue()}, "a ab b"),
    ({"by_can_reattest": BoolValue(value=True)}, "ab"),
    ({"by_can_reattest": BoolValue()}, "a b bad"),
    ({"by_selector_match": to(EXACT, "b", "a")}, "ab"),
    ({"by_selector_match": to(SUBSET, "a", "b")}, "a ab b"),
    ({"by_selector_match": to(SUPERSET, "a")}, "a ab"),
    ({"by_selector_match": to(ANY, "b", "c")}, "ab b"),
    ({"by_banned": BoolValue(), "by_selector_match": to(ANY, "b"), "by_attestation_type": "test"}, "ab"),
]


@pytest.mark.usefixtures("nodes")
async def test_a_filter_lists_and_counts_what_it_names(stub):
    listed, counted = {}, {}
    for number, (fields, _) in enumerate(FILTERS):
        request = agent_pb2.ListAgentsRequest(filter=Filter(**fields))
        listed[number] = short((await stub.ListAgents(request)).agents)
        request = agent_pb2.CountAgentsRequest(filter=agent_pb2.CountAgentsRequest.Filter(**fields))
        counted[number] = (await stub.CountAgents(request)).count
    assert listed == {number: names for number, (_, names) in enumerate(FILTERS)}
    assert counted == {number: len(names.split()) for number, (_, names) in enumerate(FILTERS)}


@pytest.mark.usefixtures("nodes")
@pytest.mark.parametrize(
    "form",
    [
        "%Y-%m-%dT%H:%M:%SZ",
        "%Y-%m-%dT%H:%M:%S+00:00",
        "%Y-%m-%d %H:%M:%S",
        "%Y-%m-%d %H:%M:%S +0000",
        "%Y-%m-%d %H:%M:%S +0000 +00",
        "%Y-%m-%d %H:%M:%S +0000 UTC",
    ],
)
async def test_nodes_are_found_by_when_their_svid_ends(world, stub, form):
    for instant, names in ((0 * HOUR, ""), (HOUR, "ab"), (2 * HOUR, "a ab bad"), (3 * HOUR, "a ab b bad")):
        text = (world.clock.now() + instant).strftime(form)
        request = agent_pb2.ListAgentsRequest(filter=Filter(by_expires_before=text))
        assert short((await stub.ListAgents(request)).agents) == names


@pytest.mark.usefixtures("nodes")
async def test_the_offset_of_an_instant_counts(world, stub):
    for zone, names in (("+0500 +05", ""), ("+0430 +0430", "ab"), ("+0300 MSK", "a ab bad")):
        text = (world.clock.now() + 5 * HOUR).strftime(f"%Y-%m-%d %H:%M:%S {zone}")
        request = agent_pb2.ListAgentsRequest(filter=Filter(by_expires_before=text))
        assert short((await stub.ListAgents(request)).agents) == names


BAD_FILTERS = {
    "by_expires_before: 'soon' is not a point in time": {"by_expires_before": "soon"},
    f"by_expires_before: {'9' * 40!r} is not a point in time": {"by_expires_before": "9" * 100},
    "by_expires_before: '2026-02-30 00:00:00 +0000 UTC' is not a point in time": {
        "by_expires_before": "2026-02-30 00:00:00 +0000 UTC"
    },
    "by_selector_match: at least one is required": {"by_selector_match": to(EXACT)},
    "by_selector_match: match 4 is not known": {"by_selector_match": to(4, "a")},
    "by_selector_match: selector of type 't' has no value": {"by_selector_match": to(ANY, "")},
}


async def test_a_bad_filter_is_refused_and_never_widened(stub):
    for text, fields in BAD_FILTERS.items():
        with refused(Code.INVALID_ARGUMENT, text):
            await stub.ListAgents(agent_pb2.ListAgentsRequest(filter=Filter(**fields)))
        with refused(Code.INVALID_ARGUMENT, text):
            count = agent_pb2.CountAgentsRequest.Filter(**fields)
            await stub.CountAgents(agent_pb2.CountAgentsRequest(filter=count))


@pytest.mark.usefixtures("nodes")
@pytest.mark.parametrize("instant", ["0001-01-01T00:00:00+23:59", "9999-12-31T23:59:59-23:59"])
async def test_the_ends_of_time_are_points_in_time(stub, instant):
    request = agent_pb2.ListAgentsRequest(filter=Filter(by_expires_before=instant))
    assert short((await stub.ListAgents(request)).agents) == ("" if instant < "1" else "a ab b bad")


@pytest.mark.usefixtures("nodes")
@pytest.mark.parametrize(
    ("size", "pages"),
    [
        (1, ["a", "ab", "b", "bad"]),
        (3, ["a ab b", "bad"]),
        (4, ["a ab b bad"]),
        (2**31 - 1, ["a ab b bad"]),
        (0, ["a ab b bad"]),
        (-(2**31), ["a ab b bad"]),
    ],
)
async def test_pages_follow_each_other_to_the_end(stub, size, pages):
    """SPIRE 1.9.3: a page size of 2**31 - 1 costs nothing by itself."""
    found, token = [], None
    while token != "":
        answer = await stub.ListAgents(agent_pb2.ListAgentsRequest(page_size=size, page_token=token or ""))
        found.append(short(answer.agents))
        token = answer.next_page_token
    assert found == pages


@pytest.mark.usefixtures("nodes")
@pytest.mark.parametrize(
    ("token", "names"), [("spiffe://example.org/spire/agent/test/aa", "ab b bad"), ("~", "")]
)
async def test_a_page_token_is_only_a_place_in_the_order(stub, token, names):
    answer = await stub.ListAgents(agent_pb2.ListAgentsRequest(page_token=token))
    assert (short(answer.agents), answer.next_page_token) == (names, "")


async def get(stub, path, mask=None):
    return await stub.GetAgent(agent_pb2.GetAgentRequest(id=id_message(path), output_mask=mask))


@pytest.mark.usefixtures("nodes")
async def test_a_node_is_shown_with_all_that_is_known_of_it(world, stub):
    node = world.registrations.node(spiffe_id("/spire/agent/test/a"))
    assert await get(stub, node.id.path) == types_pb2.Agent(
        id=id_message("/spire/agent/test/a"),
        attestation_type="test",
        x509svid_serial_number=node.serial,
        x509svid_expires_at=int(node.expires_at.timestamp()),
        selectors=[types_pb2.Selector(type="t", value="a")],
        agent_version="1.2.3",
    )
    shown = await get(stub, "/spire/agent/test/bad")
    assert (shown.banned, shown.x509svid_serial_number) == (True, "")


@pytest.mark.usefixtures("nodes")
async def test_a_mask_leaves_out_what_it_does_not_name(stub):
    wanted = types_pb2.Agent(id=id_message("/spire/agent/test/ab"), can_reattest=True)
    mask = types_pb2.AgentMask(can_reattest=True)
    assert await get(stub, "/spire/agent/test/ab", mask) == wanted
    answer = await stub.ListAgents(agent_pb2.ListAgentsRequest(output_mask=mask, page_size=2))
    assert answer.agents[1] == wanted


CALLS = {
    "GetAgent": agent_pb2.GetAgentRequest,
    "DeleteAgent": agent_pb2.DeleteAgentRequest,
    "BanAgent": agent_pb2.BanAgentRequest,
}


@pytest.mark.parametrize("name", CALLS)
async def test_a_node_that_is_not_known_is_not_found(stub, name):
    with refused(Code.NOT_FOUND, "node spiffe://example.org/spire/agent/x does not exist"):
        await getattr(stub, name)(CALLS[name](id=id_message("/spire/agent/x")))


BAD_IDS = {
    "id: trust domain is missing": types_pb2.SPIFFEID(),
    "id: spiffe://example.org has no path": id_message(""),
    "id: path cannot contain dot segments": id_message("/spire/agent/../a"),
    "id: spiffe://other.org/a is not a member of trust domain example.org": id_message("/a", "other.org"),
}


@pytest.mark.parametrize("name", CALLS)
async def test_a_bad_id_is_refused(stub, name):
    for text, given in BAD_IDS.items():
        with refused(Code.INVALID_ARGUMENT, text):
            await getattr(stub, name)(CALLS[name](id=given))


async def test_deleting_a_node_takes_the_alias_of_its_token_along(world, stub):
    await make_token(stub, token="t1", agent_id=id_message("/alias"))
    svid = await world.sign("/spire/agent/join_token/t1")
    node = world.node_of(svid)
    await world.database.write(lambda tx: tx.nodes.put(node))
    other = await world.entry("/other", parent="/alias")
    assert len(world.registrations.authorized(svid.spiffe_id, world.clock.now()).entries) == 1
    await stub.DeleteAgent(agent_pb2.DeleteAgentRequest(id=id_message(svid.spiffe_id.path)))
    assert [entry.id for entry in world.registrations.entries()] == [other.id]
    assert world.registrations.count() == (1, 0)


async def test_banning_twice_is_no_mistake(world, stub):
    await world.node("n1")
    for _ in range(2):
        await stub.BanAgent(agent_pb2.BanAgentRequest(id=id_message("/spire/agent/test/n1")))
    assert world.registrations.node(spiffe_id("/spire/agent/test/n1")).banned
    trail = [(record.act.rpartition("/")[2], record.subject) for record in await world.trail()]
    assert trail == [("BanAgent", "spiffe://example.org/spire/agent/test/n1")] * 2


# Join tokens.


async def make_token(stub, ttl=60, **fields):
    return await stub.CreateJoinToken(agent_pb2.CreateJoinTokenRequest(ttl=ttl, **fields))


async def test_a_token_is_made_up_where_none_is_given(world, stub, clock):
    first, second = [await make_token(stub) for _ in range(2)]
    assert len({first.value, second.value}) == 2
    assert len(first.value) == 32
    assert first.expires_at == clock.now().timestamp() + 60
    assert sorted(await world.tokens()) == sorted((first.value, second.value))


async def test_a_token_comes_with_an_alias_for_its_node(world, stub):
    made = await make_token(stub, token="my-token.1", agent_id=id_message("/alias"))
    assert made.value == "my-token.1"
    (alias,) = world.registrations.entries()
    assert (alias.spiffe_id, alias.parent_id) == (spiffe_id("/alias"), spiffe_id("/spire/server"))
    assert alias.selectors == {
        Selector("spiffe_id", "spiffe://example.org/spire/agent/join_token/my-token.1")
    }


async def test_a_token_never_gets_into_the_audit_trail(world, stub):
    await make_token(stub, token="hush-hush", agent_id=id_message("/alias"))
    with refused(Code.ALREADY_EXISTS, "a join token of that value exists"):
        await make_token(stub, token="hush-hush")
    trail = await world.trail()
    assert [record.subject for record in trail] == ["spiffe://example.org/alias", ""]
    assert "hush-hush" not in repr(trail)


async def test_a_token_whose_alias_cannot_be_made_is_not_made_either(world, stub):
    await make_token(stub, token="t1", agent_id=id_message("/alias"))
    await world.database.write(lambda tx: tx.join_tokens.redeem("t1"))
    with refused(Code.ALREADY_EXISTS, "similar entry already exists"):
        await make_token(stub, token="t1", agent_id=id_message("/alias"))
    assert await world.tokens() == []


TTL = f"ttl: not between 1 and {MAX_TOKEN_TTL} seconds"
FORM = "token: use 1 to 255 of A-Z a-z 0-9 . _ -"
FOREIGN = "agent_id: spiffe://other.org/a is not a member of trust domain example.org"


BAD_TOKENS = [
    ({"ttl": 0}, TTL),
    ({"ttl": -1}, TTL),
    ({"ttl": MAX_TOKEN_TTL + 1}, TTL),
    ({"token": "a/b"}, FORM),
    ({"token": ".."}, FORM),
    ({"token": "."}, FORM),
    ({"token": "a\n"}, FORM),
    ({"token": "%2e%2e"}, FORM),
    ({"token": "ä"}, FORM),
    ({"token": "a" * 256}, FORM),
    ({"token": "a" * 10_000}, FORM),
    ({"agent_id": id_message("")}, "agent_id: spiffe://example.org has no path"),
    ({"agent_id": id_message("/a", "other.org")}, FOREIGN),
    ({"agent_id": id_message("/spire/server")}, "agent_id: is that of the issuer itself"),
]


async def test_a_token_that_could_not_be_used_is_not_made(world, stub):
    """Cure53 SPI-01-007: a token becomes part of the node's ID."""
    for fields, text in BAD_TOKENS:
        with refused(Code.INVALID_ARGUMENT, text):
            await make_token(stub, **fields)
    assert await world.tokens() == []
    assert world.registrations.count() == (0, 0)


async def test_a_token_at_its_limits_is_good(world, stub):
    await make_token(stub, ttl=MAX_TOKEN_TTL, token="a" * 255)
    await make_token(stub, ttl=1, token="...")
    assert len(await world.tokens()) == 2

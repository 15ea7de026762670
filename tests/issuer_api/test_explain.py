# SPDX-License-Identifier: Apache-2.0
"""Operators are told by which way an entry reaches a node, and what a workload lacks for it."""

from dataclasses import replace
from datetime import timedelta

import grpc
import pytest

from issuer.model import AgentState
from spiffekit.template import Template
from spiffekit.wire.pb.issuer.v1 import explain_pb2, explain_pb2_grpc
from spiffekit.wire.pb.spire.api import types_pb2
from tests.issuer.strategies import an_agent
from tests.issuer_api.calls import refused
from tests.issuer_api.world import spiffe_id

Code = grpc.StatusCode
NODE = "spiffe://example.org/spire/agent/test/n1"


@pytest.fixture
def why(local):
    stub = explain_pb2_grpc.ExplainStub(local)

    async def ask(entry_id="", *selectors, node=NODE):
        wanted = [types_pb2.Selector(type=kind, value=value) for kind, _, value in map(split, selectors)]
        request = explain_pb2.WhyRequest(node_id=node, entry_id=entry_id, selectors=wanted)
        return await stub.Why(request)

    return ask


def split(text):
    return text.partition(":")


async def test_an_entry_below_the_node_reaches_it(world, why):
    await world.node()
    await world.entry("/web")
    answer = await why("web", "unix:uid:1000")
    assert (answer.node.known, answer.node.attestation_type) == (True, "test")
    (entry,) = answer.entries
    assert (entry.spiffe_id, list(entry.ancestry), entry.obstacle) == ("spiffe://example.org/web", [NODE], "")
    assert (list(entry.missing), entry.identity) == ([], "spiffe://example.org/web")


async def test_the_way_over_aliases_and_nested_entries_is_told(world, why):
    await world.node(selectors=("x509pop:subject:cn:a",))
    await world.entry("/fleet", parent="/spire/server", selectors=("x509pop:subject:cn:a",))
    await world.entry("/above", parent="/fleet")
    await world.entry("/web", parent="/above")
    answer = await why("web")
    assert list(answer.node.aliases) == ["spiffe://example.org/fleet"]
    (entry,) = answer.entries
    assert list(entry.ancestry) == [NODE, "spiffe://example.org/fleet", "spiffe://example.org/above"]
    assert list(entry.missing) == ["unix:uid:1000"]
    assert entry.identity == ""


async def test_the_way_agrees_with_what_a_node_is_given(world, why, clock):
    await world.node()
    for path, parent in (("/a", "/spire/agent/test/n1"), ("/b", "/a"), ("/c", "/elsewhere"), ("/d", "/c")):
        await world.entry(path, parent=parent)
    given = world.registrations.authorized(spiffe_id("/spire/agent/test/n1"), clock.now()).by_id
    for entry_id in "abcd":
        (entry,) = (await why(entry_id)).entries
        assert bool(entry.ancestry) == (entry_id in given)


async def test_the_nearest_entries_come_first_and_strangers_not_at_all(world, why):
    await world.node()
    await world.entry("/two", selectors=("unix:uid:1", "unix:gid:2", "unix:user:x"))
    await world.entry("/one", selectors=("unix:uid:1", "unix:gid:2"))
    await world.entry("/all", selectors=("unix:uid:1",))
    await world.entry("/other", selectors=("docker:label:a",))
    answer = await why("", "unix:uid:1")
    assert [(entry.entry_id, len(entry.missing)) for entry in answer.entries] == [
        ("all", 0),
        ("one", 1),
        ("two", 2),
    ]


@pytest.mark.parametrize(
    ("state", "obstacle"),
    [
        ("unknown", "the node is not attested"),
        ("banned", "the node is banned"),
        ("ended", "the entry has ended"),
        ("stray", "neither the node nor what it earns is the entry's parent"),
        ("store", "the entry is for secret stores, not for workloads"),
        ("suspended", "the agent is suspended"),
    ],
)
async def test_what_stands_in_the_way_is_told(world, why, clock, state, obstacle):
    if state != "unknown":
        svid = await world.node()
    if state == "banned":
        banned = replace(world.node_of(svid), serial="")
        await world.database.write(lambda tx: tx.nodes.put(banned))
    changes = {
        "ended": {"expires_at": clock.now() + timedelta(seconds=1)},
        "stray": {"parent": "/elsewhere"},
        "store": {"store_svid": True},
    }
    await world.entry("/web", **changes.get(state, {}))
    if state == "suspended":
        agent = an_agent("/web", state=AgentState.SUSPENDED)
        await world.database.write(lambda tx: tx.agents.create(agent))
    if state == "ended":
        await clock.advance(timedelta(seconds=2))
    (entry,) = (await why("web", "unix:uid:1000")).entries
    assert entry.obstacle == obstacle


async def test_a_template_is_expanded_or_says_why_not(world, why):
    await world.node()
    template = Template.parse("spiffe://example.org/u/{unix:user}")
    await world.entry("/web", template=template, spiffe_id=template.base)
    (entry,) = (await why("web", "unix:uid:1000", "unix:user:ann")).entries
    assert (entry.spiffe_id, entry.identity) == (str(template), "spiffe://example.org/u/ann")
    assert entry.needs_evidence
    (entry,) = (await why("web", "unix:uid:1000")).entries
    assert entry.identity == "none: placeholder {unix:user} has no value"


async def test_a_question_that_makes_no_sense_is_refused(why):
    with refused(Code.INVALID_ARGUMENT, "selectors: at least one is required, or an entry_id"):
        await why()
    with refused(Code.NOT_FOUND, "entry 'none' does not exist"):
        await why("none")
    with refused(Code.INVALID_ARGUMENT, "node_id: scheme of 'x' is not 'spiffe'"):
        await why("web", node="x")
    with refused(
        Code.INVALID_ARGUMENT,
        "node_id: spiffe://other.org/n is not a member of trust domain example.org",
    ):
        await why("web", node="spiffe://other.org/n")
    with refused(Code.INVALID_ARGUMENT, "selectors: selector of type 'unix' has no value"):
        await why("", "unix:")
    with refused(Code.INVALID_ARGUMENT, "selectors: more than 2000"):
        await why("", *["unix:uid:1"] * 2001)

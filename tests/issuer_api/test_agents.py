# SPDX-License-Identifier: Apache-2.0
"""The registry of agents as operators see it."""

from datetime import timedelta

import grpc
import pytest

from issuer.model import AgentFacts, Outcome
from spiffekit.jwtsvid import JwtSvid
from spiffekit.wire.pb.issuer.v1 import agents_pb2, agents_pb2_grpc
from spiffekit.wire.pb.spire.api.server.entry.v1 import entry_pb2, entry_pb2_grpc
from spiffekit.wire.pb.spire.api.server.svid.v1 import svid_pb2, svid_pb2_grpc
from tests.issuer.governance.people import IDP, listed, user, write
from tests.issuer_api.calls import refused
from tests.issuer_api.entries import create_one
from tests.issuer_api.test_evidence import evidence, sign
from tests.issuer_api.watching import opened
from tests.issuer_api.world import World

Code = grpc.StatusCode
PAYER = "spiffe://example.org/agent/payer"
PURPOSE = "pays the invoices that people approved"


@pytest.fixture
def agents(local):
    return agents_pb2_grpc.AgentsStub(local)


def spec(spiffe_id=PAYER, **fields):
    fields = {"owner": {"issuer": IDP, "subject": "alice"}, "purpose": PURPOSE} | fields
    return agents_pb2.AgentSpec(spiffe_id=spiffe_id, **fields)


async def register(agents, spiffe_id=PAYER, **fields):
    return await agents.RegisterAgent(agents_pb2.RegisterAgentRequest(spec=spec(spiffe_id, **fields)))


def change(spiffe_id=PAYER, reason="because"):
    return agents_pb2.ChangeStateRequest(spiffe_id=spiffe_id, reason=reason)


async def test_an_agent_goes_through_its_life(world, agents, clock):
    made = await register(agents, team="finance", sponsor="Bob on call")
    assert (made.state, made.version, made.spec.team) == (agents_pb2.REGISTERED, 1, "finance")
    assert made.registered_by.startswith("local:uid=")
    assert made.created_at == made.changed_at == int(clock.now().timestamp())
    await clock.advance(timedelta(hours=1))
    steps = [
        (agents.ActivateAgent, agents_pb2.ACTIVE),
        (agents.SuspendAgent, agents_pb2.SUSPENDED),
        (agents.ResumeAgent, agents_pb2.ACTIVE),
    ]
    for verb, state in steps:
        after = await verb(change())
        assert (after.state, after.reason) == (state, "because")
        assert after.changed_at == int(clock.now().timestamp())
    asked = agents_pb2.RetireAgentRequest(spiffe_id=PAYER, reason="done", successor=f"{PAYER}-2")
    retired = await agents.RetireAgent(asked)
    assert (retired.state, retired.successor, retired.version) == (agents_pb2.RETIRED, f"{PAYER}-2", 5)
    with refused(Code.FAILED_PRECONDITION, f"agent {PAYER} is retired, not suspended"):
        await agents.ResumeAgent(change())
    with refused(Code.ALREADY_EXISTS, f"agent {PAYER} exists, and is retired"):
        await register(agents)
    assert await agents.GetAgent(agents_pb2.GetAgentRequest(spiffe_id=PAYER)) == retired
    told = [r for r in await world.trail() if r.outcome is Outcome.OK]
    assert {(r.subject, r.agent.owner) for r in told} == {(PAYER, f"{IDP}|alice")}
    assert [(r.act.rsplit("/", 1)[1], r.detail["state"]) for r in told] == [
        ("RegisterAgent", "registered"),
        ("ActivateAgent", "active"),
        ("SuspendAgent", "suspended"),
        ("ResumeAgent", "active"),
        ("RetireAgent", "retired"),
    ]


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"spiffe_id": ""}, "spiffe_id: SPIFFE ID is empty"),
        ({"spiffe_id": "spiffe://example.org"}, "spiffe_id: spiffe://example.org is no ID of a workload"),
        (
            {"spiffe_id": "spiffe://example.org/spire/server"},
            "spiffe_id: spiffe://example.org/spire/server is no ID of a workload",
        ),
        (
            {"spiffe_id": "spiffe://example.org/spire/agent/x"},
            "spiffe_id: spiffe://example.org/spire/agent/x is no ID of a workload",
        ),
        (
            {"spiffe_id": "spiffe://other.org/a"},
            "spiffe_id: spiffe://other.org/a is not a member of trust domain example.org",
        ),
        ({"owner": None}, "owner.issuer: is missing"),
        ({"owner": {"issuer": IDP}}, "owner.subject: is missing"),
        ({"owner": {"issuer": "idp", "subject": "a"}}, "owner.issuer: is not an https URL"),
        ({"owner": {"issuer": "https://a|b", "subject": "a"}}, "owner.issuer: is not an https URL"),
        (
            {"owner": {"issuer": IDP, "subject": "group:a"}},
            "owner.subject: starts with 'group:'; say that it is a group by `group`",
        ),
        ({"purpose": ""}, "purpose: is missing"),
        ({"purpose": "too short" + " " * 20}, "purpose: say it in 20 characters or more"),
        ({"purpose": "x" * 1025}, "purpose: longer than 1024 bytes"),
        ({"team": "a\nb"}, "team: has characters that cannot be printed"),
        ({"agent_class": "a b"}, "agent_class: use 1 to 63 of A-Z a-z 0-9 . _ -"),
        ({"review_by": -(2**62)}, "review_by: not a point in time that can be kept"),
        ({"limits": {"audiences": ["a"]}}, "limits.audiences: count only with limits_audiences"),
        (
            {"limits": {"audiences": ["a"] * 101, "limits_audiences": True}},
            "limits.audiences: more than 100",
        ),
        ({"limits": {"max_depth": 6}}, "limits.max_depth: more than 5"),
        ({"limits": {"x509_ttl": 2**32 - 1}}, "limits.x509_ttl: longer than 3650 days"),
        ({"limits": {"delegation_ttl": 3601}}, "limits.delegation_ttl: longer than 1:00:00"),
        ({"limits": {"tools_json": "[]"}}, None),
        ({"limits": {"tools_json": '{"a": 1}'}}, None),
        ({"limits": {"tools_json": '{"a": {}, "a": {}}'}}, "limits.tools: a name stands twice"),
        ({"limits": {"tools_json": '{"a": {"b": NaN}}'}}, "limits.tools: NaN is not JSON"),
        ({"limits": {"tools_json": "[" * 60_000}}, "limits.tools: nested too deeply"),
        (
            {"limits": {"tools_json": '{"a": {"b": {"constraint_type": "regex"}}}'}},
            "limits.tools: tool 'a': argument 'b': constraint_type is none that is known",
        ),
        ({"limits": {"tools_json": "x" * 65_537}}, "limits.tools: larger than 65536 bytes"),
    ],
)
async def test_a_description_that_breaks_a_rule_is_refused(agents, fields, message):
    with refused(Code.INVALID_ARGUMENT, message) as caught:
        await register(agents, **fields)
    assert ":" in caught.value.details()


async def test_an_unknown_class_or_agent_is_not_found(agents):
    with refused(Code.NOT_FOUND, "class 'bots' does not exist"):
        await register(agents, agent_class="bots")
    with refused(Code.NOT_FOUND, f"agent {PAYER} does not exist"):
        await agents.GetAgent(agents_pb2.GetAgentRequest(spiffe_id=PAYER))
    with refused(Code.NOT_FOUND, f"agent {PAYER} does not exist"):
        await agents.SuspendAgent(change())


@pytest.mark.parametrize("reason", ["", "  ", "a\nb", "x" * 1025])
async def test_a_step_has_a_reason(world, agents, reason):
    await register(agents)
    with refused(Code.INVALID_ARGUMENT):
        await agents.ActivateAgent(change(reason=reason))
    agent = world.registrations.agents()[0]
    assert (agent.state, agent.reason) == ("registered", "")


async def test_agents_are_listed_by_what_is_asked_in_pages(agents, clock):
    soon = int((clock.now() + timedelta(hours=1)).timestamp())
    for n in range(5):
        await register(agents, f"{PAYER}{n}", team="red" if n % 2 else "blue", review_by=soon if n < 2 else 0)
    await agents.ActivateAgent(change(f"{PAYER}3"))

    async def ask(**fields):
        found, token = [], ""
        while True:
            asked = agents_pb2.ListAgentsRequest(page_size=2, page_token=token, **fields)
            answer = await agents.ListAgents(asked)
            assert len(answer.agents) <= 2
            found += [agent.spec.spiffe_id.removeprefix(PAYER) for agent in answer.agents]
            token = answer.next_page_token
            if not token:
                return found

    assert await ask() == ["0", "1", "2", "3", "4"]
    assert await ask(state=agents_pb2.ACTIVE) == ["3"]
    assert await ask(team="red") == ["1", "3"]
    assert await ask(review_due=True) == []
    await clock.advance(timedelta(hours=2))
    assert await ask(review_due=True) == ["0", "1"]
    with refused(Code.INVALID_ARGUMENT, "state: state 9 is not known"):
        await ask(state=9)


async def test_an_update_changes_what_is_described_and_nothing_else(agents):
    before = await register(agents)
    wanted = spec(team="new", limits={"x509_ttl": 60}, owner={"issuer": IDP, "subject": "mallory"})
    after = await agents.UpdateAgent(agents_pb2.UpdateAgentRequest(spec=wanted, reason="because"))
    assert (after.spec.team, after.spec.limits.x509_ttl, after.effective.x509_ttl) == ("new", 60, 60)
    assert after.spec.owner == before.spec.owner
    assert (after.state, after.id, after.created_at) == (before.state, before.id, before.created_at)


async def test_classes_are_kept_and_narrow_their_agents(agents):
    made = await agents.PutAgentClass(
        agents_pb2.AgentClass(name="bots", two_people=True, review_every=86400, limits={"x509_ttl": 300})
    )
    assert (await agents.ListAgentClasses(agents_pb2.ListAgentClassesRequest())).classes == [made]
    agent = await register(agents, agent_class="bots")
    assert agent.effective.x509_ttl == 300
    assert agent.spec.review_by == agent.created_at + 86400
    with refused(Code.INVALID_ARGUMENT, "limits.x509_ttl: 0:10:00 is more than the 0:05:00 of class 'bots'"):
        await register(agents, f"{PAYER}2", agent_class="bots", limits={"x509_ttl": 600})
    with refused(Code.INVALID_ARGUMENT, "limits.x509_ttl: 0:10:00 is more than the 0:05:00 of class 'bots'"):
        wanted = spec(agent_class="bots", limits={"x509_ttl": 600})
        await agents.UpdateAgent(agents_pb2.UpdateAgentRequest(spec=wanted, reason="because"))
    with refused(Code.PERMISSION_DENIED):  # whoever registered it
        await agents.ActivateAgent(change())
    with refused(Code.FAILED_PRECONDITION, f"class 'bots': agent {PAYER} belongs to it"):
        await agents.DeleteAgentClass(agents_pb2.DeleteAgentClassRequest(name="bots"))
    await agents.PutAgentClass(agents_pb2.AgentClass(name="empty"))
    await agents.DeleteAgentClass(agents_pb2.DeleteAgentClassRequest(name="empty"))


async def test_reviews_and_transfers(agents):
    made = await register(agents)
    later = made.created_at + 86400
    reviewed = await agents.ReviewAgent(
        agents_pb2.ReviewAgentRequest(spiffe_id=PAYER, reason="needed", review_by=later)
    )
    assert (reviewed.spec.review_by, reviewed.reason) == (later, "")
    owner = agents_pb2.Owner(issuer=IDP, subject="team", group=True)
    moved = await agents.TransferAgent(
        agents_pb2.TransferAgentRequest(spiffe_id=PAYER, reason="new team", owner=owner)
    )
    assert moved.spec.owner == owner


async def test_owners_come_from_the_list_of_people(place, clock):
    file = place / "people.json"
    write(file, user("alice"))
    people = listed(file)
    await people.reload()
    async with World.open(place, clock, people=people) as world:
        agents = agents_pb2_grpc.AgentsStub(await world.local())
        await register(agents)
        with refused(Code.INVALID_ARGUMENT, f"owner: {IDP}|bob is not in the list of people"):
            await register(agents, f"{PAYER}2", owner={"issuer": IDP, "subject": "bob"})
        file.write_bytes(b"?")
        await people.reload()
        with refused(Code.FAILED_PRECONDITION, "owner: the list of people cannot be read"):
            await agents.ActivateAgent(change())


async def test_svids_of_an_agent_are_short_named_and_recorded(world, agents, channel, clock):
    await register(agents, limits={"audiences": ["db"], "limits_audiences": True})
    await agents.ActivateAgent(change())
    await world.entry("/agent/payer", x509_svid_ttl=timedelta(hours=9), jwt_svid_ttl=timedelta(hours=9))
    node = svid_pb2_grpc.SVIDStub(channel)
    now = int(clock.now().timestamp())
    assert (await sign(node, "agent-payer", evidence(clock))).svid.expires_at == now + 900

    def asked(audience):
        return svid_pb2.NewJWTSVIDRequest(
            entry_id="agent-payer", audience=[audience], evidence=evidence(clock)
        )

    jwt = (await node.NewJWTSVID(asked("db"))).svid
    claims = JwtSvid.parse_unverified(jwt.token, ["db"]).claims
    assert (claims["owner"], claims["exp"]) == (f"{IDP}|alice", now + 300)
    x509_record, jwt_record = [r for r in await world.trail() if r.type == "svid.issued"]
    facts = AgentFacts(spiffe_id=PAYER, instance_uid="a" * 26, owner=f"{IDP}|alice")
    assert x509_record.agent == jwt_record.agent == facts
    assert jwt_record.credential.jti == claims["jti"]
    assert x509_record.credential.exp == f"{clock.now() + timedelta(seconds=900):%Y-%m-%dT%H:%M:%SZ}"
    with refused(Code.PERMISSION_DENIED, f"audience: 'web' is not among those of agent {PAYER}"):
        await node.NewJWTSVID(asked("web"))


async def test_entries_say_who_answers_for_them(world, local, agents):
    entries = entry_pb2_grpc.EntryStub(local)
    await register(agents)
    made = await create_one(entries, path="/agent/payer")
    assert (made.owner, made.agent_state) == (f"{IDP}|alice", "registered")
    await agents.ActivateAgent(change())
    await create_one(entries, path="/plain")
    listed = (await entries.ListEntries(entry_pb2.ListEntriesRequest())).entries
    assert {e.spiffe_id.path: (e.owner, e.agent_state) for e in listed} == {
        "/agent/payer": (f"{IDP}|alice", "active"),
        "/plain": ("", ""),
    }
    shown = await entries.GetEntry(entry_pb2.GetEntryRequest(id=made.id))
    assert shown.owner == f"{IDP}|alice"
    shown.owner = "https://mallory.example.org|mallory"
    changed = await entries.BatchUpdateEntry(entry_pb2.BatchUpdateEntryRequest(entries=[shown]))
    assert changed.results[0].entry.owner == f"{IDP}|alice"


async def test_nodes_are_not_told_who_answers_for_entries(world, agents, channel):
    await register(agents)
    await agents.ActivateAgent(change())
    await world.entry("/agent/payer")
    async with opened(channel) as watch:
        assert [(e.spiffe_id.path, e.owner) for e in watch.snapshot.entries] == [("/agent/payer", "")]

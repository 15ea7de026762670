# SPDX-License-Identifier: Apache-2.0
"""The AuthZEN API over mutual TLS: the cases of its certification, and what hostile callers send."""

import json
import ssl
from dataclasses import replace
from datetime import timedelta

import pytest
from prometheus_client import CollectorRegistry

from issuer.api import authzen, decisions
from issuer.model import (
    AgentClass,
    AgentState,
    AuthorityKind,
    Limits,
    Outcome,
    Revocation,
    RevocationKind,
    RevocationReason,
)
from spiffekit.daemon import http_calls, http_server
from spiffekit.daemon.http import HttpError
from spiffekit.delegation.tools import Tools
from spiffekit.testing import TestCA
from spiffekit.wire.pb.issuer.v1 import policy_pb2, policy_pb2_grpc
from tests.issuer.governance.policies import a_stored
from tests.issuer.strategies import an_agent
from tests.issuer_api.gateways import (
    GATEWAY,
    GATEWAY_IDS,
    PAYER,
    URL,
    Gateway,
    Keeping,
    a_table,
    http,
    serving,
    tool,
)
from tests.issuer_api.world import TRUST_DOMAIN, World

EVALUATIONS = "/access/v1/evaluations"
METADATA = "/.well-known/authzen-configuration"
PAY = 'permit(principal, action == Action::"tool.call", resource == Tool::"pay");'


@pytest.fixture(autouse=True)
def patient(monkeypatch):
    """A machine that is busy with other tests is no gateway that is too slow."""
    for module in (http_calls, http_server):
        monkeypatch.setattr(module, "REQUEST_WITHIN", 60.0)
    monkeypatch.setattr(decisions, "WITHIN", 60.0)


@pytest.fixture
async def world(place, clock):
    async with World.open(place, clock, gateway_ids=GATEWAY_IDS) as made:
        await made.database.write(lambda tx: tx.agents.create(an_agent(team="treasury")))
        await put(made, PAY)
        yield made


@pytest.fixture
async def table(world):
    async with serving(world, a_table()) as made:
        yield made


@pytest.fixture
async def gateway(world, table):
    return Gateway(world, table.authzen_port, await world.sign("/gateway"))


async def put(world, text, name="p"):
    await world.database.write(lambda tx: tx.policies.add(a_stored(text, name)))


async def calls(world):
    return [record for record in await world.trail() if record.type.startswith("call.")]


# What the specification's certification asks, with our subjects, actions and resources.


async def test_an_agent_may_what_a_policy_permits_and_nothing_else(gateway):
    allowed = await gateway.ask(tool())
    assert allowed["decision"] is True
    denied = await gateway.ask(tool("wipe"))
    assert denied["decision"] is False
    assert denied["context"]["reason"] == "no policy permits it"
    assert denied["context"]["eval_id"] != allowed["context"]["eval_id"]


async def test_context_properties_and_what_is_unknown_change_nothing(gateway):
    asked = tool()
    asked["subject"]["properties"] = {"team": "other", "state": "suspended"}
    asked["action"]["properties"] = {"method": "GET"}
    asked["resource"]["properties"] = {"owner": "bob"}
    asked |= {"context": {"time": "2025-06-27T18:03-07:00"}, "foo": "bar", "futureField": {"nested": True}}
    assert (await gateway.ask(asked))["decision"] is True
    assert (await gateway.ask(asked | {"resource": {"type": "tool", "id": "wipe"}}))["decision"] is False


async def test_the_same_question_has_the_same_answer(gateway):
    assert {(await gateway.ask(tool()))["decision"] for _ in range(5)} == {True}


def without(asked, *path):
    asked = json.loads(json.dumps(asked))
    inner = asked
    for name in path[:-1]:
        inner = inner[name]
    del inner[path[-1]]
    return asked


def with_(asked, value, *path):
    asked = json.loads(json.dumps(asked))
    inner = asked
    for name in path[:-1]:
        inner = inner[name]
    inner[path[-1]] = value
    return asked


NO_NAME = "action.name: is missing, or no text"
NO_PLAIN = "resource.id: is not 1 to 256 characters that can be printed"
REFUSED = {
    "no subject": (without(tool(), "subject"), "subject: is missing"),
    "no action": (without(tool(), "action"), "action: is missing"),
    "no resource": (without(tool(), "resource"), "resource: is missing"),
    "no subject.type": (without(tool(), "subject", "type"), "subject.type: is missing, or no text"),
    "no subject.id": (without(tool(), "subject", "id"), "subject.id: is missing, or no text"),
    "no action.name": (without(tool(), "action", "name"), NO_NAME),
    "no resource.type": (without(tool(), "resource", "type"), "resource.type: is missing, or no text"),
    "no resource.id": (without(tool(), "resource", "id"), "resource.id: is missing, or no text"),
    "a subject that is a string": (with_(tool(), "alice", "subject"), "subject: is not an object"),
    "a subject that is null": (with_(tool(), None, "subject"), "subject: is missing"),
    "an action's name that is a number": (with_(tool(), 123, "action", "name"), NO_NAME),
    "a context that is a list": (with_(tool(), [], "context"), "context: is not an object"),
    "properties that are a string": (
        with_(tool(), "x", "action", "properties"),
        "action.properties: is not an object",
    ),
    "arguments that are a list": (
        with_(tool(), {"arguments": []}, "action", "properties"),
        "action.properties.arguments: is not an object",
    ),
    "an agent that has no SPIFFE ID": (
        tool(agent="alice"),
        "subject.id: scheme of 'alice' is not 'spiffe'",
    ),
    "another agent in the context": (
        with_(tool(), {"agent": "spiffe://example.org/agent/other"}, "context"),
        "context.agent: is not the subject, which is an agent itself",
    ),
    "a user without an agent": (
        with_(tool(), {"type": "user", "id": "alice"}, "subject"),
        "context.agent: is missing, and the subject is no agent",
    ),
    "an unknown resource": (
        with_(tool(), "record", "resource", "type"),
        "resource.type: 'record' is neither 'tool' nor 'service'",
    ),
    "an unknown action": (
        with_(tool(), "read", "action", "name"),
        "action.name: of a tool it is tool.call, tools/call or tool: and its name",
    ),
    "a tool that is named twice, differently": (
        with_(tool(), "tool:wipe", "action", "name"),
        "action.name: of a tool it is tool.call, tools/call or tool: and its name",
    ),
    "an SVID": (
        with_(tool(), "svid.issue", "action", "name"),
        "action.name: of a tool it is tool.call, tools/call or tool: and its name",
    ),
    "a service that is called": (
        with_(http(), "tool.call", "action", "name"),
        "action.name: of a service it is http.request",
    ),
    "a request without a path": (
        with_(http(), {"method": "GET"}, "action", "properties"),
        "action.properties.path: is missing, or no text",
    ),
    "a name that cannot be printed": (
        tool("pay\n"),
        NO_PLAIN,
    ),
    "a name that is too long": (tool("x" * 257), NO_PLAIN),
    "nothing": (b"", "body: Expecting value: line 1 column 1 (char 0)"),
    "no JSON": (b"{", "body: Expecting property name enclosed in double quotes: line 1 column 2 (char 1)"),
    "a list": (b"[]", "body: not a JSON object"),
    "no UTF-8": (
        b'{"a": "\xff"}',
        "body: 'utf-8' codec can't decode byte 0xff in position 7: invalid start byte",
    ),
    "a name that stands twice": (
        json.dumps(tool()).encode()[:-1] + b', "subject": {"type": "agent", "id": "x"}}',
        "body: a name stands twice",
    ),
    "an inner name that stands twice, once escaped": (
        json.dumps(tool()).encode().replace(b'"id": "pay"', b'"id": "pay", "\\u0069d": "wipe"'),
        "body: a name stands twice",
    ),
    "nesting that fits": (b'{"a":' * 9_000 + b"0" + b"}" * 9_000, "body: nested too deeply"),
    "what is no number": (b'{"a": NaN}', "body: NaN is not JSON"),
}  # fmt: skip


async def test_a_question_that_breaks_a_rule_is_refused_with_field_and_rule(world, gateway):
    for name, (body, message) in REFUSED.items():
        status, header, answer = await gateway.send(body, x_request_id="r1")
        assert (status, answer.decode()) == (400, f"{message}\n"), name
        assert header("x-request-id") == "r1"
    assert not await calls(world)


async def test_a_body_is_declared_as_json(gateway):
    for kind in (None, "", "text/plain", "application/json5", "application/x-www-form-urlencoded"):
        status, _, answer = await gateway.send(tool(), content_type=kind)
        assert (status, answer) == (400, b"Content-Type: is not application/json\n"), kind
    assert (await gateway.send(tool(), content_type="Application/JSON; charset=utf-8"))[0] == 200


async def test_a_body_that_is_too_long_is_not_read(gateway):
    with pytest.raises(HttpError):
        status, _, _ = await gateway.send(tool() | {"pad": "x" * (authzen.MAX_BODY - 100)})
        assert status == 413
        raise HttpError  # or the connection was closed while the client still wrote


async def test_the_identifier_of_a_request_comes_back_and_is_recorded(world, gateway):
    _, header, _ = await gateway.send(tool(), x_request_id="bfe9eb29-ab87")
    assert header("x-request-id") == "bfe9eb29-ab87"
    _, header, _ = await gateway.send(tool())
    assert header("x-request-id") == ""
    first, second = await calls(world)
    assert first.detail["request"] == "bfe9eb29-ab87"
    assert "request" not in second.detail


@pytest.mark.parametrize("identifier", ["x" * 129, b"\xe9"], ids=["long", "no ASCII"])
async def test_an_identifier_that_no_header_of_ours_can_have_is_refused(gateway, identifier):
    """It may be one that an agent chose: the gateway has to hear something."""
    status, header, answer = await gateway.send(tool(), x_request_id=identifier)
    assert (status, header("x-request-id")) == (400, "")
    assert answer == b"X-Request-ID: is there twice, or not at most 128 characters of ASCII\n"


async def several(gateway, *evaluations, semantic=None, **defaults):
    options = {} if semantic is None else {"options": {"evaluations_semantic": semantic}}
    answer = await gateway.ask({**defaults, **options, "evaluations": list(evaluations)}, EVALUATIONS)
    assert answer.keys() == {"evaluations"}
    return answer["evaluations"]


def resources(*names):
    return [{"resource": {"type": "tool", "id": name}} for name in names]


DEFAULTS = {name: tool()[name] for name in ("subject", "action", "resource")}


@pytest.mark.parametrize(
    ("semantic", "decisions"),
    [
        (None, [True, False, True]),
        ("execute_all", [True, False, True]),
        ("deny_on_first_deny", [True, False]),
        ("permit_on_first_permit", [True]),
    ],
)
async def test_several_decisions_go_as_far_as_was_asked(world, gateway, semantic, decisions):
    answers = await several(gateway, *resources("pay", "wipe", "pay"), semantic=semantic, **DEFAULTS)
    assert [answer["decision"] for answer in answers] == decisions
    assert [record.outcome is Outcome.OK for record in await calls(world)] == decisions


async def test_defaults_are_replaced_whole(gateway):
    other = {"action": {"name": "tool.call"}, "resource": {"type": "tool", "id": "wipe"}}
    answers = await several(gateway, {}, other, {"resource": {"type": "tool"}}, {"action": None}, **DEFAULTS)
    assert [answer["decision"] for answer in answers] == [True, False, False, False]
    errors = [answer["context"].get("error") for answer in answers]
    assert errors[:2] == [None, None]
    assert errors[2] == {"status": 400, "message": "resource.id: is missing, or no text"}
    assert errors[3] == {"status": 400, "message": "action: is missing"}


async def test_what_is_wrong_with_one_of_several_is_its_own_denial_and_stops_where_a_denial_does(gateway):
    (first, second) = await several(gateway, tool(), {}, tool(), semantic="deny_on_first_deny")
    assert (first["decision"], second["decision"]) == (True, False)
    (none,) = await several(gateway, "x")
    assert none["context"]["error"]["message"] == "evaluations: has a member that is no object"


@pytest.mark.parametrize("evaluations", [{}, {"evaluations": []}], ids=str)
async def test_without_several_questions_there_is_one(gateway, evaluations):
    assert (await gateway.ask(tool() | evaluations, EVALUATIONS))["decision"] is True


NO_LIST = "evaluations: is not a list of at most 50"
NO_SEMANTIC = (
    "options.evaluations_semantic: is none of execute_all, deny_on_first_deny, permit_on_first_permit"
)


async def test_several_questions_that_are_none_are_refused(gateway):
    for changes, message in (
        ({"evaluations": {}}, NO_LIST),
        ({"evaluations": "all"}, NO_LIST),
        ({"evaluations": [{}] * 51}, NO_LIST),
        ({"evaluations": [{}], "options": []}, "options: is not an object"),
        ({"evaluations": [{}], "options": {"evaluations_semantic": "all"}}, NO_SEMANTIC),
        ({"evaluations": [{}], "options": {"evaluations_semantic": ["execute_all"]}}, NO_SEMANTIC),
    ):
        status, _, answer = await gateway.send(tool() | changes, EVALUATIONS)
        assert (status, answer.decode()) == (400, f"{message}\n")


async def test_fifty_are_decided_at_once(gateway):
    answers = await several(gateway, *resources(*["pay"] * 50), **DEFAULTS)
    assert {answer["decision"] for answer in answers} == {True}


async def test_the_metadata_say_where_to_ask(gateway):
    status, header, answer = await gateway.send(b"", METADATA, method="GET")
    assert (status, header("content-type")) == (200, "application/json")
    assert json.loads(answer) == {
        "policy_decision_point": URL,
        "access_evaluation_endpoint": f"{URL}/access/v1/evaluation",
        "access_evaluations_endpoint": f"{URL}/access/v1/evaluations",
    }
    assert (await gateway.send(b"{}", METADATA))[0] == 405
    assert (await gateway.send(b"", "/access/v1/evaluation", method="GET"))[0] == 405


async def test_without_a_url_there_are_no_metadata(world):
    async with serving(world, a_table(url="")) as table:
        gateway = Gateway(world, table.authzen_port, await world.sign("/gateway"))
        assert (await gateway.send(b"", METADATA, method="GET"))[0] == 404


ODD = [
    "/",
    "/access/v1/evaluation/",
    "/access/v1/evaluation?x",
    "//access/v1/evaluation",
    "/access/v1/search/subject",
    "/access/v1/%65valuation",
    "/Access/v1/evaluation",
    "/access/v1/./evaluation",
]


async def test_an_odd_path_is_nobodys(gateway):
    for target in ODD:
        status, _, answer = await gateway.send(tool(), target)
        assert (status, answer.decode()) == (403, f"authorization denied for method {target}\n")


# The mapping of MCP, and HTTP requests.


@pytest.mark.parametrize("action", ["tools/call", "tool:pay", "tool.call"])
async def test_an_mcp_gateway_asks_for_a_user_with_the_agent_in_the_context(world, gateway, action):
    asked = {
        "subject": {"type": "identity", "id": "alice@example.com"},
        "action": {"name": action},
        "resource": {"type": "tool", "id": "pay"},
        "context": {"agent": PAYER},
    }
    assert (await gateway.ask(asked))["decision"] is True
    (record,) = await calls(world)
    assert (record.subject, record.detail["user"]) == (PAYER, "alice@example.com")
    assert record.detail["user_type"] == "identity"
    asked["context"]["agent"] = "spiffe://example.org/agent/other"
    assert (await gateway.ask(asked))["decision"] is False


async def test_an_agent_in_the_context_has_a_spiffe_id(gateway):
    asked = tool() | {"subject": {"type": "user", "id": "alice"}, "context": {"agent": "bot"}}
    status, _, answer = await gateway.send(asked)
    assert status == 400
    assert answer == b"context.agent: scheme of 'bot' is not 'spiffe'\n"


async def test_http_requests_are_judged_by_service_method_and_path(world, gateway):
    await put(
        world,
        'permit(principal in Team::"treasury", action == Action::"http.request",'
        ' resource == Service::"invoices")'
        ' when { context.http.method == "GET" && context.http.path like "/v1/*" };',
        "web",
    )
    assert (await gateway.ask(http("GET", "/v1/7?secret=hunter2")))["decision"] is True
    assert (await gateway.ask(http("PUT", "/v1/7")))["decision"] is False
    assert (await gateway.ask(http("GET", "/v2/7")))["decision"] is False
    assert (await gateway.ask(http("GET", "/v1/7", "payments")))["decision"] is False
    first = (await calls(world))[0]
    assert (first.detail["service"], first.detail["method"]) == ("invoices", "GET")
    assert "hunter2" not in str(first)
    assert "/v1/7" not in str(first)
    assert "judged" not in first.detail


async def test_a_path_that_can_be_read_in_two_ways_is_denied_and_recorded(world, gateway):
    """The agent wrote it: an error might be what lets it pass."""
    await put(world, "permit(principal, action, resource);", "all")
    for twisted in (http(path="/public/../admin"), http(path="/é"), http(method="get")):
        assert (await gateway.ask(twisted))["decision"] is False
    first, *others = await calls(world)
    assert {record.type for record in (first, *others)} == {"call.denied"}
    assert (first.reason, first.policy) == ("action.properties.path: has an empty segment, '.' or '..'", None)
    assert len(others) == 2


# Who is denied, and who may not even ask.


async def test_each_decision_is_recorded_with_what_it_rested_on(world, gateway):
    await gateway.ask(tool())
    answer = await gateway.ask(tool("wipe"))
    allowed, denied = await calls(world)
    assert (allowed.type, allowed.outcome, allowed.actor) == ("call.allowed", Outcome.OK, GATEWAY)
    assert (allowed.subject, allowed.agent.owner) == (PAYER, "https://idp.example.org|alice")
    assert (allowed.policy.bundle, allowed.policy.ids) == (world.policy.hash, ("p#1",))
    assert (allowed.act, allowed.detail["tool"]) == ("/access/v1/evaluation", "pay")
    assert allowed.detail["judged"]["resources"] == [["Tool", "pay"]]
    assert (denied.type, denied.outcome, denied.reason) == (
        "call.denied",
        Outcome.DENIED,
        "no policy permits it",
    )
    assert denied.policy.eval_id == answer["context"]["eval_id"]
    assert allowed.peer.ip == "127.0.0.1"


async def test_calls_are_decided_again_by_policies_as_they_might_be(world, gateway):
    for name in ("pay", "wipe"):
        await gateway.ask(tool(name))
    await gateway.ask(http())  # paths are not recorded, so it cannot be decided again
    policies = policy_pb2_grpc.PolicyStub(await world.local())
    change = policy_pb2.PolicyChange(name="p", text=PAY.replace("pay", "wipe"))
    answer = await policies.Simulate(policy_pb2.SimulatePoliciesRequest(changes=[change]), timeout=60)
    assert (answer.decided, answer.undecided, answer.flipped) == (2, 0, 2)
    flips = [(flip.resource_kind, flip.resource, flip.would_be_allowed) for flip in answer.flips]
    assert flips == [("Tool", "pay", False), ("Tool", "wipe", True)]
    gone = policy_pb2.SimulatePoliciesRequest(changes=[policy_pb2.PolicyChange(name="p")])
    assert (await policies.Simulate(gone, timeout=60)).flipped == 1


async def test_a_policy_in_shadow_mode_does_not_count_and_its_decision_is_recorded(world, gateway):
    await put(world, '@mode("shadow") forbid(principal, action, resource);', "later")
    assert (await gateway.ask(tool()))["decision"] is True
    (record,) = await calls(world)
    assert record.detail["shadow"] == {"allowed": False, "ids": ["later#1"]}


@pytest.mark.parametrize("state", [state for state in AgentState if state is not AgentState.ACTIVE])
async def test_an_agent_that_is_not_active_is_denied_whatever_policies_say(world, gateway, state):
    agent = an_agent("/agent/other", state=state)
    await world.database.write(lambda tx: tx.agents.create(agent))
    answer = await gateway.ask(tool(agent=str(agent.spiffe_id)))
    assert answer == {"decision": False, "context": {"reason": f"agent {agent.spiffe_id} is {state}"}}
    (record,) = await calls(world)
    assert (record.outcome, record.policy) == (Outcome.DENIED, None)


@pytest.mark.parametrize(
    "stranger", ["spiffe://example.org/web", "spiffe://other.org/agent/payer", "spiffe://example.org"]
)
async def test_who_is_no_agent_of_ours_is_denied(gateway, stranger):
    answer = await gateway.ask(tool(agent=stranger))
    assert answer["decision"] is False
    assert answer["context"]["reason"] == f"{stranger} is no agent of this trust domain"


async def test_an_agent_is_held_to_its_own_tools_and_arguments_before_any_policy(world, gateway):
    await put(world, "permit(principal, action, resource);")
    tools = Tools.from_value({"pay": {"amount": {"constraint_type": "range", "max": 100}}, "look": {}})
    await world.database.write(
        lambda tx: tx.agents.create(an_agent("/agent/bound", limits=Limits(tools=tools)))
    )
    bound = "spiffe://example.org/agent/bound"
    assert (await gateway.ask(tool("look", agent=bound, at="anything")))["decision"] is True
    assert (await gateway.ask(tool("pay", agent=bound, amount=100)))["decision"] is True
    for asked, reason in (
        (tool("pay", agent=bound, amount=101), "tool 'pay', argument 'amount' is not what range permits"),
        (tool("pay", agent=bound), "tool 'pay', argument 'amount' has to be there, and no other"),
        (tool("wipe", agent=bound), "tool 'wipe' is none of those that may be used"),
    ):
        assert await gateway.ask(asked) == {"decision": False, "context": {"reason": reason}}
    assert (await gateway.ask(http(agent=bound)))["decision"] is True


async def test_a_class_narrows_the_tools_of_its_agents(world, gateway):
    limits = Limits(tools=Tools.from_value({"look": {}}))
    await world.database.write(lambda tx: tx.agents.put_class(AgentClass(name="bots", limits=limits)))
    await world.database.write(lambda tx: tx.agents.create(an_agent("/agent/bot", agent_class="bots")))
    answer = await gateway.ask(tool("pay", agent="spiffe://example.org/agent/bot"))
    assert answer["context"]["reason"] == "tool 'pay' is none of those that may be used"


async def test_an_agent_that_asks_too_much_is_denied_unrecorded_and_takes_nothing_from_others(world, clock):
    await world.database.write(lambda tx: tx.agents.create(an_agent("/agent/other")))
    async with serving(world, a_table(agent_decisions_per_second=1.0)) as table:
        gateway = Gateway(world, table.authzen_port, await world.sign("/gateway"))
        decisions = [(await gateway.ask(tool()))["decision"] for _ in range(3)]
        assert decisions == [True, True, False]
        answer = await gateway.ask(tool())
        message = "more decisions are asked for than may be"
        assert answer["context"] == {"error": {"status": 429, "message": message}}
        assert len(await calls(world)) == 2
        assert (await gateway.ask(tool(agent="spiffe://example.org/agent/other")))["decision"] is True
        await clock.advance(timedelta(seconds=1))
        assert (await gateway.ask(tool()))["decision"] is True


async def test_a_gateway_has_a_share_too_however_many_agents_it_names(world):
    async with serving(world, a_table(decisions_per_second=1.5)) as table:
        gateway = Gateway(world, table.authzen_port, await world.sign("/gateway"))
        names = [f"spiffe://example.org/{number}" for number in range(5)]
        answers = await several(gateway, *[tool(agent=name) for name in names])
        assert [answer["context"].get("error", {}).get("status") for answer in answers] == [None] * 3 + [
            429
        ] * 2
        assert len(await calls(world)) == 3


async def test_decisions_are_counted(world):
    counted = CollectorRegistry()
    async with serving(world, a_table(), counted) as table:
        gateway = Gateway(world, table.authzen_port, await world.sign("/gateway"))
        await gateway.ask(tool())
        await gateway.ask(tool("wipe"))
    labels = {"endpoint": "/access/v1/evaluation"}
    for status in ("200", "403"):
        assert counted.get_sample_value("issuer_decisions_total", labels | {"status": status}) == 1


async def test_without_any_policy_everything_is_denied(place, clock):
    async with World.open(place, clock, gateway_ids=GATEWAY_IDS) as world, serving(world, a_table()) as table:
        await world.database.write(lambda tx: tx.agents.create(an_agent()))
        gateway = Gateway(world, table.authzen_port, await world.sign("/gateway"))
        assert (await gateway.ask(tool()))["context"]["reason"] == "no policy permits it"
        policies = policy_pb2_grpc.PolicyStub(await world.local())
        again = await policies.Simulate(policy_pb2.SimulatePoliciesRequest(), timeout=60)
        assert (again.decided, again.flipped) == (1, 0), "for calls there is no opt-in"


async def test_policies_that_cannot_be_evaluated_deny(world, gateway):
    await put(world, "nonsense", "q")
    assert (await gateway.ask(tool()))["context"]["reason"] == "policies cannot be evaluated"


async def test_a_decision_that_cannot_be_recorded_is_a_denial_and_no_error(world, gateway):
    await world.lose_the_trail()
    answer = await gateway.ask(tool())
    assert answer == {
        "decision": False,
        "context": {"error": {"status": 503, "message": "the decision could not be recorded"}},
    }
    answers = await several(gateway, {}, *resources("pay"), **{k: DEFAULTS[k] for k in ("subject", "action")})
    assert [one["context"]["error"]["status"] for one in answers] == [400, 503]


async def test_while_the_trail_cannot_be_sealed_everything_is_denied(world, gateway):
    world.database.refuse_records("the disk is full")
    assert (await gateway.ask(tool()))["context"]["error"]["status"] == 503
    world.database.refuse_records("")
    assert (await gateway.ask(tool()))["decision"] is True


async def test_a_policy_that_changes_counts_at_once(world, gateway):
    assert (await gateway.ask(tool()))["decision"] is True
    await put(world, "forbid(principal, action, resource);", "stop")
    assert (await gateway.ask(tool()))["context"]["reason"] == "policy stop#1 forbids it"


# Who may ask.


async def refusal(world, table, svid):
    status, _, answer = await Gateway(world, table.authzen_port, svid).send(tool())
    return status, answer.decode()


DENIED = (403, "authorization denied for method /access/v1/evaluation\n")


async def an_agent_itself(world):
    return await world.sign("/agent/payer")


async def an_administrator(world):
    await world.entry("/admin", admin=True)
    return await world.sign("/admin")


async def the_issuer(world):
    return world.identity.x509_svid()


async def a_node(world):
    return await world.node()


async def a_longer_name(world):
    return await world.sign("/gateway/x")


async def a_namesake_in_a_federated_trust_domain(world):
    ca = TestCA("partner.org", now=world.clock.now())
    await world.database.write(lambda tx: tx.bundles.put(ca.bundle))
    return ca.issue("spiffe://partner.org/gateway")


@pytest.mark.parametrize(
    "caller",
    [
        an_agent_itself,
        an_administrator,
        the_issuer,
        a_node,
        a_longer_name,
        a_namesake_in_a_federated_trust_domain,
    ],
)
async def test_whoever_is_no_gateway_may_not_ask(world, table, caller):
    assert await refusal(world, table, await caller(world)) == DENIED
    assert not await calls(world)


async def test_a_banned_node_may_not_ask(world, table):
    assert await refusal(world, table, await world.node(serial="")) == (403, "node is banned\n")


async def test_without_a_certificate_nobody_asks(world, table):
    gateway = Gateway(world, table.authzen_port, None)
    with pytest.raises(HttpError):
        await gateway.send(tool())


async def test_with_an_older_tls_nobody_asks(world, table):
    gateway = Gateway(world, table.authzen_port, await world.sign("/gateway"))
    gateway.context.maximum_version = ssl.TLSVersion.TLSv1_2
    with pytest.raises(HttpError):
        await gateway.send(tool())


async def test_a_certificate_of_somebody_else_opens_nothing(world, table):
    stranger = TestCA("example.org", now=world.clock.now()).issue(GATEWAY)
    with pytest.raises(HttpError):
        await Gateway(world, table.authzen_port, stranger).send(tool())


async def test_a_certificate_that_is_no_svid_is_refused(world, table):
    ca = TestCA("example.org", now=world.clock.now())
    bundle = world.registrations.bundle(TRUST_DOMAIN)
    both = replace(bundle, x509_authorities=(*bundle.x509_authorities, *ca.bundle.x509_authorities))
    await world.database.write(lambda tx: tx.bundles.put(both))
    odd = ca.issue(GATEWAY, purposes=())
    assert await refusal(world, table, odd) == (401, "client certificate refused\n")


async def test_a_gateway_whose_certificate_is_taken_back_may_not_ask_even_on_an_open_connection(
    world, table, clock
):
    svid = await world.sign("/gateway")
    async with Keeping.open(world, table, svid) as connection:
        assert await connection.ask(tool()) == 200
        revoked = Revocation(
            kind=RevocationKind.CERTIFICATE,
            key=str(svid.serial_number),
            spiffe_id=svid.spiffe_id,
            at=clock.now(),
            until=svid.expires_at,
            reason=RevocationReason.KEY_COMPROMISE,
        )
        await world.database.write(lambda tx: tx.revocations.put(revoked))
        assert await connection.ask(tool()) == 403
        assert await connection.ended()
    assert await refusal(world, table, svid) == (403, "client certificate is revoked\n")


async def test_a_gateway_that_is_a_suspended_agent_may_not_ask(world, table):
    gateway = an_agent("/gateway", state=AgentState.SUSPENDED)
    await world.database.write(lambda tx: tx.agents.create(gateway))
    svid = await world.sign("/gateway")
    assert await refusal(world, table, svid) == DENIED


async def test_a_certificate_that_expires_ends_the_standing_of_an_open_connection(world, table, clock):
    svid = await world.sign("/gateway", ttl=timedelta(minutes=5))
    async with Keeping.open(world, table, svid) as connection:
        assert await connection.ask(tool()) == 200
        await clock.advance(timedelta(minutes=6))
        assert await connection.ask(tool()) == 401


async def test_an_open_connection_falls_with_the_authority_that_vouched_for_it(world, table):
    first = world.authorities.slots(AuthorityKind.X509).active
    svid = await world.sign("/gateway")
    async with Keeping.open(world, table, svid) as connection:
        assert await connection.ask(tool()) == 200
        prepared = await world.authorities.prepare(AuthorityKind.X509)
        await world.authorities.activate(AuthorityKind.X509, prepared.id)
        await world.identity.refresh()
        assert await connection.ask(tool()) == 200
        await world.authorities.taint(AuthorityKind.X509, first.id)
        await world.authorities.revoke(AuthorityKind.X509, first.id)
        assert await connection.ask(tool()) == 401
    fresh = Gateway(world, table.authzen_port, await world.sign("/gateway"))
    assert (await fresh.ask(tool()))["decision"] is True, "whom the new authority vouches for is let in"


async def test_what_goes_wrong_inside_is_told_without_its_inside(world, gateway, monkeypatch, caplog):
    def fail(*_):
        raise ZeroDivisionError("hunter2")

    monkeypatch.setattr(world.policy, "judge_call", fail)
    status, header, answer = await gateway.send(tool(), x_request_id="r1")
    assert (status, answer, header("x-request-id")) == (500, b"internal error\n", "r1")
    (said,) = [record for record in caplog.records if record.name == "issuer.api.authzen"]
    assert (said.message, said.request) == ("question failed", "r1")

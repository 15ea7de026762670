# SPDX-License-Identifier: Apache-2.0
"""Policy at the issuer: asked before each SVID of an agent, recorded with it, and tried before it counts."""

from datetime import timedelta

import grpc
import pytest

from issuer.api import policy as policy_api
from issuer.governance import policy_bundles
from issuer.model import AttestationLevel, Outcome
from spiffekit.bundle import BundleSet
from spiffekit.policy import PolicyBook, PolicyBundle
from spiffekit.wire.pb.issuer.v1 import policy_pb2, policy_pb2_grpc
from spiffekit.wire.pb.spire.api.server.svid.v1 import svid_pb2, svid_pb2_grpc
from tests.issuer.strategies import an_agent
from tests.issuer_api.test_evidence import evidence, sign
from tests.issuer_api.test_svid import request, uri
from tests.issuer_api.world import TRUST_DOMAIN, csr, id_message, spiffe_id
from tests.spiffekit.policy.asked import ALL, NONE

PAYER = "spiffe://example.org/agent/payer"
SELECTED = (
    "permit(principal, action, resource) when { context has attest && context.attest has selectors"
    ' && context.attest.selectors.contains("a:b") };'
)
PROVED = "permit(principal, action, resource) when { context has attest && context.attest.level >= 2 };"


@pytest.fixture
async def policies(world):
    return policy_pb2_grpc.PolicyStub(await world.local())


@pytest.fixture
async def node(world):
    """What the node n1 asks for SVIDs by; it has an entry of an agent and one that nobody owns."""
    await world.entry("/agent/payer")
    await world.entry("/web")
    await world.database.write(lambda tx: tx.agents.create(an_agent(team="treasury")))
    return svid_pb2_grpc.SVIDStub(await world.dial(await world.node("n1", level=AttestationLevel.PLATFORM)))


def put(policies, text, name="p", **fields):
    return policies.Put(policy_pb2.PutPolicyRequest(name=name, text=text, reason="because", **fields))


async def ask(node, clock, *entries):
    params = [
        svid_pb2.NewX509SVIDParams(entry_id=entry, csr=csr(), evidence=evidence(clock))
        for entry in entries or ["agent-payer"]
    ]
    answer = await node.BatchNewX509SVID(svid_pb2.BatchNewX509SVIDRequest(params=params))
    return [(result.status.code, result.status.message) for result in answer.results]


def jwt(node, clock, *audience):
    return node.NewJWTSVID(
        svid_pb2.NewJWTSVIDRequest(entry_id="agent-payer", audience=audience, evidence=evidence(clock))
    )


def refused(code, message):
    return pytest.raises(grpc.aio.AioRpcError, match=f'{code}(.|\n)*details = "{message}')


OK = (0, "OK")
DENIED = (7, f"agent {PAYER}: no policy permits it")


async def test_policy_is_opt_in_and_closed_from_then_on(policies, node, clock):
    assert await ask(node, clock) == [OK]
    await put(policies, '@mode("shadow") ' + NONE)
    assert await ask(node, clock) == [OK]
    await put(policies, 'permit(principal in Team::"other", action, resource);')
    assert await ask(node, clock) == [DENIED]
    await policies.Delete(policy_pb2.DeletePolicyRequest(name="p", reason="because"))
    assert await ask(node, clock) == [DENIED]
    await put(policies, ALL)
    assert await ask(node, clock) == [OK]


async def test_what_nobody_owns_is_not_asked_about(policies, node, clock):
    await put(policies, NONE)
    assert await ask(node, clock, "web", "agent-payer") == [OK, (7, f"agent {PAYER}: policy p#1 forbids it")]


async def test_each_decision_is_recorded_with_what_it_rested_on(world, policies, node, clock):
    stored = await put(policies, PROVED)
    listed = await policies.List(policy_pb2.ListPoliciesRequest())
    assert list(listed.policies) == [stored]
    await ask(node, clock)
    await put(policies, NONE, name="q")
    await ask(node, clock)
    issued, denied = [record for record in await world.trail() if record.type.startswith("svid.")]
    assert (issued.type, issued.outcome, issued.policy.ids) == ("svid.issued", Outcome.OK, ("p#1",))
    assert issued.policy.bundle == listed.hash
    assert (denied.type, denied.outcome, denied.policy.ids) == ("svid.refused", Outcome.DENIED, ("q#1",))
    assert denied.reason == f"agent {PAYER}: policy q#1 forbids it"
    assert denied.policy.bundle != issued.policy.bundle
    assert denied.subject == PAYER
    assert denied.agent == issued.agent
    assert denied.attest == issued.attest
    assert denied.credential is None
    assert denied.detail["entry"] == "agent-payer"
    assert denied.detail["judged"]["level"] == 2


async def test_policy_sees_the_evidence_and_the_record_does_not_show_it(world, policies, node, clock):
    await world.entry("/agent/careful", id="careful", evidence_required=True)
    await world.database.write(lambda tx: tx.agents.create(an_agent("/agent/careful")))
    await put(
        policies,
        "permit(principal, action, resource) when { context has attest && context.attest has selectors"
        ' && context.attest.selectors.contains("unix:user:payer") };',
    )
    right = await sign(node, "careful", evidence(clock, "unix:uid:1000", "unix:user:payer"))
    assert right.status.message == "OK"
    wrong = await sign(node, "careful", evidence(clock, "unix:uid:1000", "docker:env:TOKEN=hunter2"))
    assert wrong.status.code == 7
    assert "hunter2" not in str(await world.trail())


async def test_each_audience_of_a_token_is_asked_about(world, policies, node, clock):
    await put(policies, 'permit(principal, action, resource == Audience::"bank");')
    assert (await jwt(node, clock, "bank")).svid.token
    with refused("PERMISSION_DENIED", f"agent {PAYER}: no policy permits it"):
        await jwt(node, clock, "bank", "mail")
    (denied,) = [record for record in await world.trail() if record.outcome is Outcome.DENIED]
    assert denied.detail["judged"]["resources"] == [["Audience", "bank"], ["Audience", "mail"]]
    with refused("INVALID_ARGUMENT", "audience: at least one is required"):
        await jwt(node, clock)


async def test_an_operator_who_mints_is_asked_about_too_and_recorded_once(world, policies, node):
    await put(policies, PROVED)
    minting = svid_pb2_grpc.SVIDStub(await world.local())
    for call in (
        minting.MintX509SVID(svid_pb2.MintX509SVIDRequest(csr=request(uri(PAYER)))),
        minting.MintJWTSVID(svid_pb2.MintJWTSVIDRequest(id=id_message("/agent/payer"), audience=["bank"])),
    ):
        with refused("PERMISSION_DENIED", f"agent {PAYER}: no policy permits it"):
            await call
    denied = [record for record in await world.trail() if record.outcome is Outcome.DENIED]
    assert [(record.type, record.subject) for record in denied] == [("svid.refused", PAYER)] * 2
    assert all(record.policy.bundle and record.actor.startswith("local:") for record in denied)


async def test_a_denial_that_cannot_be_recorded_is_one_all_the_same(world, policies, node, clock):
    await put(policies, NONE)
    await world.lose_the_trail()
    with refused("UNAVAILABLE", ""):
        await ask(node, clock)
    with refused("UNAVAILABLE", ""):
        await jwt(node, clock, "bank")


async def test_policies_hold_after_a_restart(world, policies, node):
    await put(policies, NONE)
    stored = await world.database.read(lambda tx: tx.policies.newest())
    assert stored == world.policy.stored()
    assert await world.database.read(lambda tx: tx.policies.enforced())


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"name": "P"}, "policy 'P': a name is 1 to 64 of"),
        ({"text": ""}, "policy 'p': has no statement"),
        ({"text": "permit(principal, action, resource) when { context.nope };"},
         "policy 'p', statement 1: attribute `nope` in context for Action::"),
        ({"text": "x" * 40_000}, "policy 'p': is longer than 32768 bytes"),
        ({"text": "(" * 1000}, "policy 'p': has more than 200 opening brackets; split it"),
        ({"reason": ""}, "reason: "),
    ],
)  # fmt: skip
async def test_a_policy_that_breaks_a_rule_is_not_stored(world, policies, fields, message):
    with refused("INVALID_ARGUMENT", message):
        await policies.Put(policy_pb2.PutPolicyRequest(**{"name": "p", "text": ALL, "reason": "x"} | fields))
    assert world.policy.version == 0


async def test_policies_that_are_too_many_together_are_not_stored(world, policies):
    for number in range(40):
        await put(policies, ALL * 50, f"p{number}")
    with refused("INVALID_ARGUMENT", "policy 'q': there are more than 2000 statements"):
        await put(policies, ALL, "q")
    assert (await policies.List(policy_pb2.ListPoliciesRequest())).version == 40


async def test_nobodys_change_is_lost(policies):
    assert (await put(policies, ALL)).version == 1
    assert (await put(policies, NONE, replaces=1)).version == 2
    with refused("FAILED_PRECONDITION", "policy 'p' is at version 2, not 1"):
        await put(policies, ALL, replaces=1)


async def test_earlier_versions_can_be_read(policies):
    await put(policies, ALL)
    await put(policies, NONE)
    ended = await policies.Delete(policy_pb2.DeletePolicyRequest(name="p", reason="because"))
    assert (ended.version, ended.deleted, ended.text) == (3, True, "")
    texts = [
        (await policies.Get(policy_pb2.GetPolicyRequest(name="p", version=n))).text for n in (0, 1, 2, 3)
    ]
    assert texts == ["", ALL, NONE, ""]
    assert not (await policies.List(policy_pb2.ListPoliciesRequest())).policies


@pytest.mark.parametrize("call", ["Get", "Delete"])
async def test_what_is_not_there_is_not_found(policies, call):
    kind = {"Get": policy_pb2.GetPolicyRequest, "Delete": policy_pb2.DeletePolicyRequest}[call]
    fields = {"reason": "because"} if call == "Delete" else {}
    with refused("NOT_FOUND", "policy 'p' does not exist"):
        await getattr(policies, call)(kind(name="p", **fields))


async def test_without_the_engine_nothing_is_stored(policies, monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "cedarpy", None)
    with refused("FAILED_PRECONDITION", "policies need cedarpy: install the extra 'policy'"):
        await put(policies, ALL)


# What would be.


def a_test(**fields):
    return policy_pb2.TestPoliciesRequest(spiffe_id=PAYER, **fields)


def a_change(text, name="p"):
    return policy_pb2.PolicyChange(name=name, text=text)


async def test_a_decision_can_be_asked_for(policies, node):
    await put(policies, PROVED + 'permit(principal, action == Action::"tool.call", resource == Tool::"pay");')
    where = {"node": "spiffe://example.org/spire/agent/test/n1", "level": 2}
    answer = await policies.Test(a_test(**where))
    assert (answer.allowed, list(answer.ids), answer.HasField("shadow_allowed")) == (True, ["p#1"], False)
    assert (await policies.Test(a_test(audience="bank", **where))).allowed
    answer = await policies.Test(a_test())
    assert (answer.allowed, answer.reason) == (False, "no policy permits it")
    assert (await policies.Test(a_test(tool="pay"))).allowed
    assert not (await policies.Test(a_test(tool="mail"))).allowed
    web = 'permit(principal, action == Action::"http.request", resource == Service::"web")'
    await put(
        policies, web + ' when { context.http.method == "GET" && context.http.path like "/v1/*" };', "w"
    )
    assert (await policies.Test(a_test(service="web", method="GET", path="/v1/7?x"))).allowed
    assert not (await policies.Test(a_test(service="web", method="PUT", path="/v1/7"))).allowed
    with refused("INVALID_ARGUMENT", "path: has an empty segment, '.' or '..'"):
        await policies.Test(a_test(service="web", method="GET", path="/v1/../7"))


async def test_a_decision_can_be_asked_for_with_changes(policies, node):
    await put(policies, ALL)
    answer = await policies.Test(a_test(changes=[a_change('@mode("shadow") ' + NONE, "q")]))
    assert (answer.allowed, answer.shadow_allowed, list(answer.shadow_ids)) == (True, False, ["q#1"])
    assert not (await policies.Test(a_test(changes=[a_change(NONE)]))).allowed
    assert not (await policies.Test(a_test(changes=[a_change("")]))).allowed
    seen = {"node": "spiffe://example.org/spire/agent/test/n1", "has_evidence": True}
    for some, allowed in ((["a:b"], True), ([], False)):
        answer = await policies.Test(a_test(selectors=some, changes=[a_change(SELECTED)], **seen))
        assert answer.allowed is allowed
    assert (await policies.Test(a_test())).allowed  # nothing was stored


async def test_only_agents_can_be_asked_about(policies, node):
    with refused("NOT_FOUND", "agent spiffe://example.org/web does not exist"):
        await policies.Test(policy_pb2.TestPoliciesRequest(spiffe_id="spiffe://example.org/web"))
    with refused("NOT_FOUND", "policy 'q' does not exist"):
        await policies.Test(a_test(changes=[a_change("", "q")]))
    with refused("INVALID_ARGUMENT", "changes: more than 100"):
        await policies.Test(a_test(changes=[a_change(ALL)] * 101))


def simulate(policies, *changes, **fields):
    return policies.Simulate(policy_pb2.SimulatePoliciesRequest(changes=changes, **fields))


async def test_decisions_of_the_past_are_made_again(world, policies, node, clock):
    await ask(node, clock)  # before there was any policy
    clock.step(timedelta(seconds=10))
    await jwt(node, clock, "bank", "mail")
    since = int(clock.now().timestamp())
    answer = await simulate(policies, a_change('permit(principal, action, resource == Audience::"bank");'))
    assert (answer.decided, answer.flipped, answer.undecided, answer.truncated) == (2, 2, 0, False)
    first, second = answer.flips
    assert (first.spiffe_id, first.resource_kind, first.resource) == (PAYER, "TrustDomain", "example.org")
    assert (first.was_allowed, first.would_be_allowed, first.reason) == (True, False, "no policy permits it")
    assert (second.resource_kind, second.resource) == ("Audience", "mail")
    assert second.at == since
    answer = await simulate(policies, a_change(NONE), since=since)
    assert (answer.decided, list(answer.flips[0].ids)) == (1, ["p#1"])
    assert (await simulate(policies, a_change(ALL))).flipped == 0
    assert (await simulate(policies)).flipped == 0  # nothing was ever enforced


async def test_what_was_denied_would_be_allowed(policies, node, clock):
    await put(policies, NONE)
    await ask(node, clock)
    answer = await simulate(policies, a_change(ALL))
    (flip,) = answer.flips
    assert (flip.was_allowed, flip.would_be_allowed, list(flip.ids)) == (False, True, ["p#1"])
    assert (await simulate(policies)).flipped == 0


async def test_a_shadow_is_tried_as_if_it_counted(policies, node, clock):
    await put(policies, ALL)
    await put(policies, '@mode("shadow") ' + NONE, "q")
    await ask(node, clock)
    assert (await simulate(policies)).flipped == 0
    answer = await simulate(policies, with_shadow=True)
    assert (answer.flipped, list(answer.flips[0].ids)) == (1, ["q#1"])


async def test_what_depends_on_selectors_stays_undecided(world, policies, node, clock):
    await world.entry("/agent/careful", id="careful", evidence_required=True)
    await world.database.write(lambda tx: tx.agents.create(an_agent("/agent/careful")))
    await sign(node, "careful", evidence(clock, "unix:uid:1000"))
    minting = svid_pb2_grpc.SVIDStub(await world.local())  # without evidence
    await minting.MintX509SVID(svid_pb2.MintX509SVIDRequest(csr=request(uri(PAYER))))
    answer = await simulate(policies, a_change(SELECTED))
    assert (answer.decided, answer.undecided, answer.flipped) == (2, 1, 1)


async def test_a_simulation_is_bounded(world, policies, node, clock, monkeypatch):
    for _ in range(5):
        await ask(node, clock)
    monkeypatch.setattr(policy_api, "PAGE", 2)
    assert (await simulate(policies, a_change(NONE))).decided == 5
    monkeypatch.setattr(policy_api, "MAX_EVENTS", 4)
    answer = await simulate(policies, a_change(NONE))
    assert (answer.decided, answer.truncated) == (4, True)
    for since in (-1, int(clock.now().timestamp()) + 1):
        with refused("INVALID_ARGUMENT", "since: is no moment of the past"):
            await simulate(policies, since=since)


# Elsewhere.


async def test_a_tool_server_decides_by_the_bundle(world, policies, node, clock):
    scope = 'principal in Team::"treasury", action == Action::"tool.call", resource == Tool::"pay"'
    await put(policies, f"permit({scope});")
    token = (await policies.GetBundle(policy_pb2.GetPolicyBundleRequest())).token
    bundles = BundleSet(world.registrations.bundles())
    book = PolicyBook(TRUST_DOMAIN)
    bundle = PolicyBundle.verify(token, bundles, now=clock.now())
    book.put(bundle)
    assert bundle.version == 1
    decision = book.decide_tool(spiffe_id("/agent/payer"), "pay", clock.now())
    assert (decision.allowed, decision.bundle) == (True, world.policy.hash)
    assert not book.decide_tool(spiffe_id("/agent/payer"), "mail", clock.now()).allowed
    assert not book.decide_tool(spiffe_id("/web"), "pay", clock.now()).allowed


async def test_a_bundle_that_is_too_large_is_not_signed(policies, node, monkeypatch):
    monkeypatch.setattr(policy_bundles, "MAX_BYTES", 100)
    with refused("FAILED_PRECONDITION", "policies and agents are more than the 100 bytes of a bundle"):
        await policies.GetBundle(policy_pb2.GetPolicyBundleRequest())

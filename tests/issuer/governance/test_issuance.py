# SPDX-License-Identifier: Apache-2.0
"""What may be signed for an identity, by the word of whoever owns it."""

from datetime import timedelta

import pytest

from issuer.errors import NotAuthorizedError, PolicyDeniedError
from issuer.governance.issuance import MAX_AUDIENCES, Governor
from issuer.governance.policy import PolicyJudge
from issuer.model import AgentClass, AgentState, Limits
from issuer.registration import Registrations
from tests.issuer.governance.policies import a_stored
from tests.issuer.strategies import NOW, OURS, an_agent, an_id
from tests.spiffekit.policy.asked import ALL, NONE, an_attest

MINUTE = timedelta(minutes=1)
PAYER = an_id("/agent/payer")


def governor(*agents, classes=(), policies=()):
    registrations = Registrations(OURS)
    registrations.load([], [], agents=agents, classes=classes)
    policy = PolicyJudge()
    policy.load(policies, enforced=any(one.enforced for one in policies))
    return Governor(registrations, policy)


def test_an_identity_that_is_no_agents_passes_as_it_is():
    allowed = governor().allow_x509(PAYER, 60 * MINUTE, NOW)
    assert (allowed.ttl, allowed.owner, dict(allowed.recorded)) == (60 * MINUTE, None, {})
    assert governor().allow_jwt(PAYER, 60 * MINUTE, NOW, audience=["any"]).ttl == 60 * MINUTE


def test_an_agents_svids_are_short_and_name_its_owner():
    agent = an_agent()
    judge = governor(agent)
    allowed = judge.allow_x509(PAYER, 60 * MINUTE, NOW)
    assert (allowed.ttl, allowed.owner) == (15 * MINUTE, agent.owner)
    assert allowed.recorded["agent"] == {"owner": "https://idp.example.org|alice"}
    assert "policy" not in allowed.recorded  # nobody laid any down
    assert allowed.recorded["judged"]["resources"] == [["TrustDomain", "example.org"]]
    assert judge.allow_x509(PAYER, MINUTE, NOW).ttl == MINUTE
    assert judge.allow_jwt(PAYER, 60 * MINUTE, NOW, audience=["any"]).ttl == 5 * MINUTE


def test_its_class_counts():
    bots = AgentClass(name="bots", limits=Limits(jwt_ttl=MINUTE, audiences=("db",)))
    judge = governor(an_agent(agent_class="bots"), classes=[bots])
    allowed = judge.allow_jwt(PAYER, 60 * MINUTE, NOW, audience=["db"])
    assert allowed.ttl == MINUTE
    assert allowed.recorded["agent"]["class"] == "bots"
    for audience in (["web"], ["db", "web"], ["DB"]):
        with pytest.raises(NotAuthorizedError, match=r"^audience: '(web|DB)' is not among those of agent "):
            judge.allow_jwt(PAYER, MINUTE, NOW, audience=audience)


@pytest.mark.parametrize("state", [AgentState.REGISTERED, AgentState.SUSPENDED, AgentState.RETIRED])
def test_nothing_is_signed_for_an_agent_that_is_not_active(state):
    judge = governor(an_agent(state=state))
    for ask in (
        lambda: judge.allow_x509(PAYER, MINUTE, NOW),
        lambda: judge.allow_jwt(PAYER, MINUTE, NOW, audience=["a"]),
    ):
        with pytest.raises(NotAuthorizedError, match=f"^agent {PAYER} is {state}$"):
            ask()


def test_policy_is_not_asked_about_what_is_no_agents():
    allowed = governor(policies=[a_stored(NONE)]).allow_x509(PAYER, MINUTE, NOW)
    assert dict(allowed.recorded) == {}


def test_what_policy_decides_is_recorded_with_what_it_was_asked():
    judge = governor(an_agent(team="treasury"), policies=[a_stored(ALL)])
    recorded = judge.allow_x509(PAYER, MINUTE, NOW, an_attest()).recorded
    assert recorded["policy"].ids == ("p#1",)
    assert len(recorded["policy"].bundle) == 64
    assert recorded["judged"]["team"] == "treasury"
    assert recorded["judged"]["level"] == 2
    again = judge.allow_x509(PAYER, MINUTE, NOW, an_attest()).recorded
    assert again["policy"] == recorded["policy"]  # its evaluation too: it was remembered


def test_every_audience_has_to_be_permitted():
    some = "".join(f'permit(principal, action, resource == Audience::"{name}");' for name in "ab")
    judge = governor(an_agent(), policies=[a_stored(some)])
    recorded = judge.allow_jwt(PAYER, MINUTE, NOW, audience=["a", "b"]).recorded
    assert recorded["policy"].ids == ("p#1", "p#2")
    assert recorded["judged"]["resources"] == [["Audience", "a"], ["Audience", "b"]]
    with pytest.raises(PolicyDeniedError, match=f"^agent {PAYER}: no policy permits it$") as caught:
        judge.allow_jwt(PAYER, MINUTE, NOW, audience=["a", "c"])
    recorded = caught.value.recorded
    assert recorded["id"] == str(PAYER)
    assert recorded["judged"]["resources"] == [["Audience", "a"], ["Audience", "c"]]
    assert recorded["policy"].ids == ()
    with pytest.raises(PolicyDeniedError):
        judge.allow_x509(PAYER, MINUTE, NOW)


def test_an_agents_audience_is_bounded():
    judge = governor(an_agent())
    judge.allow_jwt(PAYER, MINUTE, NOW, audience=["a"] * MAX_AUDIENCES)
    with pytest.raises(NotAuthorizedError, match=f"^audience: agent {PAYER} may name 16 at once$"):
        judge.allow_jwt(PAYER, MINUTE, NOW, audience=["a"] * (MAX_AUDIENCES + 1))


def test_what_a_shadow_would_change_is_recorded_and_does_not_count():
    judge = governor(an_agent(), policies=[a_stored(ALL), a_stored('@mode("shadow") ' + NONE, "q")])
    recorded = judge.allow_x509(PAYER, MINUTE, NOW).recorded
    assert recorded["shadow"] == {"allowed": False, "ids": ["q#1"]}
    judge = governor(an_agent(), policies=[a_stored(ALL), a_stored('@mode("shadow") ' + ALL, "q")])
    assert "shadow" not in judge.allow_x509(PAYER, MINUTE, NOW).recorded


def test_policies_in_shadow_mode_alone_deny_nothing():
    shadow = a_stored('@mode("shadow") ' + NONE, enforced=False)
    recorded = governor(an_agent(), policies=[shadow]).allow_x509(PAYER, MINUTE, NOW).recorded
    assert recorded["policy"].ids == ()
    assert recorded["shadow"] == {"allowed": False, "ids": ["p#1"]}

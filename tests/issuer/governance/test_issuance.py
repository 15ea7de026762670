# SPDX-License-Identifier: Apache-2.0
"""What may be signed for an identity, by the word of whoever owns it."""

from datetime import timedelta

import pytest

from issuer.errors import NotAuthorizedError
from issuer.governance.issuance import Governor
from issuer.model import AgentClass, AgentState, Limits
from issuer.registration import Registrations
from tests.issuer.strategies import OURS, an_agent, an_id

MINUTE = timedelta(minutes=1)
PAYER = an_id("/agent/payer")


def governor(*agents, classes=()):
    registrations = Registrations(OURS)
    registrations.load([], [], agents=agents, classes=classes)
    return Governor(registrations)


def test_an_identity_that_is_no_agents_passes_as_it_is():
    allowed = governor().allow_x509(PAYER, 60 * MINUTE)
    assert (allowed.ttl, allowed.owner, dict(allowed.recorded)) == (60 * MINUTE, None, {})
    assert governor().allow_jwt(PAYER, 60 * MINUTE, ["any"]).ttl == 60 * MINUTE


def test_an_agents_svids_are_short_and_name_its_owner():
    agent = an_agent()
    judge = governor(agent)
    allowed = judge.allow_x509(PAYER, 60 * MINUTE)
    assert (allowed.ttl, allowed.owner) == (15 * MINUTE, agent.owner)
    assert allowed.recorded == {"agent": {"owner": "https://idp.example.org|alice"}}
    assert judge.allow_x509(PAYER, MINUTE).ttl == MINUTE
    assert judge.allow_jwt(PAYER, 60 * MINUTE, ["any"]).ttl == 5 * MINUTE


def test_its_class_counts():
    bots = AgentClass(name="bots", limits=Limits(jwt_ttl=MINUTE, audiences=("db",)))
    judge = governor(an_agent(agent_class="bots"), classes=[bots])
    allowed = judge.allow_jwt(PAYER, 60 * MINUTE, ["db"])
    assert allowed.ttl == MINUTE
    assert allowed.recorded["agent"]["class"] == "bots"
    for audience in (["web"], ["db", "web"], ["DB"]):
        with pytest.raises(NotAuthorizedError, match=r"^audience: '(web|DB)' is not among those of agent "):
            judge.allow_jwt(PAYER, MINUTE, audience)


@pytest.mark.parametrize("state", [AgentState.REGISTERED, AgentState.SUSPENDED, AgentState.RETIRED])
def test_nothing_is_signed_for_an_agent_that_is_not_active(state):
    judge = governor(an_agent(state=state))
    for ask in (lambda: judge.allow_x509(PAYER, MINUTE), lambda: judge.allow_jwt(PAYER, MINUTE, ["a"])):
        with pytest.raises(NotAuthorizedError, match=f"^agent {PAYER} is {state}$"):
            ask()

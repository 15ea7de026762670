# SPDX-License-Identifier: Apache-2.0
"""Agents in the store: what can happen to them, and what never can."""

import re
from dataclasses import replace
from datetime import timedelta

import pytest
import sqlalchemy as sa
from hypothesis import given

from issuer.errors import AlreadyExistsError, FailedPreconditionError, NotFoundError, StoreError
from issuer.model import AgentClass, AgentState, ChangeKind, Limits
from issuer.store.schema import agents
from spiffekit.delegation.tools import Tools
from tests.issuer.store.test_round_trips import ONE_DATABASE, tried
from tests.issuer.strategies import an_agent, an_entry, an_id, any_agents, any_classes

PAYER = an_id("/agent/payer")


def refused(kind, message):
    return pytest.raises(kind, match=f"^{re.escape(message)}$")


async def put(database, agent):
    return await database.write(lambda tx: tx.agents.create(agent))


async def in_state(database, state):
    """An agent that has come to a state by the way that leads there."""
    agent = await put(database, an_agent(state=AgentState.REGISTERED))
    ways = {AgentState.REGISTERED: [], AgentState.SUSPENDED: [AgentState.ACTIVE, AgentState.SUSPENDED]}
    for step in ways.get(state, [state]):
        agent = await database.write(lambda tx, a=agent, s=step: tx.agents.update(replace(a, state=s)))
    return agent


@given(agent=any_agents)
@ONE_DATABASE
async def test_an_agent_comes_out_as_it_went_in(database, agent):
    stored, found = await tried(
        database, lambda tx: (tx.agents.create(agent), tx.agents.find(agent.spiffe_id))
    )
    assert stored == found == replace(agent, version=1)


@given(agent_class=any_classes)
@ONE_DATABASE
async def test_a_class_comes_out_as_it_went_in(database, agent_class):
    found = await tried(
        database, lambda tx: (tx.agents.put_class(agent_class), tx.agents.get_class(agent_class.name))
    )
    assert found == (agent_class, agent_class)


async def test_an_agent_whose_tools_cannot_be_read_may_use_none(database):
    await put(database, an_agent(limits=Limits(tools=Tools.from_value({"mail": {}}))))
    of_the_future = '"tools":{"mail":{"to":{"constraint_type":"of the future"}}}'
    changed = agents.update().values(
        body=sa.func.replace(agents.c.body, '"tools":{"mail":{}}', of_the_future)
    )
    await database.write(lambda tx: tx._connection.execute(changed))
    found = await database.read(lambda tx: tx.agents.get(PAYER))
    assert found.limits == Limits(tools=Tools({}))


@pytest.mark.parametrize("after", AgentState)
@pytest.mark.parametrize("before", AgentState)
async def test_only_the_ways_of_the_life_cycle_are_open(database, before, after):
    agent = await in_state(database, before)
    allowed = {
        ("registered", "active"), ("active", "suspended"), ("suspended", "active"),
        ("registered", "retired"), ("active", "retired"), ("suspended", "retired"),
        ("registered", "registered"), ("active", "active"), ("suspended", "suspended"),
    }  # fmt: skip
    change = database.write(lambda tx: tx.agents.update(replace(agent, state=after)))
    if (before, after) in allowed:
        assert (await change).version == agent.version + 1
    elif before is AgentState.RETIRED:
        with refused(FailedPreconditionError, f"agent {PAYER} is retired, for ever"):
            await change
    else:
        with refused(FailedPreconditionError, f"agent {PAYER} is {before}: it cannot become {after}"):
            await change


@pytest.mark.parametrize("state", AgentState)
async def test_a_spiffe_id_is_given_once_for_ever(database, state):
    await in_state(database, state)
    with refused(AlreadyExistsError, f"agent {PAYER} exists, and is {state}"):
        await put(database, an_agent())


@pytest.mark.parametrize(
    "statement",
    [
        agents.delete(),
        agents.update().values(state="active"),
        agents.update().values(spiffe_id="spiffe://example.org/other"),
    ],
    ids=["forgotten", "brought back", "renamed"],
)
async def test_the_database_itself_keeps_who_is_retired(database, statement):
    await in_state(database, AgentState.RETIRED)
    with pytest.raises(StoreError, match=r"an agent (is never forgotten|keeps its SPIFFE ID, and stays)"):
        await database.write(lambda tx: tx._connection.execute(statement))
    assert (await database.read(lambda tx: tx.agents.get(PAYER))).state is AgentState.RETIRED


async def test_a_state_that_we_do_not_know_counts_as_suspended(database):
    await put(database, an_agent())
    odd = agents.update().values(state="privileged")
    await database.write(lambda tx: tx._connection.execute(odd))
    assert (await database.read(lambda tx: tx.agents.get(PAYER))).state is AgentState.SUSPENDED


async def test_versions_count_the_changes_of_all_agents(database):
    first = await put(database, an_agent())
    second = await put(database, an_agent("/agent/other"))
    third = await database.write(lambda tx: tx.agents.update(replace(first, team="new")))
    assert [first.version, second.version, third.version] == [1, 2, 3]
    assert await database.read(lambda tx: [a.version for a in tx.agents.all()]) == [2, 3]


async def test_entries_of_an_agent_change_when_its_state_does(database):
    told = []
    database.on_commit.append(lambda changes: told.extend((c.kind, c.key) for c in changes))
    of_agent = an_entry("of agent", spiffe_id=PAYER)
    await database.write(lambda tx: [tx.entries.create(e) for e in (of_agent, an_entry("other"))])
    told.clear()
    agent = await put(database, an_agent())
    assert told == [(ChangeKind.AGENT, str(PAYER)), (ChangeKind.ENTRY, "of agent")]
    told.clear()
    await database.write(lambda tx: tx.agents.update(replace(agent, team="new")))
    assert told == [(ChangeKind.AGENT, str(PAYER))]
    told.clear()
    await database.write(lambda tx: tx.agents.update(replace(agent, state=AgentState.RETIRED)))
    assert told == [(ChangeKind.AGENT, str(PAYER)), (ChangeKind.ENTRY, "of agent")]


async def test_what_is_not_there_is_not_found(database):
    with refused(NotFoundError, f"agent {PAYER} does not exist"):
        await database.read(lambda tx: tx.agents.get(PAYER))
    with refused(NotFoundError, "class 'bots' does not exist"):
        await put(database, an_agent(agent_class="bots"))
    with refused(NotFoundError, "class 'bots' does not exist"):
        await database.write(lambda tx: tx.agents.delete_class("bots"))


async def test_a_class_stays_while_an_agent_is_of_it(database):
    told = []
    bots = AgentClass(name="bots")
    await database.write(lambda tx: tx.agents.put_class(bots))
    await put(database, an_agent(agent_class="bots"))
    with refused(FailedPreconditionError, f"class 'bots': agent {PAYER} belongs to it"):
        await database.write(lambda tx: tx.agents.delete_class("bots"))
    database.on_commit.append(lambda changes: told.extend((c.kind, c.key, c.value) for c in changes))
    changed = replace(bots, two_people=True, review_every=timedelta(days=90))
    await database.write(lambda tx: tx.agents.put_class(changed))
    other = AgentClass(name="other")
    await database.write(lambda tx: tx.agents.put_class(other))
    await database.write(lambda tx: tx.agents.delete_class("other"))
    assert await database.read(lambda tx: list(tx.agents.classes())) == [changed]
    assert told == [
        (ChangeKind.AGENT_CLASS, "bots", changed),
        (ChangeKind.AGENT_CLASS, "other", other),
        (ChangeKind.AGENT_CLASS, "other", None),
    ]


async def test_a_database_of_the_first_schema_gets_agents(tmp_path, clock):
    """What an older issuer wrote is taken over."""
    from alembic import command
    from alembic.config import Config

    from issuer.store import Database
    from issuer.store.database import _MIGRATIONS

    path = tmp_path / "old.db"
    config = Config()
    config.set_main_option("script_location", str(_MIGRATIONS))
    engine = sa.create_engine(f"sqlite:///{path}")
    with engine.begin() as connection:
        config.attributes["connection"] = connection
        command.upgrade(config, "0001")
    engine.dispose()
    database = Database.open(path, clock=clock)
    try:
        assert (await put(database, an_agent())).version == 1
    finally:
        database.close()

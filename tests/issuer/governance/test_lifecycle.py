# SPDX-License-Identifier: Apache-2.0
"""Who may take which step in an agent's life, and what happens to agents that nobody looks after."""

import asyncio
import re
from dataclasses import replace
from datetime import timedelta

import pytest

from issuer.errors import FailedPreconditionError, InvalidRequestError, NotAuthorizedError, StoreError
from issuer.governance.lifecycle import EVERY, Caretaker, Lifecycle
from issuer.governance.people import People
from issuer.model import AgentClass, AgentState, Limits, Owner
from tests.issuer.governance.people import ALICE, BOB, IDP, listed, user, write
from tests.issuer.strategies import NOW, an_agent, an_id

HOUR, DAY = timedelta(hours=1), timedelta(days=1)
ROOT, ANN = "local:uid=0,pid=7", "local:uid=1000,pid=8"
PAYER = an_id("/agent/payer")
TWO = AgentClass(name="two", two_people=True, review_every=90 * DAY)
STEP = {"reason": "because", "now": NOW + HOUR}


@pytest.fixture
def file(tmp_path):
    return tmp_path / "people.json"


@pytest.fixture
async def people(file):
    write(file, user("alice", "local:uid=1000", groups=["team"]), user("root", "local:uid=0", "local:uid=5"))
    people = listed(file)
    await people.reload()
    return people


@pytest.fixture
def lifecycle(people):
    return Lifecycle(people)


@pytest.fixture
def free():
    """The life of agents where nobody lists people."""
    return Lifecycle(People(None))


def in_state(state, **changes):
    return an_agent(state=state, owner=ALICE, registered_by=ROOT, **changes)


def refused(kind, message):
    return pytest.raises(kind, match=f"^{re.escape(message)}$")


def test_a_new_agent_has_an_owner_that_exists_and_limits_of_its_class(lifecycle, free):
    agent = in_state(AgentState.REGISTERED)
    assert lifecycle.registered(agent, None) == agent
    assert lifecycle.registered(agent, TWO).review_by == NOW + 90 * DAY
    dated = replace(agent, review_by=NOW + DAY)
    assert lifecycle.registered(dated, TWO) == dated
    stranger = replace(agent, owner=BOB)
    with refused(InvalidRequestError, f"owner: {IDP}|bob is not in the list of people"):
        lifecycle.registered(stranger, None)
    assert free.registered(stranger, None) == stranger
    narrow = AgentClass(name="c", limits=Limits(max_depth=1))
    with refused(InvalidRequestError, "limits.max_depth: 2 is more than the 1 of class 'c'"):
        lifecycle.registered(replace(agent, limits=Limits(max_depth=2)), narrow)


def test_an_agent_is_approved_once(free):
    active = free.activated(in_state(AgentState.REGISTERED), None, actor=ROOT, **STEP)
    assert (active.state, active.reason, active.changed_at) == (AgentState.ACTIVE, "because", NOW + HOUR)
    with refused(FailedPreconditionError, f"agent {PAYER} is active, not registered"):
        free.activated(active, None, actor=ROOT, **STEP)
    with refused(FailedPreconditionError, f"agent {PAYER} is suspended, not registered"):
        free.activated(in_state(AgentState.SUSPENDED), None, actor=ROOT, **STEP)


@pytest.mark.parametrize("actor", [ROOT, "local:uid=0,pid=99", "local:uid=5,pid=1"])
def test_two_people_are_two_people_whatever_process_or_account_they_use(lifecycle, actor):
    with refused(NotAuthorizedError, f"class 'two' asks for two people: {actor} registered the agent"):
        lifecycle.activated(in_state(AgentState.REGISTERED), TWO, actor=actor, **STEP)


def test_two_people_are_the_owner_and_another_one(lifecycle, free):
    agent = in_state(AgentState.REGISTERED)
    assert lifecycle.activated(agent, TWO, actor=ANN, **STEP).state is AgentState.ACTIVE
    with refused(NotAuthorizedError, f"only the owner may: {ALICE}, and local:uid=77 is not"):
        lifecycle.activated(agent, TWO, actor="local:uid=77,pid=1", **STEP)
    with refused(NotAuthorizedError, f"class 'two' asks for two people: {ROOT} registered the agent"):
        free.activated(agent, TWO, actor=ROOT, **STEP)
    assert free.activated(agent, TWO, actor=ANN, **STEP).state is AgentState.ACTIVE


def test_only_who_is_active_is_suspended(free):
    suspended = free.suspended(in_state(AgentState.ACTIVE), **STEP)
    assert (suspended.state, suspended.reason) == (AgentState.SUSPENDED, "because")
    for state in (AgentState.REGISTERED, AgentState.SUSPENDED, AgentState.RETIRED):
        with refused(FailedPreconditionError, f"agent {PAYER} is {state}, not active"):
            free.suspended(in_state(state), **STEP)


def test_only_the_owner_resumes(lifecycle, free):
    agent = in_state(AgentState.SUSPENDED)
    assert lifecycle.resumed(agent, actor=ANN, **STEP).state is AgentState.ACTIVE
    with refused(NotAuthorizedError, f"only the owner may: {ALICE}, and local:uid=0 is not"):
        lifecycle.resumed(agent, actor=ROOT, **STEP)
    assert free.resumed(agent, actor=ROOT, **STEP).state is AgentState.ACTIVE
    with refused(FailedPreconditionError, f"agent {PAYER} is active, not suspended"):
        free.resumed(in_state(AgentState.ACTIVE), actor=ROOT, **STEP)


def test_who_is_resumed_has_an_owner_and_a_review(lifecycle):
    agent = in_state(AgentState.SUSPENDED)
    gone = f"agent {PAYER}: its owner {ALICE} is gone; transfer it first"
    with refused(FailedPreconditionError, gone):
        lifecycle.resumed(replace(agent, orphaned_at=NOW), actor=ANN, **STEP)
    with refused(FailedPreconditionError, gone.replace("alice", "bob")):
        lifecycle.resumed(replace(agent, owner=BOB), actor=ANN, **STEP)
    with refused(FailedPreconditionError, f"agent {PAYER}: its review is overdue; review it first"):
        lifecycle.resumed(replace(agent, review_by=NOW + HOUR), actor=ANN, **STEP)
    later = replace(agent, review_by=NOW + 2 * HOUR)
    assert lifecycle.resumed(later, actor=ANN, **STEP).state is AgentState.ACTIVE


def test_who_is_retired_may_have_a_successor_but_itself(free):
    retired = free.retired(in_state(AgentState.ACTIVE), successor=an_id("/agent/next"), **STEP)
    assert (retired.state, retired.successor) == (AgentState.RETIRED, an_id("/agent/next"))
    assert free.retired(in_state(AgentState.REGISTERED), successor=None, **STEP).successor is None
    with refused(InvalidRequestError, "successor: is the agent itself"):
        free.retired(in_state(AgentState.ACTIVE), successor=PAYER, **STEP)


def test_a_review_sets_the_next_one(lifecycle):
    agent = in_state(AgentState.ACTIVE)

    def review(agent_class, review_by, actor=ANN):
        step = {"actor": actor, "review_by": review_by, "now": NOW}
        return lifecycle.reviewed(agent, agent_class, **step).review_by

    assert review(TWO, None) == NOW + 90 * DAY
    assert review(TWO, NOW + DAY) == NOW + DAY
    assert review(None, NOW + 900 * DAY) == NOW + 900 * DAY
    assert review(AgentClass(name="c"), None) is None
    with refused(InvalidRequestError, "review_by: has passed"):
        review(None, NOW)
    with refused(InvalidRequestError, "review_by: later than class '' allows, 90 days, 0:00:00"):
        review(TWO, NOW + 91 * DAY)
    with refused(NotAuthorizedError, f"only the owner may: {ALICE}, and local:uid=0 is not"):
        review(TWO, None, ROOT)


def test_a_transfer_goes_to_somebody_who_exists(lifecycle):
    agent = in_state(AgentState.ACTIVE, orphaned_at=NOW)
    team = Owner(IDP, "team", group=True)
    moved = lifecycle.transferred(agent, None, team, actor=ROOT)
    assert (moved.owner, moved.orphaned_at, moved.state) == (team, None, AgentState.ACTIVE)
    with refused(InvalidRequestError, f"owner: {IDP}|group:nobody is not in the list of people"):
        lifecycle.transferred(agent, None, Owner(IDP, "nobody", group=True), actor=ROOT)


def test_who_does_not_own_it_takes_it_from_nobody_who_is_there(lifecycle, free):
    agent, root = in_state(AgentState.SUSPENDED), Owner(IDP, "root")
    with refused(NotAuthorizedError, f"only the owner may: {ALICE}, and local:uid=0 is not"):
        lifecycle.transferred(agent, None, root, actor=ROOT)
    assert lifecycle.transferred(agent, None, root, actor=ANN).owner == root
    assert free.transferred(agent, TWO, BOB, actor=ROOT).owner == BOB
    # Of one whose owner is gone it takes two: somebody gives it to somebody else, who may resume it.
    for orphan in (replace(agent, owner=BOB), replace(agent, orphaned_at=NOW)):
        assert lifecycle.transferred(orphan, None, root, actor=ROOT).owner == root
        with refused(
            NotAuthorizedError, "class 'two' asks for two people: local:uid=0,pid=7 would be the new owner"
        ):
            lifecycle.transferred(orphan, TWO, root, actor=ROOT)
        assert lifecycle.transferred(orphan, TWO, ALICE, actor=ROOT).owner == ALICE


def test_nobody_changes_alone_what_two_people_approved(lifecycle, free):
    """Else who registers an agent has little approved, or no approval asked for, and then takes more."""

    def update(agent, actor, by=lifecycle, of=TWO, **changes):
        return by.updated(agent, replace(agent, **changes), of, actor=actor, now=NOW)

    registered, active = (
        in_state(state, agent_class="two") for state in (AgentState.REGISTERED, AgentState.ACTIVE)
    )
    assert update(registered, ROOT, purpose="another").purpose == "another"
    wrong = "class 'two' asks for two people: local:uid=0,pid=7 registered the agent"
    for agent, changes in (
        (registered, {"agent_class": ""}),
        (active, {"team": "x"}),
        (active, {"limits": Limits()}),
    ):
        with refused(NotAuthorizedError, wrong):
            update(agent, ROOT, **changes)
        with refused(NotAuthorizedError, wrong):
            update(agent, ROOT, by=free, **changes)
        assert update(agent, ANN, **changes) == replace(agent, **changes)
    assert update(active, ROOT, of=None, team="x").team == "x"


def test_an_update_puts_no_review_off(lifecycle):
    agent = in_state(AgentState.ACTIVE, review_by=NOW + DAY)

    def update(review_by, actor):
        wanted = replace(agent, review_by=review_by)
        return lifecycle.updated(agent, wanted, AgentClass(name="c"), actor=actor, now=NOW).review_by

    assert update(None, ROOT) == update(NOW + DAY, ROOT) == NOW + DAY
    with refused(NotAuthorizedError, f"only the owner may: {ALICE}, and local:uid=0 is not"):
        update(NOW + 2 * DAY, ROOT)
    assert update(NOW + 2 * DAY, ANN) == NOW + 2 * DAY


async def test_a_list_that_cannot_be_read_lets_nobody_in(file, lifecycle, people):
    file.write_bytes(b"?")
    await people.reload()
    unreadable = "owner: the list of people cannot be read"
    for step in (
        lambda: lifecycle.registered(in_state(AgentState.REGISTERED), None),
        lambda: lifecycle.activated(in_state(AgentState.REGISTERED), None, actor=ANN, **STEP),
        lambda: lifecycle.resumed(in_state(AgentState.SUSPENDED), actor=ANN, **STEP),
        lambda: lifecycle.transferred(in_state(AgentState.ACTIVE), None, BOB, actor=ANN),
    ):
        with refused(FailedPreconditionError, unreadable):
            step()
    assert lifecycle.suspended(in_state(AgentState.ACTIVE), **STEP).state is AgentState.SUSPENDED
    assert lifecycle.retired(in_state(AgentState.ACTIVE), successor=None, **STEP).state is AgentState.RETIRED


class Care:
    """A caretaker, and what became of the agents."""

    def __init__(self, database, people, clock):
        self.database = database
        self.clock = clock
        self.caretaker = Caretaker(database, people, clock, orphan_grace=DAY, review_grace=7 * DAY)

    async def agent(self, path="/agent/payer", **changes):
        agent = an_agent(path, owner=ALICE, **changes)
        return await self.database.write(lambda tx: tx.agents.create(agent))

    async def after(self, elapsed, path="/agent/payer"):
        """Look once more after some time; return the agent."""
        await self.clock.advance(elapsed)
        await self.caretaker.look()
        return await self.database.read(lambda tx: tx.agents.get(an_id(path)))

    async def acts(self):
        records = await self.database.read(lambda tx: tx.audit.since(0, 100))
        return [(record.actor, record.act, record.detail["state"]) for _, record in records]


@pytest.fixture
def care(database, people, clock):
    return Care(database, people, clock)


async def test_an_agent_whose_owner_goes_is_suspended_after_the_grace(file, people, care):
    await care.agent()
    write(file, user("alice", active=False), user("bob"))
    await people.reload()
    orphan = await care.after(HOUR)
    assert (orphan.state, orphan.orphaned_at) == (AgentState.ACTIVE, care.clock.now())
    assert (await care.after(DAY - timedelta(seconds=1))).state is AgentState.ACTIVE
    suspended = await care.after(timedelta(seconds=1))
    assert (suspended.state, suspended.reason) == (AgentState.SUSPENDED, "its owner is gone")
    assert await care.acts() == [
        ("issuer", "agent.owner_missing", "active"),
        ("issuer", "agent.suspended", "suspended"),
    ]
    assert await care.after(DAY) == suspended, "once is enough"


async def test_an_owner_who_comes_back_in_time_keeps_its_agents(file, people, care):
    agent = await care.agent()
    write(file, user("bob"))
    await people.reload()
    await care.after(HOUR)
    write(file, user("alice"))
    await people.reload()
    back = await care.after(HOUR)
    assert replace(back, version=1) == agent
    assert [act for _, act, _ in await care.acts()] == ["agent.owner_missing", "agent.owner_found"]


async def test_a_list_that_cannot_be_read_orphans_nobody(file, people, care):
    agent = await care.agent()
    file.write_bytes(b"?")
    await people.reload()
    assert await care.after(30 * DAY) == agent


async def test_but_who_was_an_orphan_before_stays_one_while_the_list_cannot_be_read(file, people, care):
    await care.agent()
    write(file, user("bob"))
    await people.reload()
    await care.after(HOUR)
    file.write_bytes(b"?")
    await people.reload()
    assert (await care.after(DAY)).state is AgentState.SUSPENDED


async def test_an_overdue_review_warns_once_and_then_suspends(care, caplog):
    agent = await care.agent(review_by=NOW + DAY)
    assert await care.after(DAY - timedelta(seconds=1)) == agent
    assert caplog.records == []
    assert await care.after(timedelta(seconds=1)) == agent
    assert await care.after(6 * DAY) == agent
    assert [record.message for record in caplog.records] == ["review of an agent is overdue"]
    suspended = await care.after(DAY)
    assert (suspended.state, suspended.reason) == (AgentState.SUSPENDED, "its review is overdue")


@pytest.mark.parametrize("state", [AgentState.REGISTERED, AgentState.SUSPENDED, AgentState.RETIRED])
async def test_only_who_is_active_is_looked_after_for_its_review(care, state):
    agent = await care.agent(state=state, review_by=NOW + DAY)
    assert await care.after(100 * DAY) == agent


async def test_the_caretaker_goes_on_after_a_failure(file, care, clock, caplog):
    await care.agent()
    failing = [StoreError("database failed")]
    look = care.caretaker.look

    async def sometimes():
        if failing:
            raise failing.pop()
        await look()

    care.caretaker.look = sometimes
    ready = asyncio.Event()
    running = asyncio.create_task(care.caretaker.run(ready.set))
    await ready.wait()
    for _ in range(200):  # the file is read in a thread
        await asyncio.sleep(0.01)
        if clock.sleeping:
            break
    assert "looking after agents failed, trying again" in [record.message for record in caplog.records]
    write(file, user("bob"))
    await clock.advance(EVERY)
    for _ in range(200):
        await asyncio.sleep(0.01)
        if await care.acts():
            break
    running.cancel()
    assert [act for _, act, _ in await care.acts()] == ["agent.owner_missing"]

# SPDX-License-Identifier: Apache-2.0
"""The life of agents: who may take which step, and the steps that nobody has to take.

::

    registered ──▶ active ◀──▶ suspended
         └────────────┴────────────┴──▶ retired, for ever
"""

import logging
from collections.abc import Callable
from dataclasses import replace
from datetime import datetime, timedelta
from typing import Final, NoReturn

from issuer.errors import FailedPreconditionError, InvalidRequestError, IssuerError, NotAuthorizedError
from issuer.governance.limits import check_narrower
from issuer.governance.people import People
from issuer.governance.revocation import follow
from issuer.model import Agent, AgentClass, AgentState, AuditRecord, Outcome, Owner
from issuer.store import Database, Transaction
from spiffekit.daemon.clock import Clock
from spiffekit.id import SpiffeId

logger = logging.getLogger(__name__)

EVERY: Final = timedelta(seconds=30)
ACTOR: Final = "issuer"


class Lifecycle:
    """Each method takes an agent as it is, checks that a step may be taken, and returns what comes of it.

    All of them raise FailedPreconditionError when the list of people cannot be read and is asked.
    """

    def __init__(self, people: People) -> None:
        self._people = people

    def registered(self, agent: Agent, agent_class: AgentClass | None) -> Agent:
        """Check a new agent.

        Raises:
            InvalidRequestError: Its owner is not known, or its limits are wider than those of its class.
        """
        self._check_owner(agent.owner)
        check_narrower(agent.limits, agent_class)
        if agent.review_by is None and agent_class is not None and agent_class.review_every is not None:
            return replace(agent, review_by=agent.created_at + agent_class.review_every)
        return agent

    def activated(
        self, agent: Agent, agent_class: AgentClass | None, *, actor: str, reason: str, now: datetime
    ) -> Agent:
        """Approve a registered agent.

        Raises:
            FailedPreconditionError: It is not registered, or its owner is gone.
            NotAuthorizedError: Its class asks for two people, and it is who registered it, or no owner.
        """
        if agent.state is not AgentState.REGISTERED:
            raise FailedPreconditionError(f"agent {agent.spiffe_id} is {agent.state}, not registered")
        self._check_has_owner(agent)
        self._check_second_person(agent, agent_class, actor)
        return _moved(agent, AgentState.ACTIVE, reason, now)

    def _check_second_person(self, agent: Agent, agent_class: AgentClass | None, actor: str) -> None:
        if agent_class is not None and agent_class.two_people:
            if self._people.person_of(actor) == self._people.person_of(agent.registered_by):
                raise NotAuthorizedError(
                    f"class {agent_class.name!r} asks for two people: {actor} registered the agent"
                )
            self._people.check_owns(actor, agent.owner)

    def updated(
        self, agent: Agent, wanted: Agent, agent_class: AgentClass | None, *, actor: str, now: datetime
    ) -> Agent:
        """Change what an agent is for and may have; the date of its review stays if none is wanted.

        Raises:
            InvalidRequestError: The date of the review has passed, or is later than the class allows.
            NotAuthorizedError: The actor sets such a date and is not its owner; or its class asks for two
                people, it was approved or would leave the class, and the actor may not approve it.
        """
        if agent.state is not AgentState.REGISTERED or wanted.agent_class != agent.agent_class:
            self._check_second_person(agent, agent_class, actor)
        if wanted.review_by is None or wanted.review_by == agent.review_by:
            return replace(wanted, review_by=agent.review_by)
        return self.reviewed(wanted, agent_class, actor=actor, review_by=wanted.review_by, now=now)

    def suspended(self, agent: Agent, *, reason: str, now: datetime) -> Agent:
        """Take an active agent's identity away for a while.

        Raises:
            FailedPreconditionError: It is not active.
        """
        if agent.state is not AgentState.ACTIVE:
            raise FailedPreconditionError(f"agent {agent.spiffe_id} is {agent.state}, not active")
        return _moved(agent, AgentState.SUSPENDED, reason, now)

    def resumed(self, agent: Agent, *, actor: str, reason: str, now: datetime) -> Agent:
        """Give a suspended agent its identity back.

        Raises:
            FailedPreconditionError: It is not suspended, its owner is gone, or its review is overdue.
            NotAuthorizedError: The actor is not its owner.
        """
        if agent.state is not AgentState.SUSPENDED:
            raise FailedPreconditionError(f"agent {agent.spiffe_id} is {agent.state}, not suspended")
        self._check_has_owner(agent)
        if agent.review_by is not None and agent.review_by <= now:
            raise FailedPreconditionError(f"agent {agent.spiffe_id}: its review is overdue; review it first")
        self._people.check_owns(actor, agent.owner)
        return _moved(agent, AgentState.ACTIVE, reason, now)

    def retired(self, agent: Agent, *, successor: SpiffeId | None, reason: str, now: datetime) -> Agent:
        """End an agent for ever.

        Raises:
            InvalidRequestError: It would be its own successor.
        """
        if successor == agent.spiffe_id:
            raise InvalidRequestError("successor: is the agent itself")
        return replace(_moved(agent, AgentState.RETIRED, reason, now), successor=successor)

    def reviewed(
        self,
        agent: Agent,
        agent_class: AgentClass | None,
        *,
        actor: str,
        review_by: datetime | None,
        now: datetime,
    ) -> Agent:
        """Set the date of the next review; by the class if none is given.

        Raises:
            InvalidRequestError: The date has passed, or is later than the class allows.
            NotAuthorizedError: The actor is not its owner.
        """
        self._people.check_owns(actor, agent.owner)
        every = None if agent_class is None else agent_class.review_every
        if review_by is not None and review_by <= now:
            raise InvalidRequestError("review_by: has passed")
        if review_by is not None and every is not None and review_by > now + every:
            raise InvalidRequestError(f"review_by: later than class {agent.agent_class!r} allows, {every}")
        if review_by is None and every is not None:
            review_by = now + every
        return replace(agent, review_by=review_by)

    def transferred(self, agent: Agent, agent_class: AgentClass | None, owner: Owner, *, actor: str) -> Agent:
        """Give an agent to another owner: its own owner does, or anybody if that one is gone.

        Raises:
            InvalidRequestError: The new owner is not known.
            NotAuthorizedError: The actor is not its owner, and that one is there; or is the new owner of one
                that had none, and its class asks for two people.
        """
        self._check_owner(owner)
        if agent.orphaned_at is None and self._people.exists(agent.owner):
            self._people.check_owns(actor, agent.owner)
        elif agent_class is not None and agent_class.two_people and self._people.owns(actor, owner):
            raise NotAuthorizedError(
                f"class {agent_class.name!r} asks for two people: {actor} would be the new owner"
            )
        return replace(agent, owner=owner, orphaned_at=None)

    def _check_owner(self, owner: Owner) -> None:
        if not self._people.exists(owner):
            raise InvalidRequestError(f"owner: {owner} is not in the list of people")

    def _check_has_owner(self, agent: Agent) -> None:
        if agent.orphaned_at is not None or not self._people.exists(agent.owner):
            raise FailedPreconditionError(
                f"agent {agent.spiffe_id}: its owner {agent.owner} is gone; transfer it first"
            )


def _moved(agent: Agent, state: AgentState, reason: str, now: datetime) -> Agent:
    return replace(agent, state=state, reason=reason, changed_at=now)


class Caretaker:
    """The service that looks after agents whose owners have gone, or whose reviews are overdue.

    Args:
        orphan_grace: From the moment that an owner was missed to the suspension of its agents.
        review_grace: From the date of a review to the suspension of an agent that had none.
    """

    def __init__(
        self,
        database: Database,
        people: People,
        clock: Clock,
        *,
        orphan_grace: timedelta,
        review_grace: timedelta,
    ) -> None:
        self._database = database
        self._people = people
        self._clock = clock
        self._orphan_grace = orphan_grace
        self._review_grace = review_grace
        self._warned: set[tuple[SpiffeId, datetime]] = set()

    async def run(self, ready: Callable[[], None]) -> NoReturn:
        """Look again and again; a failure is logged and tried again."""
        await self._people.reload()
        ready()
        while True:
            try:
                await self.look()
            except IssuerError:
                logger.exception("looking after agents failed, trying again")
            await self._clock.sleep(EVERY)
            await self._people.reload()

    async def look(self) -> None:
        """Look once: mark and suspend, each with its record."""
        await self._database.write(self._act)

    def _act(self, tx: Transaction) -> None:
        for agent in list(tx.agents.all()):
            if agent.state is not AgentState.RETIRED:
                after, act = self._after(agent, tx.now)
                if after != agent:
                    follow(tx, agent, tx.agents.update(after))
                    tx.audit.append(
                        AuditRecord(
                            at=tx.now,
                            actor=ACTOR,
                            act=act,
                            type=act,
                            subject=str(agent.spiffe_id),
                            outcome=Outcome.OK,
                            reason=after.reason,
                            agent=after.facts,
                            detail={"state": after.state},
                        )
                    )

    def _after(self, agent: Agent, now: datetime) -> tuple[Agent, str]:
        """Return what becomes of an agent by itself, and what that is called."""
        extra = {"agent": str(agent.spiffe_id), "owner": str(agent.owner)}
        there = not self._people.listed or not self._people.readable or self._people.exists(agent.owner)
        if not there and agent.orphaned_at is None:
            logger.warning("owner of an agent is gone", extra=extra)
            return replace(agent, orphaned_at=now), "agent.owner_missing"
        if agent.orphaned_at is not None and self._people.readable and there:
            return replace(agent, orphaned_at=None), "agent.owner_found"
        if agent.state is not AgentState.ACTIVE:
            return agent, ""
        if agent.orphaned_at is not None and agent.orphaned_at + self._orphan_grace <= now:
            return _moved(agent, AgentState.SUSPENDED, "its owner is gone", now), "agent.suspended"
        if agent.review_by is not None and agent.review_by <= now:
            if agent.review_by + self._review_grace <= now:
                return _moved(agent, AgentState.SUSPENDED, "its review is overdue", now), "agent.suspended"
            if (agent.spiffe_id, agent.review_by) not in self._warned:
                self._warned.add((agent.spiffe_id, agent.review_by))
                logger.warning("review of an agent is overdue", extra=extra)
        return agent, ""

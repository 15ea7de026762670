# SPDX-License-Identifier: Apache-2.0
"""Agents and their classes, and what of their life can never be undone."""

import json
from collections.abc import Iterator
from dataclasses import replace
from datetime import timedelta
from typing import Any, Final

import sqlalchemy as sa

from issuer.errors import AlreadyExistsError, FailedPreconditionError, NotFoundError
from issuer.model import Agent, AgentClass, AgentState, ChangeKind, Limits, Owner
from issuer.store.changes import ChangeStore
from issuer.store.entries import EntryStore
from issuer.store.schema import agent_classes, agents, stamp, unstamp
from spiffekit.delegation.tools import Tools
from spiffekit.errors import ConstraintError
from spiffekit.id import SpiffeId

_LIFETIMES: Final = ("x509_ttl", "jwt_ttl", "wit_ttl", "delegation_ttl")
_TEXTS: Final = ("id", "sponsor", "team", "purpose", "registered_by", "reason")
_INSTANTS: Final = ("review_by", "created_at", "changed_at", "orphaned_at")


class AgentStore:
    """Agents by SPIFFE ID, and classes by name."""

    def __init__(self, connection: sa.Connection, changes: ChangeStore, entries: EntryStore) -> None:
        self._connection = connection
        self._changes = changes
        self._entries = entries

    def create(self, agent: Agent) -> Agent:
        """Add an agent and return it with its version.

        Raises:
            AlreadyExistsError: There is or was one of that SPIFFE ID.
            NotFoundError: Its class does not exist.
        """
        if (existing := self.find(agent.spiffe_id)) is not None:
            raise AlreadyExistsError(f"agent {agent.spiffe_id} exists, and is {existing.state}", existing)
        return self._put(agent, agents.insert(), moved=True)

    def update(self, agent: Agent) -> Agent:
        """Replace an agent and return it with its new version; its entries change with it.

        Raises:
            NotFoundError: There is none of that SPIFFE ID, or its class does not exist.
            FailedPreconditionError: It is retired, or the new state may not follow the old one.
        """
        before = self.get(agent.spiffe_id)
        if before.state is AgentState.RETIRED:
            raise FailedPreconditionError(f"agent {agent.spiffe_id} is retired, for ever")
        if agent.state is not before.state and agent.state not in before.state.followers:
            raise FailedPreconditionError(
                f"agent {agent.spiffe_id} is {before.state}: it cannot become {agent.state}"
            )
        replacing = agents.update().where(agents.c.spiffe_id == str(agent.spiffe_id))
        return self._put(agent, replacing, moved=agent.state is not before.state)

    def _put(self, agent: Agent, statement: sa.Insert | sa.Update, *, moved: bool) -> Agent:
        if agent.agent_class:
            self.get_class(agent.agent_class)
        newest = self._connection.execute(sa.select(sa.func.max(agents.c.version))).scalar() or 0
        agent = replace(agent, version=newest + 1)
        self._connection.execute(statement.values(**_row(agent)))
        self._changes.record(ChangeKind.AGENT, str(agent.spiffe_id), agent)
        for entry in self._entries.of(agent.spiffe_id) if moved else ():  # whether they count has changed
            self._changes.record(ChangeKind.ENTRY, entry.id, entry)
        return agent

    def find(self, spiffe_id: SpiffeId) -> Agent | None:
        """Return an agent, or None."""
        row = self._connection.execute(sa.select(agents).where(agents.c.spiffe_id == str(spiffe_id))).first()
        return None if row is None else _agent(row)

    def get(self, spiffe_id: SpiffeId) -> Agent:
        """Return an agent.

        Raises:
            NotFoundError: There is none of that SPIFFE ID.
        """
        agent = self.find(spiffe_id)
        if agent is None:
            raise NotFoundError(f"agent {spiffe_id} does not exist")
        return agent

    def all(self) -> Iterator[Agent]:
        """Return every agent, by SPIFFE ID."""
        return map(_agent, self._connection.execute(sa.select(agents).order_by(agents.c.spiffe_id)))

    def put_class(self, agent_class: AgentClass) -> AgentClass:
        """Add or replace a class."""
        row = {"name": agent_class.name, "body": _json(_class_body(agent_class))}
        if self.find_class(agent_class.name) is None:
            self._connection.execute(agent_classes.insert().values(**row))
        else:
            self._connection.execute(
                agent_classes.update().where(agent_classes.c.name == agent_class.name).values(**row)
            )
        self._changes.record(ChangeKind.AGENT_CLASS, agent_class.name, agent_class)
        return agent_class

    def find_class(self, name: str) -> AgentClass | None:
        """Return a class, or None."""
        row = self._connection.execute(sa.select(agent_classes).where(agent_classes.c.name == name)).first()
        return None if row is None else _class(row)

    def get_class(self, name: str) -> AgentClass:
        """Return a class.

        Raises:
            NotFoundError: There is none of that name.
        """
        agent_class = self.find_class(name)
        if agent_class is None:
            raise NotFoundError(f"class {name[:255]!r} does not exist")
        return agent_class

    def classes(self) -> Iterator[AgentClass]:
        """Return every class, by name."""
        return map(_class, self._connection.execute(sa.select(agent_classes).order_by(agent_classes.c.name)))

    def check_empty(self, agent_class: AgentClass) -> None:
        """Check that no agent is, or was, of a class.

        Raises:
            FailedPreconditionError: One is.
        """
        member = sa.select(agents.c.spiffe_id).where(agents.c.agent_class == agent_class.name).limit(1)
        if (found := self._connection.execute(member).scalar()) is not None:
            raise FailedPreconditionError(f"class {agent_class.name!r}: agent {found} belongs to it")

    def delete_class(self, name: str) -> AgentClass:
        """Remove a class and return what it was.

        Raises:
            NotFoundError: There is none of that name.
            FailedPreconditionError: An agent is, or was, of that class.
        """
        agent_class = self.get_class(name)
        self.check_empty(agent_class)
        self._connection.execute(agent_classes.delete().where(agent_classes.c.name == name))
        self._changes.record(ChangeKind.AGENT_CLASS, name, None)
        return agent_class


def _json(body: dict[str, Any]) -> str:
    return json.dumps(body, separators=(",", ":"), sort_keys=True)


def _limits_body(limits: Limits) -> dict[str, Any]:
    body: dict[str, Any] = {
        name: lifetime.total_seconds()
        for name in _LIFETIMES
        if (lifetime := getattr(limits, name)) is not None
    }
    if limits.tools is not None:
        body["tools"] = limits.tools.to_value()
    if limits.audiences is not None:
        body["audiences"] = list(limits.audiences)
    if limits.max_depth is not None:
        body["max_depth"] = limits.max_depth
    return body


def _limits(body: dict[str, Any]) -> Limits:
    return Limits(
        tools=_tools(body["tools"]) if "tools" in body else None,
        audiences=tuple(body["audiences"]) if "audiences" in body else None,
        max_depth=body.get("max_depth"),
        **{name: timedelta(seconds=body[name]) for name in _LIFETIMES if name in body},
    )


def _tools(value: object) -> Tools:
    try:
        return Tools.from_value(value)
    except ConstraintError:
        # Whatever we do not know, an agent with such limits may use no tool.
        return Tools({})


def _class_body(agent_class: AgentClass) -> dict[str, Any]:
    every = agent_class.review_every
    return {
        "limits": _limits_body(agent_class.limits),
        "two_people": agent_class.two_people,
        "review_every": None if every is None else every.total_seconds(),
    }


def _class(row: Any) -> AgentClass:
    body = json.loads(row.body)
    every = body["review_every"]
    return AgentClass(
        name=row.name,
        limits=_limits(body["limits"]),
        two_people=body["two_people"],
        review_every=None if every is None else timedelta(seconds=every),
    )


def _row(agent: Agent) -> dict[str, Any]:
    body: dict[str, Any] = {name: getattr(agent, name) for name in _TEXTS}
    body |= {name: stamp(instant) for name in _INSTANTS if (instant := getattr(agent, name)) is not None}
    body |= {"owner": str(agent.owner), "limits": _limits_body(agent.limits)}
    if agent.successor is not None:
        body["successor"] = str(agent.successor)
    return {
        "spiffe_id": str(agent.spiffe_id),
        "state": agent.state,
        "version": agent.version,
        "agent_class": agent.agent_class or None,
        "body": _json(body),
    }


def _agent(row: Any) -> Agent:
    body = json.loads(row.body)
    return Agent(
        spiffe_id=SpiffeId.parse(row.spiffe_id),
        # Whatever we do not know, an agent in that state gets nothing.
        state=AgentState(row.state) if row.state in set(AgentState) else AgentState.SUSPENDED,
        version=row.version,
        agent_class=row.agent_class or "",
        owner=Owner.from_text(body["owner"]),
        limits=_limits(body["limits"]),
        successor=SpiffeId.parse(body["successor"]) if "successor" in body else None,
        **{name: body[name] for name in _TEXTS} | {n: unstamp(body[n]) for n in _INSTANTS if n in body},
    )

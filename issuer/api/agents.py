# SPDX-License-Identifier: Apache-2.0
"""issuer.v1.Agents: register agents, and lead them through their life."""

import time
from collections.abc import Callable
from typing import Any, Final

from issuer.api.caller import Kind
from issuer.api.convert_agents import (
    agent_field,
    agent_id_field,
    agent_to_proto,
    changed,
    class_field,
    class_name_field,
    class_to_proto,
    instant_field,
    owner_field,
    state_field,
    text_field,
)
from issuer.api.dispatch import Call, page_size, pages_of
from issuer.errors import NotAuthorizedError, NotFoundError
from issuer.governance.lifecycle import Lifecycle
from issuer.governance.limits import check_narrower, effective
from issuer.governance.revocation import claim, follow
from issuer.model import Agent, AgentClass, AgentState, AuditRecord, new_entry_id
from issuer.registration import Registrations
from issuer.store import Database, Transaction
from spiffekit.id import SpiffeId, TrustDomain
from spiffekit.wire.pb.issuer.v1 import agents_pb2

MAX_PAGE: Final = 1000

Step = Callable[[Agent, AgentClass | None], Agent]


class AgentsService:
    """See the module."""

    def __init__(
        self,
        trust_domain: TrustDomain,
        *,
        database: Database,
        registrations: Registrations,
        lifecycle: Lifecycle,
    ) -> None:
        self._trust_domain = trust_domain
        self._database = database
        self._registrations = registrations
        self._lifecycle = lifecycle

    async def RegisterAgent(self, request: agents_pb2.RegisterAgentRequest, call: Call) -> agents_pb2.Agent:  # noqa: N802 - the method's name on the wire
        """Add an agent that nobody has approved yet."""
        wanted = agent_field(
            request.spec,
            self._trust_domain,
            id=new_entry_id(time.time_ns()),
            state=AgentState.REGISTERED,
            registered_by=call.caller.actor,
            created_at=call.now,
            changed_at=call.now,
        )

        def act(tx: Transaction) -> Agent:
            agent_class = _class(tx, wanted)
            agent = tx.agents.create(self._lifecycle.registered(wanted, agent_class))
            claim(tx, agent)
            tx.audit.append(_record(call, agent, purpose=agent.purpose))
            return agent

        return self._message(await self._database.write(act))

    async def GetAgent(self, request: agents_pb2.GetAgentRequest, call: Call) -> agents_pb2.Agent:  # noqa: N802 - the method's name on the wire
        """Return one agent."""
        del call
        spiffe_id = agent_id_field("spiffe_id", request.spiffe_id, self._trust_domain)
        agent = self._registrations.agent(spiffe_id)
        if agent is None:
            raise NotFoundError(f"agent {spiffe_id} does not exist")
        return self._message(agent)

    async def ListAgents(  # noqa: N802 - the method's name on the wire
        self, request: agents_pb2.ListAgentsRequest, call: Call
    ) -> agents_pb2.ListAgentsResponse:
        """List agents, a page at a time."""
        state = state_field("state", request.state)

        def wanted(agent: Agent) -> bool:
            due = agent.review_by is not None and agent.review_by <= call.now
            return (
                str(agent.spiffe_id) > request.page_token
                and (state is None or agent.state is state)
                and (not request.team or agent.team == request.team)
                and (due or not request.review_due)
            )

        agents = filter(wanted, sorted(self._registrations.agents(), key=lambda a: str(a.spiffe_id)))
        found, more = next(pages_of(map(self._message, agents), page_size(request.page_size, MAX_PAGE)))
        return agents_pb2.ListAgentsResponse(
            agents=found, next_page_token=found[-1].spec.spiffe_id if more else ""
        )

    async def UpdateAgent(self, request: agents_pb2.UpdateAgentRequest, call: Call) -> agents_pb2.Agent:  # noqa: N802 - the method's name on the wire
        """Replace what an agent is for and may have."""
        actor = self._person(call)

        def step(agent: Agent, agent_class: AgentClass | None) -> Agent:
            # What nobody describes is that of the agent; the owner is not asked for and not looked at.
            spec = agents_pb2.AgentSpec()
            spec.CopyFrom(request.spec)
            spec.owner.CopyFrom(self._message(agent).spec.owner)
            wanted = agent_field(
                spec,
                self._trust_domain,
                id=agent.id,
                state=agent.state,
                registered_by=agent.registered_by,
                created_at=agent.created_at,
                changed_at=agent.changed_at,
            )
            wanted = changed(agent, wanted)
            return self._lifecycle.updated(agent, wanted, agent_class, actor=actor, now=call.now)

        return await self._step(request.spec.spiffe_id, request.reason, call, step)

    async def ActivateAgent(self, request: agents_pb2.ChangeStateRequest, call: Call) -> agents_pb2.Agent:  # noqa: N802 - the method's name on the wire
        """Approve a registered agent."""
        actor = self._person(call)

        def step(agent: Agent, agent_class: AgentClass | None) -> Agent:
            return self._lifecycle.activated(
                agent, agent_class, actor=actor, reason=request.reason, now=call.now
            )

        return await self._step(request.spiffe_id, request.reason, call, step)

    async def SuspendAgent(self, request: agents_pb2.ChangeStateRequest, call: Call) -> agents_pb2.Agent:  # noqa: N802 - the method's name on the wire
        """Take the identity away until the agent is resumed."""

        def step(agent: Agent, _: AgentClass | None) -> Agent:
            return self._lifecycle.suspended(agent, reason=request.reason, now=call.now)

        return await self._step(request.spiffe_id, request.reason, call, step)

    async def ResumeAgent(self, request: agents_pb2.ChangeStateRequest, call: Call) -> agents_pb2.Agent:  # noqa: N802 - the method's name on the wire
        """Give the identity of a suspended agent back."""
        actor = self._person(call)

        def step(agent: Agent, _: AgentClass | None) -> Agent:
            return self._lifecycle.resumed(agent, actor=actor, reason=request.reason, now=call.now)

        return await self._step(request.spiffe_id, request.reason, call, step)

    async def RetireAgent(self, request: agents_pb2.RetireAgentRequest, call: Call) -> agents_pb2.Agent:  # noqa: N802 - the method's name on the wire
        """End an agent for ever."""
        successor = (
            agent_id_field("successor", request.successor, self._trust_domain) if request.successor else None
        )

        def step(agent: Agent, _: AgentClass | None) -> Agent:
            return self._lifecycle.retired(agent, successor=successor, reason=request.reason, now=call.now)

        return await self._step(request.spiffe_id, request.reason, call, step)

    async def ReviewAgent(self, request: agents_pb2.ReviewAgentRequest, call: Call) -> agents_pb2.Agent:  # noqa: N802 - the method's name on the wire
        """Set the date of the next review."""
        review_by = instant_field("review_by", request.review_by)
        actor = self._person(call)

        def step(agent: Agent, agent_class: AgentClass | None) -> Agent:
            return self._lifecycle.reviewed(
                agent, agent_class, actor=actor, review_by=review_by, now=call.now
            )

        return await self._step(request.spiffe_id, request.reason, call, step)

    async def TransferAgent(self, request: agents_pb2.TransferAgentRequest, call: Call) -> agents_pb2.Agent:  # noqa: N802 - the method's name on the wire
        """Give an agent to another owner."""
        owner, actor = owner_field(request.owner), self._person(call)

        def step(agent: Agent, agent_class: AgentClass | None) -> Agent:
            return self._lifecycle.transferred(agent, agent_class, owner, actor=actor)

        return await self._step(request.spiffe_id, request.reason, call, step)

    def _person(self, call: Call) -> str:
        """Return the actor of a step that takes a person: agents propose, and take away, but approve nothing.

        Raises:
            NotAuthorizedError: It is an agent that is an administrator.
        """
        actor = call.caller.actor
        local = Kind.LOCAL in call.caller.kinds
        if not local and self._registrations.agent(SpiffeId.parse(actor)) is not None:
            raise NotAuthorizedError(f"{actor} is an agent: that takes a person")
        return actor

    async def _step(self, spiffe_id: str, reason: str, call: Call, step: Step) -> agents_pb2.Agent:
        """Take a step in an agent's life, with its record, or neither."""
        key = agent_id_field("spiffe_id", spiffe_id, self._trust_domain)
        text_field("reason", reason, required=True)

        def act(tx: Transaction) -> Agent:
            before = tx.agents.get(key)
            after = step(before, _class(tx, before))
            # A class that an agent changes into counts as well as the one it had.
            check_narrower(after.limits, _class(tx, after))
            tx.audit.append(_record(call, after, reason=reason, was=before.state))
            after = tx.agents.update(after)
            follow(tx, before, after)
            return after

        return self._message(await self._database.write(act))

    async def PutAgentClass(self, request: agents_pb2.AgentClass, call: Call) -> agents_pb2.AgentClass:  # noqa: N802 - the method's name on the wire
        """Add or replace a class."""
        agent_class = class_field(request)

        def act(tx: Transaction) -> AgentClass:
            tx.audit.append(call.record(agent_class.name))
            before = tx.agents.find_class(agent_class.name)
            if before is not None and before.two_people and not agent_class.two_people:
                tx.agents.check_empty(before)  # nobody else would have to approve those that are of it
            return tx.agents.put_class(agent_class)

        return class_to_proto(await self._database.write(act))

    async def ListAgentClasses(  # noqa: N802 - the method's name on the wire
        self, request: agents_pb2.ListAgentClassesRequest, call: Call
    ) -> agents_pb2.ListAgentClassesResponse:
        """List every class."""
        del request, call
        classes = map(class_to_proto, self._registrations.agent_classes())
        return agents_pb2.ListAgentClassesResponse(classes=classes)

    async def DeleteAgentClass(  # noqa: N802 - the method's name on the wire
        self, request: agents_pb2.DeleteAgentClassRequest, call: Call
    ) -> agents_pb2.AgentClass:
        """Remove a class that no agent is or was of."""
        name = class_name_field("name", request.name)

        def act(tx: Transaction) -> AgentClass:
            tx.audit.append(call.record(name))
            return tx.agents.delete_class(name)

        return class_to_proto(await self._database.write(act))

    def _message(self, agent: Agent) -> agents_pb2.Agent:
        agent_class = self._registrations.agent_class(agent.agent_class)
        return agent_to_proto(agent, effective(agent, agent_class))


def _class(tx: Transaction, agent: Agent) -> AgentClass | None:
    return tx.agents.get_class(agent.agent_class) if agent.agent_class else None


def _record(call: Call, agent: Agent, *, reason: str = "", **detail: Any) -> AuditRecord:
    return call.record(str(agent.spiffe_id), reason=reason, agent=agent.facts, state=agent.state, **detail)

# SPDX-License-Identifier: Apache-2.0
"""What gateways ask: may this agent do that, now? One function, whatever protocol the question came in.

An agent is denied unless it is active, its own limits allow what it asks for, a policy permits it, and the
decision is recorded. Whatever an agent can bring about comes back as a denial and never as an error: a
gateway may be told to let requests through when the one that it asks has failed.
"""

import asyncio
import hashlib
import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from http import HTTPStatus
from typing import Any, Final

from msgspec import structs
from prometheus_client import CollectorRegistry, Counter

from issuer.api.dispatch import Call
from issuer.errors import InvalidRequestError, IssuerError
from issuer.governance.limits import effective
from issuer.governance.policy import PolicyJudge, principal_of
from issuer.governance.revocation import Revocations
from issuer.model import Agent, AgentState, AuditRecord, Outcome, PolicyFacts
from issuer.registration import Registrations
from issuer.store import Database
from spiffekit.daemon.limits import RateLimit, RateLimitedError
from spiffekit.errors import NotPermittedError
from spiffekit.id import SpiffeId
from spiffekit.policy import Http, Request, Resource
from spiffekit.policy.request import HTTP, TOOL

logger = logging.getLogger(__name__)

WITHIN: Final = 5.0  # seconds that a decision may take to be recorded
MAX_NAME: Final = 256  # characters of a tool or service, and of what a gateway says besides
_NOTHING: Final[Mapping[str, object]] = {}


@dataclass(frozen=True, slots=True, kw_only=True)
class Question:
    """May an agent call a tool, or send a request to a service?"""

    agent: SpiffeId
    resource: Resource  # a "Tool" or a "Service"
    arguments: Mapping[str, object] = field(default_factory=lambda: _NOTHING, repr=False)  # of the tool
    http: Http | None = field(default=None, repr=False)  # the request to the service
    flaw: str = ""  # why no policy can be asked about it: a denial, and recorded as one
    serial: str = ""  # of the certificate that the agent showed, decimal, if the gateway says so
    asked: Mapping[str, object] = field(default_factory=lambda: _NOTHING)  # said besides; recorded only


@dataclass(frozen=True, slots=True)
class Answer:
    """What came of a question."""

    status: HTTPStatus  # OK: it may
    reason: str = ""  # why not
    eval_id: str = ""  # of the evaluation, as the trail has it
    ids: tuple[str, ...] = ()  # the statements that decided

    @property
    def allowed(self) -> bool:
        """Whether the agent may."""
        return self.status is HTTPStatus.OK


_LIMIT: Final = Answer(HTTPStatus.TOO_MANY_REQUESTS, "more decisions are asked for than may be")
_RECORDED: Final = (HTTPStatus.OK, HTTPStatus.FORBIDDEN)
_LOST: Final = Answer(HTTPStatus.SERVICE_UNAVAILABLE, "the decision could not be recorded")


class Decisions:
    """Answers questions, and records each answer before anybody hears it.

    Args:
        gateway_limit: Of decisions, for each gateway.
        agent_limit: For each agent: one that asks too much must not use up what others have.
        registry: Where decisions are counted.
    """

    def __init__(
        self,
        *,
        registrations: Registrations,
        revocations: Revocations,
        judge: PolicyJudge,
        database: Database,
        gateway_limit: RateLimit,
        agent_limit: RateLimit,
        registry: CollectorRegistry,
    ) -> None:
        self._registrations = registrations
        self._revocations = revocations
        self._judge = judge
        self._database = database
        self._gateway_limit = gateway_limit
        self._agent_limit = agent_limit
        self._made = Counter(
            "issuer_decisions", "Decisions for gateways.", ("endpoint", "status"), registry=registry
        )

    async def decide(
        self, questions: Sequence[Question | Answer], call: Call, *, until: bool | None = None
    ) -> list[Answer]:
        """Return the answers, in order.

        Args:
            questions: Asked together and recorded in one transaction; an answer stands for what was none.
            call: Who asks, and how; it has been authorised.
            until: Go no further than the first answer of this kind.
        """
        answers: list[Answer] = []
        records: list[AuditRecord] = []
        for question in questions:
            if isinstance(question, Answer):
                answers.append(question)
            elif not self._spend(question, call):
                answers.append(_LIMIT)
            else:
                answer, record = self._answer(question, call)
                answers.append(answer)
                records.append(record)
            if answers[-1].allowed is until:
                break
            if not len(answers) % 10:
                await asyncio.sleep(0)  # others get their turn
        if not await self._recorded(records):
            answers = [_LOST if one.status in _RECORDED else one for one in answers]
        for answer in answers:
            self._made.labels(call.method, answer.status.value).inc()
        return answers

    def _spend(self, question: Question, call: Call) -> bool:
        try:
            self._gateway_limit.spend(call.caller.actor)  # first: over it, nothing is taken from agents
            self._agent_limit.spend(question.agent)
        except RateLimitedError:
            return False
        return True

    async def _recorded(self, records: Sequence[AuditRecord]) -> bool:
        if not records:
            return True
        try:
            async with asyncio.timeout(WITHIN):
                await self._database.record(*records)
        except (IssuerError, TimeoutError) as error:
            why = str(error) or type(error).__name__
            logger.error("decisions could not be recorded, and are denied", extra={"reason": why})  # noqa: TRY400 - the reason says it all
            return False
        return True

    def _answer(self, question: Question, call: Call) -> tuple[Answer, AuditRecord]:
        agent = self._registrations.agent(question.agent)
        detail: dict[str, Any] = {**_said(question), **question.asked}
        policy: PolicyFacts | None = None
        allowed, reason = False, f"{question.agent} is no agent of this trust domain"
        if agent is not None and not (reason := self._refusal(question, agent, call)):
            request = Request(
                action=HTTP if question.http is not None else TOOL,
                principal=principal_of(agent, call.now),
                resource=question.resource,
                at=call.now,
                http=question.http,
            )
            judged = self._judge.judge_call(request)
            decision = judged.decision
            allowed, reason = decision.allowed, decision.reason
            policy = PolicyFacts(bundle=decision.bundle, ids=decision.ids, eval_id=judged.eval_id)
            if question.http is None:
                detail["judged"] = request.recorded()
            if decision.shadow is not None and decision.shadow.allowed != allowed:
                detail["shadow"] = {"allowed": decision.shadow.allowed, "ids": list(decision.shadow.ids)}
        record = call.record(
            str(question.agent),
            Outcome.OK if allowed else Outcome.DENIED,
            reason=reason,
            agent=None if agent is None else agent.facts,
            policy=policy,
            **detail,
        )
        status = HTTPStatus.OK if allowed else HTTPStatus.FORBIDDEN
        answer = (
            Answer(status, reason) if policy is None else Answer(status, reason, policy.eval_id, policy.ids)
        )
        return answer, structs.replace(record, type="call.allowed" if allowed else "call.denied")

    def _refusal(self, question: Question, agent: Agent, call: Call) -> str:
        """Return why an agent may not, before any policy is asked; "" if nothing speaks against it."""
        if agent.state is not AgentState.ACTIVE:
            return f"agent {agent.spiffe_id} is {agent.state}"
        if question.flaw:
            return question.flaw
        if question.serial and self._revocations.has_certificate(question.serial, call.now):
            return "the agent's certificate is revoked"
        tools = effective(agent, self._registrations.agent_class(agent.agent_class)).tools
        if question.http is None and tools is not None:
            try:
                tools.check_permits(question.resource.id, question.arguments)
            except NotPermittedError as error:
                return str(error)
        return ""


def plain(name: str, value: str) -> str:
    """Return a name that is short and can be printed.

    Raises:
        InvalidRequestError: It is not; the message says of which field.
    """
    if not 0 < len(value) <= MAX_NAME or not value.isprintable():
        raise InvalidRequestError(f"{name}: is not 1 to {MAX_NAME} characters that can be printed")
    return value


def _said(question: Question) -> dict[str, object]:
    """Return what is recorded of a question: neither arguments nor paths, which may hold secrets."""
    found: dict[str, object] = {question.resource.kind.lower(): question.resource.id}
    if question.http is not None:
        digest = hashlib.sha256(question.http.path.encode()).hexdigest()
        found |= {"method": question.http.method, "path_sha256": digest}
    return found

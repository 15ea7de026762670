# SPDX-License-Identifier: Apache-2.0
"""Between agents, their classes and their messages; parsing names the field and the rule that it breaks."""

import re
from dataclasses import replace
from datetime import datetime, timedelta
from typing import Any, Final
from urllib.parse import urlsplit

from issuer.api.convert import node_id_field
from issuer.errors import InvalidRequestError
from issuer.governance.limits import LIFETIMES, MAX_DELEGATION_TTL, MAX_DEPTH
from issuer.model import Agent, AgentClass, AgentState, Limits, Owner
from issuer.store.nodes import SERVER_PATH
from spiffekit.delegation.tools import Tools
from spiffekit.errors import ConstraintError
from spiffekit.id import SpiffeId, TrustDomain
from spiffekit.wire.convert import instant, seconds
from spiffekit.wire.pb.issuer.v1 import agents_pb2

MAX_TEXT: Final = 1024  # bytes
MIN_PURPOSE: Final = 20  # characters
MAX_AUDIENCES: Final = 100
MAX_SPAN: Final = timedelta(days=3650)
_CLASS_NAME: Final = re.compile(r"[A-Za-z0-9._-]{1,63}", re.ASCII)
_RESERVED: Final = "/spire/"
_STATES: Final = {
    AgentState.REGISTERED: agents_pb2.REGISTERED,
    AgentState.ACTIVE: agents_pb2.ACTIVE,
    AgentState.SUSPENDED: agents_pb2.SUSPENDED,
    AgentState.RETIRED: agents_pb2.RETIRED,
}


def text_field(name: str, text: str, *, required: bool = False) -> str:
    """Return a text that can be shown on one line.

    Raises:
        InvalidRequestError: It is too long, has control characters, or is empty and required.
    """
    if required and not text.strip():
        raise InvalidRequestError(f"{name}: is missing")
    if len(text.encode()) > MAX_TEXT:
        raise InvalidRequestError(f"{name}: longer than {MAX_TEXT} bytes")
    if not text.isprintable():
        raise InvalidRequestError(f"{name}: has characters that cannot be printed")
    return text


def agent_id_field(name: str, text: str, trust_domain: TrustDomain) -> SpiffeId:
    """Return an ID that an agent of our trust domain can have.

    Raises:
        InvalidRequestError: It is none.
    """
    spiffe_id = node_id_field(name, text, trust_domain)
    if not spiffe_id.path or spiffe_id.path == SERVER_PATH or spiffe_id.path.startswith(_RESERVED):
        raise InvalidRequestError(f"{name}: {spiffe_id} is no ID of a workload")
    return spiffe_id


def owner_field(message: agents_pb2.Owner) -> Owner:
    """Return an owner.

    Raises:
        InvalidRequestError: A part is missing or malformed.
    """
    issuer = text_field("owner.issuer", message.issuer, required=True)
    subject = text_field("owner.subject", message.subject, required=True)
    if "|" in issuer or urlsplit(issuer).scheme != "https" or not urlsplit(issuer).netloc:
        raise InvalidRequestError("owner.issuer: is not an https URL")
    if subject.startswith("group:"):
        raise InvalidRequestError("owner.subject: starts with 'group:'; say that it is a group by `group`")
    return Owner(issuer, subject, group=message.group)


def instant_field(name: str, value: int) -> datetime | None:
    """Return an instant, or None for 0.

    Raises:
        InvalidRequestError: It is outside of the calendar.
    """
    try:
        return instant(value)
    except ValueError as error:
        raise InvalidRequestError(f"{name}: {error}") from error


def class_name_field(name: str, text: str) -> str:
    """Return the name of a class.

    Raises:
        InvalidRequestError: It is none.
    """
    if not _CLASS_NAME.fullmatch(text):
        raise InvalidRequestError(f"{name}: use 1 to 63 of A-Z a-z 0-9 . _ -")
    return text


def limits_field(message: agents_pb2.Limits) -> Limits:
    """Return limits.

    Raises:
        InvalidRequestError: One breaks a rule.
    """
    if message.audiences and not message.limits_audiences:
        raise InvalidRequestError("limits.audiences: count only with limits_audiences")
    if len(message.audiences) > MAX_AUDIENCES:
        raise InvalidRequestError(f"limits.audiences: more than {MAX_AUDIENCES}")
    audiences = sorted({text_field("limits.audiences", a, required=True) for a in message.audiences})
    if message.max_depth > MAX_DEPTH:
        raise InvalidRequestError(f"limits.max_depth: more than {MAX_DEPTH}")
    if message.delegation_ttl > MAX_DELEGATION_TTL.total_seconds():
        raise InvalidRequestError(f"limits.delegation_ttl: longer than {MAX_DELEGATION_TTL}")
    return Limits(
        tools=_tools(message.tools_json),
        audiences=tuple(audiences) if message.limits_audiences else None,
        max_depth=message.max_depth if message.HasField("max_depth") else None,
        **{name: _span(f"limits.{name}", getattr(message, name)) for name in LIFETIMES},
    )


def _span(name: str, value: int) -> timedelta | None:
    if value > MAX_SPAN.total_seconds():
        raise InvalidRequestError(f"{name}: longer than {MAX_SPAN.days} days")
    return timedelta(seconds=value) if value else None


def _tools(text: str) -> Tools | None:
    if not text:
        return None
    try:
        return Tools.from_json(text.encode())
    except ConstraintError as error:
        raise InvalidRequestError(f"limits.tools: {error}") from error


def agent_field(message: agents_pb2.AgentSpec, trust_domain: TrustDomain, **rest: Any) -> Agent:
    """Return the agent of a description; `rest` is what nobody describes.

    Raises:
        InvalidRequestError: A field breaks a rule; the message names both.
    """
    purpose = text_field("purpose", message.purpose, required=True)
    if len(purpose.strip()) < MIN_PURPOSE:
        raise InvalidRequestError(f"purpose: say it in {MIN_PURPOSE} characters or more")
    return Agent(
        spiffe_id=agent_id_field("spiffe_id", message.spiffe_id, trust_domain),
        owner=owner_field(message.owner),
        sponsor=text_field("sponsor", message.sponsor),
        team=text_field("team", message.team),
        agent_class=class_name_field("agent_class", message.agent_class) if message.agent_class else "",
        purpose=purpose,
        limits=limits_field(message.limits),
        review_by=instant_field("review_by", message.review_by),
        **rest,
    )


def changed(agent: Agent, wanted: Agent) -> Agent:
    """Return an agent with everything that `wanted` describes but its owner."""
    return replace(
        agent,
        **{
            name: getattr(wanted, name)
            for name in ("sponsor", "team", "agent_class", "purpose", "limits", "review_by")
        },
    )


def class_field(message: agents_pb2.AgentClass) -> AgentClass:
    """Return a class.

    Raises:
        InvalidRequestError: A field breaks a rule.
    """
    return AgentClass(
        name=class_name_field("name", message.name),
        limits=limits_field(message.limits),
        two_people=message.two_people,
        review_every=_span("review_every", message.review_every),
    )


def state_field(name: str, value: int) -> AgentState | None:
    """Return a state, or None where none is given.

    Raises:
        InvalidRequestError: There is none of that number.
    """
    if not value:
        return None
    for state, number in _STATES.items():
        if number == value:
            return state
    raise InvalidRequestError(f"{name}: state {value} is not known")


def limits_to_proto(limits: Limits) -> agents_pb2.Limits:
    """Return the message of limits."""
    return agents_pb2.Limits(
        tools_json="" if limits.tools is None else limits.tools.to_json().decode(),
        audiences=limits.audiences or (),
        limits_audiences=limits.audiences is not None,
        max_depth=limits.max_depth,
        **{
            name: int(lifetime.total_seconds())
            for name in LIFETIMES
            if (lifetime := getattr(limits, name)) is not None
        },
    )


def agent_to_proto(agent: Agent, effective: Limits) -> agents_pb2.Agent:
    """Return the message of an agent."""
    owner = agent.owner
    return agents_pb2.Agent(
        spec=agents_pb2.AgentSpec(
            spiffe_id=str(agent.spiffe_id),
            owner=agents_pb2.Owner(issuer=owner.issuer, subject=owner.subject, group=owner.group),
            sponsor=agent.sponsor,
            team=agent.team,
            agent_class=agent.agent_class,
            purpose=agent.purpose,
            limits=limits_to_proto(agent.limits),
            review_by=seconds(agent.review_by),
        ),
        id=agent.id,
        state=_STATES[agent.state],
        version=agent.version,
        registered_by=agent.registered_by,
        created_at=seconds(agent.created_at),
        changed_at=seconds(agent.changed_at),
        reason=agent.reason,
        orphaned_at=seconds(agent.orphaned_at),
        successor=str(agent.successor or ""),
        effective=limits_to_proto(effective),
    )


def class_to_proto(agent_class: AgentClass) -> agents_pb2.AgentClass:
    """Return the message of a class."""
    every = agent_class.review_every
    return agents_pb2.AgentClass(
        name=agent_class.name,
        limits=limits_to_proto(agent_class.limits),
        two_people=agent_class.two_people,
        review_every=0 if every is None else int(every.total_seconds()),
    )

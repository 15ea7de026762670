# SPDX-License-Identifier: Apache-2.0
"""What an agent may have at most: its own limits within those of its class, and defaults for the rest."""

from collections.abc import Mapping
from datetime import timedelta
from typing import Any, Final

from issuer.errors import InvalidRequestError
from issuer.model import Agent, AgentClass, Limits

LIFETIMES: Final = ("x509_ttl", "jwt_ttl", "wit_ttl", "delegation_ttl")
DEFAULTS: Final = Limits(
    # Short: who looks at no revocation list gets rid of a retired agent by waiting for so long.
    max_depth=3,
    x509_ttl=timedelta(minutes=15),
    jwt_ttl=timedelta(minutes=5),
    wit_ttl=timedelta(hours=1),
    delegation_ttl=timedelta(minutes=10),
)
MAX_DEPTH: Final = 5
_NO_CLASS: Final = AgentClass(name="")


def check_narrower(limits: Limits, agent_class: AgentClass | None) -> None:
    """Check that the limits of an agent lie within those of its class.

    Raises:
        InvalidRequestError: One is wider; the message names it.
    """
    if agent_class is None:
        return
    of_class = agent_class.limits
    name = f"class {agent_class.name!r}"
    for field in (*LIFETIMES, "max_depth"):
        own, most = getattr(limits, field), getattr(of_class, field)
        if own is not None and most is not None and own > most:
            raise InvalidRequestError(f"limits.{field}: {own} is more than the {most} of {name}")
    if limits.audiences is not None and of_class.audiences is not None:
        for audience in limits.audiences:
            if audience not in of_class.audiences:
                raise InvalidRequestError(f"limits.audiences: {audience!r} is not among those of {name}")
    if limits.tools is not None and of_class.tools is not None:
        for tool, constraints in limits.tools.items():
            if not _within(tool, constraints, of_class.tools):
                raise InvalidRequestError(f"limits.tools: {tool!r} allows more than {name} does")


def effective(agent: Agent, agent_class: AgentClass | None) -> Limits:
    """Return what holds for an agent. Where its class has been narrowed since, the class counts."""
    own, of_class = agent.limits, (agent_class or _NO_CLASS).limits

    def least(field: str) -> Any:
        given = [getattr(limits, field) for limits in (own, of_class)]
        return min((limit for limit in given if limit is not None), default=getattr(DEFAULTS, field))

    return Limits(
        tools=_tools(own, of_class),
        audiences=_audiences(own, of_class),
        **{field: least(field) for field in (*LIFETIMES, "max_depth")},
    )


def _audiences(own: Limits, of_class: Limits) -> tuple[str, ...] | None:
    if own.audiences is None or of_class.audiences is None:
        return own.audiences if of_class.audiences is None else of_class.audiences
    return tuple(audience for audience in own.audiences if audience in of_class.audiences)


def _tools(own: Limits, of_class: Limits) -> Mapping[str, object] | None:
    if own.tools is None or of_class.tools is None:
        return own.tools if of_class.tools is None else of_class.tools
    return {tool: asked for tool, asked in own.tools.items() if _within(tool, asked, of_class.tools)}


def _within(tool: str, constraints: object, tools: Mapping[str, object]) -> bool:
    """Tell whether a tool is allowed with constraints that are the same; a tool without any takes all."""
    return tool in tools and tools[tool] in ({}, constraints)

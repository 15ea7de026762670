# SPDX-License-Identifier: Apache-2.0
"""What an agent may have at most: its own limits within those of its class, and defaults for the rest."""

from datetime import timedelta
from typing import Any, Final

from issuer.errors import InvalidRequestError
from issuer.model import Agent, AgentClass, Limits
from spiffekit.delegation.tools import Tools
from spiffekit.errors import NotNarrowerError

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
# What is delegated offline is in no record: that an agent was taken back is told a little longer than this.
MAX_DELEGATION_TTL: Final = timedelta(hours=1)
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
        try:
            limits.tools.check_narrows(of_class.tools)
        except NotNarrowerError as error:
            raise InvalidRequestError(f"limits.tools: wider than {name}: {error}") from error


def effective(agent: Agent, agent_class: AgentClass | None) -> Limits:
    """Return what holds for an agent. Where its class has been narrowed since, the class counts."""
    return Limits(
        tools=tools(agent, agent_class),
        audiences=audiences(agent, agent_class),
        **{field: least(agent, agent_class, field) for field in (*LIFETIMES, "max_depth")},
    )


def least(agent: Agent, agent_class: AgentClass | None, field: str) -> Any:
    """Return the lowest limit of an agent that is a number or a lifetime, by its name in `Limits`."""
    given = [getattr(limits, field) for limits in (agent.limits, (agent_class or _NO_CLASS).limits)]
    least_given = min((limit for limit in given if limit is not None), default=getattr(DEFAULTS, field))
    # A database may still have a longer one, from before there was a limit.
    return min(least_given, MAX_DELEGATION_TTL) if field == "delegation_ttl" else least_given


def audiences(agent: Agent, agent_class: AgentClass | None) -> tuple[str, ...] | None:
    """Return the only audiences that an agent may have SVIDs for, or None if any."""
    own, of_class = agent.limits.audiences, (agent_class or _NO_CLASS).limits.audiences
    if own is None or of_class is None:
        return own if of_class is None else of_class
    return tuple(audience for audience in own if audience in of_class)


def tools(agent: Agent, agent_class: AgentClass | None) -> Tools | None:
    """Return the only tools that an agent may use, or None if any."""
    own, of_class = agent.limits.tools, (agent_class or _NO_CLASS).limits.tools
    if own is None or of_class is None:
        return own if of_class is None else of_class
    return own.within(of_class)

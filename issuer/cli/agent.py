# SPDX-License-Identifier: Apache-2.0
"""AI agents: register them, and lead them through their life."""

from collections.abc import Callable
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

from issuer.cli.filters import options
from issuer.cli.options import INSTANT, SECONDS, SPIFFE_ID, epoch, socket_option
from spiffekit.daemon.terminal import (
    counted,
    instant,
    output_option,
    print_json,
    print_record,
    print_table,
)
from spiffekit.id import SpiffeId

if TYPE_CHECKING:
    from issuer.client import IssuerApi
    from spiffekit.wire.pb.issuer.v1 import agents_pb2

F = TypeVar("F", bound=Callable[..., Any])

STATES = ("registered", "active", "suspended", "retired")
id_option = click.option("--spiffeID", "spiffe_id", type=SPIFFE_ID, required=True, help="The agent.")
reason_option = click.option("--reason", required=True, help="Why; it is kept in the audit trail.")
certificate_option = click.option(
    "--certificate",
    "certificate",
    type=click.Path(path_type=Path),
    help="A file for the signed retirement certificate.",
)
owner_options = options(
    click.option("--ownerIssuer", "owner_issuer", required=True, help="URL of the owner's OIDC provider."),
    click.option("--owner", "owner", required=True, help="The owner's `sub` there, or the group's name."),
    click.option("--ownerGroup", "owner_group", is_flag=True, help="The owner is a group."),
)
limit_options = options(
    click.option(
        "--tools",
        "tools",
        type=click.File("r", encoding="utf-8"),
        help="A JSON file: tool names, each with the constraints of its arguments.",
    ),
    click.option("--audience", "audiences", multiple=True, help="The only audiences; repeatable."),
    click.option("--noAudience", "no_audience", is_flag=True, help="No audience at all."),
    click.option("--maxDepth", "max_depth", type=int, help="How deep it may delegate."),
    click.option("--x509TTL", "x509_ttl", type=SECONDS, default=0, help="Longest life of X.509-SVIDs."),
    click.option("--jwtTTL", "jwt_ttl", type=SECONDS, default=0, help="Longest life of JWT-SVIDs."),
    click.option("--witTTL", "wit_ttl", type=SECONDS, default=0, help="Longest life of WIT-SVIDs."),
    click.option(
        "--delegationTTL",
        "delegation_ttl",
        type=SECONDS,
        default=0,
        help="Longest life of delegations; 1h at most.",
    ),
)
description_options = options(
    click.option("--purpose", required=True, help="What it is for, in 20 characters or more."),
    click.option("--sponsor", default="", help="Who is on call."),
    click.option("--team", default="", help="Whose people work with it."),
    click.option("--class", "agent_class", default="", help="The class whose limits it has."),
    click.option("--reviewBy", "review_by", type=INSTANT, help="A date or instant, e.g. 2027-01-31."),
    limit_options,
)


@click.group("agent")
def group() -> None:
    """AI agents: each has an owner, a purpose and an end."""


def limits_of(given: dict[str, Any]) -> "agents_pb2.Limits":
    """Return what the limit options say."""
    from spiffekit.wire.pb.issuer.v1 import agents_pb2

    if given["audiences"] and given["no_audience"]:
        raise click.UsageError("--audience and --noAudience exclude each other")
    return agents_pb2.Limits(
        tools_json="" if given["tools"] is None else given["tools"].read(),
        audiences=given["audiences"],
        limits_audiences=bool(given["audiences"] or given["no_audience"]),
        max_depth=given["max_depth"],
        **{name: given[name] for name in ("x509_ttl", "jwt_ttl", "wit_ttl", "delegation_ttl")},
    )


def _spec(spiffe_id: SpiffeId, given: dict[str, Any]) -> "agents_pb2.AgentSpec":
    from spiffekit.wire.pb.issuer.v1 import agents_pb2

    return agents_pb2.AgentSpec(
        spiffe_id=str(spiffe_id),
        limits=limits_of(given),
        review_by=epoch(given["review_by"]),
        **{name: given[name] for name in ("purpose", "sponsor", "team", "agent_class")},
    )


def _owner(given: dict[str, Any]) -> "agents_pb2.Owner":
    from spiffekit.wire.pb.issuer.v1 import agents_pb2

    return agents_pb2.Owner(issuer=given["owner_issuer"], subject=given["owner"], group=given["owner_group"])


def _state(agent: "agents_pb2.Agent") -> str:
    from spiffekit.wire.pb.issuer.v1 import agents_pb2

    return agents_pb2.AgentState.Name(agent.state).lower()


def _owner_text(owner: "agents_pb2.Owner") -> str:
    return f"{owner.issuer}|{'group:' if owner.group else ''}{owner.subject}"


def _tell(agent: "agents_pb2.Agent", output: str) -> None:
    if output == "json":
        print_json(agent)
        return
    spec, most = agent.spec, agent.effective
    print_record(
        {
            "SPIFFE ID": spec.spiffe_id,
            "State": _state(agent) + (f" ({agent.reason})" if agent.reason else ""),
            "Since": instant(agent.changed_at),
            "Owner": _owner_text(spec.owner)
            + (f", gone since {instant(agent.orphaned_at)}" if agent.orphaned_at else ""),
            "Sponsor": spec.sponsor,
            "Team": spec.team,
            "Class": spec.agent_class,
            "Purpose": spec.purpose,
            "Tools": most.tools_json or "any",
            "Audiences": ", ".join(most.audiences) or ("none" if most.limits_audiences else "any"),
            "Delegations": f"{most.max_depth} deep, for {most.delegation_ttl} s",
            "Lifetimes": f"X.509 {most.x509_ttl} s, JWT {most.jwt_ttl} s, WIT {most.wit_ttl} s",
            "Review by": instant(spec.review_by) if spec.review_by else "",
            "Registered": f"{instant(agent.created_at)} by {agent.registered_by}",
            "Successor": agent.successor,
        }
    )


@group.command()
@id_option
@owner_options
@description_options
@socket_option
@output_option
def register(spiffe_id: SpiffeId, socket: Path, output: str, **given: Any) -> None:
    """Add an agent. It gets no identity before it is activated."""
    from issuer.client import DEADLINE, connect
    from spiffekit.wire.pb.issuer.v1 import agents_pb2

    spec = _spec(spiffe_id, given)
    spec.owner.CopyFrom(_owner(given))
    with connect(socket) as api:
        _tell(api.agents.RegisterAgent(agents_pb2.RegisterAgentRequest(spec=spec), timeout=DEADLINE), output)


@group.command()
@id_option
@reason_option
@description_options
@socket_option
@output_option
def update(spiffe_id: SpiffeId, reason: str, socket: Path, output: str, **given: Any) -> None:
    """Replace what an agent is for and may have: what is left out is no longer limited."""
    from issuer.client import DEADLINE, connect
    from spiffekit.wire.pb.issuer.v1 import agents_pb2

    request = agents_pb2.UpdateAgentRequest(spec=_spec(spiffe_id, given), reason=reason)
    with connect(socket) as api:
        _tell(api.agents.UpdateAgent(request, timeout=DEADLINE), output)


@group.command("list")
@click.option("--state", type=click.Choice(STATES), help="Only those in this state.")
@click.option("--team", default="", help="Only those of this team.")
@click.option("--reviewDue", "review_due", is_flag=True, help="Only those whose review is overdue.")
@socket_option
@output_option
def list_(state: str | None, team: str, review_due: bool, socket: Path, output: str) -> None:
    """List agents."""
    from issuer.client import connect, listed
    from spiffekit.wire.pb.issuer.v1 import agents_pb2

    request = agents_pb2.ListAgentsRequest(
        state=state.upper() if state else None,
        team=team,
        review_due=review_due,
    )
    with connect(socket) as api:
        agents = listed(api.agents.ListAgents, request, "agents")
    if output == "json":
        print_json(agents_pb2.ListAgentsResponse(agents=agents))
        return
    click.echo(f"Found {counted(len(agents), 'agent')}")
    if agents:
        print_table(
            ["SPIFFE ID", "State", "Owner", "Team", "Class", "Review by"],
            [
                [
                    agent.spec.spiffe_id,
                    _state(agent),
                    _owner_text(agent.spec.owner) + (" (gone)" if agent.orphaned_at else ""),
                    agent.spec.team,
                    agent.spec.agent_class,
                    instant(agent.spec.review_by) if agent.spec.review_by else "",
                ]
                for agent in agents
            ],
        )


@group.command()
@id_option
@socket_option
@output_option
def show(spiffe_id: SpiffeId, socket: Path, output: str) -> None:
    """Show one agent, and what holds for it after its class."""
    from issuer.client import DEADLINE, connect
    from spiffekit.wire.pb.issuer.v1 import agents_pb2

    with connect(socket) as api:
        _tell(
            api.agents.GetAgent(agents_pb2.GetAgentRequest(spiffe_id=str(spiffe_id)), timeout=DEADLINE),
            output,
        )


def _step(verb: str, spiffe_id: SpiffeId, reason: str, socket: Path, output: str) -> None:
    from issuer.client import DEADLINE, connect
    from spiffekit.wire.pb.issuer.v1 import agents_pb2

    request = agents_pb2.ChangeStateRequest(spiffe_id=str(spiffe_id), reason=reason)
    with connect(socket) as api:
        _tell(getattr(api.agents, verb)(request, timeout=DEADLINE), output)


@group.command()
@id_option
@reason_option
@socket_option
@output_option
def activate(spiffe_id: SpiffeId, reason: str, socket: Path, output: str) -> None:
    """Approve a registered agent."""
    _step("ActivateAgent", spiffe_id, reason, socket, output)


@group.command()
@id_option
@reason_option
@socket_option
@output_option
def suspend(spiffe_id: SpiffeId, reason: str, socket: Path, output: str) -> None:
    """Take an agent's identity away until it is resumed."""
    _step("SuspendAgent", spiffe_id, reason, socket, output)


@group.command()
@id_option
@reason_option
@socket_option
@output_option
def resume(spiffe_id: SpiffeId, reason: str, socket: Path, output: str) -> None:
    """Give a suspended agent its identity back: its owner's right."""
    _step("ResumeAgent", spiffe_id, reason, socket, output)


@group.command()
@id_option
@reason_option
@click.option("--successor", type=SPIFFE_ID, help="The agent that goes on.")
@certificate_option
@socket_option
@output_option
def retire(
    spiffe_id: SpiffeId,
    reason: str,
    successor: SpiffeId | None,
    certificate: Path | None,
    socket: Path,
    output: str,
) -> None:
    """End an agent for ever, and say what it still has: nobody gets its SPIFFE ID again."""
    from issuer.client import DEADLINE, connect
    from spiffekit.wire.pb.issuer.v1 import agents_pb2

    request = agents_pb2.RetireAgentRequest(
        spiffe_id=str(spiffe_id), reason=reason, successor=str(successor or "")
    )
    with connect(socket) as api:
        retired = api.agents.RetireAgent(request, timeout=DEADLINE)
        if output != "json":
            _tell(retired, output)
        _certify(api, spiffe_id, certificate, output)


@group.command()
@id_option
@certificate_option
@socket_option
@output_option
def certify(spiffe_id: SpiffeId, certificate: Path | None, socket: Path, output: str) -> None:
    """Say what a retired agent had when it was retired, and when the last of it ends."""
    from issuer.client import connect

    with connect(socket) as api:
        _certify(api, spiffe_id, certificate, output)


def _certify(api: "IssuerApi", spiffe_id: SpiffeId, file: Path | None, output: str) -> None:
    from issuer.client import DEADLINE
    from spiffekit.wire.pb.issuer.v1 import revocation_pb2

    request = revocation_pb2.CertifyRetirementRequest(spiffe_id=str(spiffe_id))
    made = api.revocation.CertifyRetirement(request, timeout=DEADLINE)
    if file is not None:
        file.write_text(made.token + "\n", encoding="ascii")
    if output == "json":
        print_json(made)
        return
    click.echo(f"Retired at {instant(made.retired_at)} with {len(made.outstanding)} outstanding credentials")
    if made.outstanding:
        print_table(
            ["Kind", "ID", "For", "Ends"],
            [[o.kind, o.id, ", ".join(o.audience), instant(o.expires_at)] for o in made.outstanding],
        )
    click.echo(f"Fully dead at {instant(made.fully_dead_at)}")


@group.command()
@id_option
@reason_option
@click.option("--reviewBy", "review_by", type=INSTANT, help="The next review; by the class if left out.")
@socket_option
@output_option
def review(spiffe_id: SpiffeId, reason: str, review_by: datetime | None, socket: Path, output: str) -> None:
    """Say that somebody looked whether the agent is still needed."""
    from issuer.client import DEADLINE, connect
    from spiffekit.wire.pb.issuer.v1 import agents_pb2

    request = agents_pb2.ReviewAgentRequest(
        spiffe_id=str(spiffe_id), reason=reason, review_by=epoch(review_by)
    )
    with connect(socket) as api:
        _tell(api.agents.ReviewAgent(request, timeout=DEADLINE), output)


@group.command()
@id_option
@reason_option
@owner_options
@socket_option
@output_option
def transfer(spiffe_id: SpiffeId, reason: str, socket: Path, output: str, **given: Any) -> None:
    """Give an agent to another owner."""
    from issuer.client import DEADLINE, connect
    from spiffekit.wire.pb.issuer.v1 import agents_pb2

    request = agents_pb2.TransferAgentRequest(spiffe_id=str(spiffe_id), reason=reason, owner=_owner(given))
    with connect(socket) as api:
        _tell(api.agents.TransferAgent(request, timeout=DEADLINE), output)

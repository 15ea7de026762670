# SPDX-License-Identifier: Apache-2.0
"""Classes of agents: limits that agents inherit and may only narrow."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from issuer.cli.agent import limit_options, limits_of
from issuer.cli.options import SECONDS, socket_option
from spiffekit.daemon.terminal import counted, output_option, print_json, print_record, print_table

if TYPE_CHECKING:
    from spiffekit.wire.pb.issuer.v1 import agents_pb2

name_option = click.option("--name", required=True, help="The class.")


@click.group("class")
def group() -> None:
    """Classes of agents."""


def _tell(agent_class: "agents_pb2.AgentClass", output: str) -> None:
    if output == "json":
        print_json(agent_class)
        return
    limits = agent_class.limits
    lifetimes = {"X.509": limits.x509_ttl, "JWT": limits.jwt_ttl, "WIT": limits.wit_ttl}
    print_record(
        {
            "Name": agent_class.name,
            "Two people": "yes" if agent_class.two_people else "no",
            "Reviews": f"every {agent_class.review_every} s" if agent_class.review_every else "none",
            "Tools": limits.tools_json or "any",
            "Audiences": ", ".join(limits.audiences) or ("none" if limits.limits_audiences else "any"),
            "Lifetimes": ", ".join(f"{kind} {ttl} s" for kind, ttl in lifetimes.items() if ttl),
        }
    )


@group.command()
@name_option
@click.option("--twoPeople", "two_people", is_flag=True, help="Who registers an agent may not activate it.")
@click.option(
    "--reviewEvery", "review_every", type=SECONDS, default=0, help="From one review to the next, e.g. 90d."
)
@limit_options
@socket_option
@output_option
def put(name: str, two_people: bool, review_every: int, socket: Path, output: str, **given: Any) -> None:
    """Add or replace a class; the agents that are of it are narrowed at once."""
    from issuer.client import DEADLINE, connect
    from spiffekit.wire.pb.issuer.v1 import agents_pb2

    request = agents_pb2.AgentClass(
        name=name, two_people=two_people, review_every=review_every, limits=limits_of(given)
    )
    with connect(socket) as api:
        _tell(api.agents.PutAgentClass(request, timeout=DEADLINE), output)


@group.command("list")
@socket_option
@output_option
def list_(socket: Path, output: str) -> None:
    """List classes."""
    from issuer.client import DEADLINE, connect
    from spiffekit.wire.pb.issuer.v1 import agents_pb2

    with connect(socket) as api:
        answer = api.agents.ListAgentClasses(agents_pb2.ListAgentClassesRequest(), timeout=DEADLINE)
    if output == "json":
        print_json(answer)
        return
    click.echo(f"Found {counted(len(answer.classes), 'class', 'classes')}")
    if answer.classes:
        print_table(
            ["Name", "Two people", "Reviews"],
            [
                [c.name, "yes" if c.two_people else "no", f"{c.review_every} s" if c.review_every else ""]
                for c in answer.classes
            ],
        )


@group.command()
@name_option
@socket_option
@output_option
def show(name: str, socket: Path, output: str) -> None:
    """Show one class."""
    from issuer.client import DEADLINE, connect
    from issuer.errors import NotFoundError
    from spiffekit.wire.pb.issuer.v1 import agents_pb2

    with connect(socket) as api:
        answer = api.agents.ListAgentClasses(agents_pb2.ListAgentClassesRequest(), timeout=DEADLINE)
    for agent_class in answer.classes:
        if agent_class.name == name:
            return _tell(agent_class, output)
    raise NotFoundError(f"class {name!r} does not exist")


@group.command()
@name_option
@socket_option
@output_option
def delete(name: str, socket: Path, output: str) -> None:
    """Remove a class that no agent is or was of."""
    from issuer.client import DEADLINE, connect
    from spiffekit.wire.pb.issuer.v1 import agents_pb2

    with connect(socket) as api:
        _tell(
            api.agents.DeleteAgentClass(agents_pb2.DeleteAgentClassRequest(name=name), timeout=DEADLINE),
            output,
        )

# SPDX-License-Identifier: Apache-2.0
"""Nodes: the machines that attestors have proved (SPIRE's ``agent`` commands)."""

from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from issuer.cli.filters import node_filter, node_filters
from issuer.cli.options import SECONDS, SPIFFE_ID, socket_option
from spiffekit.daemon.terminal import (
    counted,
    instant,
    output_option,
    print_json,
    print_record,
    print_table,
    remaining,
)
from spiffekit.id import SpiffeId
from spiffekit.selector import Selector

if TYPE_CHECKING:
    from issuer.client import IssuerApi
    from spiffekit.wire.pb.spire.api import types_pb2


@click.group("node")
def group() -> None:
    """Nodes that have proved themselves."""


def _id(node: "types_pb2.Agent") -> str:
    return f"spiffe://{node.id.trust_domain}{node.id.path}"


def _fetch(api: "IssuerApi", given: dict[str, Any]) -> list["types_pb2.Agent"]:
    from issuer.client import listed
    from spiffekit.wire.pb.spire.api.server.agent.v1 import agent_pb2

    request = agent_pb2.ListAgentsRequest(filter=node_filter(agent_pb2.ListAgentsRequest.Filter, given))
    return listed(api.nodes.ListAgents, request, "agents")


@group.command("list")
@node_filters
@socket_option
@output_option
def list_(socket: Path, output: str, **given: Any) -> None:
    """List nodes."""
    from issuer.client import connect
    from spiffekit.wire.pb.spire.api.server.agent.v1 import agent_pb2

    with connect(socket) as api:
        nodes = _fetch(api, given)
    if output == "json":
        print_json(agent_pb2.ListAgentsResponse(agents=nodes))
        return
    click.echo(f"Found {counted(len(nodes), 'attested node')}")
    now = datetime.now(UTC)
    if nodes:
        print_table(
            ["SPIFFE ID", "Attested by", "Expires", "Again?", "State"],
            [
                [
                    _id(node),
                    node.attestation_type,
                    remaining(node.x509svid_expires_at, now),
                    "yes" if node.can_reattest else "no",
                    "banned" if node.banned else "ok",
                ]
                for node in nodes
            ],
        )


@group.command()
@node_filters
@socket_option
@output_option
def count(socket: Path, output: str, **given: Any) -> None:
    """Count nodes."""
    from issuer.client import DEADLINE, connect
    from spiffekit.wire.pb.spire.api.server.agent.v1 import agent_pb2

    request = agent_pb2.CountAgentsRequest(filter=node_filter(agent_pb2.CountAgentsRequest.Filter, given))
    with connect(socket) as api:
        answer = api.nodes.CountAgents(request, timeout=DEADLINE)
    if output == "json":
        print_json(answer)
    else:
        click.echo(counted(answer.count, "attested node"))


@group.command()
@click.option("--spiffeID", "spiffe_id", type=SPIFFE_ID, required=True, help="The node.")
@socket_option
@output_option
def show(spiffe_id: SpiffeId, socket: Path, output: str) -> None:
    """Show one node with all its selectors."""
    from issuer.client import DEADLINE, connect
    from spiffekit.wire.convert import spiffe_id_to_proto
    from spiffekit.wire.pb.spire.api.server.agent.v1 import agent_pb2

    with connect(socket) as api:
        node = api.nodes.GetAgent(
            agent_pb2.GetAgentRequest(id=spiffe_id_to_proto(spiffe_id)), timeout=DEADLINE
        )
    if output == "json":
        print_json(node)
        return
    print_record(
        {
            "SPIFFE ID": _id(node),
            "Attestation type": node.attestation_type,
            "Expiration time": instant(node.x509svid_expires_at),
            "Serial number": node.x509svid_serial_number,
            "Can re-attest": node.can_reattest,
            "Banned": node.banned,
            "Attestor version": node.agent_version,
            "Selectors": [str(Selector(s.type, s.value)) for s in node.selectors],
        }
    )


@group.command()
@click.option("--spiffeID", "spiffe_id", type=SPIFFE_ID, required=True, help="The node.")
@socket_option
@output_option
def ban(spiffe_id: SpiffeId, socket: Path, output: str) -> None:
    """Shut a node out: it can neither call nor attest until it is evicted."""
    from issuer.client import DEADLINE, connect
    from spiffekit.wire.convert import spiffe_id_to_proto
    from spiffekit.wire.pb.spire.api.server.agent.v1 import agent_pb2

    with connect(socket) as api:
        api.nodes.BanAgent(agent_pb2.BanAgentRequest(id=spiffe_id_to_proto(spiffe_id)), timeout=DEADLINE)
    if output == "json":
        print_json({})
    else:
        click.echo(f"Node banned: {spiffe_id}")


@group.command()
@click.option("--spiffeID", "spiffe_id", type=SPIFFE_ID, required=True, help="The node.")
@socket_option
@output_option
def evict(spiffe_id: SpiffeId, socket: Path, output: str) -> None:
    """Forget a node; it may prove itself again."""
    from issuer.client import connect

    with connect(socket) as api:
        _evict(api, spiffe_id)
    if output == "json":
        print_json({})
    else:
        click.echo(f"Node evicted: {spiffe_id}")


def _evict(api: "IssuerApi", spiffe_id: SpiffeId) -> None:
    from issuer.client import DEADLINE
    from spiffekit.wire.convert import spiffe_id_to_proto
    from spiffekit.wire.pb.spire.api.server.agent.v1 import agent_pb2

    api.nodes.DeleteAgent(agent_pb2.DeleteAgentRequest(id=spiffe_id_to_proto(spiffe_id)), timeout=DEADLINE)


@group.command()
@click.option(
    "--expiredFor",
    "expired_for",
    type=SECONDS,
    default=30 * 86400,
    show_default="30d",
    help="Only those whose SVID expired at least so long ago.",
)
@click.option("--dryRun", "dry_run", is_flag=True, help="Only say which.")
@socket_option
@output_option
def purge(expired_for: int, dry_run: bool, socket: Path, output: str) -> None:
    """Evict the nodes that are long gone and could prove themselves again; banned ones stay."""
    from issuer.client import connect

    before = datetime.now(UTC) - timedelta(seconds=expired_for)
    given: dict[str, Any] = {
        "attestation_type": "",
        "expires_before": before.strftime("%Y-%m-%dT%H:%M:%SZ"),
        "banned": False,
        "can_reattest": True,
        "selectors": (),
        "match": "superset",
    }
    with connect(socket) as api:
        gone = [SpiffeId.parse(_id(node)) for node in _fetch(api, given)]
        for spiffe_id in () if dry_run else gone:
            _evict(api, spiffe_id)
    if output == "json":
        print_json({"dry_run": dry_run, "nodes": [str(spiffe_id) for spiffe_id in gone]})
        return
    click.echo(f"{'Would evict' if dry_run else 'Evicted'} {len(gone)} expired nodes")
    for spiffe_id in gone:
        click.echo(f"  {spiffe_id}")

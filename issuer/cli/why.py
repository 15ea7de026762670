# SPDX-License-Identifier: Apache-2.0
"""Why a workload of a node gets an identity or none."""

from pathlib import Path
from typing import Any

import click

from issuer.cli.options import SELECTOR, SPIFFE_ID, socket_option
from spiffekit.daemon.terminal import output_option, print_json
from spiffekit.id import SpiffeId
from spiffekit.selector import Selector


@click.command()
@click.option(
    "--nodeID", "node_id", type=SPIFFE_ID, required=True, help="The node that the workload runs on."
)
@click.option("--entryID", "entry_id", default="", help="One entry; the nearest ones if left out.")
@click.option(
    "--selector",
    "selectors",
    type=SELECTOR,
    multiple=True,
    help="type:value that holds for the workload, as `attestor explain` tells; repeatable.",
)
@socket_option
@output_option
def why(node_id: SpiffeId, entry_id: str, selectors: tuple[Selector, ...], socket: Path, output: str) -> None:
    """Say by which way entries reach a node, and what a workload lacks for them."""
    from issuer.client import DEADLINE, connect
    from spiffekit.wire.convert import selector_to_proto
    from spiffekit.wire.pb.issuer.v1 import explain_pb2

    if not entry_id and not selectors:
        raise click.UsageError("--entryID or at least one --selector is required")
    request = explain_pb2.WhyRequest(
        node_id=str(node_id), entry_id=entry_id, selectors=map(selector_to_proto, selectors)
    )
    with connect(socket) as api:
        answer = api.explain.Why(request, timeout=DEADLINE)
    if output == "json":
        print_json(answer)
        return
    for line in [*_node(node_id, answer.node), *(line for e in answer.entries for line in _entry(e))]:
        click.echo(line)


def _node(node_id: SpiffeId, node: Any) -> list[str]:
    if not node.known:
        return [f"node {node_id} is not attested"]
    state = (
        "banned" if node.banned else f"attested by {node.attestation_type}, level {node.attestation_level}"
    )
    lines = [f"node {node_id}", f"  {state}"]
    lines += [f"  {selector}" for selector in node.selectors]
    return lines + [f"  has the alias {alias}" for alias in node.aliases]


def _entry(entry: Any) -> list[str]:
    lines = [f"entry {entry.entry_id}: {entry.spiffe_id}"]
    if entry.ancestry:
        lines.append(f"  reaches the node: {' > '.join(entry.ancestry)}")
    if entry.obstacle:
        lines.append(f"  does not count: {entry.obstacle} ({entry.parent_id})")
    lines += [f"  the workload lacks {selector}" for selector in entry.missing]
    if entry.identity and not entry.obstacle:
        how = ", with evidence of the process" if entry.needs_evidence else ""
        lines.append(f"  the workload gets {entry.identity}{how}")
    return lines

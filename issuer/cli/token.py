# SPDX-License-Identifier: Apache-2.0
"""Join tokens: a secret that proves one node, once."""

from pathlib import Path

import click

from issuer.cli.options import SECONDS, SPIFFE_ID, socket_option
from spiffekit.daemon.terminal import output_option, print_json
from spiffekit.id import SpiffeId


@click.group("token")
def group() -> None:
    """Join tokens for new nodes."""


@group.command()
@click.option(
    "--spiffeID", "spiffe_id", type=SPIFFE_ID, help="An alias that the node gets besides its own ID."
)
@click.option("--ttl", type=SECONDS, default=600, show_default="10m", help="How long the token may wait.")
@click.option("--token", "value", default="", help="The token itself; a random one if left out.")
@socket_option
@output_option
def generate(spiffe_id: SpiffeId | None, ttl: int, value: str, socket: Path, output: str) -> None:
    """Make a token that one attestor may use once."""
    from issuer.client import DEADLINE, connect
    from spiffekit.wire.convert import spiffe_id_to_proto
    from spiffekit.wire.pb.spire.api.server.agent.v1 import agent_pb2

    request = agent_pb2.CreateJoinTokenRequest(ttl=ttl, token=value)
    if spiffe_id is not None:
        request.agent_id.CopyFrom(spiffe_id_to_proto(spiffe_id))
    with connect(socket) as api:
        token = api.nodes.CreateJoinToken(request, timeout=DEADLINE)
    if output == "json":
        print_json(token)
    else:
        click.echo(f"Token: {token.value}")

# SPDX-License-Identifier: Apache-2.0
"""Mint a JWT-SVID by hand, for what cannot be attested."""

import os
from pathlib import Path

import click

from issuer.cli.options import SECONDS, SPIFFE_ID, socket_option
from spiffekit.daemon.terminal import output_option, print_json
from spiffekit.id import SpiffeId


@click.group("jwt")
def group() -> None:
    """JWT-SVIDs by hand."""


@group.command()
@click.option("--spiffeID", "spiffe_id", type=SPIFFE_ID, required=True, help="The identity.")
@click.option(
    "--audience",
    multiple=True,
    required=True,
    help="Whom the token is meant for; may be given several times.",
)
@click.option("--ttl", type=SECONDS, default=0, help="Lifetime; the issuer's default if left out.")
@click.option(
    "--write", "path", type=click.Path(path_type=Path), help="Write the token there instead of printing it."
)
@socket_option
@output_option
def mint(
    spiffe_id: SpiffeId, audience: tuple[str, ...], ttl: int, path: Path | None, socket: Path, output: str
) -> None:
    """Make a JWT-SVID."""
    from issuer.client import DEADLINE, connect
    from spiffekit.wire.convert import spiffe_id_to_proto
    from spiffekit.wire.pb.spire.api.server.svid.v1 import svid_pb2

    request = svid_pb2.MintJWTSVIDRequest(id=spiffe_id_to_proto(spiffe_id), audience=audience, ttl=ttl)
    with connect(socket) as api:
        answer = api.svids.MintJWTSVID(request, timeout=DEADLINE)
    if path is not None:
        path.unlink(missing_ok=True)
        with os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as file:
            file.write(answer.svid.token)
        click.echo(f"JWT-SVID written to {path}")
    elif output == "json":
        print_json(answer.svid)
    else:
        click.echo(answer.svid.token)

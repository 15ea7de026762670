# SPDX-License-Identifier: Apache-2.0
"""What was taken back: single credentials, or all that an identity was given before an instant."""

from datetime import datetime
from pathlib import Path

import click

from issuer.cli.options import INSTANT, SPIFFE_ID, epoch, socket_option
from spiffekit.daemon.terminal import counted, instant, output_option, print_json, print_table
from spiffekit.id import SpiffeId


@click.group("revocation")
def group() -> None:
    """What was taken back, and has not ended by itself."""


@group.command()
@click.option("--serial", default="", help="Of an X.509-SVID, decimal.")
@click.option("--jti", default="", help="Of a JWT-SVID.")
@click.option("--spiffeID", "spiffe_id", type=SPIFFE_ID, help="All that this identity was given so far.")
@click.option("--before", type=INSTANT, help="With --spiffeID: up to this instant, e.g. 2027-01-31T12:00Z.")
@click.option("--reason", required=True, help="Why; it is kept in the audit trail.")
@socket_option
@output_option
def add(
    serial: str,
    jti: str,
    spiffe_id: SpiffeId | None,
    before: datetime | None,
    reason: str,
    socket: Path,
    output: str,
) -> None:
    """Take something back for good. `issuer agent suspend` does it for a while."""
    from issuer.client import DEADLINE, connect
    from spiffekit.wire.pb.issuer.v1 import revocation_pb2

    if sum(map(bool, (serial, jti, spiffe_id))) != 1:
        raise click.UsageError("exactly one of --serial, --jti and --spiffeID is required")
    what = {"serial": serial, "jti": jti, "spiffe_id": str(spiffe_id or "")}
    request = revocation_pb2.RevokeRequest(
        before=epoch(before), reason=reason, **{name: text for name, text in what.items() if text}
    )
    with connect(socket) as api:
        made = api.revocation.Revoke(request, timeout=DEADLINE)
    if output == "json":
        print_json(made)
    else:
        click.echo(f"Revoked {made.kind} {made.key} of {made.spiffe_id}")


@group.command("list")
@socket_option
@output_option
def list_(socket: Path, output: str) -> None:
    """List what was taken back, the oldest first."""
    from issuer.client import connect, listed
    from spiffekit.wire.pb.issuer.v1 import revocation_pb2

    with connect(socket) as api:
        revoked = listed(api.revocation.ListRevoked, revocation_pb2.ListRevokedRequest(), "revoked")
    if output == "json":
        print_json(revocation_pb2.ListRevokedResponse(revoked=revoked))
        return
    click.echo(f"Found {counted(len(revoked), 'revocation')}")
    if revoked:
        print_table(
            ["Kind", "Key", "SPIFFE ID", "At", "Until", "Reason"],
            [[r.kind, r.key, r.spiffe_id, instant(r.at), instant(r.until), r.reason] for r in revoked],
        )

# SPDX-License-Identifier: Apache-2.0
"""Registration entries: which selectors earn which SPIFFE ID."""

import json
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from issuer.cli.entry_input import attributes, entries_from
from issuer.cli.filters import entry_filter, entry_filters
from issuer.cli.options import socket_option
from issuer.cli.why import why
from spiffekit.daemon.terminal import (
    counted,
    fail,
    instant,
    output_option,
    print_json,
    print_record,
    print_table,
)

if TYPE_CHECKING:
    from issuer.client import IssuerApi
    from spiffekit.wire.pb.spire.api import types_pb2


@click.group("entry")
def group() -> None:
    """Registration entries: which selectors earn which SPIFFE ID."""


def _id(spiffe_id: "types_pb2.SPIFFEID") -> str:
    return f"spiffe://{spiffe_id.trust_domain}{spiffe_id.path}"


def _name(entry: "types_pb2.Entry") -> str:
    return entry.spiffe_id_template or _id(entry.spiffe_id)


def _show(entry: "types_pb2.Entry") -> None:
    print_record(
        {
            "Entry ID": entry.id,
            "SPIFFE ID": _name(entry),
            "Owner": f"{entry.owner} (agent is {entry.agent_state})" if entry.owner else "nobody",
            "Parent ID": _id(entry.parent_id),
            "Revision": entry.revision_number,
            "Downstream": entry.downstream or None,
            "X509-SVID TTL": entry.x509_svid_ttl or "default",
            "JWT-SVID TTL": entry.jwt_svid_ttl or "default",
            "Expiration time": instant(entry.expires_at),
            "Selector": [f"{s.type}:{s.value}" for s in entry.selectors],
            "FederatesWith": list(entry.federates_with),
            "DNS name": list(entry.dns_names),
            "Admin": entry.admin or None,
            "StoreSvid": entry.store_svid or None,
            "Evidence": "required" if entry.evidence_required else None,
            "SVIDs": "per process" if entry.svid_per_process else None,
            "Hint": entry.hint,
        }
    )


def _report(answer: Any, verb: str, asked: list["types_pb2.Entry"], output: str) -> None:
    """Print what came of each entry; exit with 1 if one failed."""
    if output == "json":
        print_json(answer)
    else:
        for entry, result in zip(asked, answer.results, strict=True):
            if result.status.code:
                name = entry.id or _name(entry)
                click.echo(f"Failed to {verb} {name}: {result.status.message}", err=True)
            if result.HasField("entry"):
                _show(result.entry)
    if any(result.status.code for result in answer.results):
        fail(f"failed to {verb} one or more entries")


@group.command()
@click.option("--entryID", "entry_id", default="", help="An ID of your own; a new one if left out.")
@attributes
@socket_option
@output_option
def create(entry_id: str, data: Path | None, socket: Path, output: str, **given: Any) -> None:
    """Register an identity."""
    from issuer.client import DEADLINE, connect
    from spiffekit.wire.pb.spire.api.server.entry.v1 import entry_pb2

    entries = entries_from(entry_id, data, given)
    with connect(socket) as api:
        request = entry_pb2.BatchCreateEntryRequest(entries=entries)
        _report(api.entries.BatchCreateEntry(request, timeout=DEADLINE), "create", entries, output)


@group.command()
@click.option("--entryID", "entry_id", default="", help="The entry; required unless --data is given.")
@attributes
@socket_option
@output_option
def update(entry_id: str, data: Path | None, socket: Path, output: str, **given: Any) -> None:
    """Replace an entry, whole."""
    from issuer.client import DEADLINE, connect
    from spiffekit.wire.pb.spire.api.server.entry.v1 import entry_pb2

    if not entry_id and data is None:
        raise click.UsageError("--entryID is required (or --data)")
    entries = entries_from(entry_id, data, given)
    with connect(socket) as api:
        request = entry_pb2.BatchUpdateEntryRequest(entries=entries)
        _report(api.entries.BatchUpdateEntry(request, timeout=DEADLINE), "update", entries, output)


@group.command()
@click.option("--entryID", "entry_ids", multiple=True, help="May be given several times.")
@click.option(
    "--file", "path", type=click.Path(path_type=Path), help='A JSON file {"ids": […]}; "-" reads stdin.'
)
@socket_option
@output_option
def delete(entry_ids: tuple[str, ...], path: Path | None, socket: Path, output: str) -> None:
    """Delete entries; their SVIDs are withdrawn from workloads within the second."""
    from issuer.client import DEADLINE, connect
    from spiffekit.wire.pb.spire.api.server.entry.v1 import entry_pb2

    ids = list(entry_ids)
    if path is not None:
        try:
            with click.open_file(str(path)) as file:
                ids += json.load(file)["ids"]
        except (json.JSONDecodeError, KeyError, TypeError) as error:
            raise click.UsageError(f"{path}: not of the form {{'ids': […]}}: {error}") from error
    if not ids:
        raise click.UsageError("--entryID or --file is required")
    with connect(socket) as api:
        answer = api.entries.BatchDeleteEntry(entry_pb2.BatchDeleteEntryRequest(ids=ids), timeout=DEADLINE)
    failed = [result for result in answer.results if result.status.code]
    if output == "json":
        print_json(answer)
    else:
        for result in answer.results:
            if result.status.code == 0:
                click.echo(f"Deleted entry with ID: {result.id}")
        for result in failed:
            click.echo(f"Failed to delete entry {result.id}: {result.status.message}", err=True)
    if failed:
        fail(f"failed to delete {len(failed)} of {len(ids)} entries")


def _fetch(api: "IssuerApi", given: dict[str, Any]) -> list["types_pb2.Entry"]:
    from issuer.client import listed
    from spiffekit.wire.pb.spire.api.server.entry.v1 import entry_pb2

    request = entry_pb2.ListEntriesRequest(filter=entry_filter(entry_pb2.ListEntriesRequest.Filter, given))
    return listed(api.entries.ListEntries, request, "entries")


@group.command()
@click.option("--entryID", "entry_id", default="", help="One entry, by its ID.")
@click.option("--table", is_flag=True, help="One line an entry, instead of one paragraph.")
@entry_filters
@socket_option
@output_option
def show(entry_id: str, table: bool, socket: Path, output: str, **given: Any) -> None:
    """Show entries."""
    from issuer.client import DEADLINE, connect
    from spiffekit.wire.pb.spire.api.server.entry.v1 import entry_pb2

    with connect(socket) as api:
        if entry_id:
            entries = [api.entries.GetEntry(entry_pb2.GetEntryRequest(id=entry_id), timeout=DEADLINE)]
        else:
            entries = _fetch(api, given)
    if output == "json":
        print_json(entry_pb2.ListEntriesResponse(entries=entries))
        return
    click.echo(f"Found {counted(len(entries), 'entry', 'entries')}")
    if not table:
        for entry in entries:
            _show(entry)
    elif entries:
        print_table(
            ["Entry ID", "SPIFFE ID", "Parent ID", "Selectors", "Created"],
            [
                [
                    entry.id,
                    _name(entry),
                    _id(entry.parent_id),
                    "\n".join(f"{s.type}:{s.value}" for s in entry.selectors),
                    datetime.fromtimestamp(entry.created_at, UTC).strftime("%Y-%m-%d %H:%M"),
                ]
                for entry in entries
            ],
        )


@group.command()
@entry_filters
@socket_option
@output_option
def count(socket: Path, output: str, **given: Any) -> None:
    """Count entries."""
    from issuer.client import DEADLINE, connect
    from spiffekit.wire.pb.spire.api.server.entry.v1 import entry_pb2

    request = entry_pb2.CountEntriesRequest(filter=entry_filter(entry_pb2.CountEntriesRequest.Filter, given))
    with connect(socket) as api:
        answer = api.entries.CountEntries(request, timeout=DEADLINE)
    if output == "json":
        print_json(answer)
    else:
        click.echo(counted(answer.count, "registration entry", "registration entries"))


group.add_command(why)

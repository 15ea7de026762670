# SPDX-License-Identifier: Apache-2.0
"""Registration entries: which selectors earn which SPIFFE ID."""

import json
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from issuer.cli.filters import entry_filter, entry_filters, options
from issuer.cli.options import SECONDS, SELECTOR, SPIFFE_ID, TRUST_DOMAIN, socket_option
from spiffekit.daemon.terminal import fail, instant, output_option, print_json, print_record, print_table
from spiffekit.id import SpiffeId
from spiffekit.selector import Selector

if TYPE_CHECKING:
    from issuer.client import IssuerApi
    from spiffekit.wire.pb.spire.api import types_pb2

SERVER_PATH = "/spire/server"  # the parent of entries that give nodes an alias


@click.group("entry")
def group() -> None:
    """Registration entries: which selectors earn which SPIFFE ID."""


attributes = options(
    click.option(
        "--parentID",
        "parent_id",
        type=SPIFFE_ID,
        help="The node, alias or entry below which it is earned.",
    ),
    click.option("--node", is_flag=True, help="An alias for nodes: the parent is the issuer itself."),
    click.option("--spiffeID", "spiffe_id", type=SPIFFE_ID, help="The identity that is earned."),
    click.option(
        "--selector",
        "selectors",
        type=SELECTOR,
        multiple=True,
        help="type:value; all given ones have to hold.",
    ),
    click.option("--x509SVIDTTL", "x509_ttl", type=SECONDS, default=0, help="Lifetime of X.509-SVIDs."),
    click.option("--jwtSVIDTTL", "jwt_ttl", type=SECONDS, default=0, help="Lifetime of JWT-SVIDs."),
    click.option(
        "--federatesWith",
        "federates_with",
        type=TRUST_DOMAIN,
        multiple=True,
        help="May be given several times.",
    ),
    click.option("--admin", is_flag=True, help="The holder may administrate the issuer."),
    click.option("--downstream", is_flag=True, help="The holder may run a downstream issuer."),
    click.option(
        "--entryExpiry",
        "expires_at",
        type=int,
        default=0,
        help="When the entry itself ends, seconds since the epoch.",
    ),
    click.option(
        "--dns", "dns_names", multiple=True, help="A DNS name for the SVID; may be given several times."
    ),
    click.option(
        "--hint", default="", help="Tells the workload what the identity is for; at most 1024 bytes."
    ),
    click.option("--storeSVID", "store_svid", is_flag=True, help="For secret stores, not for workloads."),
    click.option("--disableX509SVIDPrefetch", "no_prefetch", is_flag=True, help="Issue only on demand."),
    click.option("--jwtSVIDIncludeJTI", "include_jti", is_flag=True, help="Give each JWT-SVID a jti."),
    click.option(
        "--data", type=click.Path(path_type=Path), help='A JSON file {"entries": […]}; "-" reads stdin.'
    ),
)


def _proto(entry_id: str, given: dict[str, Any]) -> "types_pb2.Entry":
    from spiffekit.wire.convert import selector_to_proto, spiffe_id_to_proto
    from spiffekit.wire.pb.spire.api import types_pb2

    spiffe_id: SpiffeId | None = given["spiffe_id"]
    parent: SpiffeId | None = given["parent_id"]
    if spiffe_id is None:
        raise click.UsageError("--spiffeID is required (or --data)")
    if given["node"]:
        parent = SpiffeId(spiffe_id.trust_domain, SERVER_PATH)
    if parent is None:
        raise click.UsageError("--parentID is required (or --node, or --data)")
    if not given["selectors"]:
        raise click.UsageError("at least one --selector is required")
    entry = types_pb2.Entry(
        id=entry_id,
        spiffe_id=spiffe_id_to_proto(spiffe_id),
        parent_id=spiffe_id_to_proto(parent),
        selectors=map(selector_to_proto, given["selectors"]),
        x509_svid_ttl=given["x509_ttl"],
        jwt_svid_ttl=given["jwt_ttl"],
        federates_with=[str(td) for td in given["federates_with"]],
        admin=given["admin"],
        downstream=given["downstream"],
        expires_at=given["expires_at"],
        dns_names=given["dns_names"],
        store_svid=given["store_svid"],
        hint=given["hint"],
    )
    if given["no_prefetch"] or given["include_jti"]:
        entry.additional_attributes.disable_x509_svid_prefetch = given["no_prefetch"]
        entry.additional_attributes.jwt_svid_include_jti = given["include_jti"]
    return entry


def _from_file(path: Path) -> list["types_pb2.Entry"]:
    from google.protobuf.json_format import ParseDict, ParseError

    from spiffekit.wire.pb.spire.api import types_pb2

    try:
        with click.open_file(str(path)) as file:
            document = json.load(file)
        entries = document["entries"]
        return [ParseDict(_plain(entry), types_pb2.Entry()) for entry in entries]
    except (json.JSONDecodeError, KeyError, TypeError, ParseError) as error:
        raise click.UsageError(f"{path}: not of the form {{'entries': […]}}: {error}") from error


def _plain(entry: dict[str, Any]) -> dict[str, Any]:
    """Accept IDs and selectors as plain strings, besides the API's own JSON form."""
    entry = dict(entry)
    for name in ("spiffe_id", "parent_id"):
        if isinstance(entry.get(name), str):
            spiffe_id = SpiffeId.parse(entry[name])
            entry[name] = {"trust_domain": str(spiffe_id.trust_domain), "path": spiffe_id.path}
    entry["selectors"] = [
        {"type": Selector.parse(item).type, "value": Selector.parse(item).value}
        if isinstance(item, str)
        else item
        for item in entry.get("selectors", [])
    ]
    return entry


def _id(spiffe_id: "types_pb2.SPIFFEID") -> str:
    return f"spiffe://{spiffe_id.trust_domain}{spiffe_id.path}"


def _show(entry: "types_pb2.Entry") -> None:
    print_record(
        {
            "Entry ID": entry.id,
            "SPIFFE ID": _id(entry.spiffe_id),
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
            "Hint": entry.hint,
        }
    )


def _report(results: Any, verb: str, asked: list["types_pb2.Entry"]) -> None:
    """Print what came of each entry; exit with 1 if one failed."""
    failed = False
    for entry, result in zip(asked, results, strict=True):
        if result.status.code == 0:
            _show(result.entry)
            continue
        failed = True
        name = entry.id or _id(entry.spiffe_id)
        click.echo(f"Failed to {verb} {name}: {result.status.message}", err=True)
        if result.HasField("entry"):
            _show(result.entry)
    if failed:
        fail(f"failed to {verb} one or more entries")


@group.command()
@click.option("--entryID", "entry_id", default="", help="An ID of your own; a random one if left out.")
@attributes
@socket_option
@output_option
def create(entry_id: str, data: Path | None, socket: Path, output: str, **given: Any) -> None:
    """Register an identity."""
    from issuer.client import DEADLINE, connect
    from spiffekit.wire.pb.spire.api.server.entry.v1 import entry_pb2

    entries = _from_file(data) if data else [_proto(entry_id, given)]
    with connect(socket) as api:
        answer = api.entries.BatchCreateEntry(
            entry_pb2.BatchCreateEntryRequest(entries=entries), timeout=DEADLINE
        )
    if output == "json":
        print_json(answer)
        if any(result.status.code for result in answer.results):
            fail("failed to create one or more entries")
        return
    _report(answer.results, "create", entries)


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
    entries = _from_file(data) if data else [_proto(entry_id, given)]
    with connect(socket) as api:
        answer = api.entries.BatchUpdateEntry(
            entry_pb2.BatchUpdateEntryRequest(entries=entries), timeout=DEADLINE
        )
    if output == "json":
        print_json(answer)
        if any(result.status.code for result in answer.results):
            fail("failed to update one or more entries")
        return
    _report(answer.results, "update", entries)


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
    from issuer.client import DEADLINE, PAGE_SIZE, pages
    from spiffekit.wire.pb.spire.api.server.entry.v1 import entry_pb2

    narrowed = entry_filter(entry_pb2.ListEntriesRequest.Filter, given)
    return [
        entry
        for page in pages(
            lambda token: api.entries.ListEntries(
                entry_pb2.ListEntriesRequest(filter=narrowed, page_size=PAGE_SIZE, page_token=token),
                timeout=DEADLINE,
            )
        )
        for entry in page.entries
    ]


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
    click.echo(f"Found {len(entries)} {'entry' if len(entries) == 1 else 'entries'}")
    if not table:
        for entry in entries:
            _show(entry)
    elif entries:
        print_table(
            ["Entry ID", "SPIFFE ID", "Parent ID", "Selectors", "Created"],
            [
                [
                    entry.id,
                    _id(entry.spiffe_id),
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
        click.echo(f"{answer.count} registration {'entry' if answer.count == 1 else 'entries'}")

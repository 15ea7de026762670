# SPDX-License-Identifier: Apache-2.0
"""What an operator says of an entry: as options, or as a file of many."""

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from issuer.cli.filters import options
from issuer.cli.options import IDENTITY, SECONDS, SELECTOR, SPIFFE_ID, TRUST_DOMAIN
from spiffekit.id import SpiffeId
from spiffekit.selector import Selector, typo
from spiffekit.template import Template

if TYPE_CHECKING:
    from spiffekit.wire.pb.spire.api import types_pb2

SERVER_PATH = "/spire/server"  # the parent of entries that give nodes an alias

attributes = options(
    click.option(
        "--parentID",
        "parent_id",
        type=SPIFFE_ID,
        help="The node, alias or entry below which it is earned.",
    ),
    click.option("--node", is_flag=True, help="An alias for nodes: the parent is the issuer itself."),
    click.option(
        "--spiffeID",
        "spiffe_id",
        type=IDENTITY,
        help="The identity that is earned; {type:kind} as a segment stands for a selector's value.",
    ),
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
    click.option(
        "--downstream", is_flag=True, help="A downstream issuer: it may publish JWT authorities of its own."
    ),
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
    click.option(
        "--disableX509SVIDPrefetch",
        "no_prefetch",
        is_flag=True,
        help="Tell stock agents to issue only on demand.",
    ),
    click.option("--jwtSVIDIncludeJTI", "include_jti", is_flag=True, help="Give each JWT-SVID a jti."),
    click.option(
        "--evidence", "evidence", is_flag=True, help="Sign only with evidence that the selectors hold now."
    ),
    click.option(
        "--perProcess", "per_process", is_flag=True, help="Give each process a key and SVIDs of its own."
    ),
    click.option(
        "--strict", is_flag=True, help="Refuse selectors that no attestor of ours would ever state."
    ),
    click.option(
        "--data", type=click.Path(path_type=Path), help='A JSON file {"entries": […]}; "-" reads stdin.'
    ),
)


def entries_from(entry_id: str, data: Path | None, given: dict[str, Any]) -> list["types_pb2.Entry"]:
    """Return the entries that the options or the file describe, after a look at their selectors.

    Raises:
        click.UsageError: Something is missing, or a selector is a typo and ``--strict`` is given.
    """
    entries = _from_file(data) if data else [_proto(entry_id, given)]
    typos = [
        sentence
        for entry in entries
        for selector in entry.selectors
        if (sentence := typo(Selector(selector.type, selector.value)))
    ]
    if typos and given["strict"]:
        raise click.UsageError("; ".join(typos))
    for sentence in typos:
        click.echo(f"warning: {sentence}", err=True)
    return entries


def _proto(entry_id: str, given: dict[str, Any]) -> "types_pb2.Entry":
    from spiffekit.wire.convert import selector_to_proto, spiffe_id_to_proto
    from spiffekit.wire.pb.spire.api import types_pb2

    spiffe_id: SpiffeId | Template | None = given["spiffe_id"]
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
        spiffe_id=spiffe_id_to_proto(spiffe_id) if isinstance(spiffe_id, SpiffeId) else None,
        spiffe_id_template=str(spiffe_id) if isinstance(spiffe_id, Template) else "",
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
        evidence_required=given["evidence"],
        svid_per_process=given["per_process"],
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
    if "{" in str(entry.get("spiffe_id", "")) and isinstance(entry["spiffe_id"], str):
        entry["spiffe_id_template"] = entry.pop("spiffe_id")
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

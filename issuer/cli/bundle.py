# SPDX-License-Identifier: Apache-2.0
"""Trust bundles: the own one, and those of federated trust domains."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from issuer.cli.options import TRUST_DOMAIN, socket_option
from spiffekit.daemon.terminal import counted, fail, output_option, print_json
from spiffekit.id import TrustDomain

if TYPE_CHECKING:
    from spiffekit.bundle import Bundle
    from spiffekit.wire.pb.spire.api import types_pb2

format_option = click.option(
    "--format",
    "form",
    type=click.Choice(["pem", "spiffe"]),
    default="pem",
    show_default=True,
    help="PEM holds the X.509 roots only; spiffe is the JWKS document of the standard.",
)


@click.group("bundle")
def group() -> None:
    """Trust bundles, the own one and federated ones."""


def _print(bundle: "types_pb2.Bundle", form: str) -> None:
    from spiffekit.wire.convert import bundle_from_proto

    value = bundle_from_proto(bundle)
    document = value.to_pem() if form == "pem" else value.to_jwks()
    click.echo(document.decode().rstrip("\n"))


@group.command()
@format_option
@socket_option
@output_option
def show(form: str, socket: Path, output: str) -> None:
    """Print the issuer's own bundle."""
    from issuer.client import DEADLINE, connect
    from spiffekit.wire.pb.spire.api.server.bundle.v1 import bundle_pb2

    with connect(socket) as api:
        bundle = api.bundles.GetBundle(bundle_pb2.GetBundleRequest(), timeout=DEADLINE)
    if output == "json":
        print_json(bundle)
    else:
        _print(bundle, form)


@group.command("list")
@click.option("--id", "trust_domain", type=TRUST_DOMAIN, help="Only this trust domain's.")
@format_option
@socket_option
@output_option
def list_(trust_domain: TrustDomain | None, form: str, socket: Path, output: str) -> None:
    """Print the bundles of federated trust domains."""
    from issuer.client import DEADLINE, connect, listed
    from spiffekit.wire.pb.spire.api.server.bundle.v1 import bundle_pb2

    with connect(socket) as api:
        if trust_domain is not None:
            request = bundle_pb2.GetFederatedBundleRequest(trust_domain=str(trust_domain))
            bundles = [api.bundles.GetFederatedBundle(request, timeout=DEADLINE)]
        else:
            everything = bundle_pb2.ListFederatedBundlesRequest()
            bundles = listed(api.bundles.ListFederatedBundles, everything, "bundles")
    if output == "json":
        print_json(bundle_pb2.ListFederatedBundlesResponse(bundles=bundles))
        return
    for bundle in bundles:
        click.echo(f"# {bundle.trust_domain}")
        _print(bundle, form)


@group.command("set")
@click.option("--id", "trust_domain", type=TRUST_DOMAIN, required=True, help="The federated trust domain.")
@click.option(
    "--path", type=click.Path(path_type=Path), default="-", show_default=True, help="The file; - reads stdin."
)
@format_option
@socket_option
@output_option
def set_(trust_domain: TrustDomain, path: Path, form: str, socket: Path, output: str) -> None:
    """Set the bundle of a federated trust domain; it counts until the next one."""
    from issuer.client import DEADLINE, connect
    from spiffekit.wire.convert import bundle_to_proto
    from spiffekit.wire.pb.spire.api.server.bundle.v1 import bundle_pb2

    with click.open_file(str(path), "rb") as file:
        bundle = _parse(trust_domain, file.read(), form)
    request = bundle_pb2.BatchSetFederatedBundleRequest(bundle=[bundle_to_proto(bundle)])
    with connect(socket) as api:
        answer = api.bundles.BatchSetFederatedBundle(request, timeout=DEADLINE)
    _report(answer, f"set the bundle of {trust_domain}", "bundle set.", output)


def _report(answer: Any, act: str, done: str, output: str) -> None:
    """Print what came of an act on one bundle; exit with 1 if it failed."""
    if output == "json":
        print_json(answer)
    (result,) = answer.results
    if result.status.code:
        fail(f"failed to {act}: {result.status.message}")
    if output == "pretty":
        click.echo(done)


def _parse(trust_domain: TrustDomain, document: bytes, form: str) -> "Bundle":
    from spiffekit.bundle import Bundle

    return Bundle.from_pem(trust_domain, document) if form == "pem" else Bundle.parse(trust_domain, document)


@group.command()
@click.option("--id", "trust_domain", type=TRUST_DOMAIN, required=True, help="The federated trust domain.")
@click.option(
    "--mode",
    type=click.Choice(["restrict", "dissociate", "delete"]),
    default="restrict",
    show_default=True,
    help="With entries that federate with it: refuse, detach them, or delete them too.",
)
@socket_option
@output_option
def delete(trust_domain: TrustDomain, mode: str, socket: Path, output: str) -> None:
    """Delete the bundle of a federated trust domain."""
    from issuer.client import DEADLINE, connect
    from spiffekit.wire.pb.spire.api.server.bundle.v1 import bundle_pb2

    request = bundle_pb2.BatchDeleteFederatedBundleRequest(
        trust_domains=[str(trust_domain)],
        mode=mode.upper(),
    )
    with connect(socket) as api:
        answer = api.bundles.BatchDeleteFederatedBundle(request, timeout=DEADLINE)
    _report(answer, f"delete the bundle of {trust_domain}", "bundle deleted.", output)


@group.command()
@click.option(
    "--authorityID", "authority_id", required=True, help="Its key ID, or subject key identifier in hex."
)
@click.option("--reason", required=True, help="Why; it is kept in the audit trail.")
@socket_option
@output_option
def withdraw(authority_id: str, reason: str, socket: Path, output: str) -> None:
    """Take an authority that others added out of the own bundle, for good."""
    from issuer.client import DEADLINE, connect
    from spiffekit.wire.pb.issuer.v1 import revocation_pb2

    request = revocation_pb2.WithdrawAuthorityRequest(authority_id=authority_id, reason=reason)
    with connect(socket) as api:
        answer = api.revocation.WithdrawAuthority(request, timeout=DEADLINE)
    if output == "json":
        print_json(answer)
    else:
        click.echo("authority withdrawn.")


@group.command()
@socket_option
@output_option
def count(socket: Path, output: str) -> None:
    """Count bundles, the own one included."""
    from issuer.client import DEADLINE, connect
    from spiffekit.wire.pb.spire.api.server.bundle.v1 import bundle_pb2

    with connect(socket) as api:
        answer = api.bundles.CountBundles(bundle_pb2.CountBundlesRequest(), timeout=DEADLINE)
    if output == "json":
        print_json(answer)
    else:
        click.echo(counted(answer.count, "bundle"))

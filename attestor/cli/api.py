# SPDX-License-Identifier: Apache-2.0
"""Use the Workload API from a terminal, as a workload would."""

import asyncio
import os
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any, Final, TypeVar

import click

from spiffekit.daemon.terminal import fail, output_option, print_json, print_record, require_listener

F = TypeVar("F", bound=Callable[..., Any])
T = TypeVar("T")

DEFAULT_SOCKET: Final = Path("/run/attestor/public/api.sock")


def socket_option(function: F) -> F:
    """Add ``--socketPath``."""
    return click.option(
        "--socketPath",
        "socket",
        type=click.Path(path_type=Path),
        help=f"The Workload API's socket; else that of SPIFFE_ENDPOINT_SOCKET, else {DEFAULT_SOCKET}.",
    )(function)


timeout_option = click.option(
    "--timeout", type=click.FloatRange(min=0.1), default=5.0, show_default=True, help="Seconds to wait."
)


@click.group()
def group() -> None:
    """Call the Workload API as the process that this command is."""


@group.group()
def fetch() -> None:
    """Fetch the SVIDs of this process."""


@group.group()
def validate() -> None:
    """Validate a token."""


@fetch.command("x509")
@socket_option
@timeout_option
@click.option(
    "--write",
    "folder",
    type=click.Path(path_type=Path, file_okay=False, exists=True),
    help="Write svid.N.pem, svid.N.key (mode 0600) and bundle.N.pem into this folder.",
)
@click.option("--silent", is_flag=True, help="Print nothing.")
@output_option
def fetch_x509(socket: Path | None, timeout: float, folder: Path | None, silent: bool, output: str) -> None:
    """Fetch X.509-SVIDs and bundles."""
    update = _ask(socket, timeout, lambda api: api.fetch_x509())
    if folder is not None:
        _write(folder, update)
    if silent:
        return
    if output == "json":
        print_json(_document(update))
    else:
        _show(update)


@fetch.command("jwt")
@socket_option
@timeout_option
@click.option(
    "--audience", "audience", multiple=True, required=True, help="Whom the token is for; repeatable."
)
@click.option("--spiffeID", "spiffe_id", help="Only for this identity.")
@output_option
def fetch_jwt(
    socket: Path | None, timeout: float, audience: tuple[str, ...], spiffe_id: str | None, output: str
) -> None:
    """Fetch JWT-SVIDs, one for each identity."""
    from spiffekit.id import SpiffeId

    subject = SpiffeId.parse(spiffe_id) if spiffe_id else None
    svids = _ask(socket, timeout, lambda api: api.fetch_jwt_svids(audience, subject=subject))
    if output == "json":
        print_json(
            {"svids": [{"spiffe_id": str(s.spiffe_id), "svid": s.token, "hint": s.hint} for s in svids]}
        )
        return
    for svid in svids:
        print_record(
            {
                "SPIFFE ID": svid.spiffe_id,
                "Hint": svid.hint,
                "Audience": list(svid.audience),
                "Valid until": f"{svid.expires_at:%Y-%m-%d %H:%M:%S UTC}",
                "Token": svid.token,
            }
        )


@validate.command("jwt")
@socket_option
@timeout_option
@click.option("--audience", required=True, help="Who we are in the token's eyes.")
@click.option("--svid", "token", required=True, help="The token.")
@output_option
def validate_jwt(socket: Path | None, timeout: float, audience: str, token: str, output: str) -> None:
    """Let the endpoint validate a JWT-SVID; exit status 0 only if it is valid."""
    validated = _ask(socket, timeout, lambda api: api.validate_jwt_svid(token, audience))
    if output == "json":
        print_json({"spiffe_id": str(validated.spiffe_id), "claims": dict(validated.claims)})
        return
    print_record({"SPIFFE ID": validated.spiffe_id, **{f"claim {k}": v for k, v in validated.claims.items()}})


@group.command()
@socket_option
@output_option
def watch(socket: Path | None, output: str) -> None:
    """Print every update of X.509-SVIDs until interrupted."""
    from spiffekit.workload import WorkloadApi

    address = _address(socket)

    async def follow() -> None:
        async with WorkloadApi.connect(address) as api:
            async for update in api.watch_x509():
                if output == "json":
                    print_json(_document(update))
                else:
                    click.echo(f"{update.received_at:%H:%M:%S} {len(update.svids)} identities")
                    _show(update)

    try:
        asyncio.run(follow())
    except KeyboardInterrupt:
        return


def _ask(socket: Path | None, timeout: float, question: Callable[[Any], Awaitable[T]]) -> T:
    from spiffekit.workload import WorkloadApi

    address = _address(socket)

    async def ask() -> T:
        async with WorkloadApi.connect(address) as api, asyncio.timeout(timeout):
            return await question(api)

    try:
        return asyncio.run(ask())
    except TimeoutError:
        fail(f"no answer within {timeout:g} s")


def _address(socket: Path | None) -> str:
    """Return the endpoint's address, once somebody listens there if it is a Unix socket.

    Raises:
        AddressError: SPIFFE_ENDPOINT_SOCKET holds none.
        ConnectionRefusedError: Nobody listens there.
        PermissionError: We may not connect to it.
    """
    from spiffekit.wire.workload_api import ENDPOINT_VARIABLE
    from spiffekit.workload.address import endpoint_address

    named = os.environ.get(ENDPOINT_VARIABLE, f"unix://{DEFAULT_SOCKET}")
    address = named if socket is None else f"unix://{socket.absolute()}"
    kind, _, path = endpoint_address(address).target.partition(":")
    if kind == "unix":
        require_listener(Path(path), "attestor", f"--socketPath, and {ENDPOINT_VARIABLE}")
    return address


def _show(update: Any) -> None:
    for svid in update.svids:
        print_record(
            {
                "SPIFFE ID": svid.spiffe_id,
                "Hint": svid.hint,
                "Serial number": f"{svid.serial_number:x}",
                "Valid from": f"{svid.not_before:%Y-%m-%d %H:%M:%S UTC}",
                "Valid until": f"{svid.expires_at:%Y-%m-%d %H:%M:%S UTC}",
                "Intermediates": len(svid.chain_der) - 1 or None,
                "Bundles": [
                    f"{bundle.trust_domain} ({len(bundle.x509_authorities)} authorities)"
                    for bundle in update.bundles
                ],
            }
        )


def _document(update: Any) -> dict[str, Any]:
    """Return what is granted, without private keys: those go to a file, and only when asked for."""
    return {
        "svids": [
            {
                "spiffe_id": str(svid.spiffe_id),
                "hint": svid.hint,
                "x509_svid": svid.chain_pem().decode(),
                "expires_at": int(svid.expires_at.timestamp()),
            }
            for svid in update.svids
        ],
        "bundles": {str(bundle.trust_domain): bundle.to_pem().decode() for bundle in update.bundles},
    }


def _write(folder: Path, update: Any) -> None:
    from spiffekit.daemon.key_files import write_private

    for number, svid in enumerate(update.svids):
        own = update.bundle_for(svid.spiffe_id.trust_domain)
        write_private(folder / f"svid.{number}.key", svid.key_pem())
        (folder / f"svid.{number}.pem").write_bytes(svid.chain_pem())
        (folder / f"bundle.{number}.pem").write_bytes(own.to_pem())
        others = [bundle for bundle in update.bundles if bundle.trust_domain != own.trust_domain]
        for index, bundle in enumerate(others):
            (folder / f"federated_bundle.{number}.{index}.pem").write_bytes(bundle.to_pem())

# SPDX-License-Identifier: Apache-2.0
"""The `attestor` command: run the daemon, ask it why, and use the Workload API from a terminal."""

from collections.abc import Coroutine
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from attestor.cli import api, explain
from attestor.errors import AttestorError
from spiffekit.daemon.terminal import Commands, daemon_commands, require_listener, socket_option

if TYPE_CHECKING:
    from attestor.config import Config


@click.group(
    "attestor",
    cls=Commands,
    expected=(AttestorError,),
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
)
@click.version_option(package_name="spiffe-attestor")
def main() -> None:
    """Prove this node, examine its processes, and serve them their identities."""


def _kind() -> "type[Config]":
    from attestor.config import Config

    return Config


def _start(config: "Config") -> Coroutine[Any, Any, None]:
    from attestor import assembly

    return assembly.run(config)


for command in daemon_commands("attestor", _kind, _start):
    main.add_command(command)


@main.command()
@socket_option(api.DEFAULT_SOCKET, "The Workload API's socket.")
@click.option("--verbose", is_flag=True, help="Say more than the verdict.")
def healthcheck(socket: Path, verbose: bool) -> None:
    """Call the Workload API; any verdict about us, even that we have no identity, is a healthy one."""
    import grpc

    from spiffekit.wire.workload_api import SECURITY_HEADER, method

    require_listener(socket, "attestor")
    called = method("FetchX509Bundles")
    with grpc.insecure_channel(f"unix:{socket.absolute()}") as channel:
        stream = channel.unary_stream(
            called.path, called.request.SerializeToString, called.response.FromString
        )(called.request(), metadata=(SECURITY_HEADER,), timeout=5)
        try:
            next(stream)
        except grpc.RpcError as error:
            if error.code() is not grpc.StatusCode.PERMISSION_DENIED:
                raise
        finally:
            stream.cancel()
    click.echo("the attestor is healthy" + (f" (asked at {socket})" if verbose else ""))


main.add_command(explain.explain)
main.add_command(api.group, "api")

# SPDX-License-Identifier: Apache-2.0
"""The `attestor` command: run the daemon, ask it why, and use the Workload API from a terminal."""

from pathlib import Path

import click

from attestor.cli import api, explain
from attestor.errors import AttestorError
from spiffekit.daemon.terminal import Commands, require_listener

DEFAULT_CONFIG = Path("/etc/attestor/attestor.toml")

config_option = click.option(
    "--config",
    type=click.Path(path_type=Path),
    default=DEFAULT_CONFIG,
    show_default=True,
    help="The configuration file, TOML.",
)
expand_env_option = click.option(
    "--expandEnv", "expand_env", is_flag=True, help="Replace $VARIABLE in the configuration's strings."
)


@click.group(
    "attestor",
    cls=Commands,
    expected=(AttestorError,),
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
)
@click.version_option(package_name="spiffe-attestor")
def main() -> None:
    """Prove this node, examine its processes, and serve them their identities."""


@main.command()
@config_option
@expand_env_option
def run(config: Path, expand_env: bool) -> None:
    """Run the attestor until it gets SIGTERM or SIGINT."""
    import asyncio

    from attestor import assembly
    from attestor.config import Config
    from spiffekit.daemon.config import load

    asyncio.run(assembly.run(load(config, Config, expand_env=expand_env)))


@main.command()
@config_option
@expand_env_option
def validate(config: Path, expand_env: bool) -> None:
    """Check a configuration file; every error is reported at once."""
    from attestor.config import Config
    from spiffekit.daemon.config import load

    load(config, Config, expand_env=expand_env)
    click.echo(f"{config}: ok")


@main.command()
@click.option(
    "--socketPath",
    "socket",
    type=click.Path(path_type=Path),
    default=api.DEFAULT_SOCKET,
    show_default=True,
    help="The Workload API's socket.",
)
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

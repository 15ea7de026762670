# SPDX-License-Identifier: Apache-2.0
"""The daemon itself: run it, validate its configuration, ask whether it is well."""

from pathlib import Path

import click

from issuer.cli.options import socket_option
from spiffekit.daemon.terminal import fail

DEFAULT_CONFIG = Path("/etc/issuer/issuer.toml")

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


@click.command()
@config_option
@expand_env_option
def run(config: Path, expand_env: bool) -> None:
    """Run the issuer until it gets SIGTERM or SIGINT."""
    import asyncio

    from issuer import assembly
    from issuer.config import Config
    from spiffekit.daemon.config import load

    asyncio.run(assembly.run(load(config, Config, expand_env=expand_env)))


@click.command()
@config_option
@expand_env_option
def validate(config: Path, expand_env: bool) -> None:
    """Check a configuration file; every error is reported at once."""
    from issuer.config import Config
    from spiffekit.daemon.config import load

    load(config, Config, expand_env=expand_env)
    click.echo(f"{config}: ok")


@click.command()
@socket_option
@click.option("--verbose", is_flag=True, help="Say more than the verdict.")
def healthcheck(socket: Path, verbose: bool) -> None:
    """Ask the issuer whether it is well; exit status 0 if so."""
    from grpc_health.v1 import health_pb2

    from issuer.client import connect

    with connect(socket) as api:
        answer = api.check_health(health_pb2.HealthCheckRequest(), timeout=5)
    if answer.status != health_pb2.HealthCheckResponse.SERVING:
        fail(f"the issuer is {health_pb2.HealthCheckResponse.ServingStatus.Name(answer.status)}")
    click.echo("the issuer is healthy" + (f" (asked at {socket})" if verbose else ""))

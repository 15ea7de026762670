# SPDX-License-Identifier: Apache-2.0
"""The daemon itself: run it, validate its configuration, ask whether it is well."""

from collections.abc import Coroutine
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from issuer.cli.options import socket_option
from spiffekit.daemon.terminal import daemon_commands, fail

if TYPE_CHECKING:
    from issuer.config import Config


def _kind() -> "type[Config]":
    from issuer.config import Config

    return Config


def _start(config: "Config") -> Coroutine[Any, Any, None]:
    from issuer import assembly

    return assembly.run(config)


run, validate = daemon_commands("issuer", _kind, _start)


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

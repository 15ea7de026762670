# SPDX-License-Identifier: Apache-2.0
"""The `issuer` command: run the daemon, and speak to it over its admin socket.

One file a noun, one function a verb. Flags keep the names that SPIRE's users know.
"""

import click

from issuer.cli import (
    agent,
    agent_class,
    audit,
    bundle,
    entry,
    jwt,
    node,
    policy,
    revocation,
    service,
    token,
    trace,
    x509,
)
from issuer.errors import IssuerError
from spiffekit.daemon.terminal import Commands


@click.group(
    "issuer",
    cls=Commands,
    expected=(IssuerError,),
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
)
@click.version_option(package_name="spiffe-attestor")
def main() -> None:
    """Issue short-lived SPIFFE identities to attested workloads."""


for command in (
    service.run,
    service.validate,
    service.healthcheck,
    token.group,
    entry.group,
    node.group,
    bundle.group,
    x509.group,
    jwt.group,
    agent.group,
    audit.group,
    trace.trace,
    agent_class.group,
    policy.group,
    revocation.group,
):
    main.add_command(command)

__all__ = ["main"]

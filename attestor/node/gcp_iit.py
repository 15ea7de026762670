# SPDX-License-Identifier: Apache-2.0
"""An instance identity token of Google's, for the issuer's audience, proves this Compute Engine instance."""

import re
from typing import Final
from urllib.parse import quote, urlencode

import msgspec

from attestor.errors import NodeAttestationError
from attestor.node import metadata
from spiffekit.daemon.config import ConfigError
from spiffekit.daemon.http import Peer

AUDIENCE: Final = "spire-gcp-node-attestor"
_FLAVOR: Final = {"metadata-flavor": "Google"}
_TOKEN: Final = re.compile(r"[A-Za-z0-9_-]+\.[A-Za-z0-9_-]+\.[A-Za-z0-9_-]+", re.ASCII)
_ACCOUNT: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9.@_-]*", re.ASCII)


class Config(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """``[node_attestor.gcp_iit]``.

    Attributes:
        identity_token_host: Where the metadata server answers: a host, or a host and a port.
        service_account: The service account of the instance that the token is of.
    """

    identity_token_host: str = "metadata.google.internal"  # noqa: S105 - a name
    service_account: str = "default"


class GcpIit:
    """See the module. A token is asked for anew for each proof."""

    type = "gcp_iit"

    def __init__(self, server: Peer, service_account: str) -> None:
        self._server = server
        query = urlencode({"audience": AUDIENCE, "format": "full"})
        account = quote(service_account, "")
        self._target = f"/computeMetadata/v1/instance/service-accounts/{account}/identity?{query}"

    async def payload(self) -> bytes:
        """Return the token.

        Raises:
            NodeAttestationError: The metadata server has none for us.
        """
        token = (await metadata.ask(self._server, self._target, _FLAVOR, sent_back=_FLAVOR)).strip()
        if not _TOKEN.fullmatch(token):
            raise NodeAttestationError(
                f"metadata server {self._server} answered with something else than a token"
            )
        return token.encode("ascii")

    async def respond(self, challenge: bytes) -> bytes:
        """Refuse: this proof has no challenge."""
        del challenge
        raise NodeAttestationError("issuer sent a challenge for an instance identity token")


def create(config: Config) -> GcpIit:
    """Make the attestor of a configuration table."""
    if not _ACCOUNT.fullmatch(config.service_account):
        raise ConfigError("service_account: has to be an e-mail address, or 'default'")
    return GcpIit(metadata.server("identity_token_host", config.identity_token_host), config.service_account)

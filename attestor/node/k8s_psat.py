# SPDX-License-Identifier: Apache-2.0
"""A projected service account token, for the issuer's audience and bound to our pod, proves our node."""

import json
from pathlib import Path
from typing import Final

import msgspec

from attestor.errors import NodeAttestationError

MAX_TOKEN: Final = 32 * 1024  # bytes; a file of something else is not sent to the issuer


class Config(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """``[node_attestor.k8s_psat]``.

    Attributes:
        cluster: The name by which the issuer knows this cluster.
        token_path: The file of the projected token; the kubelet renews it.
    """

    cluster: str
    token_path: Path = Path("/var/run/secrets/tokens/spire-agent")


class K8sPsat:
    """See the module. The token is read for each proof."""

    type = "k8s_psat"

    def __init__(self, config: Config) -> None:
        self._config = config

    async def payload(self) -> bytes:
        """Return cluster and token.

        Raises:
            NodeAttestationError: There is no token.
        """
        path = self._config.token_path
        try:
            with path.open("rb") as file:
                token = file.read(MAX_TOKEN + 1).decode("ascii").strip()
        except (OSError, UnicodeDecodeError) as error:
            raise NodeAttestationError(f"token_path {path} cannot be read") from error
        if not token or len(token) > MAX_TOKEN:
            raise NodeAttestationError(f"token_path {path} has no token")
        return json.dumps({"cluster": self._config.cluster, "token": token}).encode()

    async def respond(self, challenge: bytes) -> bytes:
        """Refuse: this proof has no challenge."""
        del challenge
        raise NodeAttestationError("issuer sent a challenge for a service account token")


def create(config: Config) -> K8sPsat:
    """Make the attestor of a configuration table."""
    return K8sPsat(config)

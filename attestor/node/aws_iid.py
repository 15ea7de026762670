# SPDX-License-Identifier: Apache-2.0
"""The instance identity document that AWS signed for this EC2 instance proves it."""

import json
import re
from typing import Final

import msgspec

from attestor.errors import NodeAttestationError
from attestor.node import metadata
from spiffekit.daemon.http import Peer

# A session of the metadata service (IMDSv2), which no proxy that forwards any GET can be used to open.
_OPEN: Final = {"x-aws-ec2-metadata-token-ttl-seconds": "60", "content-length": "0"}
_SESSION: Final = "x-aws-ec2-metadata-token"
_TOKEN: Final = re.compile(r"[A-Za-z0-9+/=_-]{1,1024}", re.ASCII)
_DOCUMENTS: Final = "/latest/dynamic/instance-identity/"


class Config(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """``[node_attestor.aws_iid]``.

    Attributes:
        metadata_host: Where the instance metadata service answers: a host, or a host and a port.
    """

    metadata_host: str = "169.254.169.254"


class AwsIid:
    """See the module. Document and signatures are asked for anew for each proof."""

    type = "aws_iid"

    def __init__(self, server: Peer) -> None:
        self._server = server

    async def payload(self) -> bytes:
        """Return the document and its signatures.

        Raises:
            NodeAttestationError: The metadata service has none for us.
        """
        token = await metadata.ask(self._server, "/latest/api/token", _OPEN, method="PUT")
        if not _TOKEN.fullmatch(token):
            raise NodeAttestationError(f"metadata server {self._server} opened no session")
        # Older servers of SPIRE look at the signature of RSA 1024 only, ours never.
        sent = {
            name: await metadata.ask(self._server, _DOCUMENTS + name, {_SESSION: token})
            for name in ("document", "signature", "rsa2048")
        }
        return json.dumps(sent).encode()

    async def respond(self, challenge: bytes) -> bytes:
        """Refuse: this proof has no challenge."""
        del challenge
        raise NodeAttestationError("issuer sent a challenge for an instance identity document")


def create(config: Config) -> AwsIid:
    """Make the attestor of a configuration table."""
    return AwsIid(metadata.server("metadata_host", config.metadata_host))

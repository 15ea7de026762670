# SPDX-License-Identifier: Apache-2.0
"""A join token proves a node once. The node cannot attest again; it renews."""

import re
from typing import Final

import msgspec

from issuer.errors import NodeRejectedError
from issuer.model import AttestationLevel
from issuer.node import Challenge, NodeContext, NodeProof

# It becomes a segment of the node's ID, so it may hold what a segment may hold.
TOKEN: Final = re.compile(r"[A-Za-z0-9._-]{1,255}", re.ASCII)


class Config(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """``[node_attestor.join_token]`` has no options."""


class JoinTokenVerifier:
    """See the module."""

    async def verify(self, payload: bytes, challenge: Challenge, context: NodeContext) -> NodeProof:
        """Redeem the token; there is no challenge."""
        del challenge
        try:
            token = payload.decode("ascii")
        except UnicodeDecodeError as error:
            raise NodeRejectedError("join token is malformed") from error
        if not TOKEN.fullmatch(token) or token in (".", ".."):
            raise NodeRejectedError("join token is malformed")
        await context.redeem_join_token(token)
        return NodeProof(context.node_id(f"/join_token/{token}"), level=AttestationLevel.JOIN_TOKEN)


def create(_config: Config) -> JoinTokenVerifier:
    """Make the verifier of a configuration table."""
    return JoinTokenVerifier()

# SPDX-License-Identifier: Apache-2.0
"""The issuer's halves of node attestation: check a node's proof and say which node it is."""

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

from issuer.model import AttestationLevel, Node
from spiffekit.daemon.kubernetes.client import KubernetesClient
from spiffekit.id import SpiffeId
from spiffekit.selector import Selector

Challenge = Callable[[bytes], Awaitable[bytes]]
"""Sends a challenge to the other half and returns its response."""


@dataclass(frozen=True, slots=True)
class NodeProof:
    """What a proof shows: which node it is, what is true of it, and what the proof is worth."""

    node_id: SpiffeId
    selectors: frozenset[Selector] = frozenset()
    can_reattest: bool = False  # it could prove itself again, and has to instead of renewing
    level: AttestationLevel = AttestationLevel.PLATFORM
    first_use: bool = False  # the proof could be copied: it counts only while the node is not known


class NodeVerifier(Protocol):
    """Checks proofs of one type. Built once from its config table, then called concurrently."""

    async def verify(self, payload: bytes, challenge: Challenge, context: "NodeContext") -> NodeProof:
        """Check a proof.

        Raises:
            NodeRejectedError: It shows nothing.
            PlatformUnavailableError: Whoever has to be asked about it does not answer.
        """


@runtime_checkable
class Refreshing(Protocol):
    """A verifier that can judge a node without another proof, when it renews its SVID.

    Where nodes prove themselves again instead, there is no need. What was proved on first use cannot be asked
    for once more, but the rules of today can be held against it, or a platform asked what is true now.
    """

    async def refresh(self, node: Node) -> frozenset[Selector]:
        """Return what is true of a node that is known.

        Raises:
            NodeRejectedError: It is gone, or is no longer let in.
            PlatformUnavailableError: Whoever has to be asked about it does not answer.
        """


class NodeContext(Protocol):
    """What the issuer offers to its verifiers."""

    def node_id(self, path: str) -> SpiffeId:
        """Return the ID of a node in our trust domain: /spire/agent followed by `path`."""

    async def redeem_join_token(self, value: str) -> None:
        """Use up a join token together with the node's admission, or raise `NodeRejectedError`."""

    def cluster(self, name: str) -> KubernetesClient:
        """Return the client of a configured cluster, or raise `NodeRejectedError`."""

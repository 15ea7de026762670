# SPDX-License-Identifier: Apache-2.0
"""The attestor's halves of node attestation: make a proof, and answer challenges about it."""

from pathlib import Path
from typing import Protocol, runtime_checkable

from attestor.errors import NodeAttestationError


class NodeAttestor(Protocol):
    """Proves this node. Built once from its config table."""

    @property
    def type(self) -> str:
        """The type that the issuer knows it by."""

    async def payload(self) -> bytes:
        """Return the proof to send first.

        Raises:
            NodeAttestationError: There is nothing to prove the node with.
        """

    async def respond(self, challenge: bytes) -> bytes:
        """Return the response to a challenge.

        Raises:
            NodeAttestationError: The challenge is not of a kind that we answer.
        """


@runtime_checkable
class Releasing(Protocol):
    """A node attestor that holds something, a port say, from `payload` to the end of the attestation."""

    async def release(self) -> None:
        """Let go of it; called however the attestation ended."""


def read_file(path: Path, limit: int) -> bytes:
    """Return up to `limit` bytes of a file.

    Raises:
        NodeAttestationError: It cannot be read.
    """
    try:
        with path.open("rb") as file:
            return file.read(limit)
    except OSError as error:
        raise NodeAttestationError(f"{path} cannot be read: {error.strerror}") from error

# SPDX-License-Identifier: Apache-2.0
"""The talk of AttestAgent: parameters first, then as many challenges as the verifier likes."""

import asyncio
from typing import Final

from issuer.ca.requests import parse_csr
from issuer.errors import InvalidRequestError
from issuer.model import Node
from issuer.node import NodeContext, NodeProof, NodeVerifier, Refreshing
from spiffekit.selector import Selector
from spiffekit.wire.pb.spire.api.server.agent.v1 import agent_pb2

MAX_NAMED: Final = 2 * 1024  # bytes of the selectors that an event names as gained, and again as lost


class Proving:
    """A verifier at work: what it asks is sent to the node, what the node responds is handed to it."""

    def __init__(self, verifier: NodeVerifier, payload: bytes, context: NodeContext) -> None:
        self._asked: asyncio.Queue[bytes | None] = asyncio.Queue()
        self._answered: asyncio.Queue[bytes] = asyncio.Queue()
        self._task = asyncio.create_task(self._verify(verifier, payload, context))

    async def _verify(self, verifier: NodeVerifier, payload: bytes, context: NodeContext) -> NodeProof:
        try:
            return await verifier.verify(payload, self._ask, context)
        finally:
            self._asked.put_nowait(None)  # at once, or a task whose node has gone would wait for ever

    async def _ask(self, challenge: bytes) -> bytes:
        self._asked.put_nowait(challenge)
        return await self._answered.get()

    async def challenge(self) -> bytes | None:
        """Return the next challenge, or None when the verifier has come to its verdict."""
        return await self._asked.get()

    def answer(self, response: bytes) -> None:
        """Hand in the response to the last challenge."""
        self._answered.put_nowait(response)

    async def proof(self) -> NodeProof:
        """Return what was proved, or raise the verifier's verdict."""
        return await self._task

    def cancel(self) -> None:
        """Stop; nothing happens if it is done."""
        self._task.cancel()


def opening(first: agent_pb2.AttestAgentRequest | None) -> tuple[str, bytes, bytes]:
    """Return type and payload of the proof, and the key to certify.

    Raises:
        InvalidRequestError: One of them is missing, or the request for the certificate is bad.
    """
    if first is None or not first.HasField("params"):
        raise InvalidRequestError("params: are missing")
    if not first.params.data.payload:
        raise InvalidRequestError("params.data.payload: is missing")
    return (
        first.params.data.type,
        first.params.data.payload,
        parse_csr(first.params.params.csr).public_key_der,
    )


def response_of(message: agent_pb2.AttestAgentRequest | None) -> bytes:
    """Return the response to a challenge.

    Raises:
        InvalidRequestError: The message is another one, or there is none.
    """
    if message is None or not message.HasField("challenge_response"):
        raise InvalidRequestError("challenge_response: is missing")
    return message.challenge_response


async def refreshed(node: Node, verifier: NodeVerifier | None) -> frozenset[Selector]:
    """Return what is true of a node that renews: by the word of its verifier, or else as it was proved.

    Raises:
        NodeRejectedError: The verifier does not let it in any longer.
        PlatformUnavailableError: The verifier asks a platform that does not answer.
    """
    if isinstance(verifier, Refreshing):
        return await verifier.refresh(node)
    return node.selectors


def changes(before: frozenset[Selector], after: frozenset[Selector]) -> dict[str, list[str]]:
    """Return for the audit trail which selectors a node has gained and lost."""
    return {"gained": _named(after - before), "lost": _named(before - after)}


def _named(selectors: frozenset[Selector]) -> list[str]:
    """Return as many selectors as there is room for in an event, and how many more there are."""
    texts, room = sorted(map(str, selectors)), MAX_NAMED
    for at, text in enumerate(texts):
        room -= len(text.encode())
        if room < 0:
            return [*texts[:at], f"and {len(texts) - at} more"]
    return texts

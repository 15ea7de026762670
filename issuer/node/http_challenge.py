# SPDX-License-Identifier: Apache-2.0
"""HTTP challenge: a node is who answers at its DNS name with the nonce that we gave it.

SPIRE's payloads: JSON with the host name, the agent's name and the port; JSON with the nonce. Where we are
sent is the node's word, so nothing is asked but one path, and no address of our own machine's.
"""

import asyncio
import base64
import hmac
import ipaddress
import json
import re
import secrets
import socket
from collections.abc import Awaitable, Callable
from typing import Final

import msgspec

from issuer.errors import NodeRejectedError
from issuer.model import Node
from issuer.node import Challenge, NodeContext, NodeProof
from spiffekit.daemon.config import ConfigError
from spiffekit.daemon.http import HttpError, Peer, request
from spiffekit.selector import Selector

TYPE: Final = "http_challenge"
MAX_PAYLOAD: Final = 4 * 1024  # bytes
MAX_ANSWER: Final = 64  # bytes of the node's answer, as SPIRE reads; the nonce has 44
MAX_HOST: Final = 253  # characters (RFC 1035 §2.3.4)
MAX_ADDRESSES: Final = 4  # of one name that are tried; a name of the attacker's may have hundreds
TIMEOUT: Final = 10  # seconds for resolving, connecting and reading
NONCE: Final = 32  # bytes
PRIVILEGED: Final = 1024  # ports below are root's
_LABEL: Final = "[a-z0-9](?:[a-z0-9-]{0,61}[a-z0-9])?"
# The last label begins with a letter: resolvers take "127.1", "0x7f.1" and "2130706433" for addresses.
_HOST: Final = re.compile(rf"(?:{_LABEL}\.)*(?=[a-z]){_LABEL}", re.ASCII)
_AGENT: Final = re.compile(r"[a-zA-Z][a-zA-Z0-9-]{0,31}", re.ASCII)

Resolver = Callable[[str], Awaitable[tuple[str, ...]]]
"""Returns the addresses of a host name that may be asked, or raises `NodeRejectedError`."""


class Config(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """``[node_attestor.http_challenge]``.

    Attributes:
        allowed_dns_patterns: Regular expressions; one has to match the whole of a node's host name.
        required_port: The only port that a node may name.
        allow_non_root_ports: Whether a node may name a port from 1024 up, which any user may listen on.
        tofu: Trust a host name on first use only; false needs ports below 1024.
    """

    allowed_dns_patterns: tuple[str, ...]
    required_port: int | None = None
    allow_non_root_ports: bool = True
    tofu: bool = True


class _Payload(msgspec.Struct, frozen=True):
    hostname: str
    agentname: str
    port: int


async def resolve(host: str) -> tuple[str, ...]:
    """Return the addresses of a host, in the resolver's order; see `judge`."""
    try:
        found = await asyncio.get_running_loop().getaddrinfo(host, None, type=socket.SOCK_STREAM)
    except (OSError, UnicodeError) as error:
        raise NodeRejectedError(f"host {host!r} cannot be resolved") from error
    addresses = tuple(dict.fromkeys(str(entry[4][0]) for entry in found))[:MAX_ADDRESSES]
    for address in addresses:
        judge(address)
    return addresses


def judge(address: str) -> None:
    """Refuse an address of our own machine's or link's: services there trust who reaches them.

    Raises:
        NodeRejectedError: It is one.
    """
    ip = ipaddress.ip_address(address.partition("%")[0])
    ip = getattr(ip, "ipv4_mapped", None) or ip
    if ip.is_loopback or ip.is_link_local or ip.is_multicast or ip.is_unspecified or ip.is_reserved:
        raise NodeRejectedError(f"host has the address {address}, which is not asked")


class HttpChallengeVerifier:
    """See the module."""

    def __init__(self, config: Config, patterns: tuple[re.Pattern[str], ...], resolver: Resolver) -> None:
        self._config = config
        self._patterns = patterns
        self._resolve = resolver

    async def verify(self, payload: bytes, challenge: Challenge, context: NodeContext) -> NodeProof:
        """Give the node a nonce, and read it at its name."""
        where = self._judge(payload)
        nonce = base64.urlsafe_b64encode(secrets.token_bytes(NONCE))
        await challenge(json.dumps({"nonce": nonce.decode("ascii")}).encode())
        try:
            async with asyncio.timeout(TIMEOUT):
                answer = await self._ask(where)
        except (HttpError, TimeoutError) as error:
            raise NodeRejectedError(f"host {where.hostname!r} did not answer") from error
        if not hmac.compare_digest(answer.strip(), nonce):
            raise NodeRejectedError(f"host {where.hostname!r} answered with something else than the nonce")
        return NodeProof(
            context.node_id(f"/{TYPE}/{where.hostname}"),
            frozenset({Selector(TYPE, f"hostname:{where.hostname}")}),
            can_reattest=not self._config.tofu,
            first_use=self._config.tofu,
        )

    async def refresh(self, node: Node) -> frozenset[Selector]:
        """Hold today's patterns against the node's name, which is all that is known of it."""
        self._check_host(node.id.path.split("/")[4])
        return node.selectors

    def _judge(self, payload: bytes) -> _Payload:
        """Return where the node wants to be asked, or raise on the first rule that this breaks."""
        if len(payload) > MAX_PAYLOAD:
            raise NodeRejectedError("payload is too large")
        try:
            where = msgspec.json.decode(payload, type=_Payload)
        except (ValueError, RecursionError) as error:
            raise NodeRejectedError("payload is malformed") from error
        host, required = where.hostname, self._config.required_port
        if not 0 < where.port < 65536 or required not in (None, where.port):
            raise NodeRejectedError(f"port {where.port} is not allowed")
        if where.port >= PRIVILEGED and not self._config.allow_non_root_ports:
            raise NodeRejectedError(f"port {where.port} is not below {PRIVILEGED}")
        if not _AGENT.fullmatch(where.agentname):
            raise NodeRejectedError("agentname is invalid")
        # Lower case and without a dot at the end, so that one host has one name and with it one ID.
        if len(host) > MAX_HOST or not _HOST.fullmatch(host) or host.rpartition(".")[2] == "localhost":
            raise NodeRejectedError("hostname is not a DNS name in lower case")
        self._check_host(host)
        return where

    def _check_host(self, host: str) -> None:
        if not any(pattern.fullmatch(host) for pattern in self._patterns):
            raise NodeRejectedError(f"host {host!r} is not allowed")

    async def _ask(self, where: _Payload) -> bytes:
        """Return the host's answer, from the first of its addresses that has one."""
        target = f"/.well-known/spiffe/nodeattestor/http_challenge/{where.agentname}/challenge"
        headers = {"host": f"{where.hostname}:{where.port}"}
        # The addresses that were judged are those that are asked: the name is not resolved twice.
        failure = HttpError("host has no address")
        for address in await self._resolve(where.hostname):
            try:
                async with request(Peer(address, where.port), "GET", target, headers=headers) as answer:
                    if answer.status != 200:  # a redirect is not followed either
                        raise NodeRejectedError(
                            f"host {where.hostname!r} answered with status {answer.status}"
                        )
                    return await answer.body(MAX_ANSWER)
            except HttpError as error:
                failure = error
        raise failure


def create(config: Config) -> HttpChallengeVerifier:
    """Make the verifier of a configuration table."""
    return create_with(config, resolve)


def create_with(config: Config, resolver: Resolver) -> HttpChallengeVerifier:
    """Make the verifier of a configuration table that resolves names by `resolver`."""
    if not config.allowed_dns_patterns:
        raise ConfigError("allowed_dns_patterns: at least one is needed")
    try:
        patterns = tuple(map(re.compile, config.allowed_dns_patterns))
    except re.error as error:
        raise ConfigError(f"allowed_dns_patterns: {error}") from error
    port = config.required_port
    if port is not None and not 0 < port < 65536:
        raise ConfigError(f"required_port: {port} is no port")
    if port is not None and port >= PRIVILEGED and not config.allow_non_root_ports:
        raise ConfigError(f"required_port: {port} is not allowed by allow_non_root_ports")
    privileged = not config.allow_non_root_ports if port is None else port < PRIVILEGED
    if not config.tofu and not privileged:
        raise ConfigError(f"tofu: can be false only where ports are below {PRIVILEGED}")
    return HttpChallengeVerifier(config, patterns, resolver)

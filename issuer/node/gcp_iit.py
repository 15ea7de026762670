# SPDX-License-Identifier: Apache-2.0
"""Google's instance identity token proves a Compute Engine instance.

1. It is a JWT, signed by RS256 with a key that Google publishes now.
2. It has not expired, Google issued it, and for our audience alone.
3. It says which instance it is of, in a project that is allowed.
"""

import re
import ssl
from typing import Final

import msgspec

from issuer.errors import NodeRejectedError
from issuer.model import Node
from issuer.node import Challenge, NodeContext, NodeProof
from issuer.node.google_keys import HOST, GoogleKeys
from spiffekit.daemon.clock import Clock, SystemClock
from spiffekit.daemon.config import ConfigError
from spiffekit.daemon.http import Peer
from spiffekit.errors import SpiffeError
from spiffekit.jws import Jws
from spiffekit.selector import Selector

TYPE: Final = "gcp_iit"
AUDIENCE: Final = "spire-gcp-node-attestor"
ISSUER: Final = "https://accounts.google.com"
MAX_PAYLOAD: Final = 16 * 1024  # bytes
_PROJECT: Final = re.compile(r"[a-z][a-z0-9-]{0,62}", re.ASCII)
_INSTANCE: Final = re.compile(r"[0-9]{1,20}", re.ASCII)


class Config(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """``[node_attestor.gcp_iit]``.

    Attributes:
        projectid_allow_list: The IDs of the projects whose instances may attest.
    """

    projectid_allow_list: tuple[str, ...]


class _Instance(msgspec.Struct, frozen=True):
    project_id: str
    zone: str
    instance_id: str
    instance_name: str


class _Google(msgspec.Struct, frozen=True):
    compute_engine: _Instance


class _Claims(msgspec.Struct, frozen=True):
    iss: str
    google: _Google
    email: str = ""
    email_verified: bool = False


class GcpIitVerifier:
    """See the module."""

    def __init__(self, config: Config, keys: GoogleKeys, clock: Clock) -> None:
        self._projects = frozenset(config.projectid_allow_list)
        self._keys = keys
        self._clock = clock

    async def verify(self, payload: bytes, challenge: Challenge, context: NodeContext) -> NodeProof:
        """Check the token; there is no challenge."""
        del challenge
        if len(payload) > MAX_PAYLOAD:
            raise NodeRejectedError("payload is too large")
        try:
            claims = await self._verified(payload.decode("ascii"))
            instance = claims.google.compute_engine
            self._check_project(instance.project_id)  # (3)
            if not _INSTANCE.fullmatch(instance.instance_id):
                raise NodeRejectedError("token has an instance_id that is no number")
            node_id = context.node_id(f"/{TYPE}/{instance.project_id}/{instance.instance_id}")
            # Whatever runs on the instance can ask for a token, so the first that comes with one is the node.
            return NodeProof(node_id, _selectors(claims), first_use=True)
        except UnicodeDecodeError as error:
            raise NodeRejectedError("payload is no token") from error
        except SpiffeError as error:
            raise NodeRejectedError(f"token does not count: {error}") from error

    async def refresh(self, node: Node) -> frozenset[Selector]:
        """Hold today's projects against the node's; tokens of an instance say the same for its life."""
        self._check_project(node.id.path.split("/")[4])
        return node.selectors

    def _check_project(self, project: str) -> None:
        if project not in self._projects:
            raise NodeRejectedError(f"project {project[:80]!r} is not allowed")

    async def _verified(self, token: str) -> _Claims:
        now = self._clock.now()
        jws = Jws.parse_unverified(token, ("RS256",))  # (1)
        jws.check_signature(await self._keys.key(jws.key_id(), now))
        jws.check_time(now)  # (2)
        if jws.audience() != (AUDIENCE,):
            raise NodeRejectedError("token is for another audience")
        try:
            claims = msgspec.convert(jws.payload, _Claims)
        except msgspec.ValidationError as error:
            raise NodeRejectedError("token says nothing of an instance; its format has to be full") from error
        if claims.iss != ISSUER:
            raise NodeRejectedError("token is of another issuer")
        return claims


def _selectors(claims: _Claims) -> frozenset[Selector]:
    instance = claims.google.compute_engine
    values = [
        f"project-id:{instance.project_id}",
        f"zone:{instance.zone}",
        f"instance-name:{instance.instance_name}",
    ]
    if claims.email and claims.email_verified:
        values.append(f"sa:{claims.email}")
    return frozenset(Selector(TYPE, value) for value in values)


def create(config: Config) -> GcpIitVerifier:
    """Make the verifier of a configuration table."""
    return create_with(config, Peer(HOST, 443, ssl.create_default_context()), SystemClock())


def create_with(config: Config, google: Peer, clock: Clock) -> GcpIitVerifier:
    """Make the verifier of a configuration table that gets Google's keys from `google`."""
    if not config.projectid_allow_list:
        raise ConfigError("projectid_allow_list: nobody could attest")
    if bad := [name for name in config.projectid_allow_list if not _PROJECT.fullmatch(name)]:
        raise ConfigError(
            *(f"projectid_allow_list: {name!r} is no project that can be named" for name in bad)
        )
    return GcpIitVerifier(config, GoogleKeys(google, clock), clock)

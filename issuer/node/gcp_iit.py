# SPDX-License-Identifier: Apache-2.0
"""Google's instance identity token proves a Compute Engine instance.

1. It is a JWT, signed by RS256 with a key that Google publishes now.
2. It has not expired, Google issued it, and for our audience alone.
3. It says which instance it is of, in a project that is allowed.
4. If Google's Compute API is to be asked: that instance runs, and is what the API says of it.
"""

import re
import ssl
from pathlib import Path
from typing import Annotated, Final

import msgspec

from issuer.errors import NodeRejectedError
from issuer.model import Node
from issuer.node import Challenge, NodeContext, NodeProof
from issuer.node.google_compute import HOST as COMPUTE
from issuer.node.google_compute import METADATA, ComputeApi, Instance, MetadataServer, ServiceAccountKey
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
_KEY: Final = re.compile(r"[^:\s]{1,128}")  # of a label or of metadata; a colon would end it in a selector
_OF_TOKEN: Final = ("project-id:", "zone:", "instance-name:", "sa:")


class Config(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """``[node_attestor.gcp_iit]``.

    Attributes:
        projectid_allow_list: The IDs of the projects whose instances may attest.
        use_instance_metadata: Whether Google's Compute API is asked of each instance that attests or renews.
        service_account_file: A file with the key, in JSON, of the service account that asks; that of the
            issuer's own instance if left out.
        allowed_label_keys: The keys of the labels that are stated.
        allowed_metadata_keys: The keys of the metadata that is stated.
        max_metadata_value_size: The bytes that a value of stated metadata may have; nodes with longer ones
            are refused.
    """

    projectid_allow_list: tuple[str, ...]
    use_instance_metadata: bool = False
    service_account_file: Path | None = None
    allowed_label_keys: tuple[str, ...] = ()
    allowed_metadata_keys: tuple[str, ...] = ()
    max_metadata_value_size: Annotated[int, msgspec.Meta(ge=1, le=8000)] = 128


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

    def __init__(
        self, config: Config, keys: GoogleKeys, clock: Clock, compute: ComputeApi | None = None
    ) -> None:
        self._config = config
        self._compute = compute
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
            selectors = _selectors(claims) | await self._asked(instance)  # (4)
            # Whatever runs on the instance can ask for a token, so the first that comes with one is the node.
            return NodeProof(node_id, selectors, first_use=True)
        except UnicodeDecodeError as error:
            raise NodeRejectedError("payload is no token") from error
        except SpiffeError as error:
            raise NodeRejectedError(f"token does not count: {error}") from error

    async def refresh(self, node: Node) -> frozenset[Selector]:
        """Hold today's projects against the node's, and ask again what is true of it.

        Tokens of an instance say the same for its life.
        """
        _, _, _, _, project, number = node.id.path.split("/")
        self._check_project(project)
        told = {selector for selector in node.selectors if selector.value.startswith(_OF_TOKEN)}
        said = dict(selector.value.split(":", 1) for selector in told)
        instance = _Instance(project, said.get("zone", ""), number, said.get("instance-name", ""))
        try:
            return frozenset(told | await self._asked(instance))
        except SpiffeError as error:
            raise NodeRejectedError(f"instance cannot be described: {error}") from error

    async def _asked(self, told: _Instance) -> frozenset[Selector]:
        """Return what the Compute API says of an instance; nothing if it is not to be asked."""
        if self._compute is None:
            return frozenset()
        found = await self._compute.instance(told.project_id, told.zone, told.instance_name, told.instance_id)
        return _further(found, self._config)

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


def _further(instance: Instance, config: Config) -> frozenset[Selector]:
    values = [f"tag:{tag}" for tag in instance.tags.items]
    labels = instance.labels
    values += [f"label:{key}:{labels[key]}" for key in config.allowed_label_keys if key in labels]
    for item in instance.metadata.items:
        if item.key in config.allowed_metadata_keys:
            if len(item.value.encode("utf-8")) > config.max_metadata_value_size:
                raise NodeRejectedError(
                    f"metadata {item.key!r} is longer than {config.max_metadata_value_size} bytes"
                )
            values.append(f"metadata:{item.key}:{item.value}")
    return frozenset(Selector(TYPE, value) for value in values)


def create(config: Config) -> GcpIitVerifier:
    """Make the verifier of a configuration table."""
    return create_with(config, Peer(HOST, 443, ssl.create_default_context()), SystemClock())


def create_with(
    config: Config, google: Peer, clock: Clock, *, compute: Peer | None = None, metadata: Peer = METADATA
) -> GcpIitVerifier:
    """Make the verifier of a configuration table.

    Args:
        config: The table.
        google: Where Google's keys are.
        clock: Tells whether tokens count.
        compute: The Compute API; at its usual place if left out.
        metadata: The metadata server of the issuer's own instance.
    """
    problems = [
        f"projectid_allow_list: {name!r} is no project that can be named"
        for name in config.projectid_allow_list
        if not _PROJECT.fullmatch(name)
    ]
    if not config.projectid_allow_list:
        problems.append("projectid_allow_list: nobody could attest")
    for option in ("allowed_label_keys", "allowed_metadata_keys"):
        keys: tuple[str, ...] = getattr(config, option)
        problems += [f"{option}: {key!r} is no key" for key in keys if not _KEY.fullmatch(key)]
    unused = (config.allowed_label_keys, config.allowed_metadata_keys, config.service_account_file)
    if any(unused) and not config.use_instance_metadata:
        problems.append("use_instance_metadata: has to be true for labels, metadata or a service account")
    if problems:
        raise ConfigError(*problems)
    api = None
    if config.use_instance_metadata:
        file = config.service_account_file
        source = MetadataServer(metadata) if file is None else ServiceAccountKey(file, clock)
        api = ComputeApi(compute or Peer(COMPUTE, 443, google.tls), source, clock)
    return GcpIitVerifier(config, GoogleKeys(google, clock), clock, api)

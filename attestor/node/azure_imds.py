# SPDX-License-Identifier: Apache-2.0
"""A document with the issuer's nonce that Azure's metadata service signs proves this virtual machine."""

import json
import re
from typing import Final, TypeVar
from urllib.parse import urlencode

import msgspec

from attestor.errors import NodeAttestationError
from attestor.node import metadata
from spiffekit.daemon.config import ConfigError
from spiffekit.daemon.http import Peer

VERSION: Final = "2025-04-07"  # of the service's API
_HEADERS: Final = {"metadata": "true"}
_NONCE: Final = re.compile(rb"[A-Za-z0-9]{1,64}")

T = TypeVar("T")


class Config(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """``[node_attestor.azure_imds]``.

    Attributes:
        tenant_domain: The domain of the tenant, by which the issuer knows it.
        metadata_host: Where the instance metadata service answers: a host, or a host and a port.
    """

    tenant_domain: str
    metadata_host: str = "169.254.169.254"


class _Document(msgspec.Struct, frozen=True):
    encoding: str
    signature: str


class _Compute(msgspec.Struct, frozen=True, rename={"scale_set": "vmScaleSetName"}):
    scale_set: str = ""


class _Instance(msgspec.Struct, frozen=True):
    compute: _Compute


class AzureImds:
    """See the module."""

    type = "azure_imds"

    def __init__(self, tenant_domain: str, server: Peer) -> None:
        self._tenant_domain = tenant_domain
        self._server = server

    async def payload(self) -> bytes:
        """Return something, which asks the issuer for its nonce."""
        return b"non_empty_payload"

    async def respond(self, challenge: bytes) -> bytes:
        """Have the issuer's nonce signed.

        Raises:
            NodeAttestationError: It is none, or the metadata service does not sign it.
        """
        if not _NONCE.fullmatch(challenge):
            raise NodeAttestationError("issuer's challenge is not a nonce of letters and digits")
        query = {"nonce": challenge.decode("ascii"), "api-version": VERSION}
        signed = _read(await self._ask("attested/document", query), _Document)
        instance = _read(await self._ask("instance", {"api-version": VERSION, "format": "json"}), _Instance)
        # Not signed: they say by whose rules to judge, and where in Azure to look for the machine.
        hints = {"agentDomain": self._tenant_domain, "vmssName": instance.compute.scale_set or None}
        return json.dumps({"document": msgspec.to_builtins(signed), "metadata": hints}).encode()

    async def _ask(self, path: str, query: dict[str, str]) -> str:
        return await metadata.ask(self._server, f"/metadata/{path}?{urlencode(query)}", _HEADERS)


def _read(text: str, kind: type[T]) -> T:
    try:
        return msgspec.json.decode(text, type=kind)
    except (ValueError, RecursionError) as error:
        raise NodeAttestationError("metadata server answered with another document") from error


def create(config: Config) -> AzureImds:
    """Make the attestor of a configuration table."""
    if not config.tenant_domain:
        raise ConfigError("tenant_domain: cannot be empty")
    return AzureImds(config.tenant_domain, metadata.server("metadata_host", config.metadata_host))

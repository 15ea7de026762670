# SPDX-License-Identifier: Apache-2.0
"""An attested document proves a virtual machine of Azure: its metadata service signs our nonce and its ID.

1. The message has the certificate that signed it, and signed the document inside.
2. A known authority vouches for exactly that certificate, and it is of Azure's metadata service.
3. The document has our nonce, and a subscription of the tenant that the node names.
4. Where it is configured, Azure's resource manager says what else is true of that machine.
"""

import hmac
import re
import secrets
import ssl
import string
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Final

import msgspec

from issuer.errors import NodeRejectedError
from issuer.model import Node
from issuer.node import Challenge, NodeContext, NodeProof, payloads
from issuer.node.azure_access import Api, AzureAccess, peers, problems
from issuer.node.azure_api import AzureApi
from issuer.node.azure_chain import HOST, AzureChain, published
from issuer.node.chains import read_authorities
from issuer.node.cms import SignedData
from spiffekit.certificates import check_signing_certificate, load_certificate
from spiffekit.daemon.clock import Clock, SystemClock
from spiffekit.daemon.config import ConfigError
from spiffekit.daemon.http import Peer
from spiffekit.errors import SpiffeError
from spiffekit.jwk import parse_json_object
from spiffekit.selector import Selector

TYPE: Final = "azure_imds"
OPENING: Final = b"non_empty_payload"
NONCE: Final = 32  # letters and digits: 190 bits
_SCALE_SET: Final = "vmss-name:"
_ALPHABET: Final = string.ascii_letters + string.digits
_UUID: Final = re.compile(r"[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}", re.ASCII)
_DOMAIN: Final = re.compile(r"[a-z0-9-]{1,63}(?:\.[a-z0-9-]{1,63})+", re.ASCII)


class Tenant(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """``[node_attestor.azure_imds.tenants."DOMAIN"]``.

    Attributes:
        tenant_id: The tenant's ID, a UUID in lower case.
        subscriptions: The IDs of its subscriptions whose virtual machines may attest, likewise.
        api: How Azure is asked what else is true of a virtual machine; if left out, it is not asked.
    """

    tenant_id: str
    subscriptions: tuple[str, ...]
    api: Api | None = None


class Config(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """``[node_attestor.azure_imds]``.

    Attributes:
        tenants: A table for each tenant, by the domain that nodes name.
        allowed_metadata_domains: What the signer's certificate has to be for, or for a name below it.
        trust_bundle_path: PEM file of authorities that may vouch for it besides those that are known here.
    """

    tenants: dict[str, Tenant]
    allowed_metadata_domains: tuple[str, ...] = ("metadata.azure.com",)
    trust_bundle_path: Path | None = None


class _Signed(msgspec.Struct, frozen=True):
    encoding: str
    signature: str


class _Hints(msgspec.Struct, frozen=True, rename={"agent_domain": "agentDomain", "scale_set": "vmssName"}):
    agent_domain: str  # nothing here is signed: it only says whose rules to judge by
    scale_set: str | None = None  # and where to look


class _Response(msgspec.Struct, frozen=True):
    document: _Signed
    metadata: _Hints


class _Document(msgspec.Struct, frozen=True, rename="camel"):
    vm_id: str
    subscription_id: str
    nonce: str


class AzureImdsVerifier:
    """See the module."""

    def __init__(self, tenants: dict[str, Tenant], chain: AzureChain, apis: dict[str, AzureApi]) -> None:
        self._tenants = tenants
        self._chain = chain
        self._apis = {name: api for domain, api in apis.items() for name in tenants[domain].subscriptions}

    async def verify(self, payload: bytes, challenge: Challenge, context: NodeContext) -> NodeProof:
        """Give the node a nonce, and check the document that Azure signed with it."""
        if payload != OPENING:
            raise NodeRejectedError("payload is not what asks for a nonce")
        nonce = "".join(secrets.choice(_ALPHABET) for _ in range(NONCE))
        response = payloads.read(await challenge(nonce.encode("ascii")), _Response, "challenge response")
        document = await self._verified(response.document)
        # With our nonce in it, the document was made just now, whatever times it says.
        if not hmac.compare_digest(document.nonce.encode(), nonce.encode()):
            raise NodeRejectedError("document has another nonce")
        machine, subscription = document.vm_id.lower(), document.subscription_id.lower()  # RFC 9562 §4
        if not _UUID.fullmatch(machine):
            raise NodeRejectedError("document has a vmId that is no UUID")
        tenant = self._tenants.get(response.metadata.agent_domain)
        if tenant is None:
            raise NodeRejectedError(f"tenant {response.metadata.agent_domain[:80]!r} is not configured")
        if subscription not in tenant.subscriptions:
            raise NodeRejectedError(f"subscription {subscription[:40]!r} is not allowed in that tenant")
        node_id = context.node_id(f"/{TYPE}/{tenant.tenant_id}/{subscription}/{machine}")
        selectors = await self._selectors(subscription, machine, response.metadata.scale_set)
        # Whatever runs on the machine can have nonces signed, so the first that does is the node.
        return NodeProof(node_id, selectors, first_use=True)

    async def refresh(self, node: Node) -> frozenset[Selector]:
        """Hold today's tenants and subscriptions against the node's, and ask Azure again if it was asked.

        A document would say nothing new.
        """
        tenant_id, subscription, machine = node.id.path.split("/")[4:7]
        tenants = [tenant for tenant in self._tenants.values() if tenant.tenant_id == tenant_id]
        if not any(subscription in tenant.subscriptions for tenant in tenants):
            raise NodeRejectedError(f"subscription {subscription!r} is no longer allowed")
        kept = [s.value.removeprefix(_SCALE_SET) for s in node.selectors if s.value.startswith(_SCALE_SET)]
        return await self._selectors(subscription, machine, kept[0] if kept else None)

    async def _selectors(self, subscription: str, machine: str, scale_set: str | None) -> frozenset[Selector]:
        values = {f"subscription-id:{subscription}"}
        if (api := self._apis.get(subscription)) is not None:
            values |= await api.facts(subscription, machine, scale_set)  # (4)
        try:
            return frozenset(Selector(TYPE, value) for value in values)
        except SpiffeError as error:  # a tag may be anything, and what cannot be stated is not left out
            raise NodeRejectedError(f"Azure says of the machine what is no selector: {error}") from error

    async def _verified(self, signed: _Signed) -> _Document:
        """Return the document; nothing but what was signed is looked at."""
        if signed.encoding != "pkcs7":
            raise NodeRejectedError("document has another encoding than pkcs7")
        message = SignedData.from_base64_unverified(signed.signature)
        try:
            found = [load_certificate(der) for der in message.certificates]
        except SpiffeError as error:
            raise NodeRejectedError(f"document has a malformed certificate: {error}") from error
        signers = [certificate for certificate in found if message.names(certificate)]
        if len(signers) != 1:
            raise NodeRejectedError("document does not have the one certificate that signed it")
        (signer,) = signers
        verified = message.verify(signer)  # (1)
        # The certificate that is judged is the one whose key was used; others may only vouch for it.
        others = [certificate for certificate in found if certificate != signer]
        await self._chain.check(signer, others)  # (2)
        try:
            return msgspec.convert(parse_json_object(verified), _Document)
        except (ValueError, RecursionError) as error:
            raise NodeRejectedError(f"document is malformed: {error}") from error


def create(config: Config) -> AzureImdsVerifier:
    """Make the verifier of a configuration table."""
    return create_with(config, Peer(HOST, 443, ssl.create_default_context()), SystemClock())


def create_with(
    config: Config, microsoft: Peer, clock: Clock, peers: Callable[[Api], Mapping[str, Peer]] = peers
) -> AzureImdsVerifier:
    """Make the verifier of a configuration table that gets certificates from `microsoft`."""
    found = [problem for domain, tenant in config.tenants.items() for problem in _problems(domain, tenant)]
    if not config.tenants:
        found.append("tenants: nobody could attest")
    if not config.allowed_metadata_domains:
        found.append("allowed_metadata_domains: nobody could attest")
    found += [
        f"allowed_metadata_domains: {domain!r} is not a domain in lower case"
        for domain in config.allowed_metadata_domains
        if not _DOMAIN.fullmatch(domain)
    ]
    subscriptions = [name for tenant in config.tenants.values() for name in tenant.subscriptions]
    if len(subscriptions) != len(set(subscriptions)):
        found.append("tenants: a subscription is of one tenant")
    roots = published()
    if config.trust_bundle_path is not None:
        try:
            roots += read_authorities(config.trust_bundle_path, "trust_bundle_path")
            for root in roots:
                check_signing_certificate(root)
        except ConfigError as error:
            found += error.errors
        except SpiffeError as error:
            found.append(f"trust_bundle_path: {config.trust_bundle_path}: {error}")
    if found:
        raise ConfigError(*found)
    chain = AzureChain(roots, config.allowed_metadata_domains, microsoft, clock)
    apis = {
        domain: AzureApi(AzureAccess(tenant.tenant_id, tenant.api, peers(tenant.api), clock), tenant.api)
        for domain, tenant in config.tenants.items()
        if tenant.api is not None
    }
    return AzureImdsVerifier(config.tenants, chain, apis)


def _problems(domain: str, tenant: Tenant) -> list[str]:
    where = f"tenants.{domain}"
    found = [] if _DOMAIN.fullmatch(domain) else [f"{where}: is not a domain in lower case"]
    if not _UUID.fullmatch(tenant.tenant_id):
        found.append(f"{where}.tenant_id: is no UUID in lower case")
    if not tenant.subscriptions:
        found.append(f"{where}.subscriptions: nobody could attest")
    if tenant.api is not None:
        found += problems(f"{where}.api", tenant.api)
    return found + [
        f"{where}.subscriptions: {name!r} is no UUID in lower case"
        for name in tenant.subscriptions
        if not _UUID.fullmatch(name)
    ]

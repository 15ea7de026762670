# SPDX-License-Identifier: Apache-2.0
"""An instance identity document proves an EC2 instance: AWS signs one for each, with a key of its region.

1. The message is signed by one of AWS's certificates, each of which is of one region.
2. Its key signed the document that is inside, and no other came along.
3. The document is of that region, of an account that is allowed, and of an instance started lately enough.
4. If AWS's API may be asked, it says that the instance runs, and more about it: see `aws_api`.
"""

import re
import tomllib
from collections.abc import Mapping
from datetime import datetime
from importlib import resources
from pathlib import Path
from typing import Final

import msgspec
from cryptography import x509

from issuer.errors import NodeRejectedError
from issuer.model import Node
from issuer.node import Challenge, NodeContext, NodeProof, payloads
from issuer.node.aws_api import KINDS, Api, AwsApi
from issuer.node.cms import SignedData
from spiffekit.certificates import certificates_from_pem, load_certificate
from spiffekit.daemon.clock import Clock, SystemClock
from spiffekit.daemon.config import ConfigError, Span
from spiffekit.errors import SpiffeError
from spiffekit.jwk import parse_json_object
from spiffekit.selector import Selector

TYPE: Final = "aws_iid"
_CERTIFICATES: Final = "aws_certificates.toml"
_ACCOUNT: Final = re.compile(r"[0-9]{12}", re.ASCII)
_REGION: Final = re.compile(r"[a-z]{2,8}(-[a-z]{2,16}){1,3}-[0-9]{1,2}", re.ASCII)
_INSTANCE: Final = re.compile(r"i-[0-9a-f]{8,32}", re.ASCII)


class Config(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """``[node_attestor.aws_iid]``.

    Attributes:
        account_id_allow_list: The accounts whose instances may attest, each of 12 digits.
        started_within: How long ago an instance may have been started when it attests; any time if left out.
        region_certificates: By region, a PEM file of its certificate, for regions that are not known here
            or whose certificate AWS has replaced.
        api: A table, empty or not, to ask AWS's API for more selectors; it is not asked without.
    """

    account_id_allow_list: tuple[str, ...]
    started_within: Span | None = None
    region_certificates: dict[str, Path] = {}
    api: Api | None = None


class _Payload(msgspec.Struct, frozen=True):
    document: str
    rsa2048: str


class _Document(msgspec.Struct, frozen=True, rename="camel"):
    account_id: str
    region: str
    availability_zone: str
    instance_id: str
    image_id: str
    pending_time: datetime


class AwsIidVerifier:
    """See the module."""

    def __init__(
        self, config: Config, certificates: Mapping[str, x509.Certificate], clock: Clock, api: AwsApi | None
    ) -> None:
        self._api = api
        self._accounts = frozenset(config.account_id_allow_list)
        self._started_within = config.started_within
        self._certificates = certificates
        self._clock = clock

    async def verify(self, payload: bytes, challenge: Challenge, context: NodeContext) -> NodeProof:
        """Check the document; there is no challenge."""
        del challenge
        document = self._verified(payload)
        self._check_account(document.account_id)
        if not _INSTANCE.fullmatch(document.instance_id):
            raise NodeRejectedError("document has an instanceId that is none")
        self._check_age(document)
        node_id = context.node_id(f"/{TYPE}/{document.account_id}/{document.region}/{document.instance_id}")
        try:
            # Whatever runs on the instance can ask for its document, and the document never expires: the
            # first that comes with it is the node.
            selectors = _selectors(document)
        except SpiffeError as error:
            raise NodeRejectedError(f"document: {error}") from error
        asked = await self._asked(document.account_id, document.region, document.instance_id)  # (4)
        return NodeProof(node_id, selectors | asked, first_use=True)

    async def refresh(self, node: Node) -> frozenset[Selector]:
        """Hold today's accounts against the node's, and ask again; its document never says anything else."""
        account, region, instance = node.id.path.split("/")[4:]
        self._check_account(account)
        stated = frozenset(s for s in node.selectors if not s.value.startswith(KINDS))
        return stated | await self._asked(account, region, instance)

    async def _asked(self, account: str, region: str, instance: str) -> frozenset[Selector]:
        return await self._api.selectors(account, region, instance) if self._api else frozenset()

    def _check_account(self, account: str) -> None:
        if account not in self._accounts:
            raise NodeRejectedError(f"account {account[:20]!r} is not allowed")

    def _verified(self, payload: bytes) -> _Document:
        """Return the document; nothing but what was signed is looked at."""
        sent = payloads.read(payload, _Payload, "payload")
        message = SignedData.from_base64_unverified(sent.rsa2048)
        named = [(region, c) for region, c in self._certificates.items() if message.names(c)]  # (1)
        if len(named) != 1:
            raise NodeRejectedError("document is signed by no certificate of AWS's that is known")
        ((region, certificate),) = named
        verified = message.verify(certificate)  # (2)
        if verified != sent.document.encode("utf-8", "surrogatepass"):
            raise NodeRejectedError("document is another than the one that is signed")
        try:
            document = msgspec.convert(parse_json_object(verified), _Document)
        except (ValueError, RecursionError) as error:
            raise NodeRejectedError(f"document is malformed: {error}") from error
        if document.region != region:  # (3)
            raise NodeRejectedError(
                f"document is signed by the certificate of {region}, which is not its region"
            )
        return document

    def _check_age(self, document: _Document) -> None:
        if document.pending_time.tzinfo is None:
            raise NodeRejectedError("document has a pendingTime without its zone")
        oldest = self._started_within
        if oldest is not None and self._clock.now() - document.pending_time > oldest:
            raise NodeRejectedError(f"instance was started longer than {oldest} ago")


def _selectors(document: _Document) -> frozenset[Selector]:
    values = (
        f"account_id:{document.account_id}",
        f"region:{document.region}",
        f"az:{document.availability_zone}",
        f"instance:id:{document.instance_id}",
        f"image:id:{document.image_id}",
    )
    return frozenset(Selector(TYPE, value) for value in values)


def published() -> dict[str, x509.Certificate]:
    """Return the certificates that AWS publishes, by region."""
    text = resources.files("issuer.node").joinpath(_CERTIFICATES).read_text("ascii")
    return {region: _certificate(pem.encode("ascii")) for region, pem in tomllib.loads(text).items()}


def _certificate(pem: bytes) -> x509.Certificate:
    ders = certificates_from_pem(pem)
    if len(ders) != 1:
        raise ConfigError("there has to be one certificate")
    return load_certificate(ders[0])


def create(config: Config) -> AwsIidVerifier:
    """Make the verifier of a configuration table."""
    return create_with(config, published(), SystemClock())


def create_with(config: Config, certificates: Mapping[str, x509.Certificate], clock: Clock) -> AwsIidVerifier:
    """Make the verifier of a configuration table that knows these certificates of regions besides."""
    problems = [
        f"account_id_allow_list: {account!r} is not 12 digits"
        for account in config.account_id_allow_list
        if not _ACCOUNT.fullmatch(account)
    ]
    if not config.account_id_allow_list:
        problems.append("account_id_allow_list: nobody could attest")
    further = {}
    for region, path in config.region_certificates.items():
        try:
            if not _REGION.fullmatch(region):
                raise ConfigError("is not the name of a region")
            further[region] = _certificate(path.read_bytes())
        except (OSError, SpiffeError, ConfigError) as error:
            problems.append(f"region_certificates.{region}: {error}")
    if config.api is not None:
        problems += config.api.problems()
    if problems:
        raise ConfigError(*problems)
    api = AwsApi(config.api) if config.api is not None else None
    return AwsIidVerifier(config, {**certificates, **further}, clock, api)

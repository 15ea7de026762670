# SPDX-License-Identifier: Apache-2.0
"""spire.api.server.agent.v1: nodes prove themselves, renew, and are managed by operators."""

import asyncio
import re
import secrets
from collections.abc import AsyncIterator, Mapping
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from types import MappingProxyType
from typing import Any, Final

from google.protobuf.empty_pb2 import Empty

from issuer.api.convert import comparison_field, id_field, node_to_proto, selectors_field
from issuer.api.dispatch import Call, masked, page_size, pages_of
from issuer.api.issued import attested_record
from issuer.api.proving import Proving, changes, opening, refreshed, response_of
from issuer.ca.authorities import Authorities
from issuer.ca.requests import parse_csr
from issuer.ca.signing import IssuedX509Svid
from issuer.errors import (
    DenialReason,
    InvalidRequestError,
    NodeDeniedError,
    NodeRejectedError,
    NotFoundError,
    TooSlowError,
)
from issuer.model import JoinToken, Node, RegistrationEntry
from issuer.node import NodeProof, NodeVerifier
from issuer.node.join_token import TOKEN
from issuer.registration import Registrations
from issuer.selection import compares
from issuer.store import Database, Transaction
from issuer.store.nodes import ID_SELECTOR, SERVER_PATH
from spiffekit.daemon.kubernetes.client import KubernetesClient
from spiffekit.daemon.limits import RateLimit
from spiffekit.id import SpiffeId, TrustDomain
from spiffekit.selector import Selector
from spiffekit.wire.convert import seconds, spiffe_id_from_proto, spiffe_id_to_proto
from spiffekit.wire.pb.spire.api import types_pb2
from spiffekit.wire.pb.spire.api.server.agent.v1 import agent_pb2

MAX_PAGE: Final = 1000
MAX_VERSION: Final = 255  # bytes
MAX_TOKEN_TTL: Final = 365 * 86400  # seconds
ATTEST_WITHIN: Final = timedelta(seconds=30)
AGENT_PATH: Final = "/spire/agent"
_USED: Final = "failed to attest: the node is known and its proof counts once; evict it first"


class _Context:
    """What a verifier may ask of us in one call (issuer.node.NodeContext)."""

    def __init__(
        self, trust_domain: TrustDomain, database: Database, clusters: Mapping[str, KubernetesClient]
    ) -> None:
        self._trust_domain = trust_domain
        self._database = database
        self._clusters = clusters
        self.join_token: str | None = None

    def node_id(self, path: str) -> SpiffeId:
        """Return the ID of a node in our trust domain."""
        return SpiffeId(self._trust_domain, AGENT_PATH + path)

    async def redeem_join_token(self, value: str) -> None:
        """Check a join token. It is used up in the transaction that admits the node, and not without that."""
        await self._database.read(lambda tx: _redeem(tx, value))  # what a read writes is undone
        self.join_token = value

    def cluster(self, name: str) -> KubernetesClient:
        """Return the client of a configured cluster."""
        if name not in self._clusters:
            raise NodeRejectedError(f"cluster {name!r} is not configured")
        return self._clusters[name]


class NodeService:
    """See the module."""

    def __init__(  # noqa: PLR0913 - what it works with
        self,
        trust_domain: TrustDomain,
        *,
        database: Database,
        registrations: Registrations,
        authorities: Authorities,
        verifiers: Mapping[str, NodeVerifier],
        node_svid_ttl: timedelta,
        attest_limit: RateLimit,
        attest_within: timedelta = ATTEST_WITHIN,
        clusters: Mapping[str, KubernetesClient] = MappingProxyType({}),
    ) -> None:
        self._trust_domain = trust_domain
        self._database = database
        self._registrations = registrations
        self._authorities = authorities
        self._verifiers = verifiers
        self._ttl = node_svid_ttl
        self._limit = attest_limit
        self._within = attest_within
        self._clusters = clusters

    async def AttestAgent(  # noqa: N802 - the method's name on the wire
        self, requests: AsyncIterator[agent_pb2.AttestAgentRequest], call: Call
    ) -> AsyncIterator[agent_pb2.AttestAgentResponse]:
        """Let a node prove itself and give it an SVID."""
        self._limit.spend(call.caller.source)
        try:
            async with asyncio.timeout(self._within.total_seconds()):
                kind, payload, public_key_der = opening(await anext(requests, None))
                context = _Context(self._trust_domain, self._database, self._clusters)
                proving = Proving(self._verifier(kind), payload, context)
                try:
                    while (challenge := await proving.challenge()) is not None:
                        yield agent_pb2.AttestAgentResponse(challenge=challenge)
                        proving.answer(response_of(await anext(requests, None)))
                    proof = await proving.proof()
                finally:
                    proving.cancel()
                issued = await self._admit(kind, proof, public_key_der, call, context.join_token)
        except TimeoutError as error:
            raise TooSlowError("failed to attest: took too long") from error
        yield agent_pb2.AttestAgentResponse(
            result=agent_pb2.AttestAgentResponse.Result(svid=_svid(issued), reattestable=proof.can_reattest)
        )

    def _verifier(self, kind: str) -> NodeVerifier:
        verifier = self._verifiers.get(kind)
        if verifier is None:
            raise InvalidRequestError(f"params.data.type: no node attestor {kind[:64]!r} is configured")
        return verifier

    async def _admit(
        self, kind: str, proof: NodeProof, public_key_der: bytes, call: Call, join_token: str | None
    ) -> IssuedX509Svid:
        node_id: SpiffeId = proof.node_id
        known = self._registrations.node(node_id)
        if known is not None and known.banned:
            raise NodeDeniedError("failed to attest: node is banned", DenialReason.BANNED)
        if known is not None and proof.first_use:
            raise NodeRejectedError(_USED)
        issued = await self._authorities.x509.sign(node_id, public_key_der, ttl=self._ttl, now=call.now)
        node = Node(
            id=node_id,
            attestation_type=kind,
            serial=str(issued.serial),
            expires_at=issued.expires_at,
            can_reattest=proof.can_reattest,
            selectors=proof.selectors,
            version=known.version if known else "",
            level=proof.level,
        )

        def act(tx: Transaction) -> None:
            if join_token is not None:
                _redeem(tx, join_token)
            current = tx.nodes.get(node_id)
            if current is not None and current.banned:
                raise NodeDeniedError("failed to attest: node is banned", DenialReason.BANNED)
            if current is not None and proof.first_use:
                raise NodeRejectedError(_USED)
            tx.nodes.put(node)
            changed = changes(current.selectors if current else frozenset(), node.selectors)
            tx.audit.append(attested_record(call, node, issued, attestation=kind, selectors=changed))

        await self._database.write(act)
        return issued

    async def RenewAgent(  # noqa: N802 - the method's name on the wire
        self, request: agent_pb2.RenewAgentRequest, call: Call
    ) -> agent_pb2.RenewAgentResponse:
        """Give a node another SVID, and look at it again; the old one counts until the new one is used."""
        self._limit.spend(call.caller.source)
        public_key_der = parse_csr(request.params.csr).public_key_der
        known = call.caller.known_node
        if known.can_reattest:
            raise NodeDeniedError("node has to attest again", DenialReason.MUST_REATTEST)
        try:
            async with asyncio.timeout(self._within.total_seconds()):
                selectors = await refreshed(known, self._verifiers.get(known.attestation_type))
        except TimeoutError as error:
            raise TooSlowError("failed to renew: took too long") from error
        issued = await self._authorities.x509.sign(known.id, public_key_der, ttl=self._ttl, now=call.now)

        def act(tx: Transaction) -> None:
            node = tx.nodes.get(known.id)
            if node is None:
                raise NodeDeniedError("node is not attested", DenialReason.NOT_ATTESTED)
            if node.banned:
                raise NodeDeniedError("node is banned", DenialReason.BANNED)
            serial, changed = str(issued.serial), changes(node.selectors, selectors)
            renewed = replace(node, new_serial=serial, new_expires_at=issued.expires_at, selectors=selectors)
            tx.nodes.put(renewed)
            tx.audit.append(attested_record(call, renewed, issued, selectors=changed))

        await self._database.write(act)
        return agent_pb2.RenewAgentResponse(svid=_svid(issued))

    async def PostStatus(  # noqa: N802 - the method's name on the wire
        self, request: agent_pb2.PostStatusRequest, call: Call
    ) -> agent_pb2.PostStatusResponse:
        """Keep what an attestor says of its version."""
        if len(request.agent_version.encode()) > MAX_VERSION:
            raise InvalidRequestError(f"agent_version: longer than {MAX_VERSION} bytes")
        node = call.caller.node
        if node is not None and node.version != request.agent_version:
            node_id = node.id

            def act(tx: Transaction) -> None:
                current = tx.nodes.get(node_id)
                if current is not None:
                    tx.nodes.put(replace(current, version=request.agent_version))
                    tx.audit.append(call.record(str(node_id), version=request.agent_version))

            await self._database.write(act)
        return agent_pb2.PostStatusResponse()

    async def CreateJoinToken(  # noqa: N802 - the method's name on the wire
        self, request: agent_pb2.CreateJoinTokenRequest, call: Call
    ) -> types_pb2.JoinToken:
        """Make a join token, and the alias that goes with it."""
        if not 0 < request.ttl <= MAX_TOKEN_TTL:
            raise InvalidRequestError(f"ttl: not between 1 and {MAX_TOKEN_TTL} seconds")
        value = request.token or secrets.token_urlsafe(24)
        if not TOKEN.fullmatch(value) or value in (".", ".."):
            raise InvalidRequestError("token: use 1 to 255 of A-Z a-z 0-9 . _ -")
        expires_at = call.now + timedelta(seconds=request.ttl)
        alias = self._alias(request, value, call.now)

        def act(tx: Transaction) -> None:
            tx.join_tokens.create(JoinToken(value=value, expires_at=expires_at))
            if alias is not None:
                tx.entries.create(alias)
            # The token itself is a secret and stays out of the trail.
            tx.audit.append(call.record(str(alias.spiffe_id) if alias else "", ttl=request.ttl))

        await self._database.write(act)
        return types_pb2.JoinToken(value=value, expires_at=seconds(expires_at))

    def _alias(
        self, request: agent_pb2.CreateJoinTokenRequest, value: str, now: datetime
    ) -> RegistrationEntry | None:
        if not request.HasField("agent_id"):
            return None
        node_id = SpiffeId(self._trust_domain, f"{AGENT_PATH}/join_token/{value}")
        alias_id = id_field("agent_id", request.agent_id, self._trust_domain)
        if alias_id.path == SERVER_PATH:  # its entries are the aliases of every node
            raise InvalidRequestError("agent_id: is that of the issuer itself")
        return RegistrationEntry(
            id=secrets.token_hex(16),
            spiffe_id=alias_id,
            parent_id=SpiffeId(self._trust_domain, SERVER_PATH),
            selectors=frozenset({Selector(ID_SELECTOR, str(node_id))}),
            created_at=now.replace(microsecond=0),
        )

    async def ListAgents(  # noqa: N802 - the method's name on the wire
        self, request: agent_pb2.ListAgentsRequest, call: Call
    ) -> agent_pb2.ListAgentsResponse:
        """List nodes, a page at a time."""
        del call
        wanted = _predicate(request.filter)
        mask = request.output_mask if request.HasField("output_mask") else None
        nodes = filter(wanted, self._registrations.nodes_after(request.page_token))
        messages = (masked(node_to_proto(node), mask) for node in nodes)
        found, more = next(pages_of(messages, page_size(request.page_size, MAX_PAGE)))
        return agent_pb2.ListAgentsResponse(
            agents=found, next_page_token=str(spiffe_id_from_proto(found[-1].id)) if more else ""
        )

    async def CountAgents(  # noqa: N802 - the method's name on the wire
        self, request: agent_pb2.CountAgentsRequest, call: Call
    ) -> agent_pb2.CountAgentsResponse:
        """Count nodes."""
        del call
        wanted = _predicate(request.filter)
        return agent_pb2.CountAgentsResponse(count=sum(map(wanted, self._registrations.nodes_after(""))))

    async def GetAgent(  # noqa: N802 - the method's name on the wire
        self, request: agent_pb2.GetAgentRequest, call: Call
    ) -> types_pb2.Agent:
        """Return one node."""
        del call
        node_id = id_field("id", request.id, self._trust_domain)
        node = self._registrations.node(node_id)
        if node is None:
            raise NotFoundError(f"node {node_id} does not exist")
        message: types_pb2.Agent = masked(
            node_to_proto(node), request.output_mask if request.HasField("output_mask") else None
        )
        return message

    async def DeleteAgent(self, request: agent_pb2.DeleteAgentRequest, call: Call) -> Empty:  # noqa: N802 - the method's name on the wire
        """Forget a node; it may prove itself again."""
        node_id = id_field("id", request.id, self._trust_domain)

        def act(tx: Transaction) -> None:
            tx.nodes.delete(node_id)
            tx.audit.append(call.record(str(node_id)))

        await self._database.write(act)
        return Empty()

    async def BanAgent(self, request: agent_pb2.BanAgentRequest, call: Call) -> Empty:  # noqa: N802 - the method's name on the wire
        """Shut a node out for good."""
        node_id = id_field("id", request.id, self._trust_domain)

        def act(tx: Transaction) -> None:
            node = tx.nodes.get(node_id)
            if node is None:
                raise NotFoundError(f"node {node_id} does not exist")
            tx.nodes.put(replace(node, serial="", new_serial="", new_expires_at=None))
            tx.audit.append(call.record(str(node_id)))

        await self._database.write(act)
        return Empty()


def _redeem(tx: Transaction, value: str) -> None:
    """Use up a join token; an expired one is left to pruning."""
    try:
        token = tx.join_tokens.redeem(value)
    except NotFoundError as error:
        raise NodeRejectedError(f"failed to attest: {error}") from error
    if token.expires_at <= tx.now:
        raise NodeRejectedError("failed to attest: join token has expired")


def _svid(issued: IssuedX509Svid) -> types_pb2.X509SVID:
    return types_pb2.X509SVID(
        cert_chain=issued.chain_der,
        id=spiffe_id_to_proto(issued.spiffe_id),
        expires_at=seconds(issued.expires_at),
    )


def _predicate(given: Any) -> Any:
    """Return the function that tells whether a node is wanted."""
    before = _instant(given.by_expires_before) if given.by_expires_before else None
    match = given.by_selector_match
    selectors = (
        selectors_field(match.selectors, "by_selector_match") if given.HasField("by_selector_match") else None
    )
    comparison = comparison_field("by_selector_match", match.match)

    def wanted(node: Node) -> bool:
        return (
            given.by_attestation_type in ("", node.attestation_type)
            and (not given.HasField("by_banned") or given.by_banned.value == node.banned)
            and (not given.HasField("by_can_reattest") or given.by_can_reattest.value == node.can_reattest)
            and (before is None or node.expires_at < before)
            and (selectors is None or compares(node.selectors, selectors, comparison))
        )

    return wanted


# The offset stands twice, the second time as a short offset or as the name of a zone; the first one counts.
_GO_TIME: Final = re.compile(
    r"(\d{4}-\d\d-\d\d) (\d\d:\d\d:\d\d) ([+-]\d\d)(\d\d)(?: (?:[A-Z]{1,5}|[+-]\d\d(?:\d\d)?))?", re.ASCII
)


def _instant(text: str) -> datetime:
    """Parse RFC 3339, or the form that SPIRE's commands send, e.g. "2026-01-31 12:00:00 +0000 +00".

    A mistake is an error: dropping it would silently widen the list.
    """
    match = _GO_TIME.fullmatch(text)
    plain = text if match is None else f"{match[1]}T{match[2]}{match[3]}:{match[4]}"
    try:
        parsed = datetime.fromisoformat(plain)
    except ValueError as error:
        raise InvalidRequestError(f"by_expires_before: {text[:40]!r} is not a point in time") from error
    return parsed if parsed.tzinfo else parsed.replace(tzinfo=UTC)

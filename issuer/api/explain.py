# SPDX-License-Identifier: Apache-2.0
"""issuer.v1.Explain: why a workload of a node gets an identity or none."""

from typing import Final

from issuer.api.convert import MAX_SELECTORS, node_id_field
from issuer.api.dispatch import Call
from issuer.errors import InvalidRequestError, NotFoundError
from issuer.model import AgentState, Node, RegistrationEntry
from issuer.registration import Registrations
from spiffekit.errors import SelectorError, SpiffeIdError, TemplateError
from spiffekit.id import TrustDomain
from spiffekit.selector import Selector
from spiffekit.wire.convert import selector_from_proto
from spiffekit.wire.pb.issuer.v1 import explain_pb2

NEAREST: Final = 5  # entries of one answer
MAX_FOUND: Final = 20 * MAX_SELECTORS  # selectors of a workload


class ExplainService:
    """See the module."""

    def __init__(self, trust_domain: TrustDomain, *, registrations: Registrations) -> None:
        self._trust_domain = trust_domain
        self._registrations = registrations

    async def Why(self, request: explain_pb2.WhyRequest, call: Call) -> explain_pb2.WhyResponse:  # noqa: N802 - the method's name on the wire
        """Say whether entries reach a node, by which way, and what a workload lacks for them."""
        node_id = node_id_field("node_id", request.node_id, self._trust_domain)
        if len(request.selectors) > MAX_FOUND:
            raise InvalidRequestError(f"selectors: more than {MAX_FOUND}")
        try:
            found = frozenset(map(selector_from_proto, request.selectors))
        except SelectorError as error:
            raise InvalidRequestError(f"selectors: {error}") from error
        node = self._registrations.node(node_id)
        entries = self._asked(request.entry_id, found)
        ways = {} if node is None or node.banned else self._registrations.ways(node, call.now)
        return explain_pb2.WhyResponse(
            node=_node_state(node, [] if node is None else self._registrations.aliases(node, call.now)),
            entries=[
                explain_pb2.EntryState(
                    entry_id=entry.id,
                    spiffe_id=entry.name,
                    parent_id=str(entry.parent_id),
                    ancestry=map(str, ways.get(entry.parent_id, ())),
                    obstacle=self._obstacle(entry, node, reached=entry.parent_id in ways, call=call),
                    missing=sorted(map(str, entry.selectors - found)),
                    identity=_identity(entry, found),
                    needs_evidence=entry.needs_evidence,
                )
                for entry in entries
            ],
        )

    def _asked(self, entry_id: str, found: frozenset[Selector]) -> list[RegistrationEntry]:
        if entry_id:
            entry = self._registrations.entry(entry_id)
            if entry is None:
                raise NotFoundError(f"entry {entry_id[:255]!r} does not exist")
            return [entry]
        if not found:
            raise InvalidRequestError("selectors: at least one is required, or an entry_id")
        # Who shares nothing with the workload is not near, however little it asks for.
        near = (entry for entry in self._registrations.entries() if entry.selectors & found)
        return sorted(near, key=lambda entry: (len(entry.selectors - found), entry.id))[:NEAREST]

    def _obstacle(self, entry: RegistrationEntry, node: Node | None, *, reached: bool, call: Call) -> str:
        if node is None:
            return "the node is not attested"
        if node.banned:
            return "the node is banned"
        if entry.expires_at is not None and entry.expires_at <= call.now:
            return "the entry has ended"
        agent = self._registrations.agent(entry.spiffe_id) if entry.template is None else None
        if agent is not None and agent.state is not AgentState.ACTIVE:
            return f"the agent is {agent.state}"
        if not reached:
            return "neither the node nor what it earns is the entry's parent"
        return "the entry is for secret stores, not for workloads" if entry.store_svid else ""


def _node_state(node: Node | None, aliases: list[RegistrationEntry]) -> explain_pb2.NodeState:
    if node is None:
        return explain_pb2.NodeState()
    return explain_pb2.NodeState(
        known=True,
        banned=node.banned,
        attestation_type=node.attestation_type,
        attestation_level=node.level.name.lower(),
        selectors=sorted(map(str, node.selectors)),
        aliases=sorted({str(alias.spiffe_id) for alias in aliases}),
    )


def _identity(entry: RegistrationEntry, found: frozenset[Selector]) -> str:
    if not entry.selectors <= found:
        return ""
    if entry.template is None:
        return str(entry.spiffe_id)
    try:
        return str(entry.template.expand(found))
    except (TemplateError, SpiffeIdError) as error:
        return f"none: {error}"

# SPDX-License-Identifier: Apache-2.0
"""Which kinds of caller may use which method. What is not in the table is denied to everybody."""

from collections.abc import Mapping
from typing import Final

from issuer.api.caller import OPERATORS, Kind
from issuer.errors import NotAuthorizedError

_LOCAL: Final = frozenset((Kind.LOCAL,))
_NODES: Final = frozenset((Kind.NODE,))
_DOWNSTREAMS: Final = frozenset((Kind.DOWNSTREAM,))
_GATEWAYS: Final = frozenset((Kind.GATEWAY,))
_ANYONE: Final = frozenset(Kind)

_SERVER: Final = "/spire.api.server."


def _methods(service: str, names: str, kinds: frozenset[Kind]) -> dict[str, frozenset[Kind]]:
    return {f"{service}/{name}": kinds for name in names.split()}


TABLE: Final[dict[str, frozenset[Kind]]] = {
    **_methods(
        f"{_SERVER}agent.v1.Agent",
        "CountAgents ListAgents GetAgent DeleteAgent BanAgent CreateJoinToken",
        OPERATORS,
    ),
    **_methods(f"{_SERVER}agent.v1.Agent", "AttestAgent", _ANYONE),
    **_methods(f"{_SERVER}agent.v1.Agent", "RenewAgent PostStatus", _NODES),
    **_methods(f"{_SERVER}bundle.v1.Bundle", "GetBundle", _ANYONE),
    **_methods(f"{_SERVER}bundle.v1.Bundle", "GetFederatedBundle", OPERATORS | _NODES),
    **_methods(
        f"{_SERVER}bundle.v1.Bundle",
        "CountBundles AppendBundle ListFederatedBundles BatchCreateFederatedBundle "
        "BatchUpdateFederatedBundle BatchSetFederatedBundle BatchDeleteFederatedBundle",
        OPERATORS,
    ),
    **_methods(f"{_SERVER}bundle.v1.Bundle", "PublishJWTAuthority PublishWITAuthority", _DOWNSTREAMS),
    **_methods(
        f"{_SERVER}entry.v1.Entry",
        "CountEntries ListEntries GetEntry BatchCreateEntry BatchUpdateEntry BatchDeleteEntry",
        OPERATORS,
    ),
    **_methods(f"{_SERVER}entry.v1.Entry", "GetAuthorizedEntries SyncAuthorizedEntries", _NODES),
    **_methods(f"{_SERVER}svid.v1.SVID", "MintX509SVID MintJWTSVID MintWITSVID", OPERATORS),
    **_methods(f"{_SERVER}svid.v1.SVID", "BatchNewX509SVID NewJWTSVID BatchNewWITSVID", _NODES),
    **_methods(f"{_SERVER}debug.v1.Debug", "GetInfo", _LOCAL),
    **_methods("/grpc.health.v1.Health", "Check List Watch", _LOCAL),
    **_methods("/issuer.v1.Updates", "Watch", _NODES),
    **_methods("/issuer.v1.AuditReports", "Report", _NODES),
    **_methods("/issuer.v1.Explain", "Why", OPERATORS),
    **_methods("/issuer.v1.Revocation", "Revoke ListRevoked CertifyRetirement WithdrawAuthority", OPERATORS),
    **_methods("/issuer.v1.Revocation", "GetStatus", _ANYONE),
    **_methods("/issuer.v1.Audit", "ListEvents ProveEvent GetCheckpoint", OPERATORS),
    **_methods("/issuer.v1.Policy", "Put List Get Delete Test Simulate GetBundle", OPERATORS),
    **_methods("/envoy.service.auth.v3.Authorization", "Check", _GATEWAYS),
    **_methods(
        "/issuer.v1.Agents",
        "RegisterAgent GetAgent ListAgents UpdateAgent ActivateAgent SuspendAgent ResumeAgent RetireAgent "
        "ReviewAgent TransferAgent PutAgentClass ListAgentClasses DeleteAgentClass",
        OPERATORS,
    ),
}


HTTP_TABLE: Final[dict[str, frozenset[Kind]]] = {
    "/access/v1/evaluation": _GATEWAYS,
    "/access/v1/evaluations": _GATEWAYS,
    "/.well-known/authzen-configuration": _GATEWAYS,
}
"""The same for what is asked over plain HTTP, by exact target."""


def authorize(method: str, kinds: frozenset[Kind], table: Mapping[str, frozenset[Kind]] = TABLE) -> None:
    """Check that a caller of these kinds may use a method, named by its exact path.

    Raises:
        NotAuthorizedError: It may not, or nobody may.
    """
    if kinds.isdisjoint(table.get(method, ())):
        raise NotAuthorizedError(f"authorization denied for method {method}")

# SPDX-License-Identifier: Apache-2.0
"""Which kinds of caller may use which method. What is not in the table is denied to everybody."""

from typing import Final

from issuer.api.caller import Kind
from issuer.errors import NotAuthorizedError

_OPERATORS: Final = frozenset((Kind.LOCAL, Kind.ADMIN))
_LOCAL: Final = frozenset((Kind.LOCAL,))
_NODES: Final = frozenset((Kind.NODE,))
_ANYONE: Final = frozenset(Kind)

_SERVER: Final = "/spire.api.server."


def _methods(service: str, names: str, kinds: frozenset[Kind]) -> dict[str, frozenset[Kind]]:
    return {f"{service}/{name}": kinds for name in names.split()}


TABLE: Final[dict[str, frozenset[Kind]]] = {
    **_methods(
        f"{_SERVER}agent.v1.Agent",
        "CountAgents ListAgents GetAgent DeleteAgent BanAgent CreateJoinToken",
        _OPERATORS,
    ),
    **_methods(f"{_SERVER}agent.v1.Agent", "AttestAgent", _ANYONE),
    **_methods(f"{_SERVER}agent.v1.Agent", "RenewAgent PostStatus", _NODES),
    **_methods(f"{_SERVER}bundle.v1.Bundle", "GetBundle", _ANYONE),
    **_methods(f"{_SERVER}bundle.v1.Bundle", "GetFederatedBundle", _OPERATORS | _NODES),
    **_methods(
        f"{_SERVER}bundle.v1.Bundle",
        "CountBundles AppendBundle ListFederatedBundles BatchCreateFederatedBundle "
        "BatchUpdateFederatedBundle BatchSetFederatedBundle BatchDeleteFederatedBundle",
        _OPERATORS,
    ),
    **_methods(
        f"{_SERVER}entry.v1.Entry",
        "CountEntries ListEntries GetEntry BatchCreateEntry BatchUpdateEntry BatchDeleteEntry",
        _OPERATORS,
    ),
    **_methods(f"{_SERVER}entry.v1.Entry", "GetAuthorizedEntries SyncAuthorizedEntries", _NODES),
    **_methods(f"{_SERVER}svid.v1.SVID", "MintX509SVID MintJWTSVID MintWITSVID", _OPERATORS),
    **_methods(f"{_SERVER}svid.v1.SVID", "BatchNewX509SVID NewJWTSVID BatchNewWITSVID", _NODES),
    **_methods(f"{_SERVER}debug.v1.Debug", "GetInfo", _LOCAL),
    **_methods("/grpc.health.v1.Health", "Check List Watch", _LOCAL),
    **_methods("/issuer.v1.Updates", "Watch", _NODES),
    **_methods("/issuer.v1.AuditReports", "Report", _NODES),
    **_methods("/issuer.v1.Explain", "Why", _OPERATORS),
    **_methods("/issuer.v1.Revocation", "Revoke ListRevoked CertifyRetirement", _OPERATORS),
    **_methods("/issuer.v1.Revocation", "GetStatus", _ANYONE),
    **_methods("/issuer.v1.Audit", "ListEvents ProveEvent GetCheckpoint", _OPERATORS),
    **_methods("/issuer.v1.Policy", "Put List Get Delete Test Simulate GetBundle", _OPERATORS),
    **_methods(
        "/issuer.v1.Agents",
        "RegisterAgent GetAgent ListAgents UpdateAgent ActivateAgent SuspendAgent ResumeAgent RetireAgent "
        "ReviewAgent TransferAgent PutAgentClass ListAgentClasses DeleteAgentClass",
        _OPERATORS,
    ),
}


def authorize(method: str, kind: Kind) -> None:
    """Check that a kind of caller may use a method, named by its exact gRPC path.

    Raises:
        NotAuthorizedError: It may not, or nobody may.
    """
    if kind not in TABLE.get(method, frozenset()):
        raise NotAuthorizedError(f"authorization denied for method {method}")

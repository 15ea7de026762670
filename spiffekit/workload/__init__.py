# SPDX-License-Identifier: Apache-2.0
"""What a workload needs: its identity from the Workload API, kept fresh, and mTLS with peers known by ID."""

from spiffekit.workload.address import EndpointAddress, endpoint_address
from spiffekit.workload.authorize import Authorize, any_of, below, exact, member_of
from spiffekit.workload.client import ValidatedToken, WorkloadApi
from spiffekit.workload.gate import Caller, ToolGate
from spiffekit.workload.live import Peer, PeerStatus, PeerWatch
from spiffekit.workload.policies import PolicySource
from spiffekit.workload.reporting import Reporter, Verification
from spiffekit.workload.source import JwtSource, WitSource, X509Source
from spiffekit.workload.status import StatusSource, verify_jwt_svid
from spiffekit.workload.threads import jwt_source, policy_source, reporter, status_source, x509_source
from spiffekit.workload.tls import (
    PeerRefusedError,
    mtls_client_context,
    mtls_server_context,
    peer_spiffe_id,
    verified_peer,
)
from spiffekit.workload.updates import X509Update, X509UpdateSource

__all__ = [
    "EndpointAddress",
    "endpoint_address",
    "WorkloadApi",
    "X509Update",
    "X509UpdateSource",
    "X509Source",
    "JwtSource",
    "WitSource",
    "x509_source",
    "jwt_source",
    "StatusSource",
    "status_source",
    "PolicySource",
    "policy_source",
    "ToolGate",
    "Caller",
    "Peer",
    "PeerStatus",
    "PeerWatch",
    "verify_jwt_svid",
    "ValidatedToken",
    "Reporter",
    "reporter",
    "Verification",
    "Authorize",
    "exact",
    "below",
    "member_of",
    "any_of",
    "mtls_client_context",
    "mtls_server_context",
    "peer_spiffe_id",
    "verified_peer",
    "PeerRefusedError",
]

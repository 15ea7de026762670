# SPDX-License-Identifier: Apache-2.0
"""What the audit trail calls the acts of the API."""

from functools import lru_cache
from typing import Final

from issuer.model import Outcome

_NODES: Final = "/spire.api.server.agent.v1.Agent"
_BUNDLES: Final = "/spire.api.server.bundle.v1.Bundle"
_ENTRIES: Final = "/spire.api.server.entry.v1.Entry"
_SVIDS: Final = "/spire.api.server.svid.v1.SVID"
_AGENTS: Final = "/issuer.v1.Agents"

EVENT_TYPES: Final = {
    f"{_NODES}/AttestAgent": "attest.node",
    f"{_NODES}/RenewAgent": "attest.renewed",
    f"{_NODES}/PostStatus": "node.reported",
    f"{_NODES}/DeleteAgent": "node.evicted",
    f"{_NODES}/BanAgent": "node.banned",
    f"{_NODES}/CreateJoinToken": "join_token.created",
    f"{_BUNDLES}/AppendBundle": "bundle.appended",
    f"{_BUNDLES}/PublishJWTAuthority": "bundle.published",
    f"{_BUNDLES}/PublishWITAuthority": "bundle.published",
    f"{_BUNDLES}/BatchCreateFederatedBundle": "bundle.created",
    f"{_BUNDLES}/BatchUpdateFederatedBundle": "bundle.updated",
    f"{_BUNDLES}/BatchSetFederatedBundle": "bundle.set",
    f"{_BUNDLES}/BatchDeleteFederatedBundle": "bundle.deleted",
    f"{_ENTRIES}/BatchCreateEntry": "entry.created",
    f"{_ENTRIES}/BatchUpdateEntry": "entry.updated",
    f"{_ENTRIES}/BatchDeleteEntry": "entry.deleted",
    f"{_SVIDS}/MintX509SVID": "svid.minted",
    f"{_SVIDS}/MintJWTSVID": "svid.minted",
    f"{_SVIDS}/MintWITSVID": "svid.minted",
    f"{_SVIDS}/BatchNewWITSVID": "svid.issued",
    f"{_SVIDS}/BatchNewX509SVID": "svid.issued",
    f"{_SVIDS}/NewJWTSVID": "svid.issued",
    f"{_AGENTS}/RegisterAgent": "agent.registered",
    f"{_AGENTS}/UpdateAgent": "agent.updated",
    f"{_AGENTS}/ActivateAgent": "agent.activated",
    f"{_AGENTS}/SuspendAgent": "agent.suspended",
    f"{_AGENTS}/ResumeAgent": "agent.resumed",
    f"{_AGENTS}/RetireAgent": "agent.retired",
    f"{_AGENTS}/ReviewAgent": "agent.reviewed",
    f"{_AGENTS}/TransferAgent": "agent.transferred",
    "/issuer.v1.Revocation/Revoke": "svid.revoked",
    "/issuer.v1.Revocation/CertifyRetirement": "agent.retirement_certified",
    "/issuer.v1.Revocation/WithdrawAuthority": "bundle.withdrawn",
    "/issuer.v1.AuditReports/Report": "node.observed",
    f"{_AGENTS}/PutAgentClass": "agent_class.put",
    f"{_AGENTS}/DeleteAgentClass": "agent_class.deleted",
}


@lru_cache(maxsize=256)
def event_type(method: str, outcome: Outcome) -> str:
    """Return the type of an event: what was done, or that it was refused.

    A method that is not in the table is known by service and name: /issuer.v1.Policy/Put is "policy.put".
    """
    service, _, name = method.rpartition("/")
    done = EVENT_TYPES.get(method) or f"{service.rpartition('.')[2]}.{name}".lower()
    return done if outcome is Outcome.OK else f"{done.partition('.')[0]}.refused"

# SPDX-License-Identifier: Apache-2.0
"""What the audit trail says of an SVID: one event for each, found again by its serial number or ID."""

from collections.abc import Mapping
from datetime import UTC, datetime
from functools import lru_cache
from typing import Any

from issuer.api.dispatch import Call
from issuer.ca.signing import IssuedX509Svid
from issuer.errors import PolicyDeniedError
from issuer.model import AgentFacts, AttestFacts, AuditRecord, CredentialFacts, Node, Outcome
from spiffekit.wire.convert import seconds


def issued_record(call: Call, said: Mapping[str, Any]) -> AuditRecord:
    """Return the record of an SVID that was signed in a call.

    Args:
        said: ``id`` (a SPIFFE ID), with ``serial`` of an X.509-SVID, ``audience`` and ``jti`` of a JWT-SVID,
            or ``kind`` and ``jti`` of a WIT-SVID; ``exp`` in seconds since 1970; and where they are known
            ``entry``, ``evidence``, ``agent`` and ``policy``.
    """
    detail: dict[str, Any] = dict(said)
    serial, jti, exp = detail.pop("serial", ""), detail.pop("jti", ""), detail.pop("exp")
    kind = detail.pop("kind", "x509-svid" if serial else "jwt-svid")
    return _record(call, detail, credential=_credential(kind, serial=serial, jti=jti, exp=exp))


def denied_record(call: Call, error: PolicyDeniedError, said: Mapping[str, Any]) -> AuditRecord:
    """Return the record of an SVID that policy denied; `said` is what is known of the workload."""
    return _record(call, {**error.recorded, **said}, outcome=Outcome.DENIED, reason=str(error))


def _record(call: Call, detail: dict[str, Any], **facts: Any) -> AuditRecord:
    spiffe_id, agent = str(detail.pop("id")), detail.pop("agent", None)
    evidence: Mapping[str, Any] = detail.get("evidence", {})
    node = call.caller.node
    return call.record(
        spiffe_id,
        **facts,
        policy=detail.pop("policy", None),
        attest=None if node is None else _attest(node, evidence.get("selectors_sha256", "")),
        agent=None
        if agent is None
        else AgentFacts(
            spiffe_id=spiffe_id,
            instance_uid=evidence.get("instance", ""),
            owner=agent["owner"],
            class_=agent.get("class", ""),
        ),
        **detail,
    )


def attested_record(call: Call, node: Node, issued: IssuedX509Svid, **detail: Any) -> AuditRecord:
    """Return the record of a node that proved itself, or renewed its SVID."""
    return call.record(
        str(node.id),
        credential=_credential("x509-svid", serial=str(issued.serial), exp=seconds(issued.expires_at)),
        attest=_attest(node),
        **detail,
    )


def _credential(kind: str, *, serial: str = "", jti: str = "", exp: int) -> CredentialFacts:
    return CredentialFacts(kind=kind, serial=serial, jti=jti, exp=_instant(exp))


@lru_cache(maxsize=64)  # what is issued together mostly ends together
def _instant(seconds_since_1970: int) -> str:
    return datetime.fromtimestamp(seconds_since_1970, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def _attest(node: Node, selectors_sha256: str = "") -> AttestFacts:
    return AttestFacts(node=str(node.id), level=node.level.name.lower(), selectors_sha256=selectors_sha256)

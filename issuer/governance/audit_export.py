# SPDX-License-Identifier: Apache-2.0
"""Audit events in the forms of others: OCSF for security data lakes, OpenTelemetry logs for everything else.

Both carry the leaf of the log as it is, so that a proof of the event still fits what was exported.
"""

import hashlib
import json
from collections.abc import Iterable
from datetime import datetime
from typing import Any, Final

OCSF_VERSION: Final = "1.8.0"
PRODUCT: Final = {"name": "Attestor and Issuer", "uid": "spiffe-attestor"}
_AUTHENTICATION, _ENTITY, _API, _FINDING = 3002, 3004, 6003, 2004  # OCSF's class_uid
_OTHER: Final = 99  # of every activity_id
_CLASSES: Final = {
    "attest": _AUTHENTICATION,
    "svid": _AUTHENTICATION,
    "agent": _ENTITY,
    "agent_class": _ENTITY,
    "bundle": _ENTITY,
    "entry": _ENTITY,
    "join_token": _ENTITY,
    "node": _ENTITY,
    "detect": _FINDING,
    "log": _FINDING,
}
_OF_TYPE: Final = dict.fromkeys(("node.svid_fetched", "node.svid_refused", "node.verified"), _AUTHENTICATION)
_ACTIVITIES: Final = {
    _AUTHENTICATION: {  # Logon, Authentication Ticket, Service Ticket Renew
        "node": 1,
        "verified": 1,
        **dict.fromkeys(("issued", "minted", "svid_fetched"), 3),
        "renewed": 5,
    },
    _ENTITY: {
        **dict.fromkeys(("created", "registered", "put", "set", "appended", "published"), 1),
        **dict.fromkeys(("updated", "reviewed", "transferred", "reported"), 3),
        **dict.fromkeys(("deleted", "evicted", "pruned", "retired", "withdrawn"), 4),
        "banned": 9,  # Disable
        "activated": 10,
        "suspended": 12,
        "resumed": 13,
    },
    _API: {},
    _FINDING: {"alert": 1, "gap": 1},
}
_SEVERITY: Final = {"info": 1, "warning": 3, "error": 4, "critical": 5}
_OTEL_SEVERITY: Final = {"info": 9, "warning": 13, "error": 17, "critical": 21}  # SeverityNumber


def to_ocsf(leaf: bytes) -> dict[str, Any]:
    """Return an event as OCSF 1.8.0 has it."""
    event = json.loads(leaf)
    noun, _, verb = event["type"].partition(".")
    kind = _OF_TYPE.get(event["type"]) or _CLASSES.get(noun, _API)
    activity = _ACTIVITIES[kind].get(verb, _OTHER)
    good = event["outcome"]["decision"] == "allow"
    said = {
        "category_uid": kind // 1000,
        "class_uid": kind,
        "activity_id": activity,
        "type_uid": kind * 100 + activity,
        "severity_id": _SEVERITY[event["severity"]],
        "time": _nanoseconds(event) // 1_000_000,
        "message": event["type"],
        "metadata": {
            "version": OCSF_VERSION,
            "product": PRODUCT,
            "uid": event["id"],
            "sequence": event["seq"],
            "event_code": event["type"],
        },
        "raw_data": leaf.decode(),
        "raw_data_hash": {"algorithm_id": 3, "value": hashlib.sha256(leaf).hexdigest()},  # SHA-256
    }
    if activity == _OTHER:
        said["activity_name"] = verb
    if call := event.get("detail", {}).get("call"):
        said["metadata"]["correlation_uid"] = call
    if kind != _FINDING:  # which is by nobody, and whose status is how far people are with it
        said["actor"] = {"user": {"uid": event["actor"]}}
        said["status_id"] = 1 if good else 2
        if not good:
            said["status_detail"] = event["outcome"].get("reason", event["outcome"]["decision"])
        if ip := event.get("peer", {}).get("ip"):
            said["src_endpoint"] = {"ip": ip}
    return said | _of_class(kind, noun, event)


def _of_class(kind: int, noun: str, event: dict[str, Any]) -> dict[str, Any]:
    """Return what a class asks for besides."""
    resource = event.get("resource", "")
    match kind:
        case _ if kind == _AUTHENTICATION:
            found: dict[str, Any] = {
                "user": {"uid": resource or event["actor"]},
                "service": {"name": event.get("detail", {}).get("verifier", "issuer")},
            }
            credential = event.get("credential", {})
            if uid := credential.get("serial") or credential.get("jti"):
                found["session"] = {"uid": uid}
            if uid and (ends := credential.get("exp")):
                found["session"]["expiration_time"] = int(datetime.fromisoformat(ends).timestamp() * 1000)
            return found
        case _ if kind == _ENTITY:
            return {"entity": {"uid": resource, "type": noun} if resource else {"name": noun, "type": noun}}
        case _ if kind == _FINDING:
            return {"finding_info": {"uid": event["id"], "title": event["type"], "desc": resource}}
        case _:
            here = {} if "peer" in event else {"src_endpoint": {"svc_name": "admin socket"}}
            return {"api": {"operation": event["action"]}, **here}


def to_otlp(leaves: Iterable[bytes]) -> dict[str, Any]:
    """Return events as one OTLP LogsData in its JSON form, which is a line of a file of such."""
    records = [_log_record(leaf, json.loads(leaf)) for leaf in leaves]
    return {
        "resourceLogs": [
            {
                "resource": {"attributes": [_attribute("service.name", "issuer")]},
                "scopeLogs": [{"scope": {"name": "issuer.audit"}, "logRecords": records}],
            }
        ]
    }


def _log_record(leaf: bytes, event: dict[str, Any]) -> dict[str, Any]:
    return {
        "timeUnixNano": str(_nanoseconds(event)),
        "observedTimeUnixNano": str(_nanoseconds(event)),
        "severityNumber": _OTEL_SEVERITY[event["severity"]],
        "severityText": event["severity"],
        "eventName": event["type"],
        "body": {"stringValue": leaf.decode()},
        "attributes": [_attribute(f"audit.{name}", value) for name, value in _flat(event)],
    }


def _flat(event: dict[str, Any]) -> Iterable[tuple[str, Any]]:
    """Yield what can be searched for; details stay in the body."""
    for name, value in event.items():
        if isinstance(value, dict):
            if name != "detail":
                yield from ((f"{name}.{inner}", there) for inner, there in value.items())
        elif name not in ("time", "type", "severity"):
            yield name, value


def _attribute(name: str, value: str | int) -> dict[str, Any]:
    return {
        "key": name,
        "value": {"intValue": str(value)} if isinstance(value, int) else {"stringValue": value},
    }


def _nanoseconds(event: dict[str, Any]) -> int:
    instant = datetime.fromisoformat(event["time"])
    return (int(instant.timestamp()) * 1_000_000 + instant.microsecond) * 1000

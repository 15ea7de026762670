# SPDX-License-Identifier: Apache-2.0
"""The audit trail's events: who did what to which thing, how it ended, and what the answer rested on.

An event is canonical JSON (RFC 8785) of at most 16 KiB, and exactly those bytes are a leaf of the log that
shows that nothing was changed. It has those of its members that are known: ``v id seq time type severity
outcome actor action resource agent attest policy credential peer detail``.
"""

import json
from collections.abc import Mapping
from datetime import UTC, datetime
from functools import lru_cache
from typing import Any, Final, NamedTuple

import msgspec

from issuer.errors import InvalidRequestError
from issuer.model import (
    AgentFacts,
    AttestFacts,
    AuditRecord,
    CredentialFacts,
    Facts,
    Outcome,
    PeerFacts,
    PolicyFacts,
    Severity,
    new_entry_id,
)
from issuer.store.schema import stamp

VERSION: Final = 1
MAX_EVENT: Final = 16 * 1024  # bytes: so that no caller can fill the disk with few calls
MAX_INTEGER: Final = 2**53 - 1  # RFC 8785 §3.2.2.3: what every reader of JSON keeps exact
_JSON: Final = msgspec.json.Encoder(order="sorted")
_MAX_DEPTH: Final = 8  # of what stands in `detail`


_SEVERITY: Final = {
    Outcome.OK: Severity.INFO,
    Outcome.DENIED: Severity.WARNING,
    Outcome.FAILED: Severity.WARNING,
}


class Event(NamedTuple):
    """An encoded record that lacks nothing but its sequence number."""

    record: AuditRecord
    id: str
    at: int  # microseconds since 1970
    before: bytes
    after: bytes

    def leaf(self, sequence: int) -> bytes:
        """Return the canonical JSON of the event with its number."""
        return b'%b,"seq":%d,%b' % (self.before, sequence, self.after)


_FACTS: Final[dict[str, type[Facts]]] = {
    "agent": AgentFacts,
    "attest": AttestFacts,
    "policy": PolicyFacts,
    "credential": CredentialFacts,
    "peer": PeerFacts,
}


def encode(record: AuditRecord) -> Event:
    """Encode a record.

    Raises:
        InvalidRequestError: It would be longer than an event may be, or holds text that is no Unicode.
        TypeError: It holds something that is not a string, integer, boolean, list or object of those.
    """
    _check(record.detail, _MAX_DEPTH)
    at, time = _instant(record.at)
    event_id = new_entry_id(at * 1000)
    # Members sort before and after "seq", so that the number can be put in between when it is known.
    before = {
        "action": record.act,
        "actor": record.actor,
        "id": event_id,
        "outcome": {"decision": record.outcome} | ({"reason": record.reason} if record.reason else {}),
    }
    if record.subject:
        before["resource"] = record.subject
    if record.detail:
        before["detail"] = dict(record.detail)
    for name in _FACTS:
        if (facts := getattr(record, name)) is not None:
            before[name] = facts
    after = {
        "severity": record.severity or _SEVERITY[record.outcome],
        "time": time,
        "type": record.type,
        "v": VERSION,
    }
    try:
        head, tail = _canonical(before), _canonical(after)
    except UnicodeEncodeError as error:
        raise InvalidRequestError("what is to be recorded holds text that is no Unicode") from error
    if len(head) + len(tail) + 24 > MAX_EVENT:
        raise InvalidRequestError(f"what is to be recorded is longer than the {MAX_EVENT} bytes of an event")
    return Event(record, event_id, at, head[:-1], tail[1:])


def _canonical(value: dict[str, Any]) -> bytes:
    """Return RFC 8785 of what has ASCII names, and no number but integers of at most `MAX_INTEGER`.

    A test holds it equal to a library that can do all of RFC 8785 and takes ten times as long.
    """
    return _JSON.encode(value)


def _check(value: object, depth: int) -> None:
    """Raise a TypeError for what has no canonical form that every reader of JSON agrees on."""
    match value:
        case str() | bool() | None:
            return
        case int() if abs(value) <= MAX_INTEGER:
            return
        case list() | tuple() if depth:
            for element in value:
                _check(element, depth - 1)
        case Mapping() if depth:
            for name, element in value.items():
                if not isinstance(name, str) or not name.isascii():
                    raise TypeError(f"name {name!r} in an audit record is not ASCII")
                _check(element, depth - 1)
        case _:
            raise TypeError(f"value of type {type(value).__name__} in an audit record")


@lru_cache(maxsize=16)  # the events of a call have the same
def _instant(at: datetime) -> tuple[int, str]:
    """Return an instant in microseconds since 1970, and as text (RFC 3339)."""
    return stamp(at), at.astimezone(UTC).isoformat(timespec="microseconds").replace("+00:00", "Z")


class _Handed(msgspec.Struct, frozen=True):
    exp: str = ""


class _Ending(msgspec.Struct, frozen=True):
    credential: _Handed = _Handed()


_ENDING: Final = msgspec.json.Decoder(_Ending)


def ends_after(leaf: bytes, instant: datetime) -> bool:
    """Tell whether what was handed out by an event is valid at an instant, without reading the rest of it."""
    said = _ENDING.decode(leaf).credential.exp
    return bool(said) and instant < datetime.fromisoformat(said)


def decode(leaf: bytes) -> AuditRecord:
    """Return the record of an event that we encoded.

    Raises:
        ValueError: It is none.
    """
    try:
        event = json.loads(leaf)
        facts: dict[str, Any] = {
            name: msgspec.convert(event[name], kind) for name, kind in _FACTS.items() if name in event
        }
        return AuditRecord(
            at=datetime.fromisoformat(event["time"]),
            actor=event["actor"],
            act=event["action"],
            subject=event.get("resource", ""),
            outcome=Outcome(event["outcome"]["decision"]),
            type=event["type"],
            reason=event["outcome"].get("reason", ""),
            severity=Severity(event["severity"]),
            detail=event.get("detail", {}),
            **facts,
        )
    except (KeyError, TypeError, AttributeError, msgspec.ValidationError) as error:
        raise ValueError(f"not an event of the audit trail: {error}") from error

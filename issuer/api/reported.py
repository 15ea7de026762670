# SPDX-License-Identifier: Apache-2.0
"""What an attestor reports, checked field by field and put into the words of the audit trail.

No field names a node: who reports is known by its certificate.
"""

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, Final

from issuer.errors import InvalidRequestError
from issuer.model import CredentialFacts, Outcome, PolicyFacts, Severity
from issuer.store.schema import unstamp
from spiffekit.errors import SpiffeIdError
from spiffekit.id import SpiffeId, TrustDomain
from spiffekit.jws import MAX_INSTANT
from spiffekit.wire.pb.issuer.v1 import audit_reports_pb2
from spiffekit.wire.reports import (
    HASH,
    KINDS,
    MAX_NAMES,
    MAX_NUMBER,
    MAX_TEXT,
    NAME,
    RUN_BYTES,
    SERIAL,
    TOKENS,
)

if TYPE_CHECKING:
    from spiffekit.wire.pb.attestor.v1 import verifications_pb2

BOOT_BYTES: Final = 16
MAX_EVENTS: Final = 100  # of one report
MAX_EVENT_BYTES: Final = 8 * 1024  # as it comes; an event of the trail may have twice as many
MAX_PATH: Final = 4096  # bytes
MAX_AUDIENCE: Final = 4096  # bytes of all names together
_NOTHING: Final[Mapping[str, Any]] = {}

_ENTRY: Final = re.compile(r"[A-Za-z0-9._-]{1,255}", re.ASCII)
_INSTANCE: Final = re.compile(r"([a-z2-7]{26})?", re.ASCII)
_CREDENTIALS: Final = {"serial": SERIAL, "jti": NAME, "token_sha256": HASH}
_HASH_OR_NONE: Final = re.compile(r"([0-9a-f]{64})?", re.ASCII)
_VERSION: Final = re.compile(r"[ -~]{0,255}", re.ASCII)
_TXN: Final = re.compile(r"[!-~]{0,255}", re.ASCII)
_LINE: Final = re.compile(rf".{{0,{MAX_TEXT}}}")
_WORD: Final = re.compile(r"[a-z_]{1,64}", re.ASCII)
_CALL: Final = re.compile(r"[0-9a-f]{0,64}", re.ASCII)


@dataclass(frozen=True, slots=True, kw_only=True)
class Reported:
    """One event as an attestor tells it."""

    number: int
    at: datetime  # by the node's clock
    type: str
    subject: SpiffeId | None = None  # None: the node itself
    outcome: Outcome = Outcome.OK
    reason: str = ""
    severity: Severity | None = None
    credential: CredentialFacts | None = None
    policy: PolicyFacts | None = None
    instance_uid: str = ""
    missing: Mapping[str, Any] | None = None  # what a process verified before and is not told
    detail: Mapping[str, Any] = field(default_factory=lambda: _NOTHING)


def boot_of(request: audit_reports_pb2.ReportRequest) -> str:
    """Return what names the run of the attestor, in hex.

    Raises:
        InvalidRequestError: It has another length.
    """
    if len(request.boot) != BOOT_BYTES:
        raise InvalidRequestError(f"boot: needs {BOOT_BYTES} bytes")
    return request.boot.hex()


def reported(request: audit_reports_pb2.ReportRequest, trust_domain: TrustDomain) -> list[Reported]:
    """Return the events of a report.

    Raises:
        InvalidRequestError: One breaks a rule; the message names the field and the rule.
    """
    if len(request.events) > MAX_EVENTS:
        raise InvalidRequestError(f"events: more than {MAX_EVENTS}")
    events: list[Reported] = []
    for index, message in enumerate(request.events):
        try:
            events.append(_event(message, trust_domain))
        except InvalidRequestError as error:
            raise InvalidRequestError(f"events[{index}].{error}") from error
        if index and events[index].number <= events[index - 1].number:
            raise InvalidRequestError(f"events[{index}].number: is not above the one before")
    if request.ended > MAX_NUMBER:
        raise InvalidRequestError(f"ended: is above {MAX_NUMBER}")
    if request.ended and events and request.ended < events[-1].number:
        raise InvalidRequestError("ended: is below the number of an event")
    return events


def _event(message: audit_reports_pb2.ReportedEvent, trust_domain: TrustDomain) -> Reported:
    if message.ByteSize() > MAX_EVENT_BYTES:
        raise InvalidRequestError(f"number: {message.number} has more than {MAX_EVENT_BYTES} bytes")
    if not 1 <= message.number <= MAX_NUMBER:
        raise InvalidRequestError(f"number: is not between 1 and {MAX_NUMBER}")
    if not 0 <= message.at <= MAX_INSTANT * 1_000_000:
        raise InvalidRequestError("at: is before 1970 or after 9999")
    told: dict[str, Any] = {"number": message.number, "at": unstamp(message.at)}
    process = {"process": _process(message.process)} if message.HasField("process") else {}
    match message.WhichOneof("what"):
        case "started":
            version = _text("started.version", message.started.version, _VERSION)
            return Reported(type="node.started", detail={"version": version}, **told)
        case "fetched":
            return _fetched(message.fetched, process, told, trust_domain)
        case "refused":
            return Reported(
                type="node.svid_refused",
                outcome=Outcome.DENIED,
                reason=_text("refused.reason", message.refused.reason, _WORD),
                detail={**process, "refusal": _text("refused.call", message.refused.call, _CALL)},
                **told,
            )
        case "posture_changed":
            return Reported(
                type="node.posture_changed",
                severity=Severity.WARNING,
                detail={**process, **_change(message.posture_changed)},
                **told,
            )
        case "verified":
            return _verified(message.verified, process, told, trust_domain)
        case "omitted":
            return _omitted(message.omitted, told)
        case _:  # a newer attestor tells what we do not know: its number counts all the same
            return Reported(type="node.observed", detail=process, **told)


def _fetched(
    fetched: audit_reports_pb2.SvidFetched,
    process: Mapping[str, Any],
    told: Mapping[str, Any],
    trust_domain: TrustDomain,
) -> Reported:
    spiffe_id = _id("fetched.spiffe_id", fetched.spiffe_id)
    if not spiffe_id.is_member_of(trust_domain):
        raise InvalidRequestError(f"fetched.spiffe_id: is not of trust domain {trust_domain}")
    if sum(len(name.encode()) for name in fetched.audience) > MAX_AUDIENCE:
        raise InvalidRequestError(f"fetched.audience: more than {MAX_AUDIENCE} bytes")
    audience = {"audience": list(fetched.audience)} if fetched.audience else {}
    entry = _text("fetched.entry_id", fetched.entry_id, _ENTRY)
    return Reported(
        type="node.svid_fetched",
        subject=spiffe_id,
        credential=_credential(fetched),
        instance_uid=_text("fetched.instance_uid", fetched.instance_uid, _INSTANCE),
        detail={**process, "entry": entry, **audience},
        **told,
    )


def _omitted(omitted: audit_reports_pb2.EventsOmitted, told: Mapping[str, Any]) -> Reported:
    detail = {"lost": omitted.lost, "refusals": omitted.refusals}
    if max(detail.values()) > MAX_NUMBER:
        raise InvalidRequestError(f"omitted: a count is above {MAX_NUMBER}")
    severity = Severity.WARNING if omitted.lost else None
    return Reported(type="node.events_omitted", severity=severity, detail=detail, **told)


def _verified(
    verified: audit_reports_pb2.PeerVerified,
    process: Mapping[str, Any],
    told: Mapping[str, Any],
    trust_domain: TrustDomain,
) -> Reported:
    one = verified.verification
    verifier = _id("verified.verifier", verified.verifier)
    if not verifier.is_member_of(trust_domain):
        raise InvalidRequestError(f"verified.verifier: is not of trust domain {trust_domain}")
    if len(verified.run) != RUN_BYTES:
        raise InvalidRequestError(f"verified.run: needs {RUN_BYTES} bytes")
    if not verified.missing < one.number <= MAX_NUMBER:
        raise InvalidRequestError("verified.verification.number: is not above missing, or too large")
    if one.kind not in KINDS:
        raise InvalidRequestError(f"verified.verification.kind: {one.kind[:64]!r} is none that we know")
    if not one.count:
        raise InvalidRequestError("verified.verification.count: is 0")
    who = {
        "verifier": str(verifier),
        "entry": _text("verified.entry_id", verified.entry_id, _ENTRY),
        "run": verified.run.hex(),
    }
    missing = {"from": one.number - verified.missing, "to": one.number - 1}
    action = _text("verified.verification.action", one.action, _LINE)
    txn = _text("verified.verification.txn", one.txn, _TXN)
    told_more = {"action": action, "txn": txn}
    return Reported(
        type="node.verified",
        subject=_id("verified.verification.peer", one.peer) if one.peer else None,
        outcome=Outcome.OK if one.allowed else Outcome.DENIED,
        reason=_text("verified.verification.reason", one.reason, _LINE),
        credential=_shown(one),
        policy=_decided(one),
        missing={**who, **missing} if verified.missing else None,
        detail={
            **process,
            **who,
            "verified": one.kind,
            "verification": one.number,
            "count": one.count,
            **{name: text for name, text in told_more.items() if text},
        },
        **told,
    )


def _shown(one: "verifications_pb2.Verification") -> CredentialFacts | None:
    """Return what a peer showed, as the verifier says."""
    told = one.WhichOneof("credential")
    if told is None:
        return None
    if told == "serial" and one.kind in TOKENS:
        raise InvalidRequestError(f"verified.verification.serial: no {one.kind} has one")
    found = _text(f"verified.verification.{told}", getattr(one, told), _CREDENTIALS[told])
    if told == "serial":
        return CredentialFacts(kind="x509-svid", serial=found)
    return CredentialFacts(kind=one.kind if one.kind in (*TOKENS, "delegation") else "token", jti=found)


def _decided(one: "verifications_pb2.Verification") -> PolicyFacts | None:
    """Return by which policies a verifier says that it decided."""
    if not one.bundle:
        return None
    bundle = _text("verified.verification.bundle", one.bundle, HASH)
    return PolicyFacts(bundle=bundle, ids=tuple(_names("verified.verification.policies", one.policies, NAME)))


def _id(name: str, value: str) -> SpiffeId:
    try:
        return SpiffeId.parse(value)
    except SpiffeIdError as error:
        raise InvalidRequestError(f"{name}: {error}") from error


def _credential(fetched: audit_reports_pb2.SvidFetched) -> CredentialFacts:
    if not 0 <= fetched.expires_at <= MAX_INSTANT:
        raise InvalidRequestError("fetched.expires_at: is before 1970 or after 9999")
    exp = datetime.fromtimestamp(fetched.expires_at, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
    told = fetched.WhichOneof("credential")
    if told is None:
        raise InvalidRequestError("fetched.credential: is missing")
    if fetched.kind not in (("x509-svid",) if told == "serial" else TOKENS):
        raise InvalidRequestError(f"fetched.kind: {fetched.kind[:64]!r} is none that has a {told}")
    found = _text(f"fetched.{told}", getattr(fetched, told), _CREDENTIALS[told])
    return CredentialFacts(kind=fetched.kind, exp=exp, **{told.removeprefix("token_"): found})


def _process(process: audit_reports_pb2.ReportedProcess) -> dict[str, Any]:
    if len(process.path.encode()) > MAX_PATH:
        raise InvalidRequestError(f"process.path: more than {MAX_PATH} bytes")
    return {
        "pid": process.pid,
        "uid": process.uid,
        "path": process.path,
        "sha256": _text("process.sha256", process.sha256, _HASH_OR_NONE),
    }


def _change(change: audit_reports_pb2.PostureChanged) -> dict[str, Any]:
    return {
        "entries": _names("posture_changed.entry_ids", change.entry_ids, _ENTRY),
        "gone": _names("posture_changed.gone", change.gone, NAME),
        "new": _names("posture_changed.new", change.new, NAME),
    }


def _names(name: str, values: Iterable[str], form: re.Pattern[str]) -> list[str]:
    found = [_text(name, value, form) for value in values]
    if len(found) > MAX_NAMES:
        raise InvalidRequestError(f"{name}: more than {MAX_NAMES}")
    return found


def _text(name: str, value: str, form: re.Pattern[str]) -> str:
    if not form.fullmatch(value):
        raise InvalidRequestError(f"{name}: {value[:64]!r} is not of the form {form.pattern}")
    return value

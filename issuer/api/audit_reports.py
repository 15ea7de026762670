# SPDX-License-Identifier: Apache-2.0
"""issuer.v1.AuditReports: what attestors add to the audit trail, each under its node's own name.

A node may lie about itself, and nothing more: what it says of an SVID is held against what was issued to it,
what it says twice counts once, and what it leaves out is recorded as left out.
"""

from collections.abc import Iterator, Sequence
from dataclasses import replace
from datetime import timedelta
from typing import Any, Final

from msgspec import structs

from issuer.api.dispatch import Call
from issuer.api.reported import Reported, boot_of, reported
from issuer.errors import InvalidRequestError
from issuer.model import AgentFacts, AttestFacts, AttestorRun, AuditRecord, Node, Outcome, Severity
from issuer.registration import Registrations
from issuer.store import Database, Transaction
from issuer.store.events import encode
from spiffekit.daemon.limits import RateLimit
from spiffekit.id import TrustDomain
from spiffekit.wire.pb.issuer.v1 import audit_reports_pb2

MAX_SKEW: Final = timedelta(seconds=30)  # that a node's clock may be ahead
MAX_AGE: Final = timedelta(days=1)  # of an event that is nothing strange
_NOT_ISSUED: Final = "no such SVID was issued to this node"
_MISSING: Final = "events of the attestor are missing"
_UNSAID: Final = "a process did not tell of all that it verified"
_NO_END: Final = "the attestor ended without a word: what it had not reported yet is lost"
_TWO: Final = "an earlier run of the attestor reports again: two may use the node's key"


class AuditReportsService:
    """See the module.

    Args:
        limit: Of events, for each node.
    """

    def __init__(
        self,
        trust_domain: TrustDomain,
        *,
        database: Database,
        registrations: Registrations,
        limit: RateLimit,
    ) -> None:
        self._trust_domain = trust_domain
        self._database = database
        self._registrations = registrations
        self._limit = limit

    async def Report(  # noqa: N802 - the method's name on the wire
        self, request: audit_reports_pb2.ReportRequest, call: Call
    ) -> audit_reports_pb2.ReportResponse:
        """Record what a node reports."""
        node = call.caller.known_node
        self._limit.spend(node.id, max(1, len(request.events)))
        boot, events = boot_of(request), reported(request, self._trust_domain)

        def act(tx: Transaction) -> int:
            runs = tx.attestor_runs.of(node.id)
            run = next((run for run in runs if run.boot == boot), AttestorRun(node=node.id, boot=boot))
            fresh = [event for event in events if event.number > run.last]
            if not fresh and (run.ended or not request.ended):
                return run.last  # it was not answered, and is sent again
            if run.ended:
                raise InvalidRequestError("boot: that run of the attestor has ended")
            last = fresh[-1].number if fresh else run.last
            if request.ended:
                if request.ended < last:
                    raise InvalidRequestError("ended: is below the number of an event")
                last = request.ended
            records = [*_break(call, runs, boot), *self._told(tx, call, run, fresh)]
            if request.ended:
                records += _gap(call, run, fresh[-1].number if fresh else run.last, last + 1)
                stopped = call.record(str(node.id), boot=boot, last=last)
                records.append(structs.replace(stopped, type="node.stopped"))
            tx.audit.append_all(map(encode, records))
            tx.attestor_runs.put(replace(run, last=last, ended=bool(request.ended)), tx.now)
            return last

        return audit_reports_pb2.ReportResponse(recorded=await self._database.write(act))

    def _told(
        self, tx: Transaction, call: Call, run: AttestorRun, events: Sequence[Reported]
    ) -> Iterator[AuditRecord]:
        """Yield the records of events, and of those that are missing between them."""
        last = run.last
        for event in events:
            yield from _gap(call, run, last, event.number)
            if event.missing:
                yield _alarm(call, Severity.ERROR, _UNSAID, boot=run.boot, **event.missing)
            yield self._event(tx, call, run.boot, event)
            last = event.number

    def _event(self, tx: Transaction, call: Call, boot: str, event: Reported) -> AuditRecord:
        node = call.caller.known_node
        clock = _clock(call, event)
        detail: dict[str, Any] = {"boot": boot, "number": event.number, "at": event.at.isoformat()}
        detail |= {"clock": clock} if clock else {}
        record = call.record(
            str(event.subject or node.id),
            event.outcome,
            reason=event.reason,
            agent=self._agent(event),
            attest=AttestFacts(node=str(node.id), level=node.level.name.lower()),
            credential=event.credential,
            policy=event.policy,
            **detail,
            **event.detail,
        )
        severity = Severity.WARNING if clock else event.severity
        if _contradicts(tx, node, event):
            return structs.replace(record, type=event.type, severity=Severity.ERROR, reason=_NOT_ISSUED)
        return structs.replace(record, type=event.type, severity=severity)

    def _agent(self, event: Reported) -> AgentFacts | None:
        """Return what the registry knows of an agent; only which process it was is the node's word."""
        agent = None if event.subject is None else self._registrations.agent(event.subject)
        if agent is None:
            return None
        return structs.replace(agent.facts, instance_uid=event.instance_uid)


def _contradicts(tx: Transaction, node: Node, event: Reported) -> bool:
    """Tell whether an SVID with a number of its own was not issued to this node for this ID."""
    told = event.credential
    if event.type != "node.svid_fetched" or told is None or not (told.serial or told.jti):
        return False
    issued = tx.audit.by_credential(told.serial or told.jti)
    return (
        issued is None
        or issued.credential is None
        or (issued.actor, issued.subject, issued.credential.kind)
        != (str(node.id), str(event.subject), told.kind)
    )


def _clock(call: Call, event: Reported) -> str:
    """Return what is strange about the time of an event."""
    if event.at > call.now + MAX_SKEW:
        return "ahead"
    return "old" if event.at < call.now - MAX_AGE else ""


def _break(call: Call, runs: Sequence[AttestorRun], boot: str) -> Iterator[AuditRecord]:
    """Yield a record if another run reported last, unless that one had ended and this one is new."""
    latest = runs[-1] if runs else None
    if latest is None or latest.boot == boot:
        return
    if any(run.boot == boot for run in runs):
        yield _alarm(call, Severity.ERROR, _TWO, boot=boot, other=latest.boot)
    elif not latest.ended:
        yield _alarm(call, Severity.WARNING, _NO_END, boot=latest.boot, **{"from": latest.last + 1})


def _gap(call: Call, run: AttestorRun, last: int, following: int) -> Iterator[AuditRecord]:
    """Yield a record of the numbers between two, if there are any."""
    if following > last + 1:
        missing = {"from": last + 1, "to": following - 1}
        yield _alarm(call, Severity.ERROR, _MISSING, boot=run.boot, **missing)


def _alarm(call: Call, severity: Severity, reason: str, **detail: Any) -> AuditRecord:
    record = call.record(str(call.caller.node_id), Outcome.FAILED, reason=reason, **detail)
    return structs.replace(record, type="log.gap", severity=severity)

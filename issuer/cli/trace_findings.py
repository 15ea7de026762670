# SPDX-License-Identifier: Apache-2.0
"""What the audit trail and the registry know of one credential or identity, and who answers for it.

Nothing is guessed: what stands here was recorded with the act, or is asked of the issuer now.
"""

import json
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from itertools import islice
from typing import TYPE_CHECKING, Any, Final

import grpc

from issuer.cli.audit_input import credential_name, events
from issuer.client import DEADLINE, IssuerApi, listed
from issuer.errors import NotFoundError
from spiffekit.daemon.terminal import instant
from spiffekit.wire.pb.issuer.v1 import agents_pb2, audit_pb2, revocation_pb2
from spiffekit.wire.pb.spire.api.server.entry.v1 import entry_pb2

if TYPE_CHECKING:
    from spiffekit.wire.pb.spire.api import types_pb2

Event = dict[str, Any]

LATEST: Final = 10  # of what an identity was given, the latest so many are told
STEPS: Final = 100  # of a transaction, the first so many are told
# Whose act an event of an agent's life makes somebody accountable, and what for.
_ROLES: Final = {
    "agent.registered": "registered the agent",
    "agent.activated": "approved the agent",
    "agent.resumed": "resumed the agent",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Accountable:
    """Somebody who answers for what was done: a person where the issuer knew one, and the account."""

    role: str
    who: str
    account: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Findings:
    """Everything that was found; events are those of the audit trail."""

    spiffe_id: str  # "" if a transaction was asked for
    issued: Event | None = None  # of the credential, if one was asked for
    node: Event | None = None  # the proof by which its node was known then
    entry: list[Event] = field(default_factory=list)  # from its creation until then
    agent: agents_pb2.Agent | None = None  # as it is now
    life: list[Event] = field(default_factory=list)
    given: list[Event] = field(default_factory=list)  # the latest, if an identity was asked for
    refused: list[Event] = field(default_factory=list)  # likewise
    told: list[Event] = field(default_factory=list)  # the latest by nodes: their word
    txn: str = ""  # the transaction, if one was asked for; `told` has what became of it, from the first on
    revoked: list[revocation_pb2.Revoked] = field(default_factory=list)
    accountable: list[Accountable] = field(default_factory=list)

    def state(self, now: datetime) -> str:
        """Say whether the credential is good now."""
        assert self.issued is not None  # noqa: S101 - asked for credentials only
        suspended = self.agent is not None and self.agent.state == agents_pb2.SUSPENDED
        for one in self.revoked:
            return f"revoked since {instant(one.at)} ({one.reason}{_of(one)})"
        if suspended:
            return "withheld: its agent is suspended"
        ends = self.issued["credential"]["exp"]
        return ("ended" if datetime.fromisoformat(ends) <= now else "valid until") + f" {ends}"


def _of(one: revocation_pb2.Revoked) -> str:
    kinds = {"before": ", with all from before", "retired": ", with its agent"}
    return kinds.get(one.kind, "")


def find(api: IssuerApi, what: str) -> Findings:
    """Find out about a serial number, the ID of a token, a SPIFFE ID, or else a transaction.

    Raises:
        NotFoundError: The trail knows nothing of it.
    """
    return _identity(api, what) if what.startswith("spiffe://") else _credential(api, what)


def _credential(api: IssuerApi, what: str) -> Findings:
    name = credential_name(what)
    known = _events(api, credential=name)
    issued = next((event for event in known if not event["type"].startswith("node.")), None)  # their word
    if issued is None:
        return _transaction(api, what)
    spiffe_id, at = issued["resource"], issued["time"]
    agent = _agent(api, spiffe_id)
    life = _life(api, spiffe_id)
    entry = [event for event in _entry(api, issued) if event["seq"] < issued["seq"]]
    return Findings(
        spiffe_id=spiffe_id,
        issued=issued,
        node=_node(api, issued),
        entry=entry,
        agent=agent,
        life=life,
        told=_latest(api, credential=name, type="node."),
        revoked=[one for one in _revoked(api, spiffe_id) if _is_of(one, name, at)],
        accountable=[*_accountable(life, issued, entry), *_authors(api, issued)],
    )


def _transaction(api: IssuerApi, txn: str) -> Findings:
    """Find out who acted in a transaction, by the word of those who verified it."""
    told = list(islice(_events(api, txn=txn), STEPS))
    if not told:
        raise NotFoundError(f"nothing with the serial number or ID {txn[:255]!r} was ever issued here")
    lives = {peer: _life(api, peer) for peer in dict.fromkeys(step["resource"] for step in told)}
    accountable: dict[Accountable, None] = {}  # each once, in the order of the transaction
    for step in told:
        peer = step["resource"]
        for one in (*_accountable(lives[peer], step, []), *_authors(api, step)):
            accountable[replace(one, role=f"{one.role} ({peer})")] = None
    return Findings(spiffe_id="", txn=txn, told=told, accountable=list(accountable))


def _is_of(one: revocation_pb2.Revoked, credential: str, issued_at: str) -> bool:
    """Tell whether a revocation of an identity is one of a credential."""
    match one.kind:
        case "before":
            return datetime.fromisoformat(issued_at) < datetime.fromtimestamp(one.at, UTC)
        case "retired":
            return True
        case _:
            return one.key == credential


def _identity(api: IssuerApi, spiffe_id: str) -> Findings:
    agent, life = _agent(api, spiffe_id), _life(api, spiffe_id)
    given = _latest(api, resource=spiffe_id, type="svid.issued")
    entry = list(_events(api, type="entry.", resource=spiffe_id))
    if agent is None and not given and not entry:
        raise NotFoundError(f"nothing is known of {spiffe_id[:2048]}")
    return Findings(
        spiffe_id=spiffe_id,
        entry=entry,
        agent=agent,
        life=life,
        given=given,
        refused=_latest(api, resource=spiffe_id, type="svid.refused"),
        told=_latest(api, resource=spiffe_id, type="node."),
        revoked=_revoked(api, spiffe_id),
        accountable=_accountable(life, None, entry),
    )


def _events(api: IssuerApi, **filters: Any) -> Iterator[Event]:
    for event in events(api, audit_pb2.ListEventsRequest(**filters)):
        yield json.loads(event.json)


def _latest(api: IssuerApi, **filters: Any) -> list[Event]:
    """Return the latest events, the last one last."""
    asked = audit_pb2.ListEventsRequest(**filters, newest_first=True, page_size=LATEST)
    return [json.loads(event.json) for event in api.audit.ListEvents(asked, timeout=DEADLINE).events][::-1]


def _life(api: IssuerApi, spiffe_id: str) -> list[Event]:
    """Return what was done with an agent, and what was tried, in the order of the log."""
    found = [
        *_events(api, type="agent.", resource=spiffe_id),
        *_events(api, type="svid.revoked", resource=spiffe_id),
    ]
    return sorted(found, key=lambda event: int(event["seq"]))


def _node(api: IssuerApi, issued: Event) -> Event | None:
    """Return the last proof of a node before it was given something for its workload."""
    node = issued.get("attest", {}).get("node", "")
    if not node or issued["resource"] == node:
        return None
    found = _latest(api, resource=node, type="attest.", after=issued["seq"])
    return next((event for event in reversed(found) if event["outcome"]["decision"] == "allow"), None)


def _entry(api: IssuerApi, issued: Event) -> Iterator[Event]:
    """Yield the events of the entry by which something was issued."""
    entry_id = issued.get("detail", {}).get("entry", "")
    if not entry_id:
        return
    try:
        entry: types_pb2.Entry = api.entries.GetEntry(
            entry_pb2.GetEntryRequest(id=entry_id), timeout=DEADLINE
        )
        name = entry.spiffe_id_template or issued["resource"]
    except grpc.RpcError as error:
        if error.code() is not grpc.StatusCode.NOT_FOUND:
            raise
        name = issued["resource"]  # it is deleted; of a template nobody knows the name any more
    for event in _events(api, type="entry.", resource=name):
        if event.get("detail", {}).get("entry") == entry_id:
            yield event


def _agent(api: IssuerApi, spiffe_id: str) -> agents_pb2.Agent | None:
    try:
        return api.agents.GetAgent(agents_pb2.GetAgentRequest(spiffe_id=spiffe_id), timeout=DEADLINE)
    except grpc.RpcError as error:
        # The ID of a node, or of another trust domain, is no agent's.
        if error.code() in (grpc.StatusCode.NOT_FOUND, grpc.StatusCode.INVALID_ARGUMENT):
            return None
        raise


def _revoked(api: IssuerApi, spiffe_id: str) -> list[revocation_pb2.Revoked]:
    everything = listed(api.revocation.ListRevoked, revocation_pb2.ListRevokedRequest(), "revoked")
    return [one for one in everything if one.spiffe_id == spiffe_id]


def _accountable(life: list[Event], issued: Event | None, entry: list[Event]) -> list[Accountable]:
    """Return who answers: owners, and whoever registered, approved or resumed the agent until then.

    An identity without an owner is the responsibility of whoever created its entry, and what an operator
    had signed is that operator's.
    """
    done = [e for e in life if e["outcome"]["decision"] == "allow"]
    if issued is None:
        owners = [e["agent"]["owner"] for e in done if "agent" in e]
    else:
        owners = [issued["agent"]["owner"]] if "agent" in issued else []
        done = [e for e in done if e["seq"] < issued["seq"]]
    found = [Accountable(role="owner", who=owner) for owner in dict.fromkeys(owners)]
    last = {event["type"]: event for event in done}
    found += [_actor(role, last[kind]) for kind, role in _ROLES.items() if kind in last]
    if not owners:
        found += [_actor("created the entry", e) for e in entry if e["type"] == "entry.created"]
    if issued is not None and issued["type"] == "svid.minted":
        found.append(_actor("had it signed", issued))
    return found


def _authors(api: IssuerApi, issued: Event) -> Iterator[Accountable]:
    """Yield who wrote the policies that decided, as they were then."""
    ids = issued.get("policy", {}).get("ids", [])
    for name in dict.fromkeys(statement.partition("#")[0] for statement in ids):
        for event in _latest(api, resource=name, type="policy.put", after=issued["seq"])[-1:]:
            yield _actor(f"wrote policy {name}", event)


def _actor(role: str, event: Event) -> Accountable:
    account = event["actor"].partition(",pid=")[0]
    return Accountable(role=role, who=event.get("detail", {}).get("person", account), account=account)

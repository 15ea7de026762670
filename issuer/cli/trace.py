# SPDX-License-Identifier: Apache-2.0
"""Who acted, for whom, on whose node, by which policy; and who is accountable."""

from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from issuer.cli.options import socket_option
from spiffekit.daemon.terminal import (
    instant,
    output_option,
    print_json,
    print_record,
    print_table,
)

if TYPE_CHECKING:
    from issuer.cli.trace_findings import Event, Findings


@click.command("trace")
@click.argument("what")
@socket_option
@output_option
def trace(what: str, socket: Path, output: str) -> None:
    """Say who acted, for whom, on whose node, by which policy, and who is accountable.

    WHAT is the serial number of an X.509-SVID (decimal, or hex with colons or 0x), the ID of a token, a
    SPIFFE ID, or the ID of a transaction that verifiers told of.
    """
    from issuer.cli.trace_findings import find
    from issuer.client import connect

    with connect(socket) as api:
        found = find(api, what)
    if output == "json":
        print_json(_document(found))
    else:
        _tell(found)


def _document(found: "Findings") -> dict[str, Any]:
    from google.protobuf.json_format import MessageToDict

    def plain(message: Any) -> Any:
        return MessageToDict(message, preserving_proto_field_name=True)

    return {
        "spiffe_id": found.spiffe_id,
        "txn": found.txn,
        "state": None if found.issued is None else found.state(datetime.now(UTC)),
        "issued": found.issued,
        "node": found.node,
        "entry": found.entry,
        "agent": None if found.agent is None else plain(found.agent),
        "life": found.life,
        "given": found.given,
        "refused": found.refused,
        "told": found.told,
        "revoked": [plain(one) for one in found.revoked],
        "accountable": [asdict(one) for one in found.accountable],
    }


def _tell(found: "Findings") -> None:
    if found.issued is not None:
        print_record(_credential(found, found.issued))
    if found.txn:
        print_record({"Transaction": found.txn})
    else:
        print_record({"SPIFFE ID": found.spiffe_id, **_agent(found)})
    if found.life:
        click.echo("What was done with it:")
        columns = ["When", "What", "By", "Why"]
        print_table(columns, [[_when(e), e["type"], _by(e), _why(e)] for e in found.life])
    if found.given:
        click.echo(f"What it was given, the latest {len(found.given)}:")
        print_table(
            ["When", "Kind", "ID", "Until", "Node"],
            [[_when(e), *_handed(e["credential"]), e.get("attest", {}).get("node", "")] for e in found.given],
        )
    if found.refused:
        click.echo(f"What it was refused, the latest {len(found.refused)}:")
        print_table(
            ["When", "Why", "By policy", "Node"],
            [[_when(e), _why(e), _statements(e.get("policy", {})), e["actor"]] for e in found.refused],
        )
    if found.told:
        which = "first" if found.txn else "latest"
        click.echo(f"What nodes say of it, the {which} {len(found.told)}:")
        print_table(
            ["When", "Who", "What", "By policy", "By process", "Node"],
            [
                [_when(e), e["resource"], _told(e), _statements(e.get("policy", {})), _process(e), e["actor"]]
                for e in found.told
            ],
        )
    if found.accountable:
        click.echo("Accountable:")
        print_table(
            ["Who", "For what", "Account"], [[one.who, one.role, one.account] for one in found.accountable]
        )
    else:
        click.echo("Accountable: nobody is recorded")


def _when(event: "Event") -> str:
    return str(event["time"])[:19] + "Z"


def _by(event: "Event") -> str:
    return str(event.get("detail", {}).get("person") or event["actor"].partition(",pid=")[0])


def _why(event: "Event") -> str:
    return str(event["outcome"].get("reason") or event.get("detail", {}).get("purpose", ""))


def _told(event: "Event") -> str:
    """Say what a process was handed, or made of its peer."""
    detail, outcome = event.get("detail", {}), event["outcome"]
    if event["type"] != "node.verified":
        return str(event["type"].removeprefix("node.").replace("_", " "))
    verdict = "let in" if outcome["decision"] == "allow" else "refused"
    why = f": {outcome['reason']}" if outcome.get("reason") else ""
    action = f" to {detail['action']}" if "action" in detail else ""
    return f"{verdict}{action} by {detail['verifier']} ({detail['verified']}){why}"


def _process(event: "Event") -> str:
    process = event.get("detail", {}).get("process", {})
    return ", ".join(map(str, filter(None, (process.get("pid"), process.get("path")))))


def _handed(credential: dict[str, str]) -> list[str]:
    name = credential.get("serial") or credential.get("jti") or credential.get("sha256", "")
    return [credential["kind"], name, credential["exp"]]


def _credential(found: "Findings", issued: "Event") -> dict[str, object]:
    kind, name, ends = _handed(issued["credential"])
    detail, attest = issued.get("detail", {}), issued.get("attest", {})
    process = detail.get("evidence", {}).get("process", {})
    proof = "" if found.node is None else f", proved {_when(found.node)}"
    at = f" from {issued['peer']['ip']}" if "peer" in issued else ""
    return {
        "Credential": f"{kind} {name}",
        "For": ", ".join(detail.get("audience", [])),
        "Issued": f"{_when(issued)} until {ends}, event {issued['seq']}",
        "Now": found.state(datetime.now(UTC)),
        "To process": ", ".join(filter(None, (f"{process['pid']} of user {process['uid']}", process["path"])))
        if process
        else "",
        "Instance": issued.get("agent", {}).get("instance_uid")
        or detail.get("evidence", {}).get("instance", ""),
        "On node": f"{attest['node']} ({attest['level']}{proof}){at}" if "node" in attest else "",
        "Asked by": issued["actor"] if issued["actor"] != attest.get("node") else "",
        "By entry": _entry(found, detail.get("entry", "")),
        "By policy": _policy(issued),
        "In shadow": _shadow(detail.get("shadow")),
    }


def _policy(issued: "Event") -> str:
    """Say which statements decided, and by which hash they are known with all that stood beside them."""
    policy = issued.get("policy", {})
    if not policy:
        return "none was asked"
    return f"{_statements(policy) or 'none counted'}, of {policy.get('bundle', 'none')}"


def _statements(policy: dict[str, Any]) -> str:
    return ", ".join(policy.get("ids", []))


def _shadow(said: dict[str, Any] | None) -> str:
    """Say what would have come of it with the statements in shadow mode, where that is something else."""
    if said is None:
        return ""
    return f"would be {'allowed' if said['allowed'] else 'denied'} by {', '.join(said['ids'])}"


def _entry(found: "Findings", entry_id: str) -> str:
    last = found.entry[-1] if found.entry else None
    return entry_id + (f", {last['type']} {_when(last)} by {_by(last)}" if last else "")


def _agent(found: "Findings") -> dict[str, object]:
    agent, issued = found.agent, found.issued
    if agent is None:
        return {"Owner": "none: it is no agent's"}
    from spiffekit.wire.pb.issuer.v1 import agents_pb2

    spec = agent.spec
    owner = f"{spec.owner.issuer}|{'group:' if spec.owner.group else ''}{spec.owner.subject}"
    then = "" if issued is None else issued.get("agent", {}).get("owner", "none: it was no agent's")
    state = agents_pb2.AgentState.Name(agent.state).lower()
    return {
        "Owner": owner,
        "Owner then": then if then != owner else "",
        "Class": spec.agent_class,
        "Purpose": spec.purpose,
        "State": f"{state} since {instant(agent.changed_at)}"
        + (f" ({agent.reason})" if agent.reason else ""),
        "Successor": agent.successor,
    }

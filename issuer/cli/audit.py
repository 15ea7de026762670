# SPDX-License-Identifier: Apache-2.0
"""The audit trail: read it, check it as a whole, and prove to others what is in it."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import click

from issuer.cli.audit_input import event_filters, event_request, events
from issuer.cli.filters import options
from issuer.cli.options import VERIFIER_KEY, socket_option
from issuer.cli.witness import witness
from spiffekit.daemon.terminal import fail, output_option, print_json, print_record, printable

if TYPE_CHECKING:
    from issuer.client import IssuerApi
    from spiffekit.transparency.notes import Checkpoint, VerifierKey
    from spiffekit.wire.pb.issuer.v1 import audit_pb2

MOST: Final = 1000  # events that one search shows
_FILE: Final = click.Path(path_type=Path, dir_okay=False)
_FOLDER: Final = click.Path(path_type=Path, exists=True, file_okay=False)

key_option = click.option(
    "--key", "key", type=VERIFIER_KEY, help="The log's public key; by default the issuer is asked for it."
)
witness_option = click.option(
    "--witness", "witnesses", type=VERIFIER_KEY, multiple=True, help="Has to have cosigned; repeatable."
)
file_option = click.option("--file", type=_FILE, help="Write it there instead of on the terminal.")
folder_option = click.option(
    "--dir",
    "folder",
    type=_FOLDER,
    help="A copy of the log's folder; no issuer is asked, and --key is needed.",
)


@click.group("audit")
def group() -> None:
    """The audit trail: what happened, and that nothing of it was changed."""


group.add_command(witness)


@group.command()
@click.option("--lines", default=20, show_default=True, type=click.IntRange(0, MOST), help="How many.")
@click.option("--follow", is_flag=True, help="Go on with what comes.")
@event_filters
@socket_option
@output_option
def tail(lines: int, follow: bool, socket: Path, output: str, **given: Any) -> None:
    """Show the latest events."""
    from issuer.client import DEADLINE, connect

    if follow and output == "json":
        raise click.UsageError("--follow has no end, and so no one JSON document: see `issuer audit export`")
    with connect(socket) as api:
        latest = event_request(given, page_size=max(lines, 1), newest_first=True)
        page = list(api.audit.ListEvents(latest, timeout=DEADLINE).events)[::-1]
        _show(page[-lines:] if lines else [], output)
        if follow:
            after = page[-1].sequence if page else 0
            for event in events(api, event_request(given, after=after), follow=True):
                _show([event], output)


@group.command()
@event_filters
@click.option("--id", "event_id", default="", help="The event's own ID.")
@click.option("--limit", default=MOST, show_default=True, type=click.IntRange(1), help="At most so many.")
@socket_option
@output_option
def search(event_id: str, limit: int, socket: Path, output: str, **given: Any) -> None:
    """Show the events for which everything given holds, the oldest first."""
    from issuer.client import connect

    found: list[Any] = []
    with connect(socket) as api:
        for event in events(api, event_request(given, id=event_id)):
            if len(found) == limit:
                click.echo(f"warning: there are more than {limit}, see --limit", err=True)
                break
            found.append(event)
    _show(found, output)


def _show(found: list["audit_pb2.AuditEvent"], output: str) -> None:
    if output == "json":
        print_json({"events": [json.loads(event.json) for event in found]})
        return
    for event in found:
        said = json.loads(event.json)
        outcome = " ".join(filter(None, (said["outcome"]["decision"], said["outcome"].get("reason", ""))))
        parts = [said["seq"], said["time"], said["type"], outcome, said["actor"], said.get("resource", "")]
        click.echo("  ".join(printable(part) for part in parts if part != ""))


@group.command()
@options(folder_option, key_option, witness_option)
@click.option(
    "--from", "since", type=_FILE, help="A checkpoint that you kept: the log has to follow from it."
)
@click.option("--to", "until", type=_FILE, help="The checkpoint to check instead of the latest one.")
@socket_option
@output_option
def verify(
    folder: Path | None,
    key: "VerifierKey | None",
    witnesses: "tuple[VerifierKey, ...]",
    since: Path | None,
    until: Path | None,
    socket: Path,
    output: str,
) -> None:
    """Check that nothing of the trail was changed, swapped, dropped or rolled back.

    Asks the issuer for every event, or reads a copy of the log's folder.
    """
    from spiffekit.transparency.notes import open_checkpoint

    given = None if until is None else until.read_bytes()
    if folder is None:
        from issuer.client import connect

        with connect(socket) as api:
            key, note = _head(api, key, given)
            head = open_checkpoint(note, key, witnesses)
            earlier = None if since is None else open_checkpoint(since.read_bytes(), key)
            read = _check_events(api, head, earlier)
    else:
        key, note = _required(key), given or _checkpoint_of(folder)
        head = open_checkpoint(note, key, witnesses)
        earlier = None if since is None else open_checkpoint(since.read_bytes(), key)
        read = _check_folder(folder, head, earlier)
    if output == "json":
        print_json({"origin": head.origin, "size": head.size, "root": head.root.hex(), "read": read})
        return
    whole = (
        f"{head.size} events" if earlier is None else f"{head.size} events, {read} since the checkpoint given"
    )
    click.echo(f"Nothing was changed: {whole}, root {head.root.hex()}")


def _head(api: "IssuerApi", key: "VerifierKey | None", note: bytes | None) -> "tuple[VerifierKey, bytes]":
    """Return the log's key and checkpoint, by the issuer's word where they are not given."""
    from issuer.client import DEADLINE
    from spiffekit.transparency.notes import VerifierKey
    from spiffekit.wire.pb.issuer.v1 import audit_pb2

    answer = api.audit.GetCheckpoint(audit_pb2.GetCheckpointRequest(), timeout=DEADLINE)
    if key is None:
        key = VerifierKey.parse(answer.verifier_key)
        click.echo(
            f"warning: the key is the issuer's own word; keep it, and give it with --key: {key}", err=True
        )
    return key, note or answer.checkpoint


def _required(key: "VerifierKey | None") -> "VerifierKey":
    if key is None:
        raise click.UsageError("--key is needed where no issuer is asked")
    return key


def _checkpoint_of(folder: Path) -> bytes:
    from issuer.governance.log_files import LogFiles

    note = LogFiles(folder).checkpoint()
    if note is None:
        fail(f"{folder}: there is no log")
    return note


def _check_folder(folder: Path, head: "Checkpoint", earlier: "Checkpoint | None") -> int:
    from issuer.governance.log_files import LogFiles
    from issuer.governance.log_proofs import check_event
    from spiffekit.transparency.check import check_log

    return check_log(LogFiles(folder).read, head, since=earlier, check_entry=check_event)


def _check_events(api: "IssuerApi", head: "Checkpoint", earlier: "Checkpoint | None") -> int:
    """Check what the database has, by a tree that is made anew of every event."""
    from issuer.governance.log_proofs import EventCheck
    from spiffekit.wire.pb.issuer.v1 import audit_pb2

    check = EventCheck(head, earlier)
    for event in events(api, audit_pb2.ListEventsRequest()):
        if event.sequence > head.size:
            break
        check.add(event.json)
    check.finish()
    return head.size


@group.command()
@click.argument("sequence", type=click.IntRange(1))
@options(folder_option, key_option, file_option)
@socket_option
@output_option
def prove(
    sequence: int,
    folder: Path | None,
    key: "VerifierKey | None",
    file: Path | None,
    socket: Path,
    output: str,
) -> None:
    """Write the proof that event SEQUENCE is in the log. Anyone can check it, offline: see `check-proof`."""
    if folder is None:
        from issuer.client import DEADLINE, connect
        from spiffekit.wire.pb.issuer.v1 import audit_pb2

        with connect(socket) as api:
            request = audit_pb2.ProveEventRequest(sequence=sequence)
            proof = api.audit.ProveEvent(request, timeout=DEADLINE).proof
    else:
        from issuer.governance.log_files import LogFiles
        from issuer.governance.log_proofs import prove as prove_offline

        proof = prove_offline(LogFiles(folder), _required(key), sequence).encode()
    _give("proof", proof, file, output)


def _give(name: str, content: bytes, file: Path | None, output: str) -> None:
    """Write what has a form of its own, as it is, to a file or the terminal; or as a member of a document."""
    if file is not None:
        file.write_bytes(content)
    elif output == "json":
        print_json({name: content.decode()})
    else:
        click.echo(content.decode(), nl=False)


@group.command("check-proof")
@click.argument("file", type=_FILE)
@click.option("--key", type=VERIFIER_KEY, required=True, help="The log's public key.")
@witness_option
@output_option
def check_proof(file: Path, key: "VerifierKey", witnesses: "tuple[VerifierKey, ...]", output: str) -> None:
    """Check a proof FILE, and show the event that it proves. Asks nobody."""
    from issuer.governance.log_proofs import check_event
    from spiffekit.errors import LogFormatError
    from spiffekit.transparency.proofs import Proof

    proof = Proof.parse(file.read_bytes())
    if proof.extra is None:
        raise LogFormatError("the proof does not have the event with it")
    head = proof.verify(proof.extra, key, witnesses)
    check_event(proof.index, proof.extra)
    event = json.loads(proof.extra)
    if output == "json":
        print_json({"event": event, "origin": head.origin, "size": head.size, "root": head.root.hex()})
        return
    click.echo(f"Event {proof.index + 1} is among the {head.size} events of {printable(head.origin)}:")
    print_record({name: _text(value) for name, value in event.items()})


def _text(value: object) -> str:
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)


@group.command()
@event_filters
@click.option("--after", default=0, type=click.IntRange(0), help="Only those after this sequence number.")
@click.option("--follow", is_flag=True, help="Go on with what comes.")
@click.option(
    "--output",
    type=click.Choice(["jsonl", "ocsf", "otlp"]),
    default="jsonl",
    show_default=True,
    help="The events themselves, OCSF 1.8.0, or OpenTelemetry logs.",
)
@socket_option
def export(after: int, follow: bool, output: str, socket: Path, **given: Any) -> None:
    """Print events for other programs, one JSON document a line, the oldest first."""
    from issuer.client import connect
    from issuer.governance.audit_export import to_ocsf, to_otlp

    forms: dict[str, Callable[[bytes], str]] = {
        "jsonl": bytes.decode,
        "ocsf": lambda leaf: json.dumps(to_ocsf(leaf), ensure_ascii=False),
        "otlp": lambda leaf: json.dumps(to_otlp([leaf]), ensure_ascii=False),
    }
    with connect(socket) as api:
        for event in events(api, event_request(given, after=after), follow=follow):
            click.echo(forms[output](event.json))


@group.command()
@file_option
@socket_option
@output_option
def checkpoint(file: Path | None, socket: Path, output: str) -> None:
    """Print the signed head of the log. Keep it on another machine: see `verify --from`."""
    _give("checkpoint", _ask_head(socket).checkpoint, file, output)


@group.command()
@file_option
@socket_option
@output_option
def key(file: Path | None, socket: Path, output: str) -> None:
    """Print the public key of the log. Keep it on another machine."""
    said = _ask_head(socket).verifier_key
    _give("key", said.encode() if output == "json" else f"{said}\n".encode(), file, output)


def _ask_head(socket: Path) -> "audit_pb2.GetCheckpointResponse":
    from issuer.client import DEADLINE, connect
    from spiffekit.wire.pb.issuer.v1 import audit_pb2

    with connect(socket) as api:
        return api.audit.GetCheckpoint(audit_pb2.GetCheckpointRequest(), timeout=DEADLINE)

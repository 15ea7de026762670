# SPDX-License-Identifier: Apache-2.0
"""Why a process has the identities it has, or has none."""

from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final

import click

from spiffekit.daemon.terminal import instant, output_option, print_json, require_listener, socket_option

DEADLINE: Final = 30.0  # seconds
DEFAULT_ADMIN_SOCKET: Final = Path("/run/attestor/private/admin.sock")


@click.command()
@click.argument("pid", type=click.IntRange(min=1), required=False)
@click.option("--call", "call", help="Instead of a process: the number of a call that was refused.")
@socket_option(DEFAULT_ADMIN_SOCKET, "The attestor's admin socket (attestor.admin_socket).")
@output_option
def explain(pid: int | None, call: str | None, socket: Path, output: str) -> None:
    """Attest process PID now: what holds for it, which entries match, and what the nearest ones lack."""
    import grpc

    from spiffekit.wire.pb.attestor.v1 import admin_pb2, admin_pb2_grpc

    if (pid is None) == (call is None):
        raise click.UsageError("give a PID or --call, and not both")
    require_listener(socket, "attestor", "--socketPath, and attestor.admin_socket")
    with grpc.insecure_channel(f"unix:{socket.absolute()}") as channel:
        stub = admin_pb2_grpc.AdminStub(channel)
        answer: Any
        if pid is None:
            answer = stub.LookUp(admin_pb2.LookUpRequest(correlation_id=call), timeout=DEADLINE)
            lines = _lines_of_call(answer)
        else:
            answer = stub.Explain(admin_pb2.ExplainRequest(pid=pid), timeout=DEADLINE)
            lines = _lines(pid, answer)
    if output == "json":
        print_json(answer)
        return
    for line in lines:
        click.echo(line)


def _lines(pid: int, answer: Any) -> list[str]:
    found = [selector for finding in answer.findings for selector in finding.selectors]
    lines = [f"process {pid} on node {answer.node_id}"]
    lines += [
        f"  below process {above.pid} of uid {above.uid}: {above.executable or '(no path)'}"
        for above in answer.ancestors
    ]
    for finding in answer.findings:
        lines.append(f"  {finding.type}, at {_clock(finding.collected_at)} in {finding.took / 1000:.1f} ms")
        lines += [f"    {selector}" for selector in finding.selectors]
        lines += [f"    failed: {finding.error}"] if finding.error else []
    lines.append(f"matches {len(answer.matches)} of {answer.entries} entries")
    for match in answer.matches:
        ready = f"SVID until {instant(match.svid_expires_at)}" if match.svid_expires_at else "no SVID yet"
        ready = "an SVID of its own when it asks" if match.per_process else ready
        lines.append(f"  {match.spiffe_id} (entry {match.entry_id}, {ready})")
    lines += _misses(answer.misses, found)
    for change in answer.posture_changes:
        lines.append(f"lost at {_clock(change.at)}: {', '.join(change.entries)}")
        lines += [f"    no longer: {selector}" for selector in change.gone]
        lines += [f"    since then: {selector}" for selector in change.new]
    return lines


def _misses(misses: Any, found: list[str]) -> list[str]:
    lines = ["nearest entries that do not match"] if misses else []
    for miss in misses:
        lines.append(f"  {miss.spiffe_id} (entry {miss.entry_id}) misses")
        lines += [f"    {selector}{_instead(selector, found)}" for selector in miss.missing]
        lines += [f"    {miss.template_error}"] if miss.template_error else []
    return lines


def _lines_of_call(answer: Any) -> list[str]:
    found = list(answer.selectors)
    lines = [
        f"process {answer.pid} of uid {answer.uid}, at {_clock(answer.at)}: {answer.code}: {answer.reason}"
    ]
    lines += [f"  {selector}" for selector in found]
    lines += [f"  {kind}: failed" for kind in answer.failed]
    return lines + _misses(answer.misses, found)


def _clock(microseconds: int) -> str:
    return f"{datetime.fromtimestamp(microseconds / 1e6, UTC):%H:%M:%S.%f}"[:-3]


def _instead(missing: str, found: list[str]) -> str:
    """Say what the process has of the same kind, e.g. another uid."""
    kind = missing.rpartition(":")[0] + ":"
    has = [selector.removeprefix(kind) for selector in found if selector.startswith(kind)]
    return f" (it has {', '.join(has[:3])})" if has else " (it has none of that kind)"

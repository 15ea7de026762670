# SPDX-License-Identifier: Apache-2.0
"""Why a process has the identities it has, or has none."""

from pathlib import Path
from typing import Any, Final

import click

from spiffekit.daemon.terminal import fail, instant, output_option, print_json

DEFAULT_ADMIN_SOCKET: Final = Path("/run/attestor/private/admin.sock")


@click.command()
@click.argument("pid", type=click.IntRange(min=1))
@click.option(
    "--socketPath",
    "socket",
    type=click.Path(path_type=Path),
    default=DEFAULT_ADMIN_SOCKET,
    show_default=True,
    help="The attestor's admin socket (attestor.admin_socket).",
)
@output_option
def explain(pid: int, socket: Path, output: str) -> None:
    """Attest process PID now: what holds for it, which entries match, and what the nearest ones lack."""
    import grpc

    from spiffekit.wire.pb.attestor.v1 import admin_pb2, admin_pb2_grpc

    if not socket.exists():
        fail(f"no attestor listens at {socket} (see --socketPath, and attestor.admin_socket)")
    with grpc.insecure_channel(f"unix:{socket.absolute()}") as channel:
        answer = admin_pb2_grpc.AdminStub(channel).Explain(admin_pb2.ExplainRequest(pid=pid), timeout=30)
    if output == "json":
        print_json(answer)
        return
    for line in _lines(pid, answer):
        click.echo(line)


def _lines(pid: int, answer: Any) -> list[str]:
    found = [selector for finding in answer.findings for selector in finding.selectors]
    lines = [f"process {pid}"]
    lines += [f"  {selector}" for selector in found]
    lines += [f"  {f.type}: failed: {f.error}" for f in answer.findings if f.error]
    lines.append(f"matches {len(answer.matches)} of {answer.entries} entries")
    for match in answer.matches:
        ready = f"SVID until {instant(match.svid_expires_at)}" if match.svid_expires_at else "no SVID yet"
        lines.append(f"  {match.spiffe_id} (entry {match.entry_id}, {ready})")
    if answer.misses:
        lines.append("nearest entries that do not match")
    for miss in answer.misses:
        lines.append(f"  {miss.spiffe_id} (entry {miss.entry_id}) misses")
        lines += [f"    {selector}{_instead(selector, found)}" for selector in miss.missing]
    return lines


def _instead(missing: str, found: list[str]) -> str:
    """Say what the process has of the same kind, e.g. another uid."""
    kind = missing.rpartition(":")[0] + ":"
    has = [selector.removeprefix(kind) for selector in found if selector.startswith(kind)]
    return f" (it has {', '.join(has[:3])})" if has else " (it has none of that kind)"

# SPDX-License-Identifier: Apache-2.0
"""Policies: what agents may have, in Cedar; try a change before it counts."""

import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, TypeVar

import click

from issuer.cli.options import SECONDS, SELECTOR, SPIFFE_ID, socket_option
from spiffekit.daemon.terminal import counted, instant, output_option, print_json, print_record, print_table
from spiffekit.id import SpiffeId

if TYPE_CHECKING:
    from spiffekit.wire.pb.issuer.v1 import policy_pb2

F = TypeVar("F", bound=Callable[..., Any])
LEVELS: Final = ("unknown", "join_token", "platform", "tpm")  # by number
SIMULATION: Final = 600.0  # seconds; a hundred thousand events take a while
name_option = click.option("--name", required=True, help="The policy.")
reason_option = click.option("--reason", required=True, help="Why; it is kept in the audit trail.")
text_type = click.Path(path_type=Path)


def change_options(function: F) -> F:
    """Add the options that say how policies might be."""
    for option in (
        click.option("--without", multiple=True, help="A policy to leave out. Repeatable."),
        click.option(
            "--with",
            "changed",
            multiple=True,
            type=(str, text_type),
            metavar="NAME FILE",
            help="A policy as it might be. Repeatable.",
        ),
    ):
        function = option(function)
    return function


@click.group("policy")
def group() -> None:
    """Policies: what agents may have, and under which circumstances."""


def _tell(policy: "policy_pb2.StoredPolicy", output: str, *, text: bool = False) -> None:
    if output == "json":
        print_json(policy)
        return
    print_record(
        {
            "Name": policy.name,
            "Version": f"{policy.version} (ended)" if policy.deleted else policy.version,
            "By": policy.author,
            "At": instant(policy.created_at),
            "Reason": policy.reason,
        }
    )
    if text and policy.text:
        click.echo(f"\n{policy.text.rstrip()}")


def _changes(
    changed: tuple[tuple[str, Path], ...], without: tuple[str, ...]
) -> "list[policy_pb2.PolicyChange]":
    from spiffekit.wire.pb.issuer.v1 import policy_pb2

    changes = [policy_pb2.PolicyChange(name=name, text=_text(path)) for name, path in changed]
    return changes + [policy_pb2.PolicyChange(name=name) for name in without]


def _text(path: Path) -> str:
    try:
        text = path.read_text("utf-8")
    except OSError as error:
        raise click.UsageError(f"{path}: {error.strerror}") from None
    except UnicodeDecodeError:
        raise click.UsageError(f"{path} is not UTF-8") from None
    if not text.strip():
        raise click.UsageError(f"{path} is empty")
    return text


@group.command()
@name_option
@click.option("--file", "path", required=True, type=text_type, help="Cedar statements.")
@click.option("--replaces", type=click.IntRange(min=1), help="Refuse unless this version holds now.")
@reason_option
@socket_option
@output_option
def put(name: str, path: Path, replaces: int | None, reason: str, socket: Path, output: str) -> None:
    """Store the next version of a policy; it holds at once."""
    from issuer.client import DEADLINE, connect
    from spiffekit.wire.pb.issuer.v1 import policy_pb2

    request = policy_pb2.PutPolicyRequest(name=name, text=_text(path), reason=reason, replaces=replaces or 0)
    with connect(socket) as api:
        _tell(api.policies.Put(request, timeout=DEADLINE), output)


@group.command("list")
@socket_option
@output_option
def list_(socket: Path, output: str) -> None:
    """List the policies that hold."""
    from issuer.client import DEADLINE, connect
    from spiffekit.wire.pb.issuer.v1 import policy_pb2

    with connect(socket) as api:
        answer = api.policies.List(policy_pb2.ListPoliciesRequest(), timeout=DEADLINE)
    if output == "json":
        print_json(answer)
        return
    if answer.enforced:
        counts = "agents are denied what none permits"
    else:
        counts = "none was ever enforced, so agents are denied nothing"
    click.echo(f"Found {counted(len(answer.policies), 'policy', 'policies')}; {counts}")
    if answer.policies:
        print_table(
            ["Name", "Version", "By", "At", "Reason"],
            [[p.name, p.version, p.author, instant(p.created_at), p.reason] for p in answer.policies],
        )


@group.command()
@name_option
@click.option("--version", type=click.IntRange(min=1), help="An earlier version.")
@socket_option
@output_option
def show(name: str, version: int | None, socket: Path, output: str) -> None:
    """Show a policy."""
    from issuer.client import DEADLINE, connect
    from spiffekit.wire.pb.issuer.v1 import policy_pb2

    request = policy_pb2.GetPolicyRequest(name=name, version=version or 0)
    with connect(socket) as api:
        _tell(api.policies.Get(request, timeout=DEADLINE), output, text=True)


@group.command()
@name_option
@reason_option
@socket_option
@output_option
def delete(name: str, reason: str, socket: Path, output: str) -> None:
    """End a policy. What nothing else permits is denied from now on."""
    from issuer.client import DEADLINE, connect
    from spiffekit.wire.pb.issuer.v1 import policy_pb2

    request = policy_pb2.DeletePolicyRequest(name=name, reason=reason)
    with connect(socket) as api:
        _tell(api.policies.Delete(request, timeout=DEADLINE), output)


@group.command()
@click.option("--spiffeID", "spiffe_id", type=SPIFFE_ID, required=True, help="The agent.")
@click.option("--audience", help="Of a JWT-SVID; without it, --tool and --service, it is an X.509-SVID.")
@click.option("--tool", help="That is called.")
@click.option("--service", help="That an HTTP request goes to.")
@click.option("--method", default="GET", show_default=True, help="Of that request.")
@click.option("--path", default="/", show_default=True, help="Of that request.")
@click.option("--node", type=SPIFFE_ID, help="The node; without it an operator mints by hand.")
@click.option("--level", type=click.Choice(LEVELS), default="unknown", help="What the node's proof is worth.")
@click.option("--selector", "selectors", type=SELECTOR, multiple=True, help="Of the process. Repeatable.")
@click.option("--imageDigest", "image_digest", default="", help="Of the container's image: sha256:…")
@change_options
@socket_option
@output_option
def test(
    spiffe_id: SpiffeId,
    audience: str | None,
    tool: str | None,
    service: str | None,
    socket: Path,
    output: str,
    **given: Any,
) -> None:
    """Say what would be decided now; exit status 1 if it is denied."""
    from issuer.client import DEADLINE, connect
    from spiffekit.wire.pb.issuer.v1 import policy_pb2

    if sum(name is not None for name in (audience, tool, service)) > 1:
        raise click.UsageError("--audience, --tool and --service exclude each other")
    request = policy_pb2.TestPoliciesRequest(
        spiffe_id=str(spiffe_id),
        audience=audience,
        tool=tool,
        service=service,
        method=given["method"],
        path=given["path"],
        node=str(given["node"] or ""),
        level=LEVELS.index(given["level"]),
        selectors=map(str, given["selectors"]),
        has_evidence=bool(given["selectors"]),
        image_digest=given["image_digest"],
        changes=_changes(given["changed"], given["without"]),
    )
    with connect(socket) as api:
        answer = api.policies.Test(request, timeout=DEADLINE)
    if output == "json":
        print_json(answer)
    else:
        said = {"Decision": "allowed" if answer.allowed else "denied", "By": ", ".join(answer.ids)}
        said |= {"Reason": answer.reason} if answer.reason else {}
        if answer.HasField("shadow_allowed"):
            by = f" by {', '.join(answer.shadow_ids)}" if answer.shadow_ids else ""
            said["With shadow"] = ("allowed" if answer.shadow_allowed else "denied") + by
        print_record(said)
    if not answer.allowed:
        raise SystemExit(1)


@group.command()
@click.option("--since", type=SECONDS, required=True, help="How far back, e.g. 7d.")
@click.option("--shadow", "with_shadow", is_flag=True, help="Count the statements in shadow mode.")
@change_options
@socket_option
@output_option
def simulate(
    since: int,
    with_shadow: bool,
    changed: tuple[tuple[str, Path], ...],
    without: tuple[str, ...],
    socket: Path,
    output: str,
) -> None:
    """Make the decisions of the audit trail again, and print those that would come out otherwise."""
    from issuer.client import connect
    from spiffekit.wire.pb.issuer.v1 import policy_pb2

    request = policy_pb2.SimulatePoliciesRequest(
        since=max(int(time.time()) - since, 0), with_shadow=with_shadow, changes=_changes(changed, without)
    )
    with connect(socket) as api:
        answer = api.policies.Simulate(request, timeout=SIMULATION)
    if output == "json":
        print_json(answer)
        return
    click.echo(f"{answer.flipped} of {answer.decided} decisions would come out otherwise")
    if answer.undecided:
        click.echo(f"{answer.undecided} depend on selectors, which are not recorded")
    if answer.truncated:
        click.echo("There are more: those after the last one looked at were left out")
    if answer.flips:
        print_table(
            ["At", "SPIFFE ID", "For", "Would be", "By"],
            [
                [
                    instant(flip.at),
                    flip.spiffe_id,
                    f"{flip.resource_kind} {flip.resource}",
                    "allowed" if flip.would_be_allowed else "denied",
                    ", ".join(flip.ids) or flip.reason,
                ]
                for flip in answer.flips
            ],
        )


@group.command()
@socket_option
@output_option
def bundle(socket: Path, output: str) -> None:
    """Print policies and active agents, signed, for those who decide elsewhere; it holds for an hour."""
    from issuer.client import DEADLINE, connect
    from spiffekit.wire.pb.issuer.v1 import policy_pb2

    with connect(socket) as api:
        answer = api.policies.GetBundle(policy_pb2.GetPolicyBundleRequest(), timeout=DEADLINE)
    if output == "json":
        print_json(answer)
    else:
        click.echo(answer.token)

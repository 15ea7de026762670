# SPDX-License-Identifier: Apache-2.0
"""What our commands have in common: how they print, and how they fail.

Exit status 0: done. 1: refused, not found, or the daemon cannot be reached. 2: the command line or the
configuration is wrong. Nothing is coloured unless it goes to a terminal.
"""

import json
import socket
import sys
from collections.abc import Callable, Coroutine, Mapping, Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, NoReturn, TypeVar

import click

F = TypeVar("F", bound=Callable[..., Any])
C = TypeVar("C")


class Commands(click.Group):
    """A group of commands that turns our errors into one line on stderr and an exit status.

    Args:
        expected: Further classes of errors whose message is for the operator.
    """

    def __init__(self, *args: Any, expected: tuple[type[Exception], ...] = (), **options: Any) -> None:
        super().__init__(*args, **options)
        self._expected = expected
        self.add_command(_completion())

    def invoke(self, ctx: click.Context) -> object:
        """Run the command; see the module for the exit status."""
        try:
            return super().invoke(ctx)
        except BrokenPipeError:  # whoever read what we print has enough; click ends quietly
            raise
        except Exception as error:
            lines = [_explain(leaf, self._expected) for leaf in _leaves(error)]
            if None in lines:
                raise
            explained = [line for line in lines if line is not None]
            fail("\n".join(line for line, _ in explained), max(status for _, status in explained))


def _completion() -> click.Command:
    """Make the command for one program: click remembers in it how that program asks for help."""

    @click.command()
    @click.argument("shell", type=click.Choice(["bash", "zsh", "fish"]))
    @click.pass_context
    def completion(ctx: click.Context, shell: str) -> None:
        """Print the completion script of a SHELL, e.g. for `eval "$(issuer completion bash)"`."""
        from click.shell_completion import get_completion_class

        root = ctx.find_root()
        name = root.command.name or ""
        kind = get_completion_class(shell)
        assert kind is not None  # noqa: S101 - the choice above
        click.echo(kind(root.command, {}, name, f"_{name}_COMPLETE".upper()).source())

    return completion


def _leaves(error: Exception) -> list[Exception]:
    """Return the errors of a group of services that ended together, or the one error itself."""
    if isinstance(error, ExceptionGroup):
        return [leaf for inner in error.exceptions for leaf in _leaves(inner)]
    return [error]


def _explain(error: Exception, expected: tuple[type[Exception], ...]) -> tuple[str, int] | None:
    # Imported here: most commands fail on nothing, and click alone starts three times as fast.
    import grpc

    from spiffekit.daemon.config import ConfigError
    from spiffekit.errors import SpiffeError

    match error:
        case ConfigError():
            return "\n".join(error.errors), 2
        case grpc.RpcError():
            return _explain_rpc(error), 1
        case SpiffeError() | OSError():
            return str(error), 1
        case _ if isinstance(error, expected):
            return str(error), 1
        case _:
            return None


def _explain_rpc(error: Any) -> str:
    import grpc

    code: grpc.StatusCode = error.code()
    details = error.details() or ""
    if code is grpc.StatusCode.UNAVAILABLE and "connect" in details.lower():
        return "cannot connect: is the daemon running, and is the socket the right one?"
    return f"{details} ({code.name})"


def fail(message: str, status: int = 1) -> NoReturn:
    """Print `message` to stderr and end the program with `status`."""
    for line in message.splitlines() or [""]:
        click.echo(f"error: {line}", err=True)
    sys.exit(status)


def require_listener(path: Path, daemon: str, see: str = "--socketPath") -> None:
    """Check that somebody listens at a Unix socket, before gRPC tries for long and says much.

    Args:
        path: The socket.
        daemon: Who should listen there, e.g. "issuer".
        see: What decides on the path.

    Raises:
        PermissionError: We may not connect to it.
        ConnectionRefusedError: There is no such socket, or nobody listens any longer.
    """
    with socket.socket(socket.AF_UNIX) as probe:
        probe.setblocking(False)
        try:
            probe.connect(str(path))
        except BlockingIOError:
            pass  # too many wait to be accepted: somebody listens
        except PermissionError as error:
            raise PermissionError(f"not permitted to connect to {path} (see {see})") from error
        except OSError as error:
            raise ConnectionRefusedError(f"no {daemon} listens at {path} (see {see})") from error


def daemon_commands(
    name: str, kind: Callable[[], type[C]], start: Callable[[C], Coroutine[Any, Any, None]]
) -> tuple[click.Command, click.Command]:
    """Return the commands ``run`` and ``validate`` of a daemon, whose file is ``/etc/NAME/NAME.toml``.

    Args:
        name: The daemon's, e.g. "issuer".
        kind: Returns what the file is read as. It and `start` import what they need when they are called.
        start: Runs the daemon until a signal comes.
    """
    config_option = click.option(
        "--config",
        type=click.Path(path_type=Path),
        default=Path(f"/etc/{name}/{name}.toml"),
        show_default=True,
        help="The configuration file, TOML.",
    )
    expand_env_option = click.option(
        "--expandEnv", "expand_env", is_flag=True, help="Replace $VARIABLE in the configuration's strings."
    )

    def read(config: Path, *, expand_env: bool) -> C:
        from spiffekit.daemon.config import load

        return load(config, kind(), expand_env=expand_env)

    @click.command(help=f"Run the {name} until it gets SIGTERM or SIGINT.")
    @config_option
    @expand_env_option
    def run(config: Path, expand_env: bool) -> None:
        import asyncio

        asyncio.run(start(read(config, expand_env=expand_env)))

    @click.command()
    @config_option
    @expand_env_option
    def validate(config: Path, expand_env: bool) -> None:
        """Check a configuration file; every error is reported at once."""
        read(config, expand_env=expand_env)
        click.echo(f"{config}: ok")

    return run, validate


def socket_option(default: Path, what: str) -> Callable[[F], F]:
    """Return an option ``--socketPath`` for `what`, a sentence."""
    return click.option(
        "--socketPath",
        "socket",
        type=click.Path(path_type=Path),
        default=default,
        show_default=True,
        help=what,
    )


def output_option(function: F) -> F:
    """Add ``--output pretty|json``."""
    return click.option(
        "--output",
        type=click.Choice(["pretty", "json"]),
        default="pretty",
        show_default=True,
        help="Print for people, or one JSON document for programs.",
    )(function)


def print_json(document: object) -> None:
    """Print one JSON document; a protobuf message keeps its field names and its empty fields."""
    from google.protobuf.json_format import MessageToDict
    from google.protobuf.message import Message

    if isinstance(document, Message):
        document = MessageToDict(
            document, preserving_proto_field_name=True, always_print_fields_with_no_presence=True
        )
    click.echo(json.dumps(document, indent=2, ensure_ascii=False))


def print_table(columns: Sequence[str], rows: Sequence[Sequence[object]]) -> None:
    """Print rows under headings; long cells fold, so that the table fits the terminal."""
    from rich.box import SIMPLE_HEAD
    from rich.console import Console
    from rich.table import Table

    table = Table(box=SIMPLE_HEAD, pad_edge=False)
    for column in columns:
        table.add_column(column, overflow="fold")
    for row in rows:
        table.add_row(*("" if cell is None else printable(cell) for cell in row))
    Console(markup=False, highlight=False, emoji=False).print(table)


def print_record(fields: Mapping[str, object]) -> None:
    """Print one thing, a line for each field that has a value; a list gets a line for each item."""
    width = max(map(len, fields), default=0)
    for name, value in fields.items():
        for item in value if isinstance(value, list | tuple) else [value]:
            if item not in ("", None):
                click.echo(f"{name:<{width}} : {printable(item)}")
    click.echo()


def printable(value: object) -> str:
    """Return a value as text in which nothing moves the cursor or forges a line."""
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in str(value))


def counted(number: int, one: str, many: str = "") -> str:
    """Return how many there are, in words: `many` is `one` with an s if left out."""
    return f"{number} {one if number == 1 else many or one + 's'}"


def instant(epoch_seconds: int) -> str:
    """Return a point in time for people, e.g. "2026-01-31 12:00:00 UTC"; "" for 0."""
    if not epoch_seconds:
        return ""
    try:
        return datetime.fromtimestamp(epoch_seconds, UTC).strftime("%Y-%m-%d %H:%M:%S UTC")
    except (ValueError, OverflowError, OSError):  # beyond the calendar
        return f"{epoch_seconds} s after 1970"


def remaining(epoch_seconds: int, now: datetime) -> str:
    """Return how long until then, e.g. "in 2h 5m", or "expired"."""
    left = datetime.fromtimestamp(epoch_seconds, UTC) - now
    if left <= timedelta(0):
        return "expired"
    minutes, seconds = divmod(int(left.total_seconds()), 60)
    hours, minutes = divmod(minutes, 60)
    days, hours = divmod(hours, 24)
    parts = [f"{n}{unit}" for n, unit in ((days, "d"), (hours, "h"), (minutes, "m"), (seconds, "s")) if n]
    return "in " + (" ".join(parts[:2]) or "0s")

# SPDX-License-Identifier: Apache-2.0
"""Commands print for people and programs, and fail in one line with the right status."""

import json
import socket
from datetime import UTC, datetime

import click
import grpc
import msgspec
import pytest
from click.testing import CliRunner

from spiffekit.daemon.config import ConfigError
from spiffekit.daemon.terminal import (
    Commands,
    counted,
    daemon_commands,
    fail,
    instant,
    output_option,
    print_json,
    print_record,
    print_table,
    remaining,
    require_listener,
    socket_option,
)
from spiffekit.errors import BundleError
from spiffekit.wire.pb.spire.api import types_pb2


class OursError(Exception):
    pass


class Refused(grpc.RpcError):
    def __init__(self, code, details):
        self.code = lambda: code
        self.details = lambda: details


def run(error):
    @click.group("tool", cls=Commands, expected=(OursError,))
    def main():
        pass

    @main.command()
    def verb():
        raise error

    return CliRunner().invoke(main, ["verb"])


CANNOT_CONNECT = "cannot connect: is the daemon running, and is the socket the right one?"
UNAVAILABLE = grpc.StatusCode.UNAVAILABLE


@pytest.mark.parametrize(
    ("error", "status", "lines"),
    [
        (
            ConfigError("a.toml: x: unknown", "a.toml: y: is required"),
            2,
            ["a.toml: x: unknown", "a.toml: y: is required"],
        ),
        (BundleError("bundle is malformed"), 1, ["bundle is malformed"]),
        (
            FileNotFoundError(2, "No such file or directory", "/x"),
            1,
            ["[Errno 2] No such file or directory: '/x'"],
        ),
        (OursError("node is banned"), 1, ["node is banned"]),
        (Refused(grpc.StatusCode.NOT_FOUND, "no such entry"), 1, ["no such entry (NOT_FOUND)"]),
        (Refused(UNAVAILABLE, "failed to connect to all addresses"), 1, [CANNOT_CONNECT]),
        (Refused(UNAVAILABLE, "not ready"), 1, ["not ready (UNAVAILABLE)"]),
        (Refused(UNAVAILABLE, None), 1, [" (UNAVAILABLE)"]),
        (
            ExceptionGroup("g", [OursError("one"), ExceptionGroup("h", [ConfigError("two")])]),
            2,
            ["one", "two"],
        ),
    ],
)
def test_an_error_of_ours_is_a_line_and_a_status(error, status, lines):
    result = run(error)
    assert result.exit_code == status
    assert result.stderr.splitlines() == [f"error: {line}" for line in lines]
    assert result.stdout == ""


@pytest.mark.parametrize("error", [KeyError("bug"), ExceptionGroup("g", [OursError("one"), KeyError("bug")])])
def test_a_bug_keeps_its_traceback(error):
    assert run(error).exception is error


def test_a_reader_that_has_enough_is_no_error_of_ours():
    """As in ``issuer entry show | head``."""
    result = run(BrokenPipeError(32, "Broken pipe"))
    assert (result.exit_code, result.stderr) == (1, "")


def test_failing_without_words_is_still_a_line():
    @click.command()
    def verb():
        fail("", 3)

    result = CliRunner().invoke(verb)
    assert (result.exit_code, result.stderr) == (3, "error: \n")


def test_what_the_command_line_lacks_is_status_2():
    @click.group(cls=Commands)
    def main():
        pass

    assert CliRunner().invoke(main, ["nothing"]).exit_code == 2


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_every_tool_prints_its_completion(shell):
    @click.group("tool", cls=Commands)
    def main():
        pass

    result = CliRunner().invoke(main, ["completion", shell])
    assert result.exit_code == 0
    assert "_TOOL_COMPLETE" in result.stdout


def test_output_is_pretty_unless_asked_otherwise():
    @click.command()
    @output_option
    def verb(output):
        click.echo(output)

    outputs = [CliRunner().invoke(verb, arguments).output for arguments in ([], ["--output", "json"])]
    assert outputs == ["pretty\n", "json\n"]
    assert CliRunner().invoke(verb, ["--output", "yaml"]).exit_code == 2


def test_a_message_keeps_its_names_and_empty_fields_as_json(capsys):
    print_json(types_pb2.SPIFFEID(trust_domain="example.org"))
    assert json.loads(capsys.readouterr().out) == {"trust_domain": "example.org", "path": ""}


def test_other_documents_are_printed_as_they_are(capsys):
    print_json({"name": "é"})
    assert capsys.readouterr().out == '{\n  "name": "é"\n}\n'


def test_a_table_fits_the_terminal_and_cuts_nothing_off(capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "60")
    long = "spiffe://example.org/" + "x" * 80
    print_table(["ID", "Count"], [[long, 3], ["[bold]b[/bold] :smile:", None]])
    lines = capsys.readouterr().out.splitlines()
    assert all(len(line) <= 60 for line in lines)
    assert lines[1].split() == ["ID", "Count"]
    cells = "".join(line.split()[0] for line in lines[3:] if line.strip())
    assert long in cells.replace(" ", "")
    assert "[bold]b[/bold] :smile:" in "\n".join(lines)


def test_a_record_has_a_line_for_each_value_and_none_for_what_is_missing(capsys):
    print_record({"ID": "x", "Selectors": ["a:1", "b:2"], "Hint": "", "Expires": None, "Count": 0})
    assert capsys.readouterr().out == "ID        : x\nSelectors : a:1\nSelectors : b:2\nCount     : 0\n\n"


@pytest.mark.parametrize("hostile", ["a\x1b[2Jb", "a\nID : forged", "a\rb", "a\u202eb", "a\x9bb"])
def test_no_value_moves_the_cursor_or_forges_a_line(capsys, hostile):
    print_record({"Selector": hostile})
    print_table(["Selector"], [[hostile]])
    out = capsys.readouterr().out
    assert hostile.encode("unicode_escape").decode() in out
    assert all(character.isprintable() or character == "\n" for character in out)
    assert "\nID : forged" not in out


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0, ""), (1769860800, "2026-01-31 12:00:00 UTC"), (2**62, "4611686018427387904 s after 1970")],
)
def test_an_instant_is_for_people(seconds, text):
    assert instant(seconds) == text


@pytest.mark.parametrize(
    ("left", "text"),
    [
        (-1, "expired"),
        (0, "expired"),
        (5, "in 5s"),
        (65, "in 1m 5s"),
        (7500, "in 2h 5m"),
        (90061, "in 1d 1h"),
    ],
)
def test_what_is_left_is_for_people(left, text):
    now = datetime(2026, 1, 31, 12, tzinfo=UTC)
    assert remaining(int(now.timestamp()) + left, now) == text


def test_less_than_a_second_is_no_time_and_not_over():
    now = datetime(2026, 1, 31, 12, 0, 0, 500_000, tzinfo=UTC)
    assert remaining(int(now.timestamp()) + 1, now) == "in 0s"


def test_a_socket_where_somebody_listens_is_as_required(tmp_path):
    path = tmp_path / "x.sock"
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(str(path))
        with pytest.raises(ConnectionRefusedError) as caught:
            require_listener(path, "issuer")
        assert str(caught.value) == f"no issuer listens at {path} (see --socketPath)"
        server.listen(0)
        require_listener(path, "issuer")
        require_listener(path, "issuer")  # nobody accepts, and a command does not wait for that


@pytest.mark.parametrize("name", ["none", "file", "x" * 200])
def test_where_nobody_can_listen_nobody_does(name, tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(ConnectionRefusedError, match=r"no issuer listens at .* [(]see --somewhere[)]"):
        require_listener(tmp_path / name, "issuer", "--somewhere")


def test_a_socket_that_is_not_ours_to_use_is_told_apart(monkeypatch, tmp_path):
    def denied(*_):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(socket.socket, "connect", denied)
    with pytest.raises(PermissionError) as caught:
        require_listener(tmp_path, "issuer")
    assert str(caught.value) == f"not permitted to connect to {tmp_path} (see --socketPath)"


class Table(msgspec.Struct, forbid_unknown_fields=True):
    name: str


class File(msgspec.Struct, forbid_unknown_fields=True):
    baker: Table


def test_a_daemon_is_run_with_its_configuration_or_its_configuration_is_checked(tmp_path, monkeypatch):
    started, config = [], tmp_path / "baker.toml"

    async def start(file):
        started.append(file)

    run, validate = daemon_commands("baker", lambda: File, start)
    config.write_text('[baker]\nname = "$WHO"\n')
    monkeypatch.setenv("WHO", "Ada")
    invoke = CliRunner().invoke
    assert invoke(validate, ["--config", str(config)]).output == f"{config}: ok\n"
    assert started == []
    assert invoke(run, ["--config", str(config), "--expandEnv"]).exit_code == 0
    assert started == [File(Table("Ada"))]
    assert "Run the baker until it gets SIGTERM or SIGINT" in invoke(run, ["--help"]).output
    assert "/etc/baker/baker.toml" in invoke(validate, ["--help"]).output
    config.write_text("[baker]\nnames = 1\n")
    assert isinstance(invoke(validate, ["--config", str(config)]).exception, ConfigError)


def test_a_socket_has_a_default_that_help_tells(tmp_path):
    @click.command()
    @socket_option(tmp_path / "s", "Where the baker listens.")
    def ask(socket):
        click.echo(socket)

    assert CliRunner().invoke(ask).output == f"{tmp_path / 's'}\n"
    assert CliRunner().invoke(ask, ["--socketPath", "/other"]).output == "/other\n"
    assert "Where the baker listens." in CliRunner().invoke(ask, ["--help"]).output


def test_what_is_counted_is_one_or_many():
    assert [counted(number, "node") for number in (0, 1, 2)] == ["0 nodes", "1 node", "2 nodes"]
    assert [counted(number, "entry", "entries") for number in (1, 2)] == ["1 entry", "2 entries"]

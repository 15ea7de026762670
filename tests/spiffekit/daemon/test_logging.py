# SPDX-License-Identifier: Apache-2.0
"""Logs are one line each, in text or JSON, and nothing that is logged can forge another line."""

import ast
import io
import json
import logging
import re
from pathlib import Path

import pytest

from spiffekit.daemon.logging import configure

ROOT = Path(__file__).parent.parent.parent.parent
TIME = r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{6}Z"


@pytest.fixture
def log():
    """Returns what was written after `configure`."""
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    stream = io.StringIO()

    def start(form, level="debug"):
        configure(level, form, stream)
        return stream

    yield start
    root.handlers[:], root.level = handlers, level
    root.setLevel(level)


def test_json_is_one_object_a_line_with_the_fields_beside_the_event(log):
    stream = log("json")
    logging.getLogger("some.module").warning("entry created", extra={"entry": "abc", "count": 3})
    (line,) = stream.getvalue().splitlines()
    document = json.loads(line)
    assert re.fullmatch(TIME, document.pop("time"))
    assert document == {
        "level": "warning", "logger": "some.module", "event": "entry created", "entry": "abc", "count": 3,
    }  # fmt: skip


def test_text_is_time_level_event_and_fields(log):
    stream = log("text")
    logging.getLogger().info("attestor is ready", extra={"socket": "/run/a b.sock", "entries": 2})
    expected = TIME + r' info    attestor is ready socket="/run/a b\.sock" entries=2\n'
    assert re.fullmatch(expected, stream.getvalue())


@pytest.mark.parametrize("form", ["text", "json"])
@pytest.mark.parametrize(
    "value", ["a\nb", "a\r\n2026 error forged", 'a" level="error', "\x1b[31m", "\u2028x"]
)
def test_a_value_cannot_forge_a_line_or_a_field(log, form, value):
    stream = log(form)
    logging.getLogger().info("event", extra={"value": value})
    text = stream.getvalue()
    assert len(text.splitlines()) == 1
    assert "\x1b" not in text
    if form == "json":
        assert json.loads(text)["value"] == value
    else:
        assert text.endswith(f" value={json.dumps(value)}\n")


@pytest.mark.parametrize("form", ["text", "json"])
def test_an_error_is_logged_with_its_traceback(log, form):
    stream = log(form)
    try:
        raise ValueError("what went wrong")
    except ValueError:
        logging.getLogger().exception("call failed")
    text = stream.getvalue()
    assert "ValueError: what went wrong" in text
    if form == "json":
        assert "Traceback" in json.loads(text)["exception"]


def test_what_is_no_json_is_written_as_text(log):
    stream = log("json")
    logging.getLogger().info("event", extra={"path": Path("/run/x"), "ids": {1}})
    assert json.loads(stream.getvalue())["path"] == "/run/x"


def test_a_level_keeps_the_lower_ones_out(log):
    stream = log("text", "warning")
    logging.getLogger("x").info("quiet")
    logging.getLogger("x").warning("loud")
    assert "loud" in stream.getvalue()
    assert "quiet" not in stream.getvalue()


def test_configuring_again_replaces_what_was_configured(log):
    log("text")
    stream = log("json")
    logging.getLogger().info("once")
    assert len(stream.getvalue().splitlines()) == 1


SECRETS = {
    "private_key",
    "token",
    "svid",
    "csr",
    "password",
    "passphrase",
    "selectors",
    "payload",
    "secret",
    "jwt",
}


def logged_fields():
    for package in ("spiffekit", "attestor", "issuer"):
        for path in sorted((ROOT / package).rglob("*.py")):
            for node in ast.walk(ast.parse(path.read_text())):
                if isinstance(node, ast.keyword) and node.arg == "extra" and isinstance(node.value, ast.Dict):
                    yield from (
                        (path.name, name.value) for name in node.value.keys if isinstance(name, ast.Constant)
                    )


def test_no_secret_is_ever_a_field():
    """Selectors may hold secrets of an environment: SPIRE logged them once (#6732)."""
    fields = set(logged_fields())
    assert len(fields) > 20
    assert {field for field in fields if field[1] in SECRETS} == set()

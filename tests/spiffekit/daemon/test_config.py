# SPDX-License-Identifier: Apache-2.0
"""One file, every error at once, and each error names file, key and rule."""

from datetime import timedelta
from pathlib import Path
from typing import Annotated, Any, Literal

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from spiffekit.daemon.config import MAX_BYTES, ConfigError, Span, decode, load, parse_duration


class Table(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    name: str
    path: Path = Path("/run")
    every: Span = Span(seconds=5)
    level: Literal["low", "high"] = "low"
    port: int = 1
    names: tuple[str, ...] = ()
    level_of: Annotated[int, msgspec.Meta(le=3)] = 1


class Config(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    table: Table
    other: Table | None = None
    named: dict[str, Table] = {}
    plugins: dict[str, dict[str, Any]] = {}

    def problems(self):
        return ["table.name: is reserved"] if self.table.name == "reserved" else []


@pytest.fixture
def read(tmp_path):
    path = tmp_path / "daemon.toml"

    def read(text, **options):
        path.write_bytes(text if isinstance(text, bytes) else text.encode())
        return load(path, Config, **options)

    return read


def errors(read, text, **options):
    with pytest.raises(ConfigError) as caught:
        read(text, **options)
    assert str(caught.value) == "\n".join(caught.value.errors)
    assert all("daemon.toml: " in line for line in caught.value.errors)
    return [line.split("daemon.toml: ", 1)[1] for line in caught.value.errors]


def test_a_file_becomes_values(read):
    config = read(
        '[table]\nname = "n"\npath = "/x/y"\nevery = "1h30m"\nlevel = "high"\nnames = ["a", "b"]\n'
        "[plugins.unix]\nx = 1\n"
    )
    assert config.table == Table(
        name="n", path=Path("/x/y"), every=Span(hours=1, minutes=30), level="high", names=("a", "b")
    )
    assert config.plugins == {"unix": {"x": 1}}


def test_what_is_left_out_has_its_default(read):
    assert read('[table]\nname = "n"').table == Table(name="n")


def test_every_error_is_reported_at_once(read):
    found = errors(
        read,
        'loose = 1\n[table]\nport = "x"\nlevel = "middle"\nevery = "soon"\npath = ""\nnmae = "n"\n'
        "[other]\nname = 1\nport = 1.5\n[unknown]\nx = 1\n",
    )
    assert sorted(found) == sorted(
        [
            "loose: unknown key",
            "unknown: unknown key",
            "table.nmae: unknown key",
            "table.name: is required",
            "table.port: Expected `int`, got `str`",
            "table.level: Invalid enum value 'middle'",
            "table.every: 'soon' is not a time span such as 30s, 5m or 1h30m",
            "table.path: a path cannot be empty",
            "other.name: Expected `str`, got `int`",
            "other.port: Expected `int`, got `float`",
        ]
    )


@pytest.mark.parametrize(
    ("text", "rule"),
    [
        ("", "table: is required"),
        ("table = 1", "table: Expected `object`, got `int`"),
        ('[table]\nname = "n"\nevery = 5', "table.every: expected a string, got int"),
        ('[table]\nname = "n"\npath = 5', "table.path: expected a string, got int"),
        ('[table]\nname = "n"\nlevel_of = 4', "table.level_of: Expected `int` <= 3"),
        ('[table]\nname = "n"\nnames = [1]', "table.names: Expected `str`, got `int`"),
        ('[table]\nname = "reserved"', "table.name: is reserved"),
        ('plugins.unix = 1\n[table]\nname = "n"', "plugins: Expected `object`, got `int`"),
    ],
)
def test_an_error_names_its_key_and_the_rule(read, text, rule):
    assert errors(read, text) == [rule]


def test_an_error_in_a_table_among_tables_by_name_says_in_which(read):
    text = '[table]\nname = "n"\n[named]\nflat = 1\n[named.good]\nname = "a"\n[named.bad]\nnmae = 1\n'
    assert errors(read, text) == [
        "named.flat: expected a table",
        "named.bad.nmae: unknown key",
        "named.bad.name: is required",
    ]


def test_rules_across_fields_wait_until_each_field_is_right(read):
    assert errors(read, '[table]\nname = "reserved"\nport = "x"') == ["table.port: Expected `int`, got `str`"]


@pytest.mark.parametrize("text", ["[table", "a = ", b"\xff", '[table]\nname = "a"\nname = "b"'])
def test_what_is_not_toml_is_said_to_be_so(read, text):
    (found,) = errors(read, text)
    assert found.startswith("not TOML: ")


def test_a_file_that_cannot_be_read_is_named(tmp_path):
    with pytest.raises(ConfigError) as caught:
        load(tmp_path / "missing.toml", Config)
    assert caught.value.errors == [f"{tmp_path}/missing.toml: No such file or directory"]
    with pytest.raises(ConfigError, match="Is a directory"):
        load(tmp_path, Config)


def test_a_huge_file_is_refused(read):
    assert errors(read, b"#" * (MAX_BYTES + 1)) == ["larger than 1048576 bytes"]


def test_variables_are_expanded_everywhere_in_strings(read, monkeypatch):
    monkeypatch.setenv("NODE", "n1")
    monkeypatch.setenv("EMPTY", "")
    config = read(
        '[table]\nname = "$NODE"\npath = "/run/${NODE}x"\nnames = ["a$EMPTY", "$NODE-$NODE", "5$"]\n'
        "port = 7\n"
        '[plugins.x]\ny = "${NODE}"\n',
        expand_env=True,
    )
    assert config.table.name == "n1"
    assert config.table.path == Path("/run/n1x")
    assert config.table.names == ("a", "n1-n1", "5$")
    assert config.plugins == {"x": {"y": "n1"}}


def test_an_unset_variable_is_an_error_beside_the_others(read, monkeypatch):
    monkeypatch.delenv("NOBODY", raising=False)
    found = errors(read, '[table]\nname = "$NOBODY"\nport = "x"', expand_env=True)
    assert found == [
        "table.name: environment variable NOBODY is not set",
        "table.port: Expected `int`, got `str`",
    ]


def test_what_a_variable_holds_is_not_expanded_again(read, monkeypatch):
    monkeypatch.setenv("A", "$B")
    monkeypatch.setenv("B", "secret")
    assert read('[table]\nname = "$A"', expand_env=True).table.name == "$B"


def test_without_being_asked_nothing_is_expanded(read):
    assert read('[table]\nname = "$NOBODY"').table.name == "$NOBODY"


@pytest.mark.parametrize(
    ("text", "span"),
    [
        ("0s", timedelta(0)),
        ("500ms", timedelta(milliseconds=500)),
        ("30s", timedelta(seconds=30)),
        ("5m", timedelta(minutes=5)),
        ("1h30m", timedelta(hours=1, minutes=30)),
        ("2d", timedelta(days=2)),
    ],
)
def test_a_span_is_numbers_with_units(text, span):
    assert parse_duration(text) == span
    assert Span.parse(text) == span


@pytest.mark.parametrize(
    "text", ["", "5", "s", "-5s", "1.5h", "5 s", "5S", "5s\n", "\u0665s", "1w", "5s5", "9" * 400 + "d"]
)
def test_what_is_no_span_is_refused(text):
    with pytest.raises(ValueError):
        parse_duration(text)


@given(st.integers(0, 10**6), st.integers(0, 10**6), st.integers(0, 10**6))
def test_a_span_is_the_sum_of_its_parts(hours, minutes, seconds):
    assert parse_duration(f"{hours}h{minutes}m{seconds}s") == timedelta(
        hours=hours, minutes=minutes, seconds=seconds
    )


def test_a_table_is_decoded_with_its_place_in_the_file():
    value, problems = decode({"name": "n"}, Table, "plugin.")
    assert (value, problems) == (Table(name="n"), [])
    value, problems = decode({"port": "x"}, Table, "plugin.")
    assert value is None
    assert sorted(problems) == ["plugin.name: is required", "plugin.port: Expected `int`, got `str`"]

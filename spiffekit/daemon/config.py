# SPDX-License-Identifier: Apache-2.0
"""Configuration: one TOML file into frozen structs, with every error reported at once.

A daemon describes its file as a `msgspec.Struct` (frozen, unknown fields forbidden) whose fields are
tables. Each error is one line, ``file: key: rule``.
"""

import os
import re
import tomllib
from collections.abc import Callable, Iterator, Mapping
from datetime import timedelta
from pathlib import Path
from typing import Any, Final, TypeVar, get_args, get_origin, get_type_hints

import msgspec

T = TypeVar("T")

MAX_BYTES: Final = 1024 * 1024  # bytes of a configuration file
EXIT_STATUS: Final = 2
_UNITS: Final = {"ms": 0.001, "s": 1, "m": 60, "h": 3600, "d": 86400}
_DURATION: Final = re.compile(r"(?:\d+(?:ms|[smhd]))+", re.ASCII)
_VARIABLE: Final = re.compile(r"\$(?:\{([A-Za-z_][A-Za-z0-9_]*)\}|([A-Za-z_][A-Za-z0-9_]*))", re.ASCII)


class ConfigError(Exception):
    """A configuration cannot be used; `errors` has a line for each reason."""

    def __init__(self, *errors: str) -> None:
        super().__init__("\n".join(errors))
        self.errors = list(errors)


def parse_duration(text: str) -> timedelta:
    """Parse "30s", "1h30m", "500ms".

    Raises:
        ValueError: It is of another form.
    """
    if not _DURATION.fullmatch(text):
        raise ValueError(f"{text!r} is not a time span such as 30s, 5m or 1h30m")
    try:
        return timedelta(seconds=sum(int(n) * _UNITS[u] for n, u in re.findall(r"(\d+)(ms|[smhd])", text)))
    except (OverflowError, ValueError) as error:  # of so many digits that no number holds them
        raise ValueError(f"{text[:40]!r} is too long a time span") from error


def load(path: Path, kind: type[T], *, expand_env: bool = False) -> T:
    """Read a TOML file as a `kind`; call its `problems()`, if it has one, for rules across fields.

    Args:
        path: The file.
        kind: A msgspec Struct whose fields are tables.
        expand_env: Replace $VARIABLE and ${VARIABLE} in strings; an unset one is an error.

    Raises:
        ConfigError: The file cannot be read, is not TOML, or breaks one or more rules.
    """
    try:
        text = path.read_bytes()
        if len(text) > MAX_BYTES:
            raise ConfigError(f"{path}: larger than {MAX_BYTES} bytes")
        document: dict[str, Any] = tomllib.loads(text.decode("utf-8"))
    except OSError as error:
        raise ConfigError(f"{path}: {error.strerror}") from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path}: not TOML: {error}") from error
    missing: list[str] = []
    if expand_env:
        document = _expand(document, "", missing)
    value, found = decode(document, kind)
    errors = missing + found
    if value is not None and not errors:
        problems: Callable[[], list[str]] | None = getattr(value, "problems", None)
        errors += problems() if problems else []
    if errors or value is None:
        raise ConfigError(*(f"{path}: {error}" for error in errors))
    return value


def decode(document: Mapping[str, Any], kind: type[T], prefix: str = "") -> tuple[T | None, list[str]]:
    """Decode a table as a `kind`: the value, or every error, each as ``key: rule``."""
    try:
        return msgspec.convert(document, kind, dec_hook=_decode_hook), []
    except msgspec.ValidationError as error:
        return None, list(_errors(document, kind, prefix)) or [f"{prefix or 'file'}: {_rule(error)}"]


def _errors(document: Mapping[str, Any], kind: type[Any], prefix: str) -> Iterator[str]:
    """Decode field by field: msgspec stops at the first error, an operator wants them all."""
    hints = get_type_hints(kind, include_extras=True)  # with the bounds of numbers
    fields = {field.encode_name: field for field in msgspec.structs.fields(kind)}
    for name in document.keys() - fields.keys():
        yield f"{prefix}{name}: unknown key"
    for name, field in fields.items():
        key = f"{prefix}{name}"
        if name not in document:
            if field.required:
                yield f"{key}: is required"
            continue
        expected, value = hints[field.name], document[name]
        inner = _struct(expected)
        if inner is not None and isinstance(value, dict):
            by_name = get_origin(expected) is dict
            tables = {f"{key}.{one}": table for one, table in value.items()} if by_name else {key: value}
            for where, table in tables.items():
                if isinstance(table, dict):
                    yield from _errors(table, inner, f"{where}.")
                else:
                    yield f"{where}: expected a table"
            continue
        try:
            msgspec.convert(value, expected, dec_hook=_decode_hook)
        except msgspec.ValidationError as error:
            yield f"{key}: {_rule(error)}"


def _struct(expected: Any) -> type[msgspec.Struct] | None:
    for candidate in (expected, *get_args(expected)):
        if get_origin(candidate) is not None or not isinstance(candidate, type):
            continue
        if issubclass(candidate, msgspec.Struct):
            return candidate
    return None


def _rule(error: msgspec.ValidationError) -> str:
    return str(error).split(" - at `")[0]


def _decode_hook(kind: type[Any], value: Any) -> Any:
    if kind is Path and isinstance(value, str):
        if not value:
            raise ValueError("a path cannot be empty")
        return Path(value)
    if hasattr(kind, "parse") and isinstance(value, str):
        return kind.parse(value)
    raise ValueError(f"expected a string, got {type(value).__name__}")


class Span(timedelta):
    """A time span in a configuration file, e.g. "1h30m"."""

    @classmethod
    def parse(cls, text: str) -> "Span":
        """Parse it; see `parse_duration`."""
        return cls(seconds=parse_duration(text).total_seconds())


def _expand(value: Any, key: str, missing: list[str]) -> Any:
    def replace(match: re.Match[str]) -> str:
        name = match[1] or match[2]
        if name not in os.environ:
            missing.append(f"{key}: environment variable {name} is not set")
        return os.environ.get(name, "")

    match value:
        case str():
            return _VARIABLE.sub(replace, value)
        case dict():
            return {
                name: _expand(item, f"{key}.{name}" if key else name, missing) for name, item in value.items()
            }
        case list():
            return [_expand(item, key, missing) for item in value]
        case _:
            return value

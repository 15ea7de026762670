# SPDX-License-Identifier: Apache-2.0
"""The house rules that no linter knows: sizes, names, the first line of a file."""

import ast
import tomllib
from pathlib import Path

import pytest

from tests.contracts.nodes import TYPES

ROOT = Path(__file__).parent.parent
MAX_MODULE_LINES = 400
MAX_FUNCTION_LINES = 60
FORBIDDEN_NAMES = {"util", "utils", "common", "helpers", "misc", "base", "manager", "managers"}
SEARCHES = {"spiffekit/jwk.py": 1}  # for what may stand nowhere in a document
SOURCES = sorted(
    path
    for package in ("spiffekit", "attestor", "issuer")
    for path in (ROOT / package).rglob("*.py")
    if "pb" not in path.parts
)
EVERYTHING = SOURCES + sorted(
    p for f in ("tests", "examples", "benchmarks") for p in (ROOT / f).rglob("*.py")
)


def name(path):
    return str(path.relative_to(ROOT))


@pytest.mark.parametrize("path", EVERYTHING, ids=name)
def test_a_file_opens_with_its_licence(path):
    lines = [line for line in path.read_text().splitlines()[:2] if not line.startswith("#!")]
    assert lines[:1] == ["# SPDX-License-Identifier: Apache-2.0"]


@pytest.mark.parametrize("path", SOURCES, ids=name)
def test_a_module_is_one_thing(path):
    text = path.read_text()
    assert len(text.splitlines()) <= MAX_MODULE_LINES
    assert path.stem not in FORBIDDEN_NAMES
    assert path.parent.name not in FORBIDDEN_NAMES
    assert ast.get_docstring(ast.parse(text)), "a module says what it is for"


@pytest.mark.parametrize("path", SOURCES, ids=name)
def test_a_function_fits_on_a_screen(path):
    long = [
        f"{node.name}: {node.end_lineno - node.lineno + 1} lines"
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
        and node.end_lineno - node.lineno + 1 > MAX_FUNCTION_LINES
    ]
    assert not long


@pytest.mark.parametrize("path", SOURCES, ids=name)
def test_patterns_are_matched_from_end_to_end(path):
    """Elsewhere a pattern without anchors let through what only began or contained what it should be."""
    calls = [
        f"line {node.lineno}: {node.func.attr}"
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.Call)
        and isinstance(node.func, ast.Attribute)
        and node.func.attr in ("match", "search")
    ]
    assert len(calls) == SEARCHES.get(name(path), 0), calls


@pytest.mark.parametrize("half", ["issuer", "attestor"])
def test_every_type_of_node_attestation_is_held_to_the_contract(half):
    """A new type gets two machines in tests/contracts/nodes.py, or it does not say what all the others do."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    assert project["entry-points"][f"{half}.node"].keys() == TYPES.keys()


def test_nothing_names_a_machine_of_ours():
    # Assembled, so that this file does not name them itself.
    forbidden = ["/" + "work/", "reference/" + "spire.md", "conformance" + ".md"]
    named = [
        f"{name(path)}: {word}"
        for path in EVERYTHING + sorted((ROOT / "docs").rglob("*.md")) + [ROOT / "README.md"]
        for word in forbidden
        if word in path.read_text()
    ]
    assert not named

# SPDX-License-Identifier: Apache-2.0
"""Tests and requirements name each other."""

import ast
import tomllib
from pathlib import Path

import pytest

from tests.requirements.gaps import GAPS
from tests.requirements.manifest import LEVELS, MANIFEST

TESTS = Path(__file__).parent.parent
SECTIONS = tomllib.loads((TESTS / "vectors/sections.toml").read_text())


def markers(source):
    """Yield the names that `pytest.mark.requirement` has in a source, wherever it stands."""
    for node in ast.walk(ast.parse(source)):
        if (
            isinstance(node, ast.Call)
            and isinstance(node.func, ast.Attribute)
            and node.func.attr == "requirement"
        ):
            for argument in node.args:
                yield argument.value if isinstance(argument, ast.Constant) else ast.unparse(argument)


@pytest.fixture(scope="module")
def claimed():
    found = {}
    for path in sorted(TESTS.rglob("*.py")):
        for name in markers(path.read_text()):
            found.setdefault(name, set()).add(str(path.relative_to(TESTS)))
    return found


def test_every_marker_names_a_requirement(claimed):
    assert {name: files for name, files in claimed.items() if name not in MANIFEST} == {}


def test_every_requirement_has_a_test_or_a_reason(claimed):
    assert [id_ for id_, entry in MANIFEST.items() if not entry.gap and id_ not in claimed] == []


def test_what_has_a_test_is_no_gap(claimed):
    assert [id_ for id_, entry in MANIFEST.items() if entry.gap and id_ in claimed] == []


def test_every_gap_is_a_requirement():
    assert sorted(GAPS.keys() - MANIFEST.keys()) == []
    assert all(GAPS.values())


@pytest.mark.parametrize("entry", MANIFEST.values(), ids=lambda entry: entry.id)
def test_a_requirement_is_a_sentence_and_stands_in_its_document(entry):
    document, section = entry.reference.split(" §")
    assert section in SECTIONS[document]["sections"]
    assert entry.level in LEVELS
    assert entry.sentence.endswith(".")


def test_markers_are_found_on_functions_parameters_and_modules():
    source = """
pytestmark = pytest.mark.requirement("ID-01")
@pytest.mark.requirement("ID-02", "ID-03")
def test(): ...
CASES = [pytest.param(1, marks=pytest.mark.requirement("ID-04")), pytest.mark.requirement(name)]
"""
    assert sorted(markers(source)) == ["ID-01", "ID-02", "ID-03", "ID-04", "name"]

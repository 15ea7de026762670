# SPDX-License-Identifier: Apache-2.0
"""The README's map of the rooms is the tree."""

import re

import pytest

from tests.docs.pages import ROOT

README = (ROOT / "README.md").read_text()
ROWS = dict(re.findall(r"^\| `([\w/]+)/` \| (.+) \|$", README, re.MULTILINE))
TOP = {path.parent.name for path in ROOT.glob("*/__init__.py")} | {"proto", "docs", "examples"}


def rooms(package):
    return sorted(path.parent.name for path in (ROOT / package).glob("*/__init__.py"))


def test_what_is_in_the_map_is_there():
    assert [room for room in ROWS if not (ROOT / room).is_dir()] == []
    named = {(row, name) for row, text in ROWS.items() for name in re.findall(r"`([\w.]+?)/?`", text)}
    there = {(row, name) for row, name in named if (ROOT / row / name).exists()}
    assert {name for _, name in named - there} == set()


def test_each_folder_is_in_the_map():
    assert {room for room in ROWS if "/" not in room} == TOP


@pytest.mark.parametrize("package", ["spiffekit", "attestor", "issuer"])
def test_each_room_is_in_the_map(package):
    told = set(re.findall(r"`(\w+)/`", ROWS[package]))
    told |= {row.partition("/")[2] for row in ROWS if row.startswith(f"{package}/")}
    assert set(rooms(package)) <= told

# SPDX-License-Identifier: Apache-2.0
"""Each defence of the threat model names the tests that prove it, and they are there."""

import ast
import re

import pytest

from tests.docs.pages import ROOT

PAGE = (ROOT / "docs" / "threat-model.md").read_text()
ROWS = [line for line in PAGE.splitlines() if line.startswith("| ") and not line.startswith("| tries to |")]
PROOFS = sorted(set(re.findall(r"`(tests/[\w/]+\.py::\w+)`", PAGE)))


def test_every_defence_is_proved():
    assert len(ROWS) > 30
    assert [row for row in ROWS if "::test_" not in row] == []


@pytest.mark.parametrize("proof", PROOFS)
def test_a_proof_is_there(proof):
    path, _, name = proof.partition("::")
    tree = ast.parse((ROOT / path).read_text())
    assert name in {n.name for n in tree.body if isinstance(n, ast.FunctionDef | ast.AsyncFunctionDef)}

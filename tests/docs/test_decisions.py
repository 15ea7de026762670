# SPDX-License-Identifier: Apache-2.0
"""Each decision has one short page, with its costs."""

import pytest

from tests.docs.pages import ROOT

DECISIONS = sorted((ROOT / "docs" / "adr").glob("*.md"))
MAX_LINES = 30


def test_decisions_are_numbered_without_a_gap():
    assert [int(page.name[:4]) for page in DECISIONS] == list(range(1, len(DECISIONS) + 1))


@pytest.mark.parametrize("page", DECISIONS, ids=lambda page: page.stem)
def test_a_decision_says_the_problem_what_was_chosen_and_what_it_costs(page):
    text = page.read_text()
    assert text.startswith(f"# {int(page.name[:4])}. ")
    assert len(text.splitlines()) <= MAX_LINES
    for part in ("**Problem.**", "**Decision.**", "**Costs.**"):
        assert part in text

# SPDX-License-Identifier: Apache-2.0
"""Every relative link of the documentation points to something that is there, and so does its anchor."""

import pytest

from tests.docs.pages import PAGES, anchors, links, name


@pytest.mark.parametrize("page", PAGES, ids=name)
def test_links_point_to_what_is_there(page):
    broken = []
    for link in links(page.read_text()):
        target, _, anchor = link.partition("#")
        if "://" in target:
            continue
        path = (page.parent / target).resolve() if target else page
        if not path.exists() or (anchor and anchor not in anchors(path.read_text())):
            broken.append(link)
    assert not broken


def test_a_heading_is_known_by_its_words():
    text = "# One `two`, three\n```sh\n# no heading\n```\n## Again\n## Again\n"
    assert anchors(text) == {"one-two-three", "again", "again-1"}


def test_links_are_found_outside_of_code():
    assert links("see [a](b.md#c) and `[d](e)`\n```\n[f](g)\n```\n") == ["b.md#c"]

# SPDX-License-Identifier: Apache-2.0
"""Every section that the sources cite exists in the standard that they name."""

import re
import tomllib
from pathlib import Path

ROOT = Path(__file__).parent.parent
SECTIONS = tomllib.loads((ROOT / "tests/vectors/sections.toml").read_text())
DOCUMENT = re.compile(
    r"(" + "|".join(SECTIONS) + r"),? ((?:and |to |, )?§[A-Z0-9.]+(?:(?:,| and| to) §?[A-Z0-9.]+)*)"
)
SECTION = re.compile(r"[A-Z](?:\.\d+)*|\d+(?:\.\d+)*")


def sources():
    for package in ("spiffekit", "attestor", "issuer"):
        yield from (p for p in (ROOT / package).rglob("*.py") if "pb" not in p.parts)
    yield from (ROOT / "docs").rglob("*.md")


def citations(text):
    for match in DOCUMENT.finditer(" ".join(line.strip(" #*") for line in text.splitlines())):
        for section in SECTION.findall(match[2]):
            yield match[1], section


def test_every_cited_section_exists():
    unknown = [
        f"{path.relative_to(ROOT)}: {document} §{section}"
        for path in sources()
        for document, section in citations(path.read_text())
        if section not in SECTIONS[document]["sections"]
    ]
    assert not unknown, "\n".join(unknown)


def test_citations_are_found_in_the_forms_that_the_sources_use():
    assert list(citations("# SPIFFE-ID §2.3\n# see X509-SVID §2 to §4, and JWT-SVID §A")) == [
        ("SPIFFE-ID", "2.3"),
        ("X509-SVID", "2"),
        ("X509-SVID", "4"),
        ("JWT-SVID", "A"),
    ]


def test_sources_cite_the_standards_at_all():
    assert sum(1 for path in sources() for _ in citations(path.read_text())) > 20

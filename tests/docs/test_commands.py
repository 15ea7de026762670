# SPDX-License-Identifier: Apache-2.0
"""The documentation uses only commands and options that exist."""

import ast
import re

import click
import pytest

from tests.docs.pages import PAGES, PROGRAMS, ROOT, check_command, commands, fences, name, prose

CODE = re.compile(r"`((?:attestor|issuer) [^`\n]+)`")
TARGETS = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))


def ours(text):
    """The command lines of ours, whole in blocks, and mentioned in sentences."""
    for block in fences(text, "console"):
        yield from ((words, True) for words in commands(block) if words and words[0] in PROGRAMS)
    for mention in CODE.findall(prose(text)):
        yield from ((words, False) for words in commands(mention))


@pytest.mark.parametrize("page", PAGES, ids=name)
def test_commands_and_options_exist(page):
    wrong = []
    for words, whole in ours(page.read_text()):
        try:
            check_command(words, whole=whole)
        except click.UsageError as error:
            wrong.append(f"{' '.join(words)}: {error.format_message()}")
    assert not wrong


@pytest.mark.parametrize("page", PAGES, ids=name)
def test_targets_of_make_exist(page):
    text = page.read_text()
    asked = {
        words[1] for block in fences(text, "console") for words in commands(block) if words[:1] == ["make"]
    }
    asked |= set(re.findall(r"`make ([a-z-]+)`", text))
    assert asked <= TARGETS


@pytest.mark.parametrize("page", PAGES, ids=name)
def test_python_compiles_and_imports_what_exists(page):
    for block in fences(page.read_text(), "python"):
        tree = compile(block, name(page), "exec", ast.PyCF_ONLY_AST | ast.PyCF_ALLOW_TOP_LEVEL_AWAIT)
        imports = [node for node in tree.body if isinstance(node, ast.Import | ast.ImportFrom)]
        exec(compile(ast.Module(imports, []), name(page), "exec"), {})


@pytest.mark.parametrize(
    ("line", "complaint"),
    [
        ("issuer entry crate", "no such command"),
        ("issuer entry create --selectors unix:uid:1", "--selectors"),
        ("issuer entry create --selector nonsense", "nonsense"),
        ("issuer node ban", "Missing option"),
        ("attestor explain 1 2", "too many arguments"),
        ("attestor explain abc", "abc"),
        ("x=1 y=2; true && z=1 issuer no | cat", "no such command"),
        ("until issuer health; do sleep 1; done", "no such command"),
        ("id=$(issuer token generate --wrong)", "--wrong"),
    ],
)
def test_what_does_not_exist_is_found(line, complaint):
    with pytest.raises(click.UsageError) as refused:
        for words in commands(line):
            if words and words[0] in PROGRAMS:
                check_command(words)
    assert complaint in refused.value.format_message()


@pytest.mark.parametrize(
    "line",
    [
        "issuer --help",
        "issuer entry --help",
        "attestor explain 4711 # why",
        "attestor explain $! --socketPath a.sock",
        "issuer node ban --spiffeID spiffe://example.org/spire/agent/join_token/…",
        'issuer entry show --parentID "$node" --output json | cat',
        "issuer token generate \\\n  --ttl 1h",
        "until issuer healthcheck 2> /dev/null > out; do sleep 0.2; done",
    ],
)
def test_what_exists_passes(line):
    for words in commands(line):
        if words[0] in PROGRAMS:
            check_command(words)

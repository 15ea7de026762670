# SPDX-License-Identifier: Apache-2.0
"""The pages of the documentation, and what the tests read in them."""

import re
import shlex
import string
from pathlib import Path

import click

from attestor.cli import main as attestor
from issuer.cli import main as issuer

ROOT = Path(__file__).resolve().parents[2]
PAGES = sorted([*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md")])
PROGRAMS = {"attestor": attestor, "issuer": issuer}
FENCE = re.compile(r"^```(\w*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
SUBSTITUTED = re.compile(r"\$\(([^()]*)\)")
REDIRECTED = re.compile(r"\s\d?>>?\s*[^\s;&|]+")
SEPARATORS = set("&|;<>()")
KEYWORDS = {"do", "until", "while", "if", "then", "else", "!"}
UNKNOWN = set("$…")  # a value that only the shell or the reader knows


def name(page):
    return str(page.relative_to(ROOT))


def fences(text, language):
    """The contents of the fenced blocks of a language."""
    return [match[2] for match in FENCE.finditer(text) if match[1] == language]


def prose(text):
    """The text without its fenced blocks."""
    return FENCE.sub("", text)


def anchors(text):
    """What the headings of a page are called in links."""
    found = set()
    for heading in re.findall(r"^#+ (.+)$", prose(text), re.MULTILINE):
        plain = re.sub(r"[^\w\- ]", "", heading.lower()).strip().replace(" ", "-")
        found.add(next(a for n in range(99) if (a := f"{plain}-{n}" if n else plain) not in found))
    return found


def links(text):
    """The targets of the links of a page."""
    without_code = re.sub(r"`[^`\n]*`", "", prose(text))
    return re.findall(r"\]\(([^)\s]+)\)", without_code)


def commands(script):
    """The simple commands of a shell script, each as its words; those within $(…), too."""
    script = script.replace("\\\n", " ")
    inner = SUBSTITUTED.findall(script)
    lines = [*SUBSTITUTED.sub("$", script).splitlines(), *inner]
    for line in lines:
        lexer = shlex.shlex(REDIRECTED.sub(" ", line), posix=True, punctuation_chars="&|;<>()")
        lexer.commenters = "#"
        lexer.whitespace_split = True
        words = []
        for token in [*lexer, ";"]:
            if not set(token) <= SEPARATORS:
                words.append(token)
            elif words:
                while words and (words[0] in KEYWORDS or is_assignment(words[0])):
                    words.pop(0)
                yield words
                words = []


def is_assignment(word):
    variable, equals, _ = word.partition("=")
    return bool(equals) and set(variable) <= set(string.ascii_letters + "_")


def check_command(words, *, whole=True):
    """Parse a command line of ours without running it; with `whole`, what is required has to be there.

    Raises:
        click.UsageError: There is no such command, option or argument.
    """
    program, *arguments = words
    command, context = PROGRAMS[program], None
    while True:
        settings = {"help_option_names": ["-h", "--help"], **command.context_settings}
        context = click.Context(command, info_name=program, parent=context, **settings)
        given, rest, _ = command.make_parser(context).parse_args(list(arguments))
        if not isinstance(command, click.Group) or not rest:
            break
        program, *arguments = rest
        command = command.get_command(context, program)
        if command is None:
            raise click.UsageError(f"no such command: {program}", context)
        rest = []
    if rest:
        raise click.UsageError(f"too many arguments: {' '.join(rest)}", context)
    check_values(command, context, given, whole=whole)


def check_values(command, context, given, *, whole):
    for parameter in command.params:
        value = given.get(parameter.name)
        missing = value is None or value in ((), []) or not isinstance(value, str | bool | int | list | tuple)
        if missing and parameter.required and whole and "help" not in given:
            raise click.MissingParameter(ctx=context, param=parameter)
        is_path = isinstance(parameter.type, click.Path)  # there where the reader is
        if not missing and not is_path and not UNKNOWN & set(str(value)):
            parameter.type_cast_value(context, value)

# SPDX-License-Identifier: Apache-2.0
"""Fill the option tables and the commands' help of docs/reference from the code; `--check` only compares.

A page has ``<!-- options: module:Class -->`` or ``<!-- help: program -->``, and ``<!-- end -->`` after it.
"""

import importlib
import inspect
import re
import sys
from pathlib import Path

import click
import msgspec

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))
SECTION = re.compile(r"(<!-- (options|help): (\S+) -->\n)(.*?)(<!-- end -->)", re.DOTALL)


def options(name: str) -> str:
    """Return the table of a configuration struct: fields, defaults, and what its docstring says of each."""
    module, _, kind = name.partition(":")
    struct = getattr(importlib.import_module(module), kind)
    said = described(inspect.getdoc(struct) or "")
    rows = ["| option | default | what |", "|---|---|---|"]
    for field in msgspec.structs.fields(struct):
        default = "required" if field.required else shown(default_of(field))
        rows.append(f"| `{field.encode_name}` | {default} | {said[field.encode_name]} |")
    if len(rows) == 2:
        return "There are none.\n"
    return "\n".join(rows) + "\n"


def default_of(field: msgspec.structs.FieldInfo) -> object:
    """Return a field's default; of mutable ones there is only what makes them."""
    made = field.default_factory
    return field.default if made is msgspec.NODEFAULT else made()


def described(docstring: str) -> dict[str, str]:
    """Return what the Attributes section says, by name."""
    found: dict[str, str] = {}
    name = ""
    for line in docstring.partition("Attributes:\n")[2].splitlines():
        if match := re.fullmatch(r"    (\w+): (.*)", line):
            name = match[1]
            found[name] = match[2]
        elif line.startswith("        "):
            found[name] += " " + line.strip()
        else:
            break
    return {key: text.replace("|", "\\|") for key, text in found.items()}


def shown(default: object) -> str:
    """Return a default as a configuration file has it."""
    match default:
        case None | "" | ():
            return "none"
        case dict() if not default:
            return "none"
        case bool():
            return f"`{str(default).lower()}`"
        case _ if hasattr(default, "total_seconds"):
            return f"`{span(default.total_seconds())}`"
        case _:
            return f"`{default}`"


def span(seconds: float) -> str:
    """Return a time span as a configuration file has it."""
    for unit, size in (("d", 86400), ("h", 3600), ("m", 60)):
        if seconds >= 2 * size and seconds % size == 0:
            return f"{seconds / size:g}{unit}"
    return f"{seconds:g}s"


def commands(program: str) -> str:
    """Return the help of every command of a program."""
    root: click.Command = importlib.import_module(f"{program}.cli").main
    return "\n".join(helps(root, [program], None))


def helps(command: click.Command, path: list[str], parent: click.Context | None) -> list[str]:
    """Return the help of a command and of those below it."""
    settings = {"terminal_width": 100, "max_content_width": 100, "help_option_names": ["-h", "--help"]}
    context = click.Context(command, info_name=path[-1], parent=parent, **settings)
    text = command.get_help(context)
    found = [f"### {' '.join(path)}\n", "```text", text, "```\n"]
    if isinstance(command, click.Group):
        for name in command.list_commands(context):
            found += helps(command.commands[name], [*path, name], context)
    return found


def filled(text: str) -> str:
    """Return a page with its sections as the code says."""
    make = {"options": options, "help": commands}
    return SECTION.sub(lambda m: f"{m[1]}{make[m[2]](m[3])}{m[5]}", text)


def main() -> None:
    """Fill every page, or name those that differ."""
    pages = sorted((ROOT / "docs" / "reference").glob("*.md"))
    stale = [page for page in pages if filled(page.read_text()) != page.read_text()]
    if "--check" in sys.argv:
        if stale:
            sys.exit("run `make docs`: " + ", ".join(str(page.relative_to(ROOT)) for page in stale))
        return
    for page in stale:
        page.write_text(filled(page.read_text()))


if __name__ == "__main__":
    main()

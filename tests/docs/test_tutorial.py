# SPDX-License-Identifier: Apache-2.0
"""The tutorial does what it says: its commands run as they stand, and print what it shows."""

import contextlib
import os
import re
import signal
import subprocess
import sys
from pathlib import Path

from deploy.local import free_port
from tests.docs.pages import FENCE, ROOT

ALREADY_SET_UP = ("make setup\n", ". .venv/bin/activate\n")
PORTS = ("8081", "8443")  # others may listen there
WITHIN = 120  # seconds


def steps():
    """The blocks of commands, each with what is shown of its output."""
    found = []
    for language, text in FENCE.findall((ROOT / "docs" / "tutorial.md").read_text()):
        if language == "console":
            found.append((text, []))
        elif language == "text":
            found[-1][1].extend(text.splitlines())
    return found


def whole(scripts):
    """One script of all blocks that says where each begins, and which command fails."""
    text = "".join(f'echo "=== {number}"\n{script}' for number, script in enumerate(scripts))
    for line in ALREADY_SET_UP:
        assert line in text
        text = text.replace(line, "")
    for port in PORTS:
        assert port in text
        text = text.replace(port, str(free_port()))
    return "trap 'echo \"failed: $BASH_COMMAND\"' ERR\n" + text


def run(script, folder):
    """Run a script as a user would who has activated the environment; nothing of it outlives this."""
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    shell = subprocess.Popen(
        ["bash", "-c", script],
        cwd=folder,
        env={**os.environ, "PATH": path},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    )
    try:
        return shell.communicate(timeout=WITHIN)[0]
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(shell.pid, signal.SIGKILL)
        shell.wait()


def missing(shown, printed):
    """The lines that are shown and not printed, in their order."""
    lines = iter(printed.splitlines())
    for line in shown:
        pattern = ".*".join(map(re.escape, line.split("…")))
        if not any(re.fullmatch(pattern, candidate) for candidate in lines):
            yield line


def test_the_tutorial_does_what_it_says(folder):
    (folder / "examples").symlink_to(ROOT / "examples")
    parts = steps()
    output = run(whole([script for script, _ in parts]), folder)
    printed = re.split(r"^=== \d+\n", output, flags=re.MULTILINE)[1:]
    assert len(printed) == len(parts), output
    for (script, shown), said in zip(parts, printed, strict=True):
        assert list(missing(shown, said)) == [], f"{script}\nprinted:\n{said}"
        expected = any(line.startswith("error: ") for line in shown)
        assert expected or "failed: " not in said, f"{script}\nprinted:\n{said}"
    assert not (folder / "tutorial").exists(), "it leaves nothing behind"


def test_what_is_shown_has_to_be_printed_in_order():
    assert list(missing(["a … c", "d"], "x\na b c\nd\n")) == []
    assert list(missing(["d", "a…"], "a\nd\n")) == ["a…"]

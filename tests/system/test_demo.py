# SPDX-License-Identifier: Apache-2.0
"""`make demo`: what newcomers see first works, with the programs of examples/ as they are."""

import subprocess
import sys
from pathlib import Path

DEMO = Path(__file__).parent.parent.parent / "examples" / "demo.py"
STEPS = (
    "attestor has proved its node",
    "booking and pricing talk over mTLS",
    "rotation 3 of 3",
    "shadow (pid ",
    "booking is suspended; its stream ended ",
    "its owner resumes it, and it talks again",
    "retired for ever",
    "https://idp.example.org|alice   owner",
    "done: ",
)


def test_the_demo_shows_all_that_it_promises():
    ended = subprocess.run([sys.executable, DEMO], capture_output=True, text=True, timeout=150)
    assert (ended.returncode, ended.stderr) == (0, "")
    rest = ended.stdout
    for step in STEPS:
        _, found, rest = rest.partition(step)
        assert found, f"{step!r} is not said, or not in its place:\n{ended.stdout}"

# SPDX-License-Identifier: Apache-2.0
"""How much of each part of the code the whole run has to reach; `make test` loads it as a plug-in.

The numbers only rise. They count lines and branches, in the daemons and commands that tests start as well.
"""

import io

import pytest
from coverage import Coverage

GATES = {  # percent, by the patterns of the files
    ("spiffekit/**",): 100,
    ("issuer/ca/**", "issuer/api/authorization.py"): 100,
    ("issuer/**",): 95,
    ("attestor/**",): 95,
}
GENERATED = "spiffekit/wire/pb/**"
missed = []


@pytest.hookimpl(trylast=True)  # the data of all workers and processes are one by then
def pytest_sessionfinish(session, exitstatus):
    if hasattr(session.config, "workerinput") or exitstatus not in (
        pytest.ExitCode.OK,
        pytest.ExitCode.TESTS_FAILED,
    ):
        return
    coverage = Coverage()
    coverage.load()
    for files, wanted in GATES.items():
        report = io.StringIO()
        reached = coverage.report(
            include=files, omit=[GENERATED], file=report, show_missing=True, skip_covered=True
        )
        if reached < wanted:
            missed.append(f"{', '.join(files)}: {wanted} % has to be reached\n{report.getvalue()}")
    if missed:
        session.exitstatus = pytest.ExitCode.TESTS_FAILED


def pytest_terminal_summary(terminalreporter):
    for text in missed:
        terminalreporter.section("coverage", red=True)
        terminalreporter.write(text)

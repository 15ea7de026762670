# SPDX-License-Identifier: Apache-2.0
"""What the systemd attestor says of processes of a real systemd."""

import os
import sys

import pytest

from tests.engines.systemd import systemd  # noqa: F401 - a fixture

ATTEST = """
import asyncio, sys
from attestor.errors import WorkloadAttestationError
from attestor.peer import Process
from attestor.workload.systemd import Config, create
from spiffekit.daemon.peer import PeerProcess

async def main():
    attestor = create(Config())
    for pid in map(int, sys.argv[1:]):
        facts = await attestor.attest(Process.of(PeerProcess.from_pid(pid)))
        print(*sorted(map(str, facts.selectors)))

try:
    asyncio.run(main())
except WorkloadAttestationError as error:
    print("error:", error)
"""


@pytest.fixture(scope="module")
def attest(systemd):  # noqa: F811
    return lambda *pids: systemd.python(ATTEST, *map(str, pids)).splitlines()


def test_a_service_is_named_by_id_and_file(systemd, attest):  # noqa: F811
    systemd.systemctl("start", "web.service")
    assert attest(systemd.main_pid("web.service")) == [
        "systemd:fragment_path:/etc/systemd/system/web.service systemd:id:web.service"
    ]


def test_a_service_of_the_moment_is_named_by_its_own_file(systemd, attest):  # noqa: F811
    started = systemd.run("systemd-run", "--unit=moment", "/bin/sleep", "3600")
    assert started.returncode == 0, started.stderr
    assert attest(systemd.main_pid("moment.service")) == [
        "systemd:fragment_path:/run/systemd/transient/moment.service systemd:id:moment.service"
    ]


def test_what_a_service_starts_belongs_to_it_also_in_a_cgroup_of_its_own(systemd, attest):  # noqa: F811
    command = "mkdir $P/web.service; echo $$ >$P/web.service/cgroup.procs; exec sleep 600"
    group = "/sys/fs/cgroup/system.slice/delegated.service"
    started = systemd.run(
        "systemd-run", "--unit=delegated", "-p", "Delegate=yes", f"--setenv=P={group}", "sh", "-c", command
    )
    assert started.returncode == 0, started.stderr
    (line,) = attest(systemd.main_pid("delegated.service"))
    assert line.endswith("systemd:id:delegated.service")


def test_systemd_itself_is_in_a_scope_without_a_file(attest):
    assert attest(1) == ["systemd:id:init.scope"]


def test_from_a_cgroup_namespace_of_our_own_nothing_is_said(systemd):  # noqa: F811
    out = systemd.run("unshare", "-C", "env", f"PYTHONPATH={os.getcwd()}", sys.executable, "-c", ATTEST, "1")
    assert out.stdout == "error: systemd is not process 1 of our PID and cgroup namespaces\n"

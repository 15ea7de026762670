# SPDX-License-Identifier: Apache-2.0
"""Inside the walls of the attestor's unit, on a real systemd, there is all that the attestor needs."""

import os
import sys
from pathlib import Path

from tests.engines.systemd import systemd  # noqa: F401 - a fixture

ROOT = Path(__file__).parents[2]
UNIT = ROOT / "deploy/systemd/attestor.service"
NO_WALLS = ("Exec", "Type", "Restart", "Timeout", "State")  # the test's machine has no /var of its own
PROGRAM = """
import asyncio, os, socket
from pathlib import Path
from attestor.peer import Process
from spiffekit.daemon.listener import inner_socket
from spiffekit.daemon.peer import PeerProcess
from tests.attestor.workload.plugins import running

async def main():
    with inner_socket() as path, socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(path))
    async with running(Path(os.environ["RUNTIME_DIRECTORY"])) as attestor:
        facts = await attestor.attest(Process.of(PeerProcess.from_pid(os.getpid())))
        print(*sorted(map(str, facts.selectors)))

asyncio.run(main())
"""


def walls():
    """What the unit says of how its service is run, without what it runs and when."""
    lines = UNIT.read_text().partition("[Service]\n")[2].partition("\n\n")[0].splitlines()
    return [line for line in lines if not line.startswith(NO_WALLS)]


def test_the_attestor_has_its_sockets_and_its_programs(systemd):  # noqa: F811
    options = [f"--property={line}" for line in walls()]
    seen = [f"--property=BindReadOnlyPaths={path}" for path in (ROOT, Path(sys.prefix))]
    command = (f"--setenv=PYTHONPATH={ROOT}", sys.executable, "-c", PROGRAM)
    done = systemd.run("systemd-run", "--wait", "--pipe", "--collect", *options, *seen, *command)
    assert (done.returncode, done.stdout) == (0, f"foo:td:example.org foo:uid:{os.geteuid()}\n"), done.stderr

# SPDX-License-Identifier: Apache-2.0
"""What the unix attestor says of a parent, and of a command line."""

import hashlib
import os
import shutil
import sys
from pathlib import Path

import pytest

from attestor.errors import PeerGoneError
from attestor.workload.unix import MAX_CMDLINE, Config, UnixAttestor
from spiffekit.selector import typo
from tests.attestor.workload.processes import held, process, running, values

SLEEP = Path(shutil.which("sleep")).resolve()
SHELL = Path("/bin/sh").resolve()
WAIT = ("-c", "import sys; sys.stdin.read()")
EVERYTHING = UnixAttestor(Config(discover_workload_path=True, discover_parent=True, declare_cmdline=True))


class Orphaned:
    """A process that loses its parent when it is looked at for the second time."""

    def __init__(self, process, *parents):
        self._process, self._parents = process, list(parents)

    def __getattr__(self, name):
        return getattr(self._process, name)

    def birth(self):
        parent = self._parents.pop(0)
        if parent is None:
            raise PeerGoneError("gone")
        return parent, 0


def parents(facts):
    return {str(s) for s in facts.selectors if s.value.startswith("parent:")}


async def test_the_parent_is_named_by_user_path_and_hash():
    with running(SHELL, "-c", f"{SLEEP} 60 & echo $!; wait") as shell:
        with held(int(shell.stdout.readline())) as one:
            found = await UnixAttestor(Config(discover_parent=True)).attest(one)
        os.kill(one.pid, 9)
    assert parents(found) == {
        f"unix:parent:uid:{os.geteuid()}",
        f"unix:parent:path:{SHELL}",
        f"unix:parent:sha256:{hashlib.sha256(SHELL.read_bytes()).hexdigest()}",
    }
    assert [typo(s) for s in found.selectors if typo(s)] == []


async def test_whoever_adopts_orphans_is_no_parent_worth_naming():
    command = ["unshare", "-Urpf", "--kill-child", SHELL, "-c", f"{SLEEP} 60 & wait"]
    with running(*command) as unshare:
        children = Path(f"/proc/{unshare.pid}/task/{unshare.pid}/children")
        while not (init := children.read_text().split()):
            assert unshare.poll() is None
        below = Path(f"/proc/{init[0]}/task/{init[0]}/children")
        while not (orphan := below.read_text().split()):
            assert unshare.poll() is None
        for pid, count in ((orphan[0], 0), (init[0], 3)):
            with held(int(pid)) as one:
                assert len(parents(await UnixAttestor(Config(discover_parent=True)).attest(one))) == count


async def test_a_parent_that_exits_meanwhile_is_not_named():
    with running(SLEEP, "60") as parent, process(SLEEP, "60") as one:
        for seen in ([parent.pid, 1], [parent.pid, None], [None], [0]):
            assert parents(await EVERYTHING.attest(Orphaned(one, *seen))) == set()
        assert len(parents(await EVERYTHING.attest(Orphaned(one, parent.pid, parent.pid)))) == 3


async def test_a_parent_that_is_dead_but_has_its_number_still_is_not_named():
    with running(SLEEP, "60") as parent, process(SLEEP, "60") as one:

        class Dying(Orphaned):
            def birth(self):
                if len(self._parents) == 1:
                    parent.kill()
                    os.waitid(os.P_PID, parent.pid, os.WEXITED | os.WNOWAIT)
                return super().birth()

        assert parents(await EVERYTHING.attest(Dying(one, parent.pid, parent.pid))) == set()


async def test_a_parent_that_cannot_be_examined_does_not_deny_the_child():
    small = UnixAttestor(Config(discover_parent=True, workload_size_limit=1))
    with process(SLEEP, "60") as one:
        found = await small.attest(one)
    assert parents(found) == set()
    assert values(found, "uid") == {str(os.geteuid())}


async def test_a_command_line_is_declared_as_a_shell_would_take_it():
    with process(sys.executable, *WAIT, "it's", "a b", stdin=-1) as one:
        found = await EVERYTHING.attest(one)
    (line,) = values(found, "declared:cmdline")
    assert line.endswith("""'import sys; sys.stdin.read()' 'it'"'"'s' 'a b'""")


@pytest.mark.parametrize(
    "argument", ["x" * MAX_CMDLINE, "line\nfeed", b"\xff"], ids=["long", "control", "no UTF-8"]
)
async def test_a_command_line_that_cannot_be_stated_as_it_is_is_left_out(argument):
    with process(sys.executable, *WAIT, argument, stdin=-1) as one:
        found = await EVERYTHING.attest(one)
    assert values(found, "declared:cmdline") == set()
    assert values(found, "path")


async def test_a_process_without_a_command_line_declares_none(tmp_path):
    (tmp_path / "cmdline").write_bytes(b"")
    with process(SLEEP, "60") as one:

        class Silent(Orphaned):
            proc = tmp_path

        (tmp_path / "status").write_bytes((one.proc / "status").read_bytes())
        found = await UnixAttestor(Config(declare_cmdline=True)).attest(Silent(one))
    assert values(found, "declared:cmdline") == set()


async def test_nothing_more_is_said_than_configured():
    with process(SLEEP, "60") as one:
        found = await UnixAttestor(Config()).attest(one)
    assert {s.value.split(":")[0] for s in found.selectors} <= {
        "uid",
        "gid",
        "user",
        "group",
        "supplementary_gid",
        "supplementary_group",
    }

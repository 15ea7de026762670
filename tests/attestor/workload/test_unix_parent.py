# SPDX-License-Identifier: Apache-2.0
"""What the unix attestor says of a parent and those above it, and of a command line."""

import contextlib
import hashlib
import os
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from attestor.errors import PeerGoneError
from attestor.workload.unix import MAX_CMDLINE, Config, UnixAttestor
from spiffekit.evidence import MAX_ANCESTORS
from spiffekit.selector import typo
from tests.attestor.workload.processes import held, process, running, values

SLEEP = Path(shutil.which("sleep")).resolve()
SHELL = Path("/bin/sh").resolve()
WAIT = ("-c", "import sys; sys.stdin.read()")
EVERYTHING = UnixAttestor(Config(discover_workload_path=True, discover_parent=True, declare_cmdline=True))
ABOVE = UnixAttestor(Config(discover_ancestors=True))
# Starts itself so many times, each below the one before; the last says who it is.
NESTED = """
import os, subprocess, sys
if (left := int(sys.argv[1])):
    sys.exit(subprocess.run([sys.executable, "-c", os.environ["NESTED"], str(left - 1)]).returncode)
print(os.getpid(), flush=True)
sys.stdin.read()
"""


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


@contextlib.contextmanager
def nested(depth, program=sys.executable, **options):
    """A process below `depth` others, all of the same program; ended with the test."""
    environment = {**os.environ, "NESTED": NESTED, "PYTHONHOME": sys.base_prefix}
    child = subprocess.Popen(
        [program, "-c", NESTED, str(depth)], stdin=-1, stdout=-1, text=True, env=environment, **options
    )
    with child, held(int(child.stdout.readline())) as one:
        yield one
        child.stdin.close()


async def test_each_process_above_is_named_by_user_and_program():
    with running(SHELL, "-c", f"{SHELL} -c '{SLEEP} 60 & echo $!; wait'; :") as shell:
        with held(int(shell.stdout.readline())) as one:
            found = await ABOVE.attest(one)
        os.kill(one.pid, 9)
    uid, python = os.geteuid(), Path(sys.executable).resolve()
    assert {f"{uid}:{SHELL}", f"{uid}:{python}"} <= values(found, "ancestor:path")
    hashes = {hashlib.sha256(file.read_bytes()).hexdigest() for file in (SHELL, python)}
    assert {f"{uid}:{digest}" for digest in hashes} <= values(found, "ancestor:sha256")
    assert parents(found) == set()
    assert [typo(s) for s in found.selectors if typo(s)] == []


async def test_no_more_processes_above_are_named_than_are_recorded(tmp_path):
    """Whoever starts processes in each other gains nothing but a longer way to an ancestor."""
    program = tmp_path / "python"
    shutil.copy2(Path(sys.executable).resolve(), program)
    with nested(MAX_ANCESTORS) as one:
        far = await ABOVE.attest(one)
    with nested(MAX_ANCESTORS - 1) as one:
        near = await ABOVE.attest(one)
    mine = f"{os.geteuid()}:{Path(sys.executable).resolve()}"
    assert values(far, "ancestor:path") == {mine}
    assert mine in values(near, "ancestor:path")


async def test_user_and_program_of_two_ancestors_do_not_make_a_third():
    """Below root's shell another user starts the supervisor that an entry names: it is not root's."""
    command = ("setpriv", "--reuid=65533", "--clear-groups", str(SLEEP.parent / "env"), "-i", str(SHELL))
    with running(SHELL, "-c", f"{shlex.join(command)} -c '{SLEEP} 60 & echo $!; wait'; :") as shell:
        with held(int(shell.stdout.readline())) as one:
            found = values(await ABOVE.attest(one), "ancestor:path")
        os.kill(one.pid, 9)
    assert f"65533:{SHELL}" in found
    assert f"0:{SHELL}" in found  # the outer one


async def test_the_chain_ends_where_an_ancestor_exits_meanwhile():
    with running(SLEEP, "60") as parent, process(SLEEP, "60") as one:
        assert await named_above(Orphaned(one, parent.pid, 1)) == set()
        assert await named_above(Orphaned(one, parent.pid, parent.pid)) >= {f"{os.geteuid()}:{SLEEP}"}


async def test_a_caller_that_exits_meanwhile_has_nobody_above():
    """Its number may be another's at once, whose parent would then be taken for its own."""
    with running(SLEEP, "60") as parent, process(SLEEP, "60") as one:
        stranger = Orphaned(one, parent.pid, parent.pid)

        def gone():
            raise PeerGoneError("gone")

        stranger.require_alive = gone
        assert await named_above(stranger) == set()


async def test_an_ancestor_whose_path_cannot_be_stated_is_named_by_its_hash_alone(tmp_path):
    program = tmp_path / "line\nfeed"
    shutil.copy2(Path(sys.executable).resolve(), program)
    with nested(1, program) as one:
        found = await UnixAttestor(Config(discover_parent=True, discover_ancestors=True)).attest(one)
    assert values(found, "parent:path") == set()
    assert not any("line" in value for value in values(found, "ancestor:path"))
    digest = hashlib.sha256(program.read_bytes()).hexdigest()
    assert f"{os.geteuid()}:{digest}" in values(found, "ancestor:sha256")


async def named_above(one):
    return values(await ABOVE.attest(one), "ancestor:path")


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

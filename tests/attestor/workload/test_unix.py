# SPDX-License-Identifier: Apache-2.0
"""What the unix attestor says of users, groups and executables, by the kernel's word alone."""

import asyncio
import grp
import os
import pwd
import shutil
import sys
import threading
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from types import SimpleNamespace

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from attestor.errors import WorkloadAttestationError
from attestor.peer import MAX_STATUS
from attestor.workload import Configured, Facts
from attestor.workload.examination import Examiner
from attestor.workload.unix import Config, UnixAttestor, create
from spiffekit.daemon.clock import SystemClock
from tests.attestor.workload.processes import held, process, running, values

SLEEP = Path(shutil.which("sleep")).resolve()
NOBODY = 54321  # an ID without a name
STATUS = "Name:\tx\nUid:\t1\t2\t3\t4\nGid:\t5\t6\t7\t8\nGroups:\t9 10 \nNSpid:\t11\n"
UNIX = UnixAttestor(Config())
as_root = pytest.mark.skipif(os.geteuid() != 0, reason="takes another user")


@dataclass(frozen=True)
class Described:
    """A process whose folder below /proc is a test's."""

    proc: Path
    pid = 1
    peer = SimpleNamespace(uid=NOBODY)

    @classmethod
    def by(cls, folder, status):
        folder.mkdir(exist_ok=True)
        (folder / "status").write_bytes(status)
        return cls(folder)


async def test_a_process_is_stated_by_user_and_groups():
    with held(os.getpid()) as ours:
        found = await UNIX.attest(ours)
    uid, gid, groups = os.geteuid(), os.getegid(), os.getgroups()
    assert values(found, "uid") == {str(uid)}
    assert values(found, "gid") == {str(gid)}
    assert values(found, "user") == {pwd.getpwuid(uid).pw_name}
    assert values(found, "group") == {grp.getgrgid(gid).gr_name}
    assert values(found, "supplementary_gid") == set(map(str, groups))
    assert found.container is found.pod is None
    assert {s.type for s in found.selectors} == {"unix"}


async def test_effective_ids_count_and_an_id_without_a_name_has_none(tmp_path):
    one = Described.by(tmp_path, STATUS.replace("2", str(NOBODY)).replace("6", str(NOBODY)).encode())
    found = await UNIX.attest(one)
    assert values(found, "uid") == values(found, "gid") == {str(NOBODY)}
    assert values(found, "user") == values(found, "group") == set()
    assert values(found, "supplementary_gid") == {"9", "10"}


@pytest.fixture
def directory(monkeypatch):
    """A directory of users that answers for nobody but when a test lets it; others are on file."""
    let, on_file = threading.Event(), pwd.getpwuid

    def look_up(uid):
        if uid == NOBODY:
            let.wait(30)
            raise KeyError
        return on_file(uid)

    monkeypatch.setattr(pwd, "getpwuid", look_up)
    yield let
    let.set()


async def test_a_directory_of_users_that_hangs_keeps_no_other_user_waiting(directory, tmp_path):
    text = STATUS.replace("2", str(NOBODY)).encode()
    waiting = asyncio.create_task(UNIX.attest(Described.by(tmp_path, text)))
    with held(os.getpid()) as ours:
        for _ in range(3):
            assert values(await UNIX.attest(ours), "uid") == {str(os.geteuid())}
    assert not waiting.done()
    directory.set()
    assert values(await waiting, "uid") == {str(NOBODY)}


async def test_a_directory_of_users_that_hangs_is_given_up_at_the_deadline(directory, tmp_path):
    process = Described.by(tmp_path, STATUS.replace("2", str(NOBODY)).encode())
    configured = Configured(UNIX, timeout=timedelta(milliseconds=10))
    (finding,) = await Examiner([configured], SystemClock()).findings(process)
    assert (finding.facts, finding.error) == (Facts(), "no answer within 0.01 s")


@as_root
async def test_a_process_that_becomes_another_user_is_stated_as_that():
    become = f"import os, sys; os.setgroups([7]); os.setgid({NOBODY}); os.setuid({NOBODY}); print(flush=True)"
    with running(sys.executable, "-c", f"{become}; sys.stdin.read()", stdin=-1) as child:
        child.stdout.readline()
        with held(child.pid) as one:
            found = await UNIX.attest(one)
    assert values(found, "uid") == values(found, "gid") == {str(NOBODY)}
    assert values(found, "supplementary_gid") == {"7"}


BREAKS = ["\r", "\v", "\f", "\x1c", "\x1d", "\x1e", "\x85"]  # that Python's splitlines knows
RENAME = """
import ctypes, sys
ctypes.CDLL(None).prctl(15, sys.argv[1].encode("latin-1"))
print(flush=True)
sys.stdin.read()
"""


@pytest.mark.parametrize("break_", ["\n", *BREAKS], ids=ascii)
async def test_a_name_that_a_process_gives_itself_is_no_field(break_):
    with running(sys.executable, "-c", RENAME, f"{break_}Uid:\t0\t0", stdin=-1) as child:
        child.stdout.readline()
        status = Path(f"/proc/{child.pid}/status").read_bytes()
        assert b"Uid:\t0\t0" in status.split(b"\n")[0]
        with held(child.pid) as one:
            assert values(await UNIX.attest(one), "uid") == {str(os.geteuid())}


@pytest.mark.parametrize("break_", BREAKS, ids=ascii)
async def test_a_name_is_no_field_though_it_stood_last(tmp_path, break_):
    """As the kernel does not have it."""
    status = f"{STATUS}Name:\t{break_}Uid:\t0\t0\n"
    assert values(await UNIX.attest(Described.by(tmp_path, status.encode())), "uid") == {"2"}


@pytest.mark.parametrize("field", ["Uid", "Gid", "Groups", "NSpid"])
async def test_a_status_that_lacks_a_field_states_nothing(tmp_path, field):
    lacking = "".join(line for line in STATUS.splitlines(True) if not line.startswith(field))
    with pytest.raises(WorkloadAttestationError, match="process cannot be examined: status lacks a field"):
        await UNIX.attest(Described.by(tmp_path, lacking.encode()))


async def test_a_process_of_so_many_groups_that_they_would_be_cut_states_none(tmp_path):
    """Half of a number is another group's."""
    groups = " ".join(["100000"] * (MAX_STATUS // 7))
    long = STATUS.replace("9 10", groups)
    assert len(long) > MAX_STATUS
    with pytest.raises(WorkloadAttestationError, match=f"status is longer than {MAX_STATUS} bytes"):
        await UNIX.attest(Described.by(tmp_path, long.encode()))
    assert await UNIX.attest(Described.by(tmp_path, STATUS.ljust(MAX_STATUS).encode()))


@pytest.fixture(scope="module")
def proc(tmp_path_factory):
    return tmp_path_factory.mktemp("proc")


@settings(deadline=None)
@given(st.binary(max_size=200) | st.text(alphabet="Uid:\tGroups 0123456789\n", max_size=200).map(str.encode))
@example(STATUS.encode())
@example(STATUS.replace("9 10", "9 ten").encode())
@example(STATUS.replace("2", "-").encode())
@example(STATUS.replace("2", "9" * 30).encode())
async def test_whatever_stands_there_it_is_facts_or_a_failure(proc, status):
    try:
        found = await UNIX.attest(Described.by(proc, status))
    except WorkloadAttestationError:
        return
    assert isinstance(found, Facts)
    assert len(values(found, "uid")) == 1


async def test_executables_are_stated_only_if_asked_for():
    with process(SLEEP, "60") as one:
        plain = await create(Config()).attest(one)
        described = await create(Config(discover_workload_path=True)).attest(one)
        unhashed = await create(Config(discover_workload_path=True, workload_size_limit=-1)).attest(one)
    for kind in ("path", "inode", "sha256"):
        assert values(plain, kind) == set()
    assert values(described, "path") == values(unhashed, "path") == {str(SLEEP)}
    assert len(values(described, "sha256")) == 1
    assert values(unhashed, "sha256") == set()


async def test_an_executable_that_is_too_large_is_a_failure():
    attestor = UnixAttestor(Config(discover_workload_path=True, workload_size_limit=1))
    with process(SLEEP, "60") as one, pytest.raises(WorkloadAttestationError, match="larger than 1 bytes"):
        await attestor.attest(one)


@pytest.mark.parametrize("config", [Config(), Config(discover_workload_path=True)], ids=["plain", "path"])
async def test_a_process_that_has_exited_is_a_failure(config):
    with running(SLEEP, "60") as child, held(child.pid) as one:
        child.kill()
        child.wait(5)
        with pytest.raises(WorkloadAttestationError, match="process cannot be examined"):
            await UnixAttestor(config).attest(one)


async def test_a_zombie_has_no_executable():
    with running(SLEEP, "60") as child, held(child.pid) as one:
        child.kill()
        os.waitid(os.P_PID, child.pid, os.WEXITED | os.WNOWAIT)
        with pytest.raises(WorkloadAttestationError):
            await UnixAttestor(Config(discover_workload_path=True)).attest(one)

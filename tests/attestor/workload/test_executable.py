# SPDX-License-Identifier: Apache-2.0
"""Path, inode and hash of what runs are those of one file."""

import contextlib
import hashlib
import os
import shutil
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from attestor.errors import PeerGoneError, WorkloadAttestationError
from attestor.workload.executable import MAX_HASHES, Executables
from spiffekit.daemon.peer import PeerProcess
from tests.attestor.workload.processes import held, process, running
from tests.fakes.fuse import GETATTR, NAME, mounted

PEER = PeerProcess(pid=0, uid=1, gid=1, pidfd=-1)
DISK = os.makedev(8, 1)
SLEEP = Path(shutil.which("sleep")).resolve()


@dataclass
class Replaced:
    """A process folder whose executable is another each time it is looked at."""

    proc: Path
    looks: list = field(default_factory=list)
    peer: PeerProcess = PEER

    def executable(self):
        return self.looks.pop(0)


@pytest.fixture
def proc(tmp_path):
    (tmp_path / "exe").symlink_to(SLEEP)
    return tmp_path


def look(inode=1, *, device=DISK, size=10, changed=0):
    return (device, inode, size, 0, changed)


async def test_an_executable_is_described_by_path_inode_and_hash():
    with process(SLEEP, "60") as one:
        found = await Executables().describe(one)
    info = SLEEP.stat()
    assert found.path == str(SLEEP)
    assert found.sha256 == hashlib.sha256(SLEEP.read_bytes()).hexdigest()
    assert found.inode in {f"{info.st_dev}:{info.st_ino}", ""}


async def test_a_replaced_file_does_not_lend_its_name(tmp_path):
    copy = tmp_path / "program"
    shutil.copy(SLEEP, copy)
    with process(copy, "60") as one:
        copy.unlink()
        shutil.copy("/bin/true", copy)
        found = await Executables().describe(one)
    assert found.path == ""
    assert found.sha256 == hashlib.sha256(SLEEP.read_bytes()).hexdigest()


ELSEWHERE = """
set -e
mount --bind {mine} {theirs}
echo mounted
exec {theirs} 60
"""


async def test_a_hash_is_not_that_of_the_file_which_the_path_names_for_us(tmp_path):
    """In a mount namespace of its own a process executes another file under a path that we trust."""
    mine, theirs = tmp_path / "mine", tmp_path / "theirs"
    mine.write_bytes(SLEEP.read_bytes() + b"evil")
    theirs.write_bytes(SLEEP.read_bytes() + b"good")
    for program in (mine, theirs):
        program.chmod(0o755)
    script = ELSEWHERE.format(mine=mine, theirs=theirs)
    with running("unshare", "-Urm", "sh", "-c", script) as child:
        assert child.stdout.readline() == "mounted\n"
        exe = Path(f"/proc/{child.pid}/exe")
        while str(exe.readlink()) != str(theirs):
            assert child.poll() is None
        with held(child.pid) as one:
            found = await Executables().describe(one)
    assert found.path == str(theirs)
    assert found.sha256 == hashlib.sha256(mine.read_bytes()).hexdigest()
    assert found.inode in {f"{mine.stat().st_dev}:{mine.stat().st_ino}", ""}


async def test_a_number_that_the_kernel_gives_anew_names_no_file(proc):
    anonymous = look(device=os.makedev(0, 42))
    assert (await Executables().describe(Replaced(proc, [anonymous] * 2))).inode == ""
    assert (await Executables().describe(Replaced(proc, [look(7)] * 2))).inode == "2049:7"


async def test_an_executable_that_changes_meanwhile_is_refused_and_not_remembered(proc):
    executables = Executables()
    with pytest.raises(WorkloadAttestationError, match="changed while it was read"):
        await executables.describe(Replaced(proc, [look(1), look(2)]))
    (proc / "exe").unlink()
    (proc / "exe").symlink_to("/bin/true")
    found = await executables.describe(Replaced(proc, [look(1), look(1)]))
    assert found.sha256 == hashlib.sha256(Path("/bin/true").read_bytes()).hexdigest()


async def test_a_hash_is_computed_once_and_the_longest_unused_is_forgotten(proc):
    executables = Executables()
    first = await executables.describe(Replaced(proc, [look(1)] * 2))
    (proc / "exe").unlink()
    (proc / "exe").symlink_to("/bin/true")
    assert (await executables.describe(Replaced(proc, [look(1)] * 2))).sha256 == first.sha256
    for inode in range(2, MAX_HASHES + 2):
        await executables.describe(Replaced(proc, [look(inode)] * 2))
    assert (await executables.describe(Replaced(proc, [look(1)] * 2))).sha256 != first.sha256


async def test_a_hash_on_a_file_system_without_a_device_is_computed_once_too(proc):
    executables, anonymous = Executables(), look(device=os.makedev(0, 42))
    first = await executables.describe(Replaced(proc, [anonymous] * 2))
    (proc / "exe").unlink()
    (proc / "exe").symlink_to("/bin/true")
    assert (await executables.describe(Replaced(proc, [anonymous] * 2))).sha256 == first.sha256


async def test_a_file_that_changed_a_moment_ago_is_hashed_anew_each_time(proc):
    """Its times might be the same after another change."""
    executables, far = Executables(), 2**63
    first = await executables.describe(Replaced(proc, [look(changed=far)] * 2))
    (proc / "exe").unlink()
    (proc / "exe").symlink_to("/bin/true")
    assert (await executables.describe(Replaced(proc, [look(changed=far)] * 2))).sha256 != first.sha256


@contextlib.contextmanager
def executing(folder):
    """A process that executes the file of a FUSE mount; by way of a shell, since `Popen` waits for `exec`."""
    with running("sh", "-c", f"exec {folder}/{NAME} 60") as child:
        exe = Path(f"/proc/{child.pid}/exe")
        while str(exe.readlink()) != f"{folder}/{NAME}":
            assert child.poll() is None
        with held(child.pid) as one:
            yield one


EXECUTED, SHOWN = SLEEP.read_bytes() + b"evil", SLEEP.read_bytes() + b"good"


async def test_of_an_executable_on_a_fuse_mount_no_hash_is_stated(tmp_path):
    """Its server shows us another file than was executed."""
    with mounted(tmp_path, answers=True, contents=(EXECUTED, SHOWN)), executing(tmp_path) as one:
        assert (await Executables(remote=True).describe(one)).sha256 == hashlib.sha256(SHOWN).hexdigest()
        found = await Executables().describe(one)
    assert (found.sha256, found.inode) == ("", "")
    assert found.path == f"{tmp_path}/{NAME}"


async def test_a_fuse_mount_does_not_get_a_hash_by_the_numbers_of_another_file(tmp_path):
    """Numbers of devices are given anew, and its server may choose inode, size and times."""
    with mounted(tmp_path, answers=True, contents=(EXECUTED,)), executing(tmp_path) as one:
        executables = Executables()
        executables._hashes[one.executable()] = "f" * 64
        assert (await executables.describe(one)).sha256 == ""


async def test_what_a_process_executes_is_known_without_asking_a_server(tmp_path):
    """One that does not answer would stop the whole daemon."""
    with mounted(tmp_path, answers=True, contents=(EXECUTED,)) as server, executing(tmp_path) as one:
        before = server.asked[GETATTR]
        assert one.executable()[2] == len(EXECUTED)
        assert server.asked[GETATTR] == before
        os.stat(one.proc / "exe")
        assert server.asked[GETATTR] == before + 1


async def test_a_limit_refuses_larger_files_and_below_zero_none_is_hashed(proc):
    with pytest.raises(WorkloadAttestationError, match="larger than 9 bytes"):
        await Executables(9).describe(Replaced(proc, [look(size=10)] * 2))
    assert (await Executables(10).describe(Replaced(proc, [look(size=10)] * 2))).sha256
    assert (await Executables(-1).describe(Replaced(proc, [look(size=10)] * 2))).sha256 == ""


async def test_a_process_that_exited_is_not_described():
    with running(SLEEP, "60") as child, process(SLEEP, "60") as one:
        os.kill(one.pid, 9)
        os.waitpid(one.pid, 0)
        with pytest.raises(PeerGoneError):
            await Executables().describe(one)
        assert child.poll() is None

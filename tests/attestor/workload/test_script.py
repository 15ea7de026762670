# SPDX-License-Identifier: Apache-2.0
"""What is known and what is only declared of the program that an interpreter runs; and who lies how."""

import asyncio
import contextlib
import hashlib
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from attestor.errors import WorkloadAttestationError
from attestor.peer import Process
from attestor.workload.script import MAX_ARGUMENTS, MAX_NAMES, Config, create
from spiffekit.daemon.config import ConfigError
from spiffekit.selector import typo
from tests.attestor.workload.processes import held, process, running, values
from tests.fakes.fuse import NAME, mounted

PYTHON = Path(sys.executable).resolve()
WAIT = "import sys; print('ready', flush=True); sys.stdin.read()\n"


@pytest.fixture
def project(tmp_path):
    """A program in a folder of a project."""
    (tmp_path / "app").mkdir()
    (tmp_path / "app/main.py").write_text(WAIT)
    return tmp_path


def sha256(path):
    return hashlib.sha256(Path(path).read_bytes()).hexdigest()


def attestor(**options):
    return create(Config(**({"interpreters": (str(PYTHON),)} | options)))


async def attested(one, **options):
    facts = await asyncio.wait_for(attestor(**options).attest(one), 20)
    assert not [s for s in facts.selectors if typo(s)]
    return facts


@contextlib.contextmanager
def started(*command, **options):
    """A process that has said that it is ready."""
    with running(*command, stdin=subprocess.PIPE, **options) as child:
        assert child.stdout.readline() == "ready\n"
        with held(child.pid) as one:
            yield one


async def test_a_program_of_python_is_declared_by_path_and_hash(project):
    program = project / "app/main.py"
    with started(PYTHON, "-u", "-W", "ignore", "app/main.py", "argument", cwd=project) as one:
        found = await attested(one)
    assert set(map(str, found.selectors)) == {
        f"script:declared:path:{program}",
        f"script:declared:sha256:{sha256(program)}",
    }


async def test_a_program_that_names_its_interpreter_itself_is_declared_too(project):
    program = project / "app/main.py"
    program.write_text(f"#!{PYTHON}\n{WAIT}")
    program.chmod(0o755)
    with started(program) as one:
        assert values(await attested(one), "declared:path") == {str(program)}


async def test_a_file_that_is_still_open_is_vouched_for_by_the_kernel(project):
    program = project / "app/main.py"
    program.write_text("import sys; kept = open(sys.argv[0])\n" + WAIT)
    with started(PYTHON, program) as one:
        found = await attested(one)
        assert values(found, "path") == {str(program)}
        assert values(found, "sha256") == {sha256(program)}
        info = program.stat()
        assert values(found, "inode") == (
            {f"{info.st_dev}:{info.st_ino}"} if os.major(info.st_dev) else set()
        )
        program.rename(project / "old.py")
        program.write_text(WAIT)
        replaced = await attested(one)
    assert values(replaced, "sha256") == set()
    assert values(replaced, "declared:sha256") == {sha256(program)}, "what is there now, says the page"


@pytest.mark.skipif(not shutil.which("javac"), reason="needs a JDK")
async def test_java_has_its_archive_open(tmp_path):
    (tmp_path / "Main.java").write_text(
        "class Main { public static void main(String[] a) throws Exception"
        ' { System.out.println("ready"); System.in.read(); } }'
    )
    java = Path(shutil.which("java")).resolve()
    subprocess.run(["javac", "Main.java"], cwd=tmp_path, check=True, timeout=60)
    subprocess.run(["jar", "cfe", "app.jar", "Main", "Main.class"], cwd=tmp_path, check=True, timeout=60)
    options = ("-Xshare:auto", "-XX:TieredStopAtLevel=1", "-jar", "app.jar")
    with started(java, *options, cwd=tmp_path) as one:
        found = await attested(one, interpreters=(str(java),))
    assert values(found, "path") == {str(tmp_path / "app.jar")}
    assert values(found, "sha256") == {sha256(tmp_path / "app.jar")}


@pytest.mark.skipif(not shutil.which("node"), reason="needs Node.js")
async def test_a_program_of_node_is_declared(tmp_path):
    (tmp_path / "main.js").write_text("console.log('ready'); process.stdin.resume()")
    node = Path(shutil.which("node")).resolve()
    with started(node, "--no-warnings", "main.js", cwd=tmp_path) as one:
        found = await attested(one, interpreters=(str(node),))
    assert {s.value for s in found.selectors} == {
        f"declared:path:{tmp_path}/main.js",
        f"declared:sha256:{sha256(tmp_path / 'main.js')}",
    }


async def test_an_interpreter_is_known_by_hash_too_and_nothing_else_is_one(project):
    with started(PYTHON, "app/main.py", cwd=project) as one:
        assert (await attested(one, interpreters=(sha256(PYTHON),))).selectors
        assert not (await attested(one, interpreters=("/usr/bin/python-of-another",))).selectors
        assert not (await attested(one, interpreters=("0" * 64,))).selectors


async def test_environment_lock_file_and_charter_are_declared_by_the_nearest(project):
    venv = project / "venv"
    (venv / "bin").mkdir(parents=True)
    (venv / "bin/python").symlink_to(PYTHON)
    (venv / "pyvenv.cfg").write_text(f"home = {PYTHON.parent}\n")
    (project / "uv.lock").write_text("of the project")
    (project / "app/agent").mkdir()
    (project / "app/agent/charter.toml").write_text("may: nothing")
    options = {"lock_files": ("uv.lock", "none.lock"), "charter_files": ("agent/charter.toml",)}
    with started("venv/bin/python", "app/main.py", cwd=project) as one:
        found = await attested(one, **options)
        (project / "app/uv.lock").write_text("nearer")
        nearer = await attested(one, **options)
    assert values(found, "declared:venv") == {str(venv)}
    assert values(found, "declared:lock-sha256") == {sha256(project / "uv.lock")}
    assert values(found, "declared:charter-sha256") == {sha256(project / "app/agent/charter.toml")}
    assert values(nearer, "declared:lock-sha256") == {sha256(project / "app/uv.lock")}


async def test_a_program_without_a_file_has_none_but_its_folder_has(project):
    (project / "uv.lock").write_text("of the project")
    for arguments in (["-c", WAIT, "app/main.py"], ["-c", WAIT, *["x"] * 100]):
        with started(PYTHON, *arguments, cwd=project) as one:
            found = await attested(one, lock_files=("uv.lock",))
        assert {s.value for s in found.selectors} == {f"declared:lock-sha256:{sha256(project / 'uv.lock')}"}


async def test_only_so_many_arguments_are_looked_at(project):
    (project / "wait.py").write_text(WAIT)
    with started(PYTHON, *["-u"] * MAX_ARGUMENTS, "wait.py", cwd=project) as one:
        assert not (await attested(one)).selectors


async def test_a_command_line_and_a_folder_that_are_rewritten_change_only_what_is_declared(project):
    """As any process can do it: the memory of its arguments is its own."""
    (project / "trusted").mkdir()
    (project / "trusted/main.py").write_text("# trusted\n")
    liar = f"""
import ctypes, os
os.chdir({str(project / "trusted")!r})
os.environ["VIRTUAL_ENV"] = "/trusted"
start, end = (int(open("/proc/self/stat").read().rpartition(")")[2].split()[n]) for n in (45, 46))
line = {str(PYTHON)!r}.encode() + b"\\0main.py\\0"
ctypes.memset(start, 0, end - start)
ctypes.memmove(start, line, len(line))
"""
    (project / "app/main.py").write_text(liar + WAIT)
    with started(PYTHON, project / "app/main.py", "x" * 100, cwd=project) as one:
        found = await attested(one)
    assert values(found, "declared:path") == {str(project / "trusted/main.py")}
    assert all(s.value.startswith("declared:") for s in found.selectors)


async def test_links_pipes_and_names_that_cannot_be_written_are_no_program(project):
    (project / "pipe").parent.mkdir(exist_ok=True)
    os.mkfifo(project / "pipe")
    (project / "line\nfeed.py").write_text(WAIT)
    with started(PYTHON, "line\nfeed.py", cwd=project) as one:
        found = await attested(one)
    assert not values(found, "declared:path")
    assert values(found, "declared:sha256"), "of the rest, what can be said is said"
    with process("sleep", "60", cwd=project) as one:
        command = Line(one, project, b"python\0pipe\0")
        assert not (await attested(command, interpreters=(os.path.realpath("/bin/sleep"),))).selectors


class Line:
    """A process with another command line."""

    def __init__(self, process, folder, line):
        self.peer, self.executable = process.peer, process.executable
        self.proc = folder / "proc"
        self.proc.mkdir()
        for name in ("exe", "cwd", "root", "fd", "map_files"):
            (self.proc / name).symlink_to(f"/proc/{process.pid}/{name}")
        (self.proc / "exe").unlink()
        (self.proc / "exe").symlink_to(os.readlink(f"/proc/{process.pid}/exe"))
        (self.proc / "cwd").unlink()
        (self.proc / "cwd").symlink_to(folder)
        (self.proc / "cmdline").write_bytes(line)


@pytest.mark.parametrize("line", [b"", b"\0\0\0", b"\xff/\xff\0\xff", b"x" * 100_000], ids=str)
async def test_whatever_a_command_line_is_nothing_breaks(tmp_path, line):
    with process("sleep", "60") as one:
        command = Line(one, tmp_path, line)
        assert not (await attested(command, interpreters=(os.path.realpath("/bin/sleep"),))).selectors


async def test_a_file_system_that_never_answers_costs_its_user_and_nobody_else(project):
    hanging = project / "hanging"
    hanging.mkdir()
    with mounted(hanging, answers=False):
        with process("sleep", "60") as one:
            command = Line(one, project, f"python\0{hanging}/{NAME}\0".encode())
            judge = attestor(interpreters=(os.path.realpath("/bin/sleep"),))
            with pytest.raises(TimeoutError):
                await asyncio.wait_for(judge.attest(command), 0.2)
            assert judge._aside._running.total() == 1
    while judge._aside._running:  # taken away, it answers
        await asyncio.sleep(0)


async def test_a_process_that_executes_something_else_meanwhile_is_refused(project):
    with started(PYTHON, "app/main.py", cwd=project) as one, process("sleep", "60") as other:
        looks = [one.executable()] * 2 + [other.executable()] * 2

        class Changing:
            peer, proc = one.peer, one.proc

            def executable(self):
                return looks.pop(0)

        with pytest.raises(WorkloadAttestationError, match="executes something else"):
            await attestor(interpreters=(str(PYTHON), "0" * 64)).attest(Changing())


async def test_a_process_that_exited_is_a_failure(project):
    with started(PYTHON, "app/main.py", cwd=project) as one:
        os.kill(one.pid, 9)
        os.waitpid(one.pid, 0)
        with pytest.raises(WorkloadAttestationError, match="cannot be examined"):
            await attestor().attest(Process.of(one.peer))


@pytest.mark.parametrize(
    ("options", "rule"),
    [
        ({"interpreters": ()}, "interpreters: at least one is needed"),
        ({"interpreters": ("python3",)}, "neither an absolute path nor a SHA-256"),
        ({"lock_files": ("../uv.lock",)}, "lock_files: '../uv.lock' is not a path below"),
        ({"charter_files": ("/etc/charter",)}, "charter_files: '/etc/charter' is not a path below"),
        ({"lock_files": ("",)}, "lock_files: '' is not a path below"),
        ({"lock_files": ("a",) * (MAX_NAMES + 1)}, "lock_files: more than 16"),
    ],
)
def test_a_table_that_cannot_be_used_is_refused(options, rule):
    with pytest.raises(ConfigError) as caught:
        attestor(**options)
    assert rule in str(caught.value)

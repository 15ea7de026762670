# SPDX-License-Identifier: Apache-2.0
"""A workload attestor in a process of its own: what it may say, and what becomes of one that misbehaves."""

import asyncio
import contextlib
import hashlib
import json
import logging
import os
import shutil
import signal
import socket
import sys
import time
from pathlib import Path

import pytest

from attestor.errors import WorkloadAttestationError
from attestor.workload import Facts, external
from attestor.workload.external import MAX_SELECTORS
from spiffekit.daemon import child, goplugin
from spiffekit.selector import MAX_VALUE_BYTES
from tests.attestor.workload.plugins import gone, program, running, table
from tests.attestor.workload.processes import held
from tests.attestor.workload.processes import running as process


async def until(condition):
    async with asyncio.timeout(10):
        while not condition():
            await asyncio.sleep(0.01)


def said(caplog, event):
    return [record for record in caplog.records if record.getMessage() == event]


def why(caplog):
    """Why it could not be started, the last time."""
    return said(caplog, "plug-in cannot be started")[-1].reason


async def selectors(attestor, pid=None):
    with held(pid or os.getpid()) as one:
        return {str(selector) for selector in (await attestor.attest(one)).selectors}


async def refused(folder, caplog, *arguments, **options):
    """Why a plug-in is not used; what is asked meanwhile gets no answer."""
    async with running(folder, *arguments, **options) as attestor:
        with pytest.raises(WorkloadAttestationError, match="does not run"):
            await selectors(attestor)
    return why(caplog)


async def test_what_it_states_is_of_the_type_under_which_it_is_configured(tmp_path):
    async with running(tmp_path, name="fleet") as attestor:
        assert attestor.type == "fleet"
        assert await selectors(attestor) == {f"fleet:uid:{os.geteuid()}", "fleet:td:example.org"}


async def test_it_cannot_state_what_is_of_another_type(tmp_path):
    async with running(tmp_path, data={"say": ["unix:uid:0", "k8s:sa:admin"]}) as attestor:
        assert await selectors(attestor) == {"foo:unix:uid:0", "foo:k8s:sa:admin"}


async def test_a_process_that_is_not_of_its_kind_has_no_selectors(tmp_path):
    async with running(tmp_path, data={"say": []}) as attestor:
        with held(os.getpid()) as one:
            assert await attestor.attest(one) == Facts()


@pytest.mark.parametrize(
    ("values", "rule"),
    [
        ([""], "has no value"),
        (["a\nb"], "control character"),
        (["a\x1b[31m"], "control character"),
        (["x" * (MAX_VALUE_BYTES + 1)], f"longer than {MAX_VALUE_BYTES} bytes"),
        (["same"] * (MAX_SELECTORS + 1), f"more than {MAX_SELECTORS}"),
        (["good", ""], "has no value"),
    ],
    ids=["empty", "line feed", "escape", "long", "many", "one of several"],
)
async def test_what_no_attestor_may_state_is_a_failure(tmp_path, values, rule):
    async with running(tmp_path, data={"say": values}) as attestor:
        with pytest.raises(WorkloadAttestationError, match=rule):
            await selectors(attestor)


async def test_an_answer_that_is_no_text_or_too_large_is_a_failure(tmp_path):
    async with running(tmp_path, data={"attest": "malformed"}) as attestor:
        with pytest.raises(WorkloadAttestationError, match="plug-in fails"):
            await selectors(attestor)
    async with running(tmp_path, data={"say": ["x" * 8000] * 200}) as attestor:
        with pytest.raises(WorkloadAttestationError, match="plug-in fails: RESOURCE_EXHAUSTED"):
            await selectors(attestor)


async def test_its_own_words_are_quoted_and_cut(tmp_path):
    async with running(tmp_path, data={"attest": "fail"}) as attestor:
        with pytest.raises(WorkloadAttestationError) as caught:
            await selectors(attestor)
    assert str(caught.value).startswith(r"plug-in fails: INTERNAL: 'runtime is down\nxxx")
    assert len(str(caught.value)) < 300


async def test_a_process_that_exits_while_it_is_asked_about_is_a_failure(tmp_path):
    """Its number may be another's already, whom the plug-in was asked about."""
    with process("sleep", "60") as one, held(one.pid) as held_one:
        async with running(tmp_path, data={"say": ["x"]}) as attestor:
            one.kill()
            one.wait(5)
            with pytest.raises(WorkloadAttestationError, match="has exited"):
                await attestor.attest(held_one)


async def test_one_that_does_not_answer_holds_nobody_up_but_who_asks(tmp_path):
    async with running(tmp_path, data={"attest": "hang"}) as attestor:
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(selectors(attestor), 0.2)


async def test_one_that_dies_while_it_is_asked_is_a_failure_and_is_started_again(tmp_path, caplog):
    caplog.set_level(logging.INFO)
    async with running(tmp_path, data={"attest": "die"}) as attestor:
        with pytest.raises(WorkloadAttestationError, match=r"fails: UNAVAILABLE|ended while it was asked"):
            await selectors(attestor)
        await until(lambda: len(said(caplog, "plug-in serves")) == 2)
    assert said(caplog, "plug-in has ended")[0].how == "signal 9"


async def test_what_is_asked_while_it_is_ended_is_a_failure(tmp_path, caplog, monkeypatch):
    monkeypatch.setattr(goplugin, "ENDS_WITHIN", 0.1)
    caplog.set_level(logging.INFO)
    async with running(tmp_path, data={"attest": "hang"}) as attestor:
        asked = asyncio.create_task(selectors(attestor))
        await until(lambda: "asked" in {record.line for record in said(caplog, "child says")})
    with pytest.raises(WorkloadAttestationError, match="ended while it was asked"):
        await asked


async def test_it_is_ended_with_us_and_told_so_before(tmp_path, caplog):
    caplog.set_level(logging.INFO)
    async with running(tmp_path):
        pid = said(caplog, "plug-in serves")[0].pid
        folder = Path(table_of(pid)["PLUGIN_UNIX_SOCKET_DIR"])
        assert folder.stat().st_mode & 0o777 == 0o700
    assert gone(pid)
    assert not folder.exists()
    assert "deinit" in {record.line for record in said(caplog, "child says")}


def table_of(pid):
    return dict(v.split("=", 1) for v in Path(f"/proc/{pid}/environ").read_text().split("\0") if "=" in v)


async def test_one_that_does_not_end_is_killed(tmp_path, caplog, monkeypatch):
    monkeypatch.setattr(goplugin, "ENDS_WITHIN", 0.1)
    caplog.set_level(logging.INFO)
    async with running(tmp_path, "does not end"):
        pid = said(caplog, "plug-in serves")[0].pid
    assert gone(pid)


async def test_it_does_not_outlive_a_daemon_that_is_killed(tmp_path):
    report = tmp_path / "report"
    code = f"""
import asyncio
from pathlib import Path
from tests.attestor.workload.plugins import running
async def main():
    async with running(Path({str(tmp_path)!r}), "reports", {str(report)!r}):
        print("up", flush=True)
        await asyncio.sleep(60)
asyncio.run(main())
"""
    leaves = {**os.environ, "TMPDIR": str(tmp_path)}  # whoever is killed takes nothing away
    with process(sys.executable, "-c", code, cwd=Path(__file__).parents[3], env=leaves) as daemon:
        assert await asyncio.to_thread(daemon.stdout.readline) == "up\n"
        pid = json.loads(report.read_text())["ids"][0]
        assert not gone(pid)
        daemon.kill()
        await until(lambda: gone(pid))


async def test_it_gets_nothing_of_ours(tmp_path, monkeypatch):
    monkeypatch.setenv("SECRET", "of the daemon")
    report = tmp_path / "report"
    with open(tmp_path / "ours", "w") as ours, socket.socket() as connection:
        os.set_inheritable(ours.fileno(), True)
        os.set_inheritable(connection.fileno(), True)
        async with running(tmp_path, "reports", str(report), plugin_env=("GREETING=hi=there", "PATH=/bin")):
            found = json.loads(report.read_text())
    assert found["environment"].pop("PLUGIN_UNIX_SOCKET_DIR") == found["environment"].pop("TMPDIR")
    assert found["environment"] == {
        "WorkloadAttestor": "WorkloadAttestor",
        "PLUGIN_PROTOCOL_VERSIONS": "1",
        "PATH": "/bin",
        "LANG": "C.UTF-8",
        "GREETING": "hi=there",
    }
    assert found["descriptors"].pop("0") == "/dev/null"
    assert [found["descriptors"].pop(fd).partition(":")[0] for fd in ("1", "2")] == ["pipe"] * 2
    assert set(found["descriptors"].values()) == {str(tmp_path / "plugin")}, "a script has its own file"
    pid, group, session = found["ids"]
    assert (pid, found["folder"], found["arguments"]) == (group, "/", ["reports", str(report)])
    assert session == pid


async def test_an_executable_has_no_descriptor_but_its_pipes():
    sleep = Path(shutil.which("sleep")).resolve()
    digest = hashlib.sha256(sleep.read_bytes()).hexdigest()
    async with child.running(child.Program(sleep, digest, ("60",)), "sleep") as one:
        proc = Path(f"/proc/{one.process.pid}")
        # The link to the executable changes a moment before the arguments can be read.
        await until(lambda: (proc / "cmdline").read_bytes() == f"{sleep}\0{60}\0".encode())
        assert (proc / "exe").readlink() == sleep
        assert {path.name for path in (proc / "fd").iterdir()} == {"0", "1", "2"}


async def test_another_file_than_the_configured_one_does_not_run(tmp_path, caplog):
    trace = tmp_path / "trace"
    path = program(tmp_path)
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    path.write_text(f"#!/bin/sh\ntouch {trace}\n")
    reason = await refused(tmp_path, caplog, path=path, plugin_checksum=digest)
    assert "not the configured one" in reason
    assert not trace.exists()


async def test_a_link_that_is_turned_after_it_was_judged_does_not_matter(tmp_path, monkeypatch):
    """The opened file is what is judged and what runs."""
    trace, link = tmp_path / "trace", tmp_path / "link"
    evil = tmp_path / "evil"
    evil.write_text(f"#!/bin/sh\ntouch {trace}\n")
    evil.chmod(0o755)
    good = program(tmp_path)
    link.symlink_to(good)
    judged = child._judged

    def turned(meant):
        file = judged(meant)
        link.unlink()
        link.symlink_to(evil)
        return file

    monkeypatch.setattr(child, "_judged", turned)
    async with running(tmp_path, path=link) as attestor:
        assert await selectors(attestor)
    assert not trace.exists()


@pytest.mark.parametrize(
    ("mode", "owner"), [(0o775, None), (0o757, None), (0o755, 12345)], ids=["group", "others", "owner"]
)
async def test_a_file_that_others_could_write_does_not_run(tmp_path, caplog, mode, owner):
    path = program(tmp_path)
    path.chmod(mode)
    if owner is not None:
        if os.geteuid():
            pytest.skip("gives a file away, which needs root")
        os.chown(path, owner, owner)
    assert "can be written by others" in await refused(tmp_path, caplog, path=path)


async def test_what_is_no_file_does_not_run(tmp_path, caplog):
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    assert "no file that could be run" in await refused(tmp_path, caplog, path=pipe, plugin_checksum="0" * 64)
    missing = tmp_path / "missing"
    assert "No such file" in await refused(tmp_path, caplog, path=missing, plugin_checksum="0" * 64)
    text = tmp_path / "text"
    text.write_text("neither script nor executable")
    text.chmod(0o755)
    assert "without saying where" in await refused(tmp_path, caplog, path=text)


@pytest.mark.parametrize(
    ("start", "rule"),
    [
        ("dies", "has ended without saying where it serves"),
        ("says nonsense", r"but b'hello\n'"),
        ("floods", "says too much"),
        ("another listens", "another process than the plug-in"),
        ("is another", "is no workload attestor; it offers ['x.Other']"),
    ],
)
async def test_one_that_does_not_start_as_it_should_is_not_used(tmp_path, caplog, start, rule):
    reason = await refused(tmp_path, caplog, start)
    assert rule in reason


async def test_one_that_does_not_serve_in_time_is_killed(tmp_path, caplog, monkeypatch):
    monkeypatch.setattr(external, "STARTS_WITHIN", 0.5)
    began = time.monotonic()
    assert await refused(tmp_path, caplog, "hangs") == "plug-in does not serve within 0.5 s"
    assert time.monotonic() - began < 10


@contextlib.contextmanager
def listening(path):
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(path))
        listener.listen()
        yield path


async def test_the_socket_of_somebody_else_is_not_used(tmp_path, caplog):
    with listening(tmp_path / "theirs") as theirs:
        assert "not in the folder that it was given" in await refused(
            tmp_path, caplog, "elsewhere", str(theirs)
        )
        assert "no socket of its own" in await refused(tmp_path, caplog, "link", str(theirs))


async def test_the_socket_of_another_user_is_not_used(tmp_path, monkeypatch):
    with listening(tmp_path / "theirs") as theirs:
        monkeypatch.setattr(os, "geteuid", lambda: 12345)
        with pytest.raises(child.ChildError, match="no socket of its own"):
            goplugin._judge(theirs, None)


async def test_a_socket_where_nobody_is_known_is_not_used(tmp_path, monkeypatch):
    def unknown(connection):
        raise goplugin.PeerUnknownError("in another namespace")

    monkeypatch.setattr(goplugin.PeerProcess, "from_socket", unknown)
    with listening(tmp_path / "socket") as path, pytest.raises(child.ChildError, match="nobody is known"):
        goplugin._judge(path, None)


async def test_a_configuration_that_it_refuses_is_told(tmp_path, caplog):
    reason = await refused(tmp_path, caplog, data="refuse")
    assert reason == "INVALID_ARGUMENT: 'no such\\noption'"


async def test_a_configuration_that_it_cannot_take_is_told(tmp_path, caplog):
    assert "nothing that would take it" in await refused(tmp_path, caplog, "takes no data", data="x = 1")
    async with running(tmp_path, "takes no data") as attestor:
        assert f"foo:uid:{os.geteuid()}" in await selectors(attestor)


@pytest.mark.parametrize("escapes", [False, True])
async def test_a_child_of_its_own_that_has_its_pipes_holds_nothing_up(tmp_path, caplog, escapes):
    caplog.set_level(logging.INFO)
    report = tmp_path / "report"
    async with running(tmp_path, "leaves a child", str(report), *["escapes"] * escapes):
        os.kill(said(caplog, "plug-in serves")[0].pid, signal.SIGKILL)
        await until(lambda: len(said(caplog, "plug-in serves")) == 2)
        pid = int(report.read_text())
    if escapes:  # into a session of its own: only who has its control group could find it
        os.kill(pid, signal.SIGKILL)
    await until(lambda: gone(pid))


async def test_what_it_prints_is_logged_escaped_and_not_without_end(tmp_path, caplog):
    caplog.set_level(logging.INFO)
    async with running(tmp_path, "floods its log") as attestor:
        assert await asyncio.wait_for(selectors(attestor), 5)
        await until(lambda: any(hasattr(record, "lines_left_out") for record in said(caplog, "child says")))
    lines = said(caplog, "child says")
    assert {record.line for record in lines} <= {"x\x1b[31m\ufffd", "printed", "deinit"}
    assert len(lines) < 2 * child.LINES_AT_ONCE
    assert {record.child for record in lines} == {"foo"}


@pytest.mark.parametrize(
    ("line", "level"),
    [
        (b'{"@level":"error","@message":"x"}', logging.ERROR),
        (b'{"@level":"warn"}', logging.WARNING),
        (b'{"@level":"debug"}', logging.DEBUG),
        (b'{"@level":"nonsense"}', logging.INFO),
        (b"plain", logging.INFO),
    ],
)
async def test_a_line_has_the_level_that_it_says(caplog, line, level):
    caplog.set_level(logging.DEBUG)
    await child.Lines("foo").feed(line + b"\n")
    assert [(record.levelno, record.line) for record in caplog.records] == [(level, line.decode())]


async def test_a_line_without_end_is_cut(caplog):
    caplog.set_level(logging.INFO)
    lines = child.Lines("foo")
    for _ in range(10):
        await lines.feed(b"x" * child.MAX_LINE)
    assert {len(record.line) for record in said(caplog, "child says")} == {child.MAX_LINE}
    assert len(lines._begun) <= child.MAX_LINE


async def test_one_that_keeps_ending_is_started_ever_more_seldom(tmp_path, monkeypatch):
    class Waits:
        def __init__(self):
            self.slept = []
            # When each run begins and ends; the fourth was a long one.
            self.moments = iter([0, 1, 2, 3, 4, 5, 6, 6 + 2 * external.STEADY])

        def monotonic(self):
            return next(self.moments)

        async def sleep(self, duration):
            self.slept.append(duration.total_seconds())
            if len(self.slept) == 4:
                raise asyncio.CancelledError

    waits = Waits()
    one = external.ExternalAttestor("foo", table(tmp_path, "dies"), None, waits)
    with pytest.raises(asyncio.CancelledError):
        await asyncio.wait_for(one.run(lambda: None), 30)
    first, second, third, again = waits.slept
    assert 0.9 <= first < second < third
    assert 0.9 <= again <= 1.1


async def test_a_process_that_cannot_be_killed_is_told(caplog, monkeypatch):
    monkeypatch.setattr(child, "KILLED_WITHIN", 0.01)

    class Stuck:
        pid = os.getpid()

        def wait(self, timeout):
            raise child.subprocess.TimeoutExpired("x", timeout)

    monkeypatch.setattr(os, "killpg", lambda *_: None)
    child._end(Stuck(), "foo")
    assert len(said(caplog, "child cannot be killed")) == 1

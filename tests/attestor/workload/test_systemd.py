# SPDX-License-Identifier: Apache-2.0
"""What the systemd attestor makes of the bus's answers; a real systemd is asked in tests/engines."""

import asyncio
import os
from dataclasses import dataclass
from pathlib import Path

import pytest
from dbus_fast import ErrorType, Message, Variant

from attestor.errors import WorkloadAttestationError
from attestor.workload.systemd import MAX_CONNECTIONS, Config, SystemdAttestor, create
from spiffekit.selector import typo
from tests.fakes.bus import bus

UNIT = "/org/freedesktop/systemd1/unit/web_2eservice"
PROPERTIES = {"Id": "web.service", "FragmentPath": "/etc/systemd/system/web.service"}
GROUP = "/system.slice/web.service"


@dataclass(frozen=True)
class Folder:
    proc: Path


@pytest.fixture
def root(tmp_path):
    """A machine whose process 1 is systemd, with version 2 of the cgroups."""
    for name in ("1/ns", "self/ns", "7"):
        (tmp_path / "proc" / name).mkdir(parents=True)
    (tmp_path / "proc/1/comm").write_text("systemd\n")
    (tmp_path / "proc/1/ns/cgroup").touch()
    os.link(tmp_path / "proc/1/ns/cgroup", tmp_path / "proc/self/ns/cgroup")
    (tmp_path / "sys/fs/cgroup").mkdir(parents=True)
    (tmp_path / "sys/fs/cgroup/cgroup.controllers").touch()
    (tmp_path / "proc/7/cgroup").write_text(f"0::{GROUP}\n")
    return tmp_path


@pytest.fixture
def process(root):
    return Folder(root / "proc/7")


@pytest.fixture
def attestor(root):
    return SystemdAttestor(Config(root / "bus"), root)


def answer(message):
    if message.member == "GetUnitByControlGroup":
        assert message.body == [GROUP]
        return Message.new_method_return(message, "o", [UNIT])
    assert message.path == UNIT
    value = PROPERTIES[message.body[1]]
    return Message.new_method_return(message, "v", [Variant("s", value)])


async def refusal(attestor, process):
    with pytest.raises(WorkloadAttestationError) as caught:
        await asyncio.wait_for(attestor.attest(process), 5)
    return str(caught.value)


async def test_a_unit_is_asked_for_by_the_cgroup_of_the_process(root, attestor, process):
    async with bus(root / "bus", answer) as connections:
        found = await attestor.attest(process)
        assert sorted(map(str, found.selectors)) == [
            "systemd:fragment_path:/etc/systemd/system/web.service",
            "systemd:id:web.service",
        ]
        assert not [s for s in found.selectors if typo(s)]
    assert not connections


async def test_before_version_2_the_hierarchy_is_that_of_systemd(root, attestor, process):
    (root / "sys/fs/cgroup/cgroup.controllers").unlink()
    (process.proc / "cgroup").write_text(f"9:memory:/a\n1:name=systemd:{GROUP}\n0::/b\n")
    async with bus(root / "bus", answer):
        assert len((await attestor.attest(process)).selectors) == 2


async def test_a_unit_without_a_file_has_only_a_name(root, attestor, process):
    def without(message):
        if message.body[1:] == ["FragmentPath"]:
            return Message.new_method_return(message, "v", [Variant("s", "")])
        return answer(message)

    async with bus(root / "bus", without):
        assert set(map(str, (await attestor.attest(process)).selectors)) == {"systemd:id:web.service"}


@pytest.mark.parametrize(
    ("reply", "rule"),
    [
        (lambda m: Message.new_error(m, ErrorType.ACCESS_DENIED, "no"), "refuses GetUnitByControlGroup"),
        (lambda m: Message.new_method_return(m, "u", [7]), "answers GetUnitByControlGroup with 'u'"),
        (lambda m: Message.new_method_return(m, "", []), "answers GetUnitByControlGroup with ''"),
        (lambda m: Message.new_method_return(m, "v", [Variant("u", 7)]), "with 'v'"),
        (lambda m: Message.new_method_return(m, "s", ["no path"]), "cannot be asked"),
        (lambda _: b"", "cannot be asked"),
        (lambda _: b"l\x02\x00\x01" + b"\xff" * 12, "cannot be asked"),
        (lambda _: b"no D-Bus at all, but long enough", "cannot be asked"),
    ],
    ids=["error", "number", "nothing", "variant", "path", "closed", "huge", "noise"],
)
async def test_another_answer_is_a_failure(root, attestor, process, reply, rule):
    async with bus(root / "bus", reply) as connections:
        assert rule in await refusal(attestor, process)
    assert not connections


async def test_a_name_that_is_no_selector_is_a_failure(root, attestor, process):
    def strange(message):
        if message.member == "Get":
            return Message.new_method_return(message, "v", [Variant("s", "two\nlines")])
        return answer(message)

    async with bus(root / "bus", strange):
        assert "control character" in await refusal(attestor, process)


async def test_without_a_bus_or_with_one_that_refuses_us_there_is_a_failure(root, attestor, process):
    assert "cannot be asked" in await refusal(attestor, process)
    async with bus(root / "bus", answer, ok=b"REJECTED EXTERNAL\r\n"):
        assert "cannot be asked" in await refusal(attestor, process)


async def test_a_bus_that_hangs_keeps_no_connection_and_nobody_else_waiting(root, attestor, process):
    silent = True

    def slow(message):
        return None if silent else answer(message)

    async with bus(root / "bus", slow) as connections:
        waiting = [asyncio.create_task(attestor.attest(process)) for _ in range(MAX_CONNECTIONS + 1)]
        while len(connections) < MAX_CONNECTIONS:
            await asyncio.sleep(0)
        for task in waiting:
            task.cancel()
        await asyncio.gather(*waiting, return_exceptions=True)
        assert all(task.cancelled() for task in waiting)
        silent = False
        assert (await attestor.attest(process)).selectors
        while connections:
            await asyncio.sleep(0)


async def test_a_process_that_moves_meanwhile_is_not_described(root, attestor, process):
    def moving(message):
        (process.proc / "cgroup").write_text("0::/user.slice\n")
        return answer(message)

    async with bus(root / "bus", moving):
        assert await refusal(attestor, process) == "process moved to another cgroup"


@pytest.mark.parametrize("group", ["/../../system.slice/web.service", "/..", ""])
async def test_a_process_outside_of_our_cgroups_is_not_described(attestor, process, group):
    (process.proc / "cgroup").write_text(f"0::{group}\n" if group else "1:name=x:/\n")
    assert await refusal(attestor, process) == "process is outside of the cgroups that we see"


async def test_another_process_1_or_another_namespace_than_ours_is_refused(root, attestor, process):
    (root / "proc/1/comm").write_text("tini\n")
    assert "not process 1" in await refusal(attestor, process)
    (root / "proc/1/comm").write_text("systemd\n")
    (root / "proc/self/ns/cgroup").unlink()
    (root / "proc/self/ns/cgroup").touch()
    assert "not process 1" in await refusal(attestor, process)
    (root / "proc/1/comm").unlink()
    (root / "proc/self/ns/cgroup").unlink()
    assert "cannot be examined" in await refusal(attestor, process)


async def test_the_plugin_is_made_of_its_table():
    assert create(Config()).type == "systemd"

# SPDX-License-Identifier: Apache-2.0
"""What an operator is told of a process: what holds, which entries match, and what the others lack."""

import asyncio
import contextlib
import json
import os
from datetime import timedelta
from pathlib import Path

import grpc
import pytest
from click.testing import CliRunner

from attestor import cli
from attestor.assembly import ADMIN_MODE, serving
from attestor.endpoints.admin import MAX_CHANGES, Admin
from attestor.workload import Configured
from spiffekit.daemon.listener import UnixFront
from spiffekit.id import SpiffeId
from spiffekit.template import Template
from spiffekit.wire.pb.attestor.v1 import admin_pb2, admin_pb2_grpc
from spiffekit.wire.status import DETAILS_KEY
from tests.attacks.processes import SLEEP, children
from tests.attestor.endpoints.conftest import until
from tests.attestor.endpoints.world import WITHIN, Client, descriptors, read
from tests.attestor.factory import entry
from tests.attestor.workload.processes import held
from tests.fakes.workload_attestors import BuggyAttestor, FailingAttestor, SlowAttestor

__all__ = ["children"]

Code = grpc.StatusCode
NODE = SpiffeId.parse("spiffe://example.org/spire/agent/test/n1")


@pytest.fixture
def explaining(world, folder):
    """Serve an operator; yields a function that explains a process."""

    @contextlib.asynccontextmanager
    async def serve():
        path = folder / f"admin-{os.urandom(4).hex()}.sock"
        front = UnixFront(path, mode=ADMIN_MODE, identify=lambda peer: peer)
        admin = Admin(world.cache, world.examiner, world.refusals, lambda: NODE)
        async with serving(front, admin.handler()), Client.connect(f"unix:{path}") as client:
            stub = admin_pb2_grpc.AdminStub(client.channel)

            def explain(pid):
                return stub.Explain(admin_pb2.ExplainRequest(pid=pid), timeout=WITHIN)

            def look_up(number):
                return stub.LookUp(admin_pb2.LookUpRequest(correlation_id=number), timeout=WITHIN)

            explain.look_up = look_up
            explain.path = path
            yield explain

    return serve


async def test_findings_matches_and_misses_of_a_process_are_told(world, explaining):
    world.unix.say("uid:1", "gid:2")
    world.grant(entry("web", hint="internal"))
    world.register(
        entry("no-svid", "unix:gid:2", created=1),
        entry("near", "unix:uid:1", "unix:user:root"),
        entry("far", "docker:label:a", "docker:label:b"),
    )
    async with explaining() as explain:
        said = await explain(os.getpid())
    (finding,) = said.findings
    assert (finding.type, list(finding.selectors), finding.error) == (
        "unix",
        ["unix:gid:2", "unix:uid:1"],
        "",
    )
    expires_at = int((world.clock.now() + timedelta(hours=1)).timestamp())
    assert [(m.entry_id, m.spiffe_id, m.hint) for m in said.matches] == [
        ("web", "spiffe://example.org/web", "internal"),
        ("no-svid", "spiffe://example.org/no-svid", ""),
    ]
    assert abs(said.matches[0].svid_expires_at - expires_at) <= 10
    assert said.matches[1].svid_expires_at == 0
    assert [(m.entry_id, m.spiffe_id, list(m.missing)) for m in said.misses] == [
        ("near", "spiffe://example.org/near", ["unix:user:root"]),
        ("far", "spiffe://example.org/far", ["docker:label:a", "docker:label:b"]),
    ]
    assert said.entries == 4


async def test_each_attestor_is_waited_for_and_what_failed_is_told(world, explaining):
    """Whether it matters to an entry or not: the operator asks because something is missing."""
    slow = SlowAttestor("slow", "a:1")
    slow.may_answer.set()
    late = Configured(SlowAttestor("late"), timeout=timedelta(seconds=0.01))
    required = Configured(FailingAttestor(), required=True)
    world.attestors += [Configured(slow), late, required, Configured(BuggyAttestor())]
    async with explaining() as explain:
        said = await explain(os.getpid())
    assert {f.type: (list(f.selectors), f.error) for f in said.findings} == {
        "unix": (["unix:uid:1"], ""),
        "slow": (["slow:a:1"], ""),
        "late": ([], "no answer within 0.01 s"),
        "failing": ([], "the runtime does not answer"),
        "buggy": ([], "LookupError (see the log)"),
    }


@pytest.mark.parametrize("pid", [0, -1, 2**22 + 1, 2**31 - 1])
async def test_a_process_that_there_is_not_is_not_found(explaining, pid):
    async with explaining() as explain:
        with pytest.raises(grpc.aio.AioRpcError, match=f"pid {pid}: ") as caught:
            await explain(pid)
    assert caught.value.code() is Code.NOT_FOUND


async def test_a_process_that_exits_meanwhile_is_not_found(world, explaining, children):
    child = children(SLEEP)
    slow = SlowAttestor("slow")
    world.attestors.append(Configured(slow))
    async with explaining() as explain:
        call = explain(child.pid)
        await until(lambda: slow.waiting)
        child.kill()
        slow.may_answer.set()
        with pytest.raises(grpc.aio.AioRpcError, match=f"pid {child.pid}: caller has exited") as caught:
            await call
    assert caught.value.code() is Code.NOT_FOUND


async def test_asking_leaves_no_descriptor(explaining):
    async with explaining() as explain:
        await explain(os.getpid())
        before = descriptors()
        for pid in [os.getpid(), 0, 2**22 + 1]:
            with contextlib.suppress(grpc.aio.AioRpcError):
                await explain(pid)
        assert descriptors() == before


async def test_sources_ages_and_the_node_are_told(world, explaining):
    world.unix.say("uid:1")
    world.register(entry("own", needs_evidence=True))
    async with explaining() as explain:
        said = await explain(os.getpid())
    assert said.node_id == str(NODE)
    assert said.findings[0].collected_at == world.clock.now().timestamp() * 1e6
    assert said.findings[0].took >= 0
    assert said.matches[0].per_process


async def test_who_is_above_a_process_is_told_from_its_parent_upwards(explaining, children):
    child = children(SLEEP)
    async with explaining() as explain:
        told = (await explain(child.pid)).ancestors
        command = [str(child.pid), "--socketPath", str(explain.path)]
        lines, written = [
            (await asyncio.to_thread(CliRunner().invoke, cli.explain.explain, command + more)).output
            for more in ([], ["--output", "json"])
        ]
    mine = str(Path("/proc/self/exe").readlink())
    assert (told[0].pid, told[0].uid, told[0].executable) == (os.getpid(), os.geteuid(), mine)
    assert told[0].start_ticks > 0
    assert len(told) == 1 or told[1].pid == os.getppid()
    shown = [line for line in lines.splitlines() if line.startswith("  below process ")]
    assert len(shown) == len(told)
    assert shown[0] == f"  below process {os.getpid()} of uid {os.geteuid()}: {mine}"
    assert json.loads(written)["ancestors"][0]["executable"] == mine


async def test_a_template_that_gives_nothing_says_why(world, explaining):
    world.unix.say("uid:1")
    template = Template.parse("spiffe://example.org/u/{unix:user}")
    world.register(entry("users", template=template, needs_evidence=True))
    async with explaining() as explain:
        (miss,) = (await explain(os.getpid())).misses
    assert (miss.spiffe_id, list(miss.missing)) == (str(template), [])
    assert miss.template_error == "placeholder {unix:user} has no value"


async def test_a_refused_call_is_looked_up_by_its_number(world, explaining):
    world.unix.say("uid:1")
    world.register(entry("near", "unix:uid:1", "unix:user:root"))
    async with world.serving() as client:
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await client.answer("FetchX509SVID")
    refused = detail(caught.value)
    async with explaining() as explain:
        found = await explain.look_up(refused.correlation_id)
    assert (found.pid, found.uid, found.code) == (os.getpid(), os.getuid(), "PERMISSION_DENIED")
    assert (found.reason, list(found.selectors)) == ("no identity issued", ["unix:uid:1"])
    assert [list(miss.missing) for miss in found.misses] == [["unix:user:root"]]


async def test_an_attestor_that_failed_is_looked_up(world, explaining):
    world.attestors.append(Configured(FailingAttestor("docker"), required=True))
    async with world.serving() as client:
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await client.answer("FetchX509SVID")
    assert caught.value.details() == "workload attestation failed"
    async with explaining() as explain:
        found = await explain.look_up(detail(caught.value).correlation_id)
    assert found.code == "UNAVAILABLE"
    assert "required workload attestor 'docker' failed" in found.reason


async def test_what_a_process_has_lost_is_told_of_that_process_alone(world, explaining, children):
    world.unix.say("uid:1", "gid:2")
    world.grant(entry("one"), entry("two", "unix:gid:2", created=1))
    async with world.serving() as client, explaining() as explain:
        stream = client.stream()
        await read(stream)
        assert list((await explain(os.getpid())).posture_changes) == []
        world.unix.say("uid:1", "gid:3")
        world.issue(*world.cache.entries.values())
        await read(stream)
        (change,) = (await explain(os.getpid())).posture_changes
        other = await explain(children(SLEEP).pid)
        command = [str(os.getpid()), "--socketPath", str(explain.path)]
        shown = await asyncio.to_thread(
            CliRunner().invoke, cli.explain.explain, command, catch_exceptions=False
        )
    assert change.at == world.clock.now().timestamp() * 1e6
    assert (list(change.entries), list(change.gone), list(change.new)) == (
        ["two"],
        ["unix:gid:2"],
        ["unix:gid:3"],
    )
    assert list(other.posture_changes) == []
    assert shown.output.splitlines()[-3:] == [
        f"lost at {world.clock.now():%H:%M:%S}.000: two",
        "    no longer: unix:gid:2",
        "    since then: unix:gid:3",
    ]


async def test_only_the_newest_losses_are_told(world, explaining):
    with held(os.getpid()) as process:
        for number in range(MAX_CHANGES + 1):
            world.examiner.postures.add(process, [str(number)], before=frozenset(), after=frozenset())
    async with explaining() as explain:
        told = [change.entries[0] for change in (await explain(os.getpid())).posture_changes]
    assert told == [str(number) for number in range(1, MAX_CHANGES + 1)]


async def test_a_number_that_nobody_was_given_is_not_found(explaining):
    async with explaining() as explain:
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await explain.look_up("0" * 16)
    assert caught.value.code() is Code.NOT_FOUND


def detail(error):
    """What a refused caller is told besides code and message: google.rpc.Status, packed."""
    (packed,) = [value for key, value in error.trailing_metadata() if key == DETAILS_KEY]
    marker = b"attestor.v1.Refused"
    position = packed.index(marker) + len(marker)
    return admin_pb2.Refused.FromString(packed[position + 2 :])

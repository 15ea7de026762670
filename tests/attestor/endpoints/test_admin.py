# SPDX-License-Identifier: Apache-2.0
"""What an operator is told of a process: what holds, which entries match, and what the others lack."""

import contextlib
import os
from datetime import timedelta

import grpc
import pytest

from attestor.assembly import ADMIN_MODE, serving
from attestor.endpoints.admin import Admin
from attestor.workload import Configured
from attestor.workload.examination import Examiner
from spiffekit.daemon.listener import UnixFront
from spiffekit.wire.pb.attestor.v1 import admin_pb2, admin_pb2_grpc
from tests.attacks.processes import SLEEP, children
from tests.attestor.endpoints.conftest import until
from tests.attestor.endpoints.world import WITHIN, Client, descriptors
from tests.attestor.factory import entry
from tests.fakes.workload_attestors import BuggyAttestor, FailingAttestor, SlowAttestor

__all__ = ["children"]

Code = grpc.StatusCode


@pytest.fixture
def explaining(world, folder):
    """Serve an operator; yields a function that explains a process."""

    @contextlib.asynccontextmanager
    async def serve():
        path = folder / f"admin-{os.urandom(4).hex()}.sock"
        front = UnixFront(path, mode=ADMIN_MODE, identify=lambda peer: peer)
        admin = Admin(world.cache, Examiner(world.attestors, world.clock))
        async with serving(front, admin.handler()), Client.connect(f"unix:{path}") as client:
            stub = admin_pb2_grpc.AdminStub(client.channel)

            def explain(pid):
                return stub.Explain(admin_pb2.ExplainRequest(pid=pid), timeout=WITHIN)

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

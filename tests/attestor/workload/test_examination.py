# SPDX-License-Identifier: Apache-2.0
"""All attestors are asked at once; none denies the others, and nobody waits for what cannot matter."""

import asyncio
import os
from datetime import timedelta

import pytest

from attestor.cache import Cache
from attestor.errors import PeerGoneError, WorkloadAttestationError
from attestor.workload import Configured, Facts
from attestor.workload.examination import Examiner
from spiffekit.evidence import ContainerFacts, PodFacts
from spiffekit.id import TrustDomain
from spiffekit.selector import Selector
from tests.attestor.factory import entry, selectors
from tests.attestor.workload.processes import held, running
from tests.fakes.clock import FakeClock
from tests.fakes.workload_attestors import BuggyAttestor, FailingAttestor, GoodAttestor, SlowAttestor

SHORT = timedelta(seconds=0.02)
CONTAINER = ContainerFacts(engine="docker", id="a" * 64)
POD = PodFacts(uid="u", namespace="shop", name="web", service_account="sa", node_name="n")


@pytest.fixture
def ours():
    with held(os.getpid()) as process:
        yield process


def everything(_found, _pending):
    """Whatever is still to be said may matter."""
    return True


def nothing(_found, _pending):
    return False


def awaiting(*entries):
    cache = Cache(TrustDomain("example.org"))
    cache.apply(entries=entries)
    return cache.awaits


async def examine(process, *attestors, awaits=everything):
    configured = [one if isinstance(one, Configured) else Configured(one) for one in attestors]
    return await Examiner(configured, FakeClock()).examine(process, awaits)


async def test_what_all_of_them_state_is_what_holds(ours):
    found = await examine(
        ours, GoodAttestor("unix", "uid:1"), GoodAttestor("docker", "label:a"), GoodAttestor("k8s")
    )
    assert found.selectors == selectors("unix:uid:1", "docker:label:a")
    assert {finding.type for finding in found.findings} == {"unix", "docker", "k8s"}
    assert (found.failed, found.unheard) == (frozenset(), frozenset())
    assert found.collected_at == FakeClock().now()


async def test_without_attestors_nothing_holds(ours):
    found = await examine(ours)
    assert (found.selectors, found.findings) == (frozenset(), ())
    assert found.collected_at == FakeClock().now()


async def test_they_are_asked_at_the_same_time(ours):
    """Each goes on when the other has begun."""
    one, other = SlowAttestor("one", "a:1"), SlowAttestor("other", "b:1")

    class Waking(GoodAttestor):
        async def attest(self, process):
            while not (one.waiting and other.waiting):
                await asyncio.sleep(0)
            one.may_answer.set()
            other.may_answer.set()
            return await super().attest(process)

    found = await examine(ours, one, other, Waking("waking", "c:1"))
    assert found.selectors == selectors("one:a:1", "other:b:1", "waking:c:1")


@pytest.mark.parametrize(
    ("kind", "reason"),
    [
        (FailingAttestor, "the runtime does not answer"),
        (BuggyAttestor, "LookupError (see the log)"),
        (SlowAttestor, "no answer within 0.02 s"),
    ],
)
async def test_one_that_fails_does_not_deny_the_others_and_says_why(ours, kind, reason, caplog):
    found = await examine(ours, GoodAttestor("unix", "uid:1"), Configured(kind("docker"), timeout=SHORT))
    assert found.selectors == selectors("unix:uid:1")
    assert found.failed == {"docker"}
    (failure,) = (finding for finding in found.findings if finding.error)
    assert failure.error == reason
    (told,) = (record for record in caplog.records if record.message == "workload attestor failed")
    assert (told.attestor, told.pid, told.reason) == ("docker", os.getpid(), reason)


async def test_a_bug_is_in_the_log_with_its_traceback(ours, caplog):
    await examine(ours, GoodAttestor(), BuggyAttestor())
    assert "secret of the plug-in" in caplog.text
    assert "secret of the plug-in" not in "".join(r.getMessage() for r in caplog.records)


class Odd:
    """Returns what it was given."""

    type = "odd"

    def __init__(self, answer):
        self.answer = answer

    async def attest(self, process):
        return self.answer


@pytest.mark.parametrize(
    "answer",
    [
        None,
        frozenset({Selector("odd", "a:1")}),
        Facts(frozenset({Selector("unix", "uid:0")})),
        Facts(frozenset({Selector("odd", "a:1"), Selector("docker", "label:a")})),
    ],
    ids=["none", "bare-selectors", "of-another", "partly-of-another"],
)
async def test_who_states_what_is_not_its_own_states_nothing(ours, answer):
    found = await examine(ours, GoodAttestor("unix", "uid:1"), Odd(answer))
    assert found.selectors == selectors("unix:uid:1")
    assert found.failed == {"odd"}


async def test_who_cancels_itself_does_not_cancel_the_call(ours):
    class Cancelled(GoodAttestor):
        async def attest(self, process):
            raise asyncio.CancelledError

    found = await examine(ours, GoodAttestor("unix", "uid:1"), Cancelled("odd"))
    assert (found.selectors, found.failed) == (selectors("unix:uid:1"), {"odd"})


@pytest.mark.parametrize("kind", [FailingAttestor, BuggyAttestor, SlowAttestor])
async def test_without_the_word_of_a_required_one_there_is_no_answer(ours, kind):
    required = Configured(kind("docker"), required=True, timeout=SHORT)
    with pytest.raises(WorkloadAttestationError, match=f"'docker' failed for pid {os.getpid()}"):
        await examine(ours, GoodAttestor("unix", "uid:1"), required, awaits=nothing)


async def test_when_all_fail_it_is_an_error(ours):
    with pytest.raises(
        WorkloadAttestationError, match=f"all 2 workload attestors failed for pid {os.getpid()}"
    ):
        await examine(ours, FailingAttestor("a"), BuggyAttestor("b"))


async def test_who_does_not_matter_is_not_waited_for(ours):
    slow = SlowAttestor("docker", "label:a")
    awaits = awaiting(entry("plain", "unix:uid:1"), entry("theirs", "unix:uid:2", "docker:label:a"))
    found = await examine(ours, GoodAttestor("unix", "uid:1"), slow, awaits=awaits)
    assert found.selectors == selectors("unix:uid:1")
    assert (found.unheard, found.failed) == ({"docker"}, frozenset())
    assert slow.cancelled == 1


async def test_who_may_matter_is_waited_for(ours):
    slow = SlowAttestor("docker", "label:a")
    awaits = awaiting(entry("both", "unix:uid:1", "docker:label:a"))
    asking = asyncio.create_task(examine(ours, GoodAttestor("unix", "uid:1"), slow, awaits=awaits))
    while not slow.waiting:
        await asyncio.sleep(0)
    assert not asking.done()
    slow.may_answer.set()
    assert (await asking).selectors == selectors("unix:uid:1", "docker:label:a")


async def test_a_required_one_is_waited_for_though_it_does_not_matter(ours):
    slow = SlowAttestor("docker", "label:a")
    asking = asyncio.create_task(
        examine(ours, GoodAttestor("unix", "uid:1"), Configured(slow, required=True), awaits=nothing)
    )
    while not slow.waiting:
        await asyncio.sleep(0)
    slow.may_answer.set()
    assert "docker:label:a" in {str(s) for s in (await asking).selectors}


async def test_when_nothing_matters_nobody_is_waited_for(ours):
    slow = SlowAttestor("docker")
    found = await examine(ours, slow, awaits=nothing)
    assert (found.selectors, found.unheard) == (frozenset(), {"docker"})


async def test_who_leaves_takes_the_questions_along(ours, caplog):
    slow = SlowAttestor("docker")
    asking = asyncio.create_task(examine(ours, slow))
    while not slow.waiting:
        await asyncio.sleep(0)
    asking.cancel()
    with pytest.raises(asyncio.CancelledError):
        await asking
    assert slow.cancelled == 1
    assert caplog.text == ""  # which is no failure of the attestor


@pytest.mark.parametrize("kind", [GoodAttestor, FailingAttestor])
async def test_a_process_that_exits_meanwhile_is_gone_whatever_was_found(kind):
    with running("sleep", "60") as child, held(child.pid) as process:

        class Killing(kind):
            async def attest(self, process):
                child.kill()
                child.wait(5)
                return Facts(frozenset({Selector("unix", "uid:1")}))

        with pytest.raises(PeerGoneError):
            await examine(process, Killing("unix"))


async def test_container_and_pod_are_those_that_somebody_knows(ours):
    class Knowing(GoodAttestor):
        def __init__(self, type_, **known):
            super().__init__(type_)
            self.facts = Facts(**known)

    found = await examine(
        ours, GoodAttestor("unix"), Knowing("docker", container=CONTAINER), Knowing("k8s", pod=POD)
    )
    assert (found.container, found.pod) == (CONTAINER, POD)


async def test_findings_are_of_all_in_the_order_of_the_configuration(ours):
    slow = SlowAttestor("slow", "a:1")
    slow.may_answer.set()
    examiner = Examiner(
        [Configured(slow), Configured(FailingAttestor()), Configured(GoodAttestor())], FakeClock()
    )
    found = await examiner.findings(ours)
    assert [(finding.type, bool(finding.error)) for finding in found] == [
        ("slow", False),
        ("failing", True),
        ("unix", False),
    ]

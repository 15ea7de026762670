# SPDX-License-Identifier: Apache-2.0
"""One list of pods for all who ask, and no more requests than that takes."""

import asyncio
from datetime import timedelta

import msgspec
import pytest

from attestor.workload.cgroups import Pod as Place
from attestor.workload.pods import BUSY, MAX_AGE, RETRY, KubeletPods, WatchedPods
from spiffekit.daemon.kubernetes.access import Access
from spiffekit.daemon.kubernetes.client import KubernetesClient, KubernetesError
from spiffekit.daemon.kubernetes.objects import PodList
from tests.fakes.clock import FakeClock, SteppedClock
from tests.fakes.kubernetes import ADMIN, ApiServer, Authority, container_id, pod


def place(one, container="app"):
    uid = one["metadata"]["uid"]
    return Place(uid, container_id(f"{uid}/{container}"))


class Client:
    """A kubelet that answers when it is told to, with the pods that it has then."""

    def __init__(self, *pods):
        self.pods = list(pods)
        self.calls = 0
        self.may_answer = asyncio.Event()
        self.may_answer.set()
        self.error = None

    async def get(self, path, kind, *, limit):
        assert (path, kind) == ("/pods", PodList)
        self.calls += 1
        await self.may_answer.wait()
        if self.error:
            raise self.error
        return msgspec.convert({"items": self.pods}, PodList)


async def settle():
    for _ in range(20):
        await asyncio.sleep(0)


async def test_all_who_ask_share_one_list():
    one, two = pod("one"), pod("two")
    client = Client(one, two)
    client.may_answer.clear()
    pods = KubeletPods(client, FakeClock())
    asked = [asyncio.create_task(pods.find(place(p))) for p in (one, two) * 50]
    await settle()
    client.may_answer.set()
    assert {found.metadata.name for found in await asyncio.gather(*asked)} == {"one", "two"}
    assert client.calls == 1


async def test_while_nobody_asks_nothing_happens():
    client, clock = Client(), FakeClock()
    KubeletPods(client, clock)
    await clock.advance(timedelta(hours=1))
    assert client.calls == 0


async def test_a_list_serves_for_a_while():
    one = pod("one", app="before")
    client, clock = Client(one), FakeClock()
    pods = KubeletPods(client, clock)
    await pods.find(place(one))
    client.pods = [pod("one", app="after")]
    await clock.advance(timedelta(seconds=MAX_AGE))
    assert (await pods.find(place(one))).metadata.labels == {"app": "before"}
    await clock.advance(timedelta(milliseconds=1))
    assert (await pods.find(place(one))).metadata.labels == {"app": "after"}
    assert client.calls == 2


async def test_a_container_that_is_not_in_the_list_makes_a_new_one():
    one, two = pod("one"), pod("two")
    client, clock = Client(one), FakeClock()
    pods = KubeletPods(client, clock)
    await pods.find(place(one))
    await clock.advance(timedelta(seconds=RETRY))
    client.pods = [one, two]
    assert (await pods.find(place(two))).metadata.name == "two"
    assert client.calls == 2


async def test_a_hundred_containers_that_never_come_make_no_storm():
    client, clock = Client(), FakeClock()
    pods = KubeletPods(client, clock)
    asked = [asyncio.create_task(pods.find(place(pod(f"p{n}")))) for n in range(100)]
    await clock.advance(timedelta(seconds=10))
    assert client.calls <= 10 / RETRY + 1
    for task in asked:
        task.cancel()
    await asyncio.gather(*asked, return_exceptions=True)
    before = client.calls
    await clock.advance(timedelta(seconds=10))
    assert client.calls <= before + 1, "nobody asks any more"


async def test_a_slow_kubelet_is_left_alone_for_longer():
    one, two = pod("one"), pod("two")
    client, clock = Client(one), FakeClock()
    client.may_answer.clear()
    pods = KubeletPods(client, clock)
    first = asyncio.create_task(pods.find(place(one)))
    await clock.advance(timedelta(seconds=1))
    client.may_answer.set()
    await first
    client.pods = [one, two]
    second = asyncio.create_task(pods.find(place(two)))
    await clock.advance(timedelta(seconds=BUSY - 0.1))
    assert client.calls == 1
    await clock.advance(timedelta(seconds=0.2))
    assert (await second).metadata.name == "two"


async def test_whoever_gives_up_does_not_end_the_list_of_the_others():
    one = pod("one")
    client = Client(one)
    client.may_answer.clear()
    pods = KubeletPods(client, FakeClock())
    impatient, patient = (asyncio.create_task(pods.find(place(one))) for _ in range(2))
    await settle()
    impatient.cancel()
    await settle()
    client.may_answer.set()
    assert (await patient).metadata.name == "one"
    assert impatient.cancelled()


async def test_a_failure_is_told_to_all_and_tried_again_later():
    one = pod("one")
    client, clock = Client(one), FakeClock()
    client.error = KubernetesError("status 503")
    pods = KubeletPods(client, clock)
    for error in await asyncio.gather(*(pods.find(place(one)) for _ in range(5)), return_exceptions=True):
        assert str(error) == "status 503"
    assert client.calls == 1
    client.error = None
    asked = asyncio.create_task(pods.find(place(one)))
    await clock.advance(timedelta(seconds=RETRY))
    assert (await asked).metadata.name == "one"


async def test_a_kubelet_that_fails_does_not_let_an_old_list_stand():
    one = pod("one")
    client, clock = Client(one), FakeClock()
    pods = KubeletPods(client, clock)
    await pods.find(place(one))
    client.error = KubernetesError("status 503")
    await clock.advance(timedelta(seconds=MAX_AGE + 1))
    with pytest.raises(KubernetesError):
        await pods.find(place(one))


@pytest.mark.parametrize("wrong", ["uid", "container"])
async def test_uid_and_container_have_to_belong_together(wrong):
    one, two = pod("one"), pod("two")
    pods = KubeletPods(Client(one, two), FakeClock())
    mixed = Place(place(one).uid, place(two).container_id)
    if wrong == "uid":
        mixed = Place("00000000-0000-0000-0000-000000000000", place(one).container_id)
    asked = asyncio.create_task(pods.find(mixed))
    await settle()
    assert not asked.done()
    asked.cancel()
    await asyncio.gather(asked, return_exceptions=True)


# From the API server.


@pytest.fixture(scope="module")
def authority():
    return Authority()


@pytest.fixture
async def watched(authority):
    clock = SteppedClock()
    with ApiServer(authority) as server:
        access = Access("127.0.0.1", server.port, ca=authority.pem, token=ADMIN.encode())
        pods = WatchedPods(KubernetesClient(access), clock, node_name="node-1")
        ready = asyncio.Event()
        task = asyncio.create_task(pods.run(ready.set))
        await ready.wait()
        try:
            async with asyncio.timeout(10):
                yield server, pods, clock
        finally:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)


async def test_a_pod_is_waited_for_from_before_the_first_list(watched):
    server, pods, _ = watched
    one = pod("one")
    asked = asyncio.create_task(pods.find(place(one)))
    server.store.put("pods", one)
    assert (await asked).metadata.name == "one"


async def test_only_pods_of_this_node_are_asked_for(watched):
    server, pods, _ = watched
    there, here = pod("there", node="node-2"), pod("here")
    server.store.put("pods", there)
    server.store.put("pods", here)
    await pods.find(place(here))
    assert all("fieldSelector=spec.nodeName%3Dnode-1" in path for _, path in server.calls)
    asked = asyncio.create_task(pods.find(place(there)))
    await settle()
    assert not asked.done()
    asked.cancel()
    await asyncio.gather(asked, return_exceptions=True)


async def test_a_label_that_changes_is_known(watched):
    server, pods, _ = watched
    server.store.put("pods", pod("one", app="before"))
    assert (await pods.find(place(pod("one")))).metadata.labels == {"app": "before"}
    server.store.put("pods", pod("one", app="after"))
    while (await pods.find(place(pod("one")))).metadata.labels != {"app": "after"}:
        await asyncio.sleep(0.01)


async def test_without_the_api_servers_word_nothing_is_known(watched):
    server, pods, clock = watched
    server.store.put("pods", pod("one"))
    await pods.find(place(pod("one")))
    clock.ahead = timedelta(seconds=121)
    with pytest.raises(KubernetesError, match="cannot be seen now"):
        await pods.find(place(pod("one")))

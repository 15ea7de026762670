# SPDX-License-Identifier: Apache-2.0
"""Pods as a watch tells them, through everything that an API server does to a watch."""

import asyncio
import contextlib
from datetime import timedelta

import pytest

from spiffekit.daemon.clock import SystemClock
from spiffekit.daemon.config import Span
from spiffekit.daemon.kubernetes import client, watch
from spiffekit.daemon.kubernetes.access import Access
from spiffekit.daemon.kubernetes.client import KubernetesClient, KubernetesError
from spiffekit.daemon.kubernetes.objects import NAMESPACES, PODS
from spiffekit.daemon.kubernetes.watch import Watch
from tests.fakes.clock import FakeClock, SteppedClock
from tests.fakes.kubernetes import ADMIN, ApiServer, Authority, pod


@pytest.fixture(scope="module")
def authority():
    return Authority()


@pytest.fixture
def server(authority):
    with ApiServer(authority) as found:
        yield found


@contextlib.asynccontextmanager
async def watching(server, authority, *, stale_after=20, clock=None, resource=PODS, **more):
    access = Access("127.0.0.1", server.port, ca=authority.pem, token=ADMIN.encode())
    found = Watch(
        KubernetesClient(access),
        clock or SystemClock(),
        resource,
        keep=lambda one: one.metadata.name,
        stale_after=Span(seconds=stale_after),
        **more,
    )
    task = asyncio.create_task(found.run())
    try:
        yield found
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


async def names(found, *expected):
    """Wait until these pods are known."""
    async with asyncio.timeout(5):
        while sorted(found.known.values()) != sorted(expected):
            await found.changed()


async def resting(clock):
    """Wait until the watch waits before it tries again."""
    async with asyncio.timeout(5):
        while not clock.sleeping:
            await asyncio.sleep(0.01)


async def test_what_happens_is_known(server, authority):
    server.store.put("pods", pod("one"))
    async with watching(server, authority) as found:
        await names(found, "one")
        server.store.put("pods", pod("two"))
        await names(found, "one", "two")
        server.store.remove("pods", "default", "one")
        await names(found, "two")
        found.require_fresh()


async def test_only_the_selected_pods_are_known(server, authority):
    server.store.put("pods", pod("here"))
    server.store.put("pods", pod("there", node="node-2"))
    async with watching(server, authority, field_selector="spec.nodeName=node-1") as found:
        await names(found, "here")
        server.store.put("pods", pod("there-too", node="node-2"))
        server.store.put("pods", pod("here-too"))
        await names(found, "here", "here-too")


async def test_namespaces_are_known_by_name(server, authority):
    server.store.namespace("shop", team="a")
    async with watching(server, authority, resource=NAMESPACES) as found:
        await names(found, "default", "shop")
        server.store.remove("namespaces", "", "shop")
        server.store.put("pods", pod("one"))
        await names(found, "default")
        assert list(found.known) == ["default"]


async def test_pages_are_put_together(server, authority, monkeypatch):
    monkeypatch.setattr(client, "PAGE", 10)
    for number in range(25):
        server.store.put("pods", pod(f"p{number}"))
    async with watching(server, authority) as found:
        await names(found, *(f"p{n}" for n in range(25)))


async def test_a_version_that_is_gone_is_listed_anew(server, authority):
    async with watching(server, authority) as found:
        server.store.put("pods", pod("one"))
        await names(found, "one")
        server.store.compact()
        server.store.put("pods", pod("two"))
        await names(found, "one", "two")


async def test_a_watch_that_ends_is_taken_up_without_a_list(server, authority):
    async with watching(server, authority, stale_after=2) as found:  # so each lasts for a second
        server.store.put("pods", pod("one"))
        await names(found, "one")
        async with asyncio.timeout(5):
            while sum("watch=true" in path for _, path in server.calls) < 3:
                await asyncio.sleep(0.05)
        server.store.put("pods", pod("two"))
        await names(found, "one", "two")
        assert sum("limit=" in path for _, path in server.calls) == 1
        found.require_fresh()


async def test_watches_that_end_at_once_do_not_become_a_storm(server, authority):
    def end(request):
        if "watch" in request.path:
            request.send_response(200)
            request.send_header("content-length", "0")
            request.end_headers()
        else:
            request.send(200, {"items": [], "metadata": {"resourceVersion": "100"}})

    server.fault = end
    clock = FakeClock()
    async with watching(server, authority, clock=clock):
        await resting(clock)
        assert len(server.calls) == 2, "a list and a watch"
        await clock.advance(timedelta(seconds=0.25))
        await resting(clock)
        assert len(server.calls) == 3


@pytest.mark.parametrize(
    "line",
    [
        b"nonsense\n",
        b'{"type": "ADDED"}\n',
        b'{"type": "ADDED", "object": 7}\n',
        b'{"type": "ERROR", "object": {"code": 500}}\n',
        b'{"type": "MOVED", "object": {"metadata": {"name": "old"}}}\n',
    ],
    ids=["no json", "no object", "number", "error", "another type"],
)
async def test_an_event_of_another_form_makes_a_new_list(server, authority, line):
    def answer(request):
        if "watch" in request.path:
            request.send_response(200)
            request.send_header("content-length", str(len(line)))
            request.end_headers()
            request.wfile.write(line)
            server.fault = None
        else:
            request.send(200, {"items": [pod("old")], "metadata": {"resourceVersion": "100"}})

    server.fault = answer
    server.store.put("pods", pod("new"))
    async with watching(server, authority) as found:
        await names(found, "old")
        await names(found, "new")


async def test_a_line_without_end_is_cut(server, authority, monkeypatch):
    monkeypatch.setattr(client, "MAX_OBJECT", 10_000)

    def answer(request):
        if "watch" not in request.path:
            request.send(200, {"items": [], "metadata": {"resourceVersion": "100"}})
            return
        request.send_response(200)
        request.send_header("transfer-encoding", "chunked")
        request.end_headers()
        server.fault = None
        while True:
            request.chunk(b"x" * 1000)

    server.fault = answer
    server.store.put("pods", pod("one"))
    async with watching(server, authority) as found:
        async with asyncio.timeout(5):
            while not found.begun or server.fault is not None:
                await asyncio.sleep(0.01)
        server.store.put("pods", pod("two"))
        await names(found, "one", "two")


async def test_more_pods_than_a_cluster_can_have_are_not_kept(server, authority, monkeypatch):
    monkeypatch.setattr(watch, "MAX_OBJECTS", 2)
    for number in range(3):
        server.store.put("pods", pod(f"p{number}"))
    clock = FakeClock()
    async with watching(server, authority, clock=clock) as found:
        await resting(clock)
        assert found.known == {}
        with pytest.raises(KubernetesError):
            found.require_fresh()


async def test_silence_is_not_taken_for_peace(server, authority):
    """A watch that hangs says nothing, like one in which nothing happens; only the next one tells."""
    clock = SteppedClock()
    access = Access("127.0.0.1", server.port, ca=authority.pem, token=ADMIN.encode())
    found = Watch(KubernetesClient(access), clock, PODS, keep=lambda one: one, stale_after=Span(seconds=60))
    with pytest.raises(KubernetesError, match="cannot be seen now"):
        found.require_fresh()
    task = asyncio.create_task(found.run())
    async with asyncio.timeout(5):
        await found.changed()
    clock.ahead = timedelta(seconds=59)
    found.require_fresh()
    clock.ahead = timedelta(seconds=62)
    with pytest.raises(KubernetesError, match="cannot be seen now"):
        found.require_fresh()
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)


async def test_no_more_pods_are_kept_however_they_come(server, authority, monkeypatch):
    monkeypatch.setattr(watch, "MAX_OBJECTS", 2)
    server.store.put("pods", pod("one"))
    server.store.put("pods", pod("two"))
    clock = FakeClock()
    async with watching(server, authority, clock=clock) as found:
        await names(found, "one", "two")
        server.store.put("pods", pod("three"))
        await resting(clock)
        assert sorted(found.known.values()) == ["one", "two"]

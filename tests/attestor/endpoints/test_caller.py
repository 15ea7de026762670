# SPDX-License-Identifier: Apache-2.0
"""A caller is who it is now: what it executes, whether it lives, and what its attestors say."""

import asyncio

import grpc
import pytest

from attestor.workload import Configured
from tests.attacks.processes import children
from tests.attestor.endpoints.conftest import until
from tests.attestor.endpoints.http2 import PASS_ON, Stream, connection_of
from tests.attestor.endpoints.world import DB, STREAMS, descriptors, ended, ids, read
from tests.attestor.factory import entry
from tests.fakes.workload_attestors import BuggyAttestor, FailingAttestor, GoodAttestor, SlowAttestor

__all__ = ["children"]

Code = grpc.StatusCode
DENIED = (Code.PERMISSION_DENIED, "no identity issued")
UNKNOWN = (Code.PERMISSION_DENIED, "caller cannot be identified")
UNATTESTED = (Code.UNAVAILABLE, "workload attestation failed")
ONE, TWO = (1, 1, 1, 1, 1), (2, 2, 2, 2, 2)  # executables
OWN = "spiffe://example.org"


@pytest.fixture
def two(world):
    """A node with an entry for each of two executables."""
    world.grant(entry("one", "unix:uid:1"), entry("two", "unix:uid:2"))
    world.executable = ONE
    return world


async def test_who_executes_something_else_is_attested_again_before_anything_is_handed_out(two):
    async with two.serving() as client:
        stream = client.stream()
        assert ids(await read(stream)) == [f"{OWN}/one"]
        two.executable = TWO
        two.unix.say("uid:2")
        two.issue(*two.cache.entries.values())
        assert ids(await read(stream)) == [f"{OWN}/two"]


async def test_who_executes_something_else_is_attested_again_at_any_change(two):
    """Though that would not be told to it."""
    async with two.serving() as client:
        stream = client.stream()
        assert ids(await read(stream)) == [f"{OWN}/one"]
        two.unix.say("uid:2")
        two.cache.notify()
        await until(lambda: two.idle)
        assert two.unix.asked == 1
        two.executable = TWO
        two.cache.notify()
        assert ids(await read(stream)) == [f"{OWN}/two"]
        assert two.unix.asked == 2


async def test_who_is_handed_something_is_looked_at_again_first(two, caplog):
    """It may be another user by now, though it executes what it did."""
    async with two.serving() as client:
        stream = client.stream()
        assert ids(await read(stream)) == [f"{OWN}/one"]
        two.unix.say("uid:2")
        two.issue(*two.cache.entries.values())
        assert ids(await read(stream)) == [f"{OWN}/two"]
        assert [r.entries for r in caplog.records if r.message == "posture changed"] == [["one"]]
        two.unix.say("uid:3")
        two.issue(*two.cache.entries.values())
        assert await ended(stream) == DENIED
        assert [r.entries for r in caplog.records if r.message == "posture changed"] == [["one"], ["two"]]


@pytest.mark.parametrize("kind", [FailingAttestor, BuggyAttestor])
@pytest.mark.parametrize("selectors", [["docker:label:a"], ["unix:uid:1", "docker:label:a"]], ids=len)
async def test_an_attestor_that_fails_takes_no_identity_away(world, kind, selectors):
    """A client that is denied drops what it has; one that is told to wait keeps it."""
    docker = Configured(GoodAttestor("docker", "label:a"))
    world.attestors.append(docker)
    only = entry("only", *selectors)
    world.grant(only)
    async with world.serving() as client:
        stream = client.stream()
        assert ids(await read(stream)) == [f"{OWN}/only"]
        world.attestors[1:] = [Configured(kind("docker"))]
        world.issue(only)
        assert await ended(stream) == UNATTESTED
        assert await client.refusal("FetchX509SVID") == UNATTESTED
        assert await client.refusal("FetchJWTSVID", **DB) == UNATTESTED
        world.attestors[1:] = [docker]
        assert ids(await client.first()) == [f"{OWN}/only"]


async def test_an_attestor_that_fails_leaves_no_less_than_there_was(world):
    plain, both = entry("plain"), entry("both", "unix:uid:1", "docker:label:a", created=1)
    world.attestors.append(Configured(GoodAttestor("docker", "label:a")))
    world.grant(plain, both)
    async with world.serving() as client:
        stream = client.stream()
        assert ids(await read(stream)) == [f"{OWN}/plain", f"{OWN}/both"]
        world.attestors[1:] = [Configured(FailingAttestor("docker"))]
        world.issue(plain)
        assert await ended(stream) == UNATTESTED


async def test_an_attestor_that_fails_and_cannot_matter_does_not_keep_a_caller_from_being_denied(world):
    world.attestors.append(Configured(FailingAttestor("docker")))
    world.grant(entry("theirs", "unix:uid:2", "docker:label:a"))
    async with world.serving() as client:
        assert await client.refusal("FetchX509SVID") == DENIED


@pytest.mark.parametrize("name", STREAMS)
async def test_who_executes_something_that_has_no_entry_gets_nothing_more(two, name):
    async with two.serving() as client:
        stream = client.stream(name)
        await read(stream)
        two.executable = TWO
        two.unix.say("uid:3")
        two.cache.notify()
        assert await ended(stream) == DENIED


async def test_what_is_executed_now_and_cannot_be_attested_ends_the_stream_as_unavailable(two):
    async with two.serving() as client:
        stream = client.stream()
        await read(stream)
        two.executable = TWO
        two.attestors[:] = [Configured(FailingAttestor("unix"))]
        two.cache.notify()
        assert await ended(stream) == UNATTESTED


@pytest.mark.parametrize(("name", "fields"), [("FetchX509SVID", {}), ("FetchJWTSVID", DB)])
async def test_who_executes_something_else_while_it_is_attested_is_nobody_yet(two, name, fields):
    slow = SlowAttestor("unix", "uid:1")
    two.attestors[:] = [Configured(slow)]
    async with two.serving() as client:
        asking = asyncio.create_task(client.refusal(name, **fields))
        await until(lambda: slow.waiting)
        two.executable = TWO
        slow.may_answer.set()
        assert await asking == UNATTESTED


async def test_who_executes_something_else_while_its_token_is_made_gets_none(two):
    async with two.serving() as client:
        issue = two.jwt.fetch

        async def slowly(*arguments):
            token = await issue(*arguments)
            two.executable = TWO
            return token

        two.jwt.fetch = slowly
        assert await client.refusal("FetchJWTSVID", **DB) == DENIED


async def test_an_attestor_that_was_not_waited_for_is_asked_when_it_matters(world):
    """An entry comes that looks at containers, after a stream was opened without their attestor's word."""
    slow = SlowAttestor("docker", "label:a")
    world.attestors.append(Configured(slow))
    world.grant(entry("plain"))
    async with world.serving() as client:
        stream = client.stream()
        assert ids(await read(stream)) == [f"{OWN}/plain"]
        assert slow.cancelled == 1
        slow.may_answer.set()
        world.grant(entry("both", "unix:uid:1", "docker:label:a", created=1))
        assert ids(await read(stream)) == [f"{OWN}/plain", f"{OWN}/both"]
        world.cache.notify()
        await until(lambda: world.idle)
        assert world.unix.asked == 2  # all have been heard


async def test_an_attestor_that_cannot_matter_is_not_asked_again(world):
    slow = SlowAttestor("docker", "label:a")
    world.attestors.append(Configured(slow))
    world.grant(entry("plain"))
    async with world.serving() as client:
        stream = client.stream()
        await read(stream)
        world.grant(entry("theirs", "unix:uid:2", "docker:label:a"))
        await until(lambda: world.idle)
        assert world.unix.asked == 1


async def test_a_caller_that_exits_during_a_stream_ends_it_at_once(world, children, folder):
    """Somebody else holds its connection, so that no end of it tells."""
    world.grant(entry("web"))
    async with world.serving():
        with connection_of(children, world.path, folder, PASS_ON) as (child, connection):
            stream = Stream(connection)
            await stream.open()
            assert ids(await stream.message()) == [f"{OWN}/web"]
            child.kill()
            assert await stream.message() == ("7", UNKNOWN[1])
        await until(lambda: world.streams == 0)


async def test_a_caller_that_has_exited_gets_nothing(world, children, folder):
    world.grant(entry("web"))
    async with world.serving():
        with connection_of(children, world.path, folder, PASS_ON) as (child, connection):
            await until(lambda: world.front.connections)
            child.kill()
            stream = Stream(connection)
            await stream.open()
            assert await stream.message() == ("7", UNKNOWN[1])


EXEC = PASS_ON + 'os.execv("/bin/sleep", ["sleep", "60"])\n'


async def test_exec_of_another_program_during_a_stream_is_noticed(world, children, folder):
    world.grant(entry("python"))
    async with world.serving():
        with connection_of(children, world.path, folder, EXEC) as (child, connection):
            stream = Stream(connection)
            await stream.open()
            assert ids(await stream.message()) == [f"{OWN}/python"]
            (peer,) = world.front._peers.values()
            before = peer.executable()
            child.go_on()
            await until(lambda: peer.executable() != before)
            world.unix.say("path:/bin/sleep")
            world.issue(world.cache.entries["python"])
            assert await stream.message() == ("7", DENIED[1])


@pytest.mark.parametrize("name", STREAMS)
async def test_a_stream_that_its_client_leaves_leaves_nothing_behind(world, name):
    world.grant(entry("web"))
    async with world.serving() as client:
        await client.first(name)
        await until(lambda: world.streams == 0)
        before = descriptors()
        streams = [client.stream(name) for _ in range(10)]
        for stream in streams:
            await read(stream)
        assert world.streams == 10
        assert descriptors() == before + 10
        for stream in streams:
            stream.cancel()
        await until(lambda: world.streams == 0)
        assert descriptors() == before
        assert world.admission._streams == {}


async def test_a_call_that_its_client_leaves_asks_no_attestor_on(world):
    slow = SlowAttestor("unix", "uid:1")
    world.attestors[:] = [Configured(slow)]
    world.grant(entry("web"))
    async with world.serving() as client:
        stream = client.stream()
        await until(lambda: slow.waiting)
        stream.cancel()
        await until(lambda: slow.cancelled)
        assert world.admission._streams == {}

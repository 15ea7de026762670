# SPDX-License-Identifier: Apache-2.0
"""What was taken back, as local verifiers hear it on the public socket."""

import asyncio
import os

import grpc
import pytest

from attestor.endpoints.admission import MAX_STREAMS_PER_UID
from spiffekit.bundle import BundleSet
from spiffekit.id import SpiffeId
from spiffekit.status import AgentStatus
from spiffekit.workload import StatusSource
from tests.attestor.endpoints.conftest import until
from tests.attestor.endpoints.world import Client, ended, read
from tests.attestor.factory import entry

Code = grpc.StatusCode
PAYER = SpiffeId.parse("spiffe://example.org/agent/payer")


def verified(world, message):
    return AgentStatus.verify(message.status, BundleSet([world.ca.bundle]), now=world.clock.now())


async def test_what_is_known_is_said_at_once_and_all_that_follows(world):
    crl = world.ca.crl(7)
    world.take_back(suspended=frozenset([PAYER]), crls=[crl])
    async with world.serving() as client:
        stream = client.status()
        first = await read(stream)
        assert verified(world, first).suspended == {PAYER}
        assert list(first.crls) == [crl]
        world.take_back(retired=frozenset([PAYER]))
        second = await read(stream)
        assert (verified(world, second).sequence, verified(world, second).retired) == (2, {PAYER})
        assert list(second.crls) == []


async def test_the_source_of_the_library_follows_it_however_much_is_taken_back(world):
    world.grant(entry("verifier"))
    world.take_back()
    many = frozenset(SpiffeId.parse(f"spiffe://example.org/{number:0>2000}") for number in range(2500))
    async with world.serving(), StatusSource.open(f"unix://{world.path}", clock=world.clock) as source:
        world.take_back(suspended=many)
        assert (await source.changed()).suspended == many


async def test_before_the_issuer_has_said_anything_it_is_said_that_nothing_is_known(world):
    async with world.serving() as client:
        stream = client.status()
        first = await read(stream)
        assert (first.status, list(first.crls)) == ("", [])
        world.take_back()
        assert (await read(stream)).status


async def test_a_fresh_status_is_passed_on_even_if_it_says_the_same_and_wakes_no_workload(world):
    """A verifier refuses everybody when its status is 90 seconds old."""
    world.grant(entry("web"))
    world.take_back()
    async with world.serving() as client:
        stream, workload = client.status(), client.stream()
        first = await read(stream)
        await read(workload)
        version = world.cache.version
        world.take_back()
        assert verified(world, await read(stream)).sequence == verified(world, first).sequence + 1
        assert world.cache.version == version


async def test_it_is_for_processes_without_an_identity_as_well(world):
    world.take_back()
    async with world.serving() as client:
        assert (await client.refusal("FetchX509SVID"))[0] is Code.PERMISSION_DENIED
        assert (await read(client.status())).status


async def test_without_the_security_header_nothing_is_said(world):
    async with world.serving() as client:
        refusal = await ended(client.status(metadata=()))
    assert refusal == (Code.INVALID_ARGUMENT, "security header missing from request")


async def test_a_call_round_the_listener_is_denied(world):
    async with world.serving(), Client.connect(f"unix:{world.front._inner}") as round_it:
        assert (await ended(round_it.status()))[0] is Code.PERMISSION_DENIED


async def test_a_flood_of_watchers_is_bounded_and_costs_one_rendering(world):
    world.take_back()
    async with world.serving() as client:
        world.admission._streams[os.geteuid()] = MAX_STREAMS_PER_UID - 50
        streams = [client.status() for _ in range(60)]
        answers = await asyncio.gather(*map(read, streams), return_exceptions=True)
        refused = [answer for answer in answers if isinstance(answer, grpc.aio.AioRpcError)]
        assert len(refused) == 10
        assert {(error.code(), error.details()) for error in refused} == {
            (Code.UNAVAILABLE, "too many streams of this user")
        }
        world.take_back(suspended=frozenset([PAYER]))
        alive = [s for s, a in zip(streams, answers, strict=True) if a not in refused]
        again = await asyncio.gather(*map(read, alive))
        assert all(verified(world, message).suspended == {PAYER} for message in again)
        for stream in alive:
            stream.cancel()
        await until(lambda: not world.cache._revocation_watchers)
        assert world.admission._streams[os.geteuid()] == MAX_STREAMS_PER_UID - 50


async def test_the_workload_api_itself_is_not_extended(world):
    """It is a service of its own: `SpiffeWorkloadAPI` has the standard's methods and no more."""
    async with world.serving() as client:
        path = "/SpiffeWorkloadAPI/Watch"
        call = client.channel.unary_unary(path)(b"", metadata=(("workload.spiffe.io", "true"),))
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await call
    assert caught.value.code() is Code.UNIMPLEMENTED

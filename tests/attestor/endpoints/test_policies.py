# SPDX-License-Identifier: Apache-2.0
"""Which policies hold, as local tool servers hear it on the public socket."""

import asyncio
import os

import grpc

from attestor.endpoints.admission import MAX_STREAMS_PER_UID
from spiffekit.bundle import BundleSet
from spiffekit.policy import PolicyBundle
from tests.attestor.endpoints.conftest import until
from tests.attestor.endpoints.world import Client, ended, read
from tests.attestor.factory import entry
from tests.spiffekit.policy.asked import ALL, NONE

Code = grpc.StatusCode


def texts(world, message):
    bundles = BundleSet([world.ca.bundle])
    found = PolicyBundle.verify(message.bundle, bundles, now=world.clock.now())
    return [policy.text for policy in found.policies]


async def test_what_is_known_is_said_at_once_and_all_that_follows(world):
    world.lay_down(ALL)
    async with world.serving() as client:
        stream = client.policies()
        assert texts(world, await read(stream)) == [ALL]
        world.lay_down(ALL, NONE)
        assert texts(world, await read(stream)) == [ALL, NONE]


async def test_before_the_issuer_has_said_anything_it_is_said_that_nothing_is_known(world):
    async with world.serving() as client:
        stream = client.policies()
        assert (await read(stream)).bundle == ""
        world.lay_down(ALL)
        assert texts(world, await read(stream)) == [ALL]


async def test_it_is_for_processes_without_an_identity_as_well_and_wakes_no_workload(world):
    world.grant(entry("web"))
    async with world.serving() as client:
        await read(client.stream())
        version = world.cache.version
        world.lay_down(ALL)
        assert texts(world, await read(client.policies())) == [ALL]
        assert world.cache.version == version


async def test_without_the_security_header_nothing_is_said(world):
    async with world.serving() as client:
        refusal = await ended(client.policies(metadata=()))
    assert refusal == (Code.INVALID_ARGUMENT, "security header missing from request")


async def test_a_call_round_the_listener_is_denied(world):
    async with world.serving(), Client.connect(f"unix:{world.front._inner}") as round_it:
        assert (await ended(round_it.policies()))[0] is Code.PERMISSION_DENIED


async def test_a_flood_of_watchers_is_bounded_and_costs_one_rendering(world):
    world.lay_down(ALL)
    async with world.serving() as client:
        world.admission._streams[os.geteuid()] = MAX_STREAMS_PER_UID - 20
        streams = [client.policies() for _ in range(30)]
        answers = await asyncio.gather(*map(read, streams), return_exceptions=True)
        refused = [answer for answer in answers if isinstance(answer, grpc.aio.AioRpcError)]
        assert [(error.code(), error.details()) for error in refused] == [
            (Code.UNAVAILABLE, "too many streams of this user")
        ] * 10
        for stream in streams:
            stream.cancel()
        await until(lambda: not world.shelf._watchers)
        assert world.admission._streams[os.geteuid()] == MAX_STREAMS_PER_UID - 20

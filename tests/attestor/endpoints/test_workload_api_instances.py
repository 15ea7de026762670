# SPDX-License-Identifier: Apache-2.0
"""Identities that belong to one process alone, as the Workload API hands them out."""

import os
from datetime import timedelta

import grpc
import pytest

from attestor.errors import IssuerUnavailableError
from spiffekit.template import Template
from tests.attacks.processes import children
from tests.attestor.endpoints.conftest import until
from tests.attestor.endpoints.http2 import PASS_ON, Stream, connection_of
from tests.attestor.endpoints.world import BUNDLES, DB, Client, ended, ids, read
from tests.attestor.factory import entry

__all__ = ["children"]

Code = grpc.StatusCode
DENIED = (Code.PERMISSION_DENIED, "no identity issued")
OWN = "spiffe://example.org"
MINUTE = timedelta(minutes=1)


def own(entry_id="agent", *selectors, **fields):
    return entry(entry_id, *selectors, needs_evidence=True, **fields)


@pytest.fixture
def agent(world):
    """A node with one entry, which gives each process an SVID of its own."""
    world.register(own())
    return world


async def test_each_process_is_handed_a_key_of_its_own(agent, children, folder):
    async with agent.serving() as client:
        ours = await client.first()
        with connection_of(children, agent.path, folder, PASS_ON) as (_, connection):
            stream = Stream(connection)
            await stream.open()
            theirs = await stream.message()
        assert ids(ours) == ids(theirs) == [f"{OWN}/agent"]
        assert ours.svids[0].x509_svid_key != theirs.svids[0].x509_svid_key
        assert await client.first() == ours
    assert agent.api._rendered == {}  # nothing of one process is kept for others


async def test_what_is_a_process_alone_stands_beside_what_is_shared(agent):
    agent.grant(entry("shared", created=1))
    async with agent.serving() as client:
        assert ids(await client.first()) == [f"{OWN}/agent", f"{OWN}/shared"]


async def test_it_is_renewed_on_the_open_stream_with_another_key(agent):
    async with agent.serving() as client:
        stream = client.stream()
        first = await read(stream)
        asked = agent.unix.asked
        await until(lambda: agent.clock.sleeping)
        await agent.clock.advance(40 * MINUTE)
        second = await read(stream)
        assert second.svids[0].x509_svid_key != first.svids[0].x509_svid_key
        assert agent.unix.asked > asked  # and the process was looked at again
    assert len(agent.issuer.batches) == 2


async def test_streams_of_bundles_ask_for_no_svid(agent):
    async with agent.serving() as client:
        for name in BUNDLES:
            assert await client.first(name)
    assert agent.issuer.batches == []


async def test_what_the_issuer_refuses_is_denied(agent):
    agent.issuer.refused.add("agent")
    async with agent.serving() as client:
        assert await client.refusal("FetchX509SVID") == DENIED
        assert await client.refusal("FetchJWTSVID", **DB) == DENIED


async def test_what_the_issuer_refuses_withholds_nothing_else(agent):
    agent.issuer.refused.add("agent")
    agent.grant(entry("shared", created=1))
    async with agent.serving() as client:
        assert ids(await client.first()) == [f"{OWN}/shared"]
        assert ids(await client.answer("FetchJWTSVID", **DB)) == [f"{OWN}/shared"]


async def test_while_the_issuer_is_away_it_is_unavailable(agent):
    agent.issuer.error = IssuerUnavailableError("away")
    async with agent.serving() as client:
        assert await client.refusal("FetchX509SVID") == (Code.UNAVAILABLE, "not ready")
        agent.issuer.error = None
        assert ids(await client.first()) == [f"{OWN}/agent"]


async def test_who_executes_something_else_while_its_svid_is_issued_does_not_get_it(agent):
    async with agent.serving() as client:
        ensure = agent.instances.ensure

        async def slowly(*arguments):
            await ensure(*arguments)
            agent.executable = (1, 1, 1, 1, 1)
            agent.unix.say("uid:2")

        agent.instances.ensure = slowly
        assert await client.refusal("FetchX509SVID") == DENIED


async def test_a_token_is_asked_for_with_evidence_and_is_the_process_alone(agent, children, folder):
    agent.register(entry("shared", created=1))
    async with agent.serving() as client:
        answer = await client.answer("FetchJWTSVID", **DB)
        assert ids(answer) == [f"{OWN}/agent", f"{OWN}/shared"]
        evidence, none = agent.issuer.evidence
        assert (evidence.process.pid, none) == (os.getpid(), None)
        async with Client.connect(f"unix:{agent.path}") as again:  # another connection of the same process
            assert await again.answer("FetchJWTSVID", **DB) == answer
    assert len(agent.issuer.evidence) == 2


async def test_a_template_gives_each_workload_the_id_of_what_it_is(world):
    template = Template.parse("spiffe://example.org/user/{unix:user}")
    world.register(own("users", "unix:gid:1", path="/user", template=template))
    async with world.serving() as client:
        world.unix.say("gid:1", "user:ann")
        assert ids(await client.first()) == [f"{OWN}/user/ann"]
        world.unix.say("gid:1")
        assert await client.refusal("FetchX509SVID") == DENIED


async def test_an_entry_that_goes_ends_the_stream(agent):
    async with agent.serving() as client:
        stream = client.stream()
        await read(stream)
        agent.remove("agent")
        assert await ended(stream) == DENIED

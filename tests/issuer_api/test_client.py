# SPDX-License-Identifier: Apache-2.0
"""The client that the commands use."""

import asyncio
from pathlib import Path

import pytest
from grpc_health.v1 import health_pb2

from issuer.client import DEADLINE, MAX_MESSAGE, PAGE_SIZE, connect, listed
from spiffekit.wire.pb.spire.api import types_pb2
from spiffekit.wire.pb.spire.api.server.agent.v1 import agent_pb2
from spiffekit.wire.pb.spire.api.server.bundle.v1 import bundle_pb2
from spiffekit.wire.pb.spire.api.server.debug.v1 import debug_pb2
from spiffekit.wire.pb.spire.api.server.entry.v1 import entry_pb2
from spiffekit.wire.pb.spire.api.server.svid.v1 import svid_pb2
from tests.issuer_api.world import id_message


def test_where_nobody_listens_the_message_says_what_to_do(place):
    socket = place / "none.sock"
    with pytest.raises(ConnectionRefusedError) as caught, connect(socket):
        pass
    assert str(caught.value) == f"no issuer listens at {socket} (see --socketPath)"


async def test_every_service_is_reached_over_the_admin_socket(world):
    world.health.ready = True

    def use():
        with connect(world.socket) as api:
            return (
                api.nodes.CountAgents(agent_pb2.CountAgentsRequest()).count,
                api.bundles.CountBundles(bundle_pb2.CountBundlesRequest()).count,
                api.entries.CountEntries(entry_pb2.CountEntriesRequest()).count,
                api.debug.GetInfo(debug_pb2.GetInfoRequest()).entries_count,
                api.svids.MintJWTSVID(
                    svid_pb2.MintJWTSVIDRequest(id=id_message("/a"), audience=["b"])
                ).svid.id.path,
                api.check_health(health_pb2.HealthCheckRequest()).status,
            )

    assert await asyncio.to_thread(use) == (0, 1, 0, 0, "/a", health_pb2.HealthCheckResponse.SERVING)


async def test_a_socket_may_be_named_from_where_one_is(world, monkeypatch):
    monkeypatch.chdir(world.socket.parent)

    def use():
        with connect(Path(world.socket.name)) as api:
            return api.entries.CountEntries(entry_pb2.CountEntriesRequest()).count

    assert await asyncio.to_thread(use) == 0


async def test_an_answer_may_be_larger_than_grpc_would_have_it(world):
    """gRPC's own limit is 4 MiB; a batch answers with all that it was given, in one message."""
    names = await world.large_entries(6)

    def use():
        with connect(world.socket) as api:
            request = entry_pb2.BatchUpdateEntryRequest(
                entries=[types_pb2.Entry(id=name, hint="x") for name in names],
                input_mask=types_pb2.EntryMask(hint=True),
            )
            return api.entries.BatchUpdateEntry(request).ByteSize()

    assert 4 * 1024 * 1024 < await asyncio.to_thread(use) < MAX_MESSAGE


def test_pages_are_fetched_until_there_is_no_next_one():
    asked = []

    def call(request, timeout):
        asked.append((request.page_token, request.page_size, timeout))
        token = {"": "a", "a": "b", "b": ""}[request.page_token]
        entries = [types_pb2.Entry(id=f"{len(asked)}{name}") for name in "xy"]
        return entry_pb2.ListEntriesResponse(entries=entries, next_page_token=token)

    found = listed(call, entry_pb2.ListEntriesRequest(), "entries")
    assert [entry.id for entry in found] == ["1x", "1y", "2x", "2y", "3x", "3y"]
    assert asked == [(token, PAGE_SIZE, DEADLINE) for token in ("", "a", "b")]

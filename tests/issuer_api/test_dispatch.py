# SPDX-License-Identifier: Apache-2.0
"""What happens around every call: errors, audit of refusals, metrics."""

import asyncio
import logging

import grpc
import pytest

from issuer.api.dispatch import STATUS, item_status
from issuer.errors import DenialReason, IssuerError
from issuer.model import Outcome
from spiffekit.wire.pb.issuer.v1 import updates_pb2_grpc
from spiffekit.wire.pb.spire.api import types_pb2
from spiffekit.wire.pb.spire.api.server.agent.v1 import agent_pb2, agent_pb2_grpc
from spiffekit.wire.pb.spire.api.server.bundle.v1 import bundle_pb2, bundle_pb2_grpc
from spiffekit.wire.pb.spire.api.server.debug.v1 import debug_pb2, debug_pb2_grpc
from spiffekit.wire.pb.spire.api.server.entry.v1 import entry_pb2, entry_pb2_grpc
from tests.issuer_api.calls import call_raw, refused
from tests.issuer_api.entries import message
from tests.issuer_api.world import TRUST_DOMAIN, id_message

Code = grpc.StatusCode
GET_ENTRY = "/spire.api.server.entry.v1.Entry/GetEntry"
GET_INFO = "/spire.api.server.debug.v1.Debug/GetInfo"


def test_every_error_of_the_issuer_has_a_code():
    """A class that is forgotten here would end as an internal error."""

    def family(kind):
        return {kind}.union(*(family(child) for child in kind.__subclasses__()))

    made = [k("x", DenialReason.BANNED) if "Denied" in k.__name__ else k("x") for k in family(IssuerError)]
    nameless = {type(e).__name__ for e in made if STATUS.status_of(e).code is Code.INTERNAL}
    assert nameless == {"IssuerError"}


def test_an_error_without_a_code_never_becomes_the_status_of_an_item():
    error = IssuerError("unforeseen")
    with pytest.raises(IssuerError) as caught:
        item_status(error)
    assert caught.value is error


@pytest.mark.parametrize("reason", list(DenialReason))
def test_the_reasons_of_a_denial_are_those_of_the_wire(reason):
    name = types_pb2.PermissionDeniedDetails.Reason.Name(int(reason))
    assert name == ("UNKNOWN" if reason is DenialReason.UNKNOWN else f"AGENT_{reason.name}")


async def get_entry(channel, entry_id="none"):
    return await entry_pb2_grpc.EntryStub(channel).GetEntry(entry_pb2.GetEntryRequest(id=entry_id))


async def test_a_refused_call_of_an_operator_is_recorded(world, local):
    with refused(Code.NOT_FOUND):
        await get_entry(local)
    await world.entry("/admin", admin=True)
    admin = await world.dial(await world.sign("/admin"))
    with refused(Code.PERMISSION_DENIED):
        await debug_pb2_grpc.DebugStub(admin).GetInfo(debug_pb2.GetInfoRequest())
    with refused(Code.NOT_FOUND):
        await get_entry(admin)
    trail = [(r.actor.partition("=")[0], r.act, r.outcome, r.detail["code"]) for r in await world.trail()]
    assert trail == [
        ("local:uid", GET_ENTRY, Outcome.FAILED, "NOT_FOUND"),
        ("spiffe://example.org/admin", GET_INFO, Outcome.DENIED, "PERMISSION_DENIED"),
        ("spiffe://example.org/admin", GET_ENTRY, Outcome.FAILED, "NOT_FOUND"),
    ]


async def test_refusals_of_strangers_and_nodes_cannot_flood_the_trail(world):
    strange = agent_pb2_grpc.AgentStub(await world.dial())
    with refused(Code.INVALID_ARGUMENT):
        await anext(aiter(strange.AttestAgent(iter(()))))
    with refused(Code.PERMISSION_DENIED):
        await strange.ListAgents(agent_pb2.ListAgentsRequest())
    workload = agent_pb2_grpc.AgentStub(await world.dial(await world.sign("/web")))
    with refused(Code.INVALID_ARGUMENT):
        await anext(aiter(workload.AttestAgent(iter(()))))
    with refused(Code.PERMISSION_DENIED):
        await workload.ListAgents(agent_pb2.ListAgentsRequest())
    node = await world.dial(await world.node())
    with refused(Code.PERMISSION_DENIED):
        await agent_pb2_grpc.AgentStub(node).ListAgents(agent_pb2.ListAgentsRequest())
    assert await world.trail() == []


async def test_a_refusal_that_cannot_be_recorded_is_a_refusal_all_the_same(world, local, caplog):
    await world.lose_the_trail()
    with refused(Code.NOT_FOUND, "entry 'none' does not exist"):
        await get_entry(local)
    assert "refusal could not be recorded" in caplog.messages


async def test_a_change_that_cannot_be_recorded_is_not_made(world, local):
    await world.lose_the_trail()
    request = entry_pb2.BatchCreateEntryRequest(entries=[message()])
    (result,) = (await entry_pb2_grpc.EntryStub(local).BatchCreateEntry(request)).results
    text = "database failed, nothing was changed: no such table: audit"
    assert (result.status.code, result.status.message) == (Code.UNAVAILABLE.value[0], text)
    assert world.registrations.count() == (0, 0)


async def test_an_error_that_nobody_expected_says_nothing_of_itself(world, local, caplog):
    world.registrations.entry = lambda _: 1 / 0
    with refused(Code.INTERNAL, "internal error"):
        await get_entry(local)
    (record,) = [r for r in caplog.records if r.message == "call failed"]
    assert (record.levelno, record.method, record.code) == (logging.ERROR, GET_ENTRY, "INTERNAL")
    assert isinstance(record.exc_info[1], ZeroDivisionError)


async def test_an_unexpected_error_in_one_item_fails_the_batch(world, local):
    """It must not pass for a refusal of that item."""
    world.database.on_commit.append(lambda _: 1 / 0)
    request = entry_pb2.BatchCreateEntryRequest(entries=[message()])
    with refused(Code.INTERNAL, "internal error"):
        await entry_pb2_grpc.EntryStub(local).BatchCreateEntry(request)


async def test_a_refusal_is_logged_with_who_and_why(local, caplog):
    caplog.set_level(logging.INFO, "issuer.api.dispatch")
    with refused(Code.NOT_FOUND):
        await get_entry(local, "x" * 2000)
    (record,) = [r for r in caplog.records if r.message == "call refused"]
    assert record.method == GET_ENTRY
    assert record.actor.startswith("local:uid=")
    assert len(record.reason) <= 500


async def test_calls_are_counted_by_method_and_code(world, local):
    await bundle_pb2_grpc.BundleStub(local).GetBundle(bundle_pb2.GetBundleRequest())
    for _ in range(2):
        with refused(Code.NOT_FOUND):
            await get_entry(local)
    with refused(Code.INVALID_ARGUMENT):
        await anext(aiter(agent_pb2_grpc.AgentStub(local).AttestAgent(iter(()))))
    with refused(Code.PERMISSION_DENIED):
        await anext(aiter(updates_pb2_grpc.UpdatesStub(local).Watch(iter(()))))

    def value(name, **labels):
        return world.registry.get_sample_value(name, labels)

    get_bundle = "/spire.api.server.bundle.v1.Bundle/GetBundle"
    attest = "/spire.api.server.agent.v1.Agent/AttestAgent"
    assert value("issuer_calls_total", method=get_bundle, code="OK") == 1
    assert value("issuer_calls_total", method=GET_ENTRY, code="NOT_FOUND") == 2
    assert value("issuer_calls_total", method=attest, code="INVALID_ARGUMENT") == 1
    assert value("issuer_calls_total", method="/issuer.v1.Updates/Watch", code="PERMISSION_DENIED") == 1
    assert value("issuer_call_seconds_count", method=GET_ENTRY) == 2


async def test_a_stream_that_ends_well_is_counted_too(world):
    node = entry_pb2_grpc.EntryStub(await world.dial(await world.node()))
    request = entry_pb2.SyncAuthorizedEntriesRequest()
    assert [answer async for answer in node.SyncAuthorizedEntries(iter([request]))]
    method = "/spire.api.server.entry.v1.Entry/SyncAuthorizedEntries"

    async def counted():
        while not world.registry.get_sample_value("issuer_calls_total", {"method": method, "code": "OK"}):
            await asyncio.sleep(0)

    await asyncio.wait_for(counted(), 5)


async def test_a_call_round_the_listener_is_nobodys(world):
    """Whoever reached gRPC's inner socket would have no record, and so no standing."""
    async with grpc.aio.insecure_channel(
        f"unix:{world.inner}", options=[("grpc.default_authority", "localhost")]
    ) as channel:
        with refused(Code.PERMISSION_DENIED, "caller cannot be identified"):
            await bundle_pb2_grpc.BundleStub(channel).GetBundle(bundle_pb2.GetBundleRequest())


@pytest.mark.parametrize("body", [b"\xff", b"\x0a\xff", b"\x0a\x02\xff\xfe"], ids=["tag", "length", "utf-8"])
async def test_a_malformed_message_reaches_no_method(world, body):
    reader, writer = await asyncio.open_unix_connection(world.socket)
    try:
        status = await call_raw(reader, writer, GET_ENTRY.encode(), body)
    finally:
        writer.close()
    assert status not in (None, 0, Code.NOT_FOUND.value[0])
    assert await world.trail() == []


async def test_a_message_that_is_too_large_is_refused(local):
    with refused(Code.RESOURCE_EXHAUSTED):
        await get_entry(local, "x" * (4 * 1024 * 1024))


async def test_an_id_is_where_it_belongs_in_the_trail(world, local):
    """Every record names the call, so that the lines of the log can be found."""
    await world.node("n1")
    stub = agent_pb2_grpc.AgentStub(local)
    for _ in range(2):
        await stub.BanAgent(agent_pb2.BanAgentRequest(id=id_message("/spire/agent/test/n1")))
    first, second = await world.trail()
    assert first.at == world.clock.now()
    assert len(first.detail["call"]) == 16
    assert first.detail["call"] != second.detail["call"]
    assert TRUST_DOMAIN.name in first.subject

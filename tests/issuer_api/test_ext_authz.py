# SPDX-License-Identifier: Apache-2.0
"""Envoy's external authorization: who the agent is, what it asks for, and that whatever fails denies."""

import asyncio
import logging
from datetime import timedelta
from urllib.parse import quote

import grpc
import pytest

from issuer.model import AgentState, Outcome, Revocation, RevocationKind, RevocationReason
from spiffekit.certificates import pem_certificate
from spiffekit.wire import tls
from spiffekit.wire.pb.envoy.service.auth.v3 import external_auth_pb2 as pb
from spiffekit.wire.pb.envoy.service.auth.v3.external_auth_pb2_grpc import AuthorizationStub
from tests.issuer.governance.policies import a_stored
from tests.issuer.strategies import an_agent
from tests.issuer_api.calls import refused
from tests.issuer_api.gateways import GATEWAY, GATEWAY_IDS, PAYER, a_table, free_port, serving
from tests.issuer_api.world import World

Code = grpc.StatusCode
POLICY = """
permit(principal, action == Action::"tool.call", resource == Tool::"pay");
permit(principal, action == Action::"http.request", resource == Service::"invoices")
when { context.http.method == "GET" && context.http.path like "/v1/*" };
"""


@pytest.fixture
async def world(place, clock):
    async with World.open(place, clock, gateway_ids=GATEWAY_IDS, agent_limit=(1.0, 20.0)) as made:
        await made.database.write(lambda tx: tx.agents.create(an_agent()))
        await made.database.write(lambda tx: tx.policies.add(a_stored(POLICY)))
        yield made


@pytest.fixture
async def envoy(world):
    return AuthorizationStub(await world.dial(await world.sign("/gateway")))


def a_request(principal=PAYER, *, method="GET", path="/v1/7", certificate="", request_id="", **extensions):
    """What Envoy sends of a request."""
    request = pb.CheckRequest()
    attributes = request.attributes
    attributes.source.principal = principal
    attributes.source.certificate = certificate
    http = attributes.request.http
    http.id, http.method, http.path = (
        text.encode("utf-8", "surrogateescape") for text in (request_id, method, path)
    )
    attributes.context_extensions.update(extensions)
    return request


async def check(envoy, request=None, **fields):
    """Ask; return the code of gRPC and the status that the client gets, None if its request goes on."""
    answer = await envoy.Check(request or a_request(**fields), timeout=60)
    if answer.WhichOneof("http_response") == "ok_response":
        assert answer == pb.CheckResponse(status=pb.Status(), ok_response=pb.OkHttpResponse()), (
            "nothing is added"
        )
        return answer.status.code, None
    assert not answer.status.message, "the client hears no reason"
    return answer.status.code, answer.denied_response.status.code


ALLOWED = (0, None)
DENIED = (Code.PERMISSION_DENIED.value[0], 403)


async def calls(world):
    return [record for record in await world.trail() if record.type.startswith("call.")]


async def test_a_tool_is_what_the_route_says_it_is(envoy):
    assert await check(envoy, tool="pay") == ALLOWED
    assert await check(envoy, tool="wipe") == DENIED


async def test_of_a_service_method_and_path_are_judged(world, envoy):
    assert await check(envoy, service="invoices", path="/v1/7?a=/../") == ALLOWED
    assert await check(envoy, service="invoices", path="/v2/7") == DENIED
    assert await check(envoy, service="invoices", method="POST") == DENIED
    assert await check(envoy, service="payments") == DENIED
    first = (await calls(world))[0]
    assert (first.type, first.actor, first.subject) == ("call.allowed", GATEWAY, PAYER)
    assert first.act == "/envoy.service.auth.v3.Authorization/Check"
    assert (first.detail["service"], first.detail["method"]) == ("invoices", "GET")
    assert (first.policy.bundle, first.policy.ids) == (world.policy.hash, ("p#2",))


async def test_a_request_with_bytes_that_are_no_text_is_denied_by_us_and_never_by_an_error(world, envoy):
    """Envoy passes on what a client wrote, as strings that need not be UTF-8; it may let pass what fails."""
    for written in ({"path": "/v1/\udcff"}, {"path": "/v1/é"}, {"method": "G\udcc3T"}):
        assert await check(envoy, service="invoices", **written) == DENIED
    assert await check(envoy, service="invoices", request_id="\udcfe") == ALLOWED
    assert [record.type for record in await calls(world)] == ["call.denied"] * 3 + ["call.allowed"]


async def test_a_path_that_can_be_read_in_two_ways_is_denied_and_recorded(world, envoy):
    twisted = ["/v1/../admin", "/v1//7", "/v1/%2e%2e/admin", "/v1/..;/admin", "/v1/%61", "/v1/a\\b", "*", ""]
    for path in twisted:
        assert await check(envoy, service="invoices", path=path) == DENIED, path
    assert await check(envoy, service="invoices", method="get") == DENIED
    records = await calls(world)
    assert len(records) == len(twisted) + 1
    assert {(record.outcome, record.policy) for record in records} == {(Outcome.DENIED, None)}
    assert records[0].reason == "path: has an empty segment, '.' or '..'"


@pytest.mark.parametrize(
    "principal",
    ["", "payer", "spiffe://example.org/agent/../agent/payer", "SPIFFE://example.org/agent/payer",
     "spiffe://example.org/agent/payer\n", "CN=spiffe://example.org/agent/payer", f"{PAYER},{PAYER}",
     "https://example.org/agent/payer"],
)  # fmt: skip
async def test_who_shows_no_spiffe_id_is_denied(world, envoy, caplog, principal):
    caplog.set_level(logging.INFO, "issuer.api.ext_authz")
    assert await check(envoy, principal=principal, tool="pay") == DENIED
    assert not await calls(world)
    (said,) = caplog.records
    assert said.reason.startswith("source.principal: ")


@pytest.mark.parametrize(
    "principal",
    ["spiffe://example.org/web", "spiffe://other.org/agent/payer", f"{PAYER}/x", "spiffe://example.org"],
)
async def test_who_is_no_agent_of_ours_is_denied(world, envoy, principal):
    assert await check(envoy, principal=principal, tool="pay") == DENIED
    (record,) = await calls(world)
    assert record.subject == principal


UNCLEAR = [{}, {"tool": "pay", "service": "invoices"}, {"Tool": "pay"}, {"tool": ""}, {"tool": "pay\n"}]


@pytest.mark.parametrize("extensions", UNCLEAR, ids=str)
async def test_a_route_that_does_not_say_what_it_is_about_lets_nobody_pass(world, envoy, extensions):
    assert await check(envoy, **extensions) == DENIED
    assert not await calls(world)


async def test_what_the_client_wrote_says_nothing(world, envoy):
    """Headers, the body and Envoy's dynamic metadata are not even read: field numbers are Envoy's."""
    known = a_request(principal="spiffe://example.org/web", tool="pay").SerializeToString()
    header = b"\x1a" + bytes([len(entry := b"\x0a\x08x-spiffe\x12\x20" + PAYER.encode()[:32])]) + entry
    http = b"\x12" + bytes([len(header)]) + header
    attributes = b"\x22" + bytes([len(http)]) + http
    spoofed = pb.CheckRequest.FromString(known + b"\x0a" + bytes([len(attributes)]) + attributes)
    assert spoofed.ByteSize() > len(known), "it is there, and nobody knows it"
    assert await check(envoy, spoofed) == DENIED


@pytest.mark.parametrize("state", [state for state in AgentState if state is not AgentState.ACTIVE])
async def test_an_agent_that_is_not_active_is_denied(world, envoy, state):
    await world.database.write(lambda tx: tx.agents.create(an_agent("/agent/other", state=state)))
    assert await check(envoy, principal="spiffe://example.org/agent/other", tool="pay") == DENIED


def as_envoy_sends_it(svid):
    return quote(pem_certificate(svid.chain_der[0]).decode(), safe="")


async def test_an_agent_whose_certificate_is_taken_back_is_denied_where_envoy_sends_it(world, envoy, clock):
    svid, other = await world.sign("/agent/payer"), await world.sign("/agent/payer")
    assert await check(envoy, certificate=as_envoy_sends_it(svid), tool="pay") == ALLOWED
    revoked = Revocation(
        kind=RevocationKind.CERTIFICATE,
        key=str(svid.serial_number),
        spiffe_id=svid.spiffe_id,
        at=clock.now(),
        until=svid.expires_at,
        reason=RevocationReason.KEY_COMPROMISE,
    )
    await world.database.write(lambda tx: tx.revocations.put(revoked))
    assert await check(envoy, certificate=as_envoy_sends_it(svid), tool="pay") == DENIED
    assert (await calls(world))[-1].reason == "the agent's certificate is revoked"
    assert await check(envoy, certificate=as_envoy_sends_it(other), tool="pay") == ALLOWED


async def test_a_certificate_that_is_none_of_the_principals_denies(world, envoy):
    someone = as_envoy_sends_it(await world.sign("/web"))
    for certificate in (someone, "nonsense", "%ff", quote("-----BEGIN CERTIFICATE-----\n"), "x" * 70_000):
        assert await check(envoy, certificate=certificate, tool="pay") == DENIED
    assert not await calls(world)


async def test_the_identifier_of_a_request_is_recorded_if_it_can_be(world, envoy):
    for request_id in ("bfe9eb29", "", "a\n", "x" * 1000):
        assert await check(envoy, request_id=request_id, tool="pay") == ALLOWED
    assert [record.detail.get("request") for record in await calls(world)] == ["bfe9eb29", None, None, None]


async def test_an_agent_that_asks_too_much_is_denied_and_not_let_through_by_an_error(world, envoy, clock):
    assert {await check(envoy, tool="pay") for _ in range(20)} == {ALLOWED}
    assert await check(envoy, tool="pay") == (Code.RESOURCE_EXHAUSTED.value[0], 429)
    assert len(await calls(world)) == 20
    await clock.advance(timedelta(seconds=1))
    assert await check(envoy, tool="pay") == ALLOWED


async def test_a_gateway_over_its_own_limit_takes_nothing_from_agents(place, clock):
    limits = {"gateway_limit": (1.0, 5.0), "agent_limit": (0.001, 6.0)}
    async with World.open(place, clock, gateway_ids=GATEWAY_IDS, **limits) as world:
        await world.database.write(lambda tx: tx.agents.create(an_agent()))
        await world.database.write(lambda tx: tx.policies.add(a_stored(POLICY)))
        envoy = AuthorizationStub(await world.dial(await world.sign("/gateway")))
        assert {await check(envoy, tool="pay") for _ in range(5)} == {ALLOWED}
        denied = {await check(envoy, tool="pay") for _ in range(10)}
        assert denied == {(Code.RESOURCE_EXHAUSTED.value[0], 429)}
        await clock.advance(timedelta(seconds=1))
        assert await check(envoy, tool="pay") == ALLOWED


async def test_a_decision_that_cannot_be_recorded_is_a_denial(world, envoy):
    await world.lose_the_trail()
    assert await check(envoy, tool="pay") == (Code.UNAVAILABLE.value[0], 503)


async def test_an_error_of_ours_lets_nobody_pass(world, envoy, monkeypatch, caplog):
    def fail(*_):
        raise ZeroDivisionError

    monkeypatch.setattr(world.policy, "judge_call", fail)
    assert await check(envoy, tool="pay") == (Code.INTERNAL.value[0], 500)
    assert "request denied by an error" in caplog.text


async def test_a_policy_that_changes_counts_at_once(world, envoy):
    assert await check(envoy, tool="pay") == ALLOWED
    forbid = a_stored("forbid(principal, action, resource);", "stop")
    await world.database.write(lambda tx: tx.policies.add(forbid))
    assert await check(envoy, tool="pay") == DENIED


async def test_at_its_own_port_there_is_nothing_else(world):
    async with serving(world, a_table(authzen_port=None, ext_authz_port=free_port())) as table:

        async def dial(svid):
            roots = [a.certificate_der for a in world.registrations.bundles()[0].x509_authorities]
            context = tls.client_context(svid, roots)
            tunnel = tls.Tunnel(lambda: connect(table.ext_authz_port, context))
            target = await world.stack.enter_async_context(tunnel.open())
            options = [("grpc.default_authority", "localhost"), ("grpc.use_local_subchannel_pool", 1)]
            return await world.stack.enter_async_context(grpc.aio.insecure_channel(target, options=options))

        channel = await dial(await world.sign("/gateway"))
        assert await check(AuthorizationStub(channel), tool="pay") == ALLOWED
        with refused(Code.UNIMPLEMENTED):
            await channel.unary_unary("/spire.api.server.bundle.v1.Bundle/GetBundle")(b"", timeout=60)
        with refused(Code.PERMISSION_DENIED):
            await AuthorizationStub(await dial(await world.sign("/web"))).Check(
                a_request(tool="pay"), timeout=60
            )
        with refused(Code.UNAVAILABLE):
            await AuthorizationStub(await dial(None)).Check(a_request(tool="pay"), timeout=60)


async def connect(port, context):

    return await asyncio.open_connection("127.0.0.1", port, ssl=context, server_hostname="issuer")


# Envoy's own numbers, written down from its interface: a mistake of ours must show.
NUMBERS = {
    "CheckRequest": {"attributes": (1, "AttributeContext")},
    "AttributeContext": {
        "source": (1, "AttributeContext.Peer"),
        "request": (4, "AttributeContext.Request"),
        "context_extensions": (10, "AttributeContext.ContextExtensionsEntry"),
    },
    "AttributeContext.Peer": {"principal": (4, "string"), "certificate": (5, "string")},
    "AttributeContext.Request": {"http": (2, "AttributeContext.HttpRequest")},
    "AttributeContext.HttpRequest": {"id": (1, "bytes"), "method": (2, "bytes"), "path": (4, "bytes")},
    "CheckResponse": {
        "status": (1, "Status"),
        "denied_response": (2, "DeniedHttpResponse"),
        "ok_response": (3, "OkHttpResponse"),
    },
    "DeniedHttpResponse": {"status": (1, "HttpStatus")},
    "OkHttpResponse": {},
    "Status": {"code": (1, "int32"), "message": (2, "string")},  # google.rpc.Status
    "HttpStatus": {"code": (1, "int32")},  # envoy.type.v3.HttpStatus; an enumeration there
}


def test_names_and_numbers_are_envoys():
    kinds = {5: "int32", 9: "string", 12: "bytes"}
    found = {}
    waiting = list(pb.DESCRIPTOR.message_types_by_name.values())
    while waiting:
        message = waiting.pop()
        waiting += [nested for nested in message.nested_types if not nested.GetOptions().map_entry]
        name = message.full_name.removeprefix("envoy.service.auth.v3.")
        found[name] = {
            field.name: (
                field.number,
                kinds[field.type]
                if field.message_type is None
                else field.message_type.full_name.removeprefix("envoy.service.auth.v3."),
            )
            for field in message.fields
        }
    assert found == NUMBERS
    (service,) = pb.DESCRIPTOR.services_by_name.values()
    assert [f"{service.full_name}/{method.name}" for method in service.methods] == [
        "envoy.service.auth.v3.Authorization/Check"
    ]

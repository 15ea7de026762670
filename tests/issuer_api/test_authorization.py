# SPDX-License-Identifier: Apache-2.0
"""Which kind of caller may call what: the whole matrix, and that nothing round the table gets through."""

import asyncio

import grpc
import pytest

from issuer.api.authorization import HTTP_TABLE, TABLE, authorize
from issuer.api.caller import Kind
from issuer.errors import NotAuthorizedError
from spiffekit.id import SpiffeId
from spiffekit.testing import TestCA
from spiffekit.wire.pb.spire.api.server.agent.v1 import agent_pb2
from spiffekit.wire.pb.spire.api.server.localauthority.v1 import localauthority_pb2
from spiffekit.wire.pb.spire.api.server.logger.v1 import logger_pb2
from spiffekit.wire.pb.spire.api.server.trustdomain.v1 import trustdomain_pb2
from tests.issuer_api.calls import call_empty, call_raw, paths
from tests.issuer_api.gateways import GATEWAY_IDS
from tests.issuer_api.world import SERVICES, World

# Written down a second time on purpose, and by caller: the table of the code is by method.
ANYBODY = {"Agent/AttestAgent", "Bundle/GetBundle", "Revocation/GetStatus"}
GATEWAYS = ANYBODY | {"Authorization/Check"}
NODES = ANYBODY | {
    "Agent/RenewAgent",
    "Agent/PostStatus",
    "Bundle/GetFederatedBundle",
    "Entry/GetAuthorizedEntries",
    "Entry/SyncAuthorizedEntries",
    "SVID/BatchNewX509SVID",
    "SVID/NewJWTSVID",
    "SVID/BatchNewWITSVID",
    "Updates/Watch",
    "AuditReports/Report",
}
DOWNSTREAMS = ANYBODY | {"Bundle/PublishJWTAuthority", "Bundle/PublishWITAuthority"}
ADMINS = ANYBODY | {
    "Agent/CountAgents",
    "Agent/ListAgents",
    "Agent/GetAgent",
    "Agent/DeleteAgent",
    "Agent/BanAgent",
    "Agent/CreateJoinToken",
    "Bundle/CountBundles",
    "Bundle/AppendBundle",
    "Bundle/ListFederatedBundles",
    "Bundle/GetFederatedBundle",
    "Bundle/BatchCreateFederatedBundle",
    "Bundle/BatchUpdateFederatedBundle",
    "Bundle/BatchSetFederatedBundle",
    "Bundle/BatchDeleteFederatedBundle",
    "Entry/CountEntries",
    "Entry/ListEntries",
    "Entry/GetEntry",
    "Entry/BatchCreateEntry",
    "Entry/BatchUpdateEntry",
    "Entry/BatchDeleteEntry",
    "SVID/MintX509SVID",
    "SVID/MintJWTSVID",
    "SVID/MintWITSVID",
    "Explain/Why",
    "Audit/ListEvents",
    "Audit/ProveEvent",
    "Audit/GetCheckpoint",
    "Policy/Put",
    "Policy/List",
    "Policy/Get",
    "Policy/Delete",
    "Policy/Test",
    "Policy/Simulate",
    "Policy/GetBundle",
    "Revocation/Revoke",
    "Revocation/ListRevoked",
    "Revocation/CertifyRetirement",
    "Revocation/WithdrawAuthority",
    "Agents/RegisterAgent",
    "Agents/GetAgent",
    "Agents/ListAgents",
    "Agents/UpdateAgent",
    "Agents/ActivateAgent",
    "Agents/SuspendAgent",
    "Agents/ResumeAgent",
    "Agents/RetireAgent",
    "Agents/ReviewAgent",
    "Agents/TransferAgent",
    "Agents/PutAgentClass",
    "Agents/ListAgentClasses",
    "Agents/DeleteAgentClass",
}
LOCAL = ADMINS | {"Debug/GetInfo", "Health/Check", "Health/List", "Health/Watch"}
UNIMPLEMENTED = {
    "SVID/NewDownstreamX509CA",
}

# What a method makes of an empty request, once the caller may call it.
BEYOND_THE_TABLE = (grpc.StatusCode.OK, grpc.StatusCode.INVALID_ARGUMENT, grpc.StatusCode.NOT_FOUND)


async def admin_by_entry(world):
    await world.entry("/admin", admin=True)
    return await world.dial(await world.sign("/admin"))


async def admin_by_configuration(world):
    return await world.dial(await world.sign("/configured"))


async def admin_of_a_federated_trust_domain(world):
    ca = TestCA("partner.org", now=world.clock.now())
    await world.database.write(lambda tx: tx.bundles.put(ca.bundle))
    return await world.dial(ca.issue("spiffe://partner.org/admin"))


async def namesake_of_an_admin_in_a_federated_trust_domain(world):
    await world.entry("/admin", admin=True)
    ca = TestCA("partner.org", now=world.clock.now())
    await world.database.write(lambda tx: tx.bundles.put(ca.bundle))
    return await world.dial(ca.issue("spiffe://partner.org/configured"))


async def former_admin(world):
    entry = await world.entry("/admin", admin=True)
    channel = await world.dial(await world.sign("/admin"))
    await world.database.write(lambda tx: tx.entries.delete(entry.id))
    return channel


async def anonymous(world):
    return await world.dial()


async def downstream(world):
    await world.entry("/nested", downstream=True)
    return await world.dial(await world.sign("/nested"))


async def former_downstream(world):
    channel = await downstream(world)
    await world.database.write(lambda tx: tx.entries.delete("nested"))
    return channel


async def downstream_that_is_an_admin(world):
    await world.entry("/nested", downstream=True, admin=True)
    return await world.dial(await world.sign("/nested"))


async def namesake_of_a_downstream_in_a_federated_trust_domain(world):
    await world.entry("/nested", downstream=True)
    ca = TestCA("partner.org", now=world.clock.now())
    await world.database.write(lambda tx: tx.bundles.put(ca.bundle))
    return await world.dial(ca.issue("spiffe://partner.org/nested"))


async def gateway(world):
    return await world.dial(await world.sign("/gateway"))


async def gateway_with_an_entry_of_an_admin(world):
    await world.entry("/gateway", admin=True)
    return await gateway(world)


async def workload(world):
    await world.entry("/web")
    return await world.dial(await world.sign("/web"))


async def the_issuer_itself(world):
    return await world.dial(world.identity.x509_svid())


async def node(world):
    return await world.dial(await world.node())


async def on_the_admin_socket(world):
    return await world.local()


CALLERS = [
    (anonymous, ANYBODY),
    (downstream, DOWNSTREAMS),
    (former_downstream, ANYBODY),
    (downstream_that_is_an_admin, DOWNSTREAMS | ADMINS),
    (namesake_of_a_downstream_in_a_federated_trust_domain, ANYBODY),
    (workload, ANYBODY),
    (gateway, GATEWAYS),
    (gateway_with_an_entry_of_an_admin, GATEWAYS),
    (the_issuer_itself, ANYBODY),
    (namesake_of_an_admin_in_a_federated_trust_domain, ANYBODY),
    (former_admin, ANYBODY),
    (node, NODES),
    (admin_by_entry, ADMINS),
    (admin_by_configuration, ADMINS),
    (admin_of_a_federated_trust_domain, ADMINS),
    (on_the_admin_socket, LOCAL),
]


@pytest.fixture
async def world(place, clock):
    ids = ("spiffe://example.org/configured", "spiffe://partner.org/admin")
    admins = frozenset(map(SpiffeId.parse, ids))
    async with World.open(place, clock, wit=True, admin_ids=admins, gateway_ids=GATEWAY_IDS) as made:
        yield made


@pytest.mark.parametrize(("caller", "may"), [pytest.param(*row, id=row[0].__name__) for row in CALLERS])
async def test_a_caller_may_call_what_its_kind_may_and_nothing_else(world, caller, may):
    channel = await caller(world)
    allowed, denied, missing = set(), set(), set()
    for service in SERVICES.values():
        for method in service.methods:
            name = f"{service.name}/{method.name}"
            code, message = await call_empty(channel, method)
            if code is grpc.StatusCode.UNIMPLEMENTED:
                missing.add(name)
            elif code is grpc.StatusCode.PERMISSION_DENIED:
                assert message == f"authorization denied for method /{service.full_name}/{method.name}"
                denied.add(name)
            else:
                assert code in BEYOND_THE_TABLE, (name, code, message)
                allowed.add(name)
    everything = {f"{s.name}/{m.name}" for s in SERVICES.values() for m in s.methods}
    assert missing == UNIMPLEMENTED & everything
    assert allowed == may
    assert denied == everything - may - missing


@pytest.mark.parametrize(
    "service",
    [
        localauthority_pb2.DESCRIPTOR.services_by_name["LocalAuthority"],
        logger_pb2.DESCRIPTOR.services_by_name["Logger"],
        trustdomain_pb2.DESCRIPTOR.services_by_name["TrustDomain"],
    ],
    ids=lambda service: service.name,
)
async def test_a_service_that_is_not_there_is_unimplemented_for_everybody(world, local, service):
    for channel in (local, await world.dial(), await node(world)):
        for method in service.methods:
            code, _ = await call_empty(channel, method)
            assert code is grpc.StatusCode.UNIMPLEMENTED


def test_the_table_has_no_method_that_no_service_has():
    assert sorted(TABLE.keys() - set(paths(*SERVICES.values()))) == []


@pytest.mark.parametrize("kind", list(Kind))
@pytest.mark.parametrize(
    "method",
    [
        "",
        "/",
        "//",
        "/spire.api.server.agent.v1.Agent",
        "/spire.api.server.agent.v1.Agent/",
        "/spire.api.server.agent.v1.Agent/AttestAgents",
        "/spire.api.server.agent.v1.Agent/AttestAgent/",
        "/spire.api.server.agent.v1.Agent/AttestAgent\n",
        "//spire.api.server.agent.v1.Agent/AttestAgent",
        "spire.api.server.agent.v1.Agent/AttestAgent",
        "/SPIRE.api.server.agent.v1.Agent/AttestAgent",
        "/issuer.v1.Updates/watch",
    ],
)
def test_what_is_not_in_the_table_is_denied_to_every_kind(kind, method):
    with pytest.raises(NotAuthorizedError) as caught:
        authorize(method, frozenset({kind}))
    assert str(caught.value) == f"authorization denied for method {method}"


def test_a_caller_that_is_nothing_may_nothing():
    for method in TABLE:
        with pytest.raises(NotAuthorizedError):
            authorize(method, frozenset())


def test_what_is_asked_over_http_is_asked_by_gateways():
    assert all(kinds == {Kind.GATEWAY} for kinds in HTTP_TABLE.values())
    for path in HTTP_TABLE:
        authorize(path, frozenset((Kind.GATEWAY,)), HTTP_TABLE)
        with pytest.raises(NotAuthorizedError):
            authorize(path, frozenset((Kind.GATEWAY,)))  # it is no gRPC method


TOKEN = b"/spire.api.server.agent.v1.Agent/CreateJoinToken"
TRICKS = {
    "no-leading-slash": lambda path: path[1:],
    "two-leading-slashes": lambda path: b"/" + path,
    "three-leading-slashes": lambda path: b"//" + path,
    "two-inner-slashes": lambda path: b"//".join(path.rsplit(b"/", 1)),
    "trailing-slash": lambda path: path + b"/",
    "encoded-inner-slash": lambda path: b"%2F".join(path.rsplit(b"/", 1)),
    "encoded-inner-slash-small": lambda path: b"%2f".join(path.rsplit(b"/", 1)),
    "encoded-leading-slash": lambda path: b"%2F" + path[1:],
    "encoded-letter": lambda path: path.replace(b"C", b"%43"),
    "lower-case": lambda path: path.lower(),
    "upper-case": lambda path: path.upper(),
    "dot-segment": lambda path: b"/." + path,
    "dot-dot-segment": lambda path: b"/issuer.v1.Updates/.." + path,
    "dot-dot-behind": lambda path: path + b"/../" + path.rsplit(b"/", 1)[1],
    "backslash": lambda path: b"\\".join(path.rsplit(b"/", 1)),
    "query": lambda path: path + b"?a=b",
    "fragment": lambda path: path + b"#a",
    "parameter": lambda path: path + b";a=b",
    "nul": lambda path: path + b"\0",
    "space": lambda path: path + b" ",
    "leading-space": lambda path: b" " + path,
    "absolute": lambda path: b"http://localhost" + path,
    "empty": lambda path: b"",
    "slash": lambda path: b"/",
    "star": lambda path: b"*",
}


async def over_unix(world):
    return await asyncio.open_unix_connection(world.socket)


async def over_tls(world):
    return await world.open_tls()


@pytest.mark.parametrize("connect", [over_unix, over_tls])
async def test_a_twisted_path_reaches_no_method(world, connect):
    """GHSA-p77j-4mvh-x3m3: a `:path` that is not exactly a method's must not slip past the table."""
    body = agent_pb2.CreateJoinTokenRequest(ttl=60, token="twisted").SerializeToString()
    ends = {}
    for name, twist in TRICKS.items():
        reader, writer = await connect(world)
        try:
            ends[name] = await call_raw(reader, writer, twist(TOKEN), body)
        finally:
            writer.close()
    unimplemented = grpc.StatusCode.UNIMPLEMENTED.value[0]
    assert {name: end for name, end in ends.items() if end not in (None, unimplemented)} == {}
    assert await world.tokens() == []


@pytest.mark.parametrize(("connect", "status"), [(over_unix, 0), (over_tls, 7)])
async def test_a_straight_path_reaches_the_table(world, connect, status):
    """The other half of the test above: its client can make a call."""
    body = agent_pb2.CreateJoinTokenRequest(ttl=60, token="straight").SerializeToString()
    reader, writer = await connect(world)
    try:
        assert await call_raw(reader, writer, TOKEN, body) == status
    finally:
        writer.close()
    assert await world.tokens() == ([] if status else ["straight"])

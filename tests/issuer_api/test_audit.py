# SPDX-License-Identifier: Apache-2.0
"""Every method that changes or issues something leaves a record, and does nothing when it cannot."""

from dataclasses import replace
from datetime import UTC, datetime, timedelta
from types import SimpleNamespace

import grpc
import pytest
import sqlalchemy as sa

from issuer.api.authorization import TABLE
from issuer.model import AgentClass, AgentState, JoinToken, Outcome
from issuer.store.schema import audit, metadata
from spiffekit.bundle import JwtAuthority
from spiffekit.testing import TestCA
from spiffekit.wire.convert import bundle_to_proto
from spiffekit.wire.pb.envoy.service.auth.v3 import external_auth_pb2
from spiffekit.wire.pb.envoy.service.auth.v3.external_auth_pb2_grpc import AuthorizationStub
from spiffekit.wire.pb.issuer.v1 import (
    agents_pb2,
    agents_pb2_grpc,
    audit_reports_pb2,
    audit_reports_pb2_grpc,
    policy_pb2,
    policy_pb2_grpc,
    revocation_pb2,
    revocation_pb2_grpc,
)
from spiffekit.wire.pb.spire.api import types_pb2
from spiffekit.wire.pb.spire.api.server.agent.v1 import agent_pb2, agent_pb2_grpc
from spiffekit.wire.pb.spire.api.server.bundle.v1 import bundle_pb2, bundle_pb2_grpc
from spiffekit.wire.pb.spire.api.server.entry.v1 import entry_pb2, entry_pb2_grpc
from spiffekit.wire.pb.spire.api.server.svid.v1 import svid_pb2, svid_pb2_grpc
from tests.issuer.governance.policies import a_stored
from tests.issuer.strategies import an_agent
from tests.issuer_api.entries import message
from tests.issuer_api.gateways import GATEWAY_IDS
from tests.issuer_api.test_svid import request, uri
from tests.issuer_api.test_wit import holder, saw
from tests.issuer_api.world import TRUST_DOMAIN, World, csr, id_message

SERVER = "/spire.api.server."
READS = {
    f"{SERVER}agent.v1.Agent": "CountAgents ListAgents GetAgent",
    f"{SERVER}bundle.v1.Bundle": "GetBundle GetFederatedBundle CountBundles ListFederatedBundles",
    f"{SERVER}entry.v1.Entry": "CountEntries ListEntries GetEntry GetAuthorizedEntries SyncAuthorizedEntries",
    f"{SERVER}debug.v1.Debug": "GetInfo",
    "/grpc.health.v1.Health": "Check List Watch",
    "/issuer.v1.Updates": "Watch",
    "/issuer.v1.Explain": "Why",
    "/issuer.v1.Revocation": "ListRevoked GetStatus",
    "/issuer.v1.Audit": "ListEvents ProveEvent GetCheckpoint",
    "/issuer.v1.Policy": "List Get Test Simulate GetBundle",
    "/issuer.v1.Agents": "GetAgent ListAgents ListAgentClasses",
}
ACTS = {}
PARTNER, OTHER = TestCA("partner.org"), TestCA("other.org")


def act(service, *, stub, caller="operator"):
    """Register a good call of the method that a function is named after."""

    def register(function):
        method = f"{service if service.startswith('/') else SERVER + service}/{function.__name__}"
        ACTS[method] = (function, stub, caller)
        return function

    return register


nodes = {"service": "agent.v1.Agent", "stub": agent_pb2_grpc.AgentStub}
bundles = {"service": "bundle.v1.Bundle", "stub": bundle_pb2_grpc.BundleStub}
entries = {"service": "entry.v1.Entry", "stub": entry_pb2_grpc.EntryStub}
svids = {"service": "svid.v1.SVID", "stub": svid_pb2_grpc.SVIDStub}


owned = {"service": "/issuer.v1.Agents", "stub": agents_pb2_grpc.AgentsStub}


@act(service="/envoy.service.auth.v3.Authorization", stub=AuthorizationStub, caller="gateway")
async def Check(stub):
    attributes = external_auth_pb2.AttributeContext(context_extensions={"tool": "pay"})
    attributes.source.principal = "spiffe://example.org/agent/active"
    answer = await stub.Check(external_auth_pb2.CheckRequest(attributes=attributes))
    return SimpleNamespace(results=[answer])


@act(service="/issuer.v1.Revocation", stub=revocation_pb2_grpc.RevocationStub)
async def Revoke(stub):
    wanted = {"spiffe_id": "spiffe://example.org/agent/active", "reason": "because"}
    await stub.Revoke(revocation_pb2.RevokeRequest(**wanted))


@act(service="/issuer.v1.Revocation", stub=revocation_pb2_grpc.RevocationStub)
async def CertifyRetirement(stub):
    retired = revocation_pb2.CertifyRetirementRequest(spiffe_id="spiffe://example.org/agent/retired")
    await stub.CertifyRetirement(retired)


@act(service="/issuer.v1.Revocation", stub=revocation_pb2_grpc.RevocationStub)
async def WithdrawAuthority(stub):
    await stub.WithdrawAuthority(
        revocation_pb2.WithdrawAuthorityRequest(authority_id="old", reason="because")
    )


@act(**nodes)
async def DeleteAgent(stub):
    await stub.DeleteAgent(agent_pb2.DeleteAgentRequest(id=id_message("/spire/agent/test/n2")))


@act(**nodes)
async def BanAgent(stub):
    await stub.BanAgent(agent_pb2.BanAgentRequest(id=id_message("/spire/agent/test/n2")))


@act(**nodes)
async def CreateJoinToken(stub):
    await stub.CreateJoinToken(agent_pb2.CreateJoinTokenRequest(ttl=60, agent_id=id_message("/alias")))


@act(**nodes, caller="stranger")
async def AttestAgent(stub):
    data = types_pb2.AttestationData(type="join_token", payload=b"secret")
    params = agent_pb2.AttestAgentRequest.Params(data=data, params=agent_pb2.AgentX509SVIDParams(csr=csr()))
    await anext(aiter(stub.AttestAgent(iter([agent_pb2.AttestAgentRequest(params=params)]))))


@act(**nodes, caller="node")
async def RenewAgent(stub):
    params = agent_pb2.AgentX509SVIDParams(csr=csr())
    await stub.RenewAgent(agent_pb2.RenewAgentRequest(params=params))


@act(**nodes, caller="node")
async def PostStatus(stub):
    await stub.PostStatus(agent_pb2.PostStatusRequest(agent_version="2.0"))


@act(**bundles)
async def AppendBundle(stub):
    root = types_pb2.X509Certificate(asn1=OTHER.bundle.x509_authorities[0].certificate_der)
    await stub.AppendBundle(bundle_pb2.AppendBundleRequest(x509_authorities=[root]))


THEIRS = {
    "key_id": "theirs",
    "public_key": OTHER.bundle.jwt_authorities[0].public_key_der,
    "expires_at": int((datetime.now(UTC) + timedelta(hours=12)).timestamp()),
}


@act(**bundles, caller="downstream")
async def PublishJWTAuthority(stub):
    theirs = types_pb2.JWTKey(**THEIRS)
    await stub.PublishJWTAuthority(bundle_pb2.PublishJWTAuthorityRequest(jwt_authority=theirs))


@act(**bundles, caller="downstream")
async def PublishWITAuthority(stub):
    theirs = types_pb2.WITKey(**THEIRS)
    await stub.PublishWITAuthority(bundle_pb2.PublishWITAuthorityRequest(wit_authority=theirs))


async def batch(stub, verb, ca):
    made = getattr(bundle_pb2, f"Batch{verb}FederatedBundleRequest")(bundle=[bundle_to_proto(ca.bundle)])
    return await getattr(stub, f"Batch{verb}FederatedBundle")(made)


@act(**bundles)
async def BatchCreateFederatedBundle(stub):
    return await batch(stub, "Create", OTHER)


@act(**bundles)
async def BatchUpdateFederatedBundle(stub):
    return await batch(stub, "Update", TestCA("partner.org"))


@act(**bundles)
async def BatchSetFederatedBundle(stub):
    return await batch(stub, "Set", OTHER)


@act(**bundles)
async def BatchDeleteFederatedBundle(stub):
    deletion = bundle_pb2.BatchDeleteFederatedBundleRequest(trust_domains=["partner.org"])
    return await stub.BatchDeleteFederatedBundle(deletion)


@act(**entries)
async def BatchCreateEntry(stub):
    return await stub.BatchCreateEntry(entry_pb2.BatchCreateEntryRequest(entries=[message("/new")]))


@act(**entries)
async def BatchUpdateEntry(stub):
    changed = message("/web", id="web", hint="changed")
    return await stub.BatchUpdateEntry(entry_pb2.BatchUpdateEntryRequest(entries=[changed]))


@act(**entries)
async def BatchDeleteEntry(stub):
    return await stub.BatchDeleteEntry(entry_pb2.BatchDeleteEntryRequest(ids=["web"]))


@act(**svids)
async def MintX509SVID(stub):
    wanted = request(uri("spiffe://example.org/minted"))
    await stub.MintX509SVID(svid_pb2.MintX509SVIDRequest(csr=wanted))


@act(**svids)
async def MintJWTSVID(stub):
    await stub.MintJWTSVID(svid_pb2.MintJWTSVIDRequest(id=id_message("/minted"), audience=["db"]))


@act(**svids, caller="node")
async def BatchNewX509SVID(stub):
    wanted = svid_pb2.NewX509SVIDParams(entry_id="web", csr=csr())
    return await stub.BatchNewX509SVID(svid_pb2.BatchNewX509SVIDRequest(params=[wanted]))


@act(**svids, caller="node")
async def NewJWTSVID(stub):
    await stub.NewJWTSVID(svid_pb2.NewJWTSVIDRequest(entry_id="web", audience=["db"]))


@act(**svids)
async def MintWITSVID(stub):
    await stub.MintWITSVID(svid_pb2.MintWITSVIDRequest(id=id_message("/minted"), **holder()))


@act(**svids, caller="node")
async def BatchNewWITSVID(stub):
    wanted = svid_pb2.NewWITSVIDParams(entry_id="web", evidence=saw("unix:uid:1000"), **holder())
    return await stub.BatchNewWITSVID(svid_pb2.BatchNewWITSVIDRequest(params=[wanted]))


@act(service="/issuer.v1.AuditReports", stub=audit_reports_pb2_grpc.AuditReportsStub, caller="node")
async def Report(stub):
    started = audit_reports_pb2.ReportedEvent(number=1, started={"version": "1.0"})
    await stub.Report(audit_reports_pb2.ReportRequest(boot=bytes(16), events=[started]))


def spec(path):
    owner = agents_pb2.Owner(issuer="https://idp.example.org", subject="alice")
    purpose = "pays the invoices that people approved"
    return agents_pb2.AgentSpec(spiffe_id=f"spiffe://example.org{path}", owner=owner, purpose=purpose)


def step(path, kind=agents_pb2.ChangeStateRequest, **fields):
    return kind(spiffe_id=f"spiffe://example.org{path}", reason="because", **fields)


@act(**owned)
async def RegisterAgent(stub):
    await stub.RegisterAgent(agents_pb2.RegisterAgentRequest(spec=spec("/agent/new")))


@act(**owned)
async def UpdateAgent(stub):
    await stub.UpdateAgent(agents_pb2.UpdateAgentRequest(spec=spec("/agent/active"), reason="because"))


@act(**owned)
async def ActivateAgent(stub):
    await stub.ActivateAgent(step("/agent/registered"))


@act(**owned)
async def SuspendAgent(stub):
    await stub.SuspendAgent(step("/agent/active"))


@act(**owned)
async def ResumeAgent(stub):
    await stub.ResumeAgent(step("/agent/suspended"))


@act(**owned)
async def RetireAgent(stub):
    await stub.RetireAgent(step("/agent/active", agents_pb2.RetireAgentRequest))


@act(**owned)
async def ReviewAgent(stub):
    await stub.ReviewAgent(step("/agent/active", agents_pb2.ReviewAgentRequest))


@act(**owned)
async def TransferAgent(stub):
    owner = agents_pb2.Owner(issuer="https://idp.example.org", subject="bob")
    await stub.TransferAgent(step("/agent/active", agents_pb2.TransferAgentRequest, owner=owner))


@act(**owned)
async def PutAgentClass(stub):
    await stub.PutAgentClass(agents_pb2.AgentClass(name="new"))


@act(**owned)
async def DeleteAgentClass(stub):
    await stub.DeleteAgentClass(agents_pb2.DeleteAgentClassRequest(name="empty"))


laid_down = {"service": "/issuer.v1.Policy", "stub": policy_pb2_grpc.PolicyStub}
ALL = "permit(principal, action, resource);"


@act(**laid_down)
async def Put(stub):
    await stub.Put(policy_pb2.PutPolicyRequest(name="new", text=ALL, reason="because"))


@act(**laid_down)
async def Delete(stub):
    await stub.Delete(policy_pb2.DeletePolicyRequest(name="old", reason="because"))


@pytest.fixture
async def world(place, clock):
    async with World.open(place, clock, wit=True, gateway_ids=GATEWAY_IDS) as made:
        yield made


def append_a_key(tx):
    known = tx.bundles.get(TRUST_DOMAIN)
    added = JwtAuthority("old", PARTNER.bundle.jwt_authorities[0].public_key_der)
    return tx.bundles.put(replace(known, jwt_authorities=(*known.jwt_authorities, added)))


@pytest.fixture
async def channels(world):
    """What each kind of caller calls over, in a world with something to act on."""
    node = await world.node("n1")
    await world.node("n2")
    await world.entry("/web")
    await world.entry("/nested", downstream=True)
    await world.database.write(append_a_key)
    secret = JoinToken(value="secret", expires_at=world.clock.now() + timedelta(minutes=1))
    await world.database.write(lambda tx: tx.join_tokens.create(secret))
    await world.database.write(lambda tx: tx.bundles.put(PARTNER.bundle))
    for state in AgentState:
        agent = an_agent(f"/agent/{state}", state=state)
        await world.database.write(lambda tx, agent=agent: tx.agents.create(agent))
    await world.database.write(lambda tx: tx.agents.put_class(AgentClass(name="empty")))
    await world.database.write(lambda tx: tx.policies.add(a_stored(ALL, "old")))
    return {
        "operator": await world.local(),
        "stranger": await world.dial(),
        "node": await world.dial(node),
        "downstream": await world.dial(await world.sign("/nested")),
        "gateway": await world.dial(await world.sign("/gateway")),
    }


def test_every_method_is_known_to_read_or_to_act():
    reads = {f"{service}/{name}" for service, names in READS.items() for name in names.split()}
    assert reads | ACTS.keys() == TABLE.keys()
    assert reads & ACTS.keys() == set()


async def outcome(channels, method):
    """Call it; return the codes of what came of it."""
    perform, stub, caller = ACTS[method]
    try:
        answer = await perform(stub(channels[caller]))
    except grpc.aio.AioRpcError as error:
        return [error.code().value[0]]
    return [result.status.code for result in answer.results] if answer is not None else [0]


async def content(world):
    """Every row of the database but those of the trail."""

    def read(tx):
        tables = [table for table in metadata.sorted_tables if table is not audit]
        return {
            table.name: sorted(map(repr, tx._connection.execute(sa.select(table)).all())) for table in tables
        }

    return await world.database.read(read)


@pytest.mark.parametrize("method", sorted(ACTS))
async def test_an_act_leaves_a_record(world, channels, method):
    assert await outcome(channels, method) == [0]
    (record,) = await world.trail()
    assert (record.act, record.outcome) == (method, Outcome.OK)
    assert record.at == world.clock.now()
    assert record.actor.startswith(
        {
            "operator": "local:",
            "stranger": "anonymous:",
            "node": "spiffe://example.org/spire/agent/test/n1",
            "downstream": "spiffe://example.org/nested",
            "gateway": "spiffe://example.org/gateway",
        }[ACTS[method][2]]
    )


@pytest.mark.parametrize("method", sorted(ACTS))
async def test_what_cannot_be_recorded_is_not_done(world, channels, method):
    await world.lose_the_trail()
    before = await content(world)
    known = (world.registrations.count(), world.registrations.bundles(), world.registrations.agents())
    assert await outcome(channels, method) == [grpc.StatusCode.UNAVAILABLE.value[0]]
    assert await content(world) == before
    after = (world.registrations.count(), world.registrations.bundles(), world.registrations.agents())
    assert after == known

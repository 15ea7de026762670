# SPDX-License-Identifier: Apache-2.0
"""CVE-2021-27099 and its class, wherever an operator may name an ID: refused, never normalised."""

import grpc
import pytest
from cryptography import x509

from spiffekit.wire.pb.spire.api.server.agent.v1 import agent_pb2, agent_pb2_grpc
from spiffekit.wire.pb.spire.api.server.entry.v1 import entry_pb2, entry_pb2_grpc
from spiffekit.wire.pb.spire.api.server.svid.v1 import svid_pb2, svid_pb2_grpc
from tests.issuer_api.calls import refused
from tests.issuer_api.test_entry_fields import PATHS
from tests.issuer_api.test_svid import request
from tests.issuer_api.world import id_message

DOMAINS = [
    "", "Example.org", "example.org.", "example.org/", "example.org\0", "example.org\n", "example%2Eorg",
    "exämple.org", "a@example.org", "example.org:8081", "spiffe://example.org/", "https://example.org",
    "e" * 256,
]  # fmt: skip
IDS = [id_message(path) for path in PATHS] + [id_message("/a", domain) for domain in DOMAINS]


def filters(kind, service):
    return {
        f"{service} {field}": lambda stub, given, field=field: getattr(stub, service)(
            kind(filter=kind.Filter(**{field: given}))
        )
        for field in ("by_spiffe_id", "by_parent_id")
    }


NODES = {
    "GetAgent": lambda stub, given: stub.GetAgent(agent_pb2.GetAgentRequest(id=given)),
    "DeleteAgent": lambda stub, given: stub.DeleteAgent(agent_pb2.DeleteAgentRequest(id=given)),
    "BanAgent": lambda stub, given: stub.BanAgent(agent_pb2.BanAgentRequest(id=given)),
    "CreateJoinToken": lambda stub, given: stub.CreateJoinToken(
        agent_pb2.CreateJoinTokenRequest(ttl=60, agent_id=given)
    ),
}
ENTRIES = {
    **filters(entry_pb2.ListEntriesRequest, "ListEntries"),
    **filters(entry_pb2.CountEntriesRequest, "CountEntries"),
}
SVIDS = {
    "MintJWTSVID": lambda stub, given: stub.MintJWTSVID(
        svid_pb2.MintJWTSVIDRequest(id=given, audience=["db"])
    ),
}
CALLS = [
    pytest.param(stub, call, id=name)
    for stub, calls in (
        (agent_pb2_grpc.AgentStub, NODES),
        (entry_pb2_grpc.EntryStub, ENTRIES),
        (svid_pb2_grpc.SVIDStub, SVIDS),
    )
    for name, call in calls.items()
]


@pytest.mark.requirement("ID-12", "ID-13", "ID-14", "ID-15", "ID-16", "ID-19")
@pytest.mark.parametrize(("stub", "call"), CALLS)
async def test_an_id_that_is_none_is_refused_wherever_one_may_be_named(world, local, stub, call):
    await world.node("n1")
    await world.entry("/a")
    known = world.registrations.count()
    for given in IDS:
        with refused(grpc.StatusCode.INVALID_ARGUMENT):
            await call(stub(local), given)
    assert world.registrations.count() == known
    assert await world.tokens() == []


@pytest.mark.requirement("ID-12", "ID-13", "ID-14", "ID-15", "ID-16", "ID-19")
async def test_an_id_that_is_none_is_not_minted(local):
    stub = svid_pb2_grpc.SVIDStub(local)
    texts = [f"spiffe://{given.trust_domain}{given.path}" for given in IDS]
    for text in filter(str.isascii, texts):
        wanted = request(x509.UniformResourceIdentifier(text))
        with refused(grpc.StatusCode.INVALID_ARGUMENT):
            await stub.MintX509SVID(svid_pb2.MintX509SVIDRequest(csr=wanted))

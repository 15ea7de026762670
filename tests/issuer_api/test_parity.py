# SPDX-License-Identifier: Apache-2.0
"""Nodes get SVIDs of both kinds for the same entries: SPIRE filtered one kind and not the other (#6972)."""

from datetime import timedelta

import grpc
import pytest

from spiffekit.wire.pb.spire.api.server.entry.v1 import entry_pb2, entry_pb2_grpc
from spiffekit.wire.pb.spire.api.server.svid.v1 import svid_pb2, svid_pb2_grpc
from tests.issuer_api.world import csr

MINUTE = timedelta(minutes=1)
GRANTED = {
    "plain": {},
    "admin": {"admin": True},
    "downstream": {"downstream": True},
    "store": {"store_svid": True},
    "hint": {"hint": "internal"},
}
WITHHELD = {
    "of-another-node": {"parent": "/spire/agent/test/n2"},
    "of-nobody": {"parent": "/nobody"},
    "over": {"expires_at": MINUTE},
    "an-alias": {
        "parent": "/spire/server",
        "selectors": ["spiffe_id:spiffe://example.org/spire/agent/test/n1"],
    },
}


@pytest.fixture
async def channel(world, clock):
    node = await world.node("n1")
    await world.node("n2")
    for name, fields in {**GRANTED, **WITHHELD}.items():
        made = {**fields}
        if "expires_at" in made:
            made["expires_at"] = clock.now() + made["expires_at"]
        await world.entry(f"/{name}", **made)
    clock.step(MINUTE)
    return await world.dial(node)


async def x509(channel, entry_id):
    wanted = svid_pb2.NewX509SVIDParams(entry_id=entry_id, csr=csr())
    request = svid_pb2.BatchNewX509SVIDRequest(params=[wanted])
    (result,) = (await svid_pb2_grpc.SVIDStub(channel).BatchNewX509SVID(request)).results
    return result.svid.id.path if result.status.code == 0 else None


async def jwt(channel, entry_id):
    request = svid_pb2.NewJWTSVIDRequest(entry_id=entry_id, audience=["db"])
    try:
        return (await svid_pb2_grpc.SVIDStub(channel).NewJWTSVID(request)).svid.id.path
    except grpc.aio.AioRpcError as error:
        return None if error.code() is grpc.StatusCode.NOT_FOUND else error


@pytest.mark.parametrize("name", [*GRANTED, *WITHHELD])
async def test_what_is_granted_or_withheld_is_so_in_every_kind(channel, name):
    told = await entry_pb2_grpc.EntryStub(channel).GetAuthorizedEntries(
        entry_pb2.GetAuthorizedEntriesRequest()
    )
    expected = f"/{name}" if name in GRANTED else None
    assert (name in {entry.id for entry in told.entries}) == (expected is not None)
    assert [await x509(channel, name), await jwt(channel, name)] == [expected, expected]

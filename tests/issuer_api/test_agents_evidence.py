# SPDX-License-Identifier: Apache-2.0
"""What is an agent's is one process's, by evidence of it, and nothing of before it was owned counts."""

from datetime import timedelta

import grpc
import pytest
from cryptography import x509

from spiffekit.errors import RevokedError
from spiffekit.jwtsvid import JwtSvid
from spiffekit.wire.pb.spire.api import types_pb2
from spiffekit.wire.pb.spire.api.server.entry.v1 import entry_pb2, entry_pb2_grpc
from spiffekit.wire.pb.spire.api.server.svid.v1 import svid_pb2, svid_pb2_grpc
from tests.issuer_api.calls import refused
from tests.issuer_api.entries import create_one, get
from tests.issuer_api.test_agents import agents, change, register
from tests.issuer_api.test_evidence import evidence, sign
from tests.issuer_api.watching import opened, says
from tests.issuer_api.world import spiffe_id

__all__ = ["agents"]
Code = grpc.StatusCode
PAYER_ID = spiffe_id("/agent/payer")


async def test_each_process_of_an_agent_has_svids_of_its_own_whatever_its_entry_says(
    world, local, agents, channel, clock
):
    entries, node = entry_pb2_grpc.EntryStub(local), svid_pb2_grpc.SVIDStub(channel)
    made = await create_one(entries, path="/agent/payer")
    assert not made.svid_per_process
    assert (await sign(node, made.id)).status.message == "OK"  # nobody's: shared, and without evidence
    async with opened(channel) as watch:
        assert [e.svid_per_process for e in watch.snapshot.entries] == [False]
        await register(agents)
        assert says(await watch.next(), removed=[made.id])
        await agents.ActivateAgent(change())
        assert [e.svid_per_process for e in (await watch.next()).entries] == [True]
    refused_one = await sign(node, made.id)
    assert (refused_one.status.code, refused_one.status.message) == (7, "evidence: the entry requires it")
    with refused(Code.PERMISSION_DENIED, "evidence: the entry requires it"):
        await node.NewJWTSVID(svid_pb2.NewJWTSVIDRequest(entry_id=made.id, audience=["db"]))
    assert (await sign(node, made.id, evidence(clock))).status.message == "OK"
    # Operators are shown what counts, and one that is made later is the same.
    assert (await get(entries, made.id)).svid_per_process
    later = await create_one(entries, "/agent/payer", selectors=[types_pb2.Selector(type="a", value="b")])
    assert later.svid_per_process
    # A stock agent has no evidence, so it is not offered what it could not serve.
    stock = await entry_pb2_grpc.EntryStub(channel).GetAuthorizedEntries(
        entry_pb2.GetAuthorizedEntriesRequest()
    )
    assert not stock.entries


async def test_what_an_identity_had_before_somebody_owned_it_is_void(world, local, agents, channel, clock):
    """Else SVIDs that were shared, and that nobody approved, would pass for the agent's until they end."""
    entries, node = entry_pb2_grpc.EntryStub(local), svid_pb2_grpc.SVIDStub(channel)
    made = await create_one(entries, path="/agent/payer")
    shared = x509.load_der_x509_certificate((await sign(node, made.id)).svid.cert_chain[0])
    asked = svid_pb2.NewJWTSVIDRequest(entry_id=made.id, audience=["db"])
    token = JwtSvid.parse_unverified((await node.NewJWTSVID(asked)).svid.token, ["db"])
    await register(agents)
    assert [revoked.serial for revoked in world.revocations.certificates(clock.now())] == [
        shared.serial_number
    ]
    status = world.revocations.status(1, clock.now())
    with pytest.raises(RevokedError):
        status.check_certificate(PAYER_ID, shared.serial_number, clock.now())
    with pytest.raises(RevokedError):  # it has no ID, and was issued in this very second
        status.check_token(PAYER_ID, "", token.issued_at)
    # What is approved and issued from the next second on counts.
    await agents.ActivateAgent(change())
    clock.step(timedelta(seconds=1))
    result = await sign(node, made.id, evidence(clock))
    fresh = x509.load_der_x509_certificate(result.svid.cert_chain[0])
    status = world.revocations.status(2, clock.now())
    status.check_certificate(PAYER_ID, fresh.serial_number, fresh.not_valid_before_utc)


async def test_without_tokens_of_this_second_nobody_waits_for_the_next(world, local, agents, channel, clock):
    entries, node = entry_pb2_grpc.EntryStub(local), svid_pb2_grpc.SVIDStub(channel)
    made = await create_one(entries, path="/agent/payer")
    asked = svid_pb2.NewJWTSVIDRequest(entry_id=made.id, audience=["db"])
    token = JwtSvid.parse_unverified((await node.NewJWTSVID(asked)).svid.token, ["db"])
    clock.step(timedelta(seconds=1))
    await register(agents)
    await agents.ActivateAgent(change())
    with pytest.raises(RevokedError):
        world.revocations.status(1, clock.now()).check_token(PAYER_ID, "", token.issued_at)
    result = await sign(node, made.id, evidence(clock))
    fresh = x509.load_der_x509_certificate(result.svid.cert_chain[0])
    world.revocations.status(1, clock.now()).check_certificate(
        PAYER_ID, fresh.serial_number, fresh.not_valid_before_utc
    )


async def test_an_identity_that_had_nothing_has_nothing_taken_back(world, agents, clock):
    await register(agents)
    assert world.revocations.all(clock.now()) == []

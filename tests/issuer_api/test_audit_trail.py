# SPDX-License-Identifier: Apache-2.0
"""issuer.v1.Audit: events, proofs and the head of the log, for operators only."""

import json

import grpc
import pytest

from issuer.api.dispatch import PAGE_BYTES
from issuer.model import CredentialFacts
from spiffekit.transparency.notes import VerifierKey, open_checkpoint
from spiffekit.transparency.proofs import Proof
from spiffekit.wire.pb.issuer.v1 import audit_pb2, audit_pb2_grpc
from tests.issuer.store.test_events import AT, a_record
from tests.issuer_api.calls import refused

Code = grpc.StatusCode
SECOND = 1_000_000  # microseconds
TIME = int(AT.timestamp()) * SECOND + AT.microsecond


@pytest.fixture
async def audit(world):
    return audit_pb2_grpc.AuditStub(await world.local())


def listing(**given):
    return audit_pb2.ListEventsRequest(**given)


async def numbers(audit, **given):
    answer = await audit.ListEvents(listing(**given))
    return [event.sequence for event in answer.events], answer.more


async def test_events_come_as_they_are_in_the_log_a_page_at_a_time(world, audit):
    await world.database.record(*[a_record(detail={"n": n}) for n in range(7)])
    assert await numbers(audit, page_size=3) == ([1, 2, 3], True)
    assert await numbers(audit, page_size=3, after=3) == ([4, 5, 6], True)
    assert await numbers(audit, page_size=3, after=6) == ([7], False)
    assert await numbers(audit, page_size=3, newest_first=True) == ([7, 6, 5], True)
    assert await numbers(audit, page_size=3, newest_first=True, after=5) == ([4, 3, 2], True)
    assert await numbers(audit, page_size=3, newest_first=True, after=2) == ([1], False)
    answer = await audit.ListEvents(listing())
    kept = await world.database.read(lambda tx: tx.audit.leaves(0, 10))
    assert [(event.sequence, event.json) for event in answer.events] == kept


async def test_a_page_is_bounded_in_bytes_as_well(world, audit):
    await world.database.record(*[a_record(detail={"x": "y" * 15_000}) for _ in range(250)])
    first = await audit.ListEvents(listing())
    assert first.more
    assert sum(len(event.json) for event in first.events) <= PAGE_BYTES
    rest = await audit.ListEvents(listing(after=first.events[-1].sequence))
    assert (rest.more, len(first.events) + len(rest.events)) == (False, 250)


@pytest.mark.parametrize(
    ("given", "found"),
    [
        ({"type": "svid.issued"}, [1]),
        ({"type": "svid."}, [1, 2]),
        ({"actor": "alice"}, [2]),
        ({"resource": "spiffe://example.org/a"}, [1, 2]),
        ({"resource": "spiffe://example.org/b"}, [3]),
        ({"credential": "77"}, [1]),
        ({"since": TIME}, [1, 2, 3]),
        ({"since": TIME + SECOND}, []),
        ({"until": TIME}, []),
        ({"until": TIME + 1}, [1, 2, 3]),
        ({"type": "svid.", "actor": "alice", "resource": "spiffe://example.org/b"}, []),
    ],
)
async def test_events_are_found_by_everything_that_is_given(world, audit, given, found):
    await world.database.record(
        a_record(credential=CredentialFacts(kind="x509-svid", serial="77")),
        a_record(type="svid.refused", actor="alice"),
        a_record(type="entry.created", subject="spiffe://example.org/b"),
    )
    assert (await numbers(audit, **given))[0] == found


async def test_an_event_is_found_by_its_own_id(world, audit):
    await world.database.record(a_record(), a_record())
    second = (await audit.ListEvents(listing())).events[1]
    assert await numbers(audit, id=json.loads(second.json)["id"]) == ([2], False)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"after": -1}, "after: is negative"),
        ({"since": -1}, "since: is before 1970 or after 9999"),
        ({"until": 2**62}, "until: is before 1970 or after 9999"),
    ],
)
async def test_a_bad_question_is_refused(audit, given, message):
    with refused(Code.INVALID_ARGUMENT, message):
        await audit.ListEvents(listing(**given))


async def test_a_proof_is_for_anyone(world, audit):
    await world.database.record(*[a_record(detail={"n": n}) for n in range(300)])
    await world.seal()
    head = await audit.GetCheckpoint(audit_pb2.GetCheckpointRequest())
    key = VerifierKey.parse(head.verifier_key)
    assert key == world.audit_signer.key
    assert open_checkpoint(head.checkpoint, key).size == 300
    for sequence in (1, 256, 257, 300):
        answer = await audit.ProveEvent(audit_pb2.ProveEventRequest(sequence=sequence))
        proof = Proof.parse(answer.proof)
        proof.verify(proof.extra, key)
        assert json.loads(proof.extra)["seq"] == sequence == proof.index + 1


async def test_what_is_not_sealed_yet_cannot_be_proved(world, audit):
    head = await audit.GetCheckpoint(audit_pb2.GetCheckpointRequest())
    assert (head.checkpoint, head.verifier_key) == (b"", str(world.audit_signer.key))
    message = "event 9 is not sealed in the log yet: try again in a second"
    with refused(Code.FAILED_PRECONDITION, message):
        await audit.ProveEvent(audit_pb2.ProveEventRequest(sequence=9))
    await world.seal()
    with refused(Code.FAILED_PRECONDITION, message):
        await audit.ProveEvent(audit_pb2.ProveEventRequest(sequence=9))
    with refused(Code.INVALID_ARGUMENT, "sequence: begins with 1"):
        await audit.ProveEvent(audit_pb2.ProveEventRequest())


async def test_a_damaged_log_proves_nothing(world, audit):
    await world.database.record(*[a_record(detail={"n": n}) for n in range(3)])
    await world.seal()
    (world.audit_files.folder / "tile/0/000.p/3").write_bytes(b"x" * 96)
    with refused(
        Code.DATA_LOSS, "the audit log is damaged: inclusion proof of leaf 0 does not lead to the root"
    ):
        await audit.ProveEvent(audit_pb2.ProveEventRequest(sequence=1))
    (world.audit_files.folder / "checkpoint").unlink()
    with refused(
        Code.DATA_LOSS, f"the audit log is damaged: {world.audit_files.folder}: has tiles and no checkpoint"
    ):
        await audit.GetCheckpoint(audit_pb2.GetCheckpointRequest())


async def test_reading_waits_for_no_writer_and_no_writer_for_it(world, audit):
    await world.database.record(a_record())
    assert world.database._reader is not world.database._writer
    assert await numbers(audit) == ([1], False)


async def test_an_unfinished_tile_that_is_full_by_now_is_still_there_for_who_saw_it(world):
    await world.database.record(*[a_record(detail={"n": n}) for n in range(10)])
    await world.seal()
    before = open_checkpoint(world.audit_files.checkpoint(), world.audit_signer.key)
    await world.database.record(*[a_record(detail={"n": n}) for n in range(300)])
    await world.seal()
    from spiffekit.transparency.check import check_log

    assert not (world.audit_files.folder / "tile/0/000.p").exists()
    assert check_log(world.audit_files.read, before) == 10


@pytest.mark.parametrize("caller", ["node", "stranger"])
async def test_the_trail_is_for_operators_alone(world, caller):
    channel = await world.dial(await world.node("n1")) if caller == "node" else await world.dial()
    stub = audit_pb2_grpc.AuditStub(channel)
    for call in (
        stub.ListEvents(listing()),
        stub.ProveEvent(audit_pb2.ProveEventRequest(sequence=1)),
        stub.GetCheckpoint(audit_pb2.GetCheckpointRequest()),
    ):
        with refused(Code.PERMISSION_DENIED):
            await call

# SPDX-License-Identifier: Apache-2.0
"""Answers that our issuer never gives: of stock servers, of older ones, and malformed ones."""

import asyncio
import contextlib
from datetime import UTC, datetime, timedelta

import grpc
import pytest
from google.protobuf import any_pb2

from attestor import issuer_client
from attestor.errors import (
    IssuerUnavailableError,
    MustReattestError,
    NodeAttestationError,
    NodeBannedError,
    WitUnsupportedError,
)
from attestor.issuer_client import make_csr, new_key
from spiffekit.evidence import Evidence, ProcessFacts
from spiffekit.id import TrustDomain
from spiffekit.wire.pb.issuer.v1 import updates_pb2
from spiffekit.wire.pb.spire.api import types_pb2
from spiffekit.wire.pb.spire.api.server.agent.v1 import agent_pb2
from spiffekit.wire.pb.spire.api.server.entry.v1 import entry_pb2
from spiffekit.wire.pb.spire.api.server.svid.v1 import svid_pb2
from spiffekit.wire.status import DETAILS_KEY
from tests.attestor.factory import Machine
from tests.attestor.scripted_issuer import client_of
from tests.issuer_api.calls import RpcStatus

QUIET = timedelta(seconds=5)
Code = grpc.StatusCode
Reason = types_pb2.PermissionDeniedDetails
MALFORMED = r"^issuer's answer is malformed: "


def refusing(code, details="no", metadata=()):
    """A method that always refuses."""

    async def method(_request, context):
        context.set_trailing_metadata(metadata)
        await context.abort(code, details)

    return method


def refusing_stream(code, details="no"):
    async def method(_requests, context):
        await context.abort(code, details)
        yield

    return method


def answering(message):
    async def method(_request, _context):
        return message

    return method


def saying(*messages):
    """A stream that says this and ends."""

    async def method(requests, _context):
        await anext(requests)
        for message in messages:
            yield message

    return method


async def read_all(stream):
    return [update async for update in stream]


# Why a node may not call: the details of the status say it, the words are for people.


def packed(detail, code=7):
    """google.rpc.Status with one detail, as SPIRE's server makes it."""
    status = RpcStatus(code=code, message="words")
    status.details.add(type_url=detail.type_url, value=detail.value)
    return ((DETAILS_KEY, status.SerializeToString()),)


def reason(number):
    detail = any_pb2.Any()
    detail.Pack(types_pb2.PermissionDeniedDetails(reason=number))
    return packed(detail)


@pytest.mark.parametrize(
    ("number", "error"),
    [
        (Reason.AGENT_EXPIRED, MustReattestError),
        (Reason.AGENT_NOT_ATTESTED, MustReattestError),
        (Reason.AGENT_NOT_ACTIVE, MustReattestError),
        (Reason.AGENT_MUST_REATTEST, MustReattestError),
        (Reason.AGENT_BANNED, NodeBannedError),
        (Reason.UNKNOWN, NodeAttestationError),
        (77, NodeAttestationError),
    ],
    ids=lambda value: str(getattr(value, "__name__", value)),
)
async def test_the_reason_of_a_denial_counts(number, error):
    async with client_of(PostStatus=refusing(Code.PERMISSION_DENIED, "words", reason(number))) as client:
        with pytest.raises(error, match=r"^words$"):
            await client.post_status("1", 0)


MARKER = b"spire.api.types.PermissionDeniedDetails"


@pytest.mark.parametrize(
    "metadata",
    [
        (),
        (("other", "x"),),
        ((DETAILS_KEY, b""),),
        ((DETAILS_KEY, MARKER),),
        ((DETAILS_KEY, MARKER + b"\x12\x02"),),
        ((DETAILS_KEY, MARKER + b"\x12\x02\x08"),),
        ((DETAILS_KEY, MARKER + b"\x12\x02\xff\xff"),),
        ((DETAILS_KEY, b"\x12\x03no reason"),),
        packed(any_pb2.Any(type_url="type.googleapis.com/google.rpc.ErrorInfo", value=b"\x08\x04")),
    ],
    ids=[
        "none",
        "others",
        "empty",
        "name only",
        "no value",
        "cut off",
        "no message",
        "no name",
        "other type",
    ],
)
async def test_a_denial_without_a_reason_is_a_refusal(metadata):
    async with client_of(PostStatus=refusing(Code.PERMISSION_DENIED, "words", metadata)) as client:
        with pytest.raises(NodeAttestationError, match=r"^words$"):
            await client.post_status("1", 0)


async def test_a_reason_without_a_denial_does_not_count():
    method = refusing(Code.UNAVAILABLE, "words", reason(Reason.AGENT_BANNED))
    async with client_of(PostStatus=method) as client:
        with pytest.raises(IssuerUnavailableError, match=r"^words \(UNAVAILABLE\)$"):
            await client.post_status("1", 0)


# Older and stock servers.


async def test_an_older_server_is_not_told_our_version():
    async with client_of() as client:
        await client.post_status("1", 0)


async def test_a_stock_server_has_no_push_stream():
    async with client_of() as client:
        with pytest.raises(NotImplementedError, match=r"^issuer has no push stream$"):
            await read_all(client.watch(QUIET))


async def test_a_stream_that_is_not_implemented_later_is_no_stock_server():
    async with client_of(Watch=refusing_stream(Code.INTERNAL, "broken")) as client:
        with pytest.raises(IssuerUnavailableError, match=r"^broken \(INTERNAL\)$"):
            await read_all(client.watch(QUIET))


# Attestation.


async def attest(client):
    return await client.attest(Machine(), make_csr(new_key()))


async def test_attestation_that_ends_without_a_result_is_tried_again():
    async with client_of(AttestAgent=saying()) as client:
        with pytest.raises(IssuerUnavailableError, match=r"^issuer ended attestation without a result$"):
            await attest(client)


async def test_a_refusal_while_the_response_is_made_is_told_and_not_lost():
    """Once the stream has ended, gRPC takes no message and says so with an error of its own."""
    ended = asyncio.Event()

    async def method(requests, context):
        await anext(requests)
        yield agent_pb2.AttestAgentResponse(challenge=b"abc")
        await context.abort(Code.PERMISSION_DENIED, "took too long")

    class Slow(Machine):
        async def respond(self, challenge):
            await asyncio.wait_for(ended.wait(), 5)
            return await super().respond(challenge)

    async with client_of(AttestAgent=method) as client:
        attest_agent = client._nodes.AttestAgent

        def call(**options):
            stream = attest_agent(**options)
            stream.add_done_callback(lambda _: ended.set())
            return stream

        client._nodes.AttestAgent = call
        with pytest.raises(NodeAttestationError, match=r"^took too long$"):
            await client.attest(Slow(), make_csr(new_key()))


async def test_several_challenges_are_answered_one_after_another():
    heard = []

    async def method(requests, _context):
        heard.append((await anext(requests)).params.data.payload)
        for challenge in (b"abc", b"def"):
            yield agent_pb2.AttestAgentResponse(challenge=challenge)
            heard.append((await anext(requests)).challenge_response)
        svid = types_pb2.X509SVID(cert_chain=[b"leaf", b"intermediate"])
        yield agent_pb2.AttestAgentResponse(result=agent_pb2.AttestAgentResponse.Result(svid=svid))

    async with client_of(AttestAgent=method) as client:
        assert await attest(client) == ((b"leaf", b"intermediate"), False)
    assert heard == [b"machine", b"cba", b"fed"]


# Malformed answers.


async def test_a_malformed_bundle_is_refused():
    async with client_of(GetBundle=answering(types_pb2.Bundle(trust_domain="not a name"))) as client:
        with pytest.raises(IssuerUnavailableError, match=MALFORMED):
            await client.bundle()


async def test_a_federated_bundle_that_cannot_be_had_is_not_taken_for_none():
    async with client_of(GetFederatedBundle=refusing(Code.INTERNAL)) as client:
        with pytest.raises(IssuerUnavailableError, match=r"\(INTERNAL\)$"):
            await client.federated_bundle(TrustDomain("other.org"))


@pytest.mark.parametrize("count", [0, 1, 3])
async def test_another_number_of_results_than_requests_is_refused(count):
    """Else a chain would go to the wrong entry."""
    results = [svid_pb2.BatchNewX509SVIDResponse.Result()] * count
    async with client_of(
        BatchNewX509SVID=answering(svid_pb2.BatchNewX509SVIDResponse(results=results))
    ) as client:
        with pytest.raises(IssuerUnavailableError, match=MALFORMED):
            await client.new_x509_svids([("a", b""), ("b", b"")])


def entry(**changes):
    fields = {
        "id": "e",
        "spiffe_id": types_pb2.SPIFFEID(trust_domain="example.org", path="/web"),
        "selectors": [types_pb2.Selector(type="unix", value="uid:1")],
        "revision_number": 1,
    }
    return types_pb2.Entry(**fields | changes)


@pytest.mark.parametrize(
    "bad", [{"selectors": []}, {"spiffe_id": None}, {"created_at": -1}], ids=["selectors", "ID", "time"]
)
async def test_a_malformed_entry_is_withheld_and_the_others_are_not(bad):
    entries = [entry(id="bad", **bad), entry(id="good")]
    async with (
        client_of(
            Watch=saying(updates_pb2.WatchResponse(entries=entries)),
            SyncAuthorizedEntries=saying(entry_pb2.SyncAuthorizedEntriesResponse(entries=entries)),
        ) as client,
        contextlib.aclosing(client.watch(QUIET)) as stream,
    ):
        pushed = await anext(stream)
        assert [found.id for found in pushed.entries] == ["good"]
        assert pushed.removed == ("bad",)
        assert [found.id for found in await client.sync_entries({})] == ["good"]


async def test_a_malformed_federated_bundle_is_as_good_as_none():
    bad = types_pb2.Bundle(trust_domain="other.org", jwt_authorities=[types_pb2.JWTKey()])
    async with client_of(GetFederatedBundle=answering(bad)) as client:
        assert await client.federated_bundle(TrustDomain("other.org")) is None


async def test_a_push_stream_that_just_ends_is_opened_again():
    async with (
        client_of(Watch=saying(updates_pb2.WatchResponse(revision=1))) as client,
        contextlib.aclosing(client.watch(QUIET)) as stream,
    ):
        assert (await anext(stream)).revision == 1
        with pytest.raises(IssuerUnavailableError, match=r"^issuer ended the push stream$"):
            await anext(stream)


async def test_a_service_that_is_stopped_as_a_message_comes_stops():
    """Until Python 3.12 `asyncio.wait_for` returned the message and forgot that it was cancelled."""

    class Stream:
        async def read(self):
            await asyncio.sleep(0)
            reading.cancel()
            return updates_pb2.WatchResponse()

    reading = asyncio.create_task(issuer_client._pushed(Stream(), QUIET))
    with pytest.raises(asyncio.CancelledError):
        await reading


# SyncAuthorizedEntries.


async def test_a_list_of_entries_that_ends_too_early_is_refused():
    part = entry_pb2.SyncAuthorizedEntriesResponse(entries=[entry()], more=True)
    async with client_of(SyncAuthorizedEntries=saying(part)) as client:
        with pytest.raises(IssuerUnavailableError, match=r"^issuer ended the list of entries too early$"):
            await client.sync_entries({})


async def test_revisions_and_entries_may_come_in_several_parts():
    revisions = [entry_pb2.EntryRevision(id=f"e{n}", revision_number=1) for n in range(3)]
    asked = []

    async def method(requests, _context):
        await anext(requests)
        yield entry_pb2.SyncAuthorizedEntriesResponse(entry_revisions=revisions[:2], more=True)
        yield entry_pb2.SyncAuthorizedEntriesResponse(entry_revisions=revisions[2:])
        async for request in requests:
            asked.append(list(request.ids))
            for entry_id in request.ids:
                last = entry_id == request.ids[-1]
                yield entry_pb2.SyncAuthorizedEntriesResponse(entries=[entry(id=entry_id)], more=not last)

    async with client_of(SyncAuthorizedEntries=method) as client:
        first = {found.id: found for found in await client.sync_entries({})}
        assert first.keys() == {"e0", "e1", "e2"}
        del first["e1"]
        second = {found.id: found for found in await client.sync_entries(first)}
    assert asked == [["e0", "e1", "e2"], ["e1"]]
    assert second["e0"] is first["e0"]


async def test_an_entry_that_goes_while_it_is_asked_for_is_left_out():
    async def method(requests, _context):
        await anext(requests)
        revisions = [entry_pb2.EntryRevision(id="e", revision_number=1)]
        yield entry_pb2.SyncAuthorizedEntriesResponse(entry_revisions=revisions)
        async for _ in requests:
            yield entry_pb2.SyncAuthorizedEntriesResponse()

    async with client_of(SyncAuthorizedEntries=method) as client:
        assert await client.sync_entries({}) == ()


async def test_a_stock_server_that_signs_no_wit_svids_is_told_apart():
    seen = Evidence(
        id=b"x" * 16,
        instance_uid="a" * 26,
        collected_at=datetime.now(UTC),
        selectors=frozenset(),
        process=ProcessFacts(pid=1, start_ticks=2, uid=1, gid=1),
    )
    async with client_of() as client:
        with pytest.raises(WitUnsupportedError, match=r"^the issuer signs no WIT-SVIDs$"):
            await client.new_wit_svids(["e1"], b"", seen)


async def test_a_stock_server_takes_no_reports():
    async with client_of() as client:
        with pytest.raises(NotImplementedError):
            await client.report(bytes(16), ())


async def test_whoever_takes_no_reports_now_may_do_so_later():
    async with client_of(Report=refusing(Code.RESOURCE_EXHAUSTED)) as client:
        with pytest.raises(IssuerUnavailableError, match="RESOURCE_EXHAUSTED"):
            await client.report(bytes(16), ())

# SPDX-License-Identifier: Apache-2.0
"""What is taken back takes effect: in the issuer at once, and for everybody by signed lists."""

import asyncio
import contextlib
from dataclasses import replace
from datetime import UTC, datetime, timedelta

import grpc
import pytest
from cryptography import x509

from issuer.errors import StoreError
from issuer.governance.lifecycle import Caretaker
from issuer.governance.people import People
from issuer.governance.revocation import CRL_LIFETIME, LINGER, REFRESH
from issuer.keys import KeyManagerError
from issuer.model import AgentState, AuthorityKind, RevocationKind
from issuer.pruning import Pruning
from spiffekit.bundle import BundleSet
from spiffekit.crl import RevocationList
from spiffekit.jws import Jws
from spiffekit.jwtsvid import JwtSvid
from spiffekit.status import LIFETIME, AgentStatus
from spiffekit.wire.pb.issuer.v1 import agents_pb2, agents_pb2_grpc, revocation_pb2, revocation_pb2_grpc
from spiffekit.wire.pb.spire.api.server.svid.v1 import svid_pb2, svid_pb2_grpc
from tests.issuer.strategies import an_agent
from tests.issuer_api.calls import WITHIN, refused
from tests.issuer_api.test_evidence import evidence, sign
from tests.issuer_api.watching import Watch
from tests.issuer_api.world import TRUST_DOMAIN, spiffe_id

Code = grpc.StatusCode
PAYER = spiffe_id("/agent/payer")
SECOND = timedelta(seconds=1)


@pytest.fixture
async def published(world):
    """The world, publishing."""
    ready = asyncio.Event()
    running = asyncio.create_task(world.publisher.run(ready.set))
    await ready.wait()
    yield world
    running.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await running


@pytest.fixture
def agents(local):
    return agents_pb2_grpc.AgentsStub(local)


@pytest.fixture
def revocation(local):
    return revocation_pb2_grpc.RevocationStub(local)


@pytest.fixture
async def payer(world):
    await world.entry("/agent/payer")
    return await world.database.write(lambda tx: tx.agents.create(an_agent(state=AgentState.ACTIVE)))


async def issue(channel, clock):
    result = await sign(svid_pb2_grpc.SVIDStub(channel), "agent-payer", evidence(clock))
    return x509.load_der_x509_certificate(result.svid.cert_chain[0])


async def issue_jwt(channel, clock):
    asked = svid_pb2.NewJWTSVIDRequest(entry_id="agent-payer", audience=["db"], evidence=evidence(clock))
    token = (await svid_pb2_grpc.SVIDStub(channel).NewJWTSVID(asked)).svid.token
    return JwtSvid.parse_unverified(token).claims["jti"]


def change(reason="because"):
    return agents_pb2.ChangeStateRequest(spiffe_id=str(PAYER), reason=reason)


async def newest(world, after):
    """What is published after a number, verified as others do."""
    async with asyncio.timeout(WITHIN):
        await world.publisher.wait_beyond(after)
    return read(world, world.publisher.current)


async def until(world, said):
    """The first that is published of which something is true."""
    async with asyncio.timeout(WITHIN):
        while True:
            current = world.publisher.current
            status, crls = read(world, current)
            if said(status):
                return status, crls
            await world.publisher.wait_beyond(current.number)


def read(world, current):
    bundle = world.registrations.bundle(TRUST_DOMAIN)
    status = AgentStatus.verify(current.status, BundleSet([bundle]), now=world.clock.now())
    return status, [RevocationList.verify(one, bundle) for one in current.crls]


def number(world):
    return world.publisher.current.number


async def test_nothing_is_taken_back_at_first(published):
    status, (crl,) = read(published, published.publisher.current)
    assert (status.suspended, status.retired, status.serials) == (frozenset(), frozenset(), frozenset())
    assert status.sequence == published.log.revision
    assert crl.serials == frozenset()
    assert crl.next_update - crl.this_update == CRL_LIFETIME


async def test_who_is_suspended_is_on_both_lists_until_it_is_resumed(
    published, payer, agents, channel, clock
):
    certificate = await issue(channel, clock)
    before = number(published)
    await agents.SuspendAgent(change())
    status, (crl,) = await newest(published, before)
    assert status.suspended == {PAYER}
    assert (status.serials, crl.serials) == (frozenset(), {certificate.serial_number})
    listed = x509.load_der_x509_crl(published.publisher.current.crls[0])
    (entry,) = listed
    assert entry.extensions.get_extension_for_class(x509.CRLReason).value.reason.name == "certificate_hold"
    before = number(published)
    await agents.ResumeAgent(change())
    status, (crl,) = await newest(published, before)
    assert (status.suspended, status.serials, crl.serials) == (frozenset(), frozenset(), frozenset())


async def test_who_is_retired_stays_on_the_lists_until_all_has_ended(
    published, payer, agents, channel, clock
):
    certificate = await issue(channel, clock)
    before = number(published)
    await agents.RetireAgent(agents_pb2.RetireAgentRequest(spiffe_id=str(PAYER), reason="done"))
    status, (crl,) = await newest(published, before)
    assert (status.retired, crl.serials) == ({PAYER}, {certificate.serial_number})
    now = clock.now()
    ends = certificate.not_valid_after_utc
    revocations = published.revocations
    assert revocations.certificates(ends - SECOND)
    assert not revocations.certificates(ends)
    assert revocations.status(1, now + LINGER - SECOND).retired == {PAYER}
    assert not revocations.status(1, now + LINGER).retired


async def test_an_agent_whose_owner_is_gone_is_taken_back_as_well(published, payer, channel, tmp_path, clock):
    certificate = await issue(channel, clock)
    file = tmp_path / "people.json"
    file.write_text('{"totalResults": 1, "Resources": [{"externalId": "somebody else"}]}')
    people = People(file, "https://idp.example.org")
    await people.reload()
    zero = timedelta(0)
    caretaker = Caretaker(published.database, people, clock, orphan_grace=zero, review_grace=zero)
    await caretaker.look()
    await caretaker.look()
    status, (crl,) = await until(published, lambda status: status.suspended)
    assert (status.suspended, crl.serials) == ({PAYER}, {certificate.serial_number})


async def test_what_has_ended_by_itself_is_not_listed_and_is_pruned(world, payer, agents, channel, clock):
    await issue(channel, clock)
    await clock.advance(timedelta(minutes=15))
    await agents.SuspendAgent(change())
    assert world.revocations.all(clock.now()) == []
    await agents.RetireAgent(agents_pb2.RetireAgentRequest(spiffe_id=str(PAYER), reason="done"))
    assert [one.kind for one in world.revocations.all(clock.now())] == [RevocationKind.RETIRED]
    pruning = Pruning(world.database, clock, nodes_expired_for=None)
    assert await pruning.prune() == 0
    await clock.advance(LINGER)
    assert world.revocations.all(clock.now()) == []
    assert await pruning.prune() == 1
    assert await world.database.read(lambda tx: tx.revocations.all()) == []


async def test_single_credentials_are_taken_back(published, payer, revocation, channel, clock):
    certificate = await issue(channel, clock)
    jti = await issue_jwt(channel, clock)
    serial = str(certificate.serial_number)
    one = await revocation.Revoke(revocation_pb2.RevokeRequest(serial=serial, reason="lost"))
    assert (one.kind, one.key, one.spiffe_id, one.reason) == (
        "certificate", serial, str(PAYER), "key_compromise",
    )  # fmt: skip
    assert (one.at, one.until) == (
        int(clock.now().timestamp()),
        int(certificate.not_valid_after_utc.timestamp()),
    )
    await revocation.Revoke(revocation_pb2.RevokeRequest(jti=jti, reason="lost"))
    status, (crl,) = await until(published, lambda status: status.jtis)
    assert (status.serials, status.jtis) == ({certificate.serial_number}, {jti})
    assert crl.serials == {certificate.serial_number}
    listed = (await revocation.ListRevoked(revocation_pb2.ListRevokedRequest())).revoked
    assert {(item.kind, item.key) for item in listed} == {("certificate", serial), ("token", jti)}


async def test_what_is_revoked_for_good_survives_a_suspension(
    world, payer, agents, revocation, channel, clock
):
    certificate = await issue(channel, clock)
    serial = str(certificate.serial_number)
    await revocation.Revoke(revocation_pb2.RevokeRequest(serial=serial, reason="lost"))
    await agents.SuspendAgent(change())
    await agents.ResumeAgent(change())
    (kept,) = world.revocations.all(world.clock.now())
    assert (kept.key, kept.reason) == (serial, "key_compromise")


async def test_everything_before_an_instant_is_void(published, payer, revocation, channel, clock):
    old = await issue(channel, clock)
    await clock.advance(timedelta(minutes=1))
    instant = int(clock.now().timestamp())
    new = await issue(channel, clock)
    before = number(published)
    wanted = revocation_pb2.RevokeRequest(spiffe_id=str(PAYER), before=instant, reason="stolen")
    one = await revocation.Revoke(wanted)
    assert (one.kind, one.key, one.at) == ("before", str(PAYER), instant)
    status, (crl,) = await newest(published, before)
    assert status.not_before == {PAYER: datetime.fromtimestamp(instant, UTC)}
    assert status.serials == crl.serials == {old.serial_number}
    assert new.serial_number not in crl.serials
    earlier = revocation_pb2.RevokeRequest(spiffe_id=str(PAYER), before=instant - 30, reason="again")
    assert (await revocation.Revoke(earlier)).at == instant, "it never goes back"


@pytest.mark.parametrize(
    ("fields", "code", "message"),
    [
        ({}, Code.INVALID_ARGUMENT, "what: give a serial, a jti or a spiffe_id"),
        ({"serial": ""}, Code.INVALID_ARGUMENT, "serial: is missing"),
        ({"serial": "1"}, Code.NOT_FOUND, "certificate '1' was never issued here"),
        ({"jti": "x"}, Code.NOT_FOUND, "token 'x' was never issued here"),
        ({"jti": "x", "before": 1}, Code.INVALID_ARGUMENT, "before: only with a spiffe_id"),
        ({"spiffe_id": str(PAYER), "before": 2**40}, Code.INVALID_ARGUMENT, None),
        ({"spiffe_id": str(PAYER), "before": 4102444800}, Code.INVALID_ARGUMENT, "before: is in the future"),
        ({"spiffe_id": "x"}, Code.INVALID_ARGUMENT, None),
        ({"spiffe_id": str(PAYER), "reason": ""}, Code.INVALID_ARGUMENT, "reason: is missing"),
    ],
)
async def test_what_cannot_be_taken_back_is_refused(revocation, fields, code, message):
    with refused(code, message):
        await revocation.Revoke(revocation_pb2.RevokeRequest(**{"reason": "because"} | fields))


async def test_what_has_ended_cannot_be_taken_back(payer, revocation, channel, clock):
    certificate = await issue(channel, clock)
    jti = await issue_jwt(channel, clock)
    await clock.advance(timedelta(minutes=15))
    serial = str(certificate.serial_number)
    with refused(Code.FAILED_PRECONDITION, f"certificate '{serial}' has ended already"):
        await revocation.Revoke(revocation_pb2.RevokeRequest(serial=serial, reason="lost"))
    with refused(Code.NOT_FOUND, f"certificate '{jti}' was never issued here"):
        await revocation.Revoke(revocation_pb2.RevokeRequest(serial=jti, reason="lost"))


async def test_what_was_taken_back_is_listed_in_pages(world, payer, agents, revocation, channel, clock):
    for _ in range(5):
        await issue(channel, clock)
    await agents.SuspendAgent(change())
    found, token = [], ""
    while True:
        asked = revocation_pb2.ListRevokedRequest(page_size=2, page_token=token)
        page = await revocation.ListRevoked(asked)
        found += [one.key for one in page.revoked]
        token = page.next_page_token
        if not token:
            break
    assert len(found) == len(set(found)) == 5
    for bad in ("x", "-1", "²"):
        with refused(Code.INVALID_ARGUMENT, "page_token: is none of ours"):
            await revocation.ListRevoked(revocation_pb2.ListRevokedRequest(page_token=bad))


async def test_a_retirement_certificate_says_what_is_still_out_there(
    world, payer, agents, revocation, channel, clock
):
    certificate, jti = await issue(channel, clock), await issue_jwt(channel, clock)
    asked = revocation_pb2.CertifyRetirementRequest(spiffe_id=str(PAYER))
    with refused(Code.FAILED_PRECONDITION, f"agent {PAYER} is active, not retired"):
        await revocation.CertifyRetirement(asked)
    await clock.advance(timedelta(minutes=1))
    retired_at = int(clock.now().timestamp())
    await agents.RetireAgent(agents_pb2.RetireAgentRequest(spiffe_id=str(PAYER), reason="done"))
    await clock.advance(timedelta(hours=1))
    made = await revocation.CertifyRetirement(asked)
    assert made.retired_at == retired_at
    assert [(one.kind, one.id, list(one.audience)) for one in made.outstanding] == [
        ("x509-svid", str(certificate.serial_number), []),
        ("jwt-svid", jti, ["db"]),
    ]
    assert made.fully_dead_at == retired_at + LINGER.total_seconds()
    token = Jws.parse_unverified(made.token, typ="agent-retirement+jwt")
    authority = world.registrations.bundle(TRUST_DOMAIN).jwt_authority(token.key_id())
    token.check_signature(authority.public_key)
    said = token.payload
    assert (said["sub"], said["owner"], said["reason"]) == (
        str(PAYER), "https://idp.example.org|alice", "done",
    )  # fmt: skip
    assert [one["id"] for one in said["outstanding"]] == [str(certificate.serial_number), jti]
    assert said["fully_dead_at"] == made.fully_dead_at


async def test_nodes_are_told_on_their_streams(published, payer, agents, channel):
    async with Watch(channel) as watch:
        messages = []

        async def told(wanted):
            async with asyncio.timeout(WITHIN):
                while True:
                    message = await watch.call.read()
                    if message.HasField("revocations"):
                        messages.append(message)
                        status, _ = read(published, message.revocations)
                        if status.suspended == wanted:
                            return message

        first = await told(frozenset())
        assert first.heartbeat, "who does not know the field takes it for a sign of life"
        await agents.SuspendAgent(change())
        await told({PAYER})


async def test_anybody_may_ask_for_what_is_published(published):
    stub = revocation_pb2_grpc.RevocationStub(await published.dial())
    answer = await stub.GetStatus(revocation_pb2.GetStatusRequest())
    status, _ = read(published, answer)
    assert status.trust_domain == TRUST_DOMAIN


async def test_a_snapshot_is_replaced_long_before_it_ends(published, clock):
    before = number(published)
    await clock.advance(REFRESH)
    status, _ = await newest(published, before)
    assert status.issued_at == clock.now()
    assert REFRESH < LIFETIME / 2


async def test_what_cannot_be_signed_is_tried_again_soon(published, clock, monkeypatch, caplog):
    before = published.publisher.current
    failing = [True]
    sign = published.authorities.revocation_lists

    async def sometimes(*arguments, **options):
        if failing:
            failing.clear()
            raise KeyManagerError("key is gone")
        return await sign(*arguments, **options)

    monkeypatch.setattr(published.authorities, "revocation_lists", sometimes)
    await clock.advance(REFRESH)
    assert published.publisher.current is before
    assert "status of agents cannot be signed, trying again" in [r.message for r in caplog.records]
    await clock.advance(SECOND)
    await newest(published, before.number)


async def test_lists_follow_the_authorities(published):
    before = number(published)
    prepared = await published.authorities.prepare(AuthorityKind.X509)
    await published.authorities.activate(AuthorityKind.X509, prepared.id)
    async with asyncio.timeout(WITHIN):
        while len(published.publisher.current.crls) < 2:
            await published.publisher.wait_beyond(before)
            before = number(published)


async def test_an_svid_that_a_suspension_overtakes_is_not_handed_out(
    world, payer, channel, monkeypatch, clock
):
    record = world.database.record

    async def slowly(*records):
        await world.database.write(lambda tx: tx.agents.update(replace(payer, state=AgentState.SUSPENDED)))
        await record(*records)

    monkeypatch.setattr(world.database, "record", slowly)
    with refused(Code.PERMISSION_DENIED, f"agent {PAYER} is suspended"):
        await issue(channel, clock)


async def test_after_a_restart_what_was_taken_back_is_still_known(world, payer, agents, channel, clock):
    from issuer.governance.revocation import Revocations

    await issue(channel, clock)
    await agents.SuspendAgent(change())
    fresh = Revocations(TRUST_DOMAIN, world.registrations)
    fresh.load(await world.database.read(lambda tx: tx.revocations.all()))
    assert fresh.status(1, clock.now()) == world.revocations.status(1, clock.now())
    assert fresh.certificates(clock.now()) == world.revocations.certificates(clock.now())
    assert fresh.certificates(clock.now())


async def test_a_suspension_that_cannot_be_written_takes_nothing_back(world, payer, agents, channel, clock):
    await issue(channel, clock)
    await world.lose_the_trail()
    with refused(Code.UNAVAILABLE):
        await agents.SuspendAgent(change())
    assert world.revocations.all(world.clock.now()) == []
    assert world.registrations.agent(PAYER).state is AgentState.ACTIVE
    with pytest.raises(StoreError):
        await world.database.read(lambda tx: tx.audit.last())

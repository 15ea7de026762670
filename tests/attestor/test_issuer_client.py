# SPDX-License-Identifier: Apache-2.0
"""The client against a real issuer: what is asked, what is answered, and what a refusal means."""

import asyncio
import contextlib
import tempfile
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.serialization import load_der_public_key

from attestor import issuer_client
from attestor.connection import Credentials
from attestor.errors import (
    IssuerUnavailableError,
    IssuerUntrustedError,
    MustReattestError,
    NodeAttestationError,
    NodeBannedError,
)
from attestor.issuer_client import IssuerClient, make_csr, new_key
from attestor.listing import SYNC_PAGE
from attestor.node import join_token
from issuer.model import JoinToken
from spiffekit.bundle import BundleSet
from spiffekit.id import TrustDomain
from spiffekit.jwtsvid import verify as verify_jwt
from spiffekit.keys import private_key_to_der, public_key_to_der
from spiffekit.testing import TestCA
from spiffekit.x509svid import X509Svid, verify
from tests.attestor.factory import Backwards, Machine
from tests.fakes.clock import FakeClock
from tests.issuer_api.world import TRUST_DOMAIN, World

QUIET = timedelta(seconds=5)
BEAT = timedelta(milliseconds=30)
HOUR = timedelta(hours=1)


@pytest.fixture
def clock():
    """Stands still at the real time, because OpenSSL has no other clock for its handshakes."""
    return FakeClock(datetime.now(UTC).replace(microsecond=0))


@contextlib.asynccontextmanager
async def issuing(clock, **options):
    with tempfile.TemporaryDirectory(prefix="ic-") as folder:
        async with World.open(Path(folder), clock, verifiers={"test": Backwards()}, **options) as world:
            yield world


@pytest.fixture
async def world(clock):
    async with issuing(clock) as made:
        yield made


def bundle_of(world):
    return world.registrations.bundle(TRUST_DOMAIN)


@contextlib.asynccontextmanager
async def opened(world, svid=None, **changes):
    credentials = Credentials(**{"bundle": bundle_of(world), "svid": svid} | changes)
    async with IssuerClient.open("127.0.0.1", world.remote.port, TRUST_DOMAIN, credentials, world.clock) as c:
        yield c


@pytest.fixture
async def svid(world):
    return await world.node("n1")


@pytest.fixture
async def client(world, svid):
    """A client of the node n1."""
    async with opened(world, svid) as made:
        yield made


@pytest.fixture
async def anonymous(world):
    async with opened(world) as made:
        yield made


def status(client):
    """A call that every node may make, and nobody else."""
    return client.post_status("1.0", 0)


def taken_up(chain, key):
    return X509Svid.parse(b"".join(chain), private_key_to_der(key))


# Attestation.


async def test_a_join_token_proves_a_node(world, anonymous, clock):
    await world.database.write(
        lambda tx: tx.join_tokens.create(JoinToken(value="tok", expires_at=clock.now() + HOUR))
    )
    attestor = join_token.create(join_token.Config("tok"))
    key = new_key()
    chain, reattestable = await anonymous.attest(attestor, make_csr(key))
    svid = taken_up(chain, key)
    assert str(svid.spiffe_id) == "spiffe://example.org/spire/agent/join_token/tok"
    assert not reattestable
    assert verify(chain, bundle_of(world), now=clock.now()) == svid.spiffe_id
    async with opened(world, svid) as node:
        await status(node)
    with pytest.raises(NodeAttestationError, match="has already been used"):
        await anonymous.attest(attestor, make_csr(key))


async def test_a_challenge_is_answered(world, anonymous):
    key = new_key()
    chain, reattestable = await anonymous.attest(Machine("m1"), make_csr(key))
    assert str(taken_up(chain, key).spiffe_id) == "spiffe://example.org/spire/agent/test/m1"
    assert reattestable


async def test_a_wrong_response_proves_nothing(anonymous):
    class Wrong(Machine):
        async def respond(self, challenge):
            return challenge

    with pytest.raises(NodeAttestationError, match="response does not fit the challenge"):
        await anonymous.attest(Wrong(), make_csr(new_key()))


@pytest.mark.parametrize("fails", [False, True], ids=["proved", "refused"])
async def test_what_a_proof_took_is_given_back_whatever_comes_of_it(anonymous, fails):
    class Holding(Machine):
        released = 0

        async def respond(self, challenge):
            assert not self.released  # while it is proving
            return challenge if fails else await super().respond(challenge)

        async def release(self):
            self.released += 1

    machine = Holding("m1")
    with pytest.raises(NodeAttestationError) if fails else contextlib.nullcontext():
        await anonymous.attest(machine, make_csr(new_key()))
    assert machine.released == 1


@pytest.mark.parametrize("half", ["payload", "respond"])
async def test_a_node_that_cannot_prove_itself_says_why(anonymous, half):
    async def fail(*_):
        raise NodeAttestationError("node key cannot be read")

    attestor = Machine()
    setattr(attestor, half, fail)
    with pytest.raises(NodeAttestationError, match=r"^node key cannot be read$"):
        await anonymous.attest(attestor, make_csr(new_key()))


async def test_an_issuer_that_does_not_know_the_proof_is_asked_again_later(anonymous):
    attestor = Machine()
    attestor.type = "unknown"
    with pytest.raises(IssuerUnavailableError, match=r"no node attestor 'unknown' .*\(INVALID_ARGUMENT\)$"):
        await anonymous.attest(attestor, make_csr(new_key()))


async def test_a_banned_node_learns_it_when_it_proves_itself(world, anonymous):
    key = new_key()
    chain, _ = await anonymous.attest(Machine("m1"), make_csr(key))
    await ban(world, taken_up(chain, key))
    with pytest.raises(NodeBannedError):
        await anonymous.attest(Machine("m1"), make_csr(key))


async def test_a_node_attests_without_the_certificate_that_no_longer_counts(world, client, svid):
    await world.database.write(lambda tx: tx.nodes.delete(svid.spiffe_id))
    async with client.anonymous(client.credentials.bundle) as other:
        await other.attest(Machine("n1"), make_csr(new_key()))
        assert other.credentials == Credentials(client.credentials.bundle)
    with pytest.raises(MustReattestError):
        await status(client)


# What a node may not any longer.


async def test_a_renewed_svid_counts_beside_the_old_one_until_it_is_used(world, client, svid, clock):
    key = new_key()
    fresh = taken_up(await client.renew(make_csr(key)), key)
    assert fresh.spiffe_id == svid.spiffe_id
    await status(client)
    client.credentials.svid = fresh
    client.drop_connections()
    await status(client)
    async with opened(world, svid) as late:
        with pytest.raises(MustReattestError, match=r"^node SVID is no longer active$"):
            await status(late)


async def test_a_node_that_can_prove_itself_again_has_to(world, svid):
    async with opened(world, await world.node("n2", can_reattest=True)) as client:
        with pytest.raises(MustReattestError, match=r"^node has to attest again$"):
            await client.renew(make_csr(new_key()))


async def test_an_evicted_node_has_to_attest_again(world, client, svid):
    await world.database.write(lambda tx: tx.nodes.delete(svid.spiffe_id))
    with pytest.raises(MustReattestError, match=r"^node is not attested$"):
        await status(client)


async def test_a_node_whose_svid_expires_on_an_open_connection_has_to_attest_again(client, clock):
    await status(client)
    await clock.advance(HOUR + timedelta(seconds=1))
    with pytest.raises(MustReattestError, match=r"^node SVID has expired$"):
        await status(client)


async def ban(world, svid):
    banned = replace(world.registrations.node(svid.spiffe_id), serial="", new_serial="")
    await world.database.write(lambda tx: tx.nodes.put(banned))


async def test_a_banned_node_is_told_so(world, client, svid):
    await ban(world, svid)
    with pytest.raises(NodeBannedError, match=r"^node is banned$"):
        await status(client)


async def test_who_is_no_node_is_refused_without_a_reason(anonymous):
    with pytest.raises(NodeAttestationError):
        await status(anonymous)


async def test_an_issuer_that_does_not_know_our_authority_only_hangs_up(world):
    """It refuses the certificate in the handshake, and gRPC knows no reason."""
    stranger = TestCA("example.org").issue("spiffe://example.org/spire/agent/test/n1")
    async with opened(world, stranger) as client:
        with pytest.raises(IssuerUnavailableError):
            await status(client)


# Connections.


async def test_a_false_issuer_is_not_trusted(world, svid):
    async with opened(world, svid, bundle=TestCA("example.org").bundle) as client:
        with pytest.raises(IssuerUntrustedError, match=r"no authority of example\.org vouches"):
            await client.bundle()
        with pytest.raises(IssuerUntrustedError):
            async for _ in client.watch(QUIET):
                pass


async def test_an_issuer_of_another_trust_domain_is_not_trusted(world):
    other = TrustDomain("other.org")
    async with IssuerClient.open("127.0.0.1", world.remote.port, other, Credentials(), world.clock) as client:
        with pytest.raises(IssuerUntrustedError, match=r"not the issuer of other\.org"):
            await client.bundle()


async def test_nobody_answers(clock):
    bundle = TestCA("example.org").bundle
    async with IssuerClient.open("127.0.0.1", 1, TRUST_DOMAIN, Credentials(bundle), clock) as client:
        with pytest.raises(IssuerUnavailableError, match=r"Connect call failed.*\(UNAVAILABLE\)$"):
            await client.bundle()


async def test_an_issuer_that_comes_is_used(world, svid):
    async with opened(world, svid, bundle=TestCA("example.org").bundle) as client:
        with pytest.raises(IssuerUntrustedError):
            await status(client)
        client.credentials.bundle = bundle_of(world)
        client.drop_connections()
        await status(client)


async def test_new_credentials_count_from_the_next_connection_on(world, client):
    await status(client)
    client.credentials.svid = None
    await status(client)
    client.drop_connections()
    with pytest.raises(NodeAttestationError):
        await status(client)


async def test_old_channels_are_closed_later(client, monkeypatch):
    monkeypatch.setattr(issuer_client, "CLOSE_AFTER", 0)
    old = client._channel
    client.drop_connections()
    async with asyncio.timeout(5):
        while client._closing:
            await asyncio.sleep(0)
    with pytest.raises(Exception, match="closed"):
        await old.channel_ready()
    await status(client)


async def test_a_channel_that_is_closed_does_not_look_like_the_end_of_the_daemon(client):
    """gRPC cancels what awaits it; a service would seem to have been asked to stop."""
    watching = asyncio.create_task(read_all(client.watch(QUIET)))
    await next_update(client)
    await client._channel.close()
    with pytest.raises(IssuerUnavailableError, match=r"^connection was closed$"):
        await asyncio.wait_for(watching, 5)


async def test_a_service_that_is_stopped_stops(client):
    watching = asyncio.create_task(read_all(client.watch(QUIET)))
    await next_update(client)
    watching.cancel()
    with pytest.raises(asyncio.CancelledError):
        await asyncio.wait_for(watching, 5)


async def read_all(stream):
    return [update async for update in stream]


async def next_update(client, **opening):
    async with contextlib.aclosing(client.watch(QUIET, **opening)) as stream:
        return await anext(stream)


# What a node asks for.


async def test_a_node_says_its_version(world, client, svid):
    await client.post_status("7.1", 3)
    assert world.registrations.node(svid.spiffe_id).version == "7.1"


async def test_the_bundle_is_for_everybody(world, anonymous):
    assert await anonymous.bundle() == bundle_of(world)


async def test_federated_bundles(world, client):
    other = TestCA("other.org").bundle
    await world.database.write(lambda tx: tx.bundles.put(other))
    assert (await client.federated_bundle(other.trust_domain)).x509_authorities == other.x509_authorities
    assert await client.federated_bundle(TrustDomain("unknown.org")) is None


async def test_x509_svids_are_given_for_entries_and_refused_ones_are_left_out(world, client, clock):
    mine = await world.entry("/web")
    theirs = await world.entry("/theirs", parent="/spire/agent/test/n2")
    keys = {entry.id: new_key() for entry in (mine, theirs)}
    chains = await client.new_x509_svids([(entry_id, make_csr(key)) for entry_id, key in keys.items()])
    assert list(chains) == [mine.id]
    assert taken_up(chains[mine.id], keys[mine.id]).spiffe_id == mine.spiffe_id
    verify(chains[mine.id], bundle_of(world), now=clock.now())


async def test_a_jwt_svid_is_given_for_an_entry(world, client, clock):
    entry = await world.entry("/web")
    token = await client.new_jwt_svid(entry.id, ["a", "b"])
    bundles = BundleSet([bundle_of(world)])
    found = verify_jwt(token, bundles, audience=["b"], now=clock.now())
    assert (found.spiffe_id, found.audience) == (entry.spiffe_id, ("a", "b"))


async def test_what_the_issuer_cannot_do_is_named(client):
    with pytest.raises(IssuerUnavailableError, match=r"\(NOT_FOUND\)$"):
        await client.new_jwt_svid("no-such-entry", ["a"])


def test_a_request_says_nothing_but_the_key():
    from cryptography import x509

    key = new_key()
    request = x509.load_der_x509_csr(make_csr(key))
    assert request.is_signature_valid
    assert public_key_to_der(request.public_key()) == public_key_to_der(key.public_key())
    assert list(request.extensions) == []
    assert load_der_public_key(public_key_to_der(request.public_key())).curve.name == "secp256r1"


# SyncAuthorizedEntries.


async def test_a_few_entries_are_sent_whole(world, client):
    await world.entry("/a", hint="h")
    await world.entry("/b", selectors=["unix:uid:1", "unix:gid:2"])
    found = {entry.id: entry for entry in await client.sync_entries({})}
    assert found.keys() == {"a", "b"}
    assert found["a"].hint == "h"
    assert {str(s) for s in found["b"].selectors} == {"unix:uid:1", "unix:gid:2"}


async def test_nothing_is_nothing(client):
    assert await client.sync_entries({}) == ()


async def test_of_many_entries_only_what_is_not_known_crosses_the_wire(world, client):
    count = SYNC_PAGE + 3
    await many_entries(world, count)
    first = {entry.id: entry for entry in await client.sync_entries({})}
    assert len(first) == count
    # One changes, one goes, one comes, and one of the same revision is made anew.
    await world.database.write(lambda tx: tx.entries.delete("e3"))
    await world.database.write(lambda tx: tx.entries.update(replace(world.made("/e1"), hint="new")))
    await world.entry("/late")
    known = first | {"e2": replace(first["e2"], created_at=first["e2"].created_at - HOUR)}
    second = {entry.id: entry for entry in await client.sync_entries(known)}
    assert second.keys() == first.keys() - {"e3"} | {"late"}
    assert {entry_id for entry_id in second if second[entry_id] is not known.get(entry_id)} == {
        "e1",
        "e2",
        "late",
    }
    assert (second["e1"].hint, second["e1"].revision) == ("new", first["e1"].revision + 1)


async def many_entries(world, count):
    def act(tx):
        for number in range(count):
            tx.entries.create(world.made(f"/e{number}"))

    await world.database.write(act)


async def test_a_second_page_is_asked_for_on_the_same_stream(world, client):
    await many_entries(world, 2 * SYNC_PAGE + 1)
    assert len(await client.sync_entries({})) == 2 * SYNC_PAGE + 1


# The push stream.


async def test_the_push_stream_opens_with_a_snapshot_and_goes_on_with_changes(world, client):
    await world.entry("/a")
    async with contextlib.aclosing(client.watch(QUIET)) as stream, asyncio.timeout(5):
        first = await anext(stream)
        assert (first.snapshot, first.more, [e.id for e in first.entries]) == (True, False, ["a"])
        assert first.bundles == (bundle_of(world),)
        await world.entry("/b")
        second = await anext(stream)
        assert (second.snapshot, [e.id for e in second.entries]) == (False, ["b"])
        assert (second.revision, second.epoch) == (first.revision + 1, first.epoch)
        await world.database.write(lambda tx: tx.entries.delete("a"))
        assert (await anext(stream)).removed == ("a",)


async def test_a_stream_that_is_resumed_brings_only_what_was_missed(world, client):
    await world.entry("/a")
    first = await next_update(client)
    await world.entry("/b")
    second = await next_update(client, revision=first.revision, epoch=first.epoch)
    assert (second.snapshot, [e.id for e in second.entries]) == (False, ["b"])
    third = await next_update(client, revision=second.revision, epoch="another")
    assert (third.snapshot, [e.id for e in third.entries]) == (True, ["a", "b"])


async def test_heartbeats_keep_a_stream_alive(clock):
    async with (
        issuing(clock, heartbeat=BEAT) as world,
        opened(world, await world.node("n1")) as client,
        contextlib.aclosing(client.watch(QUIET)) as stream,
        asyncio.timeout(10),
    ):
        first = await anext(stream)
        for _ in range(3):
            update = await anext(stream)
            assert (update.heartbeat, update.revision) == (True, first.revision)


async def test_a_silent_stream_ends(client):
    with pytest.raises(IssuerUnavailableError, match=r"^push stream is silent$"):
        await asyncio.wait_for(read_all(client.watch(BEAT)), 5)


async def test_a_stream_whose_connections_are_dropped_just_ends(client):
    async with contextlib.aclosing(client.watch(QUIET)) as stream, asyncio.timeout(5):
        assert (await anext(stream)).snapshot
        client.drop_connections()
        assert [update async for update in stream] == []
    assert (await next_update(client)).snapshot


async def test_a_ban_ends_the_stream_at_once(world, client, svid):
    async with contextlib.aclosing(client.watch(QUIET)) as stream, asyncio.timeout(5):
        await anext(stream)
        await ban(world, svid)
        with pytest.raises(NodeBannedError):
            await anext(stream)


async def test_an_issuer_that_ends_is_away(clock):
    async with contextlib.AsyncExitStack() as stack:
        issuer = contextlib.AsyncExitStack()
        world = await issuer.enter_async_context(issuing(clock))
        client = await stack.enter_async_context(opened(world, await world.node("n1")))
        stream = await stack.enter_async_context(contextlib.aclosing(client.watch(QUIET)))
        await anext(stream)
        await issuer.aclose()
        with pytest.raises(IssuerUnavailableError, match=r"\(UNAVAILABLE\)$"):
            await asyncio.wait_for(anext(stream), 5)

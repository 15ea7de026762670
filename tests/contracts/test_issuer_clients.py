# SPDX-License-Identifier: Apache-2.0
"""What a client of the issuer does: the real one over a network, and the fake one of the attestor's tests."""

import asyncio
import contextlib
import secrets
import tempfile
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from attestor.connection import Credentials
from attestor.errors import (
    IssuerUnavailableError,
    IssuerUntrustedError,
    MustReattestError,
    NodeAttestationError,
    NodeBannedError,
    ReportRejectedError,
)
from attestor.issuer_client import IssuerClient, make_csr, new_key
from attestor.node import join_token
from issuer.model import JoinToken
from spiffekit.evidence import Evidence, ProcessFacts
from spiffekit.id import TrustDomain
from spiffekit.jwtsvid import JwtSvid
from spiffekit.keys import private_key_to_der, public_key_to_der
from spiffekit.selector import Selector
from spiffekit.testing import TestCA
from spiffekit.wire.convert import microseconds
from spiffekit.wire.pb.issuer.v1.audit_reports_pb2 import ReportedEvent
from spiffekit.witsvid import WitSvid
from spiffekit.x509svid import X509Svid
from tests.attestor.factory import Backwards, Machine, entry
from tests.fakes.clock import FakeClock
from tests.fakes.issuer import FakeClient, FakeIssuer
from tests.issuer_api.world import TRUST_DOMAIN, World

HOUR = timedelta(hours=1)
SECOND = timedelta(seconds=1)
QUIET = timedelta(seconds=5)
TOKEN = join_token.create(join_token.Config("token"))
TOKEN_NODE = "spiffe://example.org/spire/agent/join_token/token"


class Real:
    """Our issuer, and `IssuerClient`."""

    def __init__(self, world):
        self.world = world
        self.clock = world.clock

    @classmethod
    @contextlib.asynccontextmanager
    async def open(cls, clock):
        with tempfile.TemporaryDirectory(prefix="ct-") as folder:
            async with World.open(Path(folder), clock, verifiers={"test": Backwards()}, wit=True) as world:
                yield cls(world)

    @property
    def bundle(self):
        return self.world.registrations.bundle(TRUST_DOMAIN)

    async def client(self, svid=None, bundle=None):
        credentials = Credentials(bundle or self.bundle, svid)
        opened = IssuerClient.open("127.0.0.1", self.world.remote.port, TRUST_DOMAIN, credentials, self.clock)
        return await self.world.stack.enter_async_context(opened)

    async def token(self):
        token = JoinToken(value="token", expires_at=self.clock.now() + HOUR)
        await self.world.database.write(lambda tx: tx.join_tokens.create(token))

    async def grant(self, entry_id):
        await self.world.entry(f"/{entry_id}", selectors=["unix:uid:1"])

    async def federate(self, bundle):
        await self.world.database.write(lambda tx: tx.bundles.put(bundle))

    async def node(self):
        return await self.world.node("n1")

    async def reported(self, boot):
        """The numbers of a run's events that are recorded, and that of its end."""
        trail = [r for r in await self.world.trail() if r.detail.get("boot") == boot.hex()]
        numbers = [r.detail["number"] for r in trail if "number" in r.detail]
        return numbers, next((r.detail["last"] for r in trail if r.type == "node.stopped"), None)

    async def ban(self, spiffe_id):
        node = replace(self.world.registrations.node(spiffe_id), serial="", new_serial="")
        await self.world.database.write(lambda tx: tx.nodes.put(node))

    async def evict(self, spiffe_id):
        await self.world.database.write(lambda tx: tx.nodes.delete(spiffe_id))


class Fake:
    """The fake of both."""

    def __init__(self, clock):
        self.clock = clock
        self.issuer = FakeIssuer(clock)

    @classmethod
    @contextlib.asynccontextmanager
    async def open(cls, clock):
        yield cls(clock)

    @property
    def bundle(self):
        return self.issuer.bundle

    async def client(self, svid=None, bundle=None):
        return FakeClient(self.issuer, Credentials(bundle or self.bundle, svid))

    async def token(self):
        self.issuer.tokens.add("token")

    async def grant(self, entry_id):
        self.issuer.grant(entry(entry_id))
        self.issuer.revision += 1
        self.issuer.push(self.issuer.update(entries=(entry(entry_id),)))

    async def federate(self, bundle):
        self.issuer.federated[bundle.trust_domain] = bundle

    async def node(self):
        return self.issuer.node("n1")

    async def reported(self, boot):
        (run,) = [run for run in self.issuer.reports if run[1] == boot]
        return list(self.issuer.reports[run]), self.issuer.ended.get(run)

    async def ban(self, spiffe_id):
        self.issuer.nodes[spiffe_id].banned = True

    async def evict(self, spiffe_id):
        del self.issuer.nodes[spiffe_id]


@pytest.fixture(params=[Real, Fake], ids=["real", "fake"])
async def issuer(request):
    # At the real time, because OpenSSL has no other clock for its handshakes.
    async with request.param.open(FakeClock(datetime.now(UTC).replace(microsecond=0))) as made:
        yield made


@pytest.fixture
async def node(issuer):
    """A client of an attested node."""
    return await issuer.client(await issuer.node())


@pytest.fixture
async def nobody(issuer):
    """A client without an SVID."""
    return await issuer.client()


def status(client):
    """A call that every node may make, and nobody else."""
    return client.post_status("1", 0)


async def attested(client, attestor):
    key = new_key()
    chain, reattestable = await client.attest(attestor, make_csr(key))
    return X509Svid.parse(b"".join(chain), private_key_to_der(key)), reattestable


async def renewed(client):
    key = new_key()
    return X509Svid.parse(b"".join(await client.renew(make_csr(key))), private_key_to_der(key))


async def test_a_join_token_proves_a_node_once(issuer, nobody):
    await issuer.token()
    svid, reattestable = await attested(nobody, TOKEN)
    assert (str(svid.spiffe_id), reattestable) == (TOKEN_NODE, False)
    await status(await issuer.client(svid))
    with pytest.raises(NodeAttestationError, match="has already been used"):
        await attested(nobody, TOKEN)


async def test_a_machine_proves_itself_again_and_again(issuer, nobody):
    first, reattestable = await attested(nobody, Machine("m"))
    second, _ = await attested(nobody, Machine("m"))
    assert (str(second.spiffe_id), reattestable) == ("spiffe://example.org/spire/agent/test/m", True)
    await status(await issuer.client(second))
    with pytest.raises(MustReattestError):
        await status(await issuer.client(first))


async def test_a_wrong_response_proves_nothing(nobody):
    class Wrong(Machine):
        async def respond(self, challenge):
            return challenge

    with pytest.raises(NodeAttestationError):
        await attested(nobody, Wrong())


async def test_a_renewed_svid_counts_beside_the_old_one_until_it_is_used(issuer):
    old = await issuer.node()
    client = await issuer.client(old)
    fresh = await renewed(client)
    assert fresh.spiffe_id == old.spiffe_id
    await status(client)
    await status(await issuer.client(fresh))
    with pytest.raises(MustReattestError):
        await status(await issuer.client(old))


async def test_of_two_renewals_the_last_one_counts(issuer, node):
    first = await renewed(node)
    second = await renewed(node)
    with pytest.raises(MustReattestError):
        await status(await issuer.client(first))
    await status(await issuer.client(second))


async def test_a_machine_does_not_renew_but_proves_itself_again(issuer, nobody):
    svid, _ = await attested(nobody, Machine())
    with pytest.raises(MustReattestError):
        await renewed(await issuer.client(svid))


async def test_an_evicted_node_has_to_attest_again(issuer, node):
    await issuer.evict(node.credentials.svid.spiffe_id)
    with pytest.raises(MustReattestError):
        await status(node)


async def test_an_expired_node_has_to_attest_again(issuer, node):
    await status(node)
    await issuer.clock.advance(HOUR + SECOND)
    with pytest.raises(MustReattestError):
        await status(node)


async def test_a_banned_node_may_nothing(issuer, node, nobody):
    svid, _ = await attested(nobody, Machine())
    await issuer.ban(svid.spiffe_id)
    with pytest.raises(NodeBannedError):
        await status(await issuer.client(svid))
    with pytest.raises(NodeBannedError):
        await attested(nobody, Machine())
    await status(node)


async def test_nobody_may_nothing_but_see_the_bundle(issuer, nobody):
    await issuer.grant("e1")
    assert await nobody.bundle() == issuer.bundle
    for call in (
        status(nobody),
        renewed(nobody),
        nobody.new_x509_svids([("e1", make_csr(new_key()))]),
        nobody.new_jwt_svid("e1", ["a"]),
        nobody.new_wit_svids(["e1"], b"", evidence(issuer)),
        nobody.sync_entries({}),
        nobody.federated_bundle(TrustDomain("other.org")),
        anext(nobody.watch(QUIET)),
    ):
        with pytest.raises(NodeAttestationError):
            await call


async def test_a_node_of_another_authority_is_not_answered(issuer):
    stranger = TestCA("example.org").issue("spiffe://example.org/spire/agent/test/n1")
    with pytest.raises(IssuerUnavailableError):
        await status(await issuer.client(stranger))


async def test_an_issuer_that_is_not_trusted_is_not_spoken_to(issuer):
    client = await issuer.client(await issuer.node(), TestCA("example.org").bundle)
    for call in (status(client), client.bundle(), anext(client.watch(QUIET)), attested(client, Machine())):
        with pytest.raises(IssuerUntrustedError):
            await call


async def test_an_anonymous_client_trusts_what_it_is_told_and_shows_nothing(issuer, node):
    async with node.anonymous(issuer.bundle) as other:
        assert await other.bundle() == issuer.bundle
        with pytest.raises(NodeAttestationError):
            await status(other)
    async with node.anonymous(TestCA("example.org").bundle) as other:
        with pytest.raises(IssuerUntrustedError):
            await other.bundle()
    await status(node)


async def test_new_credentials_count_once_connections_were_dropped(issuer, node):
    await status(node)
    node.credentials.svid = await renewed(node)
    node.drop_connections()
    await status(node)


async def test_federated_bundles(issuer, node):
    other = TestCA("other.org").bundle
    assert await node.federated_bundle(other.trust_domain) is None
    await issuer.federate(other)
    assert (await node.federated_bundle(other.trust_domain)).x509_authorities == other.x509_authorities


async def test_x509_svids_are_given_for_entries_and_others_are_left_out(issuer, node):
    await issuer.grant("e1")
    key = new_key()
    chains = await node.new_x509_svids([("e1", make_csr(key)), ("none", make_csr(key))])
    assert list(chains) == ["e1"]
    svid = X509Svid.parse(b"".join(chains["e1"]), private_key_to_der(key))
    assert str(svid.spiffe_id) == "spiffe://example.org/e1"


async def test_a_jwt_svid_is_given_for_an_entry(issuer, node):
    await issuer.grant("e1")
    token = JwtSvid.parse_unverified(await node.new_jwt_svid("e1", ["a", "b"]), ["a", "b"])
    assert str(token.spiffe_id) == "spiffe://example.org/e1"
    assert token.expires_at == issuer.clock.now() + timedelta(minutes=5)
    with pytest.raises(IssuerUnavailableError):
        await node.new_jwt_svid("none", ["a"])


def evidence(issuer):
    """What was seen of a process now."""
    return Evidence(
        id=secrets.token_bytes(16),
        instance_uid="a" * 26,
        collected_at=issuer.clock.now(),
        selectors=frozenset([Selector.parse("unix:uid:1")]),
        process=ProcessFacts(pid=1, start_ticks=2, uid=1, gid=1),
    )


async def test_wit_svids_are_given_for_entries_and_others_are_left_out(issuer, node):
    await issuer.grant("e1")
    public = new_key().public_key()
    tokens = await node.new_wit_svids(["e1", "none"], public_key_to_der(public), evidence(issuer))
    assert list(tokens) == ["e1"]
    svid = WitSvid.parse_unverified(tokens["e1"])
    assert (str(svid.spiffe_id), svid.public_key) == ("spiffe://example.org/e1", public)
    assert svid.expires_at == issuer.clock.now() + HOUR
    assert svid.claims["agent_instance_id"] == "a" * 26


async def test_entries_are_listed(issuer, node):
    assert await node.sync_entries({}) == ()
    await issuer.grant("e1")
    await issuer.grant("e2")
    assert sorted(e.id for e in await node.sync_entries({})) == ["e1", "e2"]


async def test_the_push_stream_opens_with_a_snapshot_goes_on_with_changes_and_is_resumed(issuer, node):
    await issuer.grant("e1")
    async with contextlib.aclosing(node.watch(QUIET)) as stream, asyncio.timeout(5):
        first = await anext(stream)
        assert (first.snapshot, first.more, first.heartbeat) == (True, False, False)
        assert ([e.id for e in first.entries], first.bundles) == (["e1"], (issuer.bundle,))
        await issuer.grant("e2")
        second = await anext(stream)
        assert (second.snapshot, [e.id for e in second.entries]) == (False, ["e2"])
        assert (second.revision > first.revision, second.epoch) == (True, first.epoch)
    resumed = node.watch(QUIET, revision=second.revision, epoch=second.epoch)
    async with contextlib.aclosing(resumed) as stream, asyncio.timeout(5):
        nothing = await anext(stream)
        assert (nothing.heartbeat, nothing.revision, nothing.epoch) == (True, second.revision, second.epoch)
        await issuer.grant("e3")
        third = await anext(stream)
        assert (third.snapshot, [e.id for e in third.entries]) == (False, ["e3"])
    async with contextlib.aclosing(node.watch(QUIET, revision=second.revision, epoch="another")) as stream:
        assert (await anext(stream)).snapshot


async def test_dropped_connections_end_the_push_stream_without_an_error(node):
    async with contextlib.aclosing(node.watch(QUIET)) as stream, asyncio.timeout(5):
        await anext(stream)
        node.drop_connections()
        assert [update async for update in stream] == []


BOOT = bytes(range(16))


def told(issuer, *numbers, **what):
    """Events for the audit trail."""
    at = microseconds(issuer.clock.now())
    return [ReportedEvent(number=n, at=at, **(what or {"started": {"version": "1"}})) for n in numbers]


async def test_what_is_reported_is_recorded_once(issuer, node):
    await node.report(BOOT, told(issuer, 1, 2))
    await node.report(BOOT, told(issuer, 1, 2))
    await node.report(BOOT, told(issuer, 2, 3))
    assert await issuer.reported(BOOT) == ([1, 2, 3], None)
    await node.report(BOOT, (), ended=3)
    assert await issuer.reported(BOOT) == ([1, 2, 3], 3)


async def test_a_report_that_breaks_a_rule_is_rejected_whole(issuer, node):
    bad = told(issuer, 2, fetched={"entry_id": ""})
    await node.report(BOOT, told(issuer, 1))
    with pytest.raises(ReportRejectedError, match="fetched"):
        await node.report(BOOT, [*bad, *told(issuer, 3)])
    assert await issuer.reported(BOOT) == ([1], None)
    await node.report(BOOT, told(issuer, 3))
    assert await issuer.reported(BOOT) == ([1, 3], None)


async def test_only_nodes_report(issuer, nobody):
    with pytest.raises(NodeAttestationError):
        await nobody.report(BOOT, told(issuer, 1))

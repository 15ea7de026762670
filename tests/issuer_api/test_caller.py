# SPDX-License-Identifier: Apache-2.0
"""Who is let in by TLS, and what becomes of a caller when its standing changes under an open connection."""

import asyncio
import logging
from dataclasses import replace
from datetime import timedelta

import grpc
import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509.oid import ExtendedKeyUsageOID

from issuer.api.caller import Caller, Kind
from issuer.errors import NotAuthorizedError
from issuer.model import AgentState, AuthorityKind, Revocation, RevocationKind, RevocationReason
from issuer.store.bundles import DeleteMode
from spiffekit.testing import TestCA
from spiffekit.wire.pb.spire.api.server.agent.v1 import agent_pb2, agent_pb2_grpc
from spiffekit.wire.pb.spire.api.server.bundle.v1 import bundle_pb2, bundle_pb2_grpc
from spiffekit.wire.pb.spire.api.server.entry.v1 import entry_pb2, entry_pb2_grpc
from tests.issuer.strategies import an_agent
from tests.issuer_api.calls import WITHIN, denial_reason, refused
from tests.issuer_api.world import TRUST_DOMAIN, csr, id_message

Code = grpc.StatusCode
HOUR = timedelta(hours=1)


async def get_bundle(channel):
    return await bundle_pb2_grpc.BundleStub(channel).GetBundle(bundle_pb2.GetBundleRequest(), timeout=WITHIN)


async def get_entries(channel):
    stub = entry_pb2_grpc.EntryStub(channel)
    return await stub.GetAuthorizedEntries(entry_pb2.GetAuthorizedEntriesRequest(), timeout=WITHIN)


async def count_entries(channel):
    stub = entry_pb2_grpc.EntryStub(channel)
    return await stub.CountEntries(entry_pb2.CountEntriesRequest(), timeout=WITHIN)


@pytest.fixture
async def ca(world):
    """An authority whose key we hold, published in the issuer's own bundle."""
    made = TestCA("example.org", now=world.clock.now())
    request = bundle_pb2.AppendBundleRequest()
    request.x509_authorities.add(asn1=made.bundle.x509_authorities[0].certificate_der)
    await bundle_pb2_grpc.BundleStub(await world.local()).AppendBundle(request)
    return made


CLIENT = {
    "ca-true": {"ca": True},
    "no-basic-constraints": {"ca": None},
    "signs-certificates": {"usage": {"digital_signature": True, "key_cert_sign": True}},
    "no-digital-signature": {"usage": {"key_encipherment": True}},
    "no-key-usage": {"usage": {}},
    "no-extended-key-usage": {"purposes": ()},
    "server-only": {"purposes": (ExtendedKeyUsageOID.SERVER_AUTH,)},
    "other-purpose": {"purposes": (ExtendedKeyUsageOID.CODE_SIGNING,)},
    "expired": {"not_before": -2 * HOUR, "lifetime": HOUR},
    "not-yet-valid": {"not_before": HOUR, "lifetime": HOUR},
    "no-uri": {"uris": ()},
    "two-uris": {"uris": ("spiffe://example.org/a", "spiffe://example.org/b")},
    "no-path": {"uris": ("spiffe://example.org",)},
    "other-scheme": {"uris": ("https://example.org/a",)},
    "dot-segment": {"uris": ("spiffe://example.org/a/../b",)},
    "unknown-trust-domain": {"uris": ("spiffe://unknown.org/a",)},
}


@pytest.mark.parametrize("changes", [pytest.param(value, id=key) for key, value in CLIENT.items()])
async def test_a_bad_client_certificate_is_refused(world, ca, caplog, changes):
    """SPIRE's issue 655: whoever shows a certificate shows a good one, even where none is needed."""
    if "not_before" in changes:
        changes = {**changes, "not_before": world.clock.now() + changes["not_before"]}
    caplog.set_level(logging.DEBUG, "spiffekit.daemon.listener")
    channel = await world.dial(ca.issue("spiffe://example.org/web", **changes))
    with refused(Code.UNAVAILABLE):
        await get_bundle(channel)
    assert "connection refused" in caplog.messages


async def test_a_good_client_certificate_of_the_same_authority_is_let_in(world, ca):
    """The other half of the test above."""
    await get_bundle(await world.dial(ca.issue("spiffe://example.org/web")))


@pytest.mark.parametrize("trust_domain", ["example.org", "unknown.org"])
async def test_a_client_certificate_of_an_unknown_root_is_refused(world, trust_domain):
    stranger = TestCA(trust_domain, now=world.clock.now())
    with refused(Code.UNAVAILABLE):
        await get_bundle(await world.dial(stranger.issue(f"spiffe://{trust_domain}/web")))


async def test_a_root_vouches_for_its_own_trust_domain_only(world, ca, caplog):
    partner = TestCA("partner.org", now=world.clock.now())
    await world.database.write(lambda tx: tx.bundles.put(partner.bundle))
    caplog.set_level(logging.DEBUG, "spiffekit.daemon.listener")
    with refused(Code.UNAVAILABLE):
        await get_bundle(await world.dial(partner.issue("spiffe://example.org/web")))
    (record,) = [r for r in caplog.records if r.message == "connection refused"]
    assert record.reason.startswith(
        "client certificate refused: no authority of example.org vouches for the chain"
    )
    await get_bundle(await world.dial(partner.issue("spiffe://partner.org/web")))


async def test_the_issuers_clock_judges_a_client_certificate(world, clock):
    svid = await world.sign("/web")
    clock.step(2 * HOUR)
    with refused(Code.UNAVAILABLE):
        await get_bundle(await world.dial(svid))


async def test_a_client_certificate_that_expires_ends_the_standing_of_an_open_connection(world, clock):
    await world.entry("/admin", admin=True)
    channel = await world.dial(await world.sign("/admin"))
    await count_entries(channel)
    clock.step(HOUR)
    await count_entries(channel)  # the last second counts
    clock.step(timedelta(seconds=1))
    with refused(Code.PERMISSION_DENIED, "client certificate has expired"):
        await get_bundle(channel)


async def test_an_open_connection_falls_with_the_bundle_that_vouched_for_it(world):
    partner = TestCA("partner.org", now=world.clock.now())
    await world.database.write(lambda tx: tx.bundles.put(partner.bundle))
    channel = await world.dial(partner.issue("spiffe://partner.org/web"))
    await get_bundle(channel)
    await world.database.write(lambda tx: tx.bundles.delete(partner.trust_domain, DeleteMode.RESTRICT))
    with refused(Code.PERMISSION_DENIED, "authority of the client certificate is withdrawn"):
        await get_bundle(channel)


async def test_an_open_connection_falls_with_the_authority_that_vouched_for_it(world):
    """An authority is revoked in an emergency: what it signed has no standing from then on."""
    old = await world.dial(await world.node("old"))
    await world.entry("/admin", admin=True)
    admin = await world.dial(await world.sign("/admin"))
    await count_entries(admin)
    first = world.authorities.slots(AuthorityKind.X509).active
    prepared = await world.authorities.prepare(AuthorityKind.X509)
    await world.authorities.activate(AuthorityKind.X509, prepared.id)
    await world.identity.refresh()
    new = await world.dial(await world.node("new"))
    await world.authorities.taint(AuthorityKind.X509, first.id)
    await get_entries(old)
    await world.authorities.revoke(AuthorityKind.X509, first.id)
    with refused(Code.PERMISSION_DENIED, "authority of the node SVID is withdrawn") as caught:
        await get_entries(old)
    assert denial_reason(caught.value) == "AGENT_NOT_ACTIVE"
    with refused(Code.PERMISSION_DENIED, "authority of the client certificate is withdrawn"):
        await count_entries(admin)
    await get_entries(new)


async def revoke(world, svid, **changes):
    fields = {"kind": RevocationKind.CERTIFICATE, "key": str(svid.serial_number), **changes}
    revocation = Revocation(
        spiffe_id=svid.spiffe_id,
        at=world.clock.now(),
        until=svid.expires_at,
        reason=RevocationReason.KEY_COMPROMISE,
        **fields,
    )
    return await world.database.write(lambda tx: tx.revocations.put(revocation))


async def test_a_certificate_that_is_revoked_has_no_standing_from_the_next_call_on(world):
    await world.entry("/admin", admin=True)
    svid = await world.sign("/admin")
    channel = await world.dial(svid)
    other = await world.dial(await world.sign("/admin"))
    await count_entries(channel)
    await revoke(world, svid, kind=RevocationKind.TOKEN)
    await count_entries(channel)
    revocation = await revoke(world, svid)
    for dialled in (channel, await world.dial(svid)):
        with refused(Code.PERMISSION_DENIED, "client certificate is revoked"):
            await count_entries(dialled)
        with refused(Code.PERMISSION_DENIED, "client certificate is revoked"):
            await get_bundle(dialled)
    await count_entries(other)
    await world.database.write(lambda tx: tx.revocations.forget([revocation]))
    await count_entries(channel)


async def test_a_node_whose_svid_is_revoked_is_refused(world):
    svid = await world.node("n1")
    channel = await world.dial(svid)
    await get_entries(channel)
    await revoke(world, svid)
    with refused(Code.PERMISSION_DENIED, "node SVID is revoked") as caught:
        await get_entries(channel)
    assert denial_reason(caught.value) == "AGENT_NOT_ACTIVE"


async def test_a_serial_number_of_ours_says_nothing_of_another_trust_domains_certificates(world):
    partner = TestCA("partner.org", now=world.clock.now())
    await world.database.write(lambda tx: tx.bundles.put(partner.bundle))
    svid = partner.issue("spiffe://partner.org/web")
    await revoke(world, svid)
    await get_bundle(await world.dial(svid))


def without_authority_key_id(ca, svid):
    """The same certificate as another authority would make it."""
    given = svid.leaf
    builder = x509.CertificateBuilder(
        issuer_name=given.issuer,
        subject_name=given.subject,
        public_key=given.public_key(),
        serial_number=given.serial_number,
        not_valid_before=given.not_valid_before_utc,
        not_valid_after=given.not_valid_after_utc,
        extensions=[e for e in given.extensions if not isinstance(e.value, x509.AuthorityKeyIdentifier)],
    )
    return replace(svid, chain_der=(builder.sign(ca.key, hashes.SHA256()).public_bytes(Encoding.DER),))


async def test_a_certificate_that_does_not_name_its_authority_counts_until_its_end(world, clock):
    partner = TestCA("partner.org", now=world.clock.now())
    await world.database.write(lambda tx: tx.bundles.put(partner.bundle))
    svid = without_authority_key_id(partner, partner.issue("spiffe://partner.org/web"))
    channel = await world.dial(svid)
    await get_bundle(channel)
    clock.step(HOUR)
    with refused(Code.PERMISSION_DENIED, "client certificate has expired"):
        await get_bundle(channel)


# Nodes: every call looks at the registry again.


async def never_attested(world, svid):
    await world.database.write(lambda tx: tx.nodes.delete(svid.spiffe_id))


async def banned(world, svid):
    stub = agent_pb2_grpc.AgentStub(await world.local())
    await stub.BanAgent(agent_pb2.BanAgentRequest(id=id_message(svid.spiffe_id.path)))


async def evicted(world, svid):
    stub = agent_pb2_grpc.AgentStub(await world.local())
    await stub.DeleteAgent(agent_pb2.DeleteAgentRequest(id=id_message(svid.spiffe_id.path)))


async def attested_anew(world, svid):
    await world.node("n1")


async def expired(world, svid):
    world.clock.step(HOUR + timedelta(seconds=1))


LOSSES = [
    (never_attested, "NOT_ATTESTED", "node is not attested"),
    (evicted, "NOT_ATTESTED", "node is not attested"),
    (banned, "BANNED", "node is banned"),
    (attested_anew, "NOT_ACTIVE", "node SVID is no longer active"),
    (expired, "EXPIRED", "node SVID has expired"),
]


@pytest.mark.parametrize(
    ("lose", "reason", "message"), [pytest.param(*row, id=row[0].__name__) for row in LOSSES]
)
async def test_a_node_that_lost_its_standing_is_refused_on_the_next_call(world, lose, reason, message):
    svid = await world.node("n1")
    channel = await world.dial(svid)
    await get_entries(channel)
    await lose(world, svid)
    for call in (get_entries, get_bundle):
        with refused(Code.PERMISSION_DENIED, message) as caught:
            await call(channel)
        assert denial_reason(caught.value) == f"AGENT_{reason}"


async def test_a_node_without_standing_is_refused_on_a_new_connection_too(world):
    svid = await world.node("n1")
    await banned(world, svid)
    with refused(Code.PERMISSION_DENIED, "node is banned"):
        await get_entries(await world.dial(svid))


async def test_a_ban_leaves_other_nodes_alone(world):
    other = await world.dial(await world.node("n2"))
    await banned(world, await world.node("n1"))
    await get_entries(other)


async def test_the_first_use_of_a_renewed_svid_retires_the_old_one(world):
    old = await world.node("n1")
    channel = await world.dial(old)
    stub = agent_pb2_grpc.AgentStub(channel)
    request = agent_pb2.RenewAgentRequest(params=agent_pb2.AgentX509SVIDParams(csr=csr()))
    await stub.RenewAgent(request)
    await get_entries(channel)  # renewed, and not used yet: the old one counts
    node = world.registrations.node(old.spiffe_id)
    assert (node.serial, node.new_expires_at) == (str(old.serial_number), world.clock.now() + HOUR)

    renewed = await world.dial(await world.renewed(old))
    await get_entries(renewed)
    with refused(Code.PERMISSION_DENIED, "node SVID is no longer active") as caught:
        await get_entries(channel)
    assert denial_reason(caught.value) == "AGENT_NOT_ACTIVE"
    await get_entries(renewed)
    node = world.registrations.node(old.spiffe_id)
    assert (node.new_serial, node.new_expires_at) == ("", None)


async def ban_unheard(world, svid):
    node = world.node_of(svid, serial="")
    await world.database.write(lambda tx: tx.nodes.put(node))


@pytest.mark.parametrize(
    ("change", "text"),
    [(ban_unheard, "node is banned"), (never_attested, "node is not attested")],
)
async def test_the_first_use_of_a_renewed_svid_undoes_nothing(world, change, text):
    """A ban in the same moment: the registry in memory has not heard of it yet, the transaction sees it."""
    old = await world.node("n1")
    renewed = await world.renewed(old)
    channel = await world.dial(renewed)
    world.database.on_commit.clear()
    await change(world, old)
    before = await world.database.read(lambda tx: tx.nodes.get(old.spiffe_id))
    with refused(Code.PERMISSION_DENIED, text):
        await get_entries(channel)
    assert await world.database.read(lambda tx: tx.nodes.get(old.spiffe_id)) == before


async def test_a_renewed_svid_that_is_used_twice_at_once_is_promoted_once(world):
    old = await world.node("n1")
    renewed = await world.renewed(old)
    channels = [await world.dial(renewed) for _ in range(5)]
    revision = world.log.revision
    await asyncio.gather(*map(get_entries, channels))
    assert world.log.revision == revision + 1


def test_only_a_node_has_a_node_id():
    caller = Caller(frozenset({Kind.ADMIN}), "spiffe://example.org/admin", "192.0.2.1")
    with pytest.raises(NotAuthorizedError, match="only a node may call this"):
        _ = caller.node_id


async def test_a_node_path_in_a_federated_trust_domain_makes_no_node(world):
    """Anonymous it is: not even the words of a refusal treat it as a node of ours."""
    partner = TestCA("partner.org", now=world.clock.now())
    await world.database.write(lambda tx: tx.bundles.put(partner.bundle))
    channel = await world.dial(partner.issue("spiffe://partner.org/spire/agent/test/n1"))
    await get_bundle(channel)
    with refused(
        Code.PERMISSION_DENIED,
        "authorization denied for method /spire.api.server.entry.v1.Entry/GetAuthorizedEntries",
    ):
        await get_entries(channel)


async def test_a_workload_at_a_nodes_path_has_no_standing(world):
    """An SVID minted at a node's path is not the node: its serial number is not in the registry."""
    await world.node("n1")
    with refused(Code.PERMISSION_DENIED, "node SVID is no longer active"):
        await get_entries(await world.dial(await world.sign("/spire/agent/test/n1")))


async def test_a_connection_outlives_the_rotation_of_the_authority(world):
    channel = await world.dial(await world.node("n1"))
    await get_entries(channel)
    prepared = await world.authorities.prepare(AuthorityKind.X509)
    await world.authorities.activate(AuthorityKind.X509, prepared.id)
    await world.identity.refresh()
    await get_entries(channel)
    await get_entries(await world.dial(await world.node("n2")))
    assert len(world.registrations.bundle(TRUST_DOMAIN).x509_authorities) == 2


@pytest.fixture
async def admin(world):
    await world.entry("/admin", admin=True)
    return await world.sign("/admin")


async def test_an_administrator_that_is_a_suspended_agent_has_no_standing(world, admin):
    channel = await world.dial(admin)
    await count_entries(channel)
    agent = an_agent("/admin", state=AgentState.SUSPENDED)
    await world.database.write(lambda tx: tx.agents.create(agent))
    with refused(Code.PERMISSION_DENIED):
        await count_entries(channel)

# SPDX-License-Identifier: Apache-2.0
"""Downstream issuers publish their keys in our bundle, and can do nothing else to it."""

import asyncio
from dataclasses import replace
from datetime import timedelta

import grpc
import pytest
from cryptography.hazmat.primitives.asymmetric import ed25519

from issuer.ca.published import MAX_LIFETIME
from issuer.model import AgentState, AuthorityKind
from spiffekit.bundle import BundleSet
from spiffekit.jwk import MAX_KEY_ID
from spiffekit.jwtsvid import verify
from spiffekit.keys import KeyType, generate_private_key, public_key_to_der
from spiffekit.testing import TestCA
from spiffekit.wire.convert import bundle_from_proto, seconds
from spiffekit.wire.pb.issuer.v1 import revocation_pb2, revocation_pb2_grpc
from spiffekit.wire.pb.spire.api import types_pb2
from spiffekit.wire.pb.spire.api.server.agent.v1 import agent_pb2, agent_pb2_grpc
from spiffekit.wire.pb.spire.api.server.bundle.v1 import bundle_pb2, bundle_pb2_grpc
from tests.issuer.strategies import an_agent
from tests.issuer_api.calls import refused
from tests.issuer_api.test_caller import revoke
from tests.issuer_api.watching import opened
from tests.issuer_api.world import TRUST_DOMAIN, World, id_message

Code = grpc.StatusCode
KEY = public_key_to_der(generate_private_key(KeyType.EC_P256).public_key())
HOUR, SECOND = timedelta(hours=1), timedelta(seconds=1)
DENIED = "authorization denied for method /spire.api.server.bundle.v1.Bundle/PublishJWTAuthority"


@pytest.fixture
async def world(place, clock):
    async with World.open(place, clock, wit=True) as made:
        yield made


@pytest.fixture
async def below(world):
    """What a downstream issuer calls over."""
    await world.entry("/nested", downstream=True)
    return await world.dial(await world.sign("/nested"))


def key(world, key_id="theirs", der=KEY, **fields):
    expires_at = seconds(world.clock.now() + HOUR)
    return {"key_id": key_id, "public_key": der, "expires_at": expires_at, **fields}


async def publish(channel, fields, use="JWT"):
    """Publish a key; return all that the answer holds."""
    message = getattr(types_pb2, f"{use}Key")(**fields)
    request = getattr(bundle_pb2, f"Publish{use}AuthorityRequest")(**{f"{use.lower()}_authority": message})
    answer = await getattr(bundle_pb2_grpc.BundleStub(channel), f"Publish{use}Authority")(request)
    return list(getattr(answer, f"{use.lower()}_authorities"))


def bundle(world):
    return world.registrations.bundle(TRUST_DOMAIN)


def keys(world, use):
    return getattr(bundle(world), f"{use.lower()}_authorities")


def fresh():
    return public_key_to_der(generate_private_key(KeyType.EC_P256).public_key())


@pytest.mark.parametrize("use", ["JWT", "WIT"])
async def test_a_key_is_published_beside_ours(world, below, use):
    before = bundle(world)
    answer = await publish(below, key(world), use)
    (ours,) = getattr(before, f"{use.lower()}_authorities")
    assert [a.key_id for a in answer] == [ours.key_id, "theirs"]
    assert answer[1] == getattr(types_pb2, f"{use}Key")(**key(world))
    after = bundle(world)
    assert [a.key_id for a in keys(world, use)] == [ours.key_id, "theirs"]
    assert after.sequence == before.sequence + 1
    assert await world.database.read(lambda tx: tx.bundles.get(TRUST_DOMAIN)) == after


async def test_what_a_downstream_issuer_signs_is_good_in_the_whole_trust_domain(world, below):
    nested = TestCA("example.org", now=world.clock.now())
    theirs = nested.bundle.jwt_authorities[0]
    await publish(below, key(world, theirs.key_id, theirs.public_key_der))
    token = nested.jwt("spiffe://example.org/web", ["db"])
    verified = verify(token, BundleSet(world.registrations.bundles()), audience=["db"], now=world.clock.now())
    assert str(verified.spiffe_id) == "spiffe://example.org/web"


@pytest.mark.parametrize("use", ["JWT", "WIT"])
async def test_a_key_that_is_published_again_stays_as_it_is(world, below, use):
    first = await publish(below, key(world), use)
    after = bundle(world)
    later = key(world, expires_at=seconds(world.clock.now() + 2 * HOUR))
    assert await publish(below, later, use) == first
    assert bundle(world) == after, "neither its end nor the sequence number has changed"


async def test_attestors_hear_of_it(world, below):
    node = await world.dial(await world.node())
    async with opened(node) as watch:
        await publish(below, key(world))
        told = bundle_from_proto((await watch.next()).bundles[0])
    assert told == bundle(world)
    assert told.jwt_authority("theirs") is not None


async def test_it_is_recorded(world, below):
    await publish(below, key(world))
    (record,) = await world.trail()
    assert (record.type, record.actor) == ("bundle.published", "spiffe://example.org/nested")
    assert record.subject == "example.org"
    told = {name: record.detail[name] for name in ("kind", "key_id", "expires_at")}
    assert told == {"kind": "jwt", "key_id": "theirs", "expires_at": key(world)["expires_at"]}
    assert len(record.detail["sha256"]) == 64


# What it cannot do to others' keys.


def our_key_id_with_another_key(world):
    return key(world, keys(world, "JWT")[0].key_id), "key_id: {!r} is that of another key"


def our_key_with_another_id(world):
    return key(world, der=keys(world, "JWT")[0].public_key_der), "public_key: is known by the ID {!r}"


@pytest.mark.parametrize("use", ["JWT", "WIT"])
@pytest.mark.parametrize("given", [our_key_id_with_another_key, our_key_with_another_id])
async def test_nobody_stands_in_for_our_key_or_keeps_it_under_another_name(world, below, given, use):
    """Who kept the key of an authority under another ID would have it trusted after it is withdrawn."""
    before = bundle(world)
    fields, text = given(world)
    with refused(Code.ALREADY_EXISTS, text.format(keys(world, "JWT")[0].key_id)):
        await publish(below, fields, use)
    assert bundle(world) == before


async def test_the_key_of_an_authority_cannot_be_published_for_another_use(world, below):
    ours = keys(world, "JWT")[0]
    with refused(Code.ALREADY_EXISTS, f"key_id: {ours.key_id!r} is that of another key"):
        await publish(below, key(world, ours.key_id, ours.public_key_der), "WIT")
    assert await publish(below, key(world, ours.key_id, ours.public_key_der)), "it is there, and stays ours"
    assert keys(world, "JWT") == (ours,)


async def test_one_downstream_issuer_cannot_take_the_key_id_of_another(world, below):
    await publish(below, key(world))
    await world.entry("/other", downstream=True)
    other = await world.dial(await world.sign("/other"))
    with refused(Code.ALREADY_EXISTS, "key_id: 'theirs' is that of another key"):
        await publish(other, key(world, der=fresh()))


async def test_of_two_that_publish_one_id_at_once_one_wins(world, below):
    ends = await asyncio.gather(
        *(publish(below, key(world, der=fresh())) for _ in range(5)), return_exceptions=True
    )
    codes = [end.code() for end in ends if isinstance(end, grpc.aio.AioRpcError)]
    assert codes == [Code.ALREADY_EXISTS] * 4
    assert [k.key_id for k in keys(world, "JWT")].count("theirs") == 1


async def test_a_tainted_key_stays_tainted_when_it_is_published_again(world, below):
    await publish(below, key(world))

    def taint(tx):
        known = tx.bundles.get(TRUST_DOMAIN)
        marked = tuple(replace(k, tainted=k.key_id == "theirs") for k in known.jwt_authorities)
        return tx.bundles.put(replace(known, jwt_authorities=marked))

    await world.database.write(taint)
    assert [k.tainted for k in await publish(below, key(world))] == [False, True]


async def test_our_own_authorities_stay_what_they_are(world, below):
    slots = {kind: world.authorities.slots(kind) for kind in AuthorityKind}
    await publish(below, key(world))
    await publish(below, key(world, "wit", fresh()), "WIT")
    await world.authorities.load()
    assert {kind: world.authorities.slots(kind) for kind in AuthorityKind} == slots
    signed = await world.authorities.jwt.sign(
        (await world.sign("/web")).spiffe_id, ("db",), ttl=HOUR, now=world.clock.now()
    )
    assert signed.authority_id == slots[AuthorityKind.JWT].active.id


@pytest.mark.parametrize("use", ["JWT", "WIT"])
async def test_our_rotation_leaves_published_keys_alone(world, below, use):
    await publish(below, key(world), use)
    kept = keys(world, use)[-1]
    for kind in AuthorityKind:
        first = world.authorities.slots(kind).active
        prepared = await world.authorities.prepare(kind)
        await world.authorities.activate(kind, prepared.id)
        await world.authorities.taint(kind, first.id)
        await world.authorities.revoke(kind, first.id)
        assert kept in keys(world, use)
    await world.authorities.load()
    assert kept in keys(world, use)


async def test_a_rotation_at_the_same_time_loses_no_key(world, below):
    wanted = [publish(below, key(world, f"k{i}", fresh())) for i in range(8)]
    await asyncio.gather(*wanted, *(world.authorities.prepare(kind) for kind in AuthorityKind))
    found = {k.key_id for k in keys(world, "JWT")}
    assert found >= {f"k{i}" for i in range(8)} | {
        r.id for r in world.authorities.slots(AuthorityKind.JWT).records
    }


@pytest.mark.parametrize("use", ["JWT", "WIT"])
async def test_what_was_published_goes_a_day_after_its_end(world, below, clock, use):
    await publish(below, key(world), use)
    clock.step(25 * HOUR - SECOND)
    await world.authorities.prune()
    assert "theirs" in {k.key_id for k in keys(world, use)}
    clock.step(SECOND)
    sequence = bundle(world).sequence
    await world.authorities.prune()
    assert "theirs" not in {k.key_id for k in keys(world, use)}
    assert bundle(world).sequence == sequence + 1


# What is no key that could be published.


def without(name):
    return lambda fields: {k: v for k, v in fields.items() if k != name}


def with_(**changes):
    return lambda fields: {**fields, **changes}


SPKI = "not a SubjectPublicKeyInfo in DER"
ED25519 = public_key_to_der(ed25519.Ed25519PrivateKey.generate().public_key())


@pytest.mark.parametrize(
    ("change", "text"),
    [
        (without("key_id"), "{}_authority: key_id is missing"),
        (without("public_key"), f"{{}}_authority: {SPKI}"),
        (with_(public_key=b"junk"), f"{{}}_authority: {SPKI}"),
        (with_(public_key=KEY + b"\0"), f"{{}}_authority: {SPKI}"),
        (with_(public_key=ED25519), "public_key: is of a kind that no SVID is signed with"),
        (with_(key_id="k" * (MAX_KEY_ID + 1)), "key_id: longer than 1024 characters, no token can name it"),
        (without("expires_at"), "expires_at: is not in the future"),
        (with_(expires_at=1), "expires_at: is not in the future"),
        (with_(expires_at=-1), "{}_authority: not a point in time that can be kept"),
        (with_(expires_at=2**62), "{}_authority: not a point in time that can be kept"),
        (with_(expires_at=253402300799), "expires_at: is more than 366 days away"),
        (with_(tainted=True), "tainted: a key that nobody is to trust is not published"),
    ],
)
@pytest.mark.parametrize("use", ["JWT", "WIT"])
async def test_what_is_no_key_to_publish_is_refused(world, below, change, text, use):
    before = bundle(world)
    with refused(Code.INVALID_ARGUMENT, text.format(use.lower())):
        await publish(below, change(key(world)), use)
    assert bundle(world) == before


@pytest.mark.parametrize("use", ["JWT", "WIT"])
async def test_a_request_without_a_key_is_refused(below, use):
    request = getattr(bundle_pb2, f"Publish{use}AuthorityRequest")()
    with refused(Code.INVALID_ARGUMENT, f"{use.lower()}_authority: is missing"):
        await getattr(bundle_pb2_grpc.BundleStub(below), f"Publish{use}Authority")(request)


async def test_the_limits_themselves_are_good(world, below):
    now = world.clock.now()
    await publish(below, key(world, "k" * MAX_KEY_ID, expires_at=seconds(now + MAX_LIFETIME)))
    await publish(below, key(world, "soon", fresh(), expires_at=seconds(now + SECOND)))
    with refused(Code.INVALID_ARGUMENT, "expires_at: is not in the future"):
        await publish(below, key(world, "now", fresh(), expires_at=seconds(now)))
    beyond = seconds(now + MAX_LIFETIME + SECOND)
    with refused(Code.INVALID_ARGUMENT, "expires_at: is more than 366 days away"):
        await publish(below, key(world, "beyond", fresh(), expires_at=beyond))


async def test_how_often_is_limited_for_each_source(place, clock):
    async with World.open(place, clock, publish_limit=(1, 2)) as world:
        await world.entry("/nested", downstream=True)
        svid = await world.sign("/nested")
        for source in ("127.0.0.1", "127.0.0.2"):
            channel = await world.dial(svid, source)
            for _ in range(2):
                await publish(channel, key(world))
            with refused(Code.RESOURCE_EXHAUSTED):
                await publish(channel, key(world))


async def test_without_the_flag_there_is_nothing_of_wit(place, clock):
    async with World.open(place, clock) as world:
        await world.entry("/nested", downstream=True)
        channel = await world.dial(await world.sign("/nested"))
        with refused(Code.UNIMPLEMENTED):
            await publish(channel, key(world), "WIT")
        await publish(channel, key(world))


# What an operator takes out again.


async def withdraw(world, authority_id, reason="their host was broken into"):
    stub = revocation_pb2_grpc.RevocationStub(await world.local())
    request = revocation_pb2.WithdrawAuthorityRequest(authority_id=authority_id, reason=reason)
    return (await stub.WithdrawAuthority(request)).sequence_number


@pytest.mark.parametrize("use", ["JWT", "WIT"])
async def test_an_operator_withdraws_a_key_and_it_is_gone_everywhere(world, below, use):
    before = bundle(world)
    await publish(below, key(world), use)
    async with opened(await world.dial(await world.node())) as watch:
        sequence = await withdraw(world, "theirs")
        told = bundle_from_proto((await watch.next()).bundles[0])
    assert told == bundle(world) == replace(before, sequence=sequence)
    record = (await world.trail())[-1]
    assert (record.type, record.reason) == ("bundle.withdrawn", "their host was broken into")
    assert record.detail["key_id"] == "theirs"
    await world.authorities.prepare(AuthorityKind.JWT)
    assert "theirs" not in {k.key_id for k in keys(world, use)}, "no rotation brings it back"


async def test_what_others_signed_with_a_root_that_is_withdrawn_has_no_standing(world):
    ca = TestCA("example.org", now=world.clock.now())
    root = ca.bundle.x509_authorities[0]
    request = bundle_pb2.AppendBundleRequest()
    request.x509_authorities.add(asn1=root.certificate_der)
    await bundle_pb2_grpc.BundleStub(await world.local()).AppendBundle(request)
    channel = await world.dial(ca.issue("spiffe://example.org/web"))
    everybodys = bundle_pb2_grpc.BundleStub(channel)
    await everybodys.GetBundle(bundle_pb2.GetBundleRequest())
    await withdraw(world, root.subject_key_id)
    with refused(Code.PERMISSION_DENIED, "authority of the client certificate is withdrawn"):
        await everybodys.GetBundle(bundle_pb2.GetBundleRequest())


@pytest.mark.parametrize("kind", AuthorityKind)
async def test_what_signs_here_cannot_be_withdrawn(world, kind):
    before = bundle(world)
    ours = world.authorities.slots(kind).active.id
    text = f"authority {ours!r} is one of ours, which rotation replaces"
    with refused(Code.FAILED_PRECONDITION, text):
        await withdraw(world, ours)
    assert bundle(world) == before


@pytest.mark.parametrize(
    ("authority_id", "reason", "code", "text"),
    [
        ("nobody's", "x", Code.NOT_FOUND, 'no authority "nobody\'s" is in the bundle'),
        ("", "x", Code.INVALID_ARGUMENT, "authority_id: is missing"),
        ("theirs", "", Code.INVALID_ARGUMENT, "reason: is missing"),
    ],
)
async def test_a_withdrawal_that_cannot_be_is_refused(world, below, authority_id, reason, code, text):
    await publish(below, key(world))
    before = bundle(world)
    with refused(code, text):
        await withdraw(world, authority_id, reason)
    assert bundle(world) == before


# Who may, judged on each call.


async def deleted(world):
    await world.database.write(lambda tx: tx.entries.delete("nested"))


async def no_longer_downstream(world):
    entry = replace(world.registrations.entry("nested"), downstream=False)
    await world.database.write(lambda tx: tx.entries.update(entry))


async def another_identity(world):
    entry = replace(world.registrations.entry("nested"), spiffe_id=world.made("/another").spiffe_id)
    await world.database.write(lambda tx: tx.entries.update(entry))


async def ended(world):
    entry = replace(world.registrations.entry("nested"), expires_at=world.clock.now())
    await world.database.write(lambda tx: tx.entries.update(entry))


def agent_that_is(state):
    async def lose(world):
        await world.database.write(lambda tx: tx.agents.create(an_agent("/nested", state=state)))

    lose.__name__ = state
    return lose


LOSSES = [deleted, no_longer_downstream, another_identity, ended] + [
    agent_that_is(state) for state in AgentState if state is not AgentState.ACTIVE
]


@pytest.mark.parametrize("lose", LOSSES, ids=lambda lose: lose.__name__)
async def test_who_is_no_downstream_issuer_any_more_is_refused_on_the_next_call(world, below, lose):
    await publish(below, key(world))
    before = bundle(world)
    await lose(world)
    for channel in (below, await world.dial(await world.sign("/nested"))):
        with refused(Code.PERMISSION_DENIED, DENIED):
            await publish(channel, key(world, "more", fresh()))
    assert bundle(world) == before


async def test_not_even_an_active_agent_is_a_downstream_issuer(world, below):
    """Its key would sign for everybody, and stay when the agent is taken back."""
    await agent_that_is(AgentState.ACTIVE)(world)
    with refused(Code.PERMISSION_DENIED, DENIED):
        await publish(below, key(world))


async def test_one_entry_of_several_is_enough(world, below):
    await world.entry("/nested", id="second", selectors=["unix:uid:2"], downstream=True)
    await deleted(world)
    await publish(below, key(world))


async def test_an_svid_that_has_expired_publishes_nothing(world, below, clock):
    await publish(below, key(world))
    clock.step(HOUR + SECOND)
    with refused(Code.PERMISSION_DENIED, "client certificate has expired"):
        await publish(below, key(world))


async def test_an_svid_that_is_revoked_publishes_nothing(world):
    await world.entry("/nested", downstream=True)
    svid = await world.sign("/nested")
    channel = await world.dial(svid)
    await publish(channel, key(world))
    await revoke(world, svid)
    with refused(Code.PERMISSION_DENIED, "client certificate is revoked"):
        await publish(channel, key(world, "more", fresh()))


async def test_a_downstream_issuer_that_is_an_administrator_as_well_is_both(world, below):
    await world.entry("/nested", id="admin", selectors=["unix:uid:2"], admin=True)
    await publish(below, key(world))
    assert (await bundle_pb2_grpc.BundleStub(below).CountBundles(bundle_pb2.CountBundlesRequest())).count == 1


async def test_a_namesake_in_a_federated_trust_domain_publishes_nothing(world, below):
    partner = TestCA("partner.org", now=world.clock.now())
    await world.database.write(lambda tx: tx.bundles.put(partner.bundle))
    with refused(Code.PERMISSION_DENIED, DENIED):
        await publish(await world.dial(partner.issue("spiffe://partner.org/nested")), key(world))


async def test_an_entry_makes_no_node_a_downstream_issuer_once_it_is_banned(world):
    svid = await world.node("n1")
    await world.entry("/spire/agent/test/n1", id="odd", downstream=True)
    channel = await world.dial(svid)
    with refused(Code.PERMISSION_DENIED, DENIED):
        await publish(channel, key(world))
    stub = agent_pb2_grpc.AgentStub(await world.local())
    await stub.BanAgent(agent_pb2.BanAgentRequest(id=id_message(svid.spiffe_id.path)))
    with refused(Code.PERMISSION_DENIED, "node is banned"):
        await publish(channel, key(world))

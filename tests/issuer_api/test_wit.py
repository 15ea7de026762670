# SPDX-License-Identifier: Apache-2.0
"""WIT-SVIDs: for processes that a node has evidence of, and by hand for operators."""

import json
import secrets
from dataclasses import replace
from datetime import UTC, datetime, timedelta

import grpc
import pytest
from cryptography.hazmat.primitives.asymmetric import ec

from issuer.model import AgentState, Limits
from spiffekit.bundle import Bundle
from spiffekit.evidence import Evidence, ProcessFacts
from spiffekit.jwk import decode_base64url
from spiffekit.keys import public_key_to_der
from spiffekit.selector import Selector
from spiffekit.testing import TestCA
from spiffekit.wire.convert import bundle_from_proto, bundle_to_proto
from spiffekit.wire.evidence import evidence_to_proto
from spiffekit.wire.pb.spire.api import types_pb2
from spiffekit.wire.pb.spire.api.server.bundle.v1 import bundle_pb2, bundle_pb2_grpc
from spiffekit.wire.pb.spire.api.server.svid.v1 import svid_pb2, svid_pb2_grpc
from spiffekit.witsvid import Presentation, WitSvid, make_proof, verify
from tests.issuer.governance.policies import a_stored
from tests.issuer.strategies import an_agent
from tests.issuer_api.calls import refused
from tests.issuer_api.world import TRUST_DOMAIN, World, id_message, spiffe_id
from tests.spiffekit.policy.asked import NONE
from tests.vectors import keys

Code = grpc.StatusCode
KEY = ec.generate_private_key(ec.SECP256R1())
TOOL = "https://tools.example/run"
MINUTE, HOUR = timedelta(minutes=1), timedelta(hours=1)


def holder(key=KEY, algorithm="ES256"):
    return {"public_key": public_key_to_der(key.public_key()), "signing_algorithm": algorithm}


def saw(*texts, at=None, uid="a" * 26):
    """Evidence of a process for which these selectors hold."""
    evidence = Evidence(
        id=secrets.token_bytes(16),
        instance_uid=uid,
        collected_at=at or datetime.now(UTC),
        selectors=frozenset(map(Selector.parse, texts or ("unix:uid:1000",))),
        process=ProcessFacts(pid=1, start_ticks=2, uid=1000, gid=0),
    )
    return evidence_to_proto(evidence)


@pytest.fixture
async def world(place, clock):
    async with World.open(place, clock, wit=True) as made:
        yield made


@pytest.fixture
def node(channel):
    return svid_pb2_grpc.SVIDStub(channel)


@pytest.fixture
def operator(local):
    return svid_pb2_grpc.SVIDStub(local)


async def batch(stub, *params):
    wanted = [svid_pb2.NewWITSVIDParams(**fields) for fields in params]
    return list((await stub.BatchNewWITSVID(svid_pb2.BatchNewWITSVIDRequest(params=wanted))).results)


async def mint(stub, path="/minted", **fields):
    wanted = svid_pb2.MintWITSVIDRequest(id=id_message(path), **{**holder(), **fields})
    return (await stub.MintWITSVID(wanted)).svid


def believed(world, token, key=KEY):
    """The SVID, as a tool server verifies it with the published bundle."""
    now = world.clock.now()
    svid = WitSvid.parse_unverified(token)
    presented = Presentation(token, make_proof(svid, key, TOOL, now=now))
    bundle = Bundle.parse(TRUST_DOMAIN, world.registrations.bundle(TRUST_DOMAIN).to_jwks())
    return verify(presented, bundle, audience=[TOOL], now=now, replays=None, leeway=timedelta(0))


@pytest.mark.requirement("WIT-10", "WIT-19", "WIT-40", "WIT-49")
async def test_a_node_gets_one_for_a_process_that_its_bundle_verifies(world, node, clock):
    await world.entry("/agent", hint="out")
    (result,) = await batch(node, {"entry_id": "agent", "evidence": saw(uid="b" * 26), **holder()})
    assert result.status.message == "OK"
    svid = believed(world, result.svid.token)
    assert svid.spiffe_id == spiffe_id("/agent")
    assert (result.svid.id, result.svid.hint) == (id_message("/agent"), "out")
    assert svid.expires_at == clock.now() + HOUR
    assert result.svid.expires_at == svid.expires_at.timestamp()
    assert result.svid.issued_at == svid.issued_at.timestamp() == clock.now().timestamp()
    assert svid.claims["agent_instance_id"] == "b" * 26
    assert svid.claims["nbf"] == clock.now().timestamp() - 10
    assert "owner" not in svid.claims


@pytest.mark.requirement("WIT-05", "WIT-07", "WIT-30", "WIT-31")
async def test_it_has_what_the_standard_names_and_nothing_that_bearer_tokens_have(operator):
    header, claims, _ = (await mint(operator)).token.split(".")
    assert set(json.loads(decode_base64url(header))) == {"alg", "kid", "typ"}
    assert set(json.loads(decode_base64url(claims))) == {"sub", "cnf", "exp", "nbf", "iat", "jti"}


@pytest.mark.requirement("WIT-16")
async def test_no_two_have_one_id(operator):
    ids = {WitSvid.parse_unverified((await mint(operator)).token).jti for _ in range(50)}
    assert len(ids) == 50
    assert {len(bytes.fromhex(jti)) for jti in ids} == {16}


async def test_each_is_recorded_with_its_process(world, node):
    await world.entry("/agent")
    results = await batch(node, *[{"entry_id": "agent", "evidence": saw(), **holder()}] * 2)
    # The same evidence twice: the second is refused, and leaves nothing.
    assert [r.status.code for r in results] == [0, Code.PERMISSION_DENIED.value[0]]
    (record,) = await world.trail()
    svid = WitSvid.parse_unverified(results[0].svid.token)
    assert (record.type, record.subject) == ("svid.issued", str(svid.spiffe_id))
    credential = record.credential
    assert (credential.kind, credential.jti, credential.serial) == ("wit-svid", svid.jti, "")
    assert record.credential.exp == f"{svid.expires_at:%Y-%m-%dT%H:%M:%SZ}"
    assert record.attest.node == record.actor
    assert record.detail["evidence"]["instance"] == "a" * 26
    assert results[0].svid.token not in repr(record)


async def test_nothing_is_signed_that_cannot_be_recorded(world, operator):
    await world.lose_the_trail()
    with refused(Code.UNAVAILABLE):
        await mint(operator)


async def test_without_evidence_there_is_none(world, node):
    await world.entry("/plain")
    await world.entry("/strict", evidence_required=True)
    results = await batch(node, *({"entry_id": name, **holder()} for name in ("plain", "strict")))
    denied = Code.PERMISSION_DENIED.value[0]
    assert [(r.status.code, r.status.message) for r in results] == [
        (denied, "evidence: a WIT-SVID requires it"),
        (denied, "evidence: the entry requires it"),
    ]
    assert await world.trail() == []


async def test_evidence_that_does_not_satisfy_the_entry_earns_none(world, node):
    await world.entry("/agent")
    (result,) = await batch(node, {"entry_id": "agent", "evidence": saw("unix:uid:0"), **holder()})
    assert result.status.message == "evidence.selectors: 1 of the entry's do not hold"


async def test_a_node_gets_none_for_entries_of_others(world, node):
    await world.entry("/theirs", parent="/spire/agent/test/n2")
    (result,) = await batch(node, {"entry_id": "theirs", "evidence": saw(), **holder()})
    assert result.status.message == "entry not found or not authorized"


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"public_key": b""}, "public_key: not a SubjectPublicKeyInfo in DER"),
        ({"public_key": b"junk"}, "public_key: not a SubjectPublicKeyInfo in DER"),
        ({"signing_algorithm": ""}, "signing_algorithm: '' is none of the key's"),
        ({"signing_algorithm": "none"}, "signing_algorithm: 'none' is none of the key's"),
        ({"signing_algorithm": "ES384"}, "signing_algorithm: 'ES384' is none of the key's"),
        (holder(keys.edwards_key("x"), "EdDSA"), "signing_algorithm: 'EdDSA' is none of the key's"),
    ],
    ids=str,
)
async def test_key_and_algorithm_have_to_fit(world, node, operator, changes, message):
    with refused(Code.INVALID_ARGUMENT, message):
        await mint(operator, **changes)
    await world.entry("/agent")
    (result,) = await batch(node, {"entry_id": "agent", "evidence": saw(), **holder(), **changes})
    assert (result.status.code, result.status.message) == (Code.INVALID_ARGUMENT.value[0], message)


@pytest.mark.parametrize("algorithm", ["RS256", "PS512"])
async def test_a_holder_may_have_an_rsa_key(operator, algorithm):
    svid = WitSvid.parse_unverified((await mint(operator, **holder(keys.rsa_key(), algorithm))).token)
    assert (svid.algorithm, svid.public_key) == (algorithm, keys.rsa_key().public_key())


async def test_an_operator_says_for_how_long(world, operator, clock):
    assert believed(world, (await mint(operator, ttl=60)).token).expires_at == clock.now() + MINUTE
    with refused(Code.INVALID_ARGUMENT, "ttl: is negative"):
        await mint(operator, ttl=-1)


@pytest.mark.parametrize(
    ("path", "message"),
    [
        ("", "id: spiffe://example.org has no path"),
        ("/spire/server", "id: is that of the issuer itself"),
    ],
)
async def test_not_every_id_can_be_minted(operator, path, message):
    with refused(Code.INVALID_ARGUMENT, message):
        await mint(operator, path)


async def test_it_ends_with_its_authority_at_the_latest(world, operator, clock):
    assert believed(world, (await mint(operator, ttl=10**6)).token).expires_at == clock.now() + timedelta(
        days=1
    )


async def agent(world, path, state=AgentState.ACTIVE, **limits):
    made = replace(an_agent(path, state=state), limits=Limits(**limits))
    await world.database.write(lambda tx: tx.agents.create(made))
    await world.entry(path)
    return made


async def test_that_of_an_agent_names_its_owner_and_is_as_short_as_its_limits(world, node, clock):
    made = await agent(world, "/agent/one", wit_ttl=5 * MINUTE)
    (result,) = await batch(node, {"entry_id": "agent-one", "evidence": saw(), **holder()})
    svid = believed(world, result.svid.token)
    assert svid.claims["owner"] == str(made.owner)
    assert svid.expires_at == clock.now() + 5 * MINUTE
    (record,) = await world.trail()
    assert (record.agent.owner, record.agent.instance_uid) == (str(made.owner), "a" * 26)


async def test_an_agent_that_says_nothing_of_it_gets_an_hour(world, operator, clock):
    await agent(world, "/agent/one")
    svid = believed(world, (await mint(operator, "/agent/one", ttl=10**5)).token)
    assert svid.expires_at == clock.now() + HOUR


@pytest.mark.parametrize("state", sorted(set(AgentState) - {AgentState.ACTIVE}))
async def test_an_agent_that_is_not_active_gets_none(world, node, operator, state):
    await agent(world, "/agent/one", state)
    (result,) = await batch(node, {"entry_id": "agent-one", "evidence": saw(), **holder()})
    # Its entries are no longer the node's.
    assert (result.status.code, result.svid.token) == (Code.NOT_FOUND.value[0], "")
    with refused(Code.PERMISSION_DENIED, f"agent spiffe://example.org/agent/one is {state}"):
        await mint(operator, "/agent/one")


async def test_switched_off_nothing_is_signed_and_nothing_published(place, clock):
    """Nor is what was published while it was on: a key that nobody rotates must not stay trusted."""
    async with World.open(place, clock, wit=True) as world:
        assert len(world.registrations.bundle(TRUST_DOMAIN).wit_authorities) == 1
    async with World.open(place, clock) as world:
        operator, node = svid_pb2_grpc.SVIDStub(await world.local()), await world.dial(await world.node("n1"))
        with refused(Code.UNIMPLEMENTED):
            await mint(operator)
        with refused(Code.UNIMPLEMENTED):
            await batch(svid_pb2_grpc.SVIDStub(node), {"entry_id": "agent", **holder()})
        assert world.registrations.bundle(TRUST_DOMAIN).wit_authorities == ()
        assert b"wit-svid" not in world.registrations.bundle(TRUST_DOMAIN).to_jwks()


async def test_the_bundle_has_the_authority_for_whoever_asks(world):
    stub = bundle_pb2_grpc.BundleStub(await world.dial())
    answer = await stub.GetBundle(bundle_pb2.GetBundleRequest())
    (key,) = world.registrations.bundle(TRUST_DOMAIN).wit_authorities
    assert [k.key_id for k in answer.wit_authorities] == [key.key_id]
    masked = bundle_pb2.GetBundleRequest(output_mask=types_pb2.BundleMask(jwt_authorities=True))
    assert not (await stub.GetBundle(masked)).wit_authorities


async def test_nobody_adds_wit_authorities_to_our_own_bundle(local):
    request = bundle_pb2.AppendBundleRequest(wit_authorities=[types_pb2.WITKey()])
    with refused(Code.INVALID_ARGUMENT, "wit_authorities: are not supported"):
        await bundle_pb2_grpc.BundleStub(local).AppendBundle(request)


async def test_those_of_federated_trust_domains_are_kept_and_replaced_by_mask(world, local):
    partner, later = (TestCA("partner.org") for _ in range(2))
    stub = bundle_pb2_grpc.BundleStub(local)
    setting = bundle_pb2.BatchSetFederatedBundleRequest(bundle=[bundle_to_proto(partner.wit_bundle)])
    (result,) = (await stub.BatchSetFederatedBundle(setting)).results
    assert bundle_from_proto(result.bundle).wit_authorities == partner.wit_bundle.wit_authorities
    for chosen, expected in ((False, partner), (True, later)):
        update = bundle_pb2.BatchUpdateFederatedBundleRequest(
            bundle=[bundle_to_proto(later.wit_bundle)],
            input_mask=types_pb2.BundleMask(wit_authorities=chosen),
        )
        (result,) = (await stub.BatchUpdateFederatedBundle(update)).results
        assert bundle_from_proto(result.bundle).wit_authorities == expected.wit_bundle.wit_authorities


@pytest.mark.requirement("WIT-41")
async def test_a_key_id_that_stands_twice_is_refused(local):
    partner = bundle_to_proto(TestCA("partner.org").wit_bundle)
    partner.wit_authorities.add(key_id="test-wit-key", public_key=public_key_to_der(KEY.public_key()))
    stub, kind = bundle_pb2_grpc.BundleStub(local), bundle_pb2.BatchSetFederatedBundleRequest
    (result,) = (await stub.BatchSetFederatedBundle(kind(bundle=[partner]))).results
    assert result.status.message == "wit_authorities: two keys have the ID 'test-wit-key'"
    partner.wit_authorities[1].key_id = "test-key"
    (result,) = (await stub.BatchSetFederatedBundle(kind(bundle=[partner]))).results
    assert (result.status.code, result.status.message) == (
        Code.INVALID_ARGUMENT.value[0],
        "kid 'test-key' is that of a JWT and of a WIT authority",
    )


async def test_policy_is_asked_before_one_is_signed_for_an_agent(world):
    await world.database.write(lambda tx: tx.agents.create(an_agent()))
    await world.database.write(lambda tx: tx.policies.add(a_stored(NONE)))
    with pytest.raises(grpc.aio.AioRpcError, match="policy p#1 forbids it"):
        await mint(svid_pb2_grpc.SVIDStub(await world.local()), "/agent/payer")
    (denied,) = [record for record in await world.trail() if record.type == "svid.refused"]
    assert (denied.agent.spiffe_id, denied.policy.ids) == ("spiffe://example.org/agent/payer", ("p#1",))

# SPDX-License-Identifier: Apache-2.0
"""Nodes prove themselves and renew."""

import asyncio
from dataclasses import replace
from datetime import timedelta

import grpc
import pytest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec

from issuer.errors import NodeRejectedError, PlatformUnavailableError
from issuer.model import JoinToken
from issuer.node import NodeProof
from spiffekit.selector import Selector
from spiffekit.wire.pb.spire.api import types_pb2
from spiffekit.wire.pb.spire.api.server.agent.v1 import agent_pb2, agent_pb2_grpc
from tests.issuer_api.calls import denial_reason, refused
from tests.issuer_api.world import World, csr, id_message, spiffe_id

Code = grpc.StatusCode
Request, Response = agent_pb2.AttestAgentRequest, agent_pb2.AttestAgentResponse


class Riddles:
    """A verifier that asks for each of its riddles to be said backwards."""

    def __init__(self, *riddles):
        self.riddles = riddles
        self.cancelled = False

    async def verify(self, payload, challenge, context):
        try:
            for riddle in self.riddles:
                if await challenge(riddle) != riddle[::-1]:
                    raise NodeRejectedError("wrong answer")
        except asyncio.CancelledError:
            self.cancelled = True
            raise
        name = payload.decode("ascii")
        selectors = frozenset({Selector("riddles", f"asked:{len(self.riddles)}")})
        return NodeProof(context.node_id(f"/riddles/{name}"), selectors, can_reattest=True)


class Platform:
    """A verifier that knows what is true of its nodes now."""

    def __init__(self, *selectors):
        self.selectors = frozenset(map(Selector.parse, selectors))
        self.asked = []

    async def verify(self, payload, challenge, context):
        raise AssertionError("a node that renews proves nothing anew")

    async def refresh(self, node):
        self.asked.append(node.id.path)
        if not self.selectors:
            raise NodeRejectedError("instance is gone")
        return self.selectors


class Hanging(Platform):
    async def refresh(self, node):
        await asyncio.Event().wait()


class Broken:
    async def verify(self, payload, challenge, context):
        raise ZeroDivisionError("a secret of the implementation")


@pytest.fixture
def riddles():
    return Riddles(b"first", b"second")


@pytest.fixture
async def world(place, clock, riddles):
    verifiers = {"riddles": riddles, "broken": Broken(), "simple": Riddles()}
    async with World.open(place, clock, verifiers=verifiers) as made:
        yield made


@pytest.fixture
async def stub(world):
    return agent_pb2_grpc.AgentStub(await world.dial())


@pytest.fixture
def operator(local):
    return agent_pb2_grpc.AgentStub(local)


def params(kind="riddles", payload=b"n1", request=None):
    data = types_pb2.AttestationData(type=kind, payload=payload)
    wanted = agent_pb2.AgentX509SVIDParams(csr=csr() if request is None else request)
    return Request(params=Request.Params(data=data, params=wanted))


def answer(text):
    return Request(challenge_response=text)


async def attest(stub, *messages, open_ended=False):
    """Send everything at once; return what came back."""
    call = stub.AttestAgent(timeout=20)
    for message in messages:
        await call.write(message)
    if not open_ended:
        await call.done_writing()
    return [response async for response in call]


async def with_token(stub, value, **fields):
    return await attest(stub, params("join_token", value, **fields))


async def token(world, value="secret", seconds=60):
    made = JoinToken(value=value, expires_at=world.clock.now() + timedelta(seconds=seconds))
    await world.database.write(lambda tx: tx.join_tokens.create(made))


async def test_a_node_that_answers_every_challenge_gets_an_svid_for_its_key(world, stub):
    key = ec.generate_private_key(ec.SECP256R1())
    *asked, last = await attest(stub, params(request=csr(key)), answer(b"tsrif"), answer(b"dnoces"))
    assert asked == [Response(challenge=b"first"), Response(challenge=b"second")]
    svid = last.result.svid
    assert (svid.id, last.result.reattestable) == (id_message("/spire/agent/riddles/n1"), True)
    (leaf,) = map(x509.load_der_x509_certificate, svid.cert_chain)
    assert leaf.public_key() == key.public_key()
    assert svid.expires_at == leaf.not_valid_after_utc.timestamp()
    node = world.registrations.node(spiffe_id("/spire/agent/riddles/n1"))
    assert (node.serial, node.can_reattest) == (str(leaf.serial_number), True)
    assert node.selectors == {Selector("riddles", "asked:2")}
    assert node.expires_at == leaf.not_valid_after_utc
    (record,) = await world.trail()
    assert (record.act.rpartition("/")[2], record.subject) == ("AttestAgent", str(node.id))
    assert record.actor == "anonymous:127.0.0.1"


async def test_a_join_token_proves_a_node_that_cannot_attest_again(world, stub):
    await token(world)
    (last,) = await with_token(stub, b"secret")
    assert last.result.svid.id == id_message("/spire/agent/join_token/secret")
    assert not last.result.reattestable
    assert await world.tokens() == []
    used = "failed to attest: join token does not exist or has already been used"
    with refused(Code.PERMISSION_DENIED, used):
        await with_token(stub, b"secret")


async def test_of_a_hundred_redemptions_one_wins(world, stub):
    """SPIRE 1.14.6: between looking a token up and deleting it, another attempt could pass."""
    await token(world)
    request = csr()
    ends = await asyncio.gather(
        *(with_token(stub, b"secret", request=request) for _ in range(100)), return_exceptions=True
    )
    assert sum(isinstance(end, list) for end in ends) == 1
    assert {end.code() for end in ends if not isinstance(end, list)} == {Code.PERMISSION_DENIED}


async def test_an_expired_token_proves_nothing_and_is_left_to_pruning(world, stub, clock):
    await token(world, seconds=1)
    clock.step(timedelta(seconds=1))
    with refused(Code.PERMISSION_DENIED, "failed to attest: join token has expired"):
        await with_token(stub, b"secret")
    assert await world.tokens() == ["secret"], "an attempt changes nothing that no record tells of"


async def test_a_token_whose_node_cannot_be_admitted_is_not_used_up(world, stub):
    """Otherwise whatever fails between the two loses the node: nothing proves it again."""
    await token(world)
    await world.lose_the_trail()
    with refused(Code.UNAVAILABLE):
        await with_token(stub, b"secret")
    assert await world.tokens() == ["secret"]


@pytest.mark.parametrize(
    "value",
    [
        b"a/b",
        b"..",
        b".",
        b"../../spire/server",
        b"%2e%2e",
        b"a\n",
        b"a\0",
        b"\xff",
        "ä".encode(),
        b"a" * 10_000,
    ],
    ids=lambda value: ascii(value)[:24],
)
async def test_a_token_that_is_no_path_segment_is_malformed(world, stub, value):
    """Cure53 SPI-01-007: a token becomes part of the node's ID."""
    with refused(Code.PERMISSION_DENIED, "join token is malformed"):
        await with_token(stub, value)
    assert world.registrations.count() == (0, 0)


async def test_only_the_key_of_a_request_counts(stub):
    """CVE-2021-27098: nothing else of what a node asks for enters its certificate."""
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "admin")])
    san = [x509.UniformResourceIdentifier("spiffe://example.org/admin"), x509.DNSName("admin.example.org")]
    builder = x509.CertificateSigningRequestBuilder().subject_name(name)
    builder = builder.add_extension(x509.SubjectAlternativeName(san), critical=True)
    builder = builder.add_extension(x509.BasicConstraints(True, None), critical=True)
    (last,) = await attest(stub, params("simple", request=csr(builder=builder)))
    leaf = x509.load_der_x509_certificate(last.result.svid.cert_chain[0])
    names = leaf.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    assert list(names) == [x509.UniformResourceIdentifier("spiffe://example.org/spire/agent/riddles/n1")]
    assert not leaf.extensions.get_extension_for_class(x509.BasicConstraints).value.ca
    assert leaf.subject.get_attributes_for_oid(x509.NameOID.COMMON_NAME) == []


def forged():
    """A request whose signature is of another key."""
    good = bytearray(csr())
    good[-1] ^= 1
    return bytes(good)


NO_CHALLENGE = "challenge_response: is missing"
TALKS = {
    "nothing": ((), "params: are missing"),
    "empty": ((Request(),), "params: are missing"),
    "answer-first": ((answer(b"tsrif"),), "params: are missing"),
    "no-payload": ((params(payload=b""),), "params.data.payload: is missing"),
    "no-request": ((params(request=b""),), "csr: is missing"),
    "bad-request": ((params(request=b"junk"),), "csr: not a well-formed PKCS#10 request"),
    "forged-request": ((params(request=forged()),), "csr: signature is not good"),
    "huge-request": ((params(request=b"a" * 16385),), "csr: larger than 16384 bytes"),
    "no-type": ((params(""),), "params.data.type: no node attestor '' is configured"),
    "long-type": (
        (params("x" * 100),),
        f"params.data.type: no node attestor {'x' * 64!r} is configured",
    ),
    "params-twice": ((params(), params()), NO_CHALLENGE),
    "empty-answer": ((params(), Request()), NO_CHALLENGE),
    "end-instead-of-an-answer": ((params(),), NO_CHALLENGE),
    "end-before-the-last-answer": ((params(), answer(b"tsrif")), NO_CHALLENGE),
}


@pytest.mark.parametrize(("talk", "text"), [pytest.param(*row, id=key) for key, row in TALKS.items()])
async def test_a_talk_that_breaks_its_order_is_refused(world, stub, riddles, talk, text):
    with refused(Code.INVALID_ARGUMENT, text):
        await attest(stub, *talk)
    assert world.registrations.count() == (0, 0)
    assert riddles.cancelled == (text == NO_CHALLENGE)


async def test_a_wrong_answer_is_refused(world, stub):
    with refused(Code.PERMISSION_DENIED, "wrong answer"):
        await attest(stub, params(), answer(b"what?"))
    assert world.registrations.count() == (0, 0)


async def test_what_is_sent_without_being_asked_for_is_never_read(stub):
    *_, last = await attest(stub, params("simple"), answer(b"eager"), params("simple", b"n2"))
    assert last.result.svid.id == id_message("/spire/agent/riddles/n1")


async def test_a_verifier_that_breaks_says_nothing_of_itself(stub, caplog):
    with refused(Code.INTERNAL, "internal error"):
        await attest(stub, params("broken"))
    assert "call failed" in caplog.messages


@pytest.mark.parametrize("messages", [(), (params(),), (params(), answer(b"tsrif"))], ids=len)
async def test_a_silent_node_is_not_waited_for(place, clock, messages):
    riddles = Riddles(b"first", b"second")
    within = timedelta(milliseconds=300)  # what is sent has to come before
    async with World.open(place, clock, verifiers={"riddles": riddles}, attest_within=within) as world:
        stub = agent_pb2_grpc.AgentStub(await world.dial())
        with refused(Code.DEADLINE_EXCEEDED, "failed to attest: took too long"):
            await attest(stub, *messages, open_ended=True)
    assert riddles.cancelled == bool(messages)


async def test_a_message_that_is_too_large_is_refused_before_it_is_kept(stub):
    with refused(Code.RESOURCE_EXHAUSTED):
        await attest(stub, params(payload=b"a" * (4 * 1024 * 1024)))


async def test_a_node_that_attests_again_keeps_its_version_and_replaces_the_rest(world, stub):
    await attest(stub, params("simple"))
    node_id = spiffe_id("/spire/agent/riddles/n1")
    before = replace(world.registrations.node(node_id), version="1.0", new_serial="7", selectors=frozenset())
    await world.database.write(lambda tx: tx.nodes.put(before))
    await attest(stub, params("simple"))
    after = world.registrations.node(node_id)
    assert after.serial != before.serial
    assert (after.version, after.new_serial) == ("1.0", "")
    assert after.selectors == {Selector("riddles", "asked:0")}
    assert (await world.trail())[-1].detail["selectors"] == {"gained": ["riddles:asked:0"], "lost": []}


async def ban(operator, path):
    await operator.BanAgent(agent_pb2.BanAgentRequest(id=id_message(path)))


async def test_a_banned_node_cannot_prove_itself_again(stub, operator):
    await attest(stub, params("simple"))
    await ban(operator, "/spire/agent/riddles/n1")
    with refused(Code.PERMISSION_DENIED, "failed to attest: node is banned") as caught:
        await attest(stub, params("simple"))
    assert denial_reason(caught.value) == "AGENT_BANNED"


async def test_a_ban_while_a_node_proves_itself_counts(world, stub, operator):
    """The registry in memory has not heard of the ban yet; the transaction sees it."""
    await attest(stub, params("simple"))
    world.database.on_commit.clear()
    await ban(operator, "/spire/agent/riddles/n1")
    with refused(Code.PERMISSION_DENIED, "failed to attest: node is banned") as caught:
        await attest(stub, params("simple"))
    assert denial_reason(caught.value) == "AGENT_BANNED"


# Renewal.


async def renew(stub, request=None):
    wanted = agent_pb2.AgentX509SVIDParams(csr=csr() if request is None else request)
    return (await stub.RenewAgent(agent_pb2.RenewAgentRequest(params=wanted), timeout=5)).svid


async def test_a_renewal_certifies_the_new_key_and_waits_for_its_use(world):
    svid = await world.node("n1")
    key = ec.generate_private_key(ec.SECP256R1())
    renewed = await renew(agent_pb2_grpc.AgentStub(await world.dial(svid)), csr(key))
    (leaf,) = map(x509.load_der_x509_certificate, renewed.cert_chain)
    assert leaf.public_key() == key.public_key()
    node = world.registrations.node(svid.spiffe_id)
    assert (node.serial, node.new_serial) == (str(svid.serial_number), str(leaf.serial_number))
    (record,) = await world.trail()
    assert (record.actor, record.subject) == (str(svid.spiffe_id), str(svid.spiffe_id))


async def test_a_node_that_can_attest_again_has_to(world):
    stub = agent_pb2_grpc.AgentStub(await world.dial(await world.node("n1", can_reattest=True)))
    with refused(Code.PERMISSION_DENIED, "node has to attest again") as caught:
        await renew(stub)
    assert denial_reason(caught.value) == "AGENT_MUST_REATTEST"


@pytest.fixture
async def renewing(place, clock):
    """A world whose nodes are of a platform, and the client of one that was proved as in zone a."""
    platform = Platform("test:zone:b", "test:name:n1")
    async with World.open(place, clock, verifiers={"test": platform}) as world:
        svid = await world.node("n1", selectors=["test:zone:a", "test:name:n1"])
        yield world, platform, agent_pb2_grpc.AgentStub(await world.dial(svid))


async def test_a_renewal_stores_what_is_true_of_the_node_now(renewing):
    world, platform, stub = renewing
    await renew(stub)
    node = world.registrations.node(spiffe_id("/spire/agent/test/n1"))
    assert (node.selectors, platform.asked) == (platform.selectors, ["/spire/agent/test/n1"])
    (record,) = await world.trail()
    assert record.detail["selectors"] == {"gained": ["test:zone:b"], "lost": ["test:zone:a"]}


async def test_a_node_loses_at_its_renewal_what_it_was_given_for_what_is_no_longer_true(renewing):
    world, _, stub = renewing
    for zone in ("a", "b"):
        await world.entry(f"/{zone}", parent="/spire/server", selectors=[f"test:zone:{zone}"])
        await world.entry(f"/web-{zone}", parent=f"/{zone}")
    node_id = spiffe_id("/spire/agent/test/n1")

    def granted():
        found = world.registrations.authorized(node_id, world.clock.now())
        return {entry.spiffe_id.path for entry in found.entries}

    assert granted() == {"/web-a"}
    await renew(stub)
    assert granted() == {"/web-b"}


async def test_a_node_may_have_more_selectors_than_an_event_names(renewing):
    world, platform, stub = renewing
    many = [f"test:label:{at:04}:" + '"' * 200 for at in range(500)]
    platform.selectors = frozenset(map(Selector.parse, many))
    await renew(stub)
    platform.selectors = frozenset({Selector("test", "one")})
    await renew(stub)
    assert world.registrations.node(spiffe_id("/spire/agent/test/n1")).selectors == platform.selectors
    gained, lost = (record.detail["selectors"] for record in await world.trail())
    assert gained == {"gained": [*many[:9], "and 491 more"], "lost": ["test:name:n1", "test:zone:a"]}
    assert lost == {"gained": ["test:one"], "lost": [*many[:9], "and 491 more"]}


async def test_a_node_that_is_gone_cannot_renew(renewing):
    world, platform, stub = renewing
    platform.selectors = frozenset()
    with refused(Code.PERMISSION_DENIED, "instance is gone"):
        await renew(stub)
    node = world.registrations.node(spiffe_id("/spire/agent/test/n1"))
    assert (node.new_serial, len(node.selectors)) == ("", 2)


class Silent:
    async def verify(self, payload, challenge, context):
        raise PlatformUnavailableError("cloud cannot be asked")

    async def refresh(self, node):
        raise PlatformUnavailableError("cloud cannot be asked")


async def test_a_platform_that_cannot_be_asked_costs_a_node_time_and_no_selector(place, clock):
    async with World.open(place, clock, verifiers={"test": Silent()}) as world:
        svid = await world.node("n1", selectors=["test:zone:a"])
        with refused(Code.UNAVAILABLE, "cloud cannot be asked"):
            await attest(agent_pb2_grpc.AgentStub(await world.dial()), params("test"))
        with refused(Code.UNAVAILABLE, "cloud cannot be asked"):
            await renew(agent_pb2_grpc.AgentStub(await world.dial(svid)))
        node = world.registrations.node(svid.spiffe_id)
        assert (node.new_serial, node.selectors) == ("", {Selector("test", "zone:a")})


async def test_a_platform_that_hangs_is_not_waited_for(place, clock):
    within = timedelta(milliseconds=100)
    async with World.open(place, clock, verifiers={"test": Hanging()}, attest_within=within) as world:
        stub = agent_pb2_grpc.AgentStub(await world.dial(await world.node("n1")))
        with refused(Code.DEADLINE_EXCEEDED, "failed to renew: took too long"):
            await renew(stub)


@pytest.mark.parametrize("kind", ["simple", "removed"])
async def test_without_a_platform_to_ask_a_node_stays_what_it_was_proved_to_be(world, kind):
    svid = await world.node("n1", attestation_type=kind, selectors=["test:zone:a"])
    await renew(agent_pb2_grpc.AgentStub(await world.dial(svid)))
    assert world.registrations.node(svid.spiffe_id).selectors == {Selector("test", "zone:a")}
    (record,) = await world.trail()
    assert record.detail["selectors"] == {"gained": [], "lost": []}


async def test_a_renewal_needs_a_good_request(world):
    stub = agent_pb2_grpc.AgentStub(await world.dial(await world.node("n1")))
    with refused(Code.INVALID_ARGUMENT, "csr: signature is not good"):
        await renew(stub, forged())


@pytest.mark.parametrize(
    ("lose", "text", "reason"),
    [
        ("BanAgent", "node is banned", "AGENT_BANNED"),
        ("DeleteAgent", "node is not attested", "AGENT_NOT_ATTESTED"),
    ],
)
async def test_a_renewal_that_races_with_an_operator_loses(world, operator, lose, text, reason):
    """The registry in memory has not heard of it yet; the transaction sees it."""
    stub = agent_pb2_grpc.AgentStub(await world.dial(await world.node("n1")))
    world.database.on_commit.clear()
    request = {"BanAgent": agent_pb2.BanAgentRequest, "DeleteAgent": agent_pb2.DeleteAgentRequest}[lose]
    await getattr(operator, lose)(request(id=id_message("/spire/agent/test/n1")))
    with refused(Code.PERMISSION_DENIED, text) as caught:
        await renew(stub)
    assert denial_reason(caught.value) == reason


async def test_a_node_tells_its_version(world):
    svid = await world.node("n1")
    stub = agent_pb2_grpc.AgentStub(await world.dial(svid))
    for version in ("1.2.3", "ä" * 127 + "a"):
        await stub.PostStatus(agent_pb2.PostStatusRequest(agent_version=version))
        assert world.registrations.node(svid.spiffe_id).version == version
    revision = world.log.revision
    await stub.PostStatus(agent_pb2.PostStatusRequest(agent_version=version))
    assert world.log.revision == revision, "nothing changed, nothing is written"
    with refused(Code.INVALID_ARGUMENT, "agent_version: longer than 255 bytes"):
        await stub.PostStatus(agent_pb2.PostStatusRequest(agent_version="ä" * 128))


async def test_the_version_of_a_node_that_is_gone_is_dropped(world):
    svid = await world.node("n1")
    stub = agent_pb2_grpc.AgentStub(await world.dial(svid))
    world.database.on_commit.clear()
    await world.database.write(lambda tx: tx.nodes.delete(svid.spiffe_id))
    await stub.PostStatus(agent_pb2.PostStatusRequest(agent_version="1"))
    assert await world.database.read(lambda tx: tx.nodes.get(svid.spiffe_id)) is None

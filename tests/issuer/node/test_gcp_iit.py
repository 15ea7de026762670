# SPDX-License-Identifier: Apache-2.0
"""A token that Google signs for an instance proves it; whatever else is sent in its place does not."""

import asyncio
import json
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric import ec, rsa

from attestor.errors import NodeAttestationError
from attestor.node import gcp_iit as machine
from attestor.node.metadata import MAX_ANSWER
from issuer.errors import NodeRejectedError
from issuer.model import AttestationLevel
from issuer.node.gcp_iit import MAX_PAYLOAD, Config, create, create_with
from issuer.node.google_keys import MAX_CERTIFICATES, certificates
from spiffekit.daemon.config import ConfigError
from spiffekit.jwk import decode_base64url
from spiffekit.selector import typo
from tests.fakes.clock import FakeClock
from tests.fakes.web import WebServer, ok
from tests.issuer.node.google import INSTANCE, KEY, OTHER, Google
from tests.issuer.node.x509pop_node import Context
from tests.issuer.strategies import a_node

PUBLISHED = Path(__file__).parent / "published" / "google_certs.json"
PROJECT = Config(("project-1",))
FLAVOR = "Metadata-Flavor: Google"


async def unasked(challenge):
    raise AssertionError("no challenge is sent")


@pytest.fixture
def clock():
    return FakeClock(datetime.now(UTC).replace(microsecond=0))


@pytest.fixture
async def google(clock):
    async with Google(clock) as made:
        yield made


@pytest.fixture
def verify(google, clock):
    verifier = create_with(PROJECT, google.server.peer, clock)
    return lambda payload: verifier.verify(payload, unasked, Context())


async def test_an_instance_proves_itself(google, verify):
    async with WebServer(lambda head: ok(google.token() + b"\n", FLAVOR)) as server:
        attestor = machine.create(machine.Config(server.host))
        proof = await verify(await attestor.payload())
    assert proof.node_id.path == "/spire/agent/gcp_iit/project-1/152986662232938449"
    assert {str(selector) for selector in proof.selectors} == {
        "gcp_iit:project-id:project-1",
        "gcp_iit:zone:us-west1-b",
        "gcp_iit:instance-name:web-1",
        "gcp_iit:sa:web@project-1.iam.gserviceaccount.com",
    }
    assert not any(map(typo, proof.selectors))
    assert (proof.can_reattest, proof.first_use) == (False, True)
    assert proof.level is AttestationLevel.PLATFORM
    (asked,) = server.requests
    assert asked.startswith(
        "GET /computeMetadata/v1/instance/service-accounts/default/identity"
        "?audience=spire-gcp-node-attestor&format=full HTTP/1.1\r\n"
    )
    assert "metadata-flavor: google" in asked.lower()


async def test_an_account_that_nobody_has_verified_is_not_stated(google, verify):
    for changes in ({"email": None}, {"email_verified": None}, {"email_verified": False}):
        proof = await verify(google.token(**changes))
        assert not any(selector.value.startswith("sa:") for selector in proof.selectors)


@pytest.mark.parametrize("algorithm", ["none", "HS256", "PS256", "RS384", "rs256", ""])
async def test_no_other_algorithm_is_taken(google, verify, algorithm):
    """A MAC over a public key, or no signature at all, has passed for one elsewhere."""
    with pytest.raises(NodeRejectedError, match=r"alg .* is not allowed"):
        await verify(google.token(header={"alg": algorithm}))
    assert google.server.requests == []


async def test_another_key_signs_nothing(google, verify):
    with pytest.raises(NodeRejectedError, match="signature is not good"):
        await verify(google.token(key=OTHER))
    with pytest.raises(NodeRejectedError, match="does not publish"):
        await verify(google.token(header={"kid": "k2"}))
    with pytest.raises(NodeRejectedError, match="no kid"):
        await verify(google.token(header={"kid": None}))


async def test_a_changed_word_is_noticed(google, verify):
    head, claims, signature = google.token().split(b".")
    _, others, _ = google.instance(instance_id="1").split(b".")
    with pytest.raises(NodeRejectedError, match="signature is not good"):
        await verify(b".".join((head, others, signature)))
    assert await verify(b".".join((head, claims, signature)))


@pytest.mark.parametrize(
    ("changes", "why"),
    [
        ({"aud": "another"}, "another audience"),
        ({"aud": ["spire-gcp-node-attestor", "another"]}, "another audience"),
        ({"aud": None}, "aud is missing"),
        ({"iss": "accounts.google.com.evil.com"}, "another issuer"),
        ({"iss": None}, "nothing of an instance"),
        ({"exp": None}, "exp is missing"),
        ({"exp": 1}, "has expired"),
        ({"exp": "never"}, "exp is not a point in time"),
        ({"nbf": 2**40}, "nbf is not|not valid yet"),
        ({"google": None}, "nothing of an instance"),
        ({"google": {}}, "nothing of an instance"),
        ({"google": {"compute_engine": INSTANCE | {"project_id": 1}}}, "nothing of an instance"),
        ({"google": {"compute_engine": INSTANCE | {"zone": "a\nb"}}}, "control character"),
    ],
    ids=str,
)
async def test_what_a_token_says_has_to_be_right(google, verify, changes, why):
    with pytest.raises(NodeRejectedError, match=why):
        await verify(google.token(**changes))


async def test_a_token_counts_until_it_expires(google, verify, clock):
    token = google.token()
    await clock.advance(timedelta(hours=1, seconds=29))
    assert await verify(token)
    await clock.advance(timedelta(seconds=1))
    with pytest.raises(NodeRejectedError, match="has expired"):
        await verify(token)


@pytest.mark.parametrize("project", ["project-2", "project-1x", "Project-1", "", "project-1/../x"])
async def test_only_projects_that_are_allowed_attest(google, verify, project):
    with pytest.raises(NodeRejectedError, match="is not allowed"):
        await verify(google.instance(project_id=project))


async def test_a_node_renews_while_its_project_is_allowed(google, verify, clock):
    proof = await verify(google.token())
    node = a_node("gcp_iit/project-1/1", selectors=proof.selectors)
    allowing, other = (
        create_with(Config((project,)), google.server.peer, clock) for project in ("project-1", "project-2")
    )
    assert await allowing.refresh(node) == proof.selectors
    with pytest.raises(NodeRejectedError, match="'project-1' is not allowed"):
        await other.refresh(node)


@pytest.mark.parametrize("instance", ["", "1/2", "../1", "x", "1\n", "٣", "1" * 21])
async def test_an_instance_has_a_number(google, verify, instance):
    with pytest.raises(NodeRejectedError, match="no number"):
        await verify(google.instance(instance_id=instance))


@pytest.mark.parametrize(
    "payload", [b"", b"a.b", b"\xff", b"a" * (MAX_PAYLOAD + 1)], ids=["", "2", "x", "large"]
)
async def test_what_is_no_token_is_refused(verify, payload):
    with pytest.raises(NodeRejectedError, match=r"payload|token"):
        await verify(payload)


async def test_keys_are_kept_as_long_as_google_says_and_no_longer(google, verify, clock):
    google.cache = ("Cache-Control: public, max-age=600", "Age: 100")
    await verify(google.token())
    google.published = {"k2": google.certify(OTHER.public_key())}
    await clock.advance(timedelta(seconds=499))
    await verify(google.token())
    with pytest.raises(NodeRejectedError, match="does not publish"):
        await verify(google.token(key=OTHER, header={"kid": "k2"}))
    assert len(google.server.requests) == 1
    await clock.advance(timedelta(seconds=1))
    await verify(google.token(key=OTHER, header={"kid": "k2"}))
    with pytest.raises(NodeRejectedError, match="does not publish"):
        await verify(google.token())
    assert len(google.server.requests) == 2


async def test_no_answer_is_kept_for_more_than_a_day(google, verify, clock):
    google.cache = ("Cache-Control: max-age=999999999",)
    await verify(google.token())
    await clock.advance(timedelta(days=1))
    await verify(google.token())
    assert len(google.server.requests) == 2


@pytest.mark.parametrize(
    "cache",
    [
        (),
        ("Cache-Control: no-store, max-age=600",),
        ("Cache-Control: no-cache, max-age=600",),
        ("Cache-Control: max-age=600, max-age=700",),
        ("Cache-Control: max-age=600", "Cache-Control: max-age=600"),
        ("Cache-Control: max-age=-600",),
        ("Cache-Control: max-age=soon",),
        ("Cache-Control: max-age=600", "Age: new"),
        ("Cache-Control: max-age=600", "Age: 600"),
    ],
    ids=str,
)
async def test_what_may_not_be_kept_is_asked_for_again(google, verify, cache):
    google.cache = cache
    await verify(google.token())
    await verify(google.token())
    assert len(google.server.requests) == 2


async def test_many_nodes_ask_one_question(google, verify):
    await asyncio.gather(*(verify(google.token()) for _ in range(50)))
    assert len(google.server.requests) == 1


@pytest.mark.parametrize(
    ("key", "why"),
    [
        (rsa.generate_private_key(public_exponent=65537, key_size=1024).public_key(), "weak key"),
        (ec.generate_private_key(ec.SECP256R1()).public_key(), "not RSA"),
    ],
    ids=["small", "other"],
)
async def test_a_weak_key_is_not_used(google, verify, key, why):
    google.published["k2"] = google.certify(key)
    with pytest.raises(NodeRejectedError, match=why):
        await verify(google.token(header={"kid": "k2"}))
    assert await verify(google.token())


async def test_a_key_is_used_while_its_certificate_is_valid(google, verify, clock):
    google.published = {"k1": google.certify(KEY.public_key(), days=0.01)}
    await verify(google.token())
    await clock.advance(timedelta(days=0.01))
    with pytest.raises(NodeRejectedError, match="not valid now"):
        await verify(google.token())


@pytest.mark.parametrize(
    "answer",
    [
        lambda head: ok("{}"),
        lambda head: ok("[]"),
        lambda head: ok('{"k1": 1}'),
        lambda head: ok('{"k1": "no PEM"}'),
        lambda head: ok(b"\xff"),
        lambda head: ok("[" * 50_000),
        lambda head: ok("x" * 200_000),
        lambda head: ok("{}", status="500 Internal Server Error"),
        lambda head: ok("", "Location: https://evil.example/", status="302 Found"),
        lambda head: b"",
    ],
    ids=["none", "array", "number", "no pem", "bytes", "deep", "large", "error", "redirect", "closed"],
)
async def test_another_answer_has_no_keys(google, verify, answer):
    google.server.answer = answer
    with pytest.raises(NodeRejectedError, match="cannot be fetched"):
        await verify(google.token())


async def test_there_are_not_many_keys(google, verify):
    google.published = {f"k{n}": google.published["k1"] for n in range(MAX_CERTIFICATES)}
    assert await verify(google.token(header={"kid": "k31"}))
    assert len(google.published) == MAX_CERTIFICATES


async def test_keys_without_end_are_refused(google, verify):
    google.published = {f"k{n}": google.published["k1"] for n in range(MAX_CERTIFICATES + 1)}
    with pytest.raises(NodeRejectedError, match="cannot be fetched"):
        await verify(google.token(header={"kid": "k1"}))


async def test_keys_come_from_google_alone(google, clock):
    """The server in between has another name, or nobody vouches for it."""
    peer = google.server.peer
    for other in (
        type(peer)(peer.host, peer.port, peer.tls, "www.example.org"),
        type(peer)(peer.host, peer.port, create(PROJECT)._keys._peer.tls, peer.server_name),
    ):
        with pytest.raises(NodeRejectedError, match="cannot be fetched"):
            await create_with(PROJECT, other, clock).verify(google.token(), unasked, Context())


def test_keys_are_asked_for_at_google():
    peer = create(PROJECT)._keys._peer
    assert (str(peer), peer.tls.check_hostname) == ("www.googleapis.com:443", True)


def test_keys_that_google_has_published_are_read():
    """Of June 2022; beside them what Google's key set said of the same keys."""
    published = json.loads(PUBLISHED.read_text())
    found = certificates(json.dumps(published["certificates"]).encode())
    moduli = {key_id: c.public_key().public_numbers().n.to_bytes(256) for key_id, c in found.items()}
    assert moduli == {key_id: decode_base64url(n) for key_id, n in published["moduli"].items()}


@pytest.mark.parametrize(
    "projects", [(), ("",), ("Project",), ("example.org:project",), ("a/b",), ("..",)], ids=str
)
def test_a_policy_that_cannot_be_meant_is_refused(projects):
    with pytest.raises(ConfigError, match="projectid_allow_list"):
        create(Config(projects))


def of(server, **options):
    return machine.create(machine.Config(server.host, **options))


@pytest.mark.parametrize(
    ("answer", "why"),
    [
        (ok("a.b.c"), "no metadata server"),
        (ok("a.b.c", "Metadata-Flavor: google"), "no metadata server"),
        (ok("a.b.c", FLAVOR, "Location: http://evil.example/", status="302 Found"), "status 302"),
        (ok("no account", FLAVOR, status="404 Not Found"), "status 404"),
        (ok("", FLAVOR), "with nothing"),
        (ok("<html>", FLAVOR), "something else than a token"),
        (ok(b"\xff.b.c", FLAVOR), "other than UTF-8"),
        (ok("ä.b.c", FLAVOR), "something else than a token"),
        (ok("x" * (MAX_ANSWER + 1), FLAVOR), "longer than"),
        (b"", "metadata server"),
    ],
    ids=["flavor", "case", "redirect", "missing", "empty", "html", "bytes", "letters", "large", "closed"],
)
async def test_what_is_no_token_is_not_sent(answer, why):
    async with WebServer(lambda head: answer) as server:
        with pytest.raises(NodeAttestationError, match=why):
            await of(server).payload()
        assert len(server.requests) == 1


async def test_a_server_that_hangs_is_given_up(monkeypatch):
    monkeypatch.setattr("attestor.node.metadata.TIMEOUT", 0.05)
    async with WebServer(lambda head: None) as server:
        with pytest.raises(NodeAttestationError, match="did not answer within"):
            await of(server).payload()


async def test_a_token_may_be_of_another_account_of_the_instance():
    async with WebServer(lambda head: ok("a.b.c", FLAVOR)) as server:
        assert await of(server, service_account="a@b.example").payload() == b"a.b.c"
        assert "/service-accounts/a%40b.example/identity?" in server.requests[0]


async def test_a_challenge_is_not_answered():
    with pytest.raises(NodeAttestationError, match="challenge"):
        await machine.create(machine.Config()).respond(b"nonce")


@pytest.mark.parametrize(
    "options",
    [
        {"service_account": "../../project"},
        {"service_account": ""},
        {"identity_token_host": ""},
        {"identity_token_host": "http://a"},
        {"identity_token_host": "a/b"},
        {"identity_token_host": "a:b"},
        {"identity_token_host": "a:99999"},
        {"identity_token_host": "u@a"},
        {"identity_token_host": "[::1"},
    ],
    ids=str,
)
def test_a_table_of_the_attestor_is_checked(options):
    with pytest.raises(ConfigError):
        machine.create(machine.Config(**options))

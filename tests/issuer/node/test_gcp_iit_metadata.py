# SPDX-License-Identifier: Apache-2.0
"""What Google's Compute API says of an instance is stated; while it does not say, nobody is let in."""

import asyncio
import json
import traceback
from datetime import UTC, datetime, timedelta

import pytest
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

from issuer.errors import NodeRejectedError, PlatformUnavailableError
from issuer.node import google_compute
from issuer.node.gcp_iit import Config, create, create_with
from issuer.node.google_compute import MAX_ANSWER, MAX_FACTS, MAX_KEY_FILE, MAX_TOKEN_ANSWER
from spiffekit.daemon.config import ConfigError
from spiffekit.jws import Jws
from spiffekit.selector import Selector, typo
from tests.fakes.clock import FakeClock
from tests.fakes.web import ok
from tests.issuer.node.google import COMPUTE, INSTANCE, KEY, Compute, Google, bearer
from tests.issuer.node.x509pop_node import Context
from tests.issuer.strategies import a_node

ASKING = Config(
    ("project-1",),
    use_instance_metadata=True,
    allowed_label_keys=("env", "team", "other"),
    allowed_metadata_keys=("role", "empty", "other"),
)
ACCOUNT = "issuer@project-1.iam.gserviceaccount.com"
FLAVOR = "Metadata-Flavor: Google"
TOLD = {
    "gcp_iit:project-id:project-1",
    "gcp_iit:zone:us-west1-b",
    "gcp_iit:instance-name:web-1",
    "gcp_iit:sa:web@project-1.iam.gserviceaccount.com",
}
ASKED = {
    "gcp_iit:tag:web",
    "gcp_iit:tag:public",
    "gcp_iit:label:env:prod",
    "gcp_iit:label:team:",
    "gcp_iit:metadata:role:front:1",
    "gcp_iit:metadata:empty:",
}


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
async def compute():
    async with Compute() as made:
        yield made


@pytest.fixture
def made(google, compute, clock):
    """Make a verifier by a configuration."""
    return lambda config: create_with(
        config, google.server.peer, clock, compute=compute.api.peer, metadata=compute.metadata.peer
    )


@pytest.fixture
def verifier(made):
    return made(ASKING)


@pytest.fixture
def verify(google, verifier):
    return lambda **changes: verifier.verify(google.instance(**changes), unasked, Context())


def texts(selectors):
    return {str(selector) for selector in selectors}


async def test_what_the_api_says_of_an_instance_is_stated(verify, compute):
    proof = await verify()
    assert texts(proof.selectors) == TOLD | ASKED
    assert not any(map(typo, proof.selectors))
    (asked,) = compute.api.requests
    assert asked.startswith("GET /compute/v1/projects/project-1/zones/us-west1-b/instances/web-1?fields=id,")
    (asked,) = compute.metadata.requests
    assert asked.startswith("GET /computeMetadata/v1/instance/service-accounts/default/token HTTP/1.1\r\n")


async def test_keys_that_are_not_allowed_are_not_stated(google, made, compute):
    compute.described["metadata"]["items"].append({"key": "startup-script", "value": "#!\n" * 80_000})
    proof = await made(Config(("project-1",), use_instance_metadata=True)).verify(
        google.token(), unasked, Context()
    )
    assert texts(proof.selectors) == TOLD | {"gcp_iit:tag:web", "gcp_iit:tag:public"}


async def test_the_api_is_not_asked_unless_it_is_to_be(google, made, compute):
    proof = await made(Config(("project-1",))).verify(google.token(), unasked, Context())
    assert texts(proof.selectors) == TOLD
    assert compute.api.requests == compute.metadata.requests == []


async def test_an_instance_of_which_nothing_is_said_has_nothing_more(verify, compute):
    compute.described = {"id": INSTANCE["instance_id"], "status": "RUNNING"}
    assert texts((await verify()).selectors) == TOLD


@pytest.mark.parametrize(
    ("changes", "why"),
    [
        ({"id": "152986662232938450"}, "another one of that name"),
        ({"id": ""}, "another one of that name"),
        ({"status": "TERMINATED"}, "does not run"),
        ({"status": "running"}, "does not run"),
        ({"metadata": {"items": [{"key": "role", "value": "x" * 129}]}}, "'role' is longer than 128 bytes"),
        ({"metadata": {"items": [{"key": "role", "value": "ä" * 65}]}}, "'role' is longer than 128 bytes"),
        ({"metadata": {"items": [{"key": "role", "value": "a\nb"}]}}, "control character"),
        ({"tags": {"items": ["a\nb"]}}, "control character"),
        ({"labels": {"env": "x" * 9000}}, "longer than"),
    ],
    ids=lambda value: str(value)[:40],
)
async def test_an_instance_that_is_not_as_it_has_to_be_is_refused(verify, verifier, compute, changes, why):
    known = a_node(f"gcp_iit/project-1/{INSTANCE['instance_id']}", selectors=(await verify()).selectors)
    compute.described |= changes
    with pytest.raises(NodeRejectedError, match=why):
        await verify()
    with pytest.raises(NodeRejectedError, match=why):
        await verifier.refresh(known)


async def test_an_instance_that_is_gone_is_refused(verify, compute):
    compute.api.answer = lambda head: ok("{}", status="404 Not Found")
    with pytest.raises(NodeRejectedError, match="does not exist"):
        await verify()


@pytest.mark.parametrize("name", ["", "..", "a/b", "a?b", "a%2fb", "A", "a b", "x" * 64])
@pytest.mark.parametrize("part", ["zone", "instance_name"])
async def test_nothing_else_can_be_asked_by_a_name(verify, compute, part, name):
    with pytest.raises(NodeRejectedError, match="zone or a name"):
        await verify(**{part: name})
    assert compute.api.requests == compute.metadata.requests == []


ANSWERS = {
    "array": lambda head: ok("[]"),
    "no id": lambda head: ok('{"status": "RUNNING"}'),
    "number": lambda head: ok('{"id": 152986662232938449, "status": "RUNNING"}'),
    "bytes": lambda head: ok(b"\xff"),
    "deep": lambda head: ok('{"x": ' * 100_000),
    "huge": lambda head: ok("x" * (MAX_ANSWER + 1)),
    "tags": lambda head: ok(
        json.dumps({"id": "1", "status": "", "tags": {"items": ["a"] * (MAX_FACTS + 1)}})
    ),
    "forbidden": lambda head: ok("{}", status="403 Forbidden"),
    "unauthorized": lambda head: ok("{}", status="401 Unauthorized"),
    "many": lambda head: ok("{}", status="429 Too Many Requests"),
    "error": lambda head: ok("{}", status="503 Service Unavailable"),
    "redirect": lambda head: ok("", "Location: https://evil.example/", status="302 Found"),
    "closed": lambda head: b"",
}


@pytest.mark.parametrize("answer", ANSWERS.values(), ids=ANSWERS)
async def test_without_an_answer_there_is_no_smaller_identity(verify, verifier, compute, answer):
    known = a_node(f"gcp_iit/project-1/{INSTANCE['instance_id']}", selectors=(await verify()).selectors)
    compute.api.answer = answer
    for asked in (verify(), verifier.refresh(known)):
        with pytest.raises(PlatformUnavailableError, match="cannot be asked"):
            await asked


@pytest.mark.parametrize(
    "answer",
    [
        ok('{"access_token": "SECRET", "expires_in": 3599}'),
        ok("SECRET", FLAVOR, status="404 Not Found"),
        ok('{"access_token": "SECRET\\r\\nx: y", "expires_in": 3599}', FLAVOR),
        ok('{"access_token": "", "expires_in": 3599}', FLAVOR),
        ok('{"access_token": "SECRET"}', FLAVOR),
        ok("[" * 16_000, FLAVOR),
        ok("x" * (MAX_TOKEN_ANSWER + 1), FLAVOR),
        b"",
    ],
    ids=["flavor", "missing", "header", "empty", "no end", "deep", "large", "closed"],
)
async def test_without_a_token_nothing_is_asked(verify, compute, answer):
    compute.metadata.answer = lambda head: answer
    with pytest.raises(PlatformUnavailableError) as raised:
        await verify()
    assert compute.api.requests == []
    assert "SECRET" not in "".join(traceback.format_exception(raised.value))


@pytest.mark.parametrize("who", ["api", "metadata"])
async def test_who_hangs_is_given_up(monkeypatch, verify, compute, who):
    monkeypatch.setattr(google_compute, "TIMEOUT", 0.05)
    getattr(compute, who).answer = lambda head: None
    with pytest.raises(PlatformUnavailableError, match=r"no answer within 0\.05 s"):
        await verify()


async def test_the_api_is_asked_at_google_alone(google, compute, clock):
    peer = compute.api.peer
    verifier = create_with(
        ASKING,
        google.server.peer,
        clock,
        compute=type(peer)(peer.host, peer.port, peer.tls, "www.example.org"),
        metadata=compute.metadata.peer,
    )
    with pytest.raises(PlatformUnavailableError):
        await verifier.verify(google.token(), unasked, Context())
    assert compute.api.requests == []
    peer = create(ASKING)._compute._peer
    assert (str(peer), peer.tls.check_hostname) == (f"{COMPUTE}:443", True)


async def test_a_token_is_kept_until_shortly_before_its_end(verify, compute, clock):
    compute.lasts = 600
    await asyncio.gather(*(verify() for _ in range(20)))
    await clock.advance(timedelta(seconds=539))
    await verify()
    assert compute.tokens == 1
    await clock.advance(timedelta(seconds=1))
    await verify()
    assert compute.tokens == 2


async def test_a_token_that_has_ended_before_its_time_is_fetched_anew(verify, compute):
    await verify()
    compute.valid = set()
    assert all(await asyncio.gather(*(verify() for _ in range(20))))
    assert compute.tokens == 2


async def test_a_token_that_is_never_good_is_not_fetched_for_ever(verify, compute):
    compute.api.answer = ANSWERS["unauthorized"]
    with pytest.raises(PlatformUnavailableError, match="status 401"):
        await verify()
    assert compute.tokens == 2


async def test_a_node_gains_and_loses_what_the_api_says_when_it_renews(verify, verifier, made, compute):
    known = a_node(f"gcp_iit/project-1/{INSTANCE['instance_id']}", selectors=(await verify()).selectors)
    compute.described |= {"tags": {"items": ["private"]}, "labels": {}, "metadata": {}}
    assert texts(await verifier.refresh(known)) == TOLD | {"gcp_iit:tag:private"}
    assert texts(await made(Config(("project-1",))).refresh(known)) == TOLD
    nameless = a_node("gcp_iit/project-1/1", selectors=frozenset({Selector("gcp_iit", "tag:web")}))
    with pytest.raises(NodeRejectedError, match="zone or a name"):
        await verifier.refresh(nameless)


def key_file(folder, *, key=KEY, **changes):
    pem = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()).decode()
    path = folder / "key.json"
    content = {"type": "service_account", "client_email": ACCOUNT, "private_key_id": "k7", "private_key": pem}
    path.write_text(json.dumps(content | changes))
    return path


async def test_the_issuer_asks_by_a_service_account_whose_key_it_has(tmp_path, google, made, compute, clock):
    compute.api.answer = lambda head: ok(json.dumps(compute.described))
    options = {"use_instance_metadata": True, "service_account_file": key_file(tmp_path)}
    verifier = made(Config(("project-1",), **options))
    await verifier.verify(google.token(), unasked, Context())
    token = Jws.parse_unverified(bearer(compute.api.requests[0]), ("RS256",))
    token.check_signature(KEY.public_key())
    now = int(clock.now().timestamp())
    assert token.key_id() == "k7"
    assert token.payload == {
        "iss": ACCOUNT,
        "sub": ACCOUNT,
        "aud": "https://compute.googleapis.com/",
        "iat": now,
        "exp": now + 3600,
    }
    assert compute.metadata.requests == []


@pytest.mark.parametrize(
    "changes",
    [
        {"private_key": "SECRET"},
        {"private_key": None},
        {"client_email": None},
        {"private_key_id": 1},
        {"key": ec.generate_private_key(ec.SECP256R1())},
        {"padding": "x" * MAX_KEY_FILE},
    ],
    ids=["no key", "none", "nobody", "number", "curve", "large"],
)
def test_a_file_without_the_key_of_an_account_is_refused(tmp_path, changes):
    path = key_file(tmp_path, **changes)
    with pytest.raises(ConfigError, match=r"service_account_file: .*key\.json") as raised:
        create(Config(("project-1",), use_instance_metadata=True, service_account_file=path))
    shown = "".join(traceback.format_exception(raised.value))
    assert "SECRET" not in shown
    assert "BEGIN" not in shown


@pytest.mark.parametrize(
    ("options", "why"),
    [
        ({"use_instance_metadata": True, "allowed_label_keys": ("",)}, "allowed_label_keys"),
        ({"use_instance_metadata": True, "allowed_metadata_keys": ("a:b",)}, "allowed_metadata_keys"),
        ({"allowed_label_keys": ("env",)}, "use_instance_metadata"),
        ({"allowed_metadata_keys": ("role",)}, "use_instance_metadata"),
        ({"service_account_file": "key.json"}, "use_instance_metadata"),
    ],
    ids=str,
)
def test_a_table_that_cannot_be_meant_is_refused(options, why):
    with pytest.raises(ConfigError, match=why):
        create(Config(("project-1",), **options))

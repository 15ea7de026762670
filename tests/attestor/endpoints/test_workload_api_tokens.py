# SPDX-License-Identifier: Apache-2.0
"""JWT-SVIDs that the Workload API hands out, and those that it judges."""

import asyncio
import logging
from datetime import timedelta

import grpc
import pytest
from google.protobuf.json_format import MessageToDict

from attestor.endpoints.workload_api import MAX_AUDIENCE_BYTES, MAX_AUDIENCES
from attestor.errors import AttestorError, IssuerUnavailableError, IssuerUntrustedError, NodeBannedError
from spiffekit.jwk import decode_base64url, encode_base64url
from spiffekit.jwtsvid import JwtSvid
from spiffekit.testing import TestCA
from tests.attestor.factory import entry

Code = grpc.StatusCode
DENIED = (Code.PERMISSION_DENIED, "no identity issued")
OWN = "spiffe://example.org"
WEB, DB = f"{OWN}/web", f"{OWN}/db"
MINUTE = timedelta(minutes=1)


@pytest.fixture
def two(world):
    """A node whose caller has two identities."""
    world.grant(entry("web", hint="internal"), entry("db", created=1))
    return world


def subjects(answer, *audience):
    """Who the tokens are for; each has the ID that the answer says, and all of the audience."""
    found = [JwtSvid.parse_unverified(svid.svid, audience) for svid in answer.svids]
    assert [str(svid.spiffe_id) for svid in found] == [svid.spiffe_id for svid in answer.svids]
    assert all(svid.audience == audience for svid in found)
    return [svid.spiffe_id for svid in answer.svids]


@pytest.mark.requirement("WLAPI-33", "WLAPI-34", "WLAPI-36")
async def test_there_is_a_token_for_each_identity_and_all_of_the_audience(two):
    async with two.serving() as client:
        answer = await client.answer("FetchJWTSVID", audience=["one", "two"])
    assert subjects(answer, "one", "two") == [WEB, DB]
    assert [svid.hint for svid in answer.svids] == ["internal", ""]


@pytest.mark.requirement("WLAPI-35", "WLAPI-36")
async def test_an_id_that_is_asked_for_is_the_only_one(two):
    async with two.serving() as client:
        answer = await client.answer("FetchJWTSVID", audience=["a"], spiffe_id=DB)
    assert subjects(answer, "a") == [DB]


@pytest.mark.requirement("WLAPI-37")
async def test_of_entries_with_one_hint_only_the_oldest_has_a_token(world):
    world.grant(
        entry("young", hint="h", created=2), entry("old", hint="h", created=1), entry("plain", created=3)
    )
    async with world.serving() as client:
        answer = await client.answer("FetchJWTSVID", audience=["a"])
    assert subjects(answer, "a") == [f"{OWN}/old", f"{OWN}/plain"]


async def test_tokens_wait_for_no_x509_svid(world):
    world.register(entry("web"))
    async with world.serving() as client:
        assert subjects(await client.answer("FetchJWTSVID", audience=["a"]), "a") == [WEB]


@pytest.mark.requirement("WLAPI-39", "WEP-22")
@pytest.mark.parametrize("wanted", [f"{OWN}/other", "spiffe://other.org/web", OWN])
async def test_an_id_that_the_caller_lacks_is_denied(two, wanted):
    async with two.serving() as client:
        assert await client.refusal("FetchJWTSVID", audience=["a"], spiffe_id=wanted) == DENIED
    assert "new_jwt_svid" not in two.issuer.calls


@pytest.mark.requirement("WLAPI-15", "WLAPI-33", "WLAPI-35")
@pytest.mark.parametrize(
    ("fields", "message"),
    [
        pytest.param({}, "audience must be specified", id="none"),
        pytest.param({"audience": ["", ""]}, "audience must be specified", id="empty"),
        pytest.param(
            {"audience": ["a"] * (MAX_AUDIENCES + 1)}, f"more than {MAX_AUDIENCES} audiences", id="many"
        ),
        pytest.param(
            {"audience": ["a", "ä" * (MAX_AUDIENCE_BYTES // 2) + "b"]},
            f"audience is longer than {MAX_AUDIENCE_BYTES} bytes",
            id="long",
        ),
        pytest.param(
            {"audience": ["a"], "spiffe_id": "http://x"}, "invalid requested SPIFFE ID: ", id="no-id"
        ),
        pytest.param(
            {"audience": ["a"], "spiffe_id": "spiffe://Example.org/web"},
            "invalid requested SPIFFE ID: ",
            id="upper-case",
        ),
    ],
)
async def test_what_is_asked_for_wrongly_is_invalid(two, fields, message):
    async with two.serving() as client:
        code, details = await client.refusal("FetchJWTSVID", **fields)
    assert code is Code.INVALID_ARGUMENT
    assert details.startswith(message)
    assert "new_jwt_svid" not in two.issuer.calls


async def test_as_much_as_may_be_asked_for_is_answered(two):
    audience = ["b" * MAX_AUDIENCE_BYTES, *(f"a{n}" for n in range(MAX_AUDIENCES - 1))]
    async with two.serving() as client:
        assert subjects(await client.answer("FetchJWTSVID", audience=audience), *audience) == [WEB, DB]
        assert subjects(await client.answer("FetchJWTSVID", audience=["", "a"]), "a") == [WEB, DB]


@pytest.mark.requirement("WEP-20")
@pytest.mark.parametrize(
    "error",
    [IssuerUnavailableError, IssuerUntrustedError, NodeBannedError, AttestorError],
    ids=lambda error: error.__name__,
)
async def test_without_the_issuer_it_is_unavailable_and_the_log_says_why(two, error, caplog):
    two.issuer.error = error("secret of the network")
    async with two.serving() as client:
        answered = await client.refusal("FetchJWTSVID", audience=["a"])
    assert answered == (Code.UNAVAILABLE, "could not fetch JWT-SVID")
    assert [record.reason for record in caplog.records if record.levelno >= logging.WARNING] == [
        "secret of the network"
    ]


async def test_a_token_is_handed_out_again_while_it_is_fresh(two):
    async with two.serving() as client:
        first = await client.answer("FetchJWTSVID", audience=["a"], spiffe_id=WEB)
        assert await client.answer("FetchJWTSVID", audience=["a"], spiffe_id=WEB) == first
        await two.clock.advance(3 * MINUTE)
        assert await client.answer("FetchJWTSVID", audience=["a"], spiffe_id=WEB) != first


# What is judged. Our own trust domain's authority is `world.ca`, another's `world.other`.


def judge(client, token, audience="db"):
    return client.answer("ValidateJWTSVID", audience=audience, svid=token)


async def refused(client, token, audience="db"):
    code, details = await client.refusal("ValidateJWTSVID", audience=audience, svid=token)
    assert code is Code.INVALID_ARGUMENT
    return details


@pytest.mark.requirement("WLAPI-47", "WLAPI-49")
async def test_a_good_token_is_answered_with_its_subject_and_all_of_its_claims(two):
    nested = {"b": [1, "c", None, {"d": True}]}
    token = two.ca.jwt(WEB, ["db", "other"], claims={"a": nested, "iss": "us"})
    async with two.serving() as client:
        answer = await judge(client, token)
    assert answer.spiffe_id == WEB
    claims = MessageToDict(answer.claims)
    now = two.clock.now().timestamp()
    assert claims == {
        "sub": WEB,
        "aud": ["db", "other"],
        "exp": now + 3600,
        "iat": now,
        "iss": "us",
        "a": nested,
    }


@pytest.mark.requirement("WLAPI-47")
async def test_the_audience_is_always_a_list(two):
    async with two.serving() as client:
        answer = await judge(client, two.ca.jwt(WEB, claims={"aud": "db"}))
    assert list(answer.claims["aud"]) == ["db"]


@pytest.mark.requirement("WLAPI-15", "WLAPI-49")
async def test_both_fields_are_mandatory(two):
    async with two.serving() as client:
        assert await refused(client, two.ca.jwt(WEB, ["db"]), "") == "audience must be specified"
        assert await refused(client, "") == "svid must be specified"


def tampered(token):
    head, payload, signature = token.split(".")
    other = decode_base64url(payload).replace(b"/web", b"/api")
    return f"{head}.{encode_base64url(other)}.{signature}"


def past(**span):
    return {"lifetime": -timedelta(**span)}


def claims(**values):
    return {"claims": values}


def header(**values):
    return {"header": values}


EXP = 1767225600  # 2026-01-01, where the clock stands
GOOD = {
    "audience-as-text": claims(aud="db"),
    "typ-absent": header(typ=None),
    "typ-jose": header(typ="JOSE"),
    "unknown-header": header(jku="https://evil.test/keys"),
    "fraction-of-a-second": claims(exp=EXP + 60.5),
    "expired-within-the-leeway": past(seconds=20),
    "early-within-the-leeway": claims(nbf=EXP + 20),
    "issued-in-the-future": claims(iat=EXP + 3600),
}
BAD = {
    "no-audience": claims(aud=None),
    "empty-audience": claims(aud=[]),
    "other-audience": claims(aud=["other"]),
    "no-expiry": claims(exp=None),
    "text-as-expiry": claims(exp=str(EXP + 60)),
    "expired": past(seconds=40),
    "early": claims(nbf=EXP + 3600),
    "no-subject": claims(sub=None),
    "subject-of-another-kind": claims(sub="https://example.org/web"),
    "subject-without-path": claims(sub=OWN),
    "typ-lower-case": header(typ="jwt"),
    "typ-wit": header(typ="wit+jwt"),
    "no-key-id": header(kid=None),
    "unknown-key-id": header(kid="another"),
    "alg-none": header(alg="none"),
    "alg-symmetric": header(alg="HS256"),
    "alg-of-another-curve": header(alg="ES384"),
    "critical": header(crit=["b64"]),
}
FORMS = {
    "tampered": tampered,
    "unsigned": lambda token: token.rpartition(".")[0] + ".",
    "two-parts": lambda token: token.rpartition(".")[0],
    "four-parts": lambda token: token + ".AAAA",
    "padded": lambda token: token + "=",
    "json": lambda token: f'{{"payload": "{token}"}}',
    "words": lambda _: "not a token",
    "long": lambda token: token + "A" * 65536,
}


@pytest.mark.requirement("WLAPI-46")
@pytest.mark.parametrize("name", GOOD)
async def test_what_the_standard_lets_pass_passes(two, name):
    async with two.serving() as client:
        assert (await judge(client, two.ca.jwt(WEB, ["db"], **GOOD[name]))).spiffe_id == WEB


@pytest.mark.requirement("WLAPI-46")
@pytest.mark.parametrize("name", BAD)
async def test_what_the_standard_forbids_is_invalid(two, name):
    async with two.serving() as client:
        assert await refused(client, two.ca.jwt(WEB, ["db"], **BAD[name]))


@pytest.mark.requirement("WLAPI-46")
@pytest.mark.parametrize("form", FORMS)
async def test_what_is_no_whole_token_is_invalid(two, form):
    async with two.serving() as client:
        assert await refused(client, FORMS[form](two.ca.jwt(WEB, ["db"])))


@pytest.mark.requirement("WLAPI-46", "WLAPI-51")
async def test_a_token_is_judged_by_the_bundle_of_its_own_trust_domain_alone(world):
    world.grant(entry("web", federates_with=["other.org"]), bundles=[world.other.bundle])
    async with world.serving() as client:
        assert (await judge(client, world.other.jwt("spiffe://other.org/api", ["db"]))).spiffe_id
        ours, theirs = world.other.jwt(WEB, ["db"]), world.ca.jwt("spiffe://other.org/api", ["db"])
        assert await refused(client, ours) == await refused(client, theirs) == "signature is not good"


async def test_who_does_not_federate_cannot_judge_another_trust_domains_tokens(two):
    two.cache.apply(entries=(), bundles=[two.other.bundle])
    async with two.serving() as client:
        details = await refused(client, two.other.jwt("spiffe://other.org/api", ["db"]))
    assert details == "no bundle for trust domain other.org"


async def test_who_has_no_identity_may_judge_our_own_tokens_only(world):
    world.grant(entry("web", "unix:uid:2", federates_with=["other.org"]), bundles=[world.other.bundle])
    async with world.serving() as client:
        assert (await judge(client, world.ca.jwt(WEB, ["db"]))).spiffe_id == WEB
        assert await refused(client, world.other.jwt("spiffe://other.org/api", ["db"]))


@pytest.mark.requirement("WLAPI-48")
@pytest.mark.parametrize(
    ("allowed", "expected"),
    [((), {"sub", "aud", "exp"}), (("tenant", "absent"), {"sub", "aud", "exp", "tenant"})],
    ids=["none-allowed", "one-allowed"],
)
async def test_of_another_trust_domains_token_only_claims_that_mean_something_here_are_told(
    make_world, allowed, expected
):
    world = make_world(foreign_claims=allowed)
    world.grant(entry("web", federates_with=["other.org"]), bundles=[world.other.bundle])
    extra = {"tenant": "t", "admin": True}
    async with world.serving() as client:
        theirs = await judge(client, world.other.jwt("spiffe://other.org/api", ["db"], claims=extra))
        ours = await judge(client, world.ca.jwt(WEB, ["db"], claims=extra))
    assert set(theirs.claims) == expected
    assert set(ours.claims) == {"sub", "aud", "exp", "iat", "tenant", "admin"}


@pytest.mark.parametrize("value", [10**400, -(10**400), [[10**400]]], ids=["large", "small", "within"])
async def test_a_number_that_the_answer_cannot_hold_makes_the_token_invalid(two, value):
    async with two.serving() as client:
        details = await refused(client, two.ca.jwt(WEB, ["db"], claims={"a": value}))
    assert details == "token has a claim that cannot be passed on"


async def test_keys_of_a_bundle_that_goes_judge_no_longer(world):
    world.grant(entry("web", federates_with=["other.org"]), bundles=[world.other.bundle])
    token = world.other.jwt("spiffe://other.org/api", ["db"])
    async with world.serving() as client:
        assert await judge(client, token)
        renewed = TestCA("other.org", now=world.clock.now())
        renewed.key_id = "renewed"
        world.cache.apply(entries=(), bundles=[renewed.bundle])
        assert await refused(client, token) == "no JWT authority 'test-key' in the bundle of other.org"


async def test_many_calls_at_once_are_all_answered(two):
    async with two.serving() as client:
        answers = await asyncio.gather(
            *(client.answer("FetchJWTSVID", audience=[f"a{n % 3}"]) for n in range(50))
        )
    assert all(subjects(answer, f"a{n % 3}") == [WEB, DB] for n, answer in enumerate(answers))

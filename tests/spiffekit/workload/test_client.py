# SPDX-License-Identifier: Apache-2.0
"""The client of the Workload API against a server that says what the test tells it to."""

import asyncio

import grpc
import pytest

from spiffekit.errors import (
    AddressError,
    NoIdentityIssuedError,
    UnknownTrustDomainError,
    WorkloadApiError,
    WorkloadApiRejectedError,
    WorkloadApiUnavailableError,
)
from spiffekit.id import SpiffeId, TrustDomain
from spiffekit.workload import WorkloadApi
from tests.spiffekit.workload.conftest import x509_message

WEB = "spiffe://example.org/web"
OTHER = TrustDomain("other.test")


async def test_the_first_answer_has_every_identity_and_bundle(api, path, ca, other_ca):
    web, db = ca.issue(WEB), ca.issue("spiffe://example.org/db", hint="internal")
    api.say("FetchX509SVID", x509_message(api, ca, web, db, federated=[other_ca], crls=[b"crl"]))
    async with api.serving(path) as address, WorkloadApi.connect(address) as client:
        update = await client.fetch_x509()
    assert [str(s.spiffe_id) for s in update.svids] == [WEB, "spiffe://example.org/db"]
    assert update.x509_svid() == web
    assert update.x509_svid("internal").spiffe_id == db.spiffe_id
    assert update.bundle_for(OTHER).x509_der() == other_ca.bundle.x509_der()
    assert update.crls == (b"crl",)
    assert web.private_key_der.hex()[:40] not in repr(update)


@pytest.mark.requirement("WLAPI-69")
async def test_a_hint_that_is_not_there_is_an_error_of_its_own(api, path, ca):
    api.say("FetchX509SVID", x509_message(api, ca, ca.issue(WEB)))
    async with api.serving(path) as address, WorkloadApi.connect(address) as client:
        update = await client.fetch_x509()
    with pytest.raises(NoIdentityIssuedError, match="no identity issued with hint 'x'"):
        update.x509_svid("x")


@pytest.mark.requirement("WEP-06")
async def test_every_call_carries_the_security_header(api, path, ca):
    api.say("FetchX509SVID", x509_message(api, ca, ca.issue(WEB)))
    own = {f"spiffe://{ca.trust_domain}": ca.bundle.x509_der()}
    api.say("FetchX509Bundles", api.messages["X509BundlesResponse"](bundles=own))
    keys = {f"spiffe://{ca.trust_domain}": ca.bundle.to_jwt_jwks()}
    api.say("FetchJWTBundles", api.messages["JWTBundlesResponse"](bundles=keys))
    svid = api.messages["JWTSVID"](spiffe_id=WEB, svid=ca.jwt(WEB, ["db"]))
    api.answers["FetchJWTSVID"] = lambda _: api.messages["JWTSVIDResponse"](svids=[svid])
    api.answers["ValidateJWTSVID"] = lambda _: api.messages["ValidateJWTSVIDResponse"](spiffe_id=WEB)
    async with api.serving(path) as address, WorkloadApi.connect(address) as client:
        await client.fetch_x509()
        await client.fetch_x509_bundles()
        await client.fetch_jwt_bundles()
        await client.fetch_jwt_svids(["db"])
        await client.validate_jwt_svid("token", "db")
    assert {name for name, _ in api.calls} == {
        "FetchX509SVID",
        "FetchX509Bundles",
        "FetchJWTBundles",
        "FetchJWTSVID",
        "ValidateJWTSVID",
    }
    assert all(metadata["workload.spiffe.io"] == "true" for _, metadata in api.calls)


@pytest.mark.requirement("WEP-28")
async def test_nothing_but_the_workload_api_is_asked_for(api, path, ca):
    api.say("FetchX509SVID", x509_message(api, ca, ca.issue(WEB)))  # the server has no reflection
    async with api.serving(path) as address, WorkloadApi.connect(address) as client:
        assert (await client.fetch_x509()).x509_svid().spiffe_id == SpiffeId.parse(WEB)


@pytest.mark.parametrize(
    ("code", "expected"),
    [
        pytest.param(grpc.StatusCode.PERMISSION_DENIED, NoIdentityIssuedError, id="denied"),
        pytest.param(grpc.StatusCode.INVALID_ARGUMENT, WorkloadApiRejectedError, id="invalid"),
        pytest.param(grpc.StatusCode.UNIMPLEMENTED, WorkloadApiError, id="unimplemented"),
        pytest.param(grpc.StatusCode.UNAVAILABLE, WorkloadApiUnavailableError, id="unavailable"),
        pytest.param(grpc.StatusCode.INTERNAL, WorkloadApiUnavailableError, id="internal"),
    ],
)
async def test_a_status_becomes_what_the_caller_can_do_about_it(api, path, code, expected):
    api.refuse(code, "the reason")
    async with api.serving(path) as address, WorkloadApi.connect(address) as client:
        with pytest.raises(expected, match=rf"FetchX509SVID: the reason \({code.name}\)") as caught:
            await client.fetch_x509()
        assert type(caught.value) is expected
        with pytest.raises(expected, match="FetchJWTSVID"):
            await client.fetch_jwt_svids(["db"])


@pytest.mark.requirement("WLAPI-24", "WLAPI-38")
async def test_the_first_of_a_hint_wins_and_empty_hints_are_all_kept(api, path, ca):
    svids = [
        ca.issue(f"spiffe://example.org/{name}", hint=hint)
        for name, hint in [("a", "h"), ("b", "h"), ("c", ""), ("d", "")]
    ]
    api.say("FetchX509SVID", x509_message(api, ca, *svids))
    jwt = api.messages["JWTSVID"]
    tokens = [
        jwt(spiffe_id=str(s.spiffe_id), svid=ca.jwt(str(s.spiffe_id), ["db"]), hint=s.hint) for s in svids
    ]
    api.answers["FetchJWTSVID"] = lambda _: api.messages["JWTSVIDResponse"](svids=tokens)
    async with api.serving(path) as address, WorkloadApi.connect(address) as client:
        x509 = [s.spiffe_id.path for s in (await client.fetch_x509()).svids]
        tokens = [s.spiffe_id.path for s in await client.fetch_jwt_svids(["db"])]
    assert x509 == tokens == ["/a", "/c", "/d"]


@pytest.mark.requirement("WLAPI-16")
@pytest.mark.parametrize("field", ["spiffe_id", "x509_svid", "x509_svid_key"])
async def test_an_answer_without_a_mandatory_field_is_refused(api, path, ca, field):
    message = x509_message(api, ca, ca.issue(WEB))
    message.svids[0].ClearField(field)
    api.say("FetchX509SVID", message)
    async with api.serving(path) as address, WorkloadApi.connect(address) as client:
        with pytest.raises(WorkloadApiError, match="malformed answer"):
            await client.fetch_x509()


@pytest.mark.requirement("WLAPI-16")
async def test_an_empty_answer_is_refused(api, path):
    api.say("FetchX509SVID", api.messages["X509SVIDResponse"]())
    api.answers["FetchJWTSVID"] = lambda _: api.messages["JWTSVIDResponse"]()
    async with api.serving(path) as address, WorkloadApi.connect(address) as client:
        with pytest.raises(WorkloadApiError, match="response without SVIDs"):
            await client.fetch_x509()
        with pytest.raises(NoIdentityIssuedError, match="response without SVIDs"):
            await client.fetch_jwt_svids(["db"])


@pytest.mark.requirement("WLAPI-20", "WLAPI-28", "WLAPI-40")
async def test_bundles_of_one_kind_are_never_of_use_for_the_other(api, path, ca):
    own = f"spiffe://{ca.trust_domain}"
    api.say(
        "FetchX509Bundles",
        api.messages["X509BundlesResponse"](bundles={own: ca.bundle.x509_der()}),
    )
    api.say("FetchJWTBundles", api.messages["JWTBundlesResponse"](bundles={own: ca.bundle.to_jwt_jwks()}))
    async with api.serving(path) as address, WorkloadApi.connect(address) as client:
        x509 = (await client.fetch_x509_bundles()).bundle_for(ca.trust_domain)
        jwt = (await client.fetch_jwt_bundles()).bundle_for(ca.trust_domain)
    assert (len(x509.x509_authorities), len(x509.jwt_authorities)) == (1, 0)
    assert (len(jwt.x509_authorities), len(jwt.jwt_authorities)) == (0, 1)


async def test_bundles_are_watched(api, path, ca, other_ca):
    watches = {
        "FetchX509Bundles": (WorkloadApi.watch_x509_bundles, "X509BundlesResponse", "x509_der"),
        "FetchJWTBundles": (WorkloadApi.watch_jwt_bundles, "JWTBundlesResponse", "to_jwt_jwks"),
    }
    async with api.serving(path) as address, WorkloadApi.connect(address) as client:
        for name, (watch, kind, form) in watches.items():
            updates = watch(client)
            for granted in ([ca], [ca, other_ca], [other_ca]):
                bundles = {f"spiffe://{c.trust_domain}": getattr(c.bundle, form)() for c in granted}
                api.say(name, api.messages[kind](bundles=bundles))
                update = await asyncio.wait_for(anext(updates), 5)
                assert {bundle.trust_domain for bundle in update} == {c.trust_domain for c in granted}
            await updates.aclose()


async def test_a_stream_that_ends_before_its_first_message_is_no_answer(api, path):
    api.end()
    async with api.serving(path) as address, WorkloadApi.connect(address) as client:
        with pytest.raises(WorkloadApiUnavailableError, match="FetchX509SVID ended without an answer"):
            await client.fetch_x509()


async def test_one_malformed_federated_bundle_costs_only_its_own_trust_domain(api, path, ca, other_ca):
    message = x509_message(api, ca, ca.issue(WEB), federated=[other_ca])
    message.federated_bundles["spiffe://broken.test"] = b"garbage"
    api.say("FetchX509SVID", message)
    async with api.serving(path) as address, WorkloadApi.connect(address) as client:
        update = await client.fetch_x509()
    assert update.bundle_for(OTHER)
    with pytest.raises(UnknownTrustDomainError):
        update.bundle_for(TrustDomain("broken.test"))


@pytest.mark.requirement("WEP-09")
async def test_the_address_comes_from_the_argument_or_the_environment(api, path, ca, monkeypatch):
    api.say("FetchX509SVID", x509_message(api, ca, ca.issue(WEB)))
    with pytest.raises(AddressError, match="give one or set SPIFFE_ENDPOINT_SOCKET"):
        async with WorkloadApi.connect():
            pass
    async with api.serving(path) as address:
        monkeypatch.setenv("SPIFFE_ENDPOINT_SOCKET", address)
        async with WorkloadApi.connect() as client:
            assert await client.fetch_x509()
        monkeypatch.setenv("SPIFFE_ENDPOINT_SOCKET", "unix:///nowhere")
        async with WorkloadApi.connect(address) as client:
            assert await client.fetch_x509()


@pytest.mark.requirement("WLAPI-50")
async def test_a_token_is_judged_by_the_endpoint(api, path):
    asked = []

    def answer(request):
        asked.append((request.svid, request.audience))
        response = api.messages["ValidateJWTSVIDResponse"](spiffe_id=WEB)
        response.claims.update({"sub": WEB, "aud": ["db"], "exp": 1.5, "nested": {"a": [1]}})
        return response

    api.answers["ValidateJWTSVID"] = answer
    async with api.serving(path) as address, WorkloadApi.connect(address) as client:
        validated = await client.validate_jwt_svid("token", "db")
    assert asked == [("token", "db")]
    assert str(validated.spiffe_id) == WEB
    assert validated.claims["nested"] == {"a": [1]}

# SPDX-License-Identifier: Apache-2.0
"""Sources: never half-ready, kept fresh through every interruption, emptied when nothing is granted."""

import asyncio
import itertools
from datetime import timedelta

import grpc
import pytest

from spiffekit.errors import (
    NoIdentityIssuedError,
    UnknownTrustDomainError,
    WorkloadApiError,
    WorkloadApiUnavailableError,
)
from spiffekit.id import TrustDomain
from spiffekit.workload import JwtSource, X509Source, jwt_source, x509_source
from tests.fakes.clock import FakeClock
from tests.spiffekit.workload.conftest import until, x509_message

WEB = "spiffe://example.org/web"
SHORT = timedelta(seconds=0.2)
OTHER = TrustDomain("other.test")


async def test_a_source_is_handed_out_only_with_an_identity(api, path, ca):
    async with api.serving(path) as address:
        opening = asyncio.create_task(_first_identity(address))
        await until(lambda: api.called("FetchX509SVID"))
        await asyncio.sleep(0)
        assert not opening.done()
        svid = ca.issue(WEB)
        api.say("FetchX509SVID", x509_message(api, ca, svid))
        assert await opening == svid


async def _first_identity(address):
    async with X509Source.open(address) as source:
        return source.x509_svid()


async def test_without_an_identity_in_time_it_says_why(api, path):
    async with api.serving(path) as address:
        with pytest.raises(WorkloadApiUnavailableError, match="the endpoint does not answer"):
            async with X509Source.open(address, ready_within=SHORT):
                pass
        api.refuse(grpc.StatusCode.PERMISSION_DENIED, "no identity issued")
        with pytest.raises(WorkloadApiUnavailableError, match="nothing is granted"):
            async with X509Source.open(address, ready_within=timedelta(seconds=1)):
                pass


@pytest.mark.requirement("WEP-19", "WEP-24")
@pytest.mark.parametrize("code", [grpc.StatusCode.INVALID_ARGUMENT, grpc.StatusCode.UNIMPLEMENTED])
async def test_a_refusal_for_good_is_not_tried_again(api, path, code):
    api.refuse(code, "for good")
    async with api.serving(path) as address:
        with pytest.raises(WorkloadApiError, match="for good"):
            async with X509Source.open(address):
                pass
    assert api.called("FetchX509SVID") == 1


async def test_a_refusal_for_good_later_on_leaves_what_was_granted_and_says_that_no_more_will_come(
    api, path, ca
):
    svid = ca.issue(WEB)
    api.say("FetchX509SVID", x509_message(api, ca, svid))
    async with api.serving(path) as address, X509Source.open(address) as source:
        changed = asyncio.create_task(source.changed())
        await asyncio.sleep(0)
        api.refuse(grpc.StatusCode.INVALID_ARGUMENT, "for good")
        for waiting in (changed, source.changed()):
            with pytest.raises(WorkloadApiError, match="for good"):
                await asyncio.wait_for(waiting, 5)
        assert source.x509_svid() == svid


async def test_what_an_applications_callback_does_wrong_does_not_end_the_updates(api, path, ca, caplog):
    def broken(_update):
        raise ValueError("a bug of the application")

    api.say("FetchX509SVID", x509_message(api, ca, ca.issue(WEB)))
    async with api.serving(path) as address, X509Source.open(address, on_update=broken) as source:
        renewed = ca.issue(WEB)
        api.say("FetchX509SVID", x509_message(api, ca, renewed))
        await until(lambda: source.x509_svid() == renewed)
    assert "a bug of the application" in caplog.text


@pytest.mark.requirement("WLAPI-12", "WLAPI-13", "WLAPI-14")
async def test_an_update_replaces_everything(api, path, ca, other_ca):
    first = x509_message(api, ca, ca.issue(WEB), federated=[other_ca], crls=[b"crl"])
    api.say("FetchX509SVID", first)
    async with api.serving(path) as address, X509Source.open(address) as source:
        assert source.bundle_for(OTHER)
        changed = asyncio.create_task(source.changed())
        await asyncio.sleep(0)
        renewed = ca.issue(WEB)
        api.say("FetchX509SVID", x509_message(api, ca, renewed))
        update = await changed
        assert update.crls == ()
        assert source.x509_svid() == renewed
        with pytest.raises(UnknownTrustDomainError):
            source.bundle_for(OTHER)


@pytest.mark.requirement("WLAPI-07", "WLAPI-27", "WLAPI-26")
async def test_what_is_taken_back_is_no_longer_used_and_comes_back(api, path, ca):
    api.say("FetchX509SVID", x509_message(api, ca, ca.issue(WEB)))
    async with api.serving(path) as address, X509Source.open(address) as source:
        changed = asyncio.create_task(source.changed())
        await asyncio.sleep(0)
        api.refuse(grpc.StatusCode.PERMISSION_DENIED, "no identity issued")
        await changed
        with pytest.raises(NoIdentityIssuedError):
            source.x509_svid()
        with pytest.raises(UnknownTrustDomainError):
            source.bundle_for(TrustDomain("example.org"))
        again = ca.issue(WEB)
        api.say("FetchX509SVID", x509_message(api, ca, again))
        await until(lambda: source.x509_update().svids == (again,))


@pytest.mark.requirement("WLAPI-06")
async def test_one_stream_is_kept_open_for_all_updates_and_has_no_deadline(api, path, ca):
    api.say("FetchX509SVID", x509_message(api, ca, ca.issue(WEB)))
    async with api.serving(path) as address, X509Source.open(address) as source:
        for _ in range(5):
            renewed = ca.issue(WEB)
            api.say("FetchX509SVID", x509_message(api, ca, renewed))
            await until(lambda svid=renewed: source.x509_svid() == svid)
    assert api.called("FetchX509SVID") == 1
    assert api.deadlines == [None]


async def test_an_outage_leaves_what_was_granted(api, path, ca):
    svid = ca.issue(WEB)
    message = x509_message(api, ca, svid)
    api.say("FetchX509SVID", message)
    async with api.serving(path) as address, X509Source.open(address) as source:
        api.refuse(grpc.StatusCode.UNAVAILABLE)
        await until(lambda: api.called("FetchX509SVID") > 2)
        assert source.x509_svid() == svid


async def test_a_stream_that_simply_ends_is_opened_again(api, path, ca):
    svid, renewed = ca.issue(WEB), ca.issue(WEB)
    api.say("FetchX509SVID", x509_message(api, ca, svid))
    async with api.serving(path) as address, X509Source.open(address) as source:
        api.end()
        await until(lambda: api.called("FetchX509SVID") > 1)
        assert source.x509_svid() == svid
        api.say("FetchX509SVID", x509_message(api, ca, renewed))
        await until(lambda: source.x509_svid() == renewed)


async def test_the_endpoint_may_be_restarted(api, path, ca):
    api.say("FetchX509SVID", x509_message(api, ca, ca.issue(WEB)))
    async with api.serving(path) as address:
        source_context = X509Source.open(address)
        source = await source_context.__aenter__()
    renewed = ca.issue(WEB)
    api.say("FetchX509SVID", x509_message(api, ca, renewed))
    async with api.serving(path):
        await until(lambda: source.x509_svid() == renewed)
    await source_context.__aexit__(None, None, None)


@pytest.mark.requirement("WLAPI-16")
async def test_a_malformed_update_is_discarded(api, path, ca, caplog):
    svid = ca.issue(WEB)
    api.say("FetchX509SVID", x509_message(api, ca, svid))
    async with api.serving(path) as address, X509Source.open(address) as source:
        broken = x509_message(api, ca, ca.issue(WEB))
        broken.svids[0].x509_svid_key = b"no key"
        api.say("FetchX509SVID", broken)
        await until(lambda: "update discarded" in caplog.text)
        assert source.x509_svid() == svid
    assert b"no key".hex() not in caplog.text


@pytest.mark.requirement("WLAPI-26", "WLAPI-31", "WLAPI-44", "WEP-21", "WEP-23")
@pytest.mark.parametrize("code", [grpc.StatusCode.PERMISSION_DENIED, grpc.StatusCode.UNAVAILABLE])
async def test_a_stream_that_is_refused_for_now_is_tried_again_with_growing_waits(api, path, code):
    clock = FakeClock()
    api.refuse(code)
    waits = []

    class Recording(FakeClock):
        async def sleep(self, duration):
            waits.append(duration.total_seconds())
            await clock.sleep(timedelta())

    async def drive():
        while True:
            await asyncio.sleep(0.001)
            await clock.advance(timedelta())

    driver = asyncio.create_task(drive())
    async with api.serving(path) as address:
        opening = asyncio.create_task(_open(address, Recording()))
        await until(lambda: len(waits) >= 12)
        opening.cancel()
        driver.cancel()
        await asyncio.gather(opening, driver, return_exceptions=True)
    assert 0.09 <= waits[0] <= 0.11
    assert all(later > earlier for earlier, later in itertools.pairwise(waits[:9]))
    assert max(waits) <= 33


async def _open(address, clock):
    async with X509Source.open(address, clock=clock):
        pass


async def test_it_says_when_the_endpoint_spoke_last(api, path, ca):
    clock = FakeClock()
    api.say("FetchX509SVID", x509_message(api, ca, ca.issue(WEB)))
    async with api.serving(path) as address, X509Source.open(address, clock=clock) as source:
        first = source.updated_at
        assert first == clock.now()
        clock.step(timedelta(hours=1))
        changed = asyncio.create_task(source.changed())
        await asyncio.sleep(0)
        api.say("FetchX509SVID", x509_message(api, ca, ca.issue(WEB)))
        await changed
        assert source.updated_at == first + timedelta(hours=1)


@pytest.mark.requirement("WLAPI-32", "WLAPI-45")
async def test_jwt_bundles_are_kept_fresh(api, path, ca, other_ca):
    own, other = (f"spiffe://{c.trust_domain}" for c in (ca, other_ca))
    kind = api.messages["JWTBundlesResponse"]
    both = {own: ca.bundle.to_jwt_jwks(), other: other_ca.bundle.to_jwt_jwks()}
    api.say("FetchJWTBundles", kind(bundles=both))
    updates, clock = [], FakeClock()
    async with (
        api.serving(path) as address,
        JwtSource.open(address, on_update=updates.append, clock=clock) as source,
    ):
        assert source.bundle_for(OTHER).jwt_authority("test-key")
        assert source.updated_at == clock.now()
        clock.step(timedelta(hours=1))
        api.say("FetchJWTBundles", kind(bundles={own: both[own]}))
        await until(lambda: len(updates) == 2)
        assert source.updated_at == clock.now()
        with pytest.raises(UnknownTrustDomainError):
            source.bundle_for(OTHER)


def _serve_in_a_thread(api, path):
    """Return (address, stop) of the fake on a loop of its own."""
    import threading

    loop, ready, leave = asyncio.new_event_loop(), threading.Event(), asyncio.Event()

    async def serve():
        async with api.serving(path):
            ready.set()
            await leave.wait()

    thread = threading.Thread(target=loop.run_until_complete, args=(serve(),))
    thread.start()
    assert ready.wait(5)

    def stop():
        loop.call_soon_threadsafe(leave.set)
        thread.join(5)
        loop.close()

    return f"unix://{path}", stop


def test_plain_threads_have_sources_too(api, path, ca):
    svid = ca.issue(WEB)
    api.say("FetchX509SVID", x509_message(api, ca, svid))
    own = f"spiffe://{ca.trust_domain}"
    api.say("FetchJWTBundles", api.messages["JWTBundlesResponse"](bundles={own: ca.bundle.to_jwt_jwks()}))
    token = api.messages["JWTSVID"](spiffe_id=WEB, svid=ca.jwt(WEB, ["db"]))
    api.answers["FetchJWTSVID"] = lambda _: api.messages["JWTSVIDResponse"](svids=[token])
    api.answers["ValidateJWTSVID"] = lambda _: api.messages["ValidateJWTSVIDResponse"](spiffe_id=WEB)
    address, stop = _serve_in_a_thread(api, path)
    try:
        with x509_source(address) as source, jwt_source(address) as tokens:
            assert source.x509_svid() == svid
            assert tokens.fetch(["db"]).audience == ("db",)
            assert str(tokens.validate("token", "db").spiffe_id) == WEB
            assert tokens.bundle_for(ca.trust_domain).jwt_authority("test-key")
            assert tokens.bundles.bundle_for(ca.trust_domain) == tokens.bundle_for(ca.trust_domain)
    finally:
        stop()


def test_a_thread_learns_why_there_is_no_source(tmp_path):
    with (
        pytest.raises(WorkloadApiUnavailableError, match="the endpoint does not answer"),
        x509_source(f"unix://{tmp_path}/none.sock", ready_within=SHORT),
    ):
        pass

# SPDX-License-Identifier: Apache-2.0
"""Proofs by a key that this process never holds, and the bundles to verify those of others."""

import asyncio
from datetime import timedelta

import grpc
import pytest

from spiffekit.errors import (
    NoIdentityIssuedError,
    RevokedError,
    StatusUnknownError,
    UnknownTrustDomainError,
    UntrustedError,
    WorkloadApiError,
    WorkloadApiUnavailableError,
)
from spiffekit.id import SpiffeId
from spiffekit.status import AgentStatus
from spiffekit.wire.pb.attestor.v1.signer_pb2 import SignProofResponse
from spiffekit.witsvid import Bound, Replays, WitSvid, hash_of, make_proof
from spiffekit.workload import PeerWatch, WitSource, WorkloadApi
from tests.fakes.clock import FakeClock
from tests.spiffekit.workload.conftest import until

Code = grpc.StatusCode
AGENT, TOOL = "spiffe://example.org/agent", "https://tools.example/run"


@pytest.fixture
def asked(api, ca):
    """An endpoint that signs, and what it was asked."""
    requests, key = [], ca.new_key()

    def answer(request):
        requests.append(request)
        svid = WitSvid.parse_unverified(ca.wit(AGENT, key.public_key()))
        bound = Bound("access", others={"grant": "token"}) if request.ath else Bound()
        proof = make_proof(svid, key, request.audience, now=ca.now, bound=bound)
        return SignProofResponse(wit_svid=svid.token, proof=proof)

    api.answers["SignProof"] = answer
    return requests


def say(api, *cas):
    bundles = {f"spiffe://{ca.trust_domain}": ca.wit_bundle.to_wit_jwks().decode() for ca in cas}
    api.say("FetchWITBundles", api.messages["WITBundlesResponse"](bundles=bundles))


async def test_what_is_asked_for_names_other_tokens_by_their_hash_only(api, path, asked):
    bound = Bound("access", others={"grant": "token"})
    async with api.serving(path) as address, WorkloadApi.connect(address) as client:
        subject = SpiffeId.parse(AGENT)
        presented = await client.sign_proof(TOOL, subject=subject, lifetime=timedelta(seconds=5), bound=bound)
        await client.sign_proof(TOOL)
    first, second = asked
    assert (first.audience, first.spiffe_id, first.lifetime) == (TOOL, AGENT, 5)
    assert (first.ath, first.tth, dict(first.oth)) == (hash_of("access"), "", {"grant": hash_of("token")})
    assert presented.bound == bound
    assert (second.spiffe_id, second.lifetime, second.ath) == ("", 30, "")
    assert all(metadata["workload.spiffe.io"] == "true" for _, metadata in api.calls)


@pytest.mark.parametrize(
    ("code", "kind"),
    [
        (Code.PERMISSION_DENIED, NoIdentityIssuedError),
        (Code.UNAVAILABLE, WorkloadApiUnavailableError),
        (Code.INVALID_ARGUMENT, WorkloadApiError),
    ],
    ids=str,
)
async def test_a_refusal_says_whether_to_ask_again(api, path, asked, code, kind):
    async with api.serving(path) as address, WorkloadApi.connect(address) as client:
        api.refuse(code, "words")
        with pytest.raises(kind, match="SignProof: words"):
            await client.sign_proof(TOOL)


@pytest.mark.requirement("WLAPI-53")
async def test_an_endpoint_without_the_profile_is_not_asked_again(api, path):
    async with api.serving(path) as address, WorkloadApi.connect(address) as client:
        with pytest.raises(WorkloadApiError, match="UNIMPLEMENTED"):
            await client.sign_proof(TOOL)
        with pytest.raises(WorkloadApiError, match="UNIMPLEMENTED"):
            await client.fetch_wit_bundles()
        with pytest.raises(WorkloadApiError, match="UNIMPLEMENTED"):
            async with WitSource.open(address):
                pytest.fail("it has nothing to say")


async def test_a_source_proves_and_verifies(api, path, ca, asked):
    say(api, ca)
    clock = FakeClock(ca.now)
    async with api.serving(path) as address, WitSource.open(address, clock=clock) as source:
        presented = await source.prove(TOOL)
        svid = source.verify(presented, audience=[TOOL], replays=Replays(), status=None)
        assert str(svid.spiffe_id) == AGENT
        assert source.bundles.bundle_for(ca.trust_domain) == source.bundle_for(ca.trust_domain)


@pytest.mark.requirement("WLAPI-62", "WLAPI-66")
async def test_bundles_are_kept_fresh_and_those_withdrawn_are_not_used(api, path, ca, other_ca, asked):
    say(api, ca, other_ca)
    updates, clock = [], FakeClock(ca.now)
    async with (
        api.serving(path) as address,
        WitSource.open(address, on_update=updates.append, clock=clock) as source,
        WorkloadApi.connect(address) as client,
    ):
        (authority,) = (await client.fetch_wit_bundles()).bundle_for(ca.trust_domain).wit_authorities
        assert source.bundle_for(other_ca.trust_domain).wit_authorities
        assert source.bundle_for(ca.trust_domain).jwt_authorities == ()
        presented = await source.prove(TOOL)
        say(api, other_ca)
        await until(lambda: len(updates) == 2)
        with pytest.raises(UnknownTrustDomainError):
            source.verify(presented, audience=[TOOL], replays=None, status=None)
        bundles = {f"spiffe://{ca.trust_domain}": ca.bundle.to_jwt_jwks().decode()}
        api.say("FetchWITBundles", api.messages["WITBundlesResponse"](bundles=bundles))
        await until(lambda: len(updates) == 3)
        with pytest.raises(UntrustedError, match=f"no WIT authority {authority.key_id!r}"):
            source.verify(presented, audience=[TOOL], replays=None, status=None)


@pytest.mark.requirement("WLAPI-65")
async def test_who_is_denied_bundles_asks_again_after_a_pause(api, path, ca):
    say(api, ca)
    clock = FakeClock(ca.now)
    async with api.serving(path) as address, WorkloadApi.connect(address, clock=clock) as client:
        watch = client.watch_wit_bundles()
        assert len(await anext(watch)) == 1
        api.refuse(Code.PERMISSION_DENIED, "no identity issued")
        assert len(await anext(watch)) == 0
        waiting = asyncio.ensure_future(anext(watch))
        await until(lambda: clock.sleeping)
        assert api.called("FetchWITBundles") == 1
        say(api, ca)
        await clock.advance(timedelta(seconds=31))
        assert len(await waiting) == 1
        await watch.aclose()


async def test_what_is_taken_back_is_not_believed_and_neither_is_silence(api, path, ca, asked):
    say(api, ca)
    clock = FakeClock(ca.now)
    watch = PeerWatch(clock=clock)
    async with api.serving(path) as address, WitSource.open(address, clock=clock) as source:
        presented = await source.prove(TOOL)
        with pytest.raises(StatusUnknownError):
            source.verify(presented, audience=[TOOL], replays=None, status=watch)
        for retired, sequence in (frozenset(), 1), (frozenset([SpiffeId.parse(AGENT)]), 2):
            token = ca.status(sequence=sequence, retired=retired)
            watch.put(AgentStatus.verify(token, ca.bundle, now=clock.now()))
            if not retired:
                assert source.verify(presented, audience=[TOOL], replays=None, status=watch)
        with pytest.raises(RevokedError, match="is retired"):
            source.verify(presented, audience=[TOOL], replays=None, status=watch)

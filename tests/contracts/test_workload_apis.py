# SPDX-License-Identifier: Apache-2.0
"""What a workload sees of a Workload API: the attestor's own, and the fake one of the clients' tests."""

import contextlib
import os
from datetime import timedelta
from functools import partial

import grpc
import pytest

from attestor.issuer_client import new_key
from spiffekit import jws
from spiffekit.policy import Denial
from spiffekit.testing import TestCA
from spiffekit.wire.pb.attestor.v1.signer_pb2 import SignProofResponse
from spiffekit.wire.pb.attestor.v1.verifications_pb2 import (
    ReportVerificationsResponse,
    Verification,
)
from spiffekit.witsvid import PROOF_TYPE, Bound, Replays, hash_of, proof_claims
from spiffekit.workload import Peer, PolicySource, StatusSource, ToolGate, WitSource, WorkloadApi
from tests.attestor.endpoints.conftest import until
from tests.attestor.endpoints.world import DB, SERVED, STREAMS, Client, World, ended, ids, read
from tests.attestor.factory import entry
from tests.fakes.clock import FakeClock
from tests.fakes.workload_api import FakeWorkloadApi
from tests.spiffekit.policy.asked import ALL, NONE, PAYER, a_principal
from tests.spiffekit.workload.conftest import x509_message

Code = grpc.StatusCode


class Real:
    """The attestor's, with this process in the place of the workload."""

    def __init__(self, path):
        self.world = World(path)
        self.ca, self.clock = self.world.ca, self.world.clock
        self.serving = self.world.serving

    def grant(self, *names):
        self.world.grant(*map(entry, names), bundles=(self.ca.bundle,), snapshot=True)

    def deny(self):
        self.grant()

    def lay_down(self, *texts, **fields):
        """Say which policies hold."""
        self.world.lay_down(*texts, **fields)

    def take_back(self, **fields):
        """Say what is taken back."""
        self.world.take_back(**fields)

    def take_reports(self):
        pass

    def prove(self):
        """Let the workload prove that it is /web."""
        self.world = World(self.world.path, export=False)
        self.ca, self.clock, self.serving = self.world.ca, self.world.clock, self.world.serving
        self.world.register(entry("web"), bundles=(self.ca.wit_bundle,))


class Fake:
    """What `FakeWorkloadApi` can be told to say."""

    def __init__(self, path):
        self.path = path
        self.api = FakeWorkloadApi()
        self.ca = TestCA("example.org")
        self.clock = FakeClock(self.ca.now)
        self.said = 0

    def grant(self, *names):
        api, kinds = self.api, self.api.messages
        own = str(self.ca.trust_domain.id)
        svids = [self.ca.issue(f"spiffe://example.org/{name}") for name in names]
        tokens = [kinds["JWTSVID"](spiffe_id=str(s.spiffe_id), svid="token") for s in svids]
        api.answers["FetchJWTSVID"] = lambda _: kinds["JWTSVIDResponse"](svids=tokens)
        api.say("FetchX509Bundles", kinds["X509BundlesResponse"](bundles={own: self.ca.bundle.x509_der()}))
        api.say("FetchJWTBundles", kinds["JWTBundlesResponse"](bundles={own: self.ca.bundle.to_jwt_jwks()}))
        api.say("FetchX509SVID", x509_message(api, self.ca, *svids))

    def deny(self):
        self.api.refuse(Code.PERMISSION_DENIED, "no identity issued")

    def lay_down(self, *texts, **fields):
        self.said += 1
        self.api.say_policies(self.ca.policies(*texts, **{"sequence": self.said} | fields))

    def take_back(self, **fields):
        self.said += 1
        self.api.say_status(self.ca.status(**{"sequence": self.said} | fields))

    def prove(self):
        bundles = {str(self.ca.trust_domain.id): self.ca.wit_bundle.to_wit_jwks().decode()}
        self.api.say("FetchWITBundles", self.api.messages["WITBundlesResponse"](bundles=bundles))
        self.api.answers["SignProof"] = partial(signed, self.ca)

    def take_reports(self):
        self.api.answers["Report"] = lambda request: ReportVerificationsResponse(
            taken=request.verifications[-1].number
        )

    @contextlib.asynccontextmanager
    async def serving(self):
        async with self.api.serving(self.path), Client.connect(f"unix:{self.path}") as client:
            yield client


KEY = new_key()


def signed(ca, request):
    """What a signer answers."""
    token = ca.wit(request.spiffe_id or "spiffe://example.org/web", KEY.public_key())
    bound = {name: getattr(request, name) for name in ("ath", "tth") if getattr(request, name)}
    lifetime = timedelta(seconds=request.lifetime)
    claims = proof_claims(hash_of(token), request.audience, now=ca.now, lifetime=lifetime, bound=bound)
    return SignProofResponse(wit_svid=token, proof=jws.sign(PROOF_TYPE, claims, KEY))


@pytest.fixture
def path(folder):
    return folder / f"api-{os.urandom(4).hex()}.sock"


@pytest.fixture(params=[Real, Fake], ids=["real", "fake"])
def endpoint(request, path):
    return request.param(path)


async def test_a_stream_begins_with_everything_that_is_granted(endpoint):
    endpoint.grant("web", "db")
    async with endpoint.serving() as client:
        message = await client.first("FetchX509SVID")
        bundles = [(await client.first(name)).bundles for name in STREAMS[1:]]
    assert sorted(ids(message)) == ["spiffe://example.org/db", "spiffe://example.org/web"]
    for svid in message.svids:
        assert svid.x509_svid
        assert svid.x509_svid_key
        assert svid.bundle == endpoint.ca.bundle.x509_der()
    assert [list(found) for found in bundles] == [["spiffe://example.org"]] * 2


async def test_a_change_comes_on_the_open_stream_as_the_whole_new_state(endpoint):
    endpoint.grant("web", "db")
    async with endpoint.serving() as client:
        streams = [client.stream() for _ in range(2)]
        for stream in streams:
            assert len((await read(stream)).svids) == 2
        endpoint.grant("web")
        for stream in streams:
            assert ids(await read(stream)) == ["spiffe://example.org/web"]


async def test_who_has_no_identity_is_denied(endpoint):
    endpoint.deny()
    async with endpoint.serving() as client:
        for name, fields in SERVED.items():
            assert await client.refusal(name, **fields) == (Code.PERMISSION_DENIED, "no identity issued")


async def test_what_is_taken_away_ends_the_stream(endpoint):
    endpoint.grant("web")
    async with endpoint.serving() as client:
        streams = [client.stream(name) for name in STREAMS]
        for stream in streams:
            await read(stream)
        endpoint.deny()
        for stream in streams:
            assert await ended(stream) == (Code.PERMISSION_DENIED, "no identity issued")
        endpoint.grant("web")
        assert ids(await client.first()) == ["spiffe://example.org/web"]


@pytest.mark.parametrize("metadata", [(), (("workload.spiffe.io", "True"),)], ids=["none", "another"])
async def test_without_the_security_header_nobody_is_answered(endpoint, metadata):
    endpoint.grant("web")
    async with endpoint.serving() as client:
        for name, fields in SERVED.items():
            assert (await client.refusal(name, metadata, **fields))[0] is Code.INVALID_ARGUMENT


@pytest.mark.parametrize("name", ["FetchWITSVID", "FetchWITBundles"])
async def test_what_is_not_served_is_unimplemented(endpoint, name):
    endpoint.grant("web")
    async with endpoint.serving() as client:
        assert (await client.refusal(name))[0] is Code.UNIMPLEMENTED


async def test_a_token_is_of_each_identity(endpoint):
    endpoint.grant("web", "db")
    async with endpoint.serving() as client:
        answer = await client.answer("FetchJWTSVID", **DB)
    assert sorted(ids(answer)) == ["spiffe://example.org/db", "spiffe://example.org/web"]
    assert all(svid.svid for svid in answer.svids)


async def test_a_workload_proves_who_it_is_for_one_request(endpoint, path):
    endpoint.prove()
    tool, bound = "https://tools.example/run", Bound("access", "transaction")
    async with endpoint.serving(), WitSource.open(f"unix://{path}", clock=endpoint.clock) as source:
        presented = await source.prove(tool, bound=bound)
        svid = source.verify(presented, audience=[tool], replays=Replays(), status=None)
    assert str(svid.spiffe_id) == "spiffe://example.org/web"


async def test_a_tool_server_is_told_which_policies_hold_and_what_is_taken_back(endpoint, path):
    endpoint.grant("tools")
    endpoint.lay_down(ALL, agents=[a_principal()])
    endpoint.take_back()
    peer = Peer(PAYER, 1, endpoint.clock.now(), endpoint.clock.now() + timedelta(hours=1))
    options = {"address": f"unix://{path}", "clock": endpoint.clock}
    async with (
        endpoint.serving(),
        StatusSource.open(**options) as status,
        PolicySource.open(endpoint.ca.trust_domain, **options) as policies,
    ):
        gate = ToolGate(status=status, policies=policies, clock=endpoint.clock)
        assert gate.decide(peer, "pay").allowed
        endpoint.lay_down(NONE, agents=[a_principal()])
        await until(lambda: gate.decide(peer, "pay").denial is Denial.FORBIDDEN)
        endpoint.take_back(suspended=frozenset([PAYER]))
        await until(lambda: gate.decide(peer, "pay").denial is Denial.REVOKED)


async def test_an_endpoint_that_knows_nothing_yet_says_so_and_goes_on(endpoint, path):
    endpoint.grant("tools")
    if isinstance(endpoint, Fake):
        endpoint.api.say_policies("")
    told = []
    async with endpoint.serving(), WorkloadApi.connect(f"unix://{path}") as api:
        stream = api.watch_policies()
        told.append(await anext(stream))
        endpoint.lay_down(ALL)
        told.append(await anext(stream))
        await stream.aclose()
    assert told[0] == ""
    assert told[1]


async def test_an_endpoint_that_ends_is_unavailable_so_that_clients_come_back(endpoint, path):
    endpoint.grant("web")
    async with Client.connect(f"unix:{path}") as client:
        async with endpoint.serving():
            stream = client.stream()
            await read(stream)
        assert (await ended(stream))[0] is Code.UNAVAILABLE


async def test_what_a_process_verified_is_taken_up_to_its_last_number(endpoint):
    endpoint.grant("web")
    endpoint.take_reports()
    verified = [Verification(number=n, kind="mtls", allowed=True, count=1) for n in (1, 2)]
    async with endpoint.serving() as client:
        assert await client.verified(*verified) == 2
        assert await client.verified(*verified) == 2

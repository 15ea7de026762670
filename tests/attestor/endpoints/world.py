# SPDX-License-Identifier: Apache-2.0
"""The Workload API as the attestor serves it, behind the real listener, over a cache that tests fill."""

import contextlib
import os

import grpc

from attestor.assembly import SOCKET_MODE, serving
from attestor.cache import Cache
from attestor.connection import Credentials
from attestor.endpoints.admission import Admission
from attestor.endpoints.reflection import Reflection
from attestor.endpoints.refusals import Refusals
from attestor.endpoints.signer import Signer
from attestor.endpoints.verifications import Verifications
from attestor.endpoints.watch import Policies, Status
from attestor.endpoints.wit import WitProfile
from attestor.endpoints.workload_api import WorkloadApi
from attestor.instances import Instances
from attestor.jwt import JwtCache
from attestor.peer import Process
from attestor.policies import PolicyShelf, SaidPolicies
from attestor.reports import Reports
from attestor.revocation import RevocationBook, Said
from attestor.spool import Spool
from attestor.wit import WitSvids
from attestor.workload import Configured
from attestor.workload.examination import Examiner
from spiffekit.daemon.listener import UnixFront
from spiffekit.testing import TestCA
from spiffekit.wire.pb.attestor.v1 import (
    policies_pb2_grpc,
    signer_pb2_grpc,
    status_pb2_grpc,
    verifications_pb2_grpc,
)
from spiffekit.wire.pb.attestor.v1.policies_pb2 import WatchPoliciesRequest
from spiffekit.wire.pb.attestor.v1.signer_pb2 import SignProofRequest
from spiffekit.wire.pb.attestor.v1.status_pb2 import WatchRequest
from spiffekit.wire.pb.attestor.v1.verifications_pb2 import ReportVerificationsRequest
from spiffekit.wire.workload_api import SECURITY_HEADER, messages, methods
from spiffekit.witsvid import Presentation
from tests.fakes.clock import FakeClock
from tests.fakes.issuer import FakeClient, FakeIssuer
from tests.fakes.workload_attestors import GoodAttestor

WITHIN = 20  # seconds; nothing here waits for anybody, but a busy machine stands still for some
HEADER = (SECURITY_HEADER,)
MESSAGES = messages()
STREAMS = ("FetchX509SVID", "FetchX509Bundles", "FetchJWTBundles")
BUNDLES = STREAMS[1:]
DB = {"audience": ["db"]}
SERVED = {name: {} for name in STREAMS} | {"FetchJWTSVID": DB}  # what needs an identity


class Seen:
    """The process behind a call, whose executable a test may say instead of the kernel."""

    def __init__(self, process, executable):
        self._process, self._executable = process, executable

    def __getattr__(self, name):
        return getattr(self._process, name)

    def executable(self):
        return self._executable() or self._process.executable()


class World:
    """A node with one workload attestor, `unix`; its test's own process has the selector unix:uid:1."""

    def __init__(self, path, **options):
        self.path = path
        self.clock = FakeClock()
        self.issuer = FakeIssuer(self.clock)
        self.ca = self.issuer.ca
        self.other = TestCA("other.org", now=self.clock.now())
        self.cache = Cache(self.ca.trust_domain)
        self.cache.apply(entries=(), bundles=(self.ca.bundle,), snapshot=True)
        self.unix = GoodAttestor("unix", "uid:1")
        self.attestors = [Configured(self.unix)]
        self.spool = Spool(self.clock)
        self.reports = Reports(self.spool, self.clock)
        self.examiner = self._examiner()
        self.executable = None  # what every caller executes; None is what the kernel says
        self.options = options
        self.refusals = Refusals(self.clock, self.reports)
        self.revocations = RevocationBook()
        self.shelf = PolicyShelf()
        self.instances = None
        self.front = UnixFront(path, mode=SOCKET_MODE, identify=self._identify)

    def _examiner(self):
        return Examiner(self.attestors, self.clock, changed=self.reports.posture_changed)

    def _identify(self, peer):
        return Seen(Process.of(peer), lambda: self.executable)

    def register(self, *entries, **changes):
        """Entries of the issuer that this node knows."""
        self.issuer.grant(*entries)
        self.cache.apply(entries=entries, **changes)

    def issue(self, *entries):
        """New SVIDs for entries."""
        self.cache.put_svids({e.id: self.ca.issue(str(e.spiffe_id), hint=e.hint) for e in entries})

    def grant(self, *entries, **changes):
        self.register(*entries, **changes)
        self.issue(*entries)

    def remove(self, *entry_ids):
        self.cache.apply(entries=(), removed=entry_ids)

    def take_back(self, *, crls=(), **fields):
        """The issuer says what is taken back: a status of these fields, newer than the last one."""
        self.ca.now = self.clock.now()
        before = self.revocations.current.status
        token = self.ca.status(sequence=before.sequence + 1 if before else 1, **fields)
        said = Said(token, tuple(crls))
        self.cache.take_back(self.revocations.take(said, self.ca.bundle, self.clock.now()))
        if self.instances is not None:
            self.instances.drop_taken_back()

    def lay_down(self, *policies, **fields):
        """The issuer says which policies hold: a bundle of these fields, newer than the last one."""
        self.ca.now = self.clock.now()
        number = self.shelf.number + 1
        said = self.ca.policies(*policies, **{"sequence": number} | fields)
        self.shelf.take(SaidPolicies(number, said), self.ca.bundle, self.clock.now())

    @property
    def streams(self):
        """How many streams are open."""
        return len(self.cache._watchers)

    @property
    def idle(self):
        """Whether every stream has taken notice of every change, and waits for the next."""
        events = [watcher._event for watcher in self.cache._watchers]
        return all(event._waiters and not event.is_set() for event in events)

    @contextlib.asynccontextmanager
    async def serving(self):
        """Serve, and yield a client of the test's own process."""
        self.examiner = self._examiner()
        self.admission = Admission(self.front.peer_of, self.clock)
        client = FakeClient(self.issuer, Credentials(None, self.issuer.node()))
        self.jwt = JwtCache(client, self.cache, self.clock)
        self.instances = Instances(client, self.cache, self.clock)
        self.wit = WitSvids(client, self.cache, self.clock)
        export = self.options.pop("export", None)  # None: the WIT profile is switched off
        common = {
            "admission": self.admission,
            "refusals": self.refusals,
            "reports": self.reports,
            "clock": self.clock,
        }
        signer = Signer(self.cache, self.examiner, self.instances, self.wit, **common)
        self.api = WorkloadApi(
            self.cache,
            self.examiner,
            self.jwt,
            self.instances,
            **common,
            wit=None if export is None else WitProfile(self.instances, self.wit, export=export),
            **self.options,
        )
        async with (
            serving(
                self.front,
                self.api.handler(),
                Status(self.cache, self.admission).handler(),
                Policies(self.shelf, self.admission).handler(),
                Reflection(self.admission).handler(),
                Verifications(self.cache, self.examiner, **common).handler(),
                *([] if export is None else [signer.handler()]),
            ),
            Client.connect(f"unix:{self.path}") as client,
        ):
            try:
                yield client
            finally:
                self.instances.close()


class Client:
    """Calls of one connection, each with the security header unless a test gives other metadata."""

    def __init__(self, channel):
        self.channel = channel

    @classmethod
    @contextlib.asynccontextmanager
    async def connect(cls, target):
        options = [("grpc.use_local_subchannel_pool", 1)]
        async with grpc.aio.insecure_channel(target, options=options) as channel:
            yield cls(channel)

    def stream(self, name="FetchX509SVID", metadata=HEADER, **fields):
        method = methods()[name]
        kind = self.channel.unary_stream(
            method.path, method.request.SerializeToString, method.response.FromString
        )
        return kind(method.request(**fields), metadata=metadata, timeout=WITHIN)

    async def sign(self, audience="https://tools.example/run", metadata=HEADER, **fields):
        """A WIT-SVID with a proof by the instance key."""
        call = signer_pb2_grpc.SignerStub(self.channel).SignProof
        answer = await call(SignProofRequest(audience=audience, **fields), metadata=metadata, timeout=WITHIN)
        return Presentation(answer.wit_svid, answer.proof)

    async def unsigned(self, *arguments, **fields):
        """The code and the words with which a proof is refused."""
        try:
            answer = await self.sign(*arguments, **fields)
        except grpc.aio.AioRpcError as error:
            return error.code(), error.details()
        raise AssertionError(f"signed: {answer}")

    async def verified(self, *verifications, run=bytes(16), metadata=HEADER, **fields):
        """The last number that is taken of what this process says it verified."""
        call = verifications_pb2_grpc.VerificationsStub(self.channel).Report
        request = ReportVerificationsRequest(run=run, verifications=verifications, **fields)
        return (await call(request, metadata=metadata, timeout=WITHIN)).taken

    def status(self, metadata=HEADER):
        """What was taken back, as a stream."""
        stub = status_pb2_grpc.StatusStub(self.channel)
        return stub.Watch(WatchRequest(), metadata=metadata, timeout=WITHIN)

    def policies(self, metadata=HEADER):
        """Which policies hold, as a stream."""
        stub = policies_pb2_grpc.PoliciesStub(self.channel)
        return stub.Watch(WatchPoliciesRequest(), metadata=metadata, timeout=WITHIN)

    async def first(self, name="FetchX509SVID", metadata=HEADER, **fields):
        """The first message of a stream, which is then closed."""
        call = self.stream(name, metadata, **fields)
        try:
            return await read(call)
        finally:
            call.cancel()

    def unary(self, name, metadata=HEADER, **fields):
        method = methods()[name]
        kind = self.channel.unary_unary(
            method.path, method.request.SerializeToString, method.response.FromString
        )
        return kind(method.request(**fields), metadata=metadata, timeout=WITHIN)

    async def answer(self, name, metadata=HEADER, **fields):
        """The first or only answer of any method."""
        if methods()[name].streaming:
            return await self.first(name, metadata, **fields)
        return await self.unary(name, metadata, **fields)

    async def refusal(self, name, metadata=HEADER, **fields):
        """The code and the words with which a call ends that is answered by nothing."""
        try:
            answer = await self.answer(name, metadata, **fields)
        except grpc.aio.AioRpcError as error:
            return error.code(), error.details()
        raise AssertionError(f"answered: {answer}")


async def read(stream):
    """The next message of a stream; raises its status when it ends."""
    message = await stream.read()
    if message is grpc.aio.EOF:
        raise grpc.aio.AioRpcError(
            await stream.code(), await stream.initial_metadata(), (), details=await stream.details()
        )
    return message


async def ended(stream):
    """The code and the words with which a stream ends without another message."""
    try:
        message = await read(stream)
    except grpc.aio.AioRpcError as error:
        return error.code(), error.details()
    raise AssertionError(f"another message: {message}")


def ids(message):
    return [svid.spiffe_id for svid in message.svids]


def descriptors():
    """How many descriptors this process has open."""
    return len(os.listdir("/proc/self/fd"))

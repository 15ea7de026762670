# SPDX-License-Identifier: Apache-2.0
"""What an operator sees of the attestor: numbers that move with what they count."""

import contextlib
import math
import os
from datetime import timedelta
from types import SimpleNamespace

import pytest
from prometheus_client import CollectorRegistry

from attestor import metrics
from attestor.endpoints.admission import MAX_STREAMS_PER_UID, Admission
from attestor.errors import (
    IssuerUnavailableError,
    NoIdentityError,
    PeerGoneError,
    WitUnsupportedError,
    WorkloadAttestationError,
)
from attestor.instances import Instances
from attestor.rotation import Rotation
from attestor.spool import Spool
from attestor.sync import Sync
from attestor.workload import Configured
from attestor.workload.examination import Examiner
from spiffekit.daemon.limits import RateLimitedError
from spiffekit.daemon.listener import UnknownPeerError
from spiffekit.errors import BundleError
from tests.attestor.endpoints.world import DB, World, read
from tests.attestor.factory import entry
from tests.attestor.workload.processes import held
from tests.docs.pages import ROOT
from tests.fakes.clock import FakeClock
from tests.fakes.workload_attestors import FailingAttestor, GoodAttestor

SECOND = timedelta(seconds=1)
HOUR = timedelta(hours=1)


class Observed(World):
    """A node of which the numbers are read."""

    def __init__(self, path):
        super().__init__(path)
        self.session = SimpleNamespace(svid=None, issued=0)
        self.registry = CollectorRegistry()
        client = self.issuer.client(self.issuer.node("n3", lifetime=1000 * HOUR))
        instances = Instances(client, self.cache, self.clock)
        self.sync = Sync(
            client, self.session, self.cache, instances=instances, clock=self.clock, poll_every=HOUR
        )
        self.sync.revocations, self.sync.policies = self.revocations, self.shelf
        self.rotation = Rotation(client, self.cache, clock=self.clock)

    @contextlib.asynccontextmanager
    async def serving(self):
        async with super().serving() as client:
            parts = {name: getattr(self, name) for name in metrics.Parts.__dataclass_fields__}
            self.registry.register(metrics.Parts(**parts))
            yield client

    def value(self, name, **labels):
        return self.registry.get_sample_value(f"attestor_{name}", labels)


@pytest.fixture
def world(folder):
    return Observed(folder / f"api-{os.urandom(4).hex()}.sock")


async def test_entries_and_open_streams_are_counted(world):
    world.grant(entry("web"), entry("db", "unix:uid:2"))
    async with world.serving() as client:
        assert (world.value("entries"), world.value("streams")) == (2, 0)
        streams = [client.stream(), client.stream("FetchJWTBundles")]
        for stream in streams:
            await read(stream)
        assert world.value("streams") == 2


async def test_svids_got_from_the_issuer_are_counted_by_kind(world):
    async with world.serving() as client:
        world.register(entry("web"))
        await world.rotation.rotate()
        assert world.value("svids_issued_total", kind="shared") == 1
        await world.clock.advance(HOUR)
        await world.rotation.rotate()
        assert world.value("svids_issued_total", kind="shared") == 2
        for _ in range(2):
            await client.answer("FetchJWTSVID", **DB)  # the second time from memory
        assert world.value("svids_issued_total", kind="jwt") == 1
        world.register(entry("own", needs_evidence=True))
        await client.first()
        assert world.value("svids_issued_total", kind="process") == 1
        world.wit.issued = 2
        assert world.value("svids_issued_total", kind="wit") == 2
        world.session.issued = 3
        assert world.value("svids_issued_total", kind="node") == 3


async def test_the_soonest_end_of_an_svid_is_told(world):
    async with world.serving():
        assert math.isnan(world.value("svid_expires_in_seconds", kind="node"))
        assert math.isnan(world.value("svid_expires_in_seconds", kind="shared"))
        world.session.svid = world.issuer.node("n2", lifetime=HOUR)
        world.register(entry("first"))
        await world.rotation.rotate()
        await world.clock.advance(60 * SECOND)
        world.register(entry("second"))
        await world.rotation.rotate()
        assert world.value("svid_expires_in_seconds", kind="node") == 3540
        assert world.value("svid_expires_in_seconds", kind="shared") == 3540


async def test_losses_by_a_changed_posture_are_counted(world):
    world.grant(entry("one"), entry("two", "unix:uid:2", created=1))
    async with world.serving() as client:
        stream = client.stream()
        await read(stream)
        assert world.value("posture_changes_total") == 0
        world.unix.say("uid:2")
        world.issue(*world.cache.entries.values())
        await read(stream)
        assert world.value("posture_changes_total") == 1


async def test_events_for_the_audit_trail_are_counted(world):
    world.spool = Spool(world.clock, limit=1)
    async with world.serving():
        for _ in range(3):
            world.spool.add()
        world.spool.sent = 5
        told = {name: world.value("reports_total", outcome=name) for name in ("sent", "lost")}
        assert (told, world.value("reports_waiting")) == ({"sent": 5, "lost": 2}, 1)


async def test_how_old_our_knowledge_is_is_told(world):
    async with world.serving():
        assert math.isnan(world.value("updates_age_seconds"))
        world.sync.known_at, world.sync.revision = world.clock.monotonic(), 7
        await world.clock.advance(90 * SECOND)
        assert (world.value("updates_age_seconds"), world.value("updates_revision")) == (90, 7)


async def test_how_old_the_status_of_agents_is_and_what_was_refused_is_told(world):
    async with world.serving():
        assert math.isnan(world.value("status_age_seconds"))
        world.take_back()
        await world.clock.advance(20 * SECOND)
        assert (world.value("status_age_seconds"), world.value("status_refused_total")) == (20, 0)
        world.take_back(crls=[b"malformed"])
        assert (world.value("status_age_seconds"), world.value("status_refused_total")) == (0, 1)


async def test_how_old_the_policies_are_and_what_was_refused_is_told(world):
    async with world.serving():
        assert math.isnan(world.value("policies_age_seconds"))
        world.lay_down()
        await world.clock.advance(20 * SECOND)
        assert (world.value("policies_age_seconds"), world.value("policies_refused_total")) == (20, 0)
        world.lay_down(sequence=0)
        assert (world.value("policies_age_seconds"), world.value("policies_refused_total")) == (20, 1)


async def test_times_of_attestors_are_told_by_how_they_ended(world):
    configured = [Configured(GoodAttestor("unix")), Configured(FailingAttestor("docker"))]
    examiner = Examiner(configured, world.clock, observe=metrics.times_of_attestation(world.registry))
    with held(os.getpid()) as process:
        for _ in range(2):
            await examiner.findings(process)
    counts = {
        (attestor, outcome): world.value(
            "workload_attestation_seconds_count", attestor=attestor, outcome=outcome
        )
        for attestor in ("unix", "docker")
        for outcome in ("ok", "failed")
    }
    assert counts == {
        ("unix", "ok"): 2,
        ("unix", "failed"): None,
        ("docker", "ok"): None,
        ("docker", "failed"): 2,
    }


async def test_calls_that_are_refused_are_counted_by_reason(world):
    async with world.serving() as client:
        await client.refusal("FetchX509SVID")
        await client.refusal("FetchX509SVID", metadata=())
        await client.refusal("FetchWITSVID")
        await client.refusal("ValidateJWTSVID", audience="db", svid="x")
        world.grant(entry("web"))
        world.issuer.error = IssuerUnavailableError("away")
        await client.refusal("FetchJWTSVID", **DB)
        world.admission._streams[os.geteuid()] = MAX_STREAMS_PER_UID
        await client.refusal("FetchX509SVID")
    assert {reason: world.value("refusals_total", reason=reason) for reason in world.admission.refusals} == {
        "no_identity": 1,
        "bad_request": 1,
        "unimplemented": 1,
        "invalid_token": 1,
        "not_ready": 1,
        "too_many_streams": 1,
    }


@pytest.mark.parametrize(
    ("error", "reason"),
    [
        (NoIdentityError("x"), "no_identity"),
        (PeerGoneError("x"), "unknown_caller"),
        (UnknownPeerError("x"), "unknown_caller"),
        (WorkloadAttestationError("x"), "attestation_failed"),
        (RateLimitedError("x"), "rate_limited"),
        (IssuerUnavailableError("x"), "not_ready"),
        (WitUnsupportedError("x"), "not_ready"),
        (BundleError("x"), "not_ready"),
        (LookupError("x"), "internal"),
    ],
)
def test_every_refusal_has_one_of_few_reasons(error, reason):
    admission = Admission(None, FakeClock())
    admission.refuse(error)
    assert admission.refusals == {reason: 1}
    page = (ROOT / "docs/how-to/metrics-and-health.md").read_text()
    assert f"`{reason}`" in page

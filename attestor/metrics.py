# SPDX-License-Identifier: Apache-2.0
"""What the attestor tells Prometheus: read from its parts when it asks, so that none of them knows of it."""

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import datetime
from typing import Final

from prometheus_client import CollectorRegistry, Histogram, Metric
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily
from prometheus_client.registry import Collector

from attestor.cache import Cache
from attestor.endpoints.admission import Admission
from attestor.instances import Instances
from attestor.jwt import JwtCache
from attestor.rotation import Rotation
from attestor.session import NodeSession
from attestor.spool import Spool
from attestor.sync import Sync
from attestor.wit import WitSvids
from attestor.workload.examination import Examiner, Finding
from spiffekit.daemon.clock import Clock

BUCKETS: Final = (0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0)  # seconds


def times_of_attestation(registry: CollectorRegistry) -> Callable[[Finding], None]:
    """Return what records how long a workload attestor took."""
    times = Histogram(
        "attestor_workload_attestation_seconds",
        "Time of one workload attestor about one process.",
        ("attestor", "outcome"),
        buckets=BUCKETS,
        registry=registry,
    )

    def observe(finding: Finding) -> None:
        outcome = "failed" if finding.error else "ok"
        times.labels(finding.type, outcome).observe(finding.took.total_seconds())

    return observe


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)  # a registry keeps collectors by identity
class Parts(Collector):
    """The parts of the attestor that have something to tell."""

    clock: Clock
    cache: Cache
    session: NodeSession
    sync: Sync
    rotation: Rotation
    instances: Instances
    jwt: JwtCache
    wit: WitSvids
    admission: Admission
    examiner: Examiner
    spool: Spool

    def collect(self) -> Iterator[Metric]:
        """Return everything as it is now."""
        yield GaugeMetricFamily("attestor_entries", "Entries of this node.", len(self.cache.entries))
        yield GaugeMetricFamily("attestor_streams", "Streams that are open.", self.admission.streams)
        yield GaugeMetricFamily(
            "attestor_updates_revision", "Revision of the registry that is known here.", self.sync.revision
        )
        yield GaugeMetricFamily(
            "attestor_updates_age_seconds", "Time since the issuer said what holds.", self._age()
        )
        yield GaugeMetricFamily(
            "attestor_status_age_seconds",
            "Time since the issuer signed the status of agents.",
            self._since(status.issued_at if (status := self.cache.taken_back.status) else None),
        )
        yield CounterMetricFamily(
            "attestor_status_refused",
            "Statuses of agents and revocation lists that could not be verified.",
            self.sync.revocations.refused,
        )
        yield GaugeMetricFamily(
            "attestor_policies_age_seconds",
            "Time since the issuer signed the policies.",
            self._since(self.sync.policies.issued_at),
        )
        yield CounterMetricFamily(
            "attestor_policies_refused",
            "Bundles of policies that could not be verified.",
            self.sync.policies.refused,
        )
        expiry = GaugeMetricFamily(
            "attestor_svid_expires_in_seconds", "Time until the first SVID expires.", labels=("kind",)
        )
        node = self.session.svid
        expiry.add_metric(("node",), self._left(node.expires_at if node is not None else None))
        expiry.add_metric(("shared",), self._left(self.cache.soonest_expiry()))
        yield expiry
        issued = CounterMetricFamily("attestor_svids_issued", "SVIDs got from the issuer.", labels=("kind",))
        issued.add_metric(("node",), self.session.issued)
        issued.add_metric(("shared",), self.rotation.issued)
        issued.add_metric(("process",), self.instances.issued)
        issued.add_metric(("jwt",), self.jwt.issued)
        issued.add_metric(("wit",), self.wit.issued)
        yield issued
        refusals = CounterMetricFamily("attestor_refusals", "Calls of workloads refused.", labels=("reason",))
        for reason, count in sorted(self.admission.refusals.items()):
            refusals.add_metric((reason,), count)
        yield refusals
        yield CounterMetricFamily(
            "attestor_posture_changes",
            "Processes that lost identities because something else became true of them.",
            self.examiner.postures.total,
        )
        yield from self._reports()

    def _reports(self) -> Iterator[Metric]:
        reports = CounterMetricFamily(
            "attestor_reports", "Events for the issuer's audit trail.", labels=("outcome",)
        )
        reports.add_metric(("sent",), self.spool.sent)
        reports.add_metric(("lost",), self.spool.lost)
        yield reports
        yield GaugeMetricFamily(
            "attestor_reports_waiting", "Events that the issuer is to be told.", len(self.spool)
        )

    def _age(self) -> float:
        known_at = self.sync.known_at
        return math.nan if known_at is None else self.clock.monotonic() - known_at

    def _since(self, instant: datetime | None) -> float:
        return math.nan if instant is None else (self.clock.now() - instant).total_seconds()

    def _left(self, expires_at: datetime | None) -> float:
        return math.nan if expires_at is None else (expires_at - self.clock.now()).total_seconds()

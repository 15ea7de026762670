# SPDX-License-Identifier: Apache-2.0
"""Judge evidence before an SVID is signed for it.

A node is trusted for its own workloads only, and what can be checked here is not taken on its word: evidence
is fresh, counts once, satisfies the entry, and agrees with itself; a pod is the one that the cluster knows.
"""

import hashlib
from collections import OrderedDict
from datetime import datetime, timedelta
from typing import Any, Final, Protocol

from issuer.errors import EvidenceRejectedError
from issuer.model import Node, RegistrationEntry
from spiffekit.errors import SpiffeIdError, TemplateError
from spiffekit.evidence import ContainerFacts, Evidence, PodFacts
from spiffekit.id import SpiffeId
from spiffekit.selector import IMAGE_SIGNATURES, Selector

MAX_AGE: Final = timedelta(seconds=30)  # of evidence, and how far clocks may be apart
MAX_SEEN: Final = 100_000  # pieces of evidence that are remembered; more within MAX_AGE are refused
POD_TYPE: Final = "k8s"
NODE_TYPE: Final = "k8s_psat"  # the node attestor that says which cluster and node it is


class PodChecker(Protocol):
    """Knows the pods of the clusters that this issuer watches."""

    def check(self, cluster: str, node_name: str, pod: PodFacts, container: ContainerFacts | None) -> None:
        """Check that a pod lives, on that node, as the facts say.

        Raises:
            EvidenceRejectedError: It does not, or the cluster cannot be seen now.
        """

    def selectors(self, cluster: str, pod: PodFacts) -> frozenset[Selector]:
        """Return every selector that holds, by the cluster's word, for the container of the facts.

        Raises:
            EvidenceRejectedError: There is no such, or the cluster cannot be seen now.
        """


class EvidenceJudge:
    """See the module. `pods` is None where no cluster is watched: then no pod earns anything by evidence."""

    def __init__(self, pods: PodChecker | None = None, *, max_seen: int = MAX_SEEN) -> None:
        self._pods = pods
        self._max_seen = max_seen
        self._seen: OrderedDict[tuple[SpiffeId, bytes, str], datetime] = OrderedDict()

    def judge(
        self, entry: RegistrationEntry, evidence: Evidence | None, node: Node, now: datetime
    ) -> SpiffeId:
        """Return the SPIFFE ID that an entry gives to the workload of `evidence`.

        Raises:
            EvidenceRejectedError: The evidence is missing, stale or used, or does not satisfy the entry.
        """
        if evidence is None:
            if entry.needs_evidence:
                raise EvidenceRejectedError("evidence: the entry requires it")
            return entry.spiffe_id
        # (1): it is of this moment.
        if abs(now - evidence.collected_at) > MAX_AGE:
            raise EvidenceRejectedError(f"evidence.collected_at: not within {MAX_AGE.seconds} s of now")
        # (2): the entry's selectors hold.
        if missing := entry.selectors - evidence.selectors:
            raise EvidenceRejectedError(f"evidence.selectors: {len(missing)} of the entry's do not hold")
        # (3): the pod is what the cluster says.
        self._check_pod(entry, evidence, node)
        # (4): the template fits.
        spiffe_id = entry.spiffe_id
        if entry.template is not None:
            try:
                spiffe_id = entry.template.expand(evidence.selectors)
            except (TemplateError, SpiffeIdError) as error:
                raise EvidenceRejectedError(f"evidence.selectors: {error}") from error
        # (5): it has not been used. Last, so that evidence that was refused can be sent again.
        self._use((node.id, evidence.id, entry.id), now)
        return spiffe_id

    def _check_pod(self, entry: RegistrationEntry, evidence: Evidence, node: Node) -> None:
        wants_pod = any(selector.type == POD_TYPE for selector in entry.selectors) or (
            entry.template is not None and POD_TYPE in entry.template.types
        )
        pod = evidence.pod
        if pod is None:
            if wants_pod or any(selector.type == POD_TYPE for selector in evidence.selectors):
                raise EvidenceRejectedError("evidence.pod: is missing")
            return
        cluster, node_name = (_of_node(node, kind) for kind in ("cluster", "agent_node_name"))
        if not cluster or not node_name:
            raise EvidenceRejectedError(
                f"evidence.pod: the node did not prove by {NODE_TYPE} which node of which cluster it is"
            )
        if pod.node_name != node_name:
            raise EvidenceRejectedError("evidence.pod: runs on another node")
        if self._pods is None:
            raise EvidenceRejectedError("evidence.pod: this issuer watches no cluster")
        self._pods.check(cluster, node_name, pod, evidence.container)
        # Who signed the image is the node's word: no cluster knows it. The image itself was checked.
        stated = {s for s in evidence.selectors if s.type == POD_TYPE and _kind(s) not in IMAGE_SIGNATURES}
        for selector in stated - self._pods.selectors(cluster, pod):
            raise EvidenceRejectedError(
                f"evidence.selectors: {POD_TYPE}:{_kind(selector)} is not that of the pod"
            )

    def _use(self, key: tuple[SpiffeId, bytes, str], now: datetime) -> None:
        while self._seen and abs(now - next(iter(self._seen.values()))) > 2 * MAX_AGE:
            self._seen.popitem(last=False)
        if key in self._seen:
            raise EvidenceRejectedError("evidence.id: was used before")
        if len(self._seen) >= self._max_seen:
            raise EvidenceRejectedError("evidence: too much at once, try again")
        self._seen[key] = now


def _kind(selector: Selector) -> str:
    return selector.value.partition(":")[0]


def _of_node(node: Node, kind: str) -> str:
    """Return what the node proved of itself, or "" where it proved nothing or more than one thing."""
    prefix = f"{kind}:"
    found = [s.value for s in node.selectors if s.type == NODE_TYPE and s.value.startswith(prefix)]
    return found[0].removeprefix(prefix) if len(found) == 1 else ""


def recorded(evidence: Evidence) -> dict[str, Any]:
    """Return what the audit trail keeps: which process, container and pod it was.

    Selectors stay out but for a hash of all: they may hold secrets, e.g. of a container's environment.
    """
    process, container, pod = evidence.process, evidence.container, evidence.pod
    found: dict[str, Any] = {
        "instance": evidence.instance_uid,
        "collected_at": evidence.collected_at.isoformat(),
        "selectors_sha256": hashlib.sha256(
            "\n".join(map(str, sorted(evidence.selectors))).encode()
        ).hexdigest(),
        "process": {
            "pid": process.pid,
            "start_ticks": process.start_ticks,
            "uid": process.uid,
            "path": process.executable,
            "sha256": process.sha256,
        },
    }
    if evidence.ancestors:
        found["ancestors"] = [
            {"pid": one.pid, "start_ticks": one.start_ticks, "uid": one.uid, "path": one.executable}
            for one in evidence.ancestors
        ]
    if container is not None:
        found["container"] = {
            "engine": container.engine,
            "id": container.id,
            "image": container.image_digest or container.image_id,
            "entered": container.entered,
        }
    if pod is not None:
        found["pod"] = {"namespace": pod.namespace, "name": pod.name, "uid": pod.uid, "node": pod.node_name}
    return found

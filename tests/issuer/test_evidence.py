# SPDX-License-Identifier: Apache-2.0
"""Evidence earns an SVID only when it is fresh, unused, complete, and what the issuer can see for itself."""

import secrets
from dataclasses import replace
from datetime import timedelta

import pytest

from issuer.errors import EvidenceRejectedError
from issuer.evidence import MAX_AGE, EvidenceJudge, recorded
from spiffekit.evidence import AncestorFacts, ContainerFacts, Evidence, PodFacts, ProcessFacts
from spiffekit.selector import IMAGE_SIGNATURES
from spiffekit.template import Template
from tests.issuer.strategies import NOW, a_node, an_entry, an_id, selectors

SECOND = timedelta(seconds=1)
POD = PodFacts(
    uid="u1", namespace="shop", name="web-1", service_account="web", node_name="n1", container="main"
)
SAID = (
    "k8s:ns:shop",
    "k8s:sa:web",
    "k8s:pod-name:web-1",
    "k8s:pod-uid:u1",
    "k8s:node-name:n1",
    "k8s:container-name:main",
)
PROVED = selectors("k8s_psat:cluster:c1", "k8s_psat:agent_node_name:n1")
NODE = a_node(selectors=PROVED)
CONTAINER = ContainerFacts(engine="k8s", id="a" * 64, image_digest="sha256:d")


class Pods:
    """A cluster in which what is asked about is as it is said, unless there is a reason not to."""

    def __init__(self, reason=""):
        self.reason = reason
        self.asked = []

    def check(self, cluster, node_name, pod, container):
        self.asked.append((cluster, node_name, pod, container))
        if self.reason:
            raise EvidenceRejectedError(self.reason)

    def selectors(self, cluster, pod):
        assert (cluster, pod) == ("c1", POD)
        return selectors(*SAID)


def evidence(*texts, **changes):
    values = {
        "id": secrets.token_bytes(16),
        "instance_uid": "a" * 26,
        "collected_at": NOW,
        "selectors": selectors(*(texts or ("unix:uid:0",))),
        "process": ProcessFacts(pid=1, start_ticks=2, uid=0, gid=0, executable="/bin/a", sha256="ff"),
    }
    return Evidence(**{**values, **changes})


def in_pod(*texts, **changes):
    return evidence(*SAID, *texts, **{"pod": POD, "container": CONTAINER, **changes})


PLAIN = an_entry()
ENTRY = an_entry(evidence_required=True)
OF_PODS = an_entry(selectors=selectors("k8s:ns:shop"), svid_per_process=True)
CLUSTER = an_entry(
    selectors=selectors("k8s:ns:shop"), template=Template.parse("spiffe://example.org/sa/{k8s:sa}")
)


def judge(entry, given, *, node=NODE, now=NOW, pods=None):
    return EvidenceJudge(pods).judge(entry, given, node, now)


def test_evidence_that_satisfies_the_entry_earns_its_id():
    assert judge(ENTRY, evidence("unix:uid:0", "unix:gid:0")) == an_id("/e")


def test_a_plain_entry_needs_none():
    assert judge(PLAIN, None) == an_id("/e")


@pytest.mark.parametrize(
    "entry",
    [ENTRY, an_entry(svid_per_process=True), CLUSTER],
    ids=["required", "per process", "template"],
)
def test_what_needs_evidence_is_not_signed_without(entry):
    with pytest.raises(EvidenceRejectedError, match="the entry requires it"):
        judge(entry, None)


@pytest.mark.parametrize("off", [MAX_AGE + SECOND, -MAX_AGE - SECOND], ids=["stale", "of the future"])
def test_evidence_of_another_moment_is_refused(off):
    with pytest.raises(EvidenceRejectedError, match="collected_at"):
        judge(ENTRY, evidence(collected_at=NOW - off))


def test_evidence_at_the_limit_is_taken():
    assert judge(ENTRY, evidence(collected_at=NOW - MAX_AGE))
    assert judge(ENTRY, evidence(collected_at=NOW + MAX_AGE))


def test_a_selector_that_does_not_hold_is_counted_and_not_named():
    with pytest.raises(EvidenceRejectedError, match="1 of the entry's do not hold"):
        judge(ENTRY, evidence("unix:uid:1"))


def test_a_plain_entry_is_held_to_evidence_that_is_given():
    with pytest.raises(EvidenceRejectedError):
        judge(PLAIN, evidence("unix:uid:1"))


def test_evidence_counts_once_for_each_entry():
    used, first, second = EvidenceJudge(), ENTRY, replace(ENTRY, id="other")
    given = evidence()
    assert used.judge(first, given, NODE, NOW)
    assert used.judge(second, given, NODE, NOW)
    for entry in (first, second):
        with pytest.raises(EvidenceRejectedError, match="was used before"):
            used.judge(entry, given, NODE, NOW + SECOND)


def test_evidence_that_was_refused_may_be_sent_again():
    pods = Pods("not seen yet")
    used = EvidenceJudge(pods)
    given = in_pod()
    with pytest.raises(EvidenceRejectedError, match="not seen yet"):
        used.judge(OF_PODS, given, NODE, NOW)
    pods.reason = ""
    assert used.judge(OF_PODS, given, NODE, NOW)


def test_what_is_remembered_is_bounded_and_forgotten_in_time():
    used = EvidenceJudge(max_seen=3)
    for _ in range(3):
        used.judge(ENTRY, evidence(), NODE, NOW)
    with pytest.raises(EvidenceRejectedError, match="too much at once"):
        used.judge(ENTRY, evidence(), NODE, NOW)
    later = NOW + 2 * MAX_AGE + SECOND
    assert used.judge(ENTRY, evidence(collected_at=later), NODE, later)


def test_evidence_is_not_forgotten_while_it_is_fresh():
    used = EvidenceJudge()
    given = evidence(collected_at=NOW + MAX_AGE)
    used.judge(ENTRY, given, NODE, NOW)
    with pytest.raises(EvidenceRejectedError, match="was used before"):
        used.judge(ENTRY, given, NODE, NOW + 2 * MAX_AGE)


def test_the_cluster_is_asked_about_the_pod():
    pods = Pods()
    assert judge(OF_PODS, in_pod(), pods=pods) == an_id("/e")
    assert pods.asked == [("c1", "n1", POD, CONTAINER)]


def test_a_template_takes_its_values_from_the_evidence():
    assert judge(CLUSTER, in_pod(), pods=Pods()) == an_id("/sa/web")


def test_a_template_without_a_value_gives_nothing():
    entry = an_entry(template=Template.parse("spiffe://example.org/u/{unix:user}"))
    with pytest.raises(EvidenceRejectedError, match="has no value"):
        judge(entry, evidence())


@pytest.mark.parametrize("kind", ["ns", "sa", "pod-uid", "container-image", "pod-label:app", "unheard-of"])
def test_selectors_that_the_cluster_does_not_bear_out_are_refused(kind):
    with pytest.raises(EvidenceRejectedError, match=f"k8s:{kind.partition(':')[0]} is not that of the pod"):
        judge(OF_PODS, in_pod(f"k8s:{kind}:forged"), pods=Pods())


@pytest.mark.parametrize("kind", IMAGE_SIGNATURES)
def test_who_signed_an_image_is_the_nodes_word_and_needs_the_pod_all_the_same(kind):
    stated = f"k8s:{kind}:x"
    entry = an_entry(selectors=selectors("k8s:ns:shop", stated), svid_per_process=True)
    assert judge(entry, in_pod(stated), pods=Pods()) == entry.spiffe_id
    with pytest.raises(EvidenceRejectedError, match="a reason"):
        judge(entry, in_pod(stated), pods=Pods("a reason"))
    with pytest.raises(EvidenceRejectedError, match=r"evidence.pod: is missing"):
        judge(entry, evidence("k8s:ns:shop", stated))


@pytest.mark.parametrize(
    ("entry", "given"),
    [(OF_PODS, evidence("k8s:ns:shop")), (ENTRY, evidence("unix:uid:0", "k8s:ns:shop"))],
    ids=["wanted", "stated"],
)
def test_a_pod_without_facts_is_refused(entry, given):
    with pytest.raises(EvidenceRejectedError, match=r"evidence.pod: is missing"):
        judge(entry, given, pods=Pods())


def test_a_pod_of_another_node_is_refused():
    elsewhere = selectors("k8s_psat:cluster:c1", "k8s_psat:agent_node_name:n2")
    with pytest.raises(EvidenceRejectedError, match="runs on another node"):
        judge(OF_PODS, in_pod(), node=a_node(selectors=elsewhere), pods=Pods())


@pytest.mark.parametrize(
    "proved",
    [
        (),
        ("k8s_psat:cluster:c1",),
        ("k8s_psat:agent_node_name:n1",),
        (*map(str, PROVED), "k8s_psat:cluster:c2"),
    ],
    ids=["nothing", "no node", "no cluster", "two clusters"],
)
def test_a_node_that_did_not_prove_where_it_is_speaks_for_no_pod(proved):
    with pytest.raises(EvidenceRejectedError, match="did not prove by k8s_psat"):
        judge(OF_PODS, in_pod(), node=a_node(selectors=selectors(*proved)), pods=Pods())


def test_without_a_watched_cluster_no_pod_earns_anything():
    with pytest.raises(EvidenceRejectedError, match="watches no cluster"):
        judge(OF_PODS, in_pod())


def test_the_record_says_what_it_was_and_no_selector():
    found = recorded(in_pod("docker:env:PASSWORD=hunter2"))
    assert found["process"] == {"pid": 1, "start_ticks": 2, "uid": 0, "path": "/bin/a", "sha256": "ff"}
    assert found["container"]["image"] == "sha256:d"
    assert found["pod"] == {"namespace": "shop", "name": "web-1", "uid": "u1", "node": "n1"}
    assert "hunter2" not in str(found)
    assert found["selectors_sha256"] != recorded(in_pod())["selectors_sha256"]
    above = (AncestorFacts(pid=9, start_ticks=1, uid=3, executable="/bin/b"),)
    found = recorded(replace(in_pod(), ancestors=above))
    assert found["ancestors"] == [{"pid": 9, "start_ticks": 1, "uid": 3, "path": "/bin/b"}]
    assert recorded(evidence()).keys() == {"instance", "collected_at", "selectors_sha256", "process"}

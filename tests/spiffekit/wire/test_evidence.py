# SPDX-License-Identifier: Apache-2.0
"""Evidence arrives as it was sent, and what is malformed is named."""

from dataclasses import replace
from datetime import UTC, datetime

import pytest

from spiffekit.errors import EvidenceError
from spiffekit.evidence import (
    MAX_ANCESTORS,
    AncestorFacts,
    ContainerFacts,
    Evidence,
    PodFacts,
    ProcessFacts,
)
from spiffekit.selector import Selector
from spiffekit.wire.evidence import MAX_SELECTORS, MAX_TEXT, evidence_from_proto, evidence_to_proto
from spiffekit.wire.pb.spire.api import types_pb2

EVIDENCE = Evidence(
    id=b"0123456789abcdef",
    instance_uid="abcdefghijklmnopqrstuvwx23",
    collected_at=datetime(2026, 1, 2, 3, 4, 5, 678901, tzinfo=UTC),
    selectors=frozenset({Selector("unix", "uid:1"), Selector("k8s", "ns:shop")}),
    process=ProcessFacts(
        pid=7, start_ticks=99, uid=1, gid=2, executable="/bin/a", device=3, inode=4, sha256="ab"
    ),
    ancestors=(
        AncestorFacts(pid=6, start_ticks=98, uid=3, executable="/bin/b"),
        AncestorFacts(pid=1, start_ticks=0, uid=0),
    ),
    container=ContainerFacts(
        engine="docker", id="a" * 64, name="n", image="i", image_id="d", image_digest="e", entered=True
    ),
    pod=PodFacts(
        uid="u", namespace="shop", name="web-1", service_account="web", node_name="n1", container="main"
    ),
)


@pytest.mark.parametrize(
    "evidence",
    [EVIDENCE, replace(EVIDENCE, ancestors=(), container=None, pod=None)],
    ids=["all", "process alone"],
)
def test_evidence_comes_out_as_it_went_in(evidence):
    assert evidence_from_proto(evidence_to_proto(evidence)) == evidence


def broken(change):
    message = evidence_to_proto(EVIDENCE)
    change(message)
    return message


@pytest.mark.parametrize(
    ("change", "why"),
    [
        (lambda m: m.ClearField("id"), "evidence.id"),
        (lambda m: setattr(m, "id", b"x" * 17), "evidence.id"),
        (lambda m: setattr(m, "instance_uid", "A" * 26), "evidence.instance_uid"),
        (lambda m: setattr(m, "instance_uid", "a" * 26 + "\n"), "evidence.instance_uid"),
        (lambda m: m.ClearField("process"), "evidence.process"),
        (lambda m: setattr(m, "collected_at", 2**62), "evidence.collected_at"),
        (lambda m: setattr(m.process, "executable", "/" * (MAX_TEXT + 1)), "executable is longer"),
        (lambda m: setattr(m.ancestors[0], "executable", "/" * (MAX_TEXT + 1)), "executable is longer"),
        (lambda m: m.ancestors.extend([m.ancestors[0]] * MAX_ANCESTORS), "evidence.ancestors: more than 8"),
        (lambda m: m.selectors.add(type="unix", value=""), "evidence.selectors"),
        (
            lambda m: m.selectors.extend([types_pb2.Selector(type="a", value="b")] * MAX_SELECTORS),
            "evidence.selectors: more than",
        ),
    ],
    ids=[
        "no id",
        "long id",
        "uid case",
        "uid end",
        "no process",
        "time",
        "path",
        "long ancestor",
        "ancestors",
        "selector",
        "many",
    ],
)
def test_malformed_evidence_is_named(change, why):
    with pytest.raises(EvidenceError, match=why):
        evidence_from_proto(broken(change))

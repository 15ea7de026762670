# SPDX-License-Identifier: Apache-2.0
"""What an operator may have mistyped in a selector of a type that we know."""

import os

import pytest

from attestor.peer import Process
from attestor.workload.unix import Config, UnixAttestor
from spiffekit.daemon.peer import PeerProcess
from spiffekit.selector import KINDS, Selector, typo


@pytest.mark.parametrize(
    "text",
    [
        "unix:uid:0",
        "unix:user:root",
        "unix:path:/bin/sh",
        "unix:sha256:" + "0" * 64,
        "x509pop:subject:cn:a:b",
        "x509pop:san:environment:production",
        "k8s:pod-label:a:b",
        "k8s_psat:agent_node_label:zone:",
        "spiffe_id:spiffe://a/b",
    ],
)
def test_what_an_attestor_may_state_is_no_typo(text):
    assert typo(Selector.parse(text)) is None


@pytest.mark.parametrize(
    ("text", "rule"),
    [
        ("unix:uid:root", "uid has another form of value"),
        ("unix:uid:", "uid has another form of value"),
        ("unix:path:bin/sh", "path has another form of value"),
        ("unix:sha256:" + "F" * 64, "sha256 has another form of value"),
        ("unix:pth:/bin/sh", "not a kind of 'unix', which knows uid, gid, user"),
        ("x509pop:subject:o:x", "not a kind of 'x509pop'"),
    ],
)
def test_what_none_would_ever_state_is_one(text, rule):
    assert rule in typo(Selector.parse(text))


async def test_the_unix_attestor_states_only_kinds_that_are_known():
    peer = PeerProcess.from_pid(os.getpid())
    try:
        found = await UnixAttestor(Config(discover_workload_path=True)).attest(Process.of(peer))
    finally:
        peer.close()
    assert [selector for selector in found.selectors if typo(selector)] == []
    assert {s.value.partition(":")[0] for s in found.selectors} <= set(KINDS["unix"])

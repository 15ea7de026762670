# SPDX-License-Identifier: Apache-2.0
"""The issuer was away for too long, or comes back with nothing of what it knew: who follows it."""

import shutil
import time

import pytest

from tests.system.conftest import UID, eventually, ids_of, nodes

LIFE = 4  # seconds of a node's SVID
BACK_WITHIN = 40.0  # seconds: the longest wait between two tries, and what they take


@pytest.fixture(scope="module")
def settings():
    return {"issuer": {"node_svid_ttl": f"{LIFE}s"}}


def start(local, machines, name, **settings):
    tables = {"node_attestor.x509pop": machines.node(local.folder, name)}
    if settings:
        tables["attestor"] = settings
    before = set(nodes(local))
    attestor = local.start_attestor(name, tables)
    (attestor.node_id,) = set(nodes(local)) - before
    return attestor


def test_a_node_comes_back_after_its_svid_expired_while_the_issuer_was_away(local, machines):
    node = start(local, machines, "late")
    local.register("/late", node.node_id, UID)
    eventually(lambda: ids_of(node), ["spiffe://example.org/late"])
    local.issuer.stop()
    time.sleep(LIFE + 1)
    local.start_issuer()
    serial = nodes(local)[node.node_id]["x509svid_serial_number"]
    eventually(
        lambda: nodes(local)[node.node_id]["x509svid_serial_number"] != serial, True, within=BACK_WITHIN
    )
    local.register("/again", node.node_id, UID)
    eventually(lambda: "spiffe://example.org/again" in ids_of(node), True)


def test_an_issuer_that_has_lost_everything_is_followed_when_the_operator_says_so(local, machines):
    # 1. Two nodes know the issuer.
    node = start(local, machines, "faithful")
    stubborn = start(local, machines, "stubborn", rebootstrap="never")
    # 2. The issuer loses its authorities and its registry.
    local.issuer.stop()
    shutil.rmtree(local.folder / "issuer")
    local.start_issuer()
    # 3. Nobody trusts it.
    for attestor in (node, stubborn):
        eventually(lambda a=attestor: "no authority of example.org vouches" in a.daemon.tail(), True)
    assert nodes(local) == {}
    # 4. The operator vouches for it. The node comes back, and nobody restarted it.
    for attestor in (node, stubborn):
        (attestor.folder / "bundle.pem").write_text(local.operator("bundle", "show").stdout)
    eventually(lambda: list(nodes(local)), [node.node_id], within=BACK_WITHIN)
    local.register("/faithful", node.node_id, UID)
    eventually(lambda: ids_of(node), ["spiffe://example.org/faithful"], within=BACK_WITHIN)
    # 5. The other one was told never to.
    assert stubborn.node_id not in nodes(local)

# SPDX-License-Identifier: Apache-2.0
"""Stories of nodes: how they come, prove themselves again, are evicted, banned and forgotten."""

from tests.system.conftest import UID, eventually, ids_of, nodes

HEARTBEAT = 5.0  # seconds


def start_x509pop(local, machines, name):
    attestor = local.start_attestor(
        name, {"node_attestor.x509pop": machines.node(local.folder, name)}, wait=True
    )
    (attestor.node_id,) = [node for node in nodes(local) if node not in known]
    known.add(attestor.node_id)
    return attestor


known = set()


def test_a_join_token_works_once(local):
    # 1. A node comes with its token.
    first = local.start_attestor("first")
    known.add(first.node_id)
    assert nodes(local)[first.node_id]["attestation_type"] == "join_token"
    # 2. Another one with the same token is refused, says so and ends.
    token = first.node_id.rpartition("/")[2]
    second = local.start_attestor("second", {"node_attestor.join_token": {"token": token}}, wait=False)
    assert second.daemon.wait() == 1
    assert "join token" in second.daemon.tail()
    assert token not in second.daemon.tail(), "a token is a secret"
    # 3. The first one is restarted: its state is enough, the token is not needed.
    first.daemon.stop()
    first.start()
    assert "node identity taken up" in first.daemon.tail()


def test_an_unknown_token_is_refused(local):
    bad = local.start_attestor("bad", {"node_attestor.join_token": {"token": "no-such-token"}}, wait=False)
    assert bad.daemon.wait() == 1
    assert "no-such-token" not in bad.daemon.tail()


def test_a_token_may_bring_an_alias(local):
    answer = local.operator_json("token", "generate", "--spiffeID", "spiffe://example.org/fleet/web")
    web = local.start_attestor("web", {"node_attestor.join_token": {"token": answer["value"]}})
    known.update(nodes(local))
    local.register("/aliased", "spiffe://example.org/fleet/web", UID)
    eventually(lambda: ids_of(web), ["spiffe://example.org/aliased"])


def test_a_machine_proves_itself_by_its_certificate_and_comes_back_after_eviction(local, machines):
    # 1. It proves that it has the key of its certificate.
    node = start_x509pop(local, machines, "machine-a")
    assert "/x509pop/" in node.node_id
    assert nodes(local)[node.node_id]["can_reattest"] is True
    entry = local.register("/on-machine-a", node.node_id, UID)
    eventually(lambda: ids_of(node), ["spiffe://example.org/on-machine-a"])
    # 2. The operator evicts it. It notices, proves itself again, and serves as before.
    serial = nodes(local)[node.node_id]["x509svid_serial_number"]
    local.operator("node", "evict", "--spiffeID", node.node_id)
    eventually(lambda: node.node_id in nodes(local), True)
    assert nodes(local)[node.node_id]["x509svid_serial_number"] != serial
    eventually(lambda: ids_of(node), ["spiffe://example.org/on-machine-a"])
    local.operator("entry", "delete", "--entryID", entry)


def test_a_machine_without_its_state_proves_itself_again(local, machines):
    node = start_x509pop(local, machines, "machine-b")
    node.daemon.stop()
    (node.folder / "data" / "state.json").unlink()
    node.start()
    assert "node attested" in node.daemon.tail()


def test_a_node_with_a_spent_token_cannot_come_back_after_eviction(local):
    node = local.start_attestor("spent")
    known.add(node.node_id)
    local.operator("node", "evict", "--spiffeID", node.node_id)
    assert node.daemon.wait(HEARTBEAT) == 1
    assert "node has to attest again" in node.daemon.tail()
    assert node.node_id not in nodes(local)


def test_a_banned_node_ends_at_once_and_stays_out(local, machines):
    node = start_x509pop(local, machines, "machine-c")
    local.operator("node", "ban", "--spiffeID", node.node_id)
    # 1. It ends, says why, and forgets its identity.
    assert node.daemon.wait(HEARTBEAT) == 1
    assert "banned" in node.daemon.tail()
    assert not (node.folder / "data" / "state.json").exists()
    # 2. It may not come back, however often it proves itself.
    node.start(wait=False)
    assert node.daemon.wait() == 1
    assert nodes(local)[node.node_id]["banned"] is True
    # 3. The operator forgives; then it may.
    local.operator("node", "evict", "--spiffeID", node.node_id)
    node.start()


def test_an_issuer_that_is_not_ours_is_not_attested_to(local, folder):
    stranger = folder / "stranger.pem"
    from spiffekit.testing import TestCA

    stranger.write_bytes(TestCA("example.org").bundle.to_pem())
    node = local.start_attestor("careful", {"attestor": {"trust_bundle_path": str(stranger)}}, wait=False)
    eventually(lambda: "no authority of example.org vouches" in node.daemon.tail(), True)
    assert "node attested" not in node.daemon.tail()
    node.daemon.stop()

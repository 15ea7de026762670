# SPDX-License-Identifier: Apache-2.0
"""The official Python and Go clients, unchanged, against a real issuer and attestor."""

import os
import time

import grpc
import pytest

from spiffekit.wire import workload_api

UID = f"unix:uid:{os.getuid()}"
METHODS = ["FetchX509SVID", "FetchX509Bundles", "FetchJWTSVID", "FetchJWTBundles"]
METHODS += ["ValidateJWTSVID", "FetchWITSVID", "FetchWITBundles"]
SVID_TTL = "12"  # seconds: rotation comes after about six


@pytest.fixture
def node(attestor):
    return attestor.node_id


@pytest.fixture
def entry(local, node):
    """Register the caller of these tests, and delete what is left of it afterwards."""
    made = []

    def register(path, *options):
        made.append(local.register(path, node, UID, options=options))
        return made[-1]

    yield register
    for entry_id in made:
        local.operator("entry", "delete", "--entryID", entry_id, check=False)


@pytest.mark.parametrize("client", ["py_client", "go_client"])
def test_one_shot_calls_of_every_kind(request, client, entry, attestor):
    """IOP-01, IOP-02, IOP-09: identities, bundles, a token for two audiences, validation."""
    entry("/one-shot")
    said = request.getfixturevalue(client)(attestor.endpoint, "fetch").until("ids")
    assert said["ids"] == ["spiffe://example.org/one-shot"]
    assert said["trust_domains"] == ["example.org"]
    assert said["jwt_subject"] == said["validated"] == "spiffe://example.org/one-shot"
    assert sorted(said["jwt_audience"]) == ["one", "two"]


@pytest.mark.parametrize("client", ["py_client", "go_client"])
def test_a_waiting_client_gets_its_identity_when_the_entry_comes(request, client, entry, attestor):
    """IOP-03"""
    waiting = request.getfixturevalue(client)(attestor.endpoint, "watch")
    if client == "go_client":
        assert "no identity issued" in waiting.until("watch_error")["watch_error"]
    entry("/late")
    assert waiting.until("update")["update"] == "spiffe://example.org/late"


@pytest.mark.parametrize("client", ["py_client", "go_client"])
def test_rotation_arrives_on_the_open_stream(request, client, entry, attestor):
    """IOP-04"""
    entry("/rotating", "--x509SVIDTTL", SVID_TTL)
    watcher = request.getfixturevalue(client)(attestor.endpoint, "watch")
    serials = [watcher.until("update")["serial"] for _ in range(3)]
    assert len(set(serials)) == 3


def test_deleting_the_entry_ends_the_stream_with_permission_denied(entry, local, attestor, go_client):
    """IOP-05"""
    entry_id = entry("/short-lived")
    watcher = go_client(attestor.endpoint, "watch")
    watcher.until("update")
    local.operator("entry", "delete", "--entryID", entry_id)
    assert "PermissionDenied" in watcher.until("watch_error", 2)["watch_error"]


@pytest.mark.parametrize("client", ["py_client", "go_client"])
def test_clients_survive_a_restart_of_the_attestor(request, client, entry, attestor):
    """IOP-06"""
    entry("/surviving")
    watcher = request.getfixturevalue(client)(attestor.endpoint, "watch")
    first = watcher.until("update")
    attestor.daemon.stop()
    attestor.start()
    again = watcher.until("update")
    assert again["update"] == first["update"]
    assert again["serial"] != first["serial"]


def test_federated_bundles_come_and_go(entry, local, attestor, node, go_client, folder):
    """IOP-07"""
    bundle = folder / "other.pem"
    bundle.write_text(local.operator("bundle", "show").stdout)
    local.operator("bundle", "set", "--id", "other.org", "--path", str(bundle))
    entry_id = entry("/federated", "--federatesWith", "other.org")
    watcher = go_client(attestor.endpoint, "watch")
    assert watcher.until("update")["trust_domains"] == 2
    local.operator(
        "entry", "update", "--entryID", entry_id, "--parentID", node, "--selector", UID,
        "--spiffeID", "spiffe://example.org/federated",
    )  # fmt: skip
    assert watcher.until("update")["trust_domains"] == 1
    local.operator("bundle", "delete", "--id", "other.org")


def test_two_entries_come_in_a_stable_order_with_their_hints(entry, attestor, go_client):
    """IOP-08"""
    entry("/first", "--hint", "internal")
    entry("/second", "--hint", "external")
    for _ in range(2):
        said = go_client(attestor.endpoint, "fetch").until("ids")
        assert said["ids"] == ["spiffe://example.org/first", "spiffe://example.org/second"]
        assert said["hints"] == ["internal", "external"]


def test_calls_without_the_header_are_invalid(attestor):
    """IOP-10"""
    with grpc.insecure_channel(f"unix:{attestor.socket}") as channel:
        for name in METHODS:
            method = workload_api.method(name)
            invoke = channel.unary_stream if method.streaming else channel.unary_unary
            call = invoke(method.path, method.request.SerializeToString, method.response.FromString)
            with pytest.raises(grpc.RpcError) as refused:
                answer = call(method.request(), timeout=5)
                if method.streaming:
                    next(answer)
            assert refused.value.code() is grpc.StatusCode.INVALID_ARGUMENT, name


def test_two_hundred_watchers_at_once(entry, attestor):
    """IOP-16"""
    entry("/crowd")
    method = workload_api.method("FetchX509SVID")
    channels = [
        grpc.insecure_channel(f"unix:{attestor.socket}", options=[("grpc.use_local_subchannel_pool", 1)])
        for _ in range(20)
    ]
    began = time.monotonic()
    streams = [
        channel.unary_stream(method.path, method.request.SerializeToString, method.response.FromString)(
            method.request(), metadata=[workload_api.SECURITY_HEADER], timeout=30
        )
        for channel in channels
        for _ in range(10)
    ]
    ids = [next(stream).svids[0].spiffe_id for stream in streams]
    assert ids == ["spiffe://example.org/crowd"] * 200
    assert time.monotonic() - began < 10
    for channel in channels:
        channel.close()


def test_mutual_tls_between_the_official_go_library_and_ours(entry, attestor, go_client, folder):
    """IOP-14, as far as one library goes: a Go server with a Go client, both rotating by our attestor."""
    entry("/peer")
    server = go_client(attestor.endpoint, "serve")
    address = server.until("listening")["listening"]
    said = go_client(attestor.endpoint, "dial", address, "spiffe://example.org/peer").until("said")
    assert said["said"] == "spiffe://example.org/peer\n"
    refused = go_client(attestor.endpoint, "dial", address, "spiffe://example.org/other").until("error")
    assert "unexpected ID" in refused["error"]

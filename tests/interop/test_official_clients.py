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
SVID_TTL = "8"  # seconds: rotation comes after about four
ID = "spiffe://example.org"


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


both = pytest.mark.parametrize("client", ["py_client", "go_client"], indirect=True)


@pytest.fixture
def client(request):
    return request.getfixturevalue(request.param)


@both
def test_one_shot_calls_of_every_kind(client, entry, attestor):
    """IOP-01, IOP-02, IOP-09: identities, bundles, a token for two audiences, validation."""
    entry("/one-shot")
    said = client(attestor.endpoint, "fetch").until("ids")
    assert said["ids"] == [f"{ID}/one-shot"]
    assert said["trust_domains"] == ["example.org"]
    assert said["jwt_subject"] == said["validated"] == f"{ID}/one-shot"
    assert sorted(said["jwt_audience"]) == ["one", "two"]
    assert said.get("wit", "Unimplemented") == "Unimplemented", "not served, and said so"


def denied(client, attestor):
    assert "no identity issued" in client(attestor.endpoint, "fetch").until("error")["error"]


@both
@pytest.mark.parametrize("use", ["watch", "sources"])
def test_a_waiting_client_gets_its_identity_when_the_entry_comes(client, use, entry, attestor):
    """IOP-03; IOP-01 asks the same of both sources."""
    waiting = client(attestor.endpoint, use)
    waiting.connected()
    denied(client, attestor)
    entry("/late")
    said = waiting.until("update" if use == "watch" else "token_for")
    assert f"{ID}/late" in said.values()


@both
def test_rotation_arrives_on_the_open_stream(client, entry, attestor):
    """IOP-04: the watcher and both sources see it, and none of them connects again."""
    entry("/rotating", "--x509SVIDTTL", SVID_TTL)
    running = [client(attestor.endpoint, use) for use in ("watch", "sources")]
    serials = [[each.until("serial")["serial"]] for each in running]
    connections = [each.sockets() for each in running]
    for each, seen in zip(running, serials, strict=True):
        seen += [each.until("serial")["serial"] for _ in range(2)]
    assert [len(set(seen)) for seen in serials] == [3, 3]
    assert [each.sockets() for each in running] == connections


def test_deleting_the_entry_ends_the_stream_with_permission_denied(entry, local, attestor, go_client):
    """IOP-05, as the Go client tells it."""
    entry_id = entry("/short-lived")
    watcher = go_client(attestor.endpoint, "watch")
    watcher.until("update")
    local.operator("entry", "delete", "--entryID", entry_id)
    assert "PermissionDenied" in watcher.until("watch_error", 2)["watch_error"]


def test_a_deleted_entry_is_denied_and_one_that_comes_back_is_served(entry, local, attestor, py_client):
    """IOP-05: the Python client says nothing of a stream that ended, asks again, and is served in the end."""
    entry_id = entry("/coming-back")
    watcher = py_client(attestor.endpoint, "watch")
    first = watcher.until("update")
    local.operator("entry", "delete", "--entryID", entry_id)
    denied(py_client, attestor)
    entry("/coming-back")
    again = watcher.until("update")
    assert again["update"] == first["update"]
    assert again["serial"] != first["serial"]


@both
def test_clients_survive_a_restart_of_the_attestor(client, entry, attestor):
    """IOP-06: the watcher and both sources recover."""
    entry("/surviving")
    running = [client(attestor.endpoint, use) for use in ("watch", "sources")]
    before = [each.until("serial") for each in running]
    attestor.daemon.stop()
    attestor.start()
    after = [each.until("serial") for each in running]
    for first, again in zip(before, after, strict=True):
        assert again["serial"] != first["serial"]
        assert {**again, "serial": ""} == {**first, "serial": ""}, "everything else is as it was"


@both
def test_federated_bundles_come_are_emptied_and_go(client, entry, local, attestor, node, folder):
    """IOP-07: also a bundle without any authority, which ends the Python client when it is sent."""
    bundle, empty = folder / "other.pem", folder / "empty.json"
    bundle.write_text(local.operator("bundle", "show").stdout)
    empty.write_text('{"keys": []}')
    put = ["bundle", "set", "--id", "other.org", "--path"]
    local.operator(*put, str(bundle))
    entry_id = entry("/federated")
    update = ["entry", "update", "--entryID", entry_id, "--parentID", node, "--selector", UID]
    update += ["--spiffeID", f"{ID}/federated"]
    watcher, sources = (client(attestor.endpoint, use) for use in ("watch", "sources"))
    own = watcher.until("update")["authorities"]
    assert list(own) == ["example.org"]
    sources.until("serial")
    # 1. It is added.
    local.operator(*update, "--federatesWith", "other.org")
    assert watcher.until("update")["authorities"] == {**own, "other.org": own["example.org"]}
    # 2. It is emptied: the client has no authority of it, and lives.
    local.operator(*put, str(empty), "--format", "spiffe")
    assert watcher.until("update")["authorities"].get("other.org", 0) == 0
    # 3. It comes back, and is removed.
    local.operator(*put, str(bundle))
    assert watcher.until("update")["authorities"]["other.org"] == own["example.org"]
    local.operator(*update)
    assert watcher.until("update")["authorities"] == own
    local.operator("bundle", "delete", "--id", "other.org")
    assert sources.process.poll() is None


@both
def test_two_entries_come_in_a_stable_order_with_their_hints(client, entry, attestor):
    """IOP-08; the Python client hands out no hints."""
    entry("/first", "--hint", "internal")
    entry("/second", "--hint", "external")
    for _ in range(2):
        said = client(attestor.endpoint, "fetch").until("ids")
        assert said["ids"] == [f"{ID}/first", f"{ID}/second"]
        assert said.get("hints", ["internal", "external"]) == ["internal", "external"]


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


def test_two_hundred_watchers_at_once(entry, attestor, go_client):
    """IOP-16: each with a connection of its own, and all of them see the rotation."""
    entry("/crowd", "--x509SVIDTTL", SVID_TTL)
    began = time.monotonic()
    watchers = go_client(attestor.endpoint, "crowd", "200")
    first = watchers.until("watchers")
    assert time.monotonic() - began < 10
    assert watchers.until("watchers")["serial"] != first["serial"]


def test_mutual_tls_between_the_official_go_library_and_ours(entry, attestor, go_client, folder):
    """IOP-14, as far as one library goes: a Go server with a Go client, both rotating by our attestor."""
    entry("/peer")
    server = go_client(attestor.endpoint, "serve")
    address = server.until("listening")["listening"]
    said = go_client(attestor.endpoint, "dial", address, "spiffe://example.org/peer").until("said")
    assert said["said"] == "spiffe://example.org/peer\n"
    refused = go_client(attestor.endpoint, "dial", address, "spiffe://example.org/other").until("error")
    assert "unexpected ID" in refused["error"]

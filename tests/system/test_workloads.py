# SPDX-License-Identifier: Apache-2.0
"""Stories of workloads: entries, SVIDs of both kinds, outages, rotation of authorities."""

import json
import os
import subprocess
import sys
import time

import pytest
from cryptography import x509

from deploy.local import run
from tests.system.conftest import UID, eventually, ids_of, workload_api

ID = "spiffe://example.org"


@pytest.fixture
def entry(local, attestor):
    """Register this process under a path; entries end with the test."""
    made = []

    def register(path, *selectors, options=()):
        made.append(local.register(path, attestor.node_id, *(selectors or (UID,)), options=options))
        return made[-1]

    yield register
    for entry_id in made:
        local.operator("entry", "delete", "--entryID", entry_id, check=False)
    eventually(lambda: ids_of(attestor), [])


def test_only_entries_whose_selectors_all_hold_give_an_identity(entry, attestor):
    for number in range(5):
        entry(f"/right-{number}")
        entry(f"/wrong-{number}", UID, "unix:user:nobody-has-this-name")
    eventually(lambda: ids_of(attestor), [f"{ID}/right-{number}" for number in range(5)])


def test_files_written_for_a_workload_are_its_identity_and_nobody_elses(entry, attestor, tmp_path):
    entry("/files")
    eventually(lambda: ids_of(attestor), [f"{ID}/files"])
    workload_api(attestor, "fetch", "x509", "--write", str(tmp_path), "--silent")
    names = {path.name: oct(path.stat().st_mode & 0o777) for path in tmp_path.iterdir()}
    assert set(names) == {"svid.0.pem", "svid.0.key", "bundle.0.pem"}
    assert names["svid.0.key"] == "0o600"
    command = ["openssl", "verify", "-CAfile", tmp_path / "bundle.0.pem", tmp_path / "svid.0.pem"]
    assert subprocess.run(command, capture_output=True).returncode == 0


def test_tokens_are_fetched_and_validated(entry, attestor):
    entry("/tokens")
    eventually(lambda: ids_of(attestor), [f"{ID}/tokens"])
    fetched = workload_api(attestor, "fetch", "jwt", "--audience", "db", "--output", "json")
    (svid,) = json.loads(fetched.stdout)["svids"]
    validate = ("validate", "jwt", "--svid", svid["svid"], "--audience")
    assert f"SPIFFE ID : {ID}/tokens" in workload_api(attestor, *validate, "db").stdout
    refused = workload_api(attestor, *validate, "other", check=False)
    assert (refused.returncode, "INVALID_ARGUMENT" in refused.stderr) == (1, True)
    others = workload_api(
        attestor, "fetch", "jwt", "--audience", "db", "--spiffeID", f"{ID}/other", check=False
    )
    assert "no identity issued (PERMISSION_DENIED)" in others.stderr


def test_entries_are_created_shown_updated_counted_and_deleted(local, attestor):
    # 1. Create: the answer has the entry.
    arguments = ["--spiffeID", f"{ID}/crud", "--parentID", attestor.node_id, "--selector", UID]
    made = local.operator_json("entry", "create", *arguments, "--hint", "first", "--x509SVIDTTL", "90s")
    entry_id = made["results"][0]["entry"]["id"]
    assert made["results"][0]["entry"]["x509_svid_ttl"] == 90
    eventually(lambda: ids_of(attestor), [f"{ID}/crud"])
    # 2. The same again exists already, and is shown.
    again = local.operator("entry", "create", *arguments, check=False)
    assert again.returncode == 1
    assert entry_id in again.stdout + again.stderr
    # 3. Show and count find it.
    (shown,) = local.operator_json("entry", "show", "--spiffeID", f"{ID}/crud")["entries"]
    assert (shown["id"], shown["hint"]) == (entry_id, "first")
    assert "1" in local.operator("entry", "count", "--spiffeID", f"{ID}/crud").stdout
    # 4. An update replaces it, and the workload's identity with it.
    local.operator("entry", "update", "--entryID", entry_id, *arguments[2:], "--spiffeID", f"{ID}/renamed")
    eventually(lambda: ids_of(attestor), [f"{ID}/renamed"])
    # 5. Deleted is gone.
    local.operator("entry", "delete", "--entryID", entry_id)
    eventually(lambda: ids_of(attestor), [])
    missing = local.operator("entry", "show", "--entryID", entry_id, check=False)
    assert missing.returncode == 1


def test_a_nested_entry_reaches_the_node_below_its_parent(local, attestor, entry):
    entry("/parent", "unix:user:nobody-has-this-name")
    made = local.register("/child", f"{ID}/parent", UID)
    eventually(lambda: ids_of(attestor), [f"{ID}/child"])
    local.operator("entry", "delete", "--entryID", made)


def test_an_alias_of_nodes_reaches_every_node_that_it_selects(local, attestor):
    selector = f"spiffe_id:{attestor.node_id}"
    alias = local.operator_json(
        "entry", "create", "--node", "--spiffeID", f"{ID}/cluster", "--selector", selector
    )["results"][0]["entry"]["id"]
    below = local.register("/below", f"{ID}/cluster", UID)
    eventually(lambda: ids_of(attestor), [f"{ID}/below"])
    for entry_id in (alias, below):
        local.operator("entry", "delete", "--entryID", entry_id)
    eventually(lambda: ids_of(attestor), [])


def test_an_identity_outlives_an_outage_of_the_issuer(local, attestor, entry):
    entry("/outage")
    eventually(lambda: ids_of(attestor), [f"{ID}/outage"])
    # 1. The issuer is gone; what was granted is served on, to new connections as well.
    local.issuer.kill()
    for _ in range(3):
        assert ids_of(attestor) == [f"{ID}/outage"]
    # 2. A restarted attestor serves nothing that it cannot renew, and waits for the issuer.
    local.start_issuer()
    entry("/after")
    eventually(lambda: ids_of(attestor), [f"{ID}/outage", f"{ID}/after"])


def test_an_attestor_that_is_killed_comes_back_with_everything(attestor, entry):
    entry("/killed")
    eventually(lambda: ids_of(attestor), [f"{ID}/killed"])
    attestor.daemon.kill()
    attestor.start()
    eventually(lambda: ids_of(attestor), [f"{ID}/killed"])


def test_the_commands_say_what_is_wrong(local, attestor, tmp_path):
    run("attestor", "healthcheck", "--socketPath", str(attestor.socket))
    run("attestor", "validate", "--config", str(attestor.config))
    local.operator("healthcheck")
    run("issuer", "validate", "--config", str(local.issuer_config))
    nowhere = run("attestor", "healthcheck", "--socketPath", str(tmp_path / "no.sock"), check=False)
    assert (nowhere.returncode, nowhere.stderr.count("\n")) == (1, 1)
    assert "no attestor listens at" in nowhere.stderr
    broken = tmp_path / "broken.toml"
    broken.write_text("[attestor]\ntrust_domain = 'Example.org'\nno_such_key = 1\n")
    invalid = run("attestor", "validate", "--config", str(broken), check=False)
    assert invalid.returncode == 2
    assert f"{broken}: attestor.no_such_key: unknown key" in invalid.stderr
    assert f"{broken}: attestor.socket_path: is required" in invalid.stderr


def test_a_minted_svid_is_signed_by_the_bundle(local, tmp_path):
    local.operator("x509", "mint", "--spiffeID", f"{ID}/minted", "--write", str(tmp_path))
    leaf = x509.load_pem_x509_certificate((tmp_path / "svid.pem").read_bytes())
    san = leaf.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    assert san.get_values_for_type(x509.UniformResourceIdentifier) == [f"{ID}/minted"]
    command = ["openssl", "verify", "-CAfile", tmp_path / "bundle.pem", tmp_path / "svid.pem"]
    assert subprocess.run(command, capture_output=True).returncode == 0
    assert oct((tmp_path / "key.pem").stat().st_mode & 0o777) == "0o600"


def test_explain_says_what_a_process_misses(attestor, entry):
    entry("/needs-more", UID, "unix:path:/opt/agent")
    child = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
    try:
        eventually(lambda: "unix:path:/opt/agent (it has /" in attestor.explain(child.pid), True)
        assert f"  {UID}\n" in attestor.explain(child.pid)
        assert "matches 0 of " in attestor.explain(child.pid)
    finally:
        child.communicate(b"\n")
    gone = run("attestor", "explain", str(child.pid), "--socketPath", str(attestor.admin_socket), check=False)
    assert (gone.returncode, gone.stderr) == (1, f"error: pid {child.pid}: no such process (NOT_FOUND)\n")


def test_the_issuer_says_by_which_way_an_entry_reaches_a_node(local, attestor, entry):
    entry_id = entry("/why")
    answer = local.operator("entry", "why", "--nodeID", attestor.node_id, "--entryID", entry_id).stdout
    assert f"reaches the node: {attestor.node_id}" in answer
    assert "attested by join_token, level join_token" in answer
    assert f"the workload lacks {UID}" in answer
    satisfied = local.operator("entry", "why", "--nodeID", attestor.node_id, "--selector", UID).stdout
    assert "the workload gets spiffe://example.org/" in satisfied
    assert local.operator("entry", "why", "--nodeID", attestor.node_id, check=False).returncode == 2


def test_a_deleted_entry_ends_the_stream_within_a_second(local, attestor, entry):
    entry_id = entry("/ended")
    eventually(lambda: ids_of(attestor), [f"{ID}/ended"])
    command = [sys.executable, "-m", "attestor", "api", "watch", "--socketPath", str(attestor.socket)]
    watcher = subprocess.Popen(
        command, stdout=subprocess.PIPE, text=True, env={**os.environ, "PYTHONUNBUFFERED": "1"}
    )
    try:
        assert "1 identities" in watcher.stdout.readline()
        local.operator("entry", "delete", "--entryID", entry_id)
        deleted = time.monotonic()
        while "0 identities" not in watcher.stdout.readline():
            pass
        assert time.monotonic() - deleted < 1.0
    finally:
        watcher.terminate()
        watcher.communicate(timeout=20)

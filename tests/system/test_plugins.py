# SPDX-License-Identifier: Apache-2.0
"""A workload attestor that is a program of somebody else's gives identities, and ends with the daemon."""

import hashlib
import json

from tests.attestor.workload.plugins import gone, program
from tests.system.conftest import UID, eventually, ids_of


def test_what_a_program_says_of_a_process_gives_it_its_identity(local, tmp_path):
    path, report = program(tmp_path), tmp_path / "report"
    table = {
        "plugin_cmd": str(path),
        "plugin_checksum": hashlib.sha256(path.read_bytes()).hexdigest(),
        "plugin_args": ["reports", str(report)],
        "plugin_data": json.dumps({"say": ["team:payments"]}),
        "required": True,
    }
    attestor = local.start_attestor("programmed", {"workload_attestor.fleet": table})
    local.register("/payments", attestor.node_id, UID, "fleet:team:payments")
    local.register("/other", attestor.node_id, UID, "fleet:team:other")
    eventually(lambda: ids_of(attestor), ["spiffe://example.org/payments"])
    pid = json.loads(report.read_text())["ids"][0]
    attestor.daemon.stop()
    assert gone(pid), "it ends with the daemon"


def test_a_program_that_is_not_the_configured_one_does_not_run_and_gives_nobody_anything(local, tmp_path):
    path, report = program(tmp_path), tmp_path / "report"
    table = {
        "plugin_cmd": str(path),
        "plugin_checksum": "0" * 64,
        "plugin_args": ["reports", str(report)],
    }
    attestor = local.start_attestor("tampered", {"workload_attestor.fleet": table})
    local.register("/trusted", attestor.node_id, "fleet:team:payments")
    local.register("/plain", attestor.node_id, UID)
    eventually(lambda: ids_of(attestor), ["spiffe://example.org/plain"])
    assert not report.exists()
    assert "not the configured one" in attestor.daemon.log.read_text()

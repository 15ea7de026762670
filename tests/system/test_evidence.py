# SPDX-License-Identifier: Apache-2.0
"""Identities that belong to one process: made with evidence of it, judged by the issuer, gone with it."""

import json
import os
import pwd
import signal
import sqlite3
import subprocess
import sys

import pytest

from tests.system.conftest import UID, eventually, ids_of, workload_api

WORKLOAD = """
import asyncio, sys
from spiffekit.workload import WorkloadApi
from spiffekit.errors import SpiffeError

async def main():
    async with WorkloadApi.connect(sys.argv[1]) as api:
        async for update in api.watch_x509():
            svid = update.svids[0]
            print(svid.spiffe_id, svid.serial_number, hash(svid.private_key_der), flush=True)

asyncio.run(main())
"""


@pytest.fixture(scope="module")
def settings():
    return {"issuer": {"default_x509_svid_ttl": "8s", "node_svid_ttl": "1h"}}


@pytest.fixture
def start(attestor):
    """Start processes that watch their identity; each line says ID, serial number and which key."""
    started = []

    def begin():
        process = subprocess.Popen(
            [sys.executable, "-c", WORKLOAD, attestor.endpoint],
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
            env={**os.environ, "PYTHONHASHSEED": "0"},
        )
        started.append(process)
        return process

    yield begin
    for process in started:
        process.kill()
        process.wait()
        process.stdout.close()


def line(process):
    return process.stdout.readline().split()


@pytest.fixture
def own(local, attestor):
    entry_id = local.register("/own", attestor.node_id, UID, options=["--perProcess"])
    eventually(lambda: ids_of(attestor), ["spiffe://example.org/own"])  # a restart may have gone before
    yield entry_id
    local.operator("entry", "delete", "--entryID", entry_id)


def test_each_process_has_a_key_of_its_own_and_keeps_it_fresh(own, start):
    first, second = start(), start()
    one, two = line(first), line(second)
    assert one[0] == two[0] == "spiffe://example.org/own"
    assert one[1] != two[1]
    assert one[2] != two[2]
    renewed = line(first)  # at half of its life, on the open stream
    assert renewed[0] == one[0]
    assert renewed[1] != one[1]
    assert renewed[2] != one[2]


def test_the_record_says_which_process_it_was(local, own, start):
    process = start()
    serial = line(process)[1]
    (event,) = [event for event in audit(local) if event.get("credential", {}).get("serial") == serial]
    evidence = event["detail"]["evidence"]
    assert evidence["process"]["pid"] == process.pid
    assert evidence["process"]["uid"] == os.getuid()
    assert evidence["ancestors"][0]["pid"] == os.getpid()
    assert len(evidence["instance"]) == 26


def audit(local):
    """All events of the audit trail, as the database has them."""
    with sqlite3.connect(f"file:{local.folder / 'issuer' / 'issuer.db'}?mode=ro", uri=True) as database:
        return [json.loads(event) for (event,) in database.execute("SELECT event FROM audit")]


def test_a_template_gives_the_identity_of_the_user(local, attestor):
    name = pwd.getpwuid(os.getuid()).pw_name
    template = "spiffe://example.org/users/{unix:user}"
    answer = local.operator_json(
        "entry", "create", "--spiffeID", template, "--parentID", attestor.node_id, "--selector", UID
    )
    entry_id = answer["results"][0]["entry"]["id"]
    try:
        eventually(lambda: ids_of(attestor), [f"spiffe://example.org/users/{name}"])
        shown = local.operator("entry", "show", "--entryID", entry_id).stdout
        assert template in shown
        explained = attestor.explain(os.getpid())
        assert f"spiffe://example.org/users/{name}" in explained
        token = json.loads(
            workload_api(attestor, "fetch", "jwt", "--audience", "a", "--output", "json").stdout
        )
        assert token["svids"][0]["spiffe_id"] == f"spiffe://example.org/users/{name}"
    finally:
        local.operator("entry", "delete", "--entryID", entry_id)
    eventually(lambda: ids_of(attestor), [])


def test_while_the_issuer_is_away_what_a_process_has_stays(local, own, start):
    process = start()
    first = line(process)
    local.issuer.stop()
    local.start_issuer()
    renewed = line(process)
    assert renewed[0] == first[0]


def test_keys_end_with_their_process(own, start, attestor):
    process = start()
    assert line(process)
    fds = os.listdir(f"/proc/{attestor.daemon.pid}/fd")
    process.send_signal(signal.SIGKILL)
    process.wait()
    eventually(lambda: len(os.listdir(f"/proc/{attestor.daemon.pid}/fd")) < len(fds), True)

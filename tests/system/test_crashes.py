# SPDX-License-Identifier: Apache-2.0
"""kill -9 at random moments under load: what was acknowledged stays, and nothing is left half done."""

import json
import random
import sqlite3
import threading
import time

import grpc
import pytest

from issuer.client import connect
from issuer.governance.audit_log import load_signer
from issuer.governance.log_files import LogFiles
from spiffekit.id import SpiffeId
from spiffekit.transparency.check import check_log
from spiffekit.transparency.notes import open_checkpoint
from spiffekit.wire.convert import spiffe_id_to_proto
from spiffekit.wire.pb.spire.api import types_pb2
from spiffekit.wire.pb.spire.api.server.entry.v1 import entry_pb2
from tests.system.conftest import UID, eventually, ids_of

PARENT = SpiffeId.parse("spiffe://example.org/fleet")
ROUNDS, SOAK_ROUNDS = 20, 200


def entry(number):
    return types_pb2.Entry(
        spiffe_id=spiffe_id_to_proto(PARENT.with_path(f"/agents/{number}")),
        parent_id=spiffe_id_to_proto(PARENT),
        selectors=[types_pb2.Selector(type="unix", value=f"uid:{number}")],
    )


class Operator:
    """Creates and deletes entries without a pause; remembers what was acknowledged."""

    def __init__(self, socket):
        self._socket = socket
        self._number = 0
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._run)
        self.kept = {}  # ID: number, of entries whose creation was acknowledged
        self.gone = set()  # IDs of entries whose deletion was acknowledged
        self.unsure = set()  # IDs of entries whose deletion was asked for and not acknowledged

    def __enter__(self):
        self._thread.start()
        return self

    def __exit__(self, *_):
        self._stopping.set()
        self._thread.join(30)

    def _run(self):
        while not self._stopping.is_set():
            try:
                with connect(self._socket) as api:
                    while not self._stopping.is_set():
                        self._step(api)
            except (grpc.RpcError, ConnectionRefusedError):
                time.sleep(0.02)  # the issuer is dead or not back yet

    def _step(self, api):
        numbers = range(self._number, self._number + 3)
        self._number += 3
        request = entry_pb2.BatchCreateEntryRequest(entries=map(entry, numbers))
        for number, result in zip(
            numbers, api.entries.BatchCreateEntry(request, timeout=5).results, strict=True
        ):
            if result.status.code == 0:
                self.kept[result.entry.id] = number
        oldest = next(iter(self.kept))
        number = self.kept.pop(oldest)
        self.unsure.add(oldest)
        answer = api.entries.BatchDeleteEntry(entry_pb2.BatchDeleteEntryRequest(ids=[oldest]), timeout=5)
        if answer.results[0].status.code == 0:
            self.unsure.discard(oldest)
            self.gone.add(oldest)
        else:
            self.kept[oldest] = number


def crash_the_issuer(local, rounds):
    draw = random.Random(rounds)
    with Operator(local.admin_socket) as operator:
        for _ in range(rounds):
            acknowledged = len(operator.gone)
            eventually(lambda seen=acknowledged: len(operator.gone) > seen, True)
            time.sleep(draw.uniform(0, 0.1))
            local.issuer.kill()
            local.start_issuer()
    with connect(local.admin_socket) as api:
        listed, token = {}, ""
        while True:
            page = api.entries.ListEntries(entry_pb2.ListEntriesRequest(page_token=token, page_size=500))
            listed |= {found.id: found for found in page.entries}
            token = page.next_page_token
            if not token:
                break
    assert operator.gone
    assert operator.kept.keys() - listed.keys() == set(), "an acknowledged registration was lost"
    assert operator.gone & listed.keys() == set(), "an acknowledged deletion was lost"
    for entry_id, number in operator.kept.items():
        assert listed[entry_id].spiffe_id.path == f"/agents/{number}", "a half state"
        assert [s.value for s in listed[entry_id].selectors] == [f"uid:{number}"]
    the_trail_has(local, created={*operator.kept, *operator.gone}, deleted=operator.gone)


def the_trail_has(local, *, created, deleted):
    """The audit log is whole, and has what was acknowledged."""
    data = local.folder / "issuer"
    files, key = LogFiles(data / "audit"), load_signer("example.org/audit", data / "audit-key").key
    with sqlite3.connect(f"file:{data / 'issuer.db'}?mode=ro", uri=True) as database:
        recorded = database.execute("SELECT count(*) FROM audit").fetchone()[0]
    eventually(lambda: open_checkpoint(files.checkpoint(), key).size >= recorded, True)
    events = []
    check_log(
        files.read,
        open_checkpoint(files.checkpoint(), key),
        check_entry=lambda _, leaf: events.append(json.loads(leaf)),
    )
    assert [event["seq"] for event in events] == list(range(1, len(events) + 1))
    for kind, ids in (("entry.created", created), ("entry.deleted", deleted)):
        assert ids - {event["detail"]["entry"] for event in events if event["type"] == kind} == set()
    assert "audit log cannot be sealed" not in local.issuer.log.read_text()


def crash_the_attestor(local, attestor, rounds):
    draw = random.Random(rounds)
    kept = local.register("/crashing", attestor.node_id, UID)
    for _ in range(rounds):
        time.sleep(draw.uniform(0, 0.3))
        attestor.daemon.kill()
        attestor.start()
        assert ids_of(attestor) == ["spiffe://example.org/crashing"]
    local.operator("entry", "delete", "--entryID", kept)
    assert "node attested" in attestor.daemon.log.read_text()
    assert attestor.daemon.log.read_text().count("node attested") == 1, "its state was never lost"


@pytest.fixture(scope="module")
def settings():
    # The node's SVID is renewed every two seconds or so: crashes meet the replacement of its key.
    return {"issuer": {"node_svid_ttl": "5s"}}


def test_no_acknowledged_registration_is_lost(local):
    crash_the_issuer(local, ROUNDS)


def test_a_node_comes_back_from_every_crash(local, attestor):
    crash_the_attestor(local, attestor, ROUNDS // 2)


@pytest.mark.soak
@pytest.mark.timeout(3600)
def test_soak_no_acknowledged_registration_is_lost(local):
    crash_the_issuer(local, SOAK_ROUNDS)


@pytest.mark.soak
@pytest.mark.timeout(3600)
def test_soak_a_node_comes_back_from_every_crash(local):
    # A node of its own: one that was there before may have expired while the issuer was down.
    crash_the_attestor(local, local.start_attestor("soaked"), SOAK_ROUNDS)

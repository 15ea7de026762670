# SPDX-License-Identifier: Apache-2.0
"""A disk that is full or read-only: each daemon says so, loses nothing, and goes on when there is room."""

import contextlib
import subprocess
from pathlib import Path

import pytest

from deploy.local import Attestor, Local
from issuer.client import connect
from spiffekit.wire.pb.spire.api import types_pb2
from spiffekit.wire.pb.spire.api.server.entry.v1 import entry_pb2
from tests.system.conftest import UID, eventually, ids_of

ID = "spiffe://example.org"
DISK_FULL = "database or disk is full"
NO_SPACE = "node identity cannot be kept: [Errno 28] No space left on device"
READ_ONLY = "node identity cannot be kept: [Errno 30] Read-only file system"
PRIVATELY = ("unshare", "--mount", "--propagation", "private", "sh", "-c")
MOUNT = 'mount -t tmpfs -o size=8m,mode=700 tmpfs "$1" && echo mounted && cat'


def mounted(folder):
    """A process with a small file system at `folder` that nobody else sees; both end with its input."""
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    command = [*PRIVATELY, MOUNT, "sh", str(folder)]
    return subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE)


class SmallDisk:
    def __init__(self, holder, folder):
        self._enter = ["nsenter", f"--target={holder.pid}", "--mount"]
        self._folder = folder
        self._seen = Path(f"/proc/{holder.pid}/root{folder}")

    def carry(self, daemon):
        """Let a daemon find the disk at its folder from its next start on."""
        daemon.under = self._enter

    @contextlib.contextmanager
    def full(self):
        """There is not a byte left while the context lasts."""
        with (self._seen / "filler").open("ab", buffering=0) as filler:
            for size in (65536, 4096, 1):
                with contextlib.suppress(OSError):
                    while True:
                        filler.write(b"x" * size)
        try:
            yield
        finally:
            (self._seen / "filler").unlink()

    @contextlib.contextmanager
    def read_only(self):
        self._remount("ro")
        try:
            yield
        finally:
            self._remount("rw")

    def _remount(self, mode):
        mount = ["mount", "-o", f"remount,{mode}", str(self._folder)]
        subprocess.run([*self._enter, *mount], check=True, timeout=10)


@pytest.fixture(scope="module")
def disks(folder):
    """Small disks by name, at a folder of that name."""
    holders = []

    def disk(name):
        holder = mounted(folder / name)
        holders.append(holder)
        if holder.stdout.readline() != b"mounted\n":
            pytest.skip(f"no file system can be mounted here: {holder.stderr.read().decode().strip()}")
        return SmallDisk(holder, folder / name)

    yield disk
    for holder in holders:
        holder.communicate(timeout=5)


@pytest.fixture(scope="module")
def issuer_disk(disks):
    return disks("issuer")


@pytest.fixture(scope="module")
def local(folder, issuer_disk):
    with Local(folder, issuer={"issuer": {"node_svid_ttl": "12s"}}) as deployment:
        deployment.admin_socket = folder / "private" / "api.sock"
        issuer_disk.carry(deployment.issuer)
        yield deployment.start_issuer()


@pytest.fixture(scope="module")
def node_disk(disks):
    return disks("node")


def attestor_on(local, disk, name):
    """An attestor that keeps everything on a small disk, not started yet."""
    attestor = Attestor(local, name)
    local.attestors[name] = attestor
    kept = local.folder / "node" / name
    attestor.configure(
        {
            "attestor": {"data_dir": str(kept / "data")},
            "key_manager.disk": {"directory": str(kept / "keys")},
        }
    )
    disk.carry(attestor.daemon)
    return attestor


def create(api, name):
    entry = types_pb2.Entry(
        id=name,
        spiffe_id=types_pb2.SPIFFEID(trust_domain="example.org", path=f"/{name}"),
        parent_id=types_pb2.SPIFFEID(trust_domain="example.org", path="/fleet"),
        selectors=[types_pb2.Selector(type="unix", value="uid:1")],
        hint="x" * 1000,
    )
    request = entry_pb2.BatchCreateEntryRequest(entries=[entry])
    return api.entries.BatchCreateEntry(request, timeout=10).results[0].status


def last_line(daemon):
    """The one line that a daemon which could not start ended with."""
    lines = daemon.log.read_text().splitlines()
    assert "Traceback" not in "\n".join(lines)
    return lines[-1]


def made(local):
    """The IDs of entries that `create` has made."""
    return {e["id"] for e in local.operator_json("entry", "show", "--parentID", f"{ID}/fleet")["entries"]}


def test_an_issuer_whose_disk_is_full_refuses_loses_nothing_and_goes_on(local, issuer_disk):
    with connect(local.admin_socket) as api, issuer_disk.full():
        # 1. What is acknowledged till the last byte counts; what is not is told why.
        acknowledged = set()
        for number in range(10_000):
            status = create(api, f"full-{number}")
            if status.code != 0:
                break
            acknowledged.add(f"full-{number}")
        assert status.message == f"database failed, nothing was changed: {DISK_FULL}"
        # 2. What cannot be recorded is not issued; whatever needs no room is answered.
        refused = local.operator("x509", "mint", "--spiffeID", f"{ID}/minted", check=False)
        assert (refused.returncode, refused.stderr.count("\n")) == (1, 1)
        assert DISK_FULL in refused.stderr
        local.operator("healthcheck")
        assert made(local) == acknowledged
    # 3. There is room again.
    local.operator("x509", "mint", "--spiffeID", f"{ID}/minted")
    with connect(local.admin_socket) as api:
        assert create(api, "after").code == 0
    # 4. All of it outlives a crash.
    local.issuer.kill()
    local.start_issuer()
    assert made(local) == {*acknowledged, "after"}


def test_an_issuer_that_is_started_on_a_full_disk_needs_no_room_or_says_so_in_one_line(local, issuer_disk):
    before = local.operator_json("entry", "count")
    local.issuer.kill()  # it has no time to tidy up
    with issuer_disk.full():
        try:  # whether it needs room depends on what its predecessor left
            local.start_issuer()
        except RuntimeError:
            assert last_line(local.issuer).startswith(f"error: database {local.folder}/issuer/issuer.db: ")
        else:
            assert local.operator_json("entry", "count") == before
            local.issuer.kill()
    with issuer_disk.read_only(), pytest.raises(RuntimeError, match="issuer ended with"):
        local.start_issuer()
    said = last_line(local.issuer)
    assert said.startswith("error: ")
    assert "Read-only file system" in said
    assert f"{local.folder}/issuer/" in said
    local.start_issuer()
    assert local.operator_json("entry", "count") == before


@pytest.fixture
def attestor(local, node_disk):
    attestor = attestor_on(local, node_disk, "attestor")
    attestor.start()
    yield attestor
    attestor.daemon.stop()


def count(attestor, line):
    return attestor.daemon.log.read_text().count(line)


def test_an_attestor_whose_disk_is_full_serves_on_and_keeps_its_node(local, attestor, node_disk):
    local.register("/kept", attestor.node_id, UID)
    eventually(lambda: ids_of(attestor), [f"{ID}/kept"])
    for broken, reason in ((node_disk.full, NO_SPACE), (node_disk.read_only, READ_ONLY)):
        renewed = count(attestor, "node identity renewed")
        # 1. The node's SVID cannot be replaced on the disk, so the old one stays.
        with broken():
            eventually(lambda reason=reason: count(attestor, reason) > 0, True)
            assert ids_of(attestor) == [f"{ID}/kept"]
        # 2. There is room again.
        eventually(lambda n=renewed: count(attestor, "node identity renewed") > n, True)
    # 3. What is on the disk is good for a start after a crash, without another proof.
    attestor.daemon.kill()
    attestor.start()
    assert ids_of(attestor) == [f"{ID}/kept"]
    assert count(attestor, "node attested") == 1
    assert "Traceback" not in attestor.daemon.log.read_text()


def test_a_node_without_room_for_its_identity_does_not_spend_its_token(local, node_disk):
    attestor = attestor_on(local, node_disk, "second")
    with node_disk.full():
        attestor.start(wait=False)
        assert attestor.daemon.wait() == 1
        assert last_line(attestor.daemon) == f"error: {NO_SPACE}"
    attestor.start()
    assert count(attestor, "node attested") == 1

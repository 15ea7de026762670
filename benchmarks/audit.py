# SPDX-License-Identifier: Apache-2.0
"""The audit trail: events recorded and sealed per second, and proofs from a log of a million events."""

import random
import time
from datetime import UTC, datetime

from benchmarks.measure import Row, quantiles
from issuer.governance.audit_log import AuditLog, load_signer
from issuer.governance.log_files import LogFiles
from issuer.model import AttestFacts, AuditRecord, CredentialFacts, Outcome, PeerFacts
from issuer.store import Database
from issuer.store.events import encode
from spiffekit.daemon.clock import SystemClock
from spiffekit.transparency.merkle import inclusion_proof, leaf_hash, verify_inclusion
from spiffekit.transparency.tiles import TileReader, TreeBuilder

NODE = "spiffe://example.org/spire/agent/x509pop/4f6c1e0d"
RECORD = AuditRecord(
    at=datetime.now(UTC),
    actor=NODE,
    act="/spire.api.server.svid.v1.SVID/BatchNewX509SVID",
    type="svid.issued",
    subject="spiffe://example.org/agents/pricing",
    outcome=Outcome.OK,
    credential=CredentialFacts(kind="x509-svid", serial="1" * 39, exp="2026-11-26T16:00:00Z"),
    attest=AttestFacts(node=NODE, level="tpm"),
    peer=PeerFacts(ip="192.0.2.1"),
    detail={"call": "a" * 16, "entry": "b" * 36},
)
SECONDS = 3.0  # of each measurement
MANY = 1_000_000
PROOFS = 300


async def run(folder, *, full):
    began = time.process_time()
    for _ in range(10_000):
        encode(RECORD)
    rows = [Row("encode one event", (time.process_time() - began) / 10_000 * 1e6, "µs CPU")]
    folder.chmod(0o700)
    database = Database.open(folder / "issuer.db", clock=SystemClock())
    signer = load_signer("example.org/audit", folder / "key")
    log = AuditLog(database, LogFiles(folder / "audit"), signer, SystemClock(), required=True)
    for batch, aim in ((1, ""), (256, "> 5,000")):
        began, count = time.perf_counter(), 0
        while (took := time.perf_counter() - began) < SECONDS:
            await database.record(*[RECORD] * batch)
            count += batch
        rows.append(Row(f"recorded, {batch} to a commit", count / took, "events/s", aim))
    began = time.perf_counter()
    await log.seal()
    rows.append(Row(f"sealed, of {log.sealed:,}", log.sealed / (time.perf_counter() - began), "events/s"))
    database.close()
    return rows + proofs(folder / "large")


def proofs(folder):
    """Measure proofs; the log is written without waiting for the disk, which is not what is measured."""
    files, tree = LogFiles(folder), TreeBuilder()
    for number in range(MANY):
        tree.append(leaf_hash(b"%d" % number))
    for tile, content in tree.take_tiles():
        path = folder / tile.path
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
    root, took = tree.root(), []
    for _ in range(PROOFS):
        index = random.randrange(MANY)
        began = time.perf_counter()
        proof = inclusion_proof(TileReader(MANY, files.read).hash_at, index, MANY)
        took.append(time.perf_counter() - began)
        verify_inclusion(leaf_hash(b"%d" % index), index, MANY, proof, root=root)
    return quantiles(took, f"proof that any of {MANY:,} events is in the log", ("", "< 50 ms"))

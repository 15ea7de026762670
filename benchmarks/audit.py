# SPDX-License-Identifier: Apache-2.0
"""The audit trail: events recorded and sealed per second, and proofs from a log of a million events."""

import random
import statistics
import time
from datetime import UTC, datetime

from benchmarks.measure import Row, quantiles, raw_sign_and_verify
from issuer.api.caller import Caller, Connection, Kind
from issuer.api.dispatch import Call
from issuer.api.issued import issued_record
from issuer.governance.audit_log import AuditLog, load_signer
from issuer.governance.log_files import LogFiles
from issuer.model import AttestFacts, AuditRecord, CredentialFacts, Node, Outcome, PeerFacts
from issuer.store import Database
from issuer.store.events import encode
from spiffekit.daemon.clock import SystemClock
from spiffekit.id import SpiffeId
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
BATCH = 500  # SVIDs in one call, as many as attestors ask for
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
    rows += await per_svid(database, log)
    database.close()
    return rows + proofs(folder / "large")


async def per_svid(database, log):
    """What the trail adds to an SVID of a full batch: its event is made, recorded and sealed."""
    now = datetime.now(UTC)
    node = Node(
        id=SpiffeId.parse(NODE), attestation_type="x509pop", serial="1", expires_at=now, selectors=frozenset()
    )
    call = Call(
        RECORD.act, Caller(Kind.NODE, NODE, "192.0.2.1", node), Connection("192.0.2.1"), now, "a" * 16
    )
    said = {
        "id": RECORD.subject,
        "serial": "1" * 39,
        "exp": int(now.timestamp()) + 900,
        "entry": "b" * 36,
        "agent": {"owner": "https://idp.example.org|team-ap", "class": "bots"},
    }
    ours, theirs = [], []
    for _ in range(20):  # side by side, so that a noisy machine hurts both
        theirs.append(raw_sign_and_verify(100, 1))
        began = time.process_time()
        await database.record(*(issued_record(call, said) for _ in range(BATCH)))
        await log.seal()
        ours.append((time.process_time() - began) / BATCH)
    return [
        Row(f"one SVID of {BATCH}: event made, recorded, sealed", statistics.median(ours) * 1e6, "µs CPU"),
        Row(
            "ratio to raw ECDSA P-256 verify + sign",
            statistics.median(a / b for a, b in zip(ours, theirs, strict=True)),
            "×",
            reference="to be set beside the ratios of `issue`, which have it in them through the API",
        ),
    ]


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

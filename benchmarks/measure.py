# SPDX-License-Identifier: Apache-2.0
"""How results are kept and printed, and the reference that ratios are taken against."""

import secrets
import statistics
import time
from dataclasses import dataclass
from datetime import UTC, datetime

from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec

from spiffekit.evidence import Evidence, ProcessFacts
from spiffekit.selector import Selector

TBS = b"x" * 450  # bytes: about those of a certificate


@dataclass(frozen=True)
class Row:
    """One result. `aim` is what the project wants, as people read it."""

    what: str
    value: float
    unit: str
    aim: str = ""
    reference: str = ""


def quantiles(seconds, what, aims=("", "")):
    """Return rows for the median and the 99th percentile, in milliseconds."""
    ordered = sorted(seconds)
    p99 = ordered[min(len(ordered) - 1, int(len(ordered) * 0.99))]
    number = f"n={len(ordered)}"
    return [
        Row(f"{what}, p50", statistics.median(ordered) * 1000, "ms", aims[0], number),
        Row(f"{what}, p99", p99 * 1000, "ms", aims[1], number),
    ]


def evidence(*selectors):
    """Return what an attestor would have seen of a process a moment ago; it counts once."""
    return Evidence(
        id=secrets.token_bytes(16),
        instance_uid="a" * 26,
        collected_at=datetime.now(UTC),
        selectors=frozenset(map(Selector.parse, selectors)),
        process=ProcessFacts(pid=4711, start_ticks=1, uid=1000, gid=1000, executable="/opt/bench/agent"),
    )


def raw_sign_and_verify(rounds=400, repeats=5):
    """Return the CPU seconds of one ECDSA P-256 verification and signature: the limit of issuing."""
    ours, theirs = (ec.generate_private_key(ec.SECP256R1()) for _ in range(2))
    algorithm = ec.ECDSA(hashes.SHA256())
    signature, public = theirs.sign(TBS, algorithm), theirs.public_key()
    times = []
    for _ in range(repeats):
        began = time.process_time()
        for _ in range(rounds):
            public.verify(signature, TBS, algorithm)
            ours.sign(TBS, algorithm)
        times.append((time.process_time() - began) / rounds)
    return statistics.median(times)


def table(name, rows):
    """Print the rows of a benchmark."""
    print(f"\n## {name}")
    width = max(len(row.what) for row in rows)
    for row in rows:
        value = f"{row.value:,.3g}" if abs(row.value) < 1000 else f"{row.value:,.0f}"
        notes = " · ".join(filter(None, (f"aim {row.aim}" if row.aim else "", row.reference)))
        print(f"{row.what:<{width}}  {value:>9} {row.unit:<10} {notes}", flush=True)

# SPDX-License-Identifier: Apache-2.0
"""X.509-SVIDs and JWT-SVIDs signed: the signer alone, and through gRPC and mTLS as an attestor asks."""

import asyncio
import statistics
import time
from datetime import UTC, datetime, timedelta

import psutil

from attestor.issuer_client import make_csr, new_key
from benchmarks.measure import Row, raw_sign_and_verify
from deploy.local import Local
from deploy.node import attested
from issuer.ca.authorities import Authorities, AuthorityPolicy
from issuer.ca.requests import parse_csr
from issuer.client import connect
from issuer.keys.memory import Config as MemoryConfig
from issuer.keys.memory import create as memory_keys
from issuer.store import Database
from spiffekit.daemon.clock import SystemClock
from spiffekit.id import SpiffeId, TrustDomain
from spiffekit.keys import KeyType
from spiffekit.wire.convert import spiffe_id_to_proto
from spiffekit.wire.pb.spire.api import types_pb2
from spiffekit.wire.pb.spire.api.server.entry.v1 import entry_pb2

ENTRIES = 500
ROUNDS = 4000
SLICE = 50
BATCHES = (1, 50, 500)
SEALED = 1.5  # seconds after which the audit trail of what was issued is sealed


async def run(folder, *, full):
    rows = await signer_alone(folder)
    return rows + await through_the_api(folder, 40 if full else 20)


async def signer_alone(folder):
    database = Database.open(folder / "signer.db", clock=SystemClock())
    trust_domain = TrustDomain("example.org")
    policy = AuthorityPolicy(
        ca_ttl=timedelta(hours=24), ca_key_type=KeyType.EC_P256, jwt_key_type=KeyType.EC_P256, jwt_issuer=""
    )
    authorities = Authorities(
        trust_domain, policy, keys=memory_keys(MemoryConfig()), database=database, clock=SystemClock()
    )
    await authorities.load()
    csrs = [make_csr(new_key()) for _ in range(ROUNDS)]
    ids = [SpiffeId(trust_domain, f"/agents/{number}") for number in range(ROUNDS)]
    ratios, ours, theirs = [], [], []
    for start in range(0, ROUNDS, SLICE):  # side by side, so that a noisy machine hurts both
        theirs.append(raw_sign_and_verify(SLICE, 1))
        began = time.process_time()
        for number in range(start, start + SLICE):
            key = parse_csr(csrs[number]).public_key_der
            await authorities.x509.sign(ids[number], key, ttl=timedelta(hours=1), now=datetime.now(UTC))
        ours.append((time.process_time() - began) / SLICE)
        ratios.append(ours[-1] / theirs[-1])
    began = time.process_time()
    for spiffe_id in ids:
        await authorities.jwt.sign(spiffe_id, ("db",), ttl=timedelta(minutes=5), now=datetime.now(UTC))
    jwt = (time.process_time() - began) / ROUNDS
    database.close()
    return [
        Row("raw ECDSA P-256 verify + sign", statistics.median(theirs) * 1e6, "µs CPU"),
        Row("CSR bytes to certificate bytes", statistics.median(ours) * 1e6, "µs CPU"),
        Row("ratio to raw", statistics.median(ratios), "×", "≤ 1.5"),
        Row("ratio of the fastest of each", min(ours) / min(theirs), "×", "≤ 1.5"),
        Row("JWT-SVID signed", jwt * 1e6, "µs CPU"),
    ]


async def through_the_api(folder, rounds):
    rows = []
    settings = {"issuer": {"signatures_per_second": 1e6}}
    with Local(folder, issuer=settings) as local:
        local.start_issuer()
        token = local.operator_json("token", "generate")["value"]
        bundle = local.operator("bundle", "show").stdout
        async with attested(local, token, bundle) as client:
            entries = await asyncio.to_thread(register, local, client.credentials.svid.spiffe_id)
            csrs = [make_csr(new_key()) for _ in entries]
            issuer = psutil.Process(local.issuer.pid)
            for batch in BATCHES:
                calls = max(rounds * 500 // batch // (10 if batch == 1 else 1), 1)
                raw = raw_sign_and_verify(200)
                cpu, wall = sum(issuer.cpu_times()[:2]), time.perf_counter()
                for number in range(calls):
                    start = (number * batch) % ENTRIES
                    asked = list(zip(entries[start:], csrs[start:], strict=True))[:batch]
                    assert len(await client.new_x509_svids(asked)) == len(asked)
                wall = time.perf_counter() - wall
                await asyncio.sleep(SEALED)  # what that costs is part of it
                cpu = sum(issuer.cpu_times()[:2]) - cpu
                raw = min(raw, raw_sign_and_verify(200))
                signed = calls * batch
                aim = "≤ 1.9" if batch == BATCHES[-1] else ""
                rows += [
                    Row(f"API, batches of {batch}: ratio to raw", cpu / signed / raw, "×", aim),
                    Row(f"API, batches of {batch}: per second and core", signed / cpu, "SVIDs"),
                    Row(f"API, batches of {batch}: per second, one caller", signed / wall, "SVIDs"),
                ]
            cpu = sum(issuer.cpu_times()[:2])
            for number in range(300):
                await client.new_jwt_svid(entries[number], ["db"])
            cpu = sum(issuer.cpu_times()[:2]) - cpu
            rows.append(Row("API, JWT-SVIDs per second and core", 300 / cpu, "SVIDs"))
    return rows


def register(local, parent, count=ENTRIES, *, users=ENTRIES):
    """Create entries below a node, for so many users; return their IDs."""
    made = []
    with connect(local.admin_socket) as api:
        for start in range(0, count, 500):
            entries = [
                types_pb2.Entry(
                    spiffe_id=spiffe_id_to_proto(parent.with_path(f"/agents/{number}")),
                    parent_id=spiffe_id_to_proto(parent),
                    selectors=[types_pb2.Selector(type="unix", value=f"uid:{100_000 + number % users}")],
                )
                for number in range(start, min(start + 500, count))
            ]
            answer = api.entries.BatchCreateEntry(entry_pb2.BatchCreateEntryRequest(entries=entries))
            made += [result.entry.id for result in answer.results]
    return made

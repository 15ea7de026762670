# SPDX-License-Identifier: Apache-2.0
"""An agent is taken back from many nodes at once: what `benchmarks/take_back.py` measures, in short.

Each wait of the benchmark ends by the very thing that it is for; how long it takes is the benchmark's.
"""

import asyncio

from benchmarks import take_back
from deploy.local import Local
from issuer.client import connect

ATTESTORS, ROUNDS = 4, 2
WITHIN = 300.0  # seconds; a bound for a test that hangs, not an aim


async def test_what_is_taken_back_is_so_at_every_attestor_and_for_everybody(folder):
    with Local(folder, issuer={"issuer": {"attestations_per_second": 1e4}}) as local:
        local.start_issuer()
        with connect(local.admin_socket) as api:
            entry_id = await asyncio.to_thread(take_back.register, local)
            async with asyncio.timeout(WITHIN):
                await take_back.refused_by_the_issuer(local, api, entry_id, ROUNDS)
                rows = await take_back.told_by_attestors(local, api, ROUNDS, ATTESTORS)
    every = f"n={ATTESTORS * ROUNDS}"
    assert {(row.what.split(",")[0], row.reference) for row in rows} == {
        ("suspended to the agent's stream ended", every),
        ("suspended to verifiers told", every),
        ("suspended to its certificate on the CRL of others", every),
        ("suspended to its live mTLS connection closed", every),
        ("resumed to a new SVID", every),
    }

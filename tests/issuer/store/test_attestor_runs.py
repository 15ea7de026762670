# SPDX-License-Identifier: Apache-2.0
"""How far attestors' events are recorded, as the store keeps it."""

from dataclasses import replace
from datetime import timedelta

from issuer.model import AttestorRun
from issuer.pruning import RUNS_KEPT, Pruning
from issuer.store.attestor_runs import KEPT
from tests.issuer.strategies import a_node, an_id

NODE, OTHER = a_node("n1").id, a_node("n2").id
INSTANT = timedelta(microseconds=1)


async def put(database, *runs):
    for run in runs:
        await database.write(lambda tx, run=run: tx.attestor_runs.put(run, tx.now))


async def of(database, node=NODE):
    return await database.read(lambda tx: tx.attestor_runs.of(node))


def run(boot, node=NODE, **fields):
    return AttestorRun(node=node, boot=boot, **fields)


async def test_the_run_that_reported_last_stands_last(database):
    await put(database, run("a"), run("b", last=5), run("c", OTHER), run("a", last=2, ended=True))
    assert await of(database) == [run("b", last=5), run("a", last=2, ended=True)]
    assert await of(database, OTHER) == [run("c", OTHER)]
    assert await of(database, an_id("/none")) == []


async def test_the_oldest_of_many_are_forgotten(database):
    runs = [run(f"{number:02}") for number in range(KEPT + 2)]
    await put(database, *runs)
    assert await of(database) == runs[2:]
    again = replace(runs[2], last=1)
    await put(database, again)
    assert await of(database) == [*runs[3:], again]


async def test_runs_of_a_node_that_is_gone_are_forgotten_after_a_while(database, clock):
    await database.write(lambda tx: tx.nodes.put(a_node("n1")))
    await put(database, run("a"), run("b", OTHER))
    pruning = Pruning(database, clock, nodes_expired_for=None)
    await clock.advance(RUNS_KEPT)
    await pruning.prune()
    assert await of(database, OTHER) == [run("b", OTHER)]
    await clock.advance(INSTANT)
    await pruning.prune()
    assert (await of(database), await of(database, OTHER)) == ([run("a")], [])

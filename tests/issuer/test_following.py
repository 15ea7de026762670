# SPDX-License-Identifier: Apache-2.0
"""The registry in memory, led by what is committed, never disagrees with the database."""

import asyncio
import contextlib
from dataclasses import replace
from datetime import timedelta

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from issuer.changes import ChangeLog
from issuer.errors import IssuerError
from issuer.model import JoinToken
from issuer.registration import Registrations
from issuer.store import Database
from issuer.store.bundles import DeleteMode
from spiffekit.bundle import Bundle
from spiffekit.id import TrustDomain
from tests.fakes.clock import FakeClock
from tests.issuer.strategies import NOW, OURS, SERVER, a_node, an_entry, an_id, selectors

DOMAINS = [TrustDomain(name) for name in ("a.org", "b.org")]
NODES = [a_node("n1"), a_node("n2", selectors=selectors("tpm:pcr:1"))]
entries = st.builds(
    an_entry,
    st.sampled_from([f"e{n}" for n in range(5)]),
    spiffe_id=st.sampled_from([an_id("/a"), an_id("/b")]),
    parent_id=st.sampled_from([SERVER, NODES[0].id, an_id("/a")]),
    selectors=st.sampled_from([selectors("tpm:pcr:1"), selectors(f"spiffe_id:{NODES[0].id}")]),
    federates_with=st.sampled_from([(), (DOMAINS[0],), tuple(DOMAINS)]),
    admin=st.booleans(),
)
names = st.sampled_from([f"e{n}" for n in range(5)])
steps = st.one_of(
    st.tuples(st.just("create"), entries),
    st.tuples(st.just("create"), entries),
    st.tuples(st.just("update"), entries),
    st.tuples(st.just("delete"), names),
    st.tuples(st.just("node"), st.sampled_from([*NODES, replace(NODES[0], serial="")])),
    st.tuples(st.just("evict"), st.sampled_from([node.id for node in NODES])),
    st.tuples(st.just("bundle"), st.builds(Bundle, st.sampled_from(DOMAINS), sequence=st.integers(0, 3))),
    st.tuples(st.just("unbundle"), st.tuples(st.sampled_from(DOMAINS), st.sampled_from(DeleteMode))),
    st.tuples(st.just("token"), names),
)


def take(tx, kind, what):
    match kind:
        case "create":
            tx.entries.create(what)
        case "update":
            tx.entries.update(what)
        case "delete":
            tx.entries.delete(what)
        case "node":
            tx.nodes.put(what)
        case "evict":
            tx.nodes.delete(what)
        case "bundle":
            tx.bundles.put(what)
        case "unbundle":
            tx.bundles.delete(*what)
        case "token":
            tx.join_tokens.create(JoinToken(value=what, expires_at=NOW))


async def loaded(database):
    index = Registrations(OURS)
    await database.read(lambda tx: index.load(tx.entries.all(), tx.nodes.all(), tx.bundles.all()))
    return index


def told(index):
    """Everything that an index says."""
    return {
        "entries": list(index.entries()),
        "nodes": list(index.nodes_after("")),
        "bundles": index.bundles(),
        "authorized": [index.authorized(node.id, NOW).entries for node in NODES],
        "admins": [index.is_admin(spiffe_id, NOW) for spiffe_id in (an_id("/a"), an_id("/b"))],
    }


@settings(max_examples=25, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow])
@given(transactions=st.lists(st.lists(steps, min_size=1, max_size=4), max_size=12))
async def test_who_follows_knows_what_who_loads_knows(tmp_path_factory, transactions):
    """Transactions run at the same time, many of them fail; only what was committed is followed."""
    database = Database.open(tmp_path_factory.mktemp("follow") / "issuer.db", clock=FakeClock())
    index = await loaded(database)
    log = ChangeLog(0)
    database.on_commit += [index.apply, log.publish]

    async def run(transaction):
        with contextlib.suppress(IssuerError):
            await database.write(lambda tx: [take(tx, *step) for step in transaction])

    await asyncio.gather(*map(run, transactions))
    assert told(index) == told(await loaded(database))
    rows = await database.read(lambda tx: tx.changes.since(0, 1000))
    assert [(c.revision, c.kind, c.key) for c in log.since(0)] == [(c.revision, c.kind, c.key) for c in rows]
    assert log.revision == len(rows)
    database.close()


@pytest.mark.parametrize("mode", DeleteMode)
async def test_entries_that_a_bundle_takes_along_are_followed(database, mode):
    index = await loaded(database)
    database.on_commit.append(index.apply)
    await database.write(lambda tx: tx.bundles.put(Bundle(DOMAINS[0])))
    entry = an_entry(federates_with=(DOMAINS[0],), expires_at=NOW + timedelta(hours=1))
    await database.write(lambda tx: tx.entries.create(entry))
    with contextlib.suppress(IssuerError):
        await database.write(lambda tx: tx.bundles.delete(DOMAINS[0], mode))
    expected = {
        DeleteMode.RESTRICT: [entry],
        DeleteMode.DISSOCIATE: [replace(entry, federates_with=(), revision=1)],
        DeleteMode.DELETE: [],
    }
    assert list(index.entries()) == expected[mode]
    assert told(index) == told(await loaded(database))

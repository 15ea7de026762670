# SPDX-License-Identifier: Apache-2.0
"""What a node may serve: matching, changes that are whole, and waiting for them."""

import asyncio
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from attestor.cache import Cache
from attestor.errors import NoIdentityError
from spiffekit.bundle import BundleSet
from spiffekit.errors import UnknownTrustDomainError
from spiffekit.id import TrustDomain
from spiffekit.testing import TestCA
from tests.attestor.factory import entry, selectors

OURS = TrustDomain("example.org")
CA = TestCA("example.org")
OTHER = TestCA("other.org")

names = st.sampled_from(["a:1", "a:2", "b:1", "b:2", "c:1"])
selector_sets = st.sets(names, min_size=1, max_size=4)
hints = st.sampled_from(["", "", "x", "y"])
entries_of = st.lists(
    st.builds(
        lambda number, found, hint, created, store: entry(
            f"e{number}", *found, hint=hint, created=created, store_svid=store
        ),
        st.integers(0, 7),
        selector_sets,
        hints,
        st.integers(0, 3),
        st.booleans(),
    ),
    max_size=8,
    unique_by=lambda found: found.id,
)


@pytest.fixture
def cache():
    cache = Cache(OURS)
    cache.apply(entries=[], bundles=[CA.bundle], snapshot=True)
    return cache


def naive(entries, found):
    """What `matching` says, without an index."""
    chosen, seen = [], set()
    for candidate in sorted(entries, key=lambda e: (e.created_at, e.id)):
        if candidate.selectors <= found and not candidate.store_svid:
            if candidate.hint and candidate.hint in seen:
                continue
            seen.add(candidate.hint)
            chosen.append(candidate)
    return tuple(chosen)


def apply(cache, change):
    kind, entries = change
    if kind == "remove":
        cache.apply(entries=[], removed=[e.id for e in entries])
    else:
        cache.apply(entries=entries, snapshot=kind == "snapshot")


def model(state, change):
    kind, entries = change
    named = {e.id: e for e in entries}
    match kind:
        case "snapshot":
            return named
        case "change":
            return state | named
        case _:
            return {entry_id: e for entry_id, e in state.items() if entry_id not in named}


@given(
    st.lists(st.tuples(st.sampled_from(["snapshot", "change", "remove"]), entries_of), max_size=6),
    selector_sets,
)
def test_matching_is_what_a_naive_model_says_whatever_has_changed(changes, found):
    cache, state = Cache(OURS), {}
    for change in changes:
        apply(cache, change)
        state = model(state, change)
    assert cache.entries == state
    assert cache.matching(selectors(*found)) == naive(state.values(), selectors(*found))
    assert set(cache._by_selector) == {min(e.selectors) for e in state.values()}  # and nothing leaks


@pytest.mark.requirement("WLAPI-23", "WLAPI-37", "WLAPI-67")
@given(entries_of, selector_sets)
def test_the_order_is_by_age_and_non_empty_hints_are_unique(entries, found):
    cache = Cache(OURS)
    cache.apply(entries=entries)
    matched = cache.matching(selectors(*found))
    assert [(e.created_at, e.id) for e in matched] == sorted((e.created_at, e.id) for e in matched)
    hinted = [e.hint for e in matched if e.hint]
    assert len(hinted) == len(set(hinted))
    cache.apply(entries=list(reversed(entries)), snapshot=True)
    assert cache.matching(selectors(*found)) == matched


@given(entries_of, selector_sets, selector_sets)
def test_more_selectors_never_match_fewer_entries(entries, some, more):
    cache = Cache(OURS)
    cache.apply(entries=[e for e in entries if not e.hint])
    assert set(cache.matching(selectors(*some))) <= set(cache.matching(selectors(*some, *more)))


@pytest.mark.requirement("WLAPI-23", "WLAPI-37")
def test_of_entries_with_the_same_hint_the_oldest_counts(cache):
    cache.apply(
        entries=[
            entry("young", hint="h", created=2),
            entry("old", hint="h", created=1),
            entry("plain", created=3),
        ]
    )
    assert [e.id for e in cache.matching(selectors("unix:uid:1"))] == ["old", "plain"]
    cache.apply(entries=[], removed=["old"])
    assert [e.id for e in cache.matching(selectors("unix:uid:1"))] == ["young", "plain"]


def test_what_does_not_match_does_not_shadow_a_hint(cache):
    cache.apply(
        entries=[entry("old", "a:1", "a:2", hint="h", created=1), entry("young", "a:1", hint="h", created=2)]
    )
    assert [e.id for e in cache.matching(selectors("a:1"))] == ["young"]


types = st.frozensets(st.sampled_from("abc"))


@given(st.lists(entries_of, min_size=1, max_size=3), selector_sets, types, st.booleans())
def test_what_is_awaited_is_what_a_naive_model_says_whatever_has_changed(changes, found, pending, evidence):
    cache = Cache(OURS)
    found = selectors(*found)
    for entries in changes:
        marked = [replace(e, needs_evidence=evidence and e.hint == "x") for e in entries]
        cache.apply(entries=marked, snapshot=len(entries) % 2 == 0)
        expected = any(
            (e.needs_evidence or any(s.type in pending for s in e.selectors))
            and all(s in found or s.type in pending for s in e.selectors)
            for e in cache.entries.values()
        )
        assert cache.awaits(found, pending) == cache.awaits(found, pending) == expected


def test_the_nearest_entries_lack_the_fewest_selectors(cache):
    cache.apply(
        entries=[
            entry("far", "a:1", "b:1", "c:1"),
            entry("near", "a:1", "b:1"),
            entry("none", "x:1"),
            entry("all", "a:1"),
        ]
    )
    found = cache.nearest(selectors("a:1"))
    assert [(miss.entry.id, {str(s) for s in miss.missing}) for miss in found] == [
        ("near", {"b:1"}),
        ("none", {"x:1"}),
        ("far", {"b:1", "c:1"}),
    ]
    assert len(cache.nearest(selectors("a:1"), limit=1)) == 1


def issued(cache, *entries):
    cache.put_svids({e.id: CA.issue(str(e.spiffe_id)) for e in entries})


def test_an_update_has_every_identity_or_is_not_there_yet(cache):
    first, second = entry("first"), entry("second", created=1)
    cache.apply(entries=[first, second])
    issued(cache, first)
    assert cache.update(selectors("unix:uid:1")) is None
    issued(cache, second)
    update = cache.update(selectors("unix:uid:1"))
    assert [identity.entry.id for identity in update.identities] == ["first", "second"]
    assert update.bundle == CA.bundle
    assert update.federated == ()


def test_what_the_issuer_refuses_is_left_out_until_it_changes_or_is_granted(cache):
    good, bad = entry("good"), entry("bad", created=1)
    cache.apply(entries=[good, bad])
    issued(cache, good)
    cache.put_svids({}, refused=[bad])
    assert names(cache) == ["good"]
    changed = entry("bad", created=1, revision=1)
    cache.apply(entries=[changed])
    assert cache.update(selectors("unix:uid:1")) is None
    issued(cache, changed)
    assert names(cache) == ["good", "bad"]
    cache.put_svids({}, refused=[good, changed])  # what there is counts
    assert names(cache) == ["good", "bad"]


def test_when_all_is_refused_there_is_nothing_yet_rather_than_an_empty_answer(cache):
    only = entry("only")
    cache.apply(entries=[only])
    cache.put_svids({}, refused=[only])
    assert cache.update(selectors("unix:uid:1")) is None


def test_a_refusal_is_told_once_and_goes_with_the_entry(cache):
    good, bad = entry("good"), entry("bad", created=1)
    cache.apply(entries=[good, bad])
    issued(cache, good)
    before = cache.version
    for _ in range(3):
        cache.put_svids({}, refused=[bad, entry("unknown")])
    assert cache.version == before + 1
    cache.apply(entries=[], removed=["bad"])
    cache.apply(entries=[bad])
    assert cache.update(selectors("unix:uid:1")) is None


def names(cache):
    return [identity.entry.id for identity in cache.update(selectors("unix:uid:1")).identities]


def test_without_an_entry_there_is_no_identity(cache):
    with pytest.raises(NoIdentityError, match="no identity issued"):
        cache.update(selectors("unix:uid:1"))


def test_without_our_bundle_nothing_is_served():
    cache, only = Cache(OURS), entry("only")
    cache.apply(entries=[only])
    issued(cache, only)
    with pytest.raises(UnknownTrustDomainError):
        cache.update(selectors("unix:uid:1"))


@pytest.mark.requirement("WLAPI-22")
def test_federated_bundles_are_those_that_the_matched_entries_name(cache):
    third = TestCA("third.org")
    cache.apply(
        entries=[
            entry("one", federates_with=["other.org", "missing.org"]),
            entry("two", "b:1", federates_with=["third.org"]),
        ],
        bundles=[OTHER.bundle, third.bundle],
    )
    issued(cache, *cache.entries.values())
    assert cache.update(selectors("unix:uid:1")).federated == (OTHER.bundle,)
    assert cache.update(selectors("b:1")).federated == (third.bundle,)
    assert cache.update(selectors("b:1", "unix:uid:1")).federated == (OTHER.bundle, third.bundle)


def test_an_svid_of_another_id_or_of_an_unknown_entry_is_not_kept(cache):
    only = entry("only")
    cache.apply(entries=[only])
    cache.put_svids(
        {"only": CA.issue("spiffe://example.org/other"), "unknown": CA.issue("spiffe://example.org/x")}
    )
    assert cache.svid(only) is None
    cache.apply(entries=[entry("unknown", path="/x")])
    assert cache.svid(cache.entries["unknown"]) is None


def test_an_entry_that_changes_needs_another_svid_and_its_key_goes_with_it(cache):
    old = entry("only")
    cache.apply(entries=[old])
    issued(cache, old)
    assert cache.svid(old) is not None
    new = entry("only", revision=1)
    cache.apply(entries=[new])
    assert cache.svid(new) is None
    issued(cache, new)
    cache.apply(entries=[], removed=["only"])
    cache.apply(entries=[new])
    assert cache.svid(new) is None


def test_a_shared_key_goes_when_an_entry_becomes_one_of_single_processes(cache):
    old = entry("only")
    cache.apply(entries=[old])
    issued(cache, old)
    cache.apply(entries=[replace(old, needs_evidence=True)])
    assert cache.svid(old) is None


def test_bundles_come_and_go_one_by_one_or_all_at_once(cache):
    cache.apply(entries=[], bundles=[OTHER.bundle])
    assert {b.trust_domain.name for b in cache.bundles} == {"example.org", "other.org"}
    cache.apply(entries=[], removed_bundles=[OTHER.trust_domain])
    assert cache.bundles == BundleSet([CA.bundle])
    cache.apply(entries=[], bundles=[OTHER.bundle], snapshot=True)
    assert {b.trust_domain.name for b in cache.bundles} == {"other.org"}


@settings(max_examples=30)
@given(entries_of, entries_of)
async def test_a_snapshot_is_never_seen_half_new(before, after):
    cache = Cache(OURS)
    cache.apply(entries=before, snapshot=True)
    seen = []

    async def watch():
        with cache.watching() as watcher:
            await watcher.wait()
            seen.append(dict(cache.entries))

    watching = asyncio.create_task(watch())
    await asyncio.sleep(0)
    cache.apply(entries=after, snapshot=True)
    await watching
    assert seen == [{e.id: e for e in after}]


async def test_a_watcher_misses_no_change_between_two_waits(cache):
    with cache.watching() as watcher:
        cache.notify()
        cache.notify()
        await asyncio.wait_for(watcher.wait(), 5)
        waiting = asyncio.create_task(watcher.wait())
        await asyncio.sleep(0)
        assert not waiting.done()
        cache.notify()
        await asyncio.wait_for(waiting, 5)


async def test_a_change_wakes_all_who_wait(cache):
    async def watch():
        with cache.watching() as watcher:
            await watcher.wait()

    waiting = [asyncio.create_task(watch()) for _ in range(3)]
    await asyncio.sleep(0)
    version = cache.version
    cache.apply(entries=[entry("new")])
    await asyncio.wait_for(asyncio.gather(*waiting), 5)
    assert cache.version > version
    assert cache._watchers == set()


def test_a_tainted_authority_stays_so_until_a_snapshot_says_otherwise(cache):
    cache.apply(entries=[], tainted=["a1"])
    cache.apply(entries=[], tainted=["b2"])
    cache.apply(entries=[entry("new")])
    assert cache.tainted == {"a1", "b2"}
    cache.apply(entries=[], tainted=["b2"], snapshot=True)
    assert cache.tainted == {"b2"}

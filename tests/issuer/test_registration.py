# SPDX-License-Identifier: Apache-2.0
"""The index in memory says what a plain walk over all entries says, whatever was done to it before."""

from dataclasses import replace
from datetime import timedelta

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from issuer.model import AgentClass, AgentState, Change, ChangeKind
from issuer.registration import Registrations, SubsetIndex
from spiffekit.bundle import Bundle
from spiffekit.id import SpiffeId, TrustDomain
from spiffekit.selector import Selector
from tests.issuer.strategies import NOW, OURS, SERVER, a_node, an_agent, an_entry, an_id, selectors

SECOND = timedelta(seconds=1)
FOREIGN = SpiffeId(TrustDomain("other.org"), "/a")
NODES = [a_node(name).id for name in ("n1", "n2")]
# Few of everything, so that entries meet: parents below parents, cycles, aliases, other trust domains.
IDS = [an_id("/a"), an_id("/b"), an_id("/c"), FOREIGN, *NODES]
PARENTS = [SERVER, SERVER, *IDS]
FACTS = [Selector("t", value) for value in "wxyz"] + [Selector("spiffe_id", str(NODES[0]))]
INSTANTS = [NOW, NOW + SECOND, NOW + 2 * SECOND]

sets = st.frozensets(st.sampled_from(FACTS), min_size=1, max_size=3)
entries = st.builds(
    an_entry,
    st.sampled_from([f"e{n}" for n in range(8)]),
    spiffe_id=st.sampled_from(IDS),
    parent_id=st.sampled_from(PARENTS),
    selectors=sets,
    expires_at=st.sampled_from([None, None, *INSTANTS]),
    admin=st.booleans(),
    svid_per_process=st.booleans(),
)
nodes = st.builds(
    a_node,
    st.sampled_from(["n1", "n2"]),
    selectors=st.frozensets(st.sampled_from(FACTS), max_size=4),
    serial=st.sampled_from(["1", "1", "1", ""]),
)


def walk(all_entries, node, now, agents):
    """What a node may be given, by the rule itself: add what is below until nothing is added."""
    if node is None or node.banned:
        return set()
    facts = node.selectors | {Selector("spiffe_id", str(node.id))}
    live = [
        entry
        for entry in all_entries
        if (entry.expires_at is None or now < entry.expires_at)
        and agents.get(entry.spiffe_id, AgentState.ACTIVE) is AgentState.ACTIVE
    ]
    parents = {node.id} | {e.spiffe_id for e in live if e.parent_id == SERVER and e.selectors <= facts}
    while True:
        below = {e for e in live if e.parent_id in parents and e.spiffe_id.trust_domain == OURS}
        if {e.spiffe_id for e in below} <= parents:
            return below
        parents |= {e.spiffe_id for e in below}


def as_it_counts(entry, agents):
    """Each process of an agent has SVIDs of its own, whatever the entry says."""
    return replace(entry, svid_per_process=entry.svid_per_process or entry.spiffe_id in agents)


def change(kind, key, value):
    return Change(revision=0, kind=kind, key=key, value=value)


class RegistrationMachine(RuleBasedStateMachine):
    @initialize()
    def start(self):
        # So few are remembered that every example forgets some.
        self.index, self.entries, self.nodes = Registrations(OURS, remembered=4), {}, {}
        self.agents = {}

    def apply(self, *changes):
        """Follow changes; whoever a change matters to is told that it does."""
        for one in changes:
            before = {(n, t): self.index.authorized(n, t) for n in NODES for t in INSTANTS}
            self.index.apply([one])
            for (node_id, now), known in before.items():
                if self.index.authorized(node_id, now).entries != known.entries:
                    assert self.index.concerns(known, one)

    @rule(entry=entries)
    def put_entry(self, entry):
        self.entries[entry.id] = entry
        self.apply(change(ChangeKind.ENTRY, entry.id, entry))

    @rule(entry_id=st.sampled_from([f"e{n}" for n in range(8)]))
    def delete_entry(self, entry_id):
        self.entries.pop(entry_id, None)
        self.apply(change(ChangeKind.ENTRY, entry_id, None))

    @rule(node=nodes)
    def put_node(self, node):
        self.nodes[node.id] = node
        self.apply(change(ChangeKind.NODE, str(node.id), node))

    @rule(node_id=st.sampled_from(NODES))
    def delete_node(self, node_id):
        self.nodes.pop(node_id, None)
        self.apply(change(ChangeKind.NODE, str(node_id), None))

    @rule(entry=entries, node=nodes)
    def several_at_once(self, entry, node):
        self.entries[entry.id], self.nodes[node.id] = entry, node
        self.index.apply(
            [
                change(ChangeKind.ENTRY, entry.id, replace(entry, hint="first")),
                change(ChangeKind.NODE, str(node.id), node),
                change(ChangeKind.ENTRY, entry.id, None),
                change(ChangeKind.ENTRY, entry.id, entry),
                change(ChangeKind.AUTHORITY, "x509/a", None),
            ]
        )

    @rule(spiffe_id=st.sampled_from(IDS), state=st.sampled_from(AgentState))
    def put_agent(self, spiffe_id, state):
        """As the store tells it: the entries of the agent change with it."""
        before = {(n, t): self.index.authorized(n, t) for n in NODES for t in INSTANTS}
        self.agents[spiffe_id] = state
        agent = an_agent(spiffe_id=spiffe_id, state=state)
        changes = [
            change(ChangeKind.AGENT, str(spiffe_id), agent),
            *(change(ChangeKind.ENTRY, e.id, e) for e in self.entries.values() if e.spiffe_id == spiffe_id),
        ]
        self.index.apply(changes)
        assert self.index.agent(spiffe_id) is agent
        for (node_id, now), known in before.items():
            if self.index.authorized(node_id, now).entries != known.entries:
                assert any(self.index.concerns(known, one) for one in changes)

    @rule()
    def restart(self):
        self.index = Registrations(OURS, remembered=4)
        agents = [an_agent(spiffe_id=i, state=s) for i, s in self.agents.items()]
        self.index.load(self.entries.values(), self.nodes.values(), agents=agents)

    @invariant()
    def what_nodes_may_be_given(self):
        for node_id in NODES:
            for now in INSTANTS:
                found = self.index.authorized(node_id, now).entries
                expected = walk(self.entries.values(), self.nodes.get(node_id), now, self.agents)
                expected = [as_it_counts(entry, self.agents) for entry in expected]
                assert found == tuple(sorted(expected, key=lambda entry: entry.id))

    @invariant()
    def lists_and_counts(self):
        by_id = [as_it_counts(self.entries[entry_id], self.agents) for entry_id in sorted(self.entries)]
        assert list(self.index.entries()) == list(self.index.entries_after("")) == by_id
        for start in ("e3", "e", "e31", "f"):
            assert list(self.index.entries_after(start)) == [e for e in by_id if e.id > start]
        by_node = [self.nodes[node_id] for node_id in sorted(self.nodes, key=str)]
        assert list(self.index.nodes_after("")) == by_node
        assert list(self.index.nodes_after(str(NODES[0]))) == [n for n in by_node if n.id == NODES[1]]
        assert self.index.count() == (len(self.entries), len(self.nodes))

    @invariant()
    def single_things(self):
        for spiffe_id in IDS:
            for now in INSTANTS:
                count = [
                    e
                    for e in self.entries.values()
                    if e.spiffe_id == spiffe_id
                    and (e.expires_at is None or now < e.expires_at)
                    and self.agents.get(spiffe_id, AgentState.ACTIVE) is AgentState.ACTIVE
                ]
                assert self.index.is_admin(spiffe_id, now) is any(e.admin for e in count)
                below = spiffe_id not in self.agents and any(e.downstream for e in count)
                assert self.index.is_downstream(spiffe_id, now) is below
        for entry_id in ("e0", "e1", "unknown"):
            entry = self.entries.get(entry_id)
            assert self.index.entry(entry_id) == (entry and as_it_counts(entry, self.agents))
        for node_id in NODES:
            assert self.index.node(node_id) == self.nodes.get(node_id)


TestRegistrationMachine = RegistrationMachine.TestCase
TestRegistrationMachine.settings = settings(max_examples=30, stateful_step_count=20, deadline=None)


def registry(*all_entries, nodes=()):
    index = Registrations(OURS)
    index.load(all_entries, nodes or [a_node()])
    return index


def authorized(index, now=NOW):
    return [entry.id for entry in index.authorized(a_node().id, now).entries]


def test_entries_below_entries_come_too_however_deep():
    chain = [an_entry(f"e{n:03}", parent_id=an_id(f"/e{n - 1:03}") if n else a_node().id) for n in range(500)]
    assert authorized(registry(*reversed(chain))) == [entry.id for entry in chain]


def test_a_cycle_ends():
    around = [
        an_entry("a", parent_id=a_node().id),
        an_entry("b", parent_id=an_id("/a")),
        an_entry("c", parent_id=an_id("/b"), spiffe_id=a_node().id),
        an_entry("d", parent_id=an_id("/d")),
    ]
    assert authorized(registry(*around)) == ["a", "b", "c"]


def test_an_entry_of_another_trust_domain_is_never_given_and_leads_nowhere():
    foreign = SpiffeId(TrustDomain("other.org"), "/x")
    index = registry(
        an_entry("foreign", spiffe_id=foreign, parent_id=a_node().id), an_entry("below", parent_id=foreign)
    )
    assert authorized(index) == []


def test_an_alias_is_a_way_and_not_a_gift():
    alias = an_entry("alias", parent_id=SERVER, selectors=selectors("tpm:pcr:1"))
    below = an_entry("below", parent_id=alias.spiffe_id)
    for facts, expected in (("tpm:pcr:1", ["below"]), ("tpm:pcr:2", [])):
        assert authorized(registry(alias, below, nodes=[a_node(selectors=selectors(facts))])) == expected


def test_the_alias_of_a_join_token_is_for_its_own_node_only():
    alias = an_entry("alias", parent_id=SERVER, selectors=selectors(f"spiffe_id:{a_node().id}"))
    index = registry(alias, an_entry("below", parent_id=alias.spiffe_id), nodes=[a_node(), a_node("other")])
    assert authorized(index) == ["below"]
    assert index.authorized(a_node("other").id, NOW).entries == ()


@pytest.mark.parametrize("node", [None, a_node(serial="")], ids=["unknown", "banned"])
def test_a_node_that_is_unknown_or_banned_gets_nothing(node):
    index = registry(an_entry(parent_id=a_node().id), nodes=[node or a_node("other")])
    known = index.authorized(a_node().id, NOW)
    assert known.entries == ()
    assert index.concerns(known, change(ChangeKind.NODE, str(a_node().id), a_node()))


def test_an_entry_counts_until_the_instant_it_ends():
    index = registry(an_entry(parent_id=a_node().id, expires_at=NOW))
    assert authorized(index, NOW - timedelta(microseconds=1)) == ["e"]
    assert authorized(index, NOW) == []


def test_a_change_elsewhere_concerns_nobody():
    """A stream with many entries is not woken for each of a thousand others'."""
    index = registry(an_entry("mine", parent_id=a_node().id))
    known = index.authorized(a_node().id, NOW)
    other = an_entry("theirs", parent_id=an_id("/spire/agent/other"))
    assert not index.concerns(known, change(ChangeKind.ENTRY, other.id, other))
    assert not index.concerns(known, change(ChangeKind.BUNDLE, "other.org", Bundle(TrustDomain("other.org"))))
    assert not index.concerns(known, change(ChangeKind.AUTHORITY, "x509/a", None))


def test_an_alias_that_becomes_something_else_concerns_its_nodes():
    """Its parent is no longer ours, its ID is not among what the node was given: it took much away."""
    alias = an_entry("alias", parent_id=SERVER, selectors=selectors("tpm:pcr:1"))
    below = an_entry("below", parent_id=alias.spiffe_id)
    index = registry(alias, below, nodes=[a_node(selectors=alias.selectors)])
    known = index.authorized(a_node().id, NOW)
    moved = change(ChangeKind.ENTRY, "alias", replace(alias, parent_id=an_id("/elsewhere")))
    index.apply([moved])
    assert authorized(index) == []
    assert index.concerns(known, moved)


def test_bundles_are_followed_and_listed_by_trust_domain():
    first, second, third = (Bundle(TrustDomain(name), sequence=1) for name in ("a.org", "b.org", "c.org"))
    index = Registrations(OURS)
    index.load([], [], [second])
    newer = replace(second, sequence=2)
    index.apply([change(ChangeKind.BUNDLE, b.trust_domain.name, b) for b in (third, first, newer)])
    assert index.bundles() == [first, newer, third]
    index.apply([change(ChangeKind.BUNDLE, "a.org", None), change(ChangeKind.BUNDLE, "unknown.org", None)])
    assert index.bundles() == [newer, third]
    assert index.bundle(TrustDomain("c.org")) == third
    assert index.bundle(TrustDomain("a.org")) is None


def test_agents_and_their_classes_are_followed_and_listed():
    index = Registrations(OURS)
    two, one, bots = an_agent("/two"), an_agent("/one"), AgentClass(name="bots")
    index.load([], [], agents=[two], classes=[bots])
    index.apply([change(ChangeKind.AGENT, str(one.spiffe_id), one)])
    assert (index.agents(), index.agent(one.spiffe_id), index.agent(an_id("/none"))) == (
        [one, two],
        one,
        None,
    )
    art = AgentClass(name="art")
    index.apply([change(ChangeKind.AGENT_CLASS, "art", art)])
    assert (index.agent_classes(), index.agent_class("art")) == ([art, bots], art)
    index.apply([change(ChangeKind.AGENT_CLASS, "art", None)])
    assert (index.agent_classes(), index.agent_class("art")) == ([bots], None)


def test_what_is_remembered_is_bounded():
    """A thousand nodes that share a hundred thousand entries must not cost a hundred million places."""
    names = [f"n{number}" for number in range(50)]
    alias = an_entry("alias", parent_id=SERVER, selectors=selectors("a:b"))
    shared = [an_entry(f"e{number}", parent_id=alias.spiffe_id) for number in range(10)]
    index = Registrations(OURS, remembered=100)
    index.load([alias, *shared], [a_node(name, selectors=selectors("a:b")) for name in names])
    for _ in range(3):
        for name in names:
            assert len(index.authorized(a_node(name).id, NOW).entries) == 10
            kept = sum(len(known.entries) for known in index._remembered.values())
            assert kept == index._remembered_entries <= 100
    for number in range(10):
        index.apply([change(ChangeKind.ENTRY, f"e{number}", None)])
    for name in names:
        index.apply([change(ChangeKind.NODE, str(a_node(name).id), None)])
    assert index._remembered_entries == 0
    assert not index._remembered


def test_what_is_asked_twice_is_worked_out_once():
    index = registry(an_entry(parent_id=a_node().id, expires_at=NOW + SECOND))
    first = index.authorized(a_node().id, NOW)
    assert index.authorized(a_node().id, NOW + SECOND / 2) is first
    assert index.authorized(a_node().id, NOW + SECOND).entries == ()
    assert index.authorized(a_node().id, NOW).entries == first.entries, "the clock went back"


many = st.lists(st.builds(Selector, st.sampled_from("ab"), st.sampled_from("123456")), min_size=1, max_size=5)


@settings(max_examples=60)
@given(
    sets_of_entries=st.lists(many.map(frozenset), max_size=15),
    removed=st.sets(st.integers(0, 14)),
    some=st.frozensets(st.builds(Selector, st.sampled_from("ab"), st.sampled_from("1234567"))),
    more=st.frozensets(st.builds(Selector, st.sampled_from("ab"), st.sampled_from("1234567"))),
)
def test_subsets_are_found_exactly_and_more_selectors_never_find_less(sets_of_entries, removed, some, more):
    index, inside = SubsetIndex(), {}
    for number, own in enumerate(sets_of_entries):
        inside[number] = an_entry(f"e{number}", selectors=own)
        index.add(inside[number])
    for number in removed & inside.keys():
        index.remove(inside.pop(number))

    def found(given_selectors):
        matches = [entry.id for entry in index.matching(given_selectors)]
        assert len(matches) == len(set(matches)), "each once"
        return set(matches)

    assert found(some) == {entry.id for entry in inside.values() if entry.selectors <= some}
    assert found(some) <= found(some | more)
    for entry in inside.values():
        index.remove(entry)
    assert found(some | more) == set()


def test_an_index_from_which_all_was_removed_holds_nothing():
    index = SubsetIndex()
    entries = [an_entry(f"e{n}", selectors=selectors(f"t:{n % 3}", f"u:{n}")) for n in range(50)]
    for entry in entries:
        index.add(entry)
    for entry in entries:
        index.remove(entry)
    assert not index._frequency
    assert not index._by_key
    assert not index._key_of

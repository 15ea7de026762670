# SPDX-License-Identifier: Apache-2.0
"""The registry in memory, indexed: which entries a node may be given, and whatever lists ask for.

It is loaded once and then changed by what was committed, in that order, so it never disagrees with the
database. The walk from a node (SPIRE's model): the entries whose parent is the node, or an alias that
the node's selectors earn, or the SPIFFE ID of an entry that is already in.
"""

import bisect
from collections import Counter, deque
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from functools import cached_property
from itertools import combinations
from typing import Any, Final

from issuer.model import Agent, AgentClass, AgentState, Change, ChangeKind, Node, RegistrationEntry
from issuer.store.nodes import ID_SELECTOR, SERVER_PATH
from spiffekit.bundle import Bundle
from spiffekit.id import SpiffeId, TrustDomain
from spiffekit.selector import Selector

Key = tuple[Selector, ...]


FLAGS: Final = ("admin", "downstream")  # of entries: what they make of the issuer's callers
MAX_REMEMBERED: Final = 1_000_000  # entries in the answers of `authorized` that are kept for the next call


@dataclass(frozen=True)
class Authorized:
    """What a node may be given, and what the walk to it passed: a change elsewhere cannot matter to it."""

    entries: tuple[RegistrationEntry, ...]
    parents: frozenset[SpiffeId]
    aliases: frozenset[str] = frozenset()  # IDs of the entries that make the node's aliases
    node_id: SpiffeId | None = None
    since: datetime | None = None  # the instant that it was asked for; the clock may go back
    until: datetime | None = None  # when the first entry or alias ends by itself

    @cached_property
    def by_id(self) -> Mapping[str, RegistrationEntry]:
        """The entries by their ID."""
        return {entry.id: entry for entry in self.entries}

    def holds_at(self, now: datetime) -> bool:
        """Tell whether time alone has not changed it; a clock that was set back may have."""
        return self.since is not None and self.since <= now and (self.until is None or now < self.until)


class SubsetIndex:
    """Finds the entries whose selectors are all in a set, by their two rarest selectors."""

    def __init__(self) -> None:
        self._frequency: Counter[Selector] = Counter()
        self._by_key: dict[Key, dict[str, RegistrationEntry]] = {}
        self._key_of: dict[str, Key] = {}

    def add(self, entry: RegistrationEntry) -> None:
        """Add an entry."""
        self._frequency.update(entry.selectors)
        rarest = sorted(entry.selectors, key=lambda s: (self._frequency[s], s))[:2]
        key = tuple(sorted(rarest))
        self._key_of[entry.id] = key
        self._by_key.setdefault(key, {})[entry.id] = entry

    def remove(self, entry: RegistrationEntry) -> None:
        """Remove an entry that is in."""
        for selector in entry.selectors:
            self._frequency[selector] -= 1
            if not self._frequency[selector]:
                del self._frequency[selector]
        key = self._key_of.pop(entry.id)
        del self._by_key[key][entry.id]
        if not self._by_key[key]:
            del self._by_key[key]

    def matching(self, selectors: frozenset[Selector]) -> Iterator[RegistrationEntry]:
        """Yield each entry whose selectors are a subset of `selectors`."""
        known = sorted(s for s in selectors if s in self._frequency)
        for key in (*((s,) for s in known), *combinations(known, 2)):
            for entry in self._by_key.get(key, {}).values():
                if entry.selectors <= selectors:
                    yield entry


def _flags(entry: RegistrationEntry) -> list[tuple[str, SpiffeId]]:
    """Return what an entry makes of a caller that has its ID."""
    return [(flag, entry.spiffe_id) for flag in FLAGS if getattr(entry, flag)]


class Registrations:
    """Every entry and node of one trust domain. Used from one event loop."""

    def __init__(self, trust_domain: TrustDomain, *, remembered: int = MAX_REMEMBERED) -> None:
        self._max_remembered = remembered
        self._server = SpiffeId(trust_domain, SERVER_PATH)
        self._entries: dict[str, RegistrationEntry] = {}
        self._sorted_ids: list[str] = []
        self._by_parent: dict[SpiffeId, dict[str, RegistrationEntry]] = {}
        self._aliases = SubsetIndex()
        self._flagged: dict[tuple[str, SpiffeId], dict[str, RegistrationEntry]] = {}
        self._nodes: dict[SpiffeId, Node] = {}
        self._bundles: dict[TrustDomain, Bundle] = {}
        self._agents: dict[SpiffeId, Agent] = {}
        self._classes: dict[str, AgentClass] = {}
        self._remembered: dict[SpiffeId, Authorized] = {}  # what `authorized` said, until something changes
        self._remembered_entries = 0

    def load(
        self,
        entries: Iterable[RegistrationEntry],
        nodes: Iterable[Node],
        bundles: Iterable[Bundle] = (),
        *,
        agents: Iterable[Agent] = (),
        classes: Iterable[AgentClass] = (),
    ) -> None:
        """Fill an empty registry."""
        self._agents = {agent.spiffe_id: agent for agent in agents}  # first: entries are as they say
        for entry in entries:
            self._link(entry)
        self._sorted_ids = sorted(self._entries)
        self._nodes = {node.id: node for node in nodes}
        self._bundles = {bundle.trust_domain: bundle for bundle in bundles}
        self._classes = {agent_class.name: agent_class for agent_class in classes}

    def apply(self, changes: Sequence[Change]) -> None:
        """Follow what was committed."""
        for change in changes:
            self._forget_what(change)
            if change.kind is ChangeKind.ENTRY:
                self._remove(change.key)
                if isinstance(change.value, RegistrationEntry):
                    self._link(change.value)
                    bisect.insort(self._sorted_ids, change.key)
                continue
            value: Any = change.value
            things: dict[Any, Any]
            key: Any
            match change.kind:
                case ChangeKind.NODE:
                    things, key = self._nodes, SpiffeId.parse(change.key)
                case ChangeKind.BUNDLE:
                    things, key = self._bundles, TrustDomain(change.key)
                case ChangeKind.AGENT:
                    things, key = self._agents, SpiffeId.parse(change.key)
                case ChangeKind.AGENT_CLASS:
                    things, key = self._classes, change.key
                case ChangeKind.AUTHORITY | ChangeKind.REVOCATION | ChangeKind.POLICY:
                    continue
            if value is None:
                things.pop(key, None)
            else:
                things[key] = value

    def _forget_what(self, change: Change) -> None:
        """Forget the answers that a change can alter."""
        match change:
            case Change(kind=ChangeKind.ENTRY):
                for node_id in [n for n, known in self._remembered.items() if self.concerns(known, change)]:
                    self._remembered_entries -= len(self._remembered.pop(node_id).entries)
            case Change(kind=ChangeKind.NODE):
                known = self._remembered.pop(SpiffeId.parse(change.key), None)
                self._remembered_entries -= len(known.entries) if known is not None else 0
            case _:
                pass

    def _link(self, entry: RegistrationEntry) -> None:
        entry = self.effective(entry)
        self._entries[entry.id] = entry
        self._by_parent.setdefault(entry.parent_id, {})[entry.id] = entry
        if entry.parent_id == self._server:
            self._aliases.add(entry)
        for key in _flags(entry):
            self._flagged.setdefault(key, {})[entry.id] = entry

    def _remove(self, entry_id: str) -> None:
        entry = self._entries.pop(entry_id, None)
        if entry is None:
            return
        del self._sorted_ids[bisect.bisect_left(self._sorted_ids, entry_id)]
        siblings = self._by_parent[entry.parent_id]
        del siblings[entry_id]
        if not siblings:
            del self._by_parent[entry.parent_id]
        if entry.parent_id == self._server:
            self._aliases.remove(entry)
        for key in _flags(entry):
            del self._flagged[key][entry.id]
            if not self._flagged[key]:
                del self._flagged[key]

    def effective(self, entry: RegistrationEntry) -> RegistrationEntry:
        """Return an entry as it counts: each process of an agent has a key and SVIDs of its own.

        When an identity becomes an agent's, its entries change with it, so what is linked stays right.
        """
        if entry.svid_per_process or entry.template is not None or entry.spiffe_id not in self._agents:
            return entry
        return replace(entry, svid_per_process=True)

    def node(self, node_id: SpiffeId) -> Node | None:
        """Return a node, or None."""
        return self._nodes.get(node_id)

    def entry(self, entry_id: str) -> RegistrationEntry | None:
        """Return an entry as it counts, or None."""
        return self._entries.get(entry_id)

    def bundle(self, trust_domain: TrustDomain) -> Bundle | None:
        """Return a bundle, or None."""
        return self._bundles.get(trust_domain)

    def bundles(self) -> list[Bundle]:
        """Return every bundle, our own included, by trust domain."""
        return [self._bundles[trust_domain] for trust_domain in sorted(self._bundles)]

    def agent(self, spiffe_id: SpiffeId) -> Agent | None:
        """Return the agent of a SPIFFE ID, or None: then nobody owns it."""
        return self._agents.get(spiffe_id)

    def agents(self) -> list[Agent]:
        """Return every agent, by SPIFFE ID."""
        return [self._agents[spiffe_id] for spiffe_id in sorted(self._agents)]

    def agent_class(self, name: str) -> AgentClass | None:
        """Return a class of agents, or None."""
        return self._classes.get(name)

    def agent_classes(self) -> list[AgentClass]:
        """Return every class of agents, by name."""
        return [self._classes[name] for name in sorted(self._classes)]

    def is_admin(self, spiffe_id: SpiffeId, now: datetime) -> bool:
        """Tell whether an entry makes this ID an administrator at `now`."""
        return self._is_flagged("admin", spiffe_id, now)

    def is_downstream(self, spiffe_id: SpiffeId, now: datetime) -> bool:
        """Tell whether an entry makes this ID a downstream issuer at `now`; an agent is none.

        What an issuer below us has signed could not be taken back with the agent.
        """
        return spiffe_id not in self._agents and self._is_flagged("downstream", spiffe_id, now)

    def _is_flagged(self, flag: str, spiffe_id: SpiffeId, now: datetime) -> bool:
        return any(self._counts(entry, now) for entry in self._flagged.get((flag, spiffe_id), {}).values())

    def entries(self) -> Iterator[RegistrationEntry]:
        """Return every entry as it counts, by ID."""
        return (self._entries[entry_id] for entry_id in self._sorted_ids)

    def entries_after(self, entry_id: str) -> Iterator[RegistrationEntry]:
        """Return the entries whose ID is greater, by ID."""
        start = bisect.bisect_right(self._sorted_ids, entry_id) if entry_id else 0
        return (self._entries[found] for found in self._sorted_ids[start:])

    def nodes_after(self, node_id: str) -> Iterator[Node]:
        """Return the nodes whose ID is greater, by ID."""
        return (node for key, node in sorted((str(k), v) for k, v in self._nodes.items()) if key > node_id)

    def count(self) -> tuple[int, int]:
        """Return how many entries and nodes there are."""
        return len(self._entries), len(self._nodes)

    def authorized(self, node_id: SpiffeId, now: datetime) -> Authorized:
        """Return what a node may be given at `now`; nothing for a node that is not known or is banned."""
        known = self._remembered.get(node_id)
        if known is not None and known.holds_at(now):
            return known
        node = self._nodes.get(node_id)
        if node is None or node.banned:
            return Authorized((), frozenset())
        answer = self._walk(node, now)
        self._remembered_entries += len(answer.entries) - (len(known.entries) if known is not None else 0)
        if self._remembered_entries > self._max_remembered:
            self._remembered.clear()
            self._remembered_entries = len(answer.entries)
        self._remembered[node_id] = answer
        return answer

    def aliases(self, node: Node, now: datetime) -> list[RegistrationEntry]:
        """Return the entries that make aliases of a node at `now`."""
        own = node.selectors | {Selector(ID_SELECTOR, str(node.id))}
        return [alias for alias in self._aliases.matching(own) if self._counts(alias, now)]

    def ways(self, node: Node, now: datetime) -> dict[SpiffeId, tuple[SpiffeId, ...]]:
        """Return the shortest way from a node to each ID that can be a parent of its entries."""
        ways: dict[SpiffeId, tuple[SpiffeId, ...]] = {node.id: (node.id,)}
        waiting = deque([node.id])
        for alias in self.aliases(node, now):
            if alias.spiffe_id not in ways:
                ways[alias.spiffe_id] = (node.id, alias.spiffe_id)
                waiting.append(alias.spiffe_id)
        while waiting:
            parent = waiting.popleft()
            for entry in self._by_parent.get(parent, {}).values():
                if entry.template is None and entry.spiffe_id not in ways and self._counts(entry, now):
                    ways[entry.spiffe_id] = (*ways[parent], entry.spiffe_id)
                    waiting.append(entry.spiffe_id)
        return ways

    def _counts(self, entry: RegistrationEntry, now: datetime) -> bool:
        if entry.expires_at is not None and entry.expires_at <= now:
            return False
        # Whether what a template gives is the ID of an active agent is known when it is asked for.
        agent = self._agents.get(entry.spiffe_id) if entry.template is None else None
        return agent is None or agent.state is AgentState.ACTIVE

    def _walk(self, node: Node, now: datetime) -> Authorized:
        found: dict[str, RegistrationEntry] = {}
        passed = {node.id}
        waiting = [node.id]
        aliases = []
        ends = []
        for alias in self.aliases(node, now):
            aliases.append(alias.id)
            if alias.expires_at is not None:
                ends.append(alias.expires_at)
            if alias.spiffe_id not in passed:
                passed.add(alias.spiffe_id)
                waiting.append(alias.spiffe_id)
        while waiting:
            for entry in self._by_parent.get(waiting.pop(), {}).values():
                if not self._counts(entry, now) or not entry.spiffe_id.is_member_of(node.id.trust_domain):
                    continue
                found[entry.id] = entry
                if entry.expires_at is not None:
                    ends.append(entry.expires_at)
                if entry.template is None and entry.spiffe_id not in passed:  # a cycle ends here
                    passed.add(entry.spiffe_id)
                    waiting.append(entry.spiffe_id)
        return Authorized(
            tuple(found[entry_id] for entry_id in sorted(found)),
            frozenset(passed),
            frozenset(aliases),
            node.id,
            now,
            min(ends, default=None),
        )

    def concerns(self, authorized: Authorized, change: Change) -> bool:
        """Tell whether a change can alter what `authorized` says."""
        match change:
            case Change(kind=ChangeKind.ENTRY, value=RegistrationEntry() as entry):
                return (
                    entry.parent_id in authorized.parents
                    or entry.parent_id == self._server
                    or entry.id in authorized.by_id
                    or entry.id in authorized.aliases
                )
            case Change(kind=ChangeKind.ENTRY):
                return change.key in authorized.by_id or change.key in authorized.aliases
            case Change(kind=ChangeKind.NODE):
                return authorized.node_id is None or change.key == str(authorized.node_id)
            case _:
                return False


__all__ = ["Authorized", "Registrations", "SubsetIndex"]

# SPDX-License-Identifier: Apache-2.0
"""What this node may serve: entries, their SVIDs, and bundles; and who waits for a change of them.

Used from one event loop. A change is applied whole before anybody is woken, so no half state is seen.
"""

import asyncio
import logging
from collections.abc import Iterable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, replace
from datetime import datetime
from types import MappingProxyType

from attestor.errors import NoIdentityError
from attestor.revocation import TakenBack
from spiffekit.bundle import Bundle, BundleSet
from spiffekit.errors import SpiffeIdError, TemplateError
from spiffekit.id import SpiffeId, TrustDomain
from spiffekit.selector import Selector
from spiffekit.template import Template
from spiffekit.x509svid import X509Svid

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class Entry:
    """A registration entry as a node sees it."""

    id: str
    spiffe_id: SpiffeId
    selectors: frozenset[Selector]
    hint: str = ""
    federates_with: tuple[TrustDomain, ...] = ()
    revision: int = 0
    created_at: datetime
    store_svid: bool = False
    jwt_svid_include_jti: bool = False
    needs_evidence: bool = False  # key and SVIDs are one process's, and asked for with evidence of it
    template: Template | None = None  # gives `spiffe_id` from selectors
    expires_at: datetime | None = None

    def fitting(self, selectors: frozenset[Selector]) -> "Entry | None":
        """Return the entry as it is for a workload for which `selectors` hold, or None if they do not fit."""
        if not self.selectors <= selectors or self.template_error(selectors):
            return None
        return self if self.template is None else replace(self, spiffe_id=self.template.expand(selectors))

    def template_error(self, selectors: frozenset[Selector]) -> str:
        """Return why the template gives no identity although all selectors hold, or "" if it does."""
        if self.template is None or not self.selectors <= selectors:
            return ""
        try:
            self.template.expand(selectors)
        except (TemplateError, SpiffeIdError) as error:
            return str(error)
        return ""

    @property
    def name(self) -> str:
        """The SPIFFE ID, or the template of many."""
        return str(self.spiffe_id if self.template is None else self.template)


@dataclass(frozen=True, slots=True)
class Identity:
    """An entry with its current SVID."""

    entry: Entry
    svid: X509Svid


@dataclass(frozen=True, slots=True)
class WorkloadUpdate:
    """All that a workload is entitled to at one moment."""

    identities: tuple[Identity, ...]
    bundle: Bundle
    federated: tuple[Bundle, ...]


@dataclass(frozen=True, slots=True)
class Miss:
    """An entry that nearly matches, and the selectors that it still lacks."""

    entry: Entry
    missing: frozenset[Selector]
    template_error: str = ""  # why the template gives no identity, if all selectors hold


_Rests = dict[Selector | None, set[frozenset[Selector]]]
"""What has to hold besides the selectors of some types, for entries that look at those: by one selector."""


class Cache:
    """See the module."""

    def __init__(self, trust_domain: TrustDomain) -> None:
        self.trust_domain = trust_domain
        self.bundles = BundleSet()
        self.entries: dict[str, Entry] = {}
        self._svids: dict[str, tuple[int, X509Svid]] = {}  # with the revision of the entry that it is for
        self._refused: dict[str, int] = {}  # entries without SVIDs, with their revision
        self._by_selector: dict[Selector, set[str]] = {}
        self._awaited: dict[frozenset[str], _Rests] = {}  # of these entries, by types of attestors
        self._watchers: set[Watcher] = set()
        self._revocation_watchers: set[Watcher] = set()
        self.taken_back = TakenBack()
        self.version = 0  # grows with every change
        self.tainted: frozenset[str] = frozenset()

    def apply(
        self,
        *,
        entries: Iterable[Entry],
        removed: Iterable[str] = (),
        bundles: Iterable[Bundle] = (),
        removed_bundles: Iterable[TrustDomain] = (),
        tainted: Iterable[str] = (),
        snapshot: bool = False,
    ) -> None:
        """Apply a change; with `snapshot`, what is not named is gone."""
        fresh = {entry.id: entry for entry in entries}
        gone = (self.entries.keys() - fresh.keys()) if snapshot else set(removed)
        for entry_id in gone | (fresh.keys() & self.entries.keys()):
            self._unlink(entry_id)
        for entry in fresh.values():
            self.entries[entry.id] = entry
            self._by_selector.setdefault(min(entry.selectors), set()).add(entry.id)
        for entry_id in gone | {entry.id for entry in fresh.values() if entry.needs_evidence}:
            self._svids.pop(entry_id, None)  # the key goes with the entry, or belongs to nobody alone
            self._refused.pop(entry_id, None)
        self._awaited.clear()
        if snapshot:
            self.bundles = BundleSet(bundles)
        else:
            for bundle in bundles:
                self.bundles = self.bundles.with_bundle(bundle)
            for trust_domain in removed_bundles:
                self.bundles = self.bundles.without(trust_domain)
        self.tainted = frozenset(tainted) | (frozenset() if snapshot else self.tainted)
        self.notify()

    def _unlink(self, entry_id: str) -> None:
        entry = self.entries.pop(entry_id, None)
        if entry is not None:
            pivot = min(entry.selectors)
            self._by_selector[pivot].discard(entry_id)
            if not self._by_selector[pivot]:
                del self._by_selector[pivot]

    def put_svids(self, svids: Mapping[str, X509Svid], refused: Iterable[Entry] = ()) -> None:
        """Keep new SVIDs by the ID of their entry; for those `refused` there are none for now."""
        for entry_id, svid in svids.items():
            entry = self.entries.get(entry_id)
            if entry is not None and entry.spiffe_id == svid.spiffe_id:
                self._svids[entry_id] = (entry.revision, svid)
        told = {entry.id: entry.revision for entry in refused if entry.id in self.entries}
        if svids or not told.items() <= self._refused.items():
            self._refused |= told
            self.notify()

    def svid(self, entry: Entry) -> X509Svid | None:
        """Return the SVID of an entry as it is now, or None."""
        found = self._svids.get(entry.id)
        if found is None or found[0] != entry.revision:
            return None
        return found[1]

    def soonest_expiry(self) -> datetime | None:
        """Return when the first SVID here expires, None if there is none."""
        return min((svid.expires_at for _, svid in self._svids.values()), default=None)

    def take_back(self, taken: TakenBack) -> None:
        """Serve nothing any more that is taken back, and drop its keys."""
        before, self.taken_back = self.taken_back, taken
        for watcher in self._revocation_watchers:
            watcher.wake()
        if not taken.differs_from(before):
            return
        for entry_id, (_, svid) in tuple(self._svids.items()):
            if reason := taken.reason(svid):
                logger.warning("SVID taken back", extra={"entry": entry_id, "reason": reason})
                del self._svids[entry_id]
        self.notify()

    def notify(self) -> None:
        """Wake everybody who waits."""
        self.version += 1
        for watcher in self._watchers:
            watcher.wake()

    def matching(self, selectors: frozenset[Selector]) -> tuple[Entry, ...]:
        """Return the entries whose selectors all hold, oldest first: the first one is the default identity.

        Of entries with the same hint only the oldest counts (Workload_API §5.2.1). Those of agents that are
        suspended or retired are not among them.
        """
        candidates = (
            self.entries[entry_id]
            for selector in selectors
            for entry_id in self._by_selector.get(selector, ())
        )
        matched = [
            fitting
            for entry in candidates
            if not entry.store_svid
            and (fitting := entry.fitting(selectors)) is not None
            and not self.taken_back.is_ended(fitting.spiffe_id)
        ]
        hints: set[str] = set()
        found = []
        for entry in sorted(matched, key=lambda e: (e.created_at, e.id)):
            if entry.hint and entry.hint in hints:
                continue
            hints.add(entry.hint)
            found.append(entry)
        return tuple(found)

    def awaits(self, selectors: frozenset[Selector], pending: frozenset[str]) -> bool:
        """Tell whether what attestors of the `pending` types have yet to say may matter.

        It does to an entry that may match still; and evidence has the word of every attestor.
        """
        index = self._awaited.get(pending)
        if index is None:
            index = self._awaited[pending] = self._index_of_awaited(pending)
        return any(rest <= selectors for known in (None, *selectors) for rest in index.get(known, ()))

    def _index_of_awaited(self, pending: frozenset[str]) -> "_Rests":
        index: _Rests = {}
        for entry in self.entries.values():
            rest = frozenset(s for s in entry.selectors if s.type not in pending)
            if entry.needs_evidence or len(rest) < len(entry.selectors):
                index.setdefault(min(rest, default=None), set()).add(rest)
        return index

    def nearest(self, selectors: frozenset[Selector], limit: int = 5) -> tuple[Miss, ...]:
        """Return the entries that lack the fewest selectors, for an operator who asks why."""
        misses = [
            Miss(entry, entry.selectors - selectors, entry.template_error(selectors))
            for entry in self.entries.values()
            if entry.fitting(selectors) is None
        ]
        return tuple(sorted(misses, key=lambda m: (len(m.missing), m.entry.id))[:limit])

    def bundles_for(self, entries: Iterable[Entry]) -> tuple[Bundle, tuple[Bundle, ...]]:
        """Return our own bundle, and those of the trust domains that the entries federate with."""
        wanted = sorted({trust_domain for entry in entries for trust_domain in entry.federates_with})
        found = (self.bundles.get(trust_domain) for trust_domain in wanted)
        return self.bundles.bundle_for(self.trust_domain), tuple(b for b in found if b is not None)

    def update(
        self, selectors: frozenset[Selector], own: Mapping[str, X509Svid] = MappingProxyType({})
    ) -> WorkloadUpdate | None:
        """Return what a workload is entitled to, or None while a shared SVID of it is still being issued.

        An entry that the issuer refuses an SVID does not keep the others from it.

        Args:
            selectors: What holds for the workload.
            own: The SVIDs that belong to its process alone, by entry; what is missing was refused.

        Raises:
            NoIdentityError: No entry matches, or all that do were refused.
        """
        entries = [e for e in self.matching(selectors) if not e.needs_evidence or e.id in own]
        if not entries:
            raise NoIdentityError("no identity issued")
        found = [(e, own[e.id] if e.needs_evidence else self.svid(e)) for e in entries]
        if any(svid is None and self._refused.get(entry.id) != entry.revision for entry, svid in found):
            return None
        identities = tuple(Identity(entry, svid) for entry, svid in found if svid is not None)
        return WorkloadUpdate(identities, *self.bundles_for(entries)) if identities else None

    def watching(self) -> AbstractContextManager["Watcher"]:
        """Yield something that misses no change of what may be served."""
        return watching(self._watchers)

    def watching_revocations(self) -> AbstractContextManager["Watcher"]:
        """Yield something that misses nothing of what the issuer says of revocations."""
        return watching(self._revocation_watchers)


@contextmanager
def watching(watchers: "set[Watcher]") -> Iterator["Watcher"]:
    """Yield something that is among `watchers` while the context lasts."""
    watcher = Watcher()
    watchers.add(watcher)
    try:
        yield watcher
    finally:
        watchers.discard(watcher)


class Watcher:
    """Waits for changes, and misses none between two waits. One task waits on it."""

    __slots__ = ("_event",)

    def __init__(self) -> None:
        self._event = asyncio.Event()

    def wake(self) -> None:
        """Let the wait return; several before it count as one."""
        self._event.set()

    async def wait(self) -> None:
        """Return at the next change, or at once if there was one since the last call."""
        await self._event.wait()
        self._event.clear()

# SPDX-License-Identifier: Apache-2.0
"""Have an SVID ready for every entry, each with a key of its own, and replace it at half of its life."""

import asyncio
import logging
from collections.abc import Callable
from datetime import timedelta
from typing import Final, NamedTuple, NoReturn

from attestor.cache import Cache, Entry
from attestor.errors import AttestorError
from attestor.issuer_client import IssuerClient, make_csr, new_key
from attestor.session import RETRY, agrees, authority_of, in_force, renewal_in
from spiffekit.daemon.backoff import Backoff
from spiffekit.daemon.clock import Clock, first_of
from spiffekit.errors import SpiffeError
from spiffekit.keys import private_key_to_der
from spiffekit.x509svid import X509Svid

logger = logging.getLogger(__name__)

BATCH: Final = 500  # SVIDs of one call
CHUNK: Final = 32  # keys made before others get a turn
CHECK_EVERY: Final = timedelta(seconds=1)
REFUSED_FOR: Final = timedelta(seconds=10)  # until a refused entry is asked for again


class _Plan(NamedTuple):
    """When to replace an SVID."""

    serial: int
    due: float  # on the monotonic clock
    agreed: bool  # our clock and the SVID's, when we got it


class Rotation:
    """The service that keeps the SVIDs in the cache fresh."""

    def __init__(self, client: IssuerClient, cache: Cache, *, clock: Clock) -> None:
        self._client = client
        self._cache = cache
        self._clock = clock
        self._plans: dict[str, _Plan] = {}  # by entry
        self._refused: dict[str, tuple[int, float]] = {}  # entry: its revision, and when to ask again
        self._batch = BATCH
        self.issued = 0  # SVIDs that were taken up from the issuer

    async def run(self, ready: Callable[[], None]) -> NoReturn:
        """Rotate for ever; ready when there is an SVID for every entry that the issuer grants."""
        backoff = Backoff(*RETRY)
        announced = False
        while True:
            with self._cache.watching() as watcher:
                try:
                    await self.rotate()
                    backoff.reset()
                    wait = CHECK_EVERY
                except AttestorError as error:
                    # What we have goes on being served until it expires. A ban is for the session to judge:
                    # the node's identity is forgotten before the daemon ends.
                    logger.warning("SVIDs not renewed yet", extra={"reason": str(error)})
                    wait = backoff.next()
                if not announced:
                    announced = True
                    ready()
                await first_of(watcher.wait(), self._clock.sleep(wait))

    async def rotate(self) -> None:
        """Fetch an SVID for each entry that needs one now."""
        ended = self._cache.taken_back.is_ended
        shared = (e for e in self._cache.entries.values() if not e.needs_evidence and not ended(e.spiffe_id))
        needed = [entry for entry in shared if self._needs(entry)]
        for remembered in (self._plans, self._refused):
            for gone in remembered.keys() - self._cache.entries.keys():
                del remembered[gone]
        for start in range(0, len(needed), self._batch):
            await self._fetch(needed[start : start + self._batch])

    def _needs(self, entry: Entry) -> bool:
        revision, again = self._refused.get(entry.id, (-1, 0.0))
        if revision == entry.revision and self._clock.monotonic() < again:
            return False
        svid, plan = self._cache.svid(entry), self._plans.get(entry.id)
        if svid is None or plan is None or plan.serial != svid.serial_number:
            return True
        if self._cache.tainted and authority_of(svid) in self._cache.tainted:
            return True
        if plan.agreed and not in_force(svid, self._clock.now()):  # the clock was set, or the issuer was away
            return True
        return self._clock.monotonic() >= plan.due

    async def _fetch(self, entries: list[Entry]) -> None:
        keys = {}
        requests = []
        for index, entry in enumerate(entries):
            keys[entry.id] = key = new_key()
            requests.append((entry.id, make_csr(key)))
            if index % CHUNK == CHUNK - 1:
                await asyncio.sleep(0)
        chains = await self._client.new_x509_svids(requests)
        fresh: dict[str, X509Svid] = {}
        refused: list[Entry] = []
        for entry in entries:
            if self._cache.entries.get(entry.id) != entry:
                continue  # changed meanwhile: what was issued is not for the entry as it is now
            if entry.id not in chains:
                self._put_off(entry, "issuer refused an SVID")
                refused.append(entry)
                continue
            try:
                der = private_key_to_der(keys[entry.id])
                svid = X509Svid.parse(b"".join(chains[entry.id]), der, hint=entry.hint)
            except SpiffeError as error:
                self._put_off(entry, f"issuer's SVID cannot be used: {error}")
                refused.append(entry)
                continue
            if reason := self._cache.taken_back.reason(svid):  # while it was under way
                self._put_off(entry, f"issuer's SVID is taken back: {reason}")
                refused.append(entry)
                continue
            now, monotonic = self._clock.now(), self._clock.monotonic()
            due = monotonic + renewal_in(svid, now)
            self._plans[entry.id] = _Plan(svid.serial_number, due, agrees(svid, now))
            if authority_of(svid) in self._cache.tainted:
                self._put_off(entry, "issuer still signs with a tainted authority")
            else:
                self._refused.pop(entry.id, None)
            fresh[entry.id] = svid
        self.issued += len(fresh)
        self._cache.put_svids(fresh, refused)

    def _put_off(self, entry: Entry, reason: str) -> None:
        """Ask again later, or when the entry has changed."""
        logger.warning("no SVID for an entry", extra={"entry": entry.id, "reason": reason})
        again = self._clock.monotonic() + REFUSED_FOR.total_seconds()
        self._refused[entry.id] = (entry.revision, again)

# SPDX-License-Identifier: Apache-2.0
"""WIT-SVIDs, and the instance keys that they are bound to: one of each process, which need not hold it.

The key lives as long as the process executes what was attested, and a day at most. The tokens are renewed
under it, so that what others have bound to the key stays good. The issuer judges the evidence each time.
"""

import logging
from collections.abc import Iterable
from datetime import timedelta
from typing import Final

from attestor.cache import Cache, Entry
from attestor.errors import AttestorError, IssuerUnavailableError
from attestor.instances import ASK_AGAIN, REFUSED_FOR, HeldWit, Instance, InstanceKey, evidence_of
from attestor.issuer_client import IssuerClient, new_key
from attestor.peer import Process
from attestor.workload.examination import Examination
from spiffekit.daemon.clock import Clock
from spiffekit.errors import SpiffeError
from spiffekit.evidence import Evidence
from spiffekit.keys import public_key_to_der
from spiffekit.witsvid import WitSvid

logger = logging.getLogger(__name__)

KEY_LIFETIME: Final = timedelta(hours=24)


class WitSvids:
    """See the module. Used from one event loop."""

    def __init__(self, client: IssuerClient, cache: Cache, clock: Clock) -> None:
        self._client = client
        self._cache = cache
        self._clock = clock
        self.issued = 0  # SVIDs that were taken up from the issuer

    async def ensure(
        self, instance: Instance, process: Process, examination: Examination, entries: Iterable[Entry]
    ) -> InstanceKey:
        """Return the key of a process, with an SVID for each of these entries that the issuer grants it.

        What could not be renewed stays while it is valid; what was refused is gone.

        Raises:
            WitUnsupportedError: The issuer signs none, and an SVID is missing.
            IssuerUnavailableError: The issuer cannot be asked, and an SVID is missing.
            PeerGoneError: The process has exited.
        """
        async with instance.wit_lock:
            mine = self._key_of(instance, process)
            wanted = {entry.id: entry for entry in entries}
            mine.held = {key: held for key, held in mine.held.items() if self._is_good(held, wanted.get(key))}
            mine.refused = {
                key: refusal for key, refusal in mine.refused.items() if wanted.get(key) == refusal[0]
            }
            needed = [entry for entry in wanted.values() if self._is_due(mine, entry)]
            if needed:
                try:
                    await self._issue(mine, needed, evidence_of(instance.uid, process, examination))
                except AttestorError as error:
                    self._keep(mine, needed, error)
            process.require_alive()
            return mine

    def _key_of(self, instance: Instance, process: Process) -> InstanceKey:
        """Return the key of what a process executes now, another one than before if that is another."""
        now, executable = self._clock.monotonic(), process.executable()
        mine = instance.key
        if mine is None or mine.executable != executable or now >= mine.until:
            mine = instance.key = InstanceKey(new_key(), executable, now + KEY_LIFETIME.total_seconds())
        return mine

    def _is_good(self, held: HeldWit, entry: Entry | None) -> bool:
        """Tell whether what is held may still be given out: for the entry as it is now, and vouched for."""
        if entry is None or (held.revision, held.svid.spiffe_id) != (entry.revision, entry.spiffe_id):
            return False
        if self._cache.taken_back.reason(held.svid):
            return False
        bundle = self._cache.bundles.get(self._cache.trust_domain)
        authority = bundle.wit_authority(held.svid.key_id) if bundle is not None else None
        return authority is not None and not authority.tainted

    def _is_due(self, mine: InstanceKey, entry: Entry) -> bool:
        now = self._clock.monotonic()
        if entry.id in mine.refused:
            return now >= mine.refused[entry.id][1]
        held = mine.held.get(entry.id)
        return held is None or now >= held.due or self._clock.now() >= held.svid.expires_at

    def _keep(self, mine: InstanceKey, needed: Iterable[Entry], error: AttestorError) -> None:
        """Make do with what is there until the issuer can be asked again, or raise."""
        for entry in needed:
            held = mine.held.get(entry.id)
            if held is None or self._clock.now() >= held.svid.expires_at:
                if isinstance(error, IssuerUnavailableError):
                    raise error
                raise IssuerUnavailableError(f"no WIT-SVID for this process: {error}") from error
            held.due = self._clock.monotonic() + ASK_AGAIN

    async def _issue(self, mine: InstanceKey, entries: list[Entry], evidence: Evidence) -> None:
        public = mine.key.public_key()
        tokens = await self._client.new_wit_svids(
            [entry.id for entry in entries], public_key_to_der(public), evidence
        )
        for entry in entries:
            mine.held.pop(entry.id, None)
            mine.refused.pop(entry.id, None)
            if entry.id not in tokens:
                mine.refused[entry.id] = (entry, self._clock.monotonic() + REFUSED_FOR)
                continue
            try:
                svid = WitSvid.parse_unverified(tokens[entry.id], hint=entry.hint)
            except SpiffeError as error:
                raise IssuerUnavailableError(f"issuer's WIT-SVID cannot be used: {error}") from error
            if (svid.spiffe_id, svid.public_key) != (entry.spiffe_id, public):
                raise IssuerUnavailableError("issuer's WIT-SVID is for another ID or key")
            left = (svid.expires_at - self._clock.now()) / 2
            due = self._clock.monotonic() + max(left.total_seconds(), REFUSED_FOR)
            mine.held[entry.id] = HeldWit(entry.revision, svid, due)
            self.issued += 1

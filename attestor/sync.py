# SPDX-License-Identifier: Apache-2.0
"""Follow the issuer: by its push stream, or by polling a stock SPIRE server."""

import asyncio
import logging
import random
from collections.abc import Callable
from datetime import timedelta
from typing import Final, NoReturn

from attestor.cache import Cache, Entry
from attestor.errors import AttestorError, IssuerUnavailableError
from attestor.instances import Instances
from attestor.issuer_client import IssuerClient
from attestor.policies import PolicyShelf
from attestor.revocation import RevocationBook, Said
from attestor.session import RETRY, NodeSession
from attestor.updates import Update
from spiffekit.bundle import Bundle
from spiffekit.daemon.backoff import Backoff
from spiffekit.daemon.clock import Clock

logger = logging.getLogger(__name__)

QUIET: Final = timedelta(seconds=40)  # the issuer's heartbeat comes every 15


class Sync:
    """The service that keeps the cache as the issuer says."""

    def __init__(
        self,
        client: IssuerClient,
        session: NodeSession,
        cache: Cache,
        *,
        instances: Instances,
        clock: Clock,
        poll_every: timedelta,
    ) -> None:
        self._client = client
        self._session = session
        self._cache = cache
        self._instances = instances
        self.revocations = RevocationBook()
        self.policies = PolicyShelf()
        self._clock = clock
        self._poll_every = poll_every
        self._synced = asyncio.Event()
        self._stock = False
        self.revision = 0  # applied whole, of this epoch
        self.known_at: float | None = None  # on the monotonic clock: when the cache was as the issuer said
        self._epoch = ""

    async def run(self, ready: Callable[[], None]) -> NoReturn:
        """Follow for ever; ready with the first state, so that nobody is served from nothing."""
        announcing = asyncio.create_task(self._announce(ready))
        backoff = Backoff(*RETRY)
        try:
            while True:
                try:
                    if self._stock:
                        await self._poll()
                        backoff.reset()
                        await self._clock.sleep(self._poll_every * (0.9 + 0.2 * random.random()))  # noqa: S311 - spreads load
                    else:
                        await self._watch(backoff)
                except AttestorError as error:
                    await self._session.recover(error)
                    await self._clock.sleep(backoff.next())
        finally:
            announcing.cancel()

    async def _announce(self, ready: Callable[[], None]) -> None:
        await self._synced.wait()
        ready()

    async def _watch(self, backoff: Backoff) -> None:
        parts: list[Update] = []
        try:
            async for update in self._client.watch(
                QUIET, revision=self.revision, epoch=self._epoch, policies=self.policies.number
            ):
                backoff.reset()
                if update.heartbeat:
                    if update.revocations is not None:
                        self._take_back(update.revocations)
                    if update.policies is not None:
                        own = self._cache.bundles.get(self._cache.trust_domain)
                        self.policies.take(update.policies, own, self._clock.now())
                    if update.epoch == self._epoch and not parts:
                        self.revision = update.revision  # what lies between was not for us
                        self.known_at = self._clock.monotonic()
                    continue
                parts.append(update)
                if not update.more:
                    self._apply(parts)
                    parts = []
        except NotImplementedError:
            logger.warning("issuer has no push stream, polling it instead")
            self._stock = True

    def _apply(self, parts: list[Update]) -> None:
        bundles = [bundle for part in parts for bundle in part.bundles]
        removed_bundles = [trust_domain for part in parts for trust_domain in part.removed_bundles]
        if self._cache.trust_domain in removed_bundles:  # nobody could be verified, nor the issuer be known
            raise IssuerUnavailableError("issuer's own bundle is malformed or gone")
        self._take(bundles)
        self._cache.apply(
            entries=[entry for part in parts for entry in part.entries],
            removed=[entry_id for part in parts for entry_id in part.removed],
            bundles=bundles,
            removed_bundles=removed_bundles,
            tainted=[key_id for part in parts for key_id in part.tainted],
            snapshot=parts[0].snapshot,
        )
        self.revision, self._epoch = parts[-1].revision, parts[-1].epoch
        self.known_at = self._clock.monotonic()
        self._synced.set()

    def _take_back(self, said: Said) -> None:
        own = self._cache.bundles.get(self._cache.trust_domain)
        self._cache.take_back(self.revocations.take(said, own, self._clock.now()))
        self._instances.drop_taken_back()

    async def _poll(self) -> None:
        entries = await self._client.sync_entries(self._cache.entries)
        wanted = sorted({td for entry in entries for td in entry.federates_with})
        federated = [await self._client.federated_bundle(trust_domain) for trust_domain in wanted]
        bundles = [await self._client.bundle(), *(bundle for bundle in federated if bundle is not None)]
        self._take(bundles)
        if self._changed(entries, bundles):
            tainted = [a.subject_key_id for b in bundles for a in b.x509_authorities if a.tainted]
            self._cache.apply(entries=entries, bundles=bundles, tainted=tainted, snapshot=True)
        self.known_at = self._clock.monotonic()
        self._synced.set()

    def _changed(self, entries: tuple[Entry, ...], bundles: list[Bundle]) -> bool:
        return {entry.id: entry for entry in entries} != self._cache.entries or {
            bundle.trust_domain: bundle for bundle in bundles
        } != {bundle.trust_domain: bundle for bundle in self._cache.bundles}

    def _take(self, bundles: list[Bundle]) -> None:
        for bundle in bundles:
            if bundle.trust_domain == self._cache.trust_domain:
                self._session.adopt_bundle(bundle)

# SPDX-License-Identifier: Apache-2.0
"""Have an SVID ready for every entry, each with a key of its own, and replace it at half of its life."""

import asyncio
import logging
import random
from collections.abc import Callable, Coroutine
from datetime import timedelta
from typing import Any, Final, NoReturn

from cryptography import x509

from attestor.cache import Cache, Entry
from attestor.errors import AttestorError, NodeBannedError
from attestor.issuer_client import IssuerClient, make_csr, new_key
from attestor.session import RETRY
from spiffekit.daemon.backoff import Backoff
from spiffekit.daemon.clock import Clock
from spiffekit.errors import SpiffeError
from spiffekit.keys import private_key_to_der
from spiffekit.x509svid import X509Svid

logger = logging.getLogger(__name__)

BATCH: Final = 500  # SVIDs of one call
CHUNK: Final = 32  # keys made before others get a turn
CHECK_EVERY: Final = timedelta(seconds=1)


class Rotation:
    """The service that keeps the SVIDs in the cache fresh."""

    def __init__(self, client: IssuerClient, cache: Cache, *, clock: Clock) -> None:
        self._client = client
        self._cache = cache
        self._clock = clock
        self._due: dict[str, tuple[int, float]] = {}  # entry: serial number, and when on the monotonic clock
        self._batch = BATCH

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
                except NodeBannedError:
                    raise
                except AttestorError as error:
                    # What we have goes on being served until it expires.
                    logger.warning("SVIDs not renewed yet", extra={"reason": str(error)})
                    wait = backoff.next()
                if not announced:
                    announced = True
                    ready()
                await _first_of(watcher.wait(), self._clock.sleep(wait))

    async def rotate(self) -> None:
        """Fetch an SVID for each entry that needs one now."""
        needed = [entry for entry in self._cache.entries.values() if self._needs(entry)]
        for gone in self._due.keys() - self._cache.entries.keys():
            del self._due[gone]
        for start in range(0, len(needed), self._batch):
            await self._fetch(needed[start : start + self._batch])

    def _needs(self, entry: Entry) -> bool:
        svid = self._cache.svid(entry)
        if svid is None:
            return True
        if self._cache.tainted and _authority(svid) in self._cache.tainted:
            return True
        now = self._clock.now()
        if not svid.not_before <= now < svid.expires_at:  # expired, or the clock was set back
            return True
        serial, due = self._due.get(entry.id, (0, 0.0))
        return serial != svid.serial_number or self._clock.monotonic() >= due

    async def _fetch(self, entries: list[Entry]) -> None:
        keys = {}
        requests = []
        for index, entry in enumerate(entries):
            keys[entry.id] = key = new_key()
            requests.append((entry.id, make_csr(key)))
            if index % CHUNK == CHUNK - 1:
                await asyncio.sleep(0)
        chains = await self._client.new_x509_svids(requests)
        fresh = {}
        for entry in entries:
            if entry.id not in chains:
                logger.warning("issuer refused an SVID", extra={"entry": entry.id})
                continue
            try:
                der = private_key_to_der(keys[entry.id])
                svid = X509Svid.parse(b"".join(chains[entry.id]), der, hint=entry.hint)
            except SpiffeError as error:
                logger.warning("SVID cannot be used", extra={"entry": entry.id, "reason": str(error)})
                continue
            left = (svid.expires_at - self._clock.now()).total_seconds()
            jitter = 0.9 + 0.2 * random.random()  # noqa: S311 - spreads load, protects nothing
            self._due[entry.id] = (svid.serial_number, self._clock.monotonic() + left / 2 * jitter)
            fresh[entry.id] = svid
        if fresh:
            self._cache.put_svids(fresh)


async def _first_of(*waits: Coroutine[Any, Any, None]) -> None:
    tasks = [asyncio.ensure_future(wait) for wait in waits]
    try:
        await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
    finally:
        for task in tasks:
            task.cancel()


def _authority(svid: X509Svid) -> str:
    extension = svid.leaf.extensions.get_extension_for_class(x509.AuthorityKeyIdentifier)
    return (extension.value.key_identifier or b"").hex()

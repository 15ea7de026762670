# SPDX-License-Identifier: Apache-2.0
"""Keys and SVIDs that belong to one process: made when it asks, with evidence of it, and gone when it exits.

What an entry gives to one process alone is never prefetched and never shared. The issuer judges the evidence
each time; what it refuses is withheld.
"""

import asyncio
import base64
import hashlib
import logging
import os
import secrets
from collections import OrderedDict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from cryptography.hazmat.primitives.asymmetric import ec

from attestor.cache import Cache, Entry
from attestor.errors import AttestorError, IssuerUnavailableError
from attestor.issuer_client import IssuerClient, make_csr, new_key
from attestor.peer import Executable, Process, ancestors
from attestor.session import agrees, authority_of, in_force, renewal_in
from attestor.workload.examination import Examination
from spiffekit.daemon.clock import Clock
from spiffekit.errors import SpiffeError
from spiffekit.evidence import Evidence, ProcessFacts
from spiffekit.keys import private_key_to_der
from spiffekit.witsvid import WitSvid
from spiffekit.x509svid import X509Svid

logger = logging.getLogger(__name__)

MAX_INSTANCES: Final = 4096  # processes; of more, those that asked longest ago lose what they had
ASK_AGAIN: Final = 2.0  # seconds after the issuer could not be asked
REFUSED_FOR: Final = 5.0  # seconds until the issuer is asked again for what it refused
_BOOT_ID: Final = Path("/proc/sys/kernel/random/boot_id")


@dataclass(slots=True)
class _Held:
    """An SVID of one process, for a revision of its entry; renewed when `due` on the monotonic clock."""

    revision: int
    svid: X509Svid
    due: float
    agreed: bool  # our clock and the issuer's, when it came
    authority: str
    tainted: bool  # what we know of the authority, and `due` allows for


@dataclass(slots=True)
class HeldWit:
    """A WIT-SVID of one process, for a revision of its entry; renewed when `due` on the monotonic clock."""

    revision: int
    svid: WitSvid
    due: float


@dataclass(slots=True)
class InstanceKey:
    """The key that WIT-SVIDs of one process are bound to, and these. It does not outlive the executable."""

    key: ec.EllipticCurvePrivateKey
    executable: Executable
    until: float  # on the monotonic clock
    held: dict[str, HeldWit] = field(default_factory=dict)  # by entry
    refused: dict[str, tuple[Entry, float]] = field(default_factory=dict)  # by entry; and when to ask again

    def due(self) -> float:
        """Return when to ask the issuer next, on the monotonic clock; at the latest for another key."""
        again = (when for _, when in self.refused.values())
        return min((*(held.due for held in self.held.values()), *again, self.until))


@dataclass(slots=True)
class Instance:
    """One process that was attested: `uid` names it in every record. You get one by `Instances.of`."""

    uid: str
    pidfd: int
    held: dict[str, _Held] = field(default_factory=dict)  # by entry
    refused: dict[str, tuple[Entry, float]] = field(default_factory=dict)  # by entry; and when to ask again
    lock: asyncio.Lock = field(default_factory=asyncio.Lock)
    key: InstanceKey | None = None  # made when a WIT-SVID is asked for
    wit_lock: asyncio.Lock = field(default_factory=asyncio.Lock)

    def svids(self) -> Mapping[str, X509Svid]:
        """Return the SVIDs by entry."""
        return {entry_id: held.svid for entry_id, held in self.held.items()}

    def due(self) -> float | None:
        """Return when to ask the issuer next, on the monotonic clock."""
        again = (when for _, when in self.refused.values())
        return min((*(held.due for held in self.held.values()), *again), default=None)


class Instances:
    """See the module. Used from one event loop."""

    def __init__(
        self, client: IssuerClient, cache: Cache, clock: Clock, *, limit: int = MAX_INSTANCES
    ) -> None:
        self._client = client
        self._cache = cache
        self._clock = clock
        self._limit = limit
        self._boot_id = _BOOT_ID.read_text().strip()
        self._instances: OrderedDict[tuple[int, int], Instance] = OrderedDict()
        self.issued = 0  # SVIDs that were taken up from the issuer

    def __len__(self) -> int:
        return len(self._instances)

    def of(self, process: Process, examination: Examination) -> Instance:
        """Return the instance that a living process is.

        Raises:
            PeerGoneError: It has exited.
        """
        key = (process.pid, process.birth()[1])
        process.require_alive()  # what was read was its own
        instance = self._instances.get(key)
        if instance is None:
            pidfd = os.dup(process.peer.pidfd)
            instance = Instance(self._new_uid(*key, examination), pidfd)
            self._instances[key] = instance
            asyncio.get_running_loop().add_reader(pidfd, self._drop, key)
            while len(self._instances) > self._limit:
                self._drop(next(iter(self._instances)))
        self._instances.move_to_end(key)
        return instance

    def _drop(self, key: tuple[int, int]) -> None:
        """Forget an instance: its keys go with it."""
        instance = self._instances.pop(key, None)
        if instance is not None:
            asyncio.get_running_loop().remove_reader(instance.pidfd)
            os.close(instance.pidfd)
            instance.held.clear()
            instance.refused.clear()
            instance.key = None

    def drop_taken_back(self) -> None:
        """Forget the SVIDs that are taken back; what may be replaced is asked for when it is wanted again."""
        for instance in self._instances.values():
            for entry_id, held in tuple(instance.held.items()):
                if reason := self._cache.taken_back.reason(held.svid):
                    logger.warning("SVID taken back", extra={"instance": instance.uid, "reason": reason})
                    del instance.held[entry_id]

    def close(self) -> None:
        """Forget all."""
        for key in list(self._instances):
            self._drop(key)

    def _new_uid(self, pid: int, start_ticks: int, examination: Examination) -> str:
        node = self._client.credentials.svid
        container = examination.container
        parts = (
            str(node.spiffe_id) if node is not None else "",
            self._boot_id,
            str(pid),
            str(start_ticks),
            container.id if container is not None else "",
            secrets.token_hex(16),
        )
        digest = hashlib.sha256("\0".join(parts).encode()).digest()
        return base64.b32encode(digest).decode("ascii").lower()[:26]

    async def ensure(
        self, instance: Instance, process: Process, examination: Examination, entries: Iterable[Entry]
    ) -> None:
        """Have an SVID of this process for each entry that the issuer grants it.

        What could not be renewed stays while it is valid; what was refused is gone.

        Raises:
            IssuerUnavailableError: The issuer cannot be asked, and an SVID is missing.
        """
        async with instance.lock:
            wanted = {entry.id: entry for entry in entries}
            for gone in [key for key in instance.held if not _is_for(instance.held[key], wanted.get(key))]:
                del instance.held[gone]
            instance.refused = {
                key: refusal for key, refusal in instance.refused.items() if wanted.get(key) == refusal[0]
            }
            self._replace_tainted(instance)
            needed = [entry for entry in wanted.values() if self._is_due(instance, entry)]
            if not needed:
                return
            try:
                await self._issue(instance, needed, evidence_of(instance.uid, process, examination))
            except AttestorError as error:
                now, later = self._clock.now(), self._clock.monotonic() + ASK_AGAIN
                for entry in needed:
                    held = instance.held.get(entry.id)
                    if held is None or not in_force(held.svid, now):
                        raise IssuerUnavailableError(f"no SVID for this process: {error}") from error
                    held.due = later

    def _replace_tainted(self, instance: Instance) -> None:
        """Let what a tainted authority signed be due now, once."""
        for held in instance.held.values():
            if not held.tainted and held.authority in self._cache.tainted:
                held.tainted, held.due = True, self._clock.monotonic()

    def _is_due(self, instance: Instance, entry: Entry) -> bool:
        now = self._clock.monotonic()
        if entry.id in instance.refused:
            return now >= instance.refused[entry.id][1]
        held = instance.held.get(entry.id)
        if held is None or now >= held.due:
            return True
        return held.agreed and not in_force(held.svid, self._clock.now())

    async def _issue(self, instance: Instance, entries: list[Entry], evidence: Evidence) -> None:
        keys = {entry.id: new_key() for entry in entries}
        requests = [(entry.id, make_csr(keys[entry.id])) for entry in entries]
        chains = await self._client.new_x509_svids(requests, evidence)
        for entry in entries:
            instance.held.pop(entry.id, None)
            instance.refused.pop(entry.id, None)
            # If withheld, the issuer may not have seen yet what we saw, a pod that has just started, say.
            refusal = (entry, self._clock.monotonic() + REFUSED_FOR)
            if entry.id not in chains:
                instance.refused[entry.id] = refusal
                continue
            der = private_key_to_der(keys[entry.id])
            try:
                svid = X509Svid.parse(b"".join(chains[entry.id]), der, hint=entry.hint)
            except SpiffeError as error:
                raise IssuerUnavailableError(f"issuer's SVID cannot be used: {error}") from error
            if svid.spiffe_id != entry.spiffe_id:
                raise IssuerUnavailableError(f"issuer's SVID is for {svid.spiffe_id} and not the entry's ID")
            if reason := self._cache.taken_back.reason(svid):  # while it was under way
                logger.warning("SVID taken back", extra={"instance": instance.uid, "reason": reason})
                instance.refused[entry.id] = refusal
                continue
            now = self._clock.now()
            authority = authority_of(svid)
            tainted = authority in self._cache.tainted  # the issuer signs with it still
            due = self._clock.monotonic() + (REFUSED_FOR if tainted else renewal_in(svid, now))
            self.issued += 1
            instance.held[entry.id] = _Held(
                entry.revision, svid, due, agrees(svid, now), authority=authority, tainted=tainted
            )


def _is_for(held: _Held, entry: Entry | None) -> bool:
    return entry is not None and (held.revision, held.svid.spiffe_id) == (entry.revision, entry.spiffe_id)


def evidence_of(uid: str, process: Process, examination: Examination) -> Evidence:
    """Return the evidence of one process, as it was examined.

    Raises:
        PeerGoneError: It has exited.
    """
    executable: Executable = process.executable()
    facts = ProcessFacts(
        pid=process.pid,
        start_ticks=process.birth()[1],
        uid=process.peer.uid,
        gid=process.peer.gid,
        executable=examination.stated("unix", "path"),
        device=executable[0],
        inode=executable[1],
        sha256=examination.stated("unix", "sha256"),
    )
    above = ancestors(process.proc)
    process.require_alive()
    return Evidence(
        id=secrets.token_bytes(16),
        instance_uid=uid,
        collected_at=examination.collected_at,
        selectors=examination.selectors,
        process=facts,
        ancestors=above,
        container=examination.container,
        pod=examination.pod,
    )

# SPDX-License-Identifier: Apache-2.0
"""Seal the audit trail: every second what was recorded goes into a transparency log with a signed head.

The log follows the database and never leads it. Whoever changes the database afterwards contradicts the log;
whoever changes both contradicts every checkpoint that left the machine.
"""

import asyncio
import logging
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import Final, NoReturn

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from issuer.errors import AuditLogError, StoreError
from issuer.governance.cosigning import Witnesses
from issuer.governance.log_files import LogFiles
from issuer.store import Database
from spiffekit.daemon.clock import Clock
from spiffekit.daemon.config import ConfigError
from spiffekit.daemon.key_files import KeyFiles, read_passphrase
from spiffekit.errors import SpiffeError
from spiffekit.transparency.merkle import leaf_hash
from spiffekit.transparency.notes import Checkpoint, KeyUse, Note, Signer, open_checkpoint
from spiffekit.transparency.tiles import (
    ENTRIES,
    WIDTH,
    TileReader,
    TreeBuilder,
    changed_entries,
    decode_entries,
    encode_entries,
    tile_at,
)

logger = logging.getLogger(__name__)

EVERY: Final = timedelta(seconds=1)
BATCH: Final = 1024  # events between two checkpoints while there are many
GRACE: Final = timedelta(minutes=1)  # that the log may lag before nothing is recorded any more
_KEY: Final = "log"


def load_signer(
    name: str, folder: Path, passphrase_file: Path | None = None, use: KeyUse = KeyUse.NOTE
) -> Signer:
    """Return the key of a log, or of a witness; it is made at the first start.

    Raises:
        ConfigError: It cannot be read or written.
    """
    try:
        files = KeyFiles(folder, read_passphrase(passphrase_file))
        key = files.load(_KEY)
        if key is None:
            key = Ed25519PrivateKey.generate()
            files.save(_KEY, key)
    except OSError as error:
        raise ConfigError(f"audit: {error.filename}: {error.strerror}") from error
    except (ConfigError, SpiffeError) as error:
        raise ConfigError(f"audit: key of the log in {folder}: {error}") from error
    if not isinstance(key, Ed25519PrivateKey):
        raise ConfigError(f"audit: key of the log in {folder} is not of Ed25519")
    return Signer(name, key, use)


class AuditLog:
    """The service that seals the trail. While it cannot, and has to, nothing is recorded, so nothing done."""

    def __init__(
        self,
        database: Database,
        files: LogFiles,
        signer: Signer,
        clock: Clock,
        *,
        required: bool,
        witnesses: Witnesses | None = None,
    ) -> None:
        self._database = database
        self._files = files
        self._signer = signer
        self._clock = clock
        self._required = required
        self._witnesses = witnesses
        self._tree: TreeBuilder | None = None  # None: to be taken up from the files
        self._tail: list[bytes] = []  # the entries of the last, unfinished bundle
        self._failing_since: float | None = None
        self.sealed = -1  # events; -1 while there is no checkpoint

    @property
    def failing(self) -> bool:
        """Whether the trail cannot be sealed now."""
        return self._failing_since is not None

    async def run(self, ready: Callable[[], None]) -> NoReturn:
        """Seal every second."""
        await self.seal()
        logger.info("audit log is open", extra={"key": str(self._signer.key), "size": self.sealed})
        ready()
        while True:
            await self._clock.sleep(EVERY)
            sealing = asyncio.create_task(self.seal())
            try:
                await asyncio.shield(sealing)
            finally:
                # Half of it would leave a tree ahead of its files, and a thread that still writes them, to
                # whoever seals once more when the issuer stops.
                await sealing

    async def seal(self) -> None:
        """Seal what was recorded since; whether that went well decides what may be recorded from now on."""
        try:
            while await self._seal_some():
                pass
        except (AuditLogError, SpiffeError) as error:
            self._fail(str(error), at_once=True)
        except (StoreError, OSError) as error:
            self._fail(str(error), at_once=False)
        else:
            if self._failing_since is not None:
                logger.warning("audit log is sealed again", extra={"size": self.sealed})
            self._failing_since = None
            self._database.refuse_records("")

    def _fail(self, reason: str, *, at_once: bool) -> None:
        self._tree = None
        now = self._clock.monotonic()
        if self._failing_since is None:
            self._failing_since = now
            logger.critical("audit log cannot be sealed", extra={"reason": reason})
        if self._required and (at_once or now - self._failing_since >= GRACE.total_seconds()):
            self._database.refuse_records(f"the audit log cannot be sealed: {reason}")

    async def _seal_some(self) -> bool:
        """Seal one batch; return whether there may be more."""
        taken_up = self._tree is None
        if self._tree is None:
            self._tree = await self._take_up()
        tree, start = self._tree, self._tree.size
        last, rows = await self._database.read(lambda tx: (tx.audit.last(), tx.audit.leaves(start, BATCH)))
        _check_not_behind(last, start)
        for number, (sequence, leaf) in enumerate(rows, start + 1):
            if sequence != number:
                raise AuditLogError(f"event {number} is missing in the database")
            tree.append(leaf_hash(leaf))
            self._tail.append(leaf)
            if not number % WIDTH:
                await asyncio.sleep(0)  # calls get their turn
        if rows or taken_up:  # witnesses may know more of what was taken up than we do
            await self._publish(tree, start)
        return len(rows) == BATCH

    async def _publish(self, tree: TreeBuilder, old: int) -> None:
        head = Checkpoint(self._signer.key.name, tree.size, tree.root())
        note = Note(head.text, (self._signer.sign(head.text, now=self._clock.now()),))
        base = old - old % WIDTH
        bundles = [
            (tile, encode_entries(self._tail[tile.index * WIDTH - base :][: tile.width]))
            for tile in changed_entries(old, tree.size)
        ]
        tiles = bundles + tree.take_tiles()
        await asyncio.to_thread(self._files.write, tiles)
        if self._witnesses is not None:
            # They are asked before anybody else sees the head, so that what is published they have seen.
            note = await self._witnesses.cosign(head, note, TileReader(head.size, self._files.read).hash_at)
        await asyncio.to_thread(self._files.publish, note.encode())
        await asyncio.to_thread(self._files.forget_partials, tiles)
        del self._tail[: tree.size - tree.size % WIDTH - base]
        self.sealed = tree.size

    async def _take_up(self) -> TreeBuilder:
        """Return the tree that was published last, with files and database held against its checkpoint."""
        note = await asyncio.to_thread(self._files.checkpoint)
        self._tail, self.sealed = [], -1
        if note is None:
            logger.warning("audit log is begun", extra={"folder": str(self._files.folder)})
            return TreeBuilder()
        head = open_checkpoint(note, self._signer.key)
        tree = await asyncio.to_thread(TreeBuilder.load, head.size, self._files.read)
        if tree.root() != head.root:
            raise AuditLogError(f"the tiles of {self._files.folder} are not those of its checkpoint")
        self.sealed = head.size
        if head.size:
            await self._hold_against_database(head.size)
        return tree

    async def _hold_against_database(self, size: int) -> None:
        """Check that the database has the events of the last bundle, and keep those of an unfinished one."""
        bundle = tile_at(ENTRIES, (size - 1) // WIDTH, size)
        entries = decode_entries(await asyncio.to_thread(self._files.read, bundle), bundle.width)
        first = bundle.index * WIDTH
        last, rows = await self._database.read(
            lambda tx: (tx.audit.last(), tx.audit.leaves(first, bundle.width))
        )
        _check_not_behind(last, size)
        if [leaf for _, leaf in rows] != entries:
            raise AuditLogError(f"events {first + 1} to {size} of the database are not those of the log")
        self._tail = entries if bundle.width < WIDTH else []


def _check_not_behind(last: int, sealed: int) -> None:
    if last < sealed:
        raise AuditLogError(f"the database has {last} events and the log {sealed}: it was rolled back")

# SPDX-License-Identifier: Apache-2.0
"""A witness of logs: it cosigns a checkpoint only if the log still begins as it did (C2SP tlog-witness).

It runs on another host than the issuer, so that whoever rewrites a log has to take over both.
"""

import asyncio
import hashlib
from collections.abc import Iterable
from http import HTTPStatus
from pathlib import Path
from typing import Final

from spiffekit.daemon.clock import Clock
from spiffekit.daemon.http_server import NOT_FOUND, Reply
from spiffekit.daemon.key_files import write_private
from spiffekit.errors import LogFormatError, LogMismatchError
from spiffekit.transparency.merkle import EMPTY_ROOT
from spiffekit.transparency.notes import MAX_NOTE, Checkpoint, Note, Signer, VerifierKey, open_checkpoint
from spiffekit.transparency.proofs import AddCheckpoint

ADD: Final = "/add-checkpoint"
MAX_BODY: Final = MAX_NOTE + 64 * 64  # bytes: a checkpoint, and 63 hashes
SIZE_TYPE: Final = "text/x.tlog.size"


def kept_at(origin: str) -> str:
    """Return the target at which a witness shows the last checkpoint of a log that it has cosigned."""
    return f"/{hashlib.sha256(origin.encode()).hexdigest()}/checkpoint"


class Witness:
    """Knows some logs by their keys, and of each the last checkpoint that it has cosigned, in a file.

    Args:
        folder: Where those files are.
        signer: Its own key, for cosignatures.
        logs: The keys of the logs; the name of a key is the log's origin.
    """

    def __init__(self, folder: Path, signer: Signer, logs: Iterable[VerifierKey], clock: Clock) -> None:
        self._folder = folder
        self._signer = signer
        self._logs = {key.name: key for key in logs}
        self._clock = clock
        self._one_at_a_time = asyncio.Lock()  # else of two requests the smaller could be kept last

    def check(self) -> None:
        """Check what is kept of every log.

        Raises:
            LogFormatError: A file is malformed.
            LogMismatchError: A file is not one that we and the log have signed.
        """
        for key in self._logs.values():
            self._kept(key)

    def show(self, target: str) -> Reply:
        """Answer a GET request: the last checkpoint of a log."""
        for origin in self._logs:
            if target == kept_at(origin) and (path := self._path(origin)).exists():
                return Reply(path.read_bytes())
        return NOT_FOUND

    async def take(self, target: str, body: bytes) -> Reply:
        """Answer a POST request: cosign a checkpoint, or say why not."""
        if target != ADD:
            return NOT_FOUND
        async with self._one_at_a_time:
            return await asyncio.to_thread(self._add, body)

    def _add(self, body: bytes) -> Reply:
        """Judge a request in the order of tlog-witness, add-checkpoint."""
        try:
            asked = AddCheckpoint.parse(body)
            note = asked.note
            new = Checkpoint.parse(note.text)
        except LogFormatError as error:
            return _refused(HTTPStatus.BAD_REQUEST, error)
        key = self._logs.get(new.origin)
        if key is None:
            return NOT_FOUND
        try:
            note.verified_by([key])
        except LogMismatchError as error:
            return _refused(HTTPStatus.FORBIDDEN, error)
        if asked.old_size > new.size:
            return _refused(HTTPStatus.BAD_REQUEST, "old size is larger than that of the checkpoint")
        kept = self._kept(key)
        if asked.old_size != kept.size:
            return Reply(f"{kept.size}\n".encode(), SIZE_TYPE, HTTPStatus.CONFLICT)
        try:
            asked.verify(kept.root, new)
            if not new.size and new.root != EMPTY_ROOT:
                raise LogMismatchError("root of a log without entries is another one")
        except LogMismatchError as error:
            return _refused(HTTPStatus.UNPROCESSABLE_ENTITY, error)
        signature = self._signer.sign(new.text, now=self._clock.now())
        logs = tuple(s for s in note.signatures if (s.name, s.key_id) == (key.name, key.id))
        write_private(self._path(new.origin), Note(new.text, (*logs[:1], signature)).encode())
        return Reply(str(signature).encode())

    def _kept(self, key: VerifierKey) -> Checkpoint:
        try:
            data = self._path(key.name).read_bytes()
        except FileNotFoundError:
            return Checkpoint(key.name, 0, EMPTY_ROOT)
        return open_checkpoint(data, key, [self._signer.key])

    def _path(self, origin: str) -> Path:
        return self._folder / f"{hashlib.sha256(origin.encode()).hexdigest()}.checkpoint"


def _refused(status: HTTPStatus, reason: object) -> Reply:
    return Reply(f"{reason}\n".encode(), status=status)

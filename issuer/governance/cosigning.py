# SPDX-License-Identifier: Apache-2.0
"""Ask witnesses to cosign the audit log (C2SP tlog-witness), and believe none of them without evidence."""

import asyncio
import logging
import ssl
from collections.abc import Sequence
from datetime import timedelta
from typing import Final
from urllib.parse import urlsplit

from issuer.errors import AuditLogError
from issuer.governance.witness import ADD, kept_at
from spiffekit.daemon.backoff import Backoff
from spiffekit.daemon.clock import Clock
from spiffekit.daemon.http import HttpError, Peer, request
from spiffekit.errors import LogFormatError, SpiffeError
from spiffekit.transparency.merkle import ReadHash, consistency_proof, tree_root
from spiffekit.transparency.notes import (
    MAX_NOTE,
    Checkpoint,
    Note,
    Signature,
    VerifierKey,
    decode_number,
    open_checkpoint,
    parse_signatures,
)
from spiffekit.transparency.proofs import AddCheckpoint

logger = logging.getLogger(__name__)

WITHIN: Final = 3.0  # seconds for one answer: the log waits for it
_OK, _CONFLICT, _UNPROCESSABLE = 200, 409, 422


class WitnessError(Exception):
    """A witness did not cosign, and did not show why it should not."""


def _peer_of(url: str) -> tuple[Peer, str]:
    """Return whom to ask, and the path that its targets begin with."""
    parts = urlsplit(url)
    secure = parts.scheme == "https"
    context = ssl.create_default_context() if secure else None
    return Peer(parts.hostname or "", parts.port or (443 if secure else 80), context), parts.path.rstrip("/")


class RemoteWitness:
    """One witness. `log` is the key of the log that it is asked about."""

    def __init__(self, url: str, key: VerifierKey, log: VerifierKey) -> None:
        self._peer, self._prefix = _peer_of(url)
        self.key = key
        self._log = log
        self._size = 0  # of the checkpoint that it cosigned last; it tells if that is wrong

    async def cosign(self, head: Checkpoint, note: Note, read: ReadHash) -> Signature:
        """Return its signature on a checkpoint.

        Raises:
            WitnessError: It cannot be asked, refuses, or answers nonsense.
            AuditLogError: It has shown, signed with our own key, that the log does not begin as it did.
        """
        for _ in range(2):  # the first answer may be which size it knows
            status, answer = await self._add(head, note, read)
            if status == _OK:
                return self._verified(answer, head, note)
            if status == _UNPROCESSABLE:
                break
            if status != _CONFLICT:
                raise WitnessError(f"answered {status}: {answer[:200]!r}")
            self._size = _number(answer)
            if self._size > head.size:
                self._size = 0
                break
        await self._contradiction(head, read)
        raise WitnessError(f"does not cosign {head.size} entries, and shows no reason")

    async def _add(self, head: Checkpoint, note: Note, read: ReadHash) -> tuple[int, bytes]:
        proof = tuple(consistency_proof(read, self._size, head.size))
        body = AddCheckpoint(self._size, proof, note.encode()).encode()
        return await self._ask("POST", ADD, body)

    async def _ask(self, method: str, target: str, body: bytes = b"") -> tuple[int, bytes]:
        try:
            async with (
                asyncio.timeout(WITHIN),
                request(self._peer, method, self._prefix + target, body=body) as answer,
            ):
                return answer.status, await answer.body(MAX_NOTE)
        except (HttpError, TimeoutError) as error:
            raise WitnessError(str(error) or f"no answer within {WITHIN} s") from error

    def _verified(self, answer: bytes, head: Checkpoint, note: Note) -> Signature:
        try:
            found = [
                signature
                for signature in parse_signatures(answer.decode())
                if (signature.name, signature.key_id) == (self.key.name, self.key.id)
            ]
            Note(note.text, tuple(found)).verified_by([self.key])
        except (SpiffeError, UnicodeDecodeError) as error:
            raise WitnessError(f"cosigned in a way that does not verify: {error}") from error
        self._size = head.size
        return found[0]

    async def _contradiction(self, head: Checkpoint, read: ReadHash) -> None:
        """Raise an AuditLogError if the checkpoint that the witness keeps is ours and contradicts the log."""
        _, answer = await self._ask("GET", kept_at(head.origin))
        try:
            kept = open_checkpoint(answer, self._log, [self.key])
        except SpiffeError as error:
            raise WitnessError(f"refuses, and what it keeps is not signed: {error}") from error
        if kept.size > head.size:
            raise AuditLogError(
                f"witness {self.key.name} has cosigned {kept.size} events and the log has {head.size}: "
                "it was rolled back"
            )
        if tree_root(read, kept.size) != kept.root:
            raise AuditLogError(
                f"witness {self.key.name} has cosigned other {kept.size} events: the log was rewritten"
            )
        self._size = kept.size


def _number(answer: bytes) -> int:
    try:
        return decode_number(answer.decode("ascii").removesuffix("\n"), what="size")
    except (LogFormatError, UnicodeDecodeError) as error:
        raise WitnessError(f"knows a size that is no number: {answer[:80]!r}") from error


class Witnesses:
    """All witnesses of a log. One that fails is left alone for a while, and holds nothing up."""

    def __init__(self, witnesses: Sequence[RemoteWitness], clock: Clock) -> None:
        self._witnesses = witnesses
        self._clock = clock
        self._backoff = {
            witness.key: Backoff(timedelta(seconds=1), timedelta(minutes=1), factor=2)
            for witness in witnesses
        }
        self._not_before: dict[VerifierKey, float] = {}
        self.cosigned = 0  # how many cosigned last time

    async def cosign(self, head: Checkpoint, note: Note, read: ReadHash) -> Note:
        """Return the note with the signatures of the witnesses that cosigned.

        Raises:
            AuditLogError: One of them has shown that the log does not begin as it did.
        """
        answers = await asyncio.gather(
            *(self._ask(witness, head, note, read) for witness in self._witnesses), return_exceptions=True
        )
        for answer in answers:
            if isinstance(answer, BaseException):
                raise answer
        found = tuple(answer for answer in answers if isinstance(answer, Signature))
        self.cosigned = len(found)
        return Note(note.text, (*note.signatures, *found))

    async def _ask(
        self, witness: RemoteWitness, head: Checkpoint, note: Note, read: ReadHash
    ) -> Signature | None:
        now = self._clock.monotonic()
        if now < self._not_before.get(witness.key, now):
            return None
        try:
            signature = await witness.cosign(head, note, read)
        except WitnessError as error:
            self._not_before[witness.key] = now + self._backoff[witness.key].next().total_seconds()
            logger.warning(
                "witness does not cosign", extra={"witness": witness.key.name, "reason": str(error)}
            )
            return None
        self._backoff[witness.key].reset()
        return signature

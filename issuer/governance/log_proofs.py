# SPDX-License-Identifier: Apache-2.0
"""Prove events, and judge what stands in a log: from its files alone."""

import json
from typing import Final

from issuer.errors import FailedPreconditionError
from issuer.governance.log_files import LogFiles
from spiffekit.errors import LogFormatError, LogMismatchError
from spiffekit.transparency.merkle import inclusion_proof, leaf_hash
from spiffekit.transparency.notes import Checkpoint, VerifierKey, open_checkpoint
from spiffekit.transparency.proofs import Proof
from spiffekit.transparency.tiles import ENTRIES, WIDTH, TileReader, TreeBuilder, decode_entries, tile_at

NOT_SEALED: Final = "is not sealed in the log yet: try again in a second"


def prove(files: LogFiles, key: VerifierKey, sequence: int) -> Proof:
    """Return the proof that an event is in a log. It has been verified, too.

    Raises:
        FailedPreconditionError: The log does not have it yet.
        LogFormatError: A file is missing or malformed.
        LogMismatchError: The files are not what the checkpoint stands for.
    """
    note = files.checkpoint()
    head = None if note is None else open_checkpoint(note, key)
    if note is None or head is None or sequence > head.size:
        raise FailedPreconditionError(f"event {sequence} {NOT_SEALED}")
    index = sequence - 1
    bundle = tile_at(ENTRIES, index // WIDTH, head.size)
    entry = decode_entries(files.read(bundle), bundle.width)[index % WIDTH]
    hashes = inclusion_proof(TileReader(head.size, files.read).hash_at, index, head.size)
    proof = Proof(index, tuple(hashes), note, entry)
    proof.verify(entry, key)
    return proof


def check_event(index: int, entry: bytes) -> None:
    """Check that an entry is an event, with the number of its place.

    Raises:
        LogFormatError: It is no JSON object.
        LogMismatchError: Its number is another one.
    """
    try:
        sequence = json.loads(entry)["seq"]
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise LogFormatError(f"entry {index} of the log is no event") from error
    if sequence != index + 1:
        raise LogMismatchError(f"entry {index} of the log is event {sequence!r:.20}")


class EventCheck:
    """Checks events that come one after the other against a checkpoint, and an earlier one on the way.

    Each of its methods raises a LogFormatError for what is no event, and a LogMismatchError for one that is
    missing, changed or out of place, and for a log that does not follow from the earlier checkpoint.
    """

    def __init__(self, head: Checkpoint, earlier: Checkpoint | None = None) -> None:
        if earlier is not None and earlier.size > head.size:
            raise LogMismatchError(f"the log has {head.size} entries, and had {earlier.size} before")
        self._head = head
        self._earlier = earlier
        self._tree = TreeBuilder()
        self._meet()

    def add(self, entry: bytes) -> None:
        """Take the next event."""
        check_event(self._tree.size, entry)
        self._tree.append(leaf_hash(entry))
        self._meet()

    def _meet(self) -> None:
        earlier = self._earlier
        if earlier is not None and earlier.size == self._tree.size and earlier.root != self._tree.root():
            raise LogMismatchError(
                f"the first {earlier.size} entries are not those of the earlier checkpoint"
            )

    def finish(self) -> None:
        """Say that there are no more."""
        if self._tree.size != self._head.size:
            raise LogMismatchError(f"there are {self._tree.size} of {self._head.size} events")
        if self._tree.root() != self._head.root:
            raise LogMismatchError(f"the {self._head.size} events do not hash to the root of the checkpoint")

# SPDX-License-Identifier: Apache-2.0
"""What a log hands to others: proofs that check offline (C2SP tlog-proof), requests to witnesses."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final, Self

from spiffekit.errors import LogFormatError
from spiffekit.transparency.merkle import MAX_PROOF, leaf_hash, verify_consistency, verify_inclusion
from spiffekit.transparency.notes import (
    MAX_NOTE,
    Checkpoint,
    Note,
    VerifierKey,
    decode64,
    decode_hash,
    decode_number,
    encode64,
    open_checkpoint,
)
from spiffekit.transparency.tiles import MAX_ENTRY

MAX_TEXT: Final = 2 * MAX_ENTRY + MAX_NOTE  # bytes of a proof: an entry in base64, 63 hashes, a checkpoint
_PROOF: Final = "c2sp.org/tlog-proof@v1"


@dataclass(frozen=True, slots=True)
class Proof:
    """That an entry is in a log: it checks offline, by the public keys of the log and of its witnesses."""

    index: int
    hashes: tuple[bytes, ...]
    checkpoint: bytes  # the signed note
    extra: bytes | None = None  # here: the entry itself

    @classmethod
    def parse(cls, data: bytes) -> Self:
        """Parse a tlog-proof. This does not verify it.

        Raises:
            LogFormatError: It is malformed, or too long.
        """
        first, lines, checkpoint = _head(data)
        extra = None
        if first != _PROOF:
            raise LogFormatError(f"proof does not begin with {_PROOF!r}")
        if lines and lines[0].startswith("extra "):
            extra = decode64(lines.pop(0).removeprefix("extra "), what="extra")
        if not lines or not lines[0].startswith("index "):
            raise LogFormatError("proof has no index")
        index = decode_number(lines.pop(0).removeprefix("index "), what="index")
        return cls(index, _hashes(lines), checkpoint, extra)

    def encode(self) -> bytes:
        """Return the proof as a file has it."""
        lines = [_PROOF, f"index {self.index}", *map(encode64, self.hashes), ""]
        if self.extra is not None:
            lines.insert(1, f"extra {encode64(self.extra)}")
        return "\n".join([*lines, ""]).encode() + self.checkpoint

    def verify(self, entry: bytes, log: VerifierKey, witnesses: Sequence[VerifierKey] = ()) -> Checkpoint:
        """Check that `entry` is in the log, and that every one of the witnesses given has seen it there.

        1. The leaf hash is that of the entry.
        2. The checkpoint is of this log, and signed by its key.
        3. Each of the witnesses cosigned it.
        4. The hashes lead from the leaf to the root.

        Raises:
            LogFormatError: The checkpoint is malformed.
            LogMismatchError: One of the above does not hold.
        """
        checkpoint = open_checkpoint(self.checkpoint, log, witnesses)  # 2, 3
        leaf = leaf_hash(entry)  # 1
        verify_inclusion(leaf, self.index, checkpoint.size, self.hashes, root=checkpoint.root)  # 4
        return checkpoint


@dataclass(frozen=True, slots=True)
class AddCheckpoint:
    """The request that a witness cosign a checkpoint, which follows from one that it has cosigned.

    C2SP tlog-witness, add-checkpoint.
    """

    old_size: int
    hashes: tuple[bytes, ...]
    checkpoint: bytes  # the signed note

    @classmethod
    def parse(cls, data: bytes) -> Self:
        """Parse the body of a request. This does not verify it.

        Raises:
            LogFormatError: It is malformed, or too long.
        """
        first, lines, checkpoint = _head(data)
        if not first.startswith("old "):
            raise LogFormatError("request does not begin with the old size")
        return cls(decode_number(first.removeprefix("old "), what="old size"), _hashes(lines), checkpoint)

    def encode(self) -> bytes:
        """Return the body of the request."""
        lines = [f"old {self.old_size}", *map(encode64, self.hashes), ""]
        return "\n".join([*lines, ""]).encode() + self.checkpoint

    @property
    def note(self) -> Note:
        """The checkpoint, of which nothing is verified."""
        return Note.parse(self.checkpoint)

    def verify(self, old_root: bytes, new: Checkpoint) -> None:
        """Check that `new`, whose signature you have verified, follows from the checkpoint of `old_size`.

        Raises:
            LogMismatchError: It does not.
        """
        verify_consistency(self.old_size, new.size, self.hashes, old_root=old_root, new_root=new.root)


def _head(data: bytes) -> tuple[str, list[str], bytes]:
    """Return the first line, the others before the first empty line, and the bytes after it."""
    head, separator, rest = data.partition(b"\n\n")
    if len(data) > MAX_TEXT or not separator or not head.isascii():
        raise LogFormatError(f"no empty line before a checkpoint, no ASCII, or more than {MAX_TEXT} bytes")
    first, *lines = head.decode().split("\n")
    return first, lines, rest


def _hashes(lines: Sequence[str]) -> tuple[bytes, ...]:
    if len(lines) > MAX_PROOF:
        raise LogFormatError(f"proof has more than {MAX_PROOF} hashes")
    return tuple(decode_hash(line, what="proof") for line in lines)

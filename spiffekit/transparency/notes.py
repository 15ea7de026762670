# SPDX-License-Identifier: Apache-2.0
"""Signed heads of a log: C2SP signed-note, tlog-checkpoint and tlog-cosignature, with Ed25519 keys.

A note is text, an empty line, and signature lines of a key's name and base64 of its ID and signature.
"""

import base64
import binascii
import hashlib
import re
import unicodedata
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from enum import IntEnum
from typing import Final, NamedTuple, Self

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

from spiffekit.errors import LogFormatError, LogMismatchError
from spiffekit.transparency.merkle import HASH, MAX_SIZE

MAX_NOTE: Final = 64 * 1024  # bytes: room for signatures of kinds that we do not know
MAX_SIGNATURES: Final = 64  # lines; signed-note asks for at least 16
MAX_NAME: Final = 255  # bytes of a key's name or an origin
_DASH: Final = "\u2014 "  # em dash, space
_KEY: Final = 32  # bytes of an Ed25519 public key
_NUMBER: Final = re.compile(r"0|[1-9][0-9]{0,18}", re.ASCII)
_KEY_ID: Final = re.compile(r"[0-9a-f]{8}", re.ASCII)


class KeyUse(IntEnum):
    """What a key signs; the numbers are signed-note's signature types."""

    NOTE = 1  # the text of the note
    COSIGNATURE = 4  # a checkpoint and the time at which it was the largest that the witness saw


def encode64(data: bytes) -> str:
    """Return standard base64 with padding, RFC 4648 §4."""
    return base64.b64encode(data).decode()


def decode64(text: str, *, what: str) -> bytes:
    """Decode base64 that stands in its one canonical form.

    Raises:
        LogFormatError: It does not; `what` names it.
    """
    try:
        data = base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError) as error:
        raise LogFormatError(f"{what}: {text[:80]!r} is not base64") from error
    if encode64(data) != text:
        raise LogFormatError(f"{what}: {text[:80]!r} is not canonical base64")
    return data


def decode_hash(text: str, *, what: str) -> bytes:
    """Decode a hash in base64.

    Raises:
        LogFormatError: It is none; `what` names it.
    """
    data = decode64(text, what=what)
    if len(data) != HASH:
        raise LogFormatError(f"{what}: has {len(data)} bytes instead of {HASH}")
    return data


def decode_number(text: str, *, what: str) -> int:
    """Decode a decimal number without leading zeros, up to 2**63 - 1.

    Raises:
        LogFormatError: It is none; `what` names it.
    """
    if not _NUMBER.fullmatch(text) or int(text) > MAX_SIZE:
        raise LogFormatError(f"{what}: {text[:80]!r} is no number")
    return int(text)


def check_name(name: str) -> str:
    """Return the name of a key, or raise `LogFormatError`: no space, no plus, nothing that is not shown."""
    if not 0 < len(name.encode("utf-8", "replace")) <= MAX_NAME:
        raise LogFormatError(f"key name {name[:80]!r} has not 1 to {MAX_NAME} bytes")
    if "+" in name or any(unicodedata.category(character)[0] in "CZ" for character in name):
        raise LogFormatError(f"key name {name[:80]!r} has a space, a plus or a control character")
    return name


@dataclass(frozen=True, slots=True)
class VerifierKey:
    """A public key with its name and use: signed-note's "vkey". `str` gives the text that `parse` reads."""

    name: str
    public_key: bytes  # 32 bytes, RFC 8032
    use: KeyUse = KeyUse.NOTE

    @classmethod
    def parse(cls, text: str) -> Self:
        """Parse ``<name>+<key ID in hex>+<base64 of use and public key>``.

        Raises:
            LogFormatError: It is malformed, or not of Ed25519.
        """
        name, _, rest = text.partition("+")
        key_id, _, material = rest.partition("+")
        data = decode64(material, what="verifier key")
        if not _KEY_ID.fullmatch(key_id):
            raise LogFormatError(f"verifier key: key ID {key_id[:80]!r} is not 8 hexadecimal digits")
        if len(data) != 1 + _KEY or data[0] not in tuple(KeyUse):
            raise LogFormatError("verifier key: is not of Ed25519, for checkpoints or cosignatures")
        key = cls(check_name(name), data[1:], KeyUse(data[0]))
        if key.id.hex() != key_id:
            raise LogFormatError(f"verifier key: key ID {key_id} is not that of the key, {key.id.hex()}")
        return key

    @property
    def id(self) -> bytes:
        """The 4 bytes that name the key in a signature line."""
        named = self.name.encode() + b"\n" + bytes([self.use]) + self.public_key
        return hashlib.sha256(named).digest()[:4]

    def verify(self, signature: bytes, message: bytes) -> None:
        """Check a signature.

        Raises:
            LogMismatchError: It is not one of this key on `message`.
        """
        try:
            Ed25519PublicKey.from_public_bytes(self.public_key).verify(signature, message)
        except InvalidSignature as error:
            raise LogMismatchError(f"signature of {self.name} does not verify") from error

    def __str__(self) -> str:
        return f"{self.name}+{self.id.hex()}+{encode64(bytes([self.use]) + self.public_key)}"


class Signature(NamedTuple):
    """A signature line. `data` is what follows the key ID."""

    name: str
    key_id: bytes
    data: bytes

    def __str__(self) -> str:
        return f"{_DASH}{self.name} {encode64(self.key_id + self.data)}\n"


@dataclass(frozen=True, slots=True)
class Note:
    """A text and its signatures. You get one by `parse`; nothing is verified by that."""

    text: str
    signatures: tuple[Signature, ...]

    @classmethod
    def parse(cls, data: bytes) -> Self:
        """Parse a signed note. This does not verify any signature.

        Raises:
            LogFormatError: It is malformed, or too long.
        """
        if len(data) > MAX_NOTE:
            raise LogFormatError(f"note of {len(data)} bytes: {MAX_NOTE} are allowed")
        try:
            whole = data.decode()
        except UnicodeDecodeError as error:
            raise LogFormatError("note is not UTF-8") from error
        if any(character < " " and character != "\n" for character in whole):
            raise LogFormatError("note has a control character")
        text, separator, lines = whole.rpartition("\n\n")
        if not separator or not text or not lines:
            raise LogFormatError("note has no text, no empty line or no signature")
        return cls(text + "\n", parse_signatures(lines))

    def encode(self) -> bytes:
        """Return the note as it is sent and stored."""
        return f"{self.text}\n{''.join(map(str, self.signatures))}".encode()

    def verified_by(self, keys: Iterable[VerifierKey]) -> tuple[VerifierKey, ...]:
        """Return the keys that signed; signatures of others are ignored.

        Raises:
            LogMismatchError: None did, or a signature of a known key does not verify.
        """
        known = {(key.name, key.id): key for key in keys}
        found = []
        for signature in self.signatures:
            key = known.get((signature.name, signature.key_id))
            if key is not None:
                _verify(key, signature.data, self.text)
                found.append(key)
        if not found:
            raise LogMismatchError("note is not signed by a known key")
        return tuple(found)


def parse_signatures(lines: str) -> tuple[Signature, ...]:
    """Parse signature lines, each with its newline.

    Raises:
        LogFormatError: They are malformed, or too many.
    """
    if not lines.endswith("\n") or lines.count("\n") > MAX_SIGNATURES:
        raise LogFormatError(f"signatures do not end in a newline, or are more than {MAX_SIGNATURES}")
    return tuple(map(_signature, lines[:-1].split("\n")))


def _signature(line: str) -> Signature:
    if not line.startswith(_DASH):
        raise LogFormatError("signature: the line does not begin with a dash and a space")
    name, _, encoded = line.removeprefix(_DASH).partition(" ")
    data = decode64(encoded, what="signature")
    if len(data) <= 4:
        raise LogFormatError("signature: is shorter than a key ID and a byte")
    return Signature(check_name(name), data[:4], data[4:])


def _verify(key: VerifierKey, data: bytes, text: str) -> None:
    if key.use is KeyUse.NOTE:
        key.verify(data, text.encode())
    else:
        key.verify(data[8:], _cosigned(int.from_bytes(data[:8]), text))


def _cosigned(seconds: int, text: str) -> bytes:
    return f"cosignature/v1\ntime {seconds}\n{text}".encode()


def cosigned_at(signature: Signature) -> datetime:
    """Return the time that a verified cosignature states, whole seconds.

    Raises:
        LogFormatError: It is beyond the calendar.
    """
    try:
        return datetime.fromtimestamp(int.from_bytes(signature.data[:8]), UTC)
    except (ValueError, OverflowError, OSError) as error:
        raise LogFormatError("cosignature: its time is beyond the calendar") from error


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """The head of a log: how many entries it has, and the root of their tree. `text` is what is signed."""

    origin: str
    size: int
    root: bytes

    @classmethod
    def parse(cls, text: str) -> Self:
        """Parse the text of a checkpoint; it has no extension lines, which nobody could audit.

        Raises:
            LogFormatError: It is malformed.
        """
        lines = text.split("\n")
        if len(lines) != 4 or lines[3]:
            raise LogFormatError("checkpoint does not have exactly three lines")
        origin, size, root = lines[:3]
        return cls(
            check_name(origin), decode_number(size, what="tree size"), decode_hash(root, what="root hash")
        )

    @property
    def text(self) -> str:
        """The three lines."""
        return f"{self.origin}\n{self.size}\n{encode64(self.root)}\n"


class Signer:
    """An Ed25519 private key with its name and use."""

    def __init__(self, name: str, private_key: Ed25519PrivateKey, use: KeyUse = KeyUse.NOTE) -> None:
        self._private_key = private_key
        self.key = VerifierKey(check_name(name), private_key.public_key().public_bytes_raw(), use)

    def sign(self, text: str, *, now: datetime) -> Signature:
        """Sign the text of a note; only a cosignature states the time `now`."""
        if self.key.use is KeyUse.NOTE:
            return Signature(self.key.name, self.key.id, self._private_key.sign(text.encode()))
        seconds = int(now.timestamp())
        signed = self._private_key.sign(_cosigned(seconds, text))
        return Signature(self.key.name, self.key.id, seconds.to_bytes(8) + signed)

    def __repr__(self) -> str:
        return f"Signer({self.key.name!r})"


def open_checkpoint(data: bytes, log: VerifierKey, witnesses: Sequence[VerifierKey] = ()) -> Checkpoint:
    """Return the checkpoint of a note that its log and every one of the witnesses given have signed.

    Raises:
        LogFormatError: It is malformed.
        LogMismatchError: It is another log's, or a signature is missing or does not verify.
    """
    note = Note.parse(data)
    missing = {log, *witnesses}.difference(note.verified_by([log, *witnesses]))
    if missing:
        raise LogMismatchError(f"checkpoint is not signed by {min(key.name for key in missing)}")
    checkpoint = Checkpoint.parse(note.text)
    if checkpoint.origin != log.name:
        raise LogMismatchError(f"checkpoint is of {checkpoint.origin!r}, not of {log.name!r}")
    return checkpoint

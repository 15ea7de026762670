# SPDX-License-Identifier: Apache-2.0
"""Files that only we may read: private keys and state, written whole or not at all."""

import contextlib
import fcntl
import os
import secrets
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from cryptography.hazmat.primitives import serialization

from spiffekit.daemon.config import ConfigError
from spiffekit.keys import PrivateKey, private_key_from_pem

FILE_MODE: Final = 0o600
FOLDER_MODE: Final = 0o700


def write_private(path: Path, content: bytes) -> None:
    """Replace a file by another of mode 0600; after a crash it is the old one or the new one, whole."""
    replace_private(path, content)
    sync_folder(path.parent)


def replace_private(path: Path, content: bytes) -> None:
    """Do the same, but that it lasts from when the folder is synced: once for all files of it."""
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(4)}")
    descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, FILE_MODE)
    try:
        with os.fdopen(descriptor, "wb") as file:
            os.fchmod(file.fileno(), FILE_MODE)
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        temporary.rename(path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise


def sync_folder(folder: Path) -> None:
    """Make a rename or removal in `folder` last."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def private_folder(folder: Path) -> Path:
    """Make a folder of mode 0700, or check that an existing one is as strict.

    Raises:
        ConfigError: Others may enter or write it, or it is somebody else's.
    """
    folder.mkdir(mode=FOLDER_MODE, parents=True, exist_ok=True)
    info = folder.stat()
    if info.st_uid != os.geteuid() or stat.S_IMODE(info.st_mode) & 0o077:
        raise ConfigError(f"{folder}: has to belong to us, with mode 0700")
    return folder


@contextlib.contextmanager
def alone(folder: Path, daemon: str) -> Iterator[None]:
    """Hold a folder for this process: two daemons over one would not hear of each other's changes.

    Raises:
        ConfigError: Another one holds it.
    """
    with (folder / f"{daemon}.lock").open("w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            raise ConfigError(f"another {daemon} runs on {folder}") from error
        yield


def read_passphrase(file: Path | None) -> bytes | None:
    """Return the first line of the file of an option ``passphrase_file``; None where it is left out.

    Raises:
        ConfigError: It cannot be read, or its first line is empty.
    """
    if file is None:
        return None
    try:
        passphrase = file.read_bytes().split(b"\n", 1)[0].rstrip(b"\r")
    except OSError as error:
        raise ConfigError(f"passphrase_file: {file}: {error.strerror}") from error
    if not passphrase:
        raise ConfigError(f"passphrase_file: {file}: the first line is empty")
    return passphrase


class KeyFiles:
    """Private keys as PKCS#8 PEM files of one folder, encrypted if there is a passphrase.

    Args:
        folder: Where the files are; see `private_folder`.
        passphrase: What the files are encrypted with, or None.
    """

    SUFFIX: Final = ".pem"

    def __init__(self, folder: Path, passphrase: bytes | None = None) -> None:
        self._folder = folder
        self._passphrase = passphrase

    def names(self) -> list[str]:
        """Return the names of the keys."""
        private_folder(self._folder)
        return sorted(path.stem for path in self._folder.glob(f"*{self.SUFFIX}"))

    def save(self, name: str, key: PrivateKey) -> None:
        """Write a key under `name`, in place of another."""
        private_folder(self._folder)
        encryption: serialization.KeySerializationEncryption = serialization.NoEncryption()
        if self._passphrase:
            encryption = serialization.BestAvailableEncryption(self._passphrase)
        pem = key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, encryption)
        write_private(self._path(name), pem)

    def load(self, name: str) -> PrivateKey | None:
        """Return the key of that name, or None if there is none.

        Raises:
            UnsupportedKeyError: The file is malformed, or the passphrase is wrong.
            ConfigError: Others may read the file.
        """
        path = self._path(name)
        try:
            if stat.S_IMODE(path.stat().st_mode) & 0o077:
                raise ConfigError(f"{path}: others may read this key; its mode has to be 0600")
            return private_key_from_pem(path.read_bytes(), self._passphrase)
        except FileNotFoundError:
            return None

    def delete(self, name: str) -> None:
        """Remove the key of that name, if it is there."""
        try:
            self._path(name).unlink()
        except FileNotFoundError:
            return
        sync_folder(self._folder)

    def _path(self, name: str) -> Path:
        if not name or not all(character.isalnum() or character in "-_." for character in name):
            raise ValueError(f"invalid key name {name[:80]!r}")
        return self._folder / f"{name}{self.SUFFIX}"

# SPDX-License-Identifier: Apache-2.0
"""Keys in files of mode 0600, encrypted if a passphrase is configured."""

import asyncio
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

import msgspec

from issuer.keys import Key, KeyManagerError, KeyNotFoundError, LocalKey
from spiffekit.daemon.config import ConfigError
from spiffekit.daemon.key_files import KeyFiles, read_passphrase
from spiffekit.errors import SpiffeError
from spiffekit.keys import KeyType, generate_private_key

T = TypeVar("T")


class Config(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """``[key_manager.disk]``.

    Attributes:
        directory: The folder of the key files; made with mode 0700 if it is not there.
        passphrase_file: A file whose first line encrypts the keys; without it they are in the clear.
    """

    directory: Path
    passphrase_file: Path | None = None


class DiskKeyManager:
    """See the module. Files are read once and written in a thread."""

    def __init__(self, files: KeyFiles) -> None:
        self._files = files
        self._keys: dict[str, LocalKey] = {}

    async def generate(self, key_id: str, key_type: KeyType) -> Key:
        """Make a key under `key_id`, in place of another; it is on disk when this returns."""
        private_key = generate_private_key(key_type)
        await _in_thread(key_id, lambda: self._files.save(key_id, private_key))
        self._keys[key_id] = LocalKey(key_id, private_key)
        return self._keys[key_id]

    async def get(self, key_id: str) -> Key:
        """Return a key, or raise `KeyNotFoundError`."""
        if key_id not in self._keys:
            private_key = await _in_thread(key_id, lambda: self._files.load(key_id))
            if private_key is None:
                raise KeyNotFoundError(f"no key {key_id!r}")
            self._keys[key_id] = LocalKey(key_id, private_key)
        return self._keys[key_id]

    async def list(self) -> list[str]:
        """Return the IDs of all keys."""
        return await _in_thread("", self._files.names)

    async def delete(self, key_id: str) -> None:
        """Forget a key, if it is there."""
        self._keys.pop(key_id, None)
        await _in_thread(key_id, lambda: self._files.delete(key_id))


async def _in_thread(key_id: str, act: Callable[[], T]) -> T:
    """Do what reads or writes files; whatever goes wrong with them is the key manager's failure."""
    try:
        return await asyncio.to_thread(act)
    except OSError as error:
        raise KeyManagerError(f"key {key_id!r}: {error.strerror}: {error.filename}") from error
    except (ConfigError, SpiffeError) as error:
        raise KeyManagerError(f"key {key_id!r}: {error}") from error


def create(config: Config) -> DiskKeyManager:
    """Make the key manager of a configuration table."""
    return DiskKeyManager(KeyFiles(config.directory, read_passphrase(config.passphrase_file)))

# SPDX-License-Identifier: Apache-2.0
"""Keys in memory: gone with the process, which then makes new authorities."""

import msgspec

from issuer.keys import Key, KeyNotFoundError, LocalKey
from spiffekit.keys import KeyType, generate_private_key


class Config(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """``[key_manager.memory]`` has no options."""


class MemoryKeyManager:
    """See the module."""

    def __init__(self) -> None:
        self._keys: dict[str, LocalKey] = {}

    async def generate(self, key_id: str, key_type: KeyType) -> Key:
        """Make a key under `key_id`, in place of another."""
        self._keys[key_id] = LocalKey(key_id, generate_private_key(key_type))
        return self._keys[key_id]

    async def get(self, key_id: str) -> Key:
        """Return a key, or raise `KeyNotFoundError`."""
        try:
            return self._keys[key_id]
        except KeyError as error:
            raise KeyNotFoundError(f"no key {key_id!r}") from error

    async def list(self) -> list[str]:
        """Return the IDs of all keys."""
        return sorted(self._keys)

    async def delete(self, key_id: str) -> None:
        """Forget a key, if it is there."""
        self._keys.pop(key_id, None)


def create(_config: Config) -> MemoryKeyManager:
    """Make the key manager of a configuration table."""
    return MemoryKeyManager()

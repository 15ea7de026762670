# SPDX-License-Identifier: Apache-2.0
"""The node's key in memory: after a restart the node has to prove itself again."""

import msgspec

from spiffekit.keys import PrivateKey


class Config(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """``[key_manager.memory]`` has no options."""


class MemoryKeys:
    """See the module."""

    def __init__(self) -> None:
        self._keys: list[PrivateKey] = []

    def load(self) -> list[PrivateKey]:
        """Return the keys."""
        return list(self._keys)

    def add(self, key: PrivateKey) -> None:
        """Keep a key beside the others."""
        self._keys.append(key)

    def keep_only(self, key: PrivateKey) -> None:
        """Forget all other keys."""
        self._keys = [key]


def create(_config: Config) -> MemoryKeys:
    """Make the key manager of a configuration table."""
    return MemoryKeys()

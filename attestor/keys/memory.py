# SPDX-License-Identifier: Apache-2.0
"""The node's key in memory: after a restart the node has to prove itself again."""

import msgspec

from spiffekit.keys import PrivateKey


class Config(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """``[key_manager.memory]`` has no options."""


class MemoryKeys:
    """See the module."""

    def __init__(self) -> None:
        self._key: PrivateKey | None = None

    def load(self) -> PrivateKey | None:
        """Return the key, or None."""
        return self._key

    def save(self, key: PrivateKey) -> None:
        """Keep the key in place of another."""
        self._key = key


def create(_config: Config) -> MemoryKeys:
    """Make the key manager of a configuration table."""
    return MemoryKeys()

# SPDX-License-Identifier: Apache-2.0
"""The node's key in a file of mode 0600: the node survives a restart.

While the key is replaced there are two files; whichever fits the SVID that was kept counts.
"""

from pathlib import Path
from typing import Final

import msgspec

from spiffekit.daemon.key_files import KeyFiles
from spiffekit.keys import PrivateKey, subject_key_id

PREFIX: Final = "node-"


class Config(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """``[key_manager.disk]``.

    Attributes:
        directory: The folder of the key file; made with mode 0700 if it is not there.
    """

    directory: Path


class DiskKeys:
    """See the module."""

    def __init__(self, files: KeyFiles) -> None:
        self._files = files

    def load(self) -> list[PrivateKey]:
        """Return the keys."""
        keys = (self._files.load(name) for name in self._names())
        return [key for key in keys if key is not None]

    def add(self, key: PrivateKey) -> None:
        """Keep a key beside the others."""
        self._files.save(_name(key), key)

    def keep_only(self, key: PrivateKey) -> None:
        """Remove all other keys."""
        for name in self._names():
            if name != _name(key):
                self._files.delete(name)

    def _names(self) -> list[str]:
        return [name for name in self._files.names() if name.startswith(PREFIX)]


def _name(key: PrivateKey) -> str:
    return PREFIX + subject_key_id(key.public_key()).hex()[:16]


def create(config: Config) -> DiskKeys:
    """Make the key manager of a configuration table."""
    return DiskKeys(KeyFiles(config.directory))

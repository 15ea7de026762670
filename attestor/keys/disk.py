# SPDX-License-Identifier: Apache-2.0
"""The node's key in a file of mode 0600: the node survives a restart.

While the key is replaced there are two files; whichever fits the SVID that was kept counts.
"""

import logging
from pathlib import Path
from typing import Final

import msgspec

from spiffekit.daemon.key_files import KeyFiles
from spiffekit.errors import UnsupportedKeyError
from spiffekit.keys import PrivateKey, subject_key_id

logger = logging.getLogger(__name__)

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
        """Return the keys; a damaged one is none, and must not keep the other from fitting."""
        return [key for name in self._names() if (key := self._load(name)) is not None]

    def _load(self, name: str) -> PrivateKey | None:
        try:
            return self._files.load(name)
        except UnsupportedKeyError as error:
            logger.warning("node key cannot be used", extra={"key": name, "reason": str(error)})
            return None

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

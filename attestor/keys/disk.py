# SPDX-License-Identifier: Apache-2.0
"""The node's key in a file of mode 0600: the node survives a restart."""

from pathlib import Path
from typing import Final

import msgspec

from spiffekit.daemon.key_files import KeyFiles
from spiffekit.keys import PrivateKey

NAME: Final = "node"


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

    def load(self) -> PrivateKey | None:
        """Return the key, or None."""
        return self._files.load(NAME)

    def save(self, key: PrivateKey) -> None:
        """Keep the key in place of another."""
        self._files.save(NAME, key)


def create(config: Config) -> DiskKeys:
    """Make the key manager of a configuration table."""
    return DiskKeys(KeyFiles(config.directory))

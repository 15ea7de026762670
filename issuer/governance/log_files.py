# SPDX-License-Identifier: Apache-2.0
"""The transparency log of the audit trail, in the files of a folder (C2SP tlog-tiles)."""

import shutil
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path
from typing import Final

from spiffekit.daemon.key_files import FOLDER_MODE, replace_private, sync_folder, write_private
from spiffekit.errors import LogFormatError
from spiffekit.transparency.merkle import HASH
from spiffekit.transparency.notes import MAX_NOTE
from spiffekit.transparency.tiles import (
    CHECKPOINT,
    ENTRIES,
    MAX_BUNDLE,
    WIDTH,
    Tile,
    decode_entries,
    encode_entries,
)


class LogFiles:
    """The files. Each is written whole or not at all, and is on disk when the call that wrote it returns."""

    def __init__(self, folder: Path) -> None:
        self.folder: Final = folder

    def read(self, tile: Tile) -> bytes:
        """Return the content of a tile or bundle of entries; see `tiles.ReadFile`.

        An unfinished one that is gone, because it is full by now, is cut from the full one.

        Raises:
            LogFormatError: It is not there, or longer than it can be.
        """
        limit, full = MAX_BUNDLE if tile.level == ENTRIES else WIDTH * HASH, replace(tile, width=WIDTH)
        if (self.folder / tile.path).exists() or not (self.folder / full.path).exists():
            return self._read(tile.path, limit)
        content = self._read(full.path, limit)
        if tile.level == ENTRIES:
            return encode_entries(decode_entries(content, WIDTH)[: tile.width])
        return content[: tile.width * HASH]

    def checkpoint(self) -> bytes | None:
        """Return the signed checkpoint; None if nothing was published yet.

        Raises:
            LogFormatError: It is longer than it can be, or the folder has tiles without it.
        """
        if not (self.folder / CHECKPOINT).exists():
            if (self.folder / "tile").exists():
                raise LogFormatError(f"{self.folder}: has tiles and no checkpoint")
            return None
        return self._read(CHECKPOINT, MAX_NOTE)

    def _read(self, path: str, limit: int) -> bytes:
        try:
            with (self.folder / path).open("rb") as file:
                content = file.read(limit + 1)
        except OSError as error:
            raise LogFormatError(f"{self.folder / path}: {error.strerror}") from error
        if len(content) > limit:
            raise LogFormatError(f"{self.folder / path}: is longer than {limit} bytes")
        return content

    def write(self, tiles: Iterable[tuple[Tile, bytes]]) -> None:
        """Write tiles and bundles.

        Raises:
            OSError: They could not be written.
        """
        folders = set[Path]()
        for tile, content in tiles:
            path = self.folder / tile.path
            _make_folder(path.parent)
            replace_private(path, content)
            folders.add(path.parent)
        for folder in folders:
            sync_folder(folder)

    def publish(self, note: bytes) -> None:
        """Write the checkpoint. What it stands for has been written before.

        Raises:
            OSError: It could not be written.
        """
        _make_folder(self.folder)
        write_private(self.folder / CHECKPOINT, note)

    def forget_partials(self, tiles: Iterable[tuple[Tile, bytes]]) -> None:
        """Remove the unfinished forms of what is full by now (tlog-tiles allows it)."""
        for tile, _ in tiles:
            if tile.width == WIDTH:
                shutil.rmtree(self.folder / tile.folder_of_partials, ignore_errors=True)


def _make_folder(folder: Path) -> None:
    """Make a folder and those above it; they are there after a crash."""
    if not folder.is_dir():
        _make_folder(folder.parent)
        folder.mkdir(mode=FOLDER_MODE)
        sync_folder(folder.parent)

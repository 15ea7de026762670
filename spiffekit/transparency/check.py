# SPDX-License-Identifier: Apache-2.0
"""Check a log as a whole, or what was added to it since a checkpoint."""

from collections.abc import Callable

from spiffekit.errors import LogMismatchError
from spiffekit.transparency.merkle import HASH, leaf_hash
from spiffekit.transparency.notes import Checkpoint
from spiffekit.transparency.tiles import (
    WIDTH,
    ReadFile,
    TreeBuilder,
    changed_entries,
    decode_entries,
    tile_at,
)

CheckEntry = Callable[[int, bytes], None]
"""Judges one entry, given its index and bytes; raises what it finds wrong."""


def check_log(
    read: ReadFile,
    head: Checkpoint,
    *,
    since: Checkpoint | None = None,
    check_entry: CheckEntry | None = None,
) -> int:
    """Check that the files of a log are those of a checkpoint whose signature you have verified.

    1. The tree at `since` is read from the tiles, and its root is that of `since`. Without, it is empty.
    2. Each entry from there to the head is hashed, and judged by `check_entry`.
    3. Each tile that they fill, and each that they leave unfinished, is the tile of the log.
    4. The root is that of the head.

    So the log begins as it did at `since`, and what came after is exactly what the head stands for. Entries
    before `since` are not read again.

    Returns:
        How many entries were read.

    Raises:
        LogFormatError: A file is malformed.
        LogMismatchError: Something does not fit; the message names the tile, or the entry by its index.
    """
    start = 0 if since is None else since.size
    if start > head.size:
        raise LogMismatchError(f"the log has {head.size} entries, and had {start} before")
    tree = TreeBuilder.load(start, read, log_size=head.size)  # 1
    if since is not None and tree.root() != since.root:
        raise LogMismatchError(f"the first {start} entries are not those of the earlier checkpoint")
    for bundle in changed_entries(start, head.size):
        first = bundle.index * WIDTH
        for index, entry in enumerate(decode_entries(read(bundle), bundle.width), first):
            if index >= start:
                tree.append(leaf_hash(entry))  # 2
                if check_entry is not None:
                    check_entry(index, entry)
        for tile, content in tree.take_tiles():  # 3
            # The tile may be wider by now; which hashes came before `start`, the root says in the end.
            named = tile_at(tile.level, tile.index, head.size)
            there, width = read(named), named.width
            if len(there) != width * HASH or not there.startswith(content):
                raise LogMismatchError(f"{named.path} is not what its entries hash to")
    if tree.root() != head.root:  # 4
        raise LogMismatchError(f"the {head.size} entries do not hash to the root of the checkpoint")
    return head.size - start

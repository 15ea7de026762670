# SPDX-License-Identifier: Apache-2.0
"""A tree and its entries in files: C2SP tlog-tiles, where a full tile of 256 hashes never changes."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Final, Self

from spiffekit.errors import LogFormatError
from spiffekit.transparency.merkle import HASH, MAX_SIZE, node_hash, root_of

WIDTH: Final = 256  # hashes of a full tile
MAX_ENTRY: Final = 0xFFFF  # bytes: entries are prefixed with a uint16
MAX_BUNDLE: Final = WIDTH * (2 + MAX_ENTRY)  # bytes of the largest bundle of entries
ENTRIES: Final = -1  # in the place of a level: the entries themselves
CHECKPOINT: Final = "checkpoint"  # the path of the signed head
_HEIGHT: Final = 8  # levels of the tree that a tile spans
_CACHED: Final = 1024  # tiles a reader keeps: 16 MiB


@dataclass(frozen=True, slots=True)
class Tile:
    """The name of a file: part of a level of tiles, or of the entries. `width` is 256 once it is full."""

    level: int
    index: int
    width: int

    @property
    def path(self) -> str:
        """The path within the log, e.g. ``tile/0/x001/234.p/17``."""
        kind = "entries" if self.level == ENTRIES else str(self.level)
        partial = "" if self.width == WIDTH else f".p/{self.width}"
        return f"tile/{kind}/{_number(self.index)}{partial}"

    @property
    def folder_of_partials(self) -> str:
        """The path of the folder of the same tile's partial forms, which nobody needs once it is full."""
        return f"{replace(self, width=WIDTH).path}.p"


ReadFile = Callable[[Tile], bytes]
"""Returns the content of a file; it raises what it likes if there is none."""


def _number(index: int) -> str:
    digits = str(index)
    digits = digits.zfill(-(-len(digits) // 3) * 3)
    *groups, last = (digits[at : at + 3] for at in range(0, len(digits), 3))
    return "/".join([*(f"x{group}" for group in groups), last])


def tile_at(level: int, index: int, size: int) -> Tile:
    """Return the tile as a log of `size` entries has it.

    Raises:
        ValueError: The log has no such tile.
    """
    there = size >> _HEIGHT * max(level, 0)
    width = min(there - index * WIDTH, WIDTH)
    if width <= 0:
        raise ValueError(f"a log of {size} entries has no tile {level}/{index}")
    return Tile(level, index, width)


def encode_entries(entries: Iterable[bytes]) -> bytes:
    """Return a bundle of entries.

    Raises:
        LogFormatError: An entry is longer than 65,535 bytes.
    """
    bundle = bytearray()
    for entry in entries:
        if len(entry) > MAX_ENTRY:
            raise LogFormatError(f"entry of {len(entry)} bytes: {MAX_ENTRY} fit")
        bundle += len(entry).to_bytes(2) + entry
    return bytes(bundle)


def decode_entries(bundle: bytes, width: int) -> list[bytes]:
    """Return the entries of a bundle that has `width` of them.

    Raises:
        LogFormatError: It has fewer, more, or a part of one.
    """
    entries, at = list[bytes](), 0
    while at < len(bundle) and len(entries) < width:
        start = at + 2
        at = start + int.from_bytes(bundle[at:start])
        entries.append(bundle[start:at])
    if at != len(bundle) or len(entries) != width:
        raise LogFormatError(f"bundle of {len(bundle)} bytes does not hold {width} entries")
    return entries


def hashes_of(content: bytes, width: int) -> list[bytes]:
    """Return the hashes of a tile that has `width` of them.

    Raises:
        LogFormatError: It has another number.
    """
    if len(content) != width * HASH:
        raise LogFormatError(f"tile of {len(content)} bytes does not hold {width} hashes")
    return [content[at : at + HASH] for at in range(0, len(content), HASH)]


class TreeBuilder:
    """A tree that grows: it holds the right edge only, and says which tiles a longer log adds.

    Args:
        edge: The hashes of the last, unfinished tile of each level, from level 0 on.
    """

    def __init__(self, size: int = 0, edge: Sequence[Sequence[bytes]] = ()) -> None:
        self.size = size
        self._edge = [list(tail) for tail in edge]
        self._full: list[tuple[Tile, bytes]] = []

    @classmethod
    def load(cls, size: int, read: ReadFile, *, log_size: int | None = None) -> Self:
        """Take up the tree of the first `size` entries of a log that has `log_size` by now.

        Nothing is believed: compare `root` with that of a checkpoint.

        Raises:
            LogFormatError: A tile is malformed.
        """
        edge, level = list[list[bytes]](), 0
        while there := size >> _HEIGHT * level:
            width = there % WIDTH
            hashes = list[bytes]()
            if width:
                tile = tile_at(level, there // WIDTH, size if log_size is None else log_size)
                hashes = hashes_of(read(tile), tile.width)[:width]
            edge.append(hashes)
            level += 1
        return cls(size, edge)

    def append(self, leaf: bytes) -> None:
        """Add the hash of a leaf."""
        self.size += 1
        level, added = 0, leaf
        while True:
            if level == len(self._edge):
                self._edge.append([])
            tail = self._edge[level]
            tail.append(added)
            if len(tail) < WIDTH:
                return
            index = (self.size >> _HEIGHT * (level + 1)) - 1
            self._full.append((Tile(level, index, WIDTH), b"".join(tail)))
            level, added = level + 1, root_of(tail)
            tail.clear()

    def root(self) -> bytes:
        """Return the root of the tree."""
        # A level's unfinished tile, then what is below it, are the leaves of a tree of the same shape.
        parts = list[bytes]()
        for tail in self._edge:
            if tail or parts:
                parts = [root_of([*tail, *parts])]
        return root_of(parts)

    def take_tiles(self) -> list[tuple[Tile, bytes]]:
        """Return the tiles that were filled since the last call, and those that are unfinished now."""
        full, self._full = self._full, []
        partial = [
            (Tile(level, self.size >> _HEIGHT * (level + 1), len(tail)), b"".join(tail))
            for level, tail in enumerate(self._edge)
            if tail
        ]
        return full + partial


class TileReader:
    """The hashes of a tree, read from its tiles: what `merkle` makes proofs of.

    Args:
        size: How many entries the log has, which says how wide its last tiles are.
        read: Returns the content of a tile; each is read once.
    """

    def __init__(self, size: int, read: ReadFile) -> None:
        self._size = size
        self._read = read
        self._tiles: dict[tuple[int, int], list[list[bytes]]] = {}

    def hash_at(self, level: int, index: int) -> bytes:
        """Return the hash of a full subtree; see `merkle.ReadHash`.

        Raises:
            LogFormatError: A tile is malformed.
        """
        tile_level, height = divmod(level, _HEIGHT)
        tile_index, offset = divmod(index << height, WIDTH)
        if (tile_level, tile_index) not in self._tiles:
            if len(self._tiles) >= _CACHED:
                self._tiles.clear()
            tile = tile_at(tile_level, tile_index, self._size)
            self._tiles[tile_level, tile_index] = list(_rows(hashes_of(self._read(tile), tile.width)))
        return self._tiles[tile_level, tile_index][height][offset >> height]


def _rows(hashes: list[bytes]) -> Iterator[list[bytes]]:
    """Yield the hashes of a tile, and the rows of full subtrees above them."""
    for _ in range(_HEIGHT):
        yield hashes
        hashes = [node_hash(hashes[i], hashes[i + 1]) for i in range(0, len(hashes) - 1, 2)]


def changed_entries(old: int, new: int) -> Iterator[Tile]:
    """Yield the bundles of entries that a log of `new` entries has and one of `old` has not.

    Raises:
        ValueError: The sizes are out of order or out of bounds.
    """
    if not 0 <= old <= new <= MAX_SIZE:
        raise ValueError(f"a log of {old} entries does not come before one of {new}")
    for index in range(old // WIDTH, -(-new // WIDTH)):
        tile = tile_at(ENTRIES, index, new)
        if index * WIDTH + tile.width > old:
            yield tile

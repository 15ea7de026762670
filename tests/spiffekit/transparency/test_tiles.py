# SPDX-License-Identifier: Apache-2.0
"""Tiles: their names and widths as C2SP tlog-tiles has them, and the tree that they add up to."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from spiffekit.errors import LogFormatError
from spiffekit.transparency import merkle, tiles
from spiffekit.transparency.tiles import ENTRIES, Tile, TileReader, TreeBuilder, tile_at
from tests.spiffekit.transparency.logs import Log, entry, mth

MANY = [entry(number) for number in range(66_000)]
LARGE = Log().add(MANY)


@pytest.mark.parametrize(
    ("tile", "path"),
    [
        (Tile(0, 0, 256), "tile/0/000"),
        (Tile(0, 7, 1), "tile/0/007.p/1"),
        (Tile(1, 999, 255), "tile/1/999.p/255"),
        (Tile(0, 1000, 256), "tile/0/x001/000"),
        (Tile(2, 1234067, 256), "tile/2/x001/x234/067"),  # the example of the document
        (Tile(ENTRIES, 1234067, 17), "tile/entries/x001/x234/067.p/17"),
    ],
)
def test_a_tile_has_the_path_of_the_document(tile, path):
    assert tile.path == path
    assert tile.folder_of_partials == path.split(".p")[0] + ".p"


def test_a_log_of_70_000_has_the_tiles_of_the_document():
    builder = TreeBuilder()
    for number in range(70_000):
        builder.append(merkle.leaf_hash(entry(number)))
    made = [tile for tile, _ in builder.take_tiles()]
    assert len(made) == len(set(made))
    full = [tile for tile in made if tile.width == 256]
    assert sum(tile.level == 0 for tile in full) == 273
    assert [tile for tile in full if tile.level] == [Tile(1, 0, 256)]
    assert [tile for tile in made if tile.width < 256] == [Tile(0, 273, 112), Tile(1, 1, 17), Tile(2, 0, 1)]


def test_a_log_of_256_has_a_full_tile_and_one_above_it():
    log = Log().add(MANY[:256])
    assert sorted(log.files) == ["tile/0/000", "tile/1/000.p/1", "tile/entries/000"]


@settings(max_examples=30, deadline=None)
@given(sizes=st.lists(st.integers(0, 700), min_size=1, max_size=4))
def test_a_tree_that_grows_in_steps_is_that_of_all_entries(sizes):
    log = Log()
    for size in sizes:
        log.add(MANY[len(log.entries) : len(log.entries) + size])
        assert log.builder.root() == mth(log.entries)
        taken_up = TreeBuilder.load(len(log.entries), log.read)
        assert taken_up.root() == mth(log.entries)
    assert log.builder.root() == mth(MANY[: sum(sizes)])


@settings(max_examples=30, deadline=None)
@given(old=st.integers(0, 66_000))
def test_an_older_tree_is_found_in_a_larger_log(old):
    builder = TreeBuilder.load(old, LARGE.read, log_size=66_000)
    reader = TileReader(66_000, LARGE.read)
    assert builder.size == old
    assert builder.root() == merkle.tree_root(reader.hash_at, old)
    if old <= 2000:
        assert builder.root() == mth(MANY[:old])


@settings(max_examples=50, deadline=None)
@given(data=st.data())
def test_proofs_come_from_tiles(data):
    size = data.draw(st.integers(1, 66_000))
    index, old = data.draw(st.integers(0, size - 1)), data.draw(st.integers(1, size))
    reader = TileReader(66_000, LARGE.read)
    root = TreeBuilder.load(size, LARGE.read, log_size=66_000).root()
    old_root = TreeBuilder.load(old, LARGE.read, log_size=66_000).root()
    proof = merkle.inclusion_proof(reader.hash_at, index, size)
    merkle.verify_inclusion(merkle.leaf_hash(MANY[index]), index, size, proof, root=root)
    proof = merkle.consistency_proof(reader.hash_at, old, size)
    merkle.verify_consistency(old, size, proof, old_root=old_root, new_root=root)


def test_a_proof_reads_each_tile_once():
    read = []

    def counting(tile):
        read.append(tile)
        return LARGE.read(tile)

    reader = TileReader(66_000, counting)
    for index in range(300):
        merkle.inclusion_proof(reader.hash_at, index, 66_000)
    assert len(read) == len(set(read)) <= 6


def test_a_reader_keeps_a_bounded_number_of_tiles(monkeypatch):
    monkeypatch.setattr(tiles, "_CACHED", 2)
    reader = TileReader(66_000, LARGE.read)
    root = TreeBuilder.load(66_000, LARGE.read).root()
    for index in (0, 65_999, 30_000):
        proof = merkle.inclusion_proof(reader.hash_at, index, 66_000)
        merkle.verify_inclusion(merkle.leaf_hash(MANY[index]), index, 66_000, proof, root=root)
    assert len(reader._tiles) <= 2


@given(entries=st.lists(st.binary(max_size=300), max_size=20))
def test_a_bundle_comes_out_as_it_went_in(entries):
    assert tiles.decode_entries(tiles.encode_entries(entries), len(entries)) == entries


@pytest.mark.parametrize(
    ("bundle", "width"),
    [
        (b"", 1),
        (b"\x00", 1),
        (b"\x00\x01", 1),
        (b"\x00\x01a", 2),
        (b"\x00\x01ab", 1),
        (b"\x00\x01a\x00\x01b", 1),
        (b"\x00\x01a\x00", 2),
        (b"\x00\x02a", 1),
    ],
)
def test_a_bundle_of_another_number_of_entries_is_refused(bundle, width):
    with pytest.raises(LogFormatError, match=f"does not hold {width} entries"):
        tiles.decode_entries(bundle, width)


def test_an_entry_is_at_most_65_535_bytes_long():
    assert len(tiles.encode_entries([b"x" * 65_535])) == 65_537
    with pytest.raises(LogFormatError, match=r"^entry of 65536 bytes: 65535 fit$"):
        tiles.encode_entries([b"x" * 65_536])


def test_a_tile_of_another_length_is_refused():
    with pytest.raises(LogFormatError, match=r"^tile of 31 bytes does not hold 1 hashes$"):
        tiles.hashes_of(b"x" * 31, 1)
    short = lambda tile: LARGE.read(tile)[:-1]
    with pytest.raises(LogFormatError):
        TreeBuilder.load(300, short, log_size=66_000)
    with pytest.raises(LogFormatError):
        TileReader(66_000, short).hash_at(0, 0)


@pytest.mark.parametrize(("level", "index", "size"), [(0, 0, 0), (0, 1, 256), (1, 0, 255), (ENTRIES, 2, 512)])
def test_a_tile_that_a_log_does_not_have_is_not_named(level, index, size):
    with pytest.raises(ValueError, match="has no tile"):
        tile_at(level, index, size)


@given(old=st.integers(0, 2000), more=st.integers(0, 2000))
def test_the_bundles_that_change_are_those_with_new_entries(old, more):
    found = list(tiles.changed_entries(old, old + more))
    covered = {tile.index * 256 + offset for tile in found for offset in range(tile.width)}
    assert covered >= set(range(old, old + more))
    assert all(tile.index * 256 + tile.width > old for tile in found)


def test_bundles_of_sizes_out_of_order_are_not_named():
    with pytest.raises(ValueError, match="does not come before"):
        list(tiles.changed_entries(2, 1))

# SPDX-License-Identifier: Apache-2.0
"""Logs to test with, and the tree as RFC 9162 §2.1 defines it: slow, recursive, and not by our code."""

from datetime import UTC, datetime
from hashlib import sha256

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from spiffekit.transparency import tiles
from spiffekit.transparency.notes import KeyUse, Signer

NOW = datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)


def entry(number):
    return b"entry %d" % number


def split(count):
    k = 1
    while k * 2 < count:
        k *= 2
    return k


def mth(leaves):
    """MTH, §2.1.1."""
    if not leaves:
        return sha256(b"").digest()
    if len(leaves) == 1:
        return sha256(b"\x00" + leaves[0]).digest()
    k = split(len(leaves))
    return sha256(b"\x01" + mth(leaves[:k]) + mth(leaves[k:])).digest()


def path(m, leaves):
    """PATH, §2.1.3.1."""
    if len(leaves) == 1:
        return []
    k = split(len(leaves))
    if m < k:
        return [*path(m, leaves[:k]), mth(leaves[k:])]
    return [*path(m - k, leaves[k:]), mth(leaves[:k])]


def proof(m, leaves):
    """PROOF, §2.1.4.1."""
    return subproof(m, leaves, whole=True)


def subproof(m, leaves, whole):
    if m == len(leaves):
        return [] if whole else [mth(leaves)]
    k = split(len(leaves))
    if m <= k:
        return [*subproof(m, leaves[:k], whole), mth(leaves[k:])]
    return [*subproof(m - k, leaves[k:], whole=False), mth(leaves[:k])]


def hashes(leaves):
    """What `merkle.ReadHash` is, over entries in memory."""
    return lambda level, index: mth(leaves[index << level : (index + 1) << level])


def signer(name, use=KeyUse.NOTE):
    return Signer(name, Ed25519PrivateKey.from_private_bytes(sha256(name.encode()).digest()), use)


class Log:
    """A log in memory: its files by path."""

    def __init__(self):
        self.files = {}
        self.builder = tiles.TreeBuilder()
        self.entries = []

    def add(self, entries):
        """Add entries, and write what changes."""
        from spiffekit.transparency.merkle import leaf_hash

        old = len(self.entries)
        self.entries += entries
        for data in entries:
            self.builder.append(leaf_hash(data))
        for tile, content in self.builder.take_tiles():
            self.files[tile.path] = content
        for tile in tiles.changed_entries(old, len(self.entries)):
            start = tile.index * tiles.WIDTH
            self.files[tile.path] = tiles.encode_entries(self.entries[start : start + tile.width])
        return self

    def read(self, tile):
        return self.files[tile.path]

# SPDX-License-Identifier: Apache-2.0
"""The Merkle tree of RFC 9162 §2.1 (the same as RFC 6962's): its hashes and its two kinds of proof."""

import hashlib
from collections.abc import Callable, Iterator, Sequence
from typing import Final

from spiffekit.errors import LogMismatchError

HASH: Final = 32  # bytes of SHA-256
MAX_SIZE: Final = 2**63 - 1  # leaves; no proof is longer than 63 hashes
MAX_PROOF: Final = 63  # hashes; tlog-witness, add-checkpoint
EMPTY_ROOT: Final = hashlib.sha256(b"").digest()

ReadHash = Callable[[int, int], bytes]
"""Returns the hash of a full subtree, given (level, index): of 2**level leaves, from index * 2**level on."""


def leaf_hash(data: bytes) -> bytes:
    """Return the hash of a leaf, RFC 9162 §2.1.1."""
    return hashlib.sha256(b"\x00" + data).digest()


def node_hash(left: bytes, right: bytes) -> bytes:
    """Return the hash of what stands above two hashes, RFC 9162 §2.1.1."""
    return hashlib.sha256(b"\x01" + left + right).digest()


def root_of(hashes: Sequence[bytes]) -> bytes:
    """Return the root over hashes in order; the last one may itself stand for less than the others."""
    if not hashes:
        return EMPTY_ROOT
    row = list(hashes)
    while len(row) > 1:
        paired = [node_hash(row[i], row[i + 1]) for i in range(0, len(row) - 1, 2)]
        row = paired + row[2 * len(paired) :]
    return row[0]


def tree_root(read: ReadHash, size: int) -> bytes:
    """Return the root of the tree of the first `size` leaves."""
    return _range(read, 0, size) if size else EMPTY_ROOT


def inclusion_proof(read: ReadHash, index: int, size: int) -> list[bytes]:
    """Return what leads from leaf `index` to the root of the tree of `size` leaves, RFC 9162 §2.1.3.1.

    Raises:
        ValueError: There is no such leaf.
    """
    if not 0 <= index < size <= MAX_SIZE:
        raise ValueError(f"leaf {index} is not in a tree of {size}")
    start, end, path = 0, size, list[bytes]()
    while end - start > 1:
        middle = start + _split(end - start)
        if index < middle:
            path.append(_range(read, middle, end))
            end = middle
        else:
            path.append(_range(read, start, middle))
            start = middle
    return path[::-1]


def consistency_proof(read: ReadHash, old: int, new: int) -> list[bytes]:
    """Return what shows that the tree of `new` leaves begins with that of `old`, RFC 9162 §2.1.4.1.

    Raises:
        ValueError: The trees are not in that order.
    """
    if not 0 <= old <= new <= MAX_SIZE:
        raise ValueError(f"a tree of {old} does not come before one of {new}")
    if old in (0, new):
        return []
    start, end, path = 0, new, list[bytes]()
    while old != end:
        middle = start + _split(end - start)
        if old <= middle:
            path.append(_range(read, middle, end))
            end = middle
        else:
            path.append(_range(read, start, middle))
            start = middle
    if start:  # the old tree is no left edge of the new one: its last part is not known otherwise
        path.append(_range(read, start, end))
    return path[::-1]


def verify_inclusion(leaf: bytes, index: int, size: int, proof: Sequence[bytes], *, root: bytes) -> None:
    """Check that the leaf of hash `leaf` is number `index` of the tree, RFC 9162 §2.1.3.2.

    Raises:
        LogMismatchError: The proof does not show it.
    """
    if not 0 <= index < size:
        raise LogMismatchError(f"leaf {index} is not in a tree of {size}")
    found = leaf
    for sibling, is_left in _sides(index, size - 1, proof):
        found = node_hash(sibling, found) if is_left else node_hash(found, sibling)
    if found != root:
        raise LogMismatchError(f"inclusion proof of leaf {index} does not lead to the root")


def verify_consistency(
    old: int, new: int, proof: Sequence[bytes], *, old_root: bytes, new_root: bytes
) -> None:
    """Check that the tree of `new` leaves begins with that of `old`, RFC 9162 §2.1.4.2.

    Raises:
        LogMismatchError: The proof does not show it.
    """
    if not 0 <= old <= new:
        raise LogMismatchError(f"a log of {new} leaves had {old} before")
    if old in (0, new):
        fits = old_root == new_root if old else old_root == EMPTY_ROOT
        if proof or not fits:
            raise LogMismatchError(f"root of the log of {old} leaves is another one")
        return
    path = list(proof)
    if old & (old - 1) == 0:  # the old tree is one full subtree: its root begins the path
        path.insert(0, old_root)
    node, last = old - 1, new - 1
    while node & 1:
        node, last = node >> 1, last >> 1
    was = now = path[0] if path else b""
    for sibling, is_left in _sides(node, last, path[1:]):
        was = node_hash(sibling, was) if is_left else was
        now = node_hash(sibling, now) if is_left else node_hash(now, sibling)
    if was != old_root or now != new_root:
        raise LogMismatchError(f"the log of {new} leaves does not begin with that of {old}")


def _sides(node: int, last: int, siblings: Sequence[bytes]) -> Iterator[tuple[bytes, bool]]:
    """Yield, on the way up from a node of a row that ends with `last`, each sibling and whether it is left.

    Raises:
        LogMismatchError: There are more or fewer siblings than rows with one.
    """
    for sibling in siblings:
        if last == 0:
            raise LogMismatchError("proof has too many hashes")
        is_left = bool(node & 1) or node == last
        yield sibling, is_left
        while is_left and node and not node & 1:
            node, last = node >> 1, last >> 1
        node, last = node >> 1, last >> 1
    if last:
        raise LogMismatchError("proof has too few hashes")


def _split(count: int) -> int:
    """Return the largest power of two below `count`, which is at least 2: RFC 9162 §2.1.1."""
    return 1 << (count - 1).bit_length() - 1


def _range(read: ReadHash, start: int, end: int) -> bytes:
    """Return the root over the leaves from `start` to before `end`, a part that a proof may need."""
    found = list(_full_subtrees(start, end))
    right = read(*found.pop())
    while found:
        right = node_hash(read(*found.pop()), right)
    return right


def _full_subtrees(start: int, end: int) -> Iterator[tuple[int, int]]:
    """Yield (level, index) of the full subtrees that make up a part, the largest and leftmost first."""
    while start < end:
        level = (end - start).bit_length() - 1
        yield level, start >> level
        start += 1 << level

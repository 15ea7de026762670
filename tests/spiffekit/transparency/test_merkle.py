# SPDX-License-Identifier: Apache-2.0
"""The tree: as the RFC defines it, with the roots that the implementations of the field share."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from spiffekit.errors import LogMismatchError
from spiffekit.transparency import merkle
from tests.spiffekit.transparency.logs import entry, hashes, mth, path, proof

# The leaves and roots that the implementations of Certificate Transparency are tested with.
LEAVES = [
    bytes.fromhex(text)
    for text in (
        "", "00", "10", "2021", "3031", "40414243", "5051525354555657", "606162636465666768696a6b6c6d6e6f",
    )
]  # fmt: skip
ROOTS = [
    "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855",
    "6e340b9cffb37a989ca544e6bb780a2c78901d3fb33738768511a30617afa01d",
    "fac54203e7cc696cf0dfcb42c92a1d9dbaf70ad9e621f4bd8d98662f00e3c125",
    "aeb6bcfe274b70a14fb067a5e5578264db0fa9b51af5e0ba159158f329e06e77",
    "d37ee418976dd95753c1c73862b9398fa2a2cf9b4ff0fdfe8b30cd95209614b7",
    "4e3bbb1f7b478dcfe71fb631631519a3bca12c9aefca1612bfce4c13a86264d4",
    "76e67dadbcdf1e10e1b74ddc608abd2f98dfb16fbce75277b5232a127f2087ef",
    "ddb89be403809e325750d3d263cd78929c2942b7942a34b77e122c9594a74c8c",
    "5dc9da79a70659a9ad559cb701ded9a2ab9d823aad2f4960cfe370eff4604328",
]

sizes = st.integers(1, 70)
bad_bytes = st.tuples(st.integers(0, 31), st.integers(1, 255))


def leaves(count):
    return [entry(number) for number in range(count)]


def spoilt(data, change):
    at, by = change
    return data[:at] + bytes([data[at] ^ by]) + data[at + 1 :]


@pytest.mark.parametrize("size", range(9))
def test_roots_are_those_of_certificate_transparency(size):
    assert merkle.tree_root(hashes(LEAVES), size).hex() == ROOTS[size]
    assert merkle.root_of([merkle.leaf_hash(leaf) for leaf in LEAVES[:size]]).hex() == ROOTS[size]


@given(size=sizes)
def test_a_root_is_as_the_rfc_defines_it(size):
    there = leaves(size)
    assert merkle.tree_root(hashes(there), size) == mth(there)
    assert merkle.root_of([merkle.leaf_hash(leaf) for leaf in there]) == mth(there)


@given(data=st.data(), size=sizes)
def test_an_inclusion_proof_is_as_the_rfc_defines_it_and_verifies(data, size):
    there = leaves(size)
    index = data.draw(st.integers(0, size - 1))
    made = merkle.inclusion_proof(hashes(there), index, size)
    assert made == path(index, there)
    merkle.verify_inclusion(merkle.leaf_hash(there[index]), index, size, made, root=mth(there))


@given(data=st.data(), size=sizes)
def test_a_consistency_proof_is_as_the_rfc_defines_it_and_verifies(data, size):
    there = leaves(size)
    old = data.draw(st.integers(1, size))
    made = merkle.consistency_proof(hashes(there), old, size)
    assert made == proof(old, there)
    merkle.verify_consistency(old, size, made, old_root=mth(there[:old]), new_root=mth(there))


@given(data=st.data(), size=sizes, change=bad_bytes)
def test_an_inclusion_proof_with_anything_changed_is_refused(data, size, change):
    there = leaves(size)
    index = data.draw(st.integers(0, size - 1))
    made, leaf, root = path(index, there), merkle.leaf_hash(there[index]), mth(there)
    at = data.draw(st.integers(0, len(made)))
    other = data.draw(st.integers(0, 80).filter(lambda number: number != index))
    wrong = [
        (spoilt(leaf, change), index, size, made, root),
        (leaf, index, size, made, spoilt(root, change)),
        (leaf, other, size, made, root),
        (leaf, index, size, [*made[:at], leaf, *made[at:]], root),
        (leaf, size, size, made, root),
        (leaf, -1, size, made, root),
    ]
    if made:
        at = data.draw(st.integers(0, len(made) - 1))
        wrong += [
            (leaf, index, size, [*made[:at], spoilt(made[at], change), *made[at + 1 :]], root),
            (leaf, index, size, made[:at] + made[at + 1 :], root),
        ]
    for case in wrong:
        with pytest.raises(LogMismatchError):
            merkle.verify_inclusion(*case[:-1], root=case[-1])


@given(data=st.data(), size=sizes, change=bad_bytes)
def test_a_consistency_proof_with_anything_changed_is_refused(data, size, change):
    there = leaves(size)
    old = data.draw(st.integers(1, size))
    made, was, now = proof(old, there), mth(there[:old]), mth(there)
    at = data.draw(st.integers(0, len(made)))
    wrong = [
        (old, size, made, spoilt(was, change), now),
        (old, size, made, was, spoilt(now, change)),
        (old, size, [*made[:at], was, *made[at:]], was, now),
        (size + 1, size, made, was, now),
        (-1, size, made, was, now),
        (old, size, [], was, now) if old < size else (old, size, [was], was, now),
    ]
    if made:
        at = data.draw(st.integers(0, len(made) - 1))
        wrong += [
            (old, size, [*made[:at], spoilt(made[at], change), *made[at + 1 :]], was, now),
            (old, size, made[:at] + made[at + 1 :], was, now),
        ]
    for *case, was, now in wrong:
        with pytest.raises(LogMismatchError):
            merkle.verify_consistency(*case, old_root=was, new_root=now)


@given(data=st.data(), size=st.integers(2, 70), change=st.integers(0, 69))
def test_no_proof_leads_from_a_log_to_one_in_which_an_entry_was_replaced(data, size, change):
    old = data.draw(st.integers(1, size))
    at = change % old
    there, forged = leaves(size), leaves(size)
    forged[at] = b"forged"
    with pytest.raises(LogMismatchError):
        merkle.verify_consistency(
            old, size, proof(old, forged), old_root=mth(there[:old]), new_root=mth(forged)
        )


def test_every_log_begins_with_the_empty_one():
    assert merkle.consistency_proof(hashes([]), 0, 0) == []
    merkle.verify_consistency(0, 3, [], old_root=merkle.EMPTY_ROOT, new_root=mth(leaves(3)))
    with pytest.raises(LogMismatchError, match="root of the log of 0 leaves is another one"):
        merkle.verify_consistency(0, 3, [], old_root=b"x" * 32, new_root=mth(leaves(3)))


@pytest.mark.parametrize(("index", "size"), [(-1, 3), (3, 3), (0, 0), (0, 2**63)])
def test_there_is_no_proof_of_what_is_not_there(index, size):
    with pytest.raises(ValueError, match="is not in a tree of"):
        merkle.inclusion_proof(hashes([]), index, size)


@pytest.mark.parametrize(("old", "new"), [(-1, 3), (4, 3), (1, 2**63)])
def test_there_is_no_proof_back_in_time(old, new):
    with pytest.raises(ValueError, match="does not come before"):
        merkle.consistency_proof(hashes([]), old, new)

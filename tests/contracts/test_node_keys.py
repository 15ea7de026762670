# SPDX-License-Identifier: Apache-2.0
"""What every key manager of the attestor does, wherever it keeps the node's key."""

import pytest

from attestor.issuer_client import new_key
from attestor.keys import disk, memory
from attestor.session import NodeKeys
from spiffekit.keys import private_key_to_der


def in_memory(_):
    return memory.create(memory.Config())


def on_disk(folder):
    return disk.create(disk.Config(folder / "keys"))


@pytest.fixture(params=[in_memory, on_disk], ids=lambda make: make.__name__)
def keys(request, tmp_path) -> NodeKeys:
    return request.param(tmp_path)


def same(found, *wanted):
    return sorted(map(private_key_to_der, found)) == sorted(map(private_key_to_der, wanted))


def test_at_first_there_is_none(keys):
    assert keys.load() == []


def test_a_key_is_found_again(keys):
    keys.add(key := new_key())
    assert same(keys.load(), key)


def test_while_a_key_is_replaced_there_are_both(keys):
    old, new = new_key(), new_key()
    keys.add(old)
    keys.add(new)
    assert same(keys.load(), old, new)


def test_the_others_go_when_one_is_kept(keys):
    old, new = new_key(), new_key()
    keys.add(old)
    keys.add(new)
    keys.keep_only(new)
    keys.keep_only(new)
    assert same(keys.load(), new)


def test_what_was_returned_does_not_change(keys):
    keys.add(first := new_key())
    found = keys.load()
    keys.add(new_key())
    assert same(found, first)

# SPDX-License-Identifier: Apache-2.0
"""A key in memory ends with the daemon; what else it does is in the contract of node keys."""

from attestor.issuer_client import new_key
from attestor.keys.memory import Config, create


def test_a_restart_leaves_no_key():
    keys = create(Config())
    keys.add(new_key())
    assert create(Config()).load() == []


def test_only_what_is_kept_stays():
    keys = create(Config())
    old, new = new_key(), new_key()
    keys.add(old)
    keys.add(new)
    assert keys.load() == [old, new]
    keys.keep_only(new)
    assert keys.load() == [new]

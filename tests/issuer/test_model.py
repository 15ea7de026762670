# SPDX-License-Identifier: Apache-2.0
"""IDs of entries tell their age."""

import re
import uuid
from dataclasses import fields

from hypothesis import given
from hypothesis import strategies as st

from issuer.model import new_entry_id
from tests.issuer.strategies import a_node, an_entry

INSTANTS = st.integers(0, 2**48 * 1_000_000 - 1)  # nanoseconds, until the year 10889


@given(INSTANTS)
def test_an_id_is_a_uuid_of_version_7(now_ns):
    """RFC 9562 §5.7: 48 bits of milliseconds stand first."""
    text = new_entry_id(now_ns)
    assert re.fullmatch(r"[0-9a-f]{8}-[0-9a-f]{4}-7[0-9a-f]{3}-[89ab][0-9a-f]{3}-[0-9a-f]{12}", text)
    found = uuid.UUID(text)
    assert found.version == 7
    assert found.variant == uuid.RFC_4122
    assert found.int >> 80 == now_ns // 1_000_000


@given(INSTANTS, INSTANTS)
def test_what_was_made_later_sorts_later(first, second):
    """By more than a 4096th of a millisecond; within one, chance decides."""
    first, second = sorted((first, second))
    if second - first >= 245:
        assert new_entry_id(first) < new_entry_id(second)


def test_ids_of_one_instant_differ():
    assert len({new_entry_id(1) for _ in range(1000)}) == 1000


def test_what_was_not_asked_for_is_not_granted():
    entry = an_entry()
    granted = [field.name for field in fields(entry) if getattr(entry, field.name) is True]
    assert granted == []
    assert (entry.federates_with, entry.dns_names, entry.hint, entry.expires_at) == ((), (), "", None)
    assert not a_node().can_reattest


def test_a_node_without_a_serial_number_is_banned():
    assert a_node(serial="").banned
    assert not a_node().banned

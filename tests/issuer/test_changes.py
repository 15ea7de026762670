# SPDX-License-Identifier: Apache-2.0
"""A follower that knows revision N gets exactly what came after it, or is told that it is too far behind."""

import asyncio

import pytest
from hypothesis import given
from hypothesis import strategies as st

from issuer.changes import ChangeLog
from issuer.model import Change, ChangeKind


def changes(*revisions):
    return [Change(revision=n, kind=ChangeKind.ENTRY, key=f"e{n}") for n in revisions]


def filled(first, last, *, kept=100):
    log = ChangeLog(first - 1, kept=kept)
    for number in range(first, last + 1):
        log.publish(changes(number))
    return log


@given(
    start=st.integers(0, 50),
    batches=st.lists(st.integers(1, 7), max_size=10),
    kept=st.integers(1, 20),
    asked=st.integers(-5, 130),
)
def test_a_follower_misses_nothing_and_sees_nothing_twice(start, batches, kept, asked):
    log, revision = ChangeLog(start, kept=kept), start
    for size in batches:
        log.publish(changes(*range(revision + 1, revision + 1 + size)))
        revision += size
    assert log.revision == revision
    found = log.since(asked)
    if max(start, revision - kept) <= asked <= revision:
        assert found == changes(*range(asked + 1, revision + 1))
    else:
        assert found is None


@pytest.mark.parametrize(
    ("asked", "expected"),
    [(10, []), (9, [10]), (5, [6, 7, 8, 9, 10]), (4, None), (0, None), (11, None), (-1, None)],
)
def test_what_is_older_than_the_tail_or_not_ours_is_answered_with_none(asked, expected):
    """A revision of another database, restored or newer, is no place to go on from."""
    found = filled(1, 10, kept=5).since(asked)
    assert found == (None if expected is None else changes(*expected))


def test_after_a_restart_only_the_present_revision_is_known():
    log = ChangeLog(41)
    assert log.since(41) == []
    assert log.since(40) is None


def test_what_was_handed_out_does_not_change():
    log = filled(1, 3)
    found = log.since(0)
    log.publish(changes(4))
    assert found == changes(1, 2, 3)


async def test_everybody_who_waits_is_woken():
    log = filled(1, 3)
    waiting = [asyncio.create_task(log.wait_beyond(n)) for n in (3, 3, 4)]
    await asyncio.sleep(0)
    assert not any(task.done() for task in waiting)
    log.publish(changes(4))
    await asyncio.wait_for(asyncio.gather(*waiting[:2]), 5)
    await asyncio.sleep(0)
    assert not waiting[2].done(), "4 is not beyond 4"
    log.publish(changes(5))
    await asyncio.wait_for(waiting[2], 5)


async def test_who_is_behind_does_not_wait():
    await asyncio.wait_for(filled(1, 3).wait_beyond(2), 5)

# SPDX-License-Identifier: Apache-2.0
"""Losses are remembered by process, and only so many; all are counted."""

import os

import pytest

from attestor.errors import PeerGoneError
from attestor.workload.postures import PostureChange, Postures
from spiffekit.selector import Selector
from tests.attestor.workload.processes import held, running
from tests.fakes.clock import FakeClock

ONE, TWO, BOTH = Selector("unix", "uid:1"), Selector("unix", "uid:2"), Selector("unix", "gid:1")


def untold(_process, _change):
    pass


def lose(postures, process, *entries):
    postures.add(process, entries, before=frozenset({ONE, BOTH}), after=frozenset({TWO, BOTH}))


def test_a_change_says_what_was_lost_and_why(caplog):
    clock = FakeClock()
    postures = Postures(clock, untold)
    with held(os.getpid()) as process:
        lose(postures, process, "web", "db")
        (change,) = postures.of(process)
    gone, new = frozenset({ONE}), frozenset({TWO})
    assert change == PostureChange(at=clock.now(), entries=("web", "db"), gone=gone, new=new)
    (record,) = caplog.records
    assert (record.message, record.pid, record.entries) == ("posture changed", os.getpid(), ["web", "db"])


def test_whoever_wants_to_know_is_told_of_each_change():
    told = []
    postures = Postures(FakeClock(), lambda process, change: told.append((process.pid, change)))
    with held(os.getpid()) as process:
        lose(postures, process, "web")
        assert told == [(os.getpid(), *postures.of(process))]


def test_only_the_newest_are_kept_and_all_are_counted():
    postures = Postures(FakeClock(), untold, kept=2)
    with held(os.getpid()) as process:
        for name in ("first", "second", "third"):
            lose(postures, process, name)
        assert [change.entries for change in postures.of(process)] == [("second",), ("third",)]
    assert postures.total == 3


def test_another_process_has_lost_nothing():
    postures = Postures(FakeClock(), untold)
    with running("sleep", "60") as child, held(child.pid) as process, held(os.getpid()) as ours:
        lose(postures, ours, "web")
        assert postures.of(process) == []


def test_a_pid_that_is_used_again_is_another_process():
    class Later:
        def __init__(self, process):
            self.pid, self._process = process.pid, process

        def birth(self):
            parent, ticks = self._process.birth()
            return parent, ticks + 1

    postures = Postures(FakeClock(), untold)
    with held(os.getpid()) as process:
        lose(postures, process, "web")
        assert postures.of(Later(process)) == []


def test_of_a_process_that_has_exited_nothing_is_told():
    postures = Postures(FakeClock(), untold)
    with running("sleep", "60") as child, held(child.pid) as process:
        child.kill()
        child.wait(5)
        with pytest.raises(PeerGoneError):
            postures.of(process)

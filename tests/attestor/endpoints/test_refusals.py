# SPDX-License-Identifier: Apache-2.0
"""Refusals are remembered by number, and only so many."""

import os

from attestor.endpoints.caller import Caller
from attestor.endpoints.refusals import Refusals
from attestor.peer import Process
from attestor.reports import Reports
from attestor.spool import Spool
from spiffekit.daemon.peer import PeerProcess
from tests.fakes.clock import FakeClock


def test_only_the_newest_are_kept():
    peer = PeerProcess.from_pid(os.getpid())
    try:
        clock = FakeClock()
        refusals = Refusals(clock, Reports(Spool(clock), clock), kept=2)
        caller = Caller(Process.of(peer), None, None)
        first, second, third = (refusals.add(caller, "UNAVAILABLE", "why") for _ in range(3))
        assert refusals.find(first.id) is None
        assert (refusals.find(second.id), refusals.find(third.id)) == (second, third)
        assert (third.pid, third.selectors, third.failed) == (os.getpid(), frozenset(), frozenset())
        assert len({first.id, second.id, third.id}) == 3
    finally:
        peer.close()

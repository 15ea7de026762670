# SPDX-License-Identifier: Apache-2.0
"""What waits for the audit trail is numbered and bounded, and whatever is not kept is counted."""

import pytest

from attestor import spool as module
from attestor.spool import Spool
from spiffekit.wire.pb.issuer.v1.audit_reports_pb2 import ReportedProcess
from tests.fakes.clock import FakeClock

ALICE, BOB = ReportedProcess(pid=1, uid=1000), ReportedProcess(pid=2, uid=2000)
REFUSED = {"reason": "no_identity"}


@pytest.fixture
def spool():
    return Spool(FakeClock(), limit=4)


def numbers(spool):
    return [event.number for event in spool.first(100)]


def test_events_are_numbered_and_dated_as_they_happen(spool):
    spool.add(started={"version": "1"})
    spool.add(ALICE, refused=REFUSED)
    first, second = spool.first(100)
    assert (first.number, first.at, first.HasField("process")) == (1, 1_767_225_600_000_000, False)
    assert (second.number, second.process, second.refused.reason) == (2, ALICE, "no_identity")
    assert (len(spool), spool.last, len(spool.boot)) == (2, 2, 16)
    assert spool.wake.is_set()


def test_each_run_has_a_name_of_its_own():
    assert Spool(FakeClock()).boot != Spool(FakeClock()).boot


def test_what_does_not_fit_has_a_number_and_is_counted(spool, caplog):
    for _ in range(3):
        for process in (ALICE, BOB):
            spool.add(process, refused=REFUSED)
    assert numbers(spool) == [1, 2, 3, 4]
    assert (spool.last, spool.lost) == (6, 2)
    assert [record.message for record in caplog.records] == [
        "more happens than the issuer can be told, events are lost"
    ]
    spool.drop(4)
    spool.add(ALICE, refused=REFUSED)
    assert numbers(spool) == [7]


def test_no_user_hides_what_another_does(spool):
    for _ in range(10):
        spool.add(ALICE, refused=REFUSED)
    spool.add(BOB, refused=REFUSED)
    assert numbers(spool) == [1, 2, 11]
    spool.drop(2)
    spool.add(ALICE, refused=REFUSED)
    assert numbers(spool) == [11, 12]


def test_memory_is_bounded_whatever_events_hold(spool, monkeypatch):
    monkeypatch.setattr(module, "MAX_BYTES", 2500)
    for process in (ALICE, BOB, ALICE):
        spool.add(process, fetched={"entry_id": "e" * 1000})
    assert (numbers(spool), spool.lost) == ([1, 2], 1)
    spool.drop(2)
    spool.add(ALICE, fetched={"entry_id": "e" * 1000})
    assert numbers(spool) == [4]


def test_what_was_not_told_one_by_one_is_told_in_numbers(spool):
    spool.account()
    assert len(spool) == 0
    for _ in range(6):
        spool.add(BOB, refused=REFUSED)
    spool.omit_refusal()
    spool.account()
    assert numbers(spool) == [1, 2], "first what waits"
    spool.drop(2)
    spool.account()
    (event,) = spool.first(100)
    assert (event.number, event.omitted.lost, event.omitted.refusals) == (7, 4, 1)
    spool.drop(1)
    spool.account()
    assert len(spool) == 0


def test_who_is_switched_off_keeps_nothing(spool):
    spool.add(ALICE, refused=REFUSED)
    spool.disable()
    for kept in (spool, Spool(FakeClock(), enabled=False)):
        kept.add(ALICE, refused=REFUSED)
        kept.omit_refusal()
        kept.account()
        assert (len(kept), kept.enabled) == (0, False)
    assert spool.last == 1
